//! The feed of the route map: a whole state at first and then again and again,
//! and between, what the transactions since the last look have changed.
//!
//! Changes are followed by transaction: a look remembers the oldest
//! transaction that was still under way, and the next one reads everything
//! that was changed by it or by a later one. A transaction that takes its
//! number early and commits late is therefore never passed over.

use std::sync::Arc;
use std::time::Duration;

use insula_domain::{DatabaseTerms, LoginId, TenantId};
use insula_problem::Problem;
use insula_route_map::{ClusterEndpoint, LoginRoute, Route, RouteMap, Rows, Update};
use insula_sql_store::Listener;
use tokio_postgres::types::Json;
use tokio_postgres::{IsolationLevel, Row, Transaction};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::rows::{parsed, parsed_opt, unsigned};
use crate::schema_versions::TableKeys;
use crate::tenants::placement_of;
use crate::{Catalog, db};

/// How often the whole state is read, whatever was notified.
const RECONCILE: Duration = Duration::from_secs(30);

/// The wait before another try when the catalog is away.
const RETRY: Duration = Duration::from_millis(500);

/// Keeps a route map true to the catalog until it is told to stop. With the
/// catalog away the map stays as it is, and catches up when it is back.
pub async fn follow_routes(catalog: Catalog, map: Arc<RouteMap>, shutdown: CancellationToken) {
    let mut feed = RouteFeed { catalog, map, seen: None };
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            end = feed.follow() => {
                tracing::warn!(cause = end.chain(), "the routes cannot be followed; the known ones stay");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Reads the catalog into a route map.
#[derive(Debug)]
pub struct RouteFeed {
    catalog: Catalog,
    map: Arc<RouteMap>,
    /// Transactions before this one were all seen.
    seen: Option<i64>,
}

impl RouteFeed {
    /// A feed that has seen nothing.
    #[must_use]
    pub fn new(catalog: Catalog, map: Arc<RouteMap>) -> Self {
        Self { catalog, map, seen: None }
    }

    /// Follows until something fails.
    async fn follow(&mut self) -> Problem {
        match self.follow_connected().await {
            Ok(never) => match never {},
            Err(problem) => problem,
        }
    }

    async fn follow_connected(&mut self) -> Result<std::convert::Infallible, Problem> {
        let mut listener =
            Listener::open(self.catalog.connector(), &["insula_routes"]).await.map_err(Problem::internal)?;
        let mut reconcile = tokio::time::interval(RECONCILE);
        loop {
            tokio::select! {
                _ = reconcile.tick() => self.read_whole().await?,
                notice = listener.next() => {
                    if notice.is_none() {
                        return Err(Problem::internal("the listening connection ended"));
                    }
                    listener.drain();
                    self.read_changes().await?;
                }
            }
        }
    }

    /// Reads everything.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn read_whole(&mut self) -> Result<(), Problem> {
        self.read(None).await
    }

    /// Reads what has changed since the last look.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn read_changes(&mut self) -> Result<(), Problem> {
        self.read(self.seen).await
    }

    async fn read(&mut self, since: Option<i64>) -> Result<(), Problem> {
        let mut object = insula_sql_store::get(&self.catalog.pool())
            .await
            .map_err(|error| insula_sql_store::pool_problem(insula_sql_store::Store::Catalog, error))?;
        // One snapshot for all that is read.
        let transaction = object
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .map_err(db)?;
        let (update, seen) = read_update(&transaction, since).await?;
        transaction.commit().await.map_err(db)?;
        let applied = self.map.apply(update);
        for refused in &applied.refused {
            tracing::error!(%refused, "a route was refused");
        }
        self.seen = Some(seen);
        Ok(())
    }
}

async fn read_update(transaction: &Transaction<'_>, since: Option<i64>) -> Result<(Update, i64), Problem> {
    let row = transaction
        .query_one(
            "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
                    (select last_value from catalog_revision)",
            &[],
        )
        .await
        .map_err(db)?;
    let (seen, revision): (i64, i64) = (row.get(0), row.get(1));
    let tenants = transaction
        .query(
            "select t.id, t.slug, t.parent, t.status, t.key_generation, t.revision, plan.database_connections,
                    plan.database_weight, plan.database_backends, plan.database_backends_warm,
                    plan.statement_timeout_ms, plan.idle_in_transaction_timeout_ms,
                    p.cluster, p.isolation, p.database, p.schema, p.role, p.epoch
             from tenants t
             join tiers on tiers.name = t.tier join plans plan on plan.name = tiers.plan
             left join placements p on p.tenant_id = t.id
             where case when $1::bigint is null then t.status <> 'deleted' else t.changed_xid >= $1 end",
            &[&since],
        )
        .await
        .map_err(db)?;
    let logins = transaction
        .query(
            "select id, name, tenant_id, verifier, read_only, descendants, pool_mode, revision,
                 revoked_at is not null as gone
             from logins
             where case when $1::bigint is null then revoked_at is null else changed_xid >= $1 end",
            &[&since],
        )
        .await
        .map_err(db)?;
    let endpoints = transaction
        .query(
            "select name, host, port, tls, system_identifier, revision from clusters
             where $1::bigint is null or changed_xid >= $1",
            &[&since],
        )
        .await
        .map_err(db)?;
    let keys = certain_keys(transaction).await?;
    let removed_logins = logins
        .iter()
        .filter(|row| row.get("gone"))
        .map(|row| LoginId::from(row.get::<_, Uuid>("id")))
        .collect();
    let rows = Rows {
        tenants: tenants.iter().map(route_of).collect::<Result<_, _>>()?,
        logins: logins
            .iter()
            .filter(|row| !row.get::<_, bool>("gone"))
            .map(login_of)
            .collect::<Result<_, _>>()?,
        endpoints: endpoints.iter().map(endpoint_of).collect::<Result<_, _>>()?,
        keys: Some(keys),
    };
    let update = match since {
        None => Update::Whole { revision, rows },
        Some(_) => Update::Delta { revision, rows, removed_logins },
    };
    Ok((update, seen))
}

/// The primary keys of tables in all versions that a pool may have: the newest
/// that is everywhere, and those after it.
async fn certain_keys(transaction: &Transaction<'_>) -> Result<TableKeys, Problem> {
    let rows = transaction
        .query(
            "select keys from schema_versions
             where published_at is not null and version >= coalesce(
                 (select max(version) from schema_versions where rolled_out_at is not null), 1)",
            &[],
        )
        .await
        .map_err(db)?;
    let versions: Option<Vec<TableKeys>> =
        rows.iter().map(|row| row.get::<_, Option<Json<TableKeys>>>(0).map(|keys| keys.0)).collect();
    Ok(agreed(&versions.unwrap_or_default()))
}

/// The keys in which all versions agree that have a table, or a view, of the
/// name.
fn agreed(versions: &[TableKeys]) -> TableKeys {
    let all = versions.iter().flatten();
    let agree = |name: &String, key: &Vec<String>| {
        !key.is_empty() && versions.iter().all(|version| version.get(name).is_none_or(|other| other == key))
    };
    all.filter(|(name, key)| agree(name, key)).map(|(name, key)| (name.clone(), key.clone())).collect()
}

fn route_of(row: &Row) -> Result<Route, Problem> {
    let limit = |column: &str| -> Result<Option<u32>, Problem> {
        row.get::<_, Option<i32>>(column).map(|value| unsigned(column, value)).transpose()
    };
    let milliseconds = |column: &str| -> Result<Option<Duration>, Problem> {
        Ok(limit(column)?.map(|value| Duration::from_millis(value.into())))
    };
    let terms = DatabaseTerms {
        weight: limit("database_weight")?.unwrap_or(1),
        backends: limit("database_backends")?,
        backends_warm: limit("database_backends_warm")?.unwrap_or(0),
        statement_timeout: milliseconds("statement_timeout_ms")?,
        idle_in_transaction_timeout: milliseconds("idle_in_transaction_timeout_ms")?,
    };
    Ok(Route {
        tenant: row.get::<_, Uuid>("id").into(),
        slug: parsed(row, "slug")?,
        parent: row.get::<_, Option<Uuid>>("parent").map(TenantId::from),
        status: parsed(row, "status")?,
        placement: placement_of(row)?,
        role_key_generation: unsigned("key_generation", row.get::<_, i32>("key_generation"))?,
        max_connections: limit("database_connections")?,
        terms,
        revision: row.get("revision"),
    })
}

fn login_of(row: &Row) -> Result<LoginRoute, Problem> {
    Ok(LoginRoute {
        id: row.get::<_, Uuid>("id").into(),
        name: parsed(row, "name")?,
        tenant: row.get::<_, Uuid>("tenant_id").into(),
        verifier: row.get("verifier"),
        read_only: row.get("read_only"),
        descendants: row.get("descendants"),
        max_sessions: None,
        pool_mode: parsed_opt(row, "pool_mode")?,
        revision: row.get("revision"),
    })
}

fn endpoint_of(row: &Row) -> Result<ClusterEndpoint, Problem> {
    Ok(ClusterEndpoint {
        name: parsed(row, "name")?,
        host: row.get("host"),
        port: unsigned("port", row.get::<_, i32>("port"))?,
        tls: row.get("tls"),
        system_identifier: Some(row.get("system_identifier")),
        max_connections: None,
        revision: row.get("revision"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(tables: &[(&str, &[&str])]) -> TableKeys {
        let owned = |columns: &[&str]| columns.iter().map(|column| (*column).to_owned()).collect();
        tables.iter().map(|(table, key)| ((*table).to_owned(), owned(key))).collect()
    }

    #[test]
    fn a_key_is_certain_where_all_versions_agree() {
        assert_eq!(agreed(&[]), TableKeys::new());
        let old = version(&[
            ("same", &["a"]),
            ("other", &["a"]),
            ("gone", &["a"]),
            ("view", &[]),
            ("lost", &["a"]),
        ]);
        let new = version(&[
            ("same", &["a"]),
            ("other", &["b"]),
            ("new", &["a", "b"]),
            ("view", &["a"]),
            ("lost", &[]),
        ]);
        let wanted = version(&[("same", &["a"]), ("gone", &["a"]), ("new", &["a", "b"])]);
        assert_eq!(agreed(&[old.clone(), new.clone()]), wanted);
        assert_eq!(agreed(&[new, old]), wanted);
    }
}
