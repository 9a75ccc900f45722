//! After a new generation of the master key: the keys of secrets are sealed with
//! it. What they have sealed stays as it is.

use insula_config_model::Version;
use insula_problem::Problem;

use crate::ConfigStore;
use crate::rows;
use crate::secrets::place_text;

/// How many are looked at together.
const AT_ONCE: i64 = 100;

/// What became of the secrets of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Versions that are sealed with the newest generation now.
    pub versions: u64,
    /// Versions that do not open, and were left as they are.
    pub broken: u64,
}

const OLDER: &str = "select scope, key, version, value from config_versions
    where kind = 2 and key_generation <> $1 and (scope, key, version) > ($2, $3, $4)
    order by scope, key, version limit $5";

const RESEAL: &str = "update config_versions v set value = n.value, key_generation = $6
    from unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bytea[])
        as n (scope, key, version, old, value)
    where v.scope = n.scope and v.key = n.key and v.version = n.version and v.value = n.old
    returning 1";

#[derive(Default)]
struct Columns {
    scope: Vec<String>,
    key: Vec<String>,
    version: Vec<Version>,
    old: Vec<Vec<u8>>,
    value: Vec<Vec<u8>>,
}

impl ConfigStore {
    /// Seals with the newest generation what is sealed with an older one. May be
    /// repeated, and while secrets are written.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn rekey(&self) -> Result<Resealed, Problem> {
        let newest = i32::try_from(self.ambient.keys.current_generation()).map_err(Problem::internal)?;
        let (mut done, mut after) = (Resealed::default(), (String::new(), String::new(), Version::MIN));
        loop {
            let of: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                [&newest, &after.0, &after.1, &after.2, &AT_ONCE];
            let rows = self.chores.query(OLDER, &of).await?;
            let Some(last) = rows.last() else { return Ok(done) };
            after = (last.get(0), last.get(1), last.get(2));
            let mut new = Columns::default();
            for row in &rows {
                let (scope, key, version): (String, String, Version) = (row.get(0), row.get(1), row.get(2));
                let place = place_text(&rows::scope(&scope)?, &rows::key(&key)?, version);
                let old: Vec<u8> = row.get(3);
                match self.ambient.keys.reseal_envelope(&place, &old, self.ambient.entropy.as_ref()) {
                    Ok(None) => {}
                    Ok(Some(value)) => {
                        new.scope.push(scope);
                        new.key.push(key);
                        new.version.push(version);
                        new.old.push(old);
                        new.value.push(value);
                    }
                    Err(error) => {
                        tracing::error!(%error, scope, version, "a kept secret does not open");
                        done.broken += 1;
                    }
                }
            }
            let n = &new;
            let of: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                [&n.scope, &n.key, &n.version, &n.old, &n.value, &newest];
            done.versions += self.chores.query(RESEAL, &of).await?.len() as u64;
        }
    }
}
