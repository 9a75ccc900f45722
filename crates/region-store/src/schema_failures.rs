//! What PostgreSQL said where a version of the app schema did not fit rows:
//! values of tenants, which leave neither the region nor this store unasked.

use std::collections::BTreeMap;
use std::fmt;

use insula_domain::{AppTables, SchemaVersion, TenantId};
use insula_problem::Problem;
use time::OffsetDateTime;

use crate::{RegionStore, db};

/// The most characters that are kept of one failure.
const SAID_MAX: usize = 8_000;

/// What PostgreSQL said of rows that do not fit.
pub struct RowFailure<'a> {
    /// What the version was to be brought to.
    pub tables: &'a AppTables,
    /// The version that failed.
    pub version: SchemaVersion,
    /// Whose row it is; none where it is somebody's in the pool.
    pub tenant: Option<TenantId>,
    /// When.
    pub at: OffsetDateTime,
    /// The words, with values of rows.
    pub said: &'a str,
}

impl fmt::Debug for RowFailure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowFailure({} at {}, its words withheld)", self.tables, self.version)
    }
}

impl RegionStore {
    /// Keeps what was said, in the place of what was said of the same tables
    /// before. Of a tenant that is not at home here any more nothing is kept.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn keep_row_failure(&self, failure: RowFailure<'_>) -> Result<(), Problem> {
        // PostgreSQL has no text with a zero byte.
        let said: String = failure.said.chars().filter(|letter| *letter != '\0').take(SAID_MAX).collect();
        self.object()
            .await?
            .execute(
                "with home as (select from homes where tenant_id = $3 for key share)
                 insert into schema_failures (tables, version, tenant_id, at, said)
                 select $1, $2, $3, $4, $5 where $3::uuid is null or exists (select from home)
                 on conflict (tables) do update set version = excluded.version, tenant_id = excluded.tenant_id,
                     at = excluded.at, said = excluded.said",
                &[
                    &failure.tables.to_string(),
                    &failure.version.0,
                    &failure.tenant.map(TenantId::as_uuid),
                    &failure.at,
                    &said,
                ],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// What was said of the tables, by their keys.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn row_failures(&self, tables: &[String]) -> Result<BTreeMap<String, String>, Problem> {
        let rows = self
            .object()
            .await?
            .query("select tables, said from schema_failures where tables = any($1)", &[&tables])
            .await
            .map_err(db)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Forgets what was said of tables that have the version now.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn forget_row_failure(
        &self,
        tables: &AppTables,
        reached: SchemaVersion,
    ) -> Result<(), Problem> {
        self.object()
            .await?
            .execute(
                "delete from schema_failures where tables = $1 and version <= $2",
                &[&tables.to_string(), &reached.0],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Forgets what was said of a pool and may be of any tenant in it.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn forget_anybodys_failure(&self, pool: &AppTables) -> Result<(), Problem> {
        self.object()
            .await?
            .execute(
                "delete from schema_failures where tables = $1 and tenant_id is null",
                &[&pool.to_string()],
            )
            .await
            .map_err(db)?;
        Ok(())
    }
}
