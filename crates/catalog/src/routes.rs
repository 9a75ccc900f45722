//! The feed of the route map: a whole state at first and then again and again,
//! and between, what the transactions since the last look have changed.
//!
//! Changes are followed by transaction: a look remembers the oldest
//! transaction that was still under way, and the next one reads everything
//! that was changed by it or by a later one. A transaction that takes its
//! number early and commits late is therefore never passed over.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{try_join3, try_join5};
use insula_domain::{DatabaseName, DatabaseTerms, LoginId, TenantId};
use insula_problem::Problem;
use insula_route_map::{ClusterEndpoint, Hold, LoginRoute, NextPlace, Route, RouteMap, Rows, Update};
use insula_sql_store::{Connector, Listener};
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Client, Row, Statement};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::holds::front_name;
use crate::rows::{parsed, parsed_opt, unsigned};
use crate::schema_versions::TableKeys;
use crate::tenants::placement_of;
use crate::{Catalog, db};

/// How often the whole state is read, whatever was notified.
const RECONCILE: Duration = Duration::from_secs(30);

/// The wait before another try when the catalog is away.
const RETRY: Duration = Duration::from_millis(500);

/// Has the server notice within about ten seconds that this side is gone,
/// also where the machine is: until then it counts as a front that is told.
const NOTICE_LOSS: &str =
    "set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 3";

/// Keeps a route map true to the catalog until it is told to stop. With the
/// catalog away the map stays as it is, and catches up when it is back. As long
/// as the front with this number, where it is for one, is told of changes it is
/// to be seen among the catalog's sessions.
pub async fn follow_routes(
    catalog: Catalog,
    map: Arc<RouteMap>,
    front: Option<Uuid>,
    shutdown: CancellationToken,
) {
    let connector = match front {
        Some(front) => catalog.connector().named(&front_name(front)),
        None => catalog.connector().clone(),
    };
    let mut feed = RouteFeed { connector, map, seen: None };
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
struct RouteFeed {
    connector: Connector,
    map: Arc<RouteMap>,
    /// Transactions before this one were all seen.
    seen: Option<i64>,
}

impl RouteFeed {
    /// Follows until something fails.
    async fn follow(&mut self) -> Problem {
        match self.follow_connected().await {
            Ok(never) => match never {},
            Err(problem) => problem,
        }
    }

    async fn follow_connected(&mut self) -> Result<std::convert::Infallible, Problem> {
        let mut listener =
            Listener::open(&self.connector, &["insula_routes"]).await.map_err(Problem::internal)?;
        listener.client().batch_execute(NOTICE_LOSS).await.map_err(db)?;
        let reading = Reading::prepare(listener.client()).await?;
        let mut reconcile = tokio::time::interval(RECONCILE);
        loop {
            tokio::select! {
                _ = reconcile.tick() => self.read(listener.client(), &reading, None).await?,
                notice = listener.next() => {
                    if notice.is_none() {
                        return Err(Problem::internal("the listening connection ended"));
                    }
                    listener.drain();
                    self.read(listener.client(), &reading, self.seen).await?;
                }
            }
        }
    }

    /// Reads everything, or what has changed since a transaction. After an error
    /// the connection is of no use any more.
    async fn read(&mut self, client: &Client, reading: &Reading, since: Option<i64>) -> Result<(), Problem> {
        let (update, seen) = reading.update(client, since).await?;
        let applied = self.map.apply(update);
        for refused in &applied.refused {
            tracing::error!(%refused, "a route was refused");
        }
        self.seen = Some(seen);
        Ok(())
    }
}

const TENANTS: &str =
    "select t.id, t.slug, t.parent, t.tier, t.region, t.status, t.key_generation, t.revision, plan.database_connections,
         plan.database_weight, plan.database_backends, plan.database_backends_warm,
         plan.statement_timeout_ms, plan.idle_in_transaction_timeout_ms,
         p.cluster, p.isolation, p.database, p.schema, p.role, p.epoch, p.hold_id, p.hold_ms, p.narrowed,
         next.place ->> 'cluster' as next_cluster, next.place ->> 'database' as next_database,
         next.place ->> 'isolation' as next_isolation
     from tenants t
     join tiers on tiers.name = t.tier join plans plan on plan.name = tiers.plan
     left join placements p on p.tenant_id = t.id
     left join lateral (
         select case m.status when 'rolling_back' then m.source else m.target end as place
         from moves m
         where p.narrowed and m.tenant_id = t.id and m.status in ('running', 'moved', 'rolling_back')
     ) next on true";

const LOGINS: &str = "select id, name, tenant_id, verifier, read_only, descendants, pool_mode, revision,
         revoked_at is not null as gone
     from logins";

const CLUSTERS: &str = "select name, host, port, tls, system_identifier, revision from clusters";

/// The questions by which routes are read, prepared on a connection.
#[derive(Debug)]
struct Reading {
    head: Statement,
    whole: [Statement; 3],
    /// Of these each takes the transaction since which things have changed.
    changes: [Statement; 3],
    keys: Statement,
}

impl Reading {
    async fn prepare(client: &Client) -> Result<Self, Problem> {
        let all = |conditions: [&str; 3]| {
            let texts = [TENANTS, LOGINS, CLUSTERS];
            std::array::from_fn(|at| format!("{} where {}", texts[at], conditions[at]))
        };
        let whole = all(["t.status <> 'deleted'", "revoked_at is null", "true"]);
        let changes = all(["t.changed_xid >= $1", "changed_xid >= $1", "changed_xid >= $1"]);
        Ok(Self {
            head: client
                .prepare(
                    "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
                         (select last_value from catalog_revision)",
                )
                .await
                .map_err(db)?,
            whole: prepare(client, whole).await?,
            changes: prepare(client, changes).await?,
            // In all versions that a pool may have: the newest that is everywhere,
            // and those after it.
            keys: client
                .prepare(
                    "select keys from schema_versions
                     where published_at is not null and version >= coalesce(
                         (select max(version) from schema_versions where rolled_out_at is not null), 1)",
                )
                .await
                .map_err(db)?,
        })
    }

    /// What has changed since, or all there is, and the oldest transaction that
    /// was still under way. One snapshot for all that is read, and one answer to
    /// wait for: the questions are sent together.
    async fn update(&self, client: &Client, since: Option<i64>) -> Result<(Update, i64), Problem> {
        let parameter: Option<&(dyn ToSql + Sync)> = since.as_ref().map(|since| since as _);
        let parameters = parameter.as_slice();
        let [tenants, logins, endpoints] = if since.is_some() { &self.changes } else { &self.whole };
        let (_, (head, tenants, logins, endpoints, keys), _) = try_join3(
            client.batch_execute("begin isolation level repeatable read read only"),
            try_join5(
                client.query_one(&self.head, &[]),
                client.query(tenants, parameters),
                client.query(logins, parameters),
                client.query(endpoints, parameters),
                client.query(&self.keys, &[]),
            ),
            client.batch_execute("commit"),
        )
        .await
        .map_err(db)?;
        let (seen, revision): (i64, i64) = (head.get(0), head.get(1));
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
            keys: Some(certain_keys(&keys)),
        };
        let update = match since {
            None => Update::Whole { revision, rows },
            Some(_) => Update::Delta { revision, rows, removed_logins },
        };
        Ok((update, seen))
    }
}

async fn prepare(client: &Client, texts: [String; 3]) -> Result<[Statement; 3], Problem> {
    let [one, two, three] = &texts;
    let prepared = try_join3(client.prepare(one), client.prepare(two), client.prepare(three)).await;
    prepared.map(<[Statement; 3]>::from).map_err(db)
}

/// The primary keys of tables in which all versions agree.
fn certain_keys(rows: &[Row]) -> TableKeys {
    let versions: Option<Vec<TableKeys>> =
        rows.iter().map(|row| row.get::<_, Option<Json<TableKeys>>>(0).map(|keys| keys.0)).collect();
    agreed(&versions.unwrap_or_default())
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
        tier: parsed(row, "tier")?,
        region: parsed(row, "region")?,
        status: parsed(row, "status")?,
        placement: placement_of(row)?,
        role_key_generation: unsigned("key_generation", row.get::<_, i32>("key_generation"))?,
        max_connections: limit("database_connections")?,
        terms,
        hold: row
            .get::<_, Option<Uuid>>("hold_id")
            .zip(milliseconds("hold_ms")?)
            .map(|(id, within)| Hold { id, within }),
        is_narrowed: row.get::<_, Option<bool>>("narrowed").unwrap_or(false),
        goes_to: next_place_of(row)?,
        revision: row.get("revision"),
    })
}

fn next_place_of(row: &Row) -> Result<Option<NextPlace>, Problem> {
    let (cluster, isolation) = (parsed_opt(row, "next_cluster")?, parsed_opt(row, "next_isolation")?);
    let database = row.get::<_, Option<String>>("next_database").map(DatabaseName::from_stored);
    Ok(cluster.zip(isolation).zip(database).map(|((cluster, isolation), database)| NextPlace {
        cluster,
        database,
        isolation,
    }))
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
