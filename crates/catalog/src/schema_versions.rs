//! The versions of the app schema, as their developer wrote them.

use std::collections::BTreeMap;

use futures_util::future::try_join;
use insula_domain::SchemaVersion;
use insula_problem::Problem;
use time::OffsetDateTime;
use tokio_postgres::types::Json;

use crate::change::{CatalogClient, Change};
use crate::db;

/// Columns of primary keys by table. Tables without one, and views, have none.
pub type TableKeys = BTreeMap<String, Vec<String>>;

/// A version of the app schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaVersionRecord {
    /// 1, 2, 3 …
    pub version: SchemaVersion,
    /// The file's name.
    pub name: String,
    /// SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
    /// The file.
    pub sql: String,
    /// The primary keys of its tables, as their developer wrote them; `None`
    /// where it was taken before they were kept.
    pub keys: Option<TableKeys>,
    /// When it was taken.
    pub created_at: OffsetDateTime,
    /// When every placement that was to have it had it.
    pub rolled_out_at: Option<OffsetDateTime>,
}

/// The lock that orders the publishing of a version, and a rollout's look for
/// the tenants that are behind, against the opening of a tenant.
const LOCK: i64 = 0x1A5_0002;

pub(crate) const HOLD_NEWEST: &str = "select pg_advisory_xact_lock_shared($1)";

pub(crate) const NEWEST: &str =
    "select coalesce(max(version), 0) from schema_versions where published_at is not null";

impl CatalogClient {
    /// All versions, the oldest first; the drafts, which are the newest, where
    /// they are asked for.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn schema_versions(&self, drafts: bool) -> Result<Vec<SchemaVersionRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                "select version, name, sha256, sql, created_at, rolled_out_at, keys from schema_versions
                 where $1 or published_at is not null order by version",
                &[&drafts],
            )
            .await
            .map_err(db)?;
        Ok(rows
            .into_iter()
            .map(|row| SchemaVersionRecord {
                version: SchemaVersion(row.get(0)),
                name: row.get(1),
                sha256: row.get(2),
                sql: row.get(3),
                created_at: row.get(4),
                rolled_out_at: row.get(5),
                keys: row.get::<_, Option<Json<TableKeys>>>(6).map(|keys| keys.0),
            })
            .collect())
    }

    /// The newest published version, 0 where there is none.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn newest_schema_version(&self) -> Result<SchemaVersion, Problem> {
        let row = self.raw().query_one(NEWEST, &[]).await.map_err(db)?;
        Ok(SchemaVersion(row.get(0)))
    }

    /// Waits until every tenant that is being opened is open or not: whoever
    /// looks for tenants then sees each of them, or comes before it.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn settle_openings(&self) -> Result<(), Problem> {
        // A statement by itself is a transaction: the lock ends with it.
        self.raw().execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(db)?;
        Ok(())
    }
}

impl Change<'_> {
    /// The newest version, which stays the newest until the end of the
    /// transaction. Whoever opens a tenant holds it, and [`settle_openings`]
    /// waits for him.
    ///
    /// [`settle_openings`]: CatalogClient::settle_openings
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn hold_newest_schema_version(&self) -> Result<SchemaVersion, Problem> {
        let held = self.prepared();
        let (hold, newest) =
            try_join(held.prepare_cached(HOLD_NEWEST), held.prepare_cached(NEWEST)).await.map_err(db)?;
        // The second one begins, and looks, when the first one has its lock.
        let (_, row) = try_join(self.raw().execute(&hold, &[&LOCK]), self.raw().query_one(&newest, &[]))
            .await
            .map_err(db)?;
        Ok(SchemaVersion(row.get(0)))
    }

    /// Takes versions as drafts; those that are there already are left as they are.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn add_schema_drafts(&self, versions: &[SchemaVersionRecord]) -> Result<(), Problem> {
        for version in versions {
            self.raw()
                .execute(
                    "insert into schema_versions (version, name, sha256, sql, created_at, keys)
                     values ($1, $2, $3, $4, $5, $6) on conflict (version) do nothing",
                    &[
                        &version.version.0,
                        &version.name,
                        &version.sha256,
                        &version.sql,
                        &version.created_at,
                        &version.keys.as_ref().map(Json),
                    ],
                )
                .await
                .map_err(db)?;
        }
        Ok(())
    }

    /// Removes the drafts.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn drop_schema_drafts(&self) -> Result<u64, Problem> {
        self.raw().execute("delete from schema_versions where published_at is null", &[]).await.map_err(db)
    }

    /// Publishes the drafts: from here on new silos get them. It waits for
    /// the tenants that are being opened at the version before.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn publish_schema_drafts(&self) -> Result<(), Problem> {
        self.raw().execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(db)?;
        self.raw()
            .execute("update schema_versions set published_at = $1 where published_at is null", &[&self.at()])
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes that every placement has the versions up to this one.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_rolled_out(&self, version: SchemaVersion) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update schema_versions set rolled_out_at = $2 where version <= $1 and rolled_out_at is null",
                &[&version.0, &self.at()],
            )
            .await
            .map_err(db)?;
        Ok(())
    }
}
