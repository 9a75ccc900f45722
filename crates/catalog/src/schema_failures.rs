//! Where versions of the app schema failed: names and codes, and no value of
//! any row.

use insula_domain::{AppTables, ClusterName, RegionName, SchemaVersion, Slug, TenantId};
use insula_problem::Problem;
use time::OffsetDateTime;

use crate::change::{CatalogClient, Change};
use crate::db;
use crate::rows::{parsed, parsed_opt, unsigned};

/// What is noted when a version fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSchemaFailure {
    /// What it was to be brought to.
    pub tables: AppTables,
    /// Their cluster.
    pub cluster: ClusterName,
    /// The version that failed.
    pub version: SchemaVersion,
    /// The stable code.
    pub code: String,
    /// File, line, SQLSTATE and names.
    pub detail: String,
}

/// A version that failed, and has not been brought there since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaFailureRecord {
    /// The key of the tables, as [`AppTables`] prints it.
    pub tables: String,
    /// The tenant whose alone they are.
    pub tenant: Option<Slug>,
    /// Their cluster.
    pub cluster: ClusterName,
    /// Where the cluster stands.
    pub region: RegionName,
    /// The version that failed.
    pub version: SchemaVersion,
    /// The stable code.
    pub code: String,
    /// File, line, SQLSTATE and names.
    pub detail: String,
    /// When it failed last.
    pub at: OffsetDateTime,
}

impl CatalogClient {
    /// Failures by key, those after `after`.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn schema_failures(
        &self,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<SchemaFailureRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                "select f.tables, t.slug, f.cluster, c.region, f.version, f.code, f.detail, f.at
                 from schema_failures f join clusters c on c.name = f.cluster
                 left join tenants t on t.id = f.tenant_id
                 where $1::text is null or f.tables > $1 order by f.tables limit $2",
                &[&after, &limit],
            )
            .await
            .map_err(db)?;
        rows.iter()
            .map(|row| {
                Ok(SchemaFailureRecord {
                    tables: row.get("tables"),
                    tenant: parsed_opt(row, "slug")?,
                    cluster: parsed(row, "cluster")?,
                    region: parsed(row, "region")?,
                    version: SchemaVersion(row.get("version")),
                    code: row.get("code"),
                    detail: row.get("detail"),
                    at: row.get("at"),
                })
            })
            .collect()
    }

    /// How many failures are known.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn count_schema_failures(&self) -> Result<u32, Problem> {
        let row = self.raw().query_one("select count(*) from schema_failures", &[]).await.map_err(db)?;
        unsigned("count", row.get::<_, i64>(0))
    }

    /// Whether a failure of the tables is known, of a version that they now have.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn has_schema_failure(
        &self,
        tables: &AppTables,
        reached: SchemaVersion,
    ) -> Result<bool, Problem> {
        let row = self
            .raw()
            .query_opt(
                "select 1 from schema_failures where tables = $1 and version <= $2",
                &[&tables.to_string(), &reached.0],
            )
            .await
            .map_err(db)?;
        Ok(row.is_some())
    }
}

impl Change<'_> {
    /// Notes a failure, in the place of an earlier one of the same tables.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_schema_failure(&self, failure: &NewSchemaFailure) -> Result<(), Problem> {
        self.raw()
            .execute(
                "insert into schema_failures (tables, tenant_id, cluster, version, code, detail, at)
                 values ($1, $2, $3, $4, $5, $6, $7)
                 on conflict (tables) do update set cluster = excluded.cluster, version = excluded.version,
                     code = excluded.code, detail = excluded.detail, at = excluded.at",
                &[
                    &failure.tables.to_string(),
                    &failure.tables.tenant().map(TenantId::as_uuid),
                    &failure.cluster.as_str(),
                    &failure.version.0,
                    &failure.code,
                    &failure.detail,
                    &self.at(),
                ],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Forgets the failure of tables that have the version now.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn forget_schema_failure(
        &self,
        tables: &AppTables,
        reached: SchemaVersion,
    ) -> Result<(), Problem> {
        self.raw()
            .execute(
                "delete from schema_failures where tables = $1 and version <= $2",
                &[&tables.to_string(), &reached.0],
            )
            .await
            .map_err(db)?;
        Ok(())
    }
}
