//! Secrets in clear, and who was shown them: it is written down before.

use insula_config_model::{ConfigKey, ConfigValue, Scope, Stored, Version};
use insula_problem::Problem;
use time::OffsetDateTime;

use crate::{ConfigStore, rows};

/// That somebody was shown a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRead {
    /// When.
    pub at: OffsetDateTime,
    /// Under which key.
    pub key: ConfigKey,
    /// Which version.
    pub version: Version,
    /// Who, as authors are written.
    pub reader: String,
}

/// Holds the homes, so that a tenant does not go in between.
const NOTE: &str = "with homes as materialized (
        select h.scope from config_homes h where h.scope = any($2) and h.state = 'open' for key share
    )
    insert into config_reads (at, scope, key, version, reader)
    select $1, r.scope, r.key, r.version, $5
    from unnest($2::text[], $3::text[], $4::bigint[]) as r (scope, key, version)
    where r.scope not like 'tenant/%' or exists (select from homes h where h.scope = r.scope)
    returning 1";

const READS_OF_KEY: &str = "select at, key, version, reader from config_reads
    where scope = $1 and key = $3 order by at desc, id desc limit $2";

const READS: &str = "select at, key, version, reader from config_reads
    where scope = $1 order by id desc limit $2";

impl ConfigStore {
    /// Opens the secrets among versions, once it is written down who is shown
    /// them.
    ///
    /// # Errors
    /// Where the store is away, or a secret does not open.
    pub async fn reveal(&self, versions: &mut [Stored], reader: &str) -> Result<(), Problem> {
        let sealed: Vec<&mut Stored> = versions
            .iter_mut()
            .filter(|stored| matches!(stored.value, Some(ConfigValue::Sealed(_))))
            .collect();
        if sealed.is_empty() {
            return Ok(());
        }
        let scopes: Vec<String> = sealed.iter().map(|stored| stored.scope.to_string()).collect();
        let keys: Vec<&str> = sealed.iter().map(|stored| stored.key.as_str()).collect();
        let numbers: Vec<Version> = sealed.iter().map(|stored| stored.version).collect();
        let at = self.ambient.clock.now();
        let noted = self.lines.query(NOTE, &[&at, &scopes, &keys, &numbers, &reader]).await?;
        if noted.len() < sealed.len() {
            // Gone in between: the note would not go with it.
            return Err(crate::homes::moving());
        }
        for stored in sealed {
            let Some(value) = stored.value.take() else { continue };
            let opened = self.ambient.open(&stored.scope, &stored.key, stored.version, value);
            stored.value = Some(opened.map_err(Problem::internal)?);
        }
        Ok(())
    }

    /// Who was shown the secrets of a scope, or the one under a key there, the
    /// latest first.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn reads(
        &self,
        scope: &Scope,
        key: Option<&ConfigKey>,
        limit: u32,
    ) -> Result<Vec<SecretRead>, Problem> {
        let (scope, limit) = (scope.to_string(), i64::from(limit));
        let rows = match key {
            Some(key) => self.lines.query(READS_OF_KEY, &[&scope, &limit, &key.as_str()]).await?,
            None => self.lines.query(READS, &[&scope, &limit]).await?,
        };
        let read = |row: &tokio_postgres::Row| {
            let (at, version, reader) = (row.get(0), row.get(2), row.get(3));
            Ok(SecretRead { at, key: rows::key(row.get(1))?, version, reader })
        };
        rows.iter().map(read).collect()
    }
}
