//! The registered PostgreSQL servers.

use insula_domain::{ClusterName, ClusterRoom, Isolation, RegionName, SchemaVersion, TenantId};
use insula_problem::{Code, Problem};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::change::{CatalogClient, Change};
use crate::db;
use crate::rows::{parsed, unsigned};

/// Whether a cluster takes new placements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterStatus {
    /// It does.
    Active,
    /// It keeps what it has and takes no more.
    Draining,
}

impl ClusterStatus {
    /// The word as it stands in the API and the catalog.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
        }
    }
}

/// How many placements of each shared model a cluster may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Tenants in the shared tables.
    pub pool: u32,
    /// Schemas.
    pub schema: u32,
    /// Databases.
    pub database: u32,
}

impl Default for Capacity {
    /// What one server carries without its catalogs growing slow.
    fn default() -> Self {
        Self { pool: 20_000, schema: 1_000, database: 1_000 }
    }
}

/// A secret under a key that is derived from the master key of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// The sealed bytes.
    pub sealed: Vec<u8>,
    /// The generation of the master key.
    pub key_generation: u32,
}

/// A registered PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRecord {
    /// Its name.
    pub name: ClusterName,
    /// Where it stands.
    pub region: RegionName,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether connections to it are encrypted and its certificate verified.
    pub tls: bool,
    /// The role as which Insula works there.
    pub admin_user: String,
    /// That role's password.
    pub admin_secret: SealedSecret,
    /// The server's own identifier, given at initdb.
    pub system_identifier: String,
    /// As `server_version_num` has it, for example 150018.
    pub server_version: u32,
    /// Set where the server belongs to one tenant.
    pub tenant: Option<TenantId>,
    /// Set where Insula's provisioner started it: what it needs to find it again.
    pub provisioned: Option<String>,
    /// Whether it takes new placements.
    pub status: ClusterStatus,
    /// How many it may have.
    pub capacity: Capacity,
    /// The app schema version of its shared tables and its template database.
    pub schema_version: SchemaVersion,
    /// When it was registered.
    pub created_at: OffsetDateTime,
}

fn cluster_of(row: &Row) -> Result<ClusterRecord, Problem> {
    let status: &str = row.try_get("status").map_err(db)?;
    Ok(ClusterRecord {
        name: parsed(row, "name")?,
        region: parsed(row, "region")?,
        host: row.get("host"),
        port: unsigned("port", row.get::<_, i32>("port"))?,
        tls: row.get("tls"),
        admin_user: row.get("admin_user"),
        admin_secret: SealedSecret {
            sealed: row.get("admin_secret"),
            key_generation: unsigned("key_generation", row.get::<_, i32>("key_generation"))?,
        },
        system_identifier: row.get("system_identifier"),
        server_version: unsigned("server_version", row.get::<_, i32>("server_version"))?,
        tenant: row.get::<_, Option<Uuid>>("tenant_id").map(TenantId::from),
        provisioned: row.get("provisioned"),
        status: if status == "active" { ClusterStatus::Active } else { ClusterStatus::Draining },
        capacity: Capacity {
            pool: unsigned("capacity_pool", row.get::<_, i32>("capacity_pool"))?,
            schema: unsigned("capacity_schema", row.get::<_, i32>("capacity_schema"))?,
            database: unsigned("capacity_database", row.get::<_, i32>("capacity_database"))?,
        },
        schema_version: SchemaVersion(row.get("schema_version")),
        created_at: row.get("created_at"),
    })
}

impl CatalogClient {
    /// All clusters by name.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn clusters(&self) -> Result<Vec<ClusterRecord>, Problem> {
        let rows = self.raw().query("select * from clusters order by name", &[]).await.map_err(db)?;
        rows.iter().map(cluster_of).collect()
    }

    /// One cluster.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn cluster(&self, name: &ClusterName) -> Result<Option<ClusterRecord>, Problem> {
        let row = self
            .raw()
            .query_opt("select * from clusters where name = $1", &[&name.as_str()])
            .await
            .map_err(db)?;
        row.as_ref().map(cluster_of).transpose()
    }

    /// How many tenants each cluster has, by cluster.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn cluster_tenants(&self) -> Result<Vec<(ClusterName, u32)>, Problem> {
        let rows = self
            .raw()
            .query("select cluster as name, count(*) as used from placements where cluster is not null group by 1", &[])
            .await
            .map_err(db)?;
        rows.iter()
            .map(|row| Ok((parsed(row, "name")?, unsigned("used", row.get::<_, i64>("used"))?)))
            .collect()
    }
}

impl Change<'_> {
    /// Registers a cluster.
    ///
    /// # Errors
    /// `cluster_name_taken` where the name or the very server is registered already.
    pub async fn add_cluster(&self, cluster: &ClusterRecord) -> Result<(), Problem> {
        let signed = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let inserted = self
            .raw()
            .execute(
                "insert into clusters (name, region, host, port, tls, admin_user, admin_secret, key_generation,
                     system_identifier, server_version, tenant_id, provisioned, status, capacity_pool,
                     capacity_schema, capacity_database, schema_version, created_at)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
                &[
                    &cluster.name.as_str(),
                    &cluster.region.as_str(),
                    &cluster.host,
                    &i32::from(cluster.port),
                    &cluster.tls,
                    &cluster.admin_user,
                    &cluster.admin_secret.sealed,
                    &signed(cluster.admin_secret.key_generation),
                    &cluster.system_identifier,
                    &signed(cluster.server_version),
                    &cluster.tenant.map(TenantId::as_uuid),
                    &cluster.provisioned,
                    &cluster.status.as_str(),
                    &signed(cluster.capacity.pool),
                    &signed(cluster.capacity.schema),
                    &signed(cluster.capacity.database),
                    &cluster.schema_version.0,
                    &cluster.created_at,
                ],
            )
            .await;
        match inserted {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Err(Problem::new(
                Code::ClusterNameTaken,
                format!(
                    "A cluster named {} is registered already, or this very server is under another name.",
                    cluster.name
                ),
            )
            .caused_by(error)),
            Err(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => {
                Err(Problem::new(Code::UnknownRegion, format!("There is no region {}.", cluster.region))
                    .caused_by(error))
            }
            Err(error) => Err(db(error)),
        }
    }

    /// Changes where a cluster is reached, for a server that was started again
    /// elsewhere. It must be the same server by its identifier.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_cluster_endpoint(
        &self,
        name: &ClusterName,
        host: &str,
        port: u16,
    ) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update clusters set host = $2, port = $3 where name = $1",
                &[&name.as_str(), &host, &i32::from(port)],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Seals a cluster's secret anew, after a rotation of the master key.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_cluster_secret(&self, name: &ClusterName, secret: &SealedSecret) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update clusters set admin_secret = $2, key_generation = $3 where name = $1",
                &[&name.as_str(), &secret.sealed, &i32::try_from(secret.key_generation).unwrap_or(i32::MAX)],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes the version of a cluster's shared tables and template.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_cluster_schema_version(
        &self,
        name: &ClusterName,
        version: SchemaVersion,
    ) -> Result<(), Problem> {
        self.raw()
            .execute("update clusters set schema_version = $2 where name = $1", &[&name.as_str(), &version.0])
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Forgets a cluster; `false` where there was none.
    ///
    /// # Errors
    /// Where the catalog is away, or a placement is still there.
    pub async fn remove_cluster(&self, name: &ClusterName) -> Result<bool, Problem> {
        let removed = self
            .raw()
            .execute("delete from clusters where name = $1", &[&name.as_str()])
            .await
            .map_err(db)?;
        Ok(removed > 0)
    }

    /// The room of the region's shared clusters for one more placement of the
    /// model. The rows are locked until the end of the transaction, so that two
    /// creates cannot both take the last place.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn lock_cluster_room(
        &self,
        region: &RegionName,
        isolation: Isolation,
    ) -> Result<Vec<ClusterRoom>, Problem> {
        let column = match isolation {
            Isolation::Pool => "capacity_pool",
            Isolation::Schema => "capacity_schema",
            Isolation::Database => "capacity_database",
            Isolation::Cluster => return Ok(Vec::new()),
        };
        self.raw()
            .execute("select 1 from clusters where region = $1 order by name for update", &[&region.as_str()])
            .await
            .map_err(db)?;
        let statement = format!(
            "select c.name, c.region, c.tenant_id is null and c.status = 'active' as shared,
                    c.{column} as capacity,
                    (select count(*) from placements p where p.cluster = c.name and p.isolation = $2)
                    -- Both ends of an open move have the tenant's room.
                    + (select count(*) from moves m
                       join placements p on p.tenant_id = m.tenant_id
                       cross join lateral (values (m.source), (m.target)) as e (place)
                       where m.status in ('running', 'moved', 'rolling_back', 'completing')
                           and e.place->>'cluster' = c.name and e.place->>'isolation' = $2
                           and (p.cluster, p.isolation) is distinct from (c.name, $2)) as used
             from clusters c where c.region = $1 order by c.name"
        );
        let rows =
            self.raw().query(&statement, &[&region.as_str(), &isolation.as_str()]).await.map_err(db)?;
        rows.iter()
            .map(|row| {
                Ok(ClusterRoom {
                    name: parsed(row, "name")?,
                    region: parsed(row, "region")?,
                    shared: row.get("shared"),
                    used: unsigned("used", row.get::<_, i64>("used"))?,
                    capacity: unsigned("capacity", row.get::<_, i32>("capacity"))?,
                })
            })
            .collect()
    }
}
