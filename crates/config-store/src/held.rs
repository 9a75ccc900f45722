//! Which keys the scopes of a store have, and in which version: to be compared
//! with what a backend outside has, and to be brought to one.

use std::collections::{BTreeMap, BTreeSet};

use insula_config_model::{ConfigKey, Held, KeyPrefix, Revision, Scope, Version};
use insula_problem::Problem;
use insula_sql_store::Store;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::ConfigStore;
use crate::decide::Place;
use crate::log::{LogChange, LogRow};
use crate::rows;
use crate::text::range;

/// Changes that are looked through at once.
const CHANGES: u32 = 1_000;

/// Of what is only copied here, the store that it comes from says what it has.
const HELD: &str = "select n.scope, n.key, n.version from config_values n
    where n.key >= $1 and n.key < $2 and (n.scope, n.key) > ($3, $4)
        and case when $5 then exists (
                select from config_homes h where h.scope = n.scope and h.state = 'open')
            else n.scope not like 'tenant/%' end
    order by n.scope, n.key limit $6";

const VERSIONS: &str =
    "select k.scope, k.key, n.version from unnest($1::text[], $2::text[]) as k (scope, key)
    join config_values n on n.scope = k.scope and n.key = k.key";

/// What has changed behind a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Since {
    /// The keys, of versions and of labels.
    pub keys: BTreeSet<(Scope, ConfigKey)>,
    /// Up to which revision.
    pub revision: Revision,
    /// Whether that is not all: the log does not go back so far, or a scope has
    /// come here as a whole.
    pub is_unknown: bool,
}

fn held(row: &Row) -> Result<Held, Problem> {
    Ok(Held { scope: rows::scope(row.get(0))?, key: rows::key(row.get(1))?, version: row.get(2) })
}

impl ConfigStore {
    /// The keys under a prefix that the scopes of this store have, removed ones
    /// among them, in the order of scopes and keys, behind one.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn held(
        &self,
        prefix: &KeyPrefix,
        after: Option<&(Scope, ConfigKey)>,
        limit: u32,
    ) -> Result<Vec<Held>, Problem> {
        let range = range(prefix);
        let (scope, key) =
            after.map_or_else(Default::default, |(scope, key)| (scope.to_string(), key.to_string()));
        let is_of_tenants = self.store == Store::Region;
        let of: [&(dyn ToSql + Sync); 6] =
            [&range.low, &range.high, &scope, &key, &is_of_tenants, &i64::from(limit)];
        self.chores.query(HELD, &of).await?.iter().map(held).collect()
    }

    /// The newest versions of keys; those that there are not are left out.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn versions_of(
        &self,
        places: &[(Scope, ConfigKey)],
    ) -> Result<BTreeMap<Place, Version>, Problem> {
        let scopes: Vec<String> = places.iter().map(|(scope, _)| scope.to_string()).collect();
        let keys: Vec<&str> = places.iter().map(|(_, key)| key.as_str()).collect();
        let found = self.chores.query(VERSIONS, &[&scopes, &keys]).await?;
        let found =
            found.iter().map(held).map(|held| held.map(|held| ((held.scope, held.key), held.version)));
        found.collect()
    }

    /// Which keys under a prefix have changed behind a revision.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn since(&self, prefix: &KeyPrefix, after: Revision) -> Result<Since, Problem> {
        let mut since = Since { revision: after, ..Since::default() };
        loop {
            let log = self.log_after(since.revision, CHANGES).await?;
            since.is_unknown |= log.compacted > since.revision;
            since.revision = log.revision;
            for LogRow { scope, change, .. } in log.rows {
                match change {
                    LogChange::Version { key, .. } | LogChange::Label { key, .. } => {
                        if key.as_str().starts_with(prefix.as_str()) {
                            since.keys.insert((scope, key));
                        }
                    }
                    LogChange::Arrived | LogChange::Left => since.is_unknown = true,
                }
            }
            if log.is_all {
                return Ok(since);
            }
        }
    }
}
