//! Tenants and their placements.

use insula_domain::{
    ClusterName, DatabaseName, Epoch, Isolation, Placement, RegionGroup, RegionName, RoleName, SchemaName,
    SchemaVersion, Slug, TenantId, TenantStatus, TierName,
};
use insula_problem::{Code, Problem};
use time::OffsetDateTime;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::change::{CatalogClient, Change};
use crate::db;
use crate::rows::{parsed, parsed_opt, unsigned};

/// A tenant as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRecord {
    /// Who it is.
    pub id: TenantId,
    /// Its short name.
    pub slug: Slug,
    /// Its name for people.
    pub name: String,
    /// The tenant above it.
    pub parent: Option<(TenantId, Slug)>,
    /// What it has bought.
    pub tier: TierName,
    /// Its home.
    pub region: RegionName,
    /// The boundary within which its data stays.
    pub residency: RegionGroup,
    /// Where it is in its life.
    pub status: TenantStatus,
    /// The app schema version of its placement.
    pub schema_version: SchemaVersion,
    /// The generation of the master key behind its roles' passwords.
    pub key_generation: u32,
    /// Where its data is; a cluster of its own is not there before it is provisioned.
    pub placement: Option<Placement>,
    /// The isolation model that it has, or is being created with.
    pub isolation: Option<Isolation>,
    /// Whether its tier lets it make objects of its own.
    pub tier_own_objects: bool,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// While it is being deleted: until when its data is kept.
    pub purge_at: Option<OffsetDateTime>,
    /// Grows with every change.
    pub revision: i64,
}

impl TenantRecord {
    /// Whether it may make objects of its own where it is.
    #[must_use]
    pub fn may_own(&self) -> bool {
        self.tier_own_objects && self.isolation.is_some_and(|isolation| isolation != Isolation::Pool)
    }

    /// The schema for objects of its own, where there may be one.
    #[must_use]
    pub fn own_schema(&self) -> Option<SchemaName> {
        SchemaName::of_own_objects(self.id, self.isolation?)
    }
}

/// What a new tenant starts with.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Who it is.
    pub id: TenantId,
    /// Its short name.
    pub slug: Slug,
    /// Its name for people.
    pub name: String,
    /// The tenant above it.
    pub parent: Option<TenantId>,
    /// What it has bought.
    pub tier: TierName,
    /// Its home.
    pub region: RegionName,
    /// The boundary within which its data stays.
    pub residency: RegionGroup,
    /// The isolation model.
    pub isolation: Isolation,
    /// The cluster with room; none for a cluster of its own.
    pub cluster: Option<ClusterName>,
    /// The generation of the master key behind its roles' passwords.
    pub key_generation: u32,
}

/// Which tenants a listing shows.
#[derive(Debug, Clone, Default)]
pub struct TenantFilter {
    /// Only those in this status; without it, all but the deleted.
    pub status: Option<TenantStatus>,
    /// Only those with this parent.
    pub parent: Option<TenantId>,
    /// Only those of this region.
    pub region: Option<RegionName>,
    /// Only those of this tier.
    pub tier: Option<TierName>,
    /// Only those after this slug.
    pub after: Option<String>,
}

const SELECT: &str = "
    select t.id, t.slug, t.name, t.parent, up.slug as parent_slug, t.tier, t.region, t.residency, t.status,
           t.schema_version, t.key_generation, t.created_at, t.purge_at, t.revision, ti.own_objects,
           p.cluster, p.isolation, p.database, p.schema, p.role, p.epoch
    from tenants t
    join tiers ti on ti.name = t.tier
    left join tenants up on up.id = t.parent
    left join placements p on p.tenant_id = t.id ";

fn tenant_of(row: &Row) -> Result<TenantRecord, Problem> {
    let parent: Option<Uuid> = row.get("parent");
    let parent_slug: Option<Slug> = parsed_opt(row, "parent_slug")?;
    Ok(TenantRecord {
        id: row.get::<_, Uuid>("id").into(),
        slug: parsed(row, "slug")?,
        name: row.get("name"),
        parent: parent.map(TenantId::from).zip(parent_slug),
        tier: parsed(row, "tier")?,
        region: parsed(row, "region")?,
        residency: parsed(row, "residency")?,
        status: parsed(row, "status")?,
        schema_version: SchemaVersion(row.get("schema_version")),
        key_generation: unsigned("key_generation", row.get::<_, i32>("key_generation"))?,
        placement: placement_of(row)?,
        isolation: parsed_opt(row, "isolation")?,
        tier_own_objects: row.get("own_objects"),
        created_at: row.get("created_at"),
        purge_at: row.get("purge_at"),
        revision: row.get("revision"),
    })
}

/// The placement in a row that may have none, or one whose cluster is not there yet.
pub fn placement_of(row: &Row) -> Result<Option<Placement>, Problem> {
    let Some(cluster) = parsed_opt::<ClusterName>(row, "cluster")? else { return Ok(None) };
    Ok(Some(Placement {
        cluster,
        isolation: parsed(row, "isolation")?,
        database: DatabaseName::from_stored(row.get("database")),
        schema: SchemaName::from_stored(row.get("schema")),
        role: RoleName::from_stored(row.get("role")),
        epoch: Epoch(row.get("epoch")),
    }))
}

async fn one<C: GenericClient + Sync>(
    client: &C,
    condition: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Option<TenantRecord>, Problem> {
    let row = client.query_opt(&format!("{SELECT} where {condition}"), values).await.map_err(db)?;
    row.as_ref().map(tenant_of).transpose()
}

impl CatalogClient {
    /// The tenant by its id; also one that is deleted.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<TenantRecord>, Problem> {
        one(self.raw(), "t.id = $1", &[&id.as_uuid()]).await
    }

    /// Those of some tenants that are gone for good: tombstones. One that nobody
    /// knows is not among them.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn buried_of(&self, ids: &[TenantId]) -> Result<Vec<TenantId>, Problem> {
        let ids: Vec<_> = ids.iter().map(|id| id.as_uuid()).collect();
        let sql = "select id from tenants where id = any($1) and status = 'deleted'";
        let rows = self.raw().query(sql, &[&ids]).await.map_err(db)?;
        Ok(rows.iter().map(|row| TenantId::from(row.get::<_, uuid::Uuid>(0))).collect())
    }

    /// The tenant that has the slug now.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn tenant_by_slug(&self, slug: &Slug) -> Result<Option<TenantRecord>, Problem> {
        one(self.raw(), "t.slug = $1 and t.status <> 'deleted'", &[&slug.as_str()]).await
    }

    /// Tenants by slug.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn tenants(&self, filter: &TenantFilter, limit: i64) -> Result<Vec<TenantRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                &format!(
                    "{SELECT} where (case when $1::text is null then t.status <> 'deleted' else t.status = $1 end)
                       and ($2::uuid is null or t.parent = $2) and ($3::text is null or t.region = $3)
                       and ($4::text is null or t.tier = $4) and ($5::text is null or t.slug > $5)
                     order by t.slug, t.id limit $6"
                ),
                &[
                    &filter.status.map(TenantStatus::as_str),
                    &filter.parent.map(TenantId::as_uuid),
                    &filter.region.as_ref().map(RegionName::as_str),
                    &filter.tier.as_ref().map(TierName::as_str),
                    &filter.after,
                    &limit,
                ],
            )
            .await
            .map_err(db)?;
        rows.iter().map(tenant_of).collect()
    }

    /// All tenants that have, or had, something on a cluster: every one that is
    /// not deleted.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn all_tenants(&self) -> Result<Vec<TenantRecord>, Problem> {
        self.tenants(&TenantFilter::default(), i64::MAX).await
    }

    /// Tenants whose retention time is over.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn tenants_to_purge(&self, now: OffsetDateTime) -> Result<Vec<TenantRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                &format!(
                    "{SELECT} where t.status = 'deleting' and t.purge_at <= $1 order by t.purge_at limit 100"
                ),
                &[&now],
            )
            .await
            .map_err(db)?;
        rows.iter().map(tenant_of).collect()
    }

    /// Tenants whose placement is not at the version, with a placement to bring
    /// there. One that is being deleted can still be taken back.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn tenants_behind(&self, version: SchemaVersion) -> Result<Vec<TenantRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                &format!(
                    "{SELECT} where t.schema_version < $1 and t.status in ('active', 'suspended', 'deleting')
                     order by t.slug"
                ),
                &[&version.0],
            )
            .await
            .map_err(db)?;
        rows.iter().map(tenant_of).collect()
    }
}

impl Change<'_> {
    /// The tenant by its id, its row locked until the end of the transaction.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn lock_tenant(&self, id: TenantId) -> Result<Option<TenantRecord>, Problem> {
        self.raw()
            .execute("select 1 from tenants where id = $1 for update", &[&id.as_uuid()])
            .await
            .map_err(db)?;
        one(self.raw(), "t.id = $1", &[&id.as_uuid()]).await
    }

    /// Adds a tenant in the status `provisioning`, and reserves its placement.
    ///
    /// # Errors
    /// `slug_taken` where another tenant has the slug.
    pub async fn add_tenant(&self, new: &NewTenant) -> Result<(), Problem> {
        let id = new.id.as_uuid();
        let inserted = self
            .raw()
            .execute(
                "insert into tenants (id, slug, name, parent, tier, region, residency, status, key_generation,
                     created_at)
                 values ($1, $2, $3, $4, $5, $6, $7, 'provisioning', $8, $9)",
                &[
                    &id,
                    &new.slug.as_str(),
                    &new.name,
                    &new.parent.map(TenantId::as_uuid),
                    &new.tier.as_str(),
                    &new.region.as_str(),
                    &new.residency.as_str(),
                    &i32::try_from(new.key_generation).unwrap_or(i32::MAX),
                    &self.at(),
                ],
            )
            .await;
        match inserted {
            Ok(_) => {}
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                return Err(Problem::new(Code::SlugTaken, format!("The slug {} is taken.", new.slug))
                    .at("/slug", "taken")
                    .caused_by(error));
            }
            Err(error) => return Err(db(error)),
        }
        let (database, schema) = Placement::names(new.id, new.isolation);
        self.raw()
            .execute(
                "insert into placements (tenant_id, cluster, isolation, database, schema, role, epoch)
                 values ($1, $2, $3, $4, $5, $6, $7)",
                &[
                    &id,
                    &new.cluster.as_ref().map(ClusterName::as_str),
                    &new.isolation.as_str(),
                    &database.as_str(),
                    &schema.as_str(),
                    &RoleName::of_tenant(new.id).as_str(),
                    &Epoch::FIRST.0,
                ],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Names the cluster of a placement that was waiting for one of its own.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_placement_cluster(
        &self,
        id: TenantId,
        cluster: Option<&ClusterName>,
    ) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update placements set cluster = $2 where tenant_id = $1 and isolation = 'cluster'",
                &[&id.as_uuid(), &cluster.map(ClusterName::as_str)],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Changes a tenant's status, where it still has the one that the caller saw.
    ///
    /// # Errors
    /// `tenant_status_conflict` where the step is none that a life has, or the
    /// status has changed meanwhile.
    pub async fn set_status(
        &self,
        id: TenantId,
        from: TenantStatus,
        to: TenantStatus,
    ) -> Result<(), Problem> {
        from.change_to(to)
            .map_err(|error| Problem::new(Code::TenantStatusConflict, capitalised(&error.to_string())))?;
        let changed = self
            .raw()
            .execute(
                "update tenants set status = $3 where id = $1 and status = $2",
                &[&id.as_uuid(), &from.as_str(), &to.as_str()],
            )
            .await
            .map_err(db)?;
        if changed == 1 {
            return Ok(());
        }
        Err(Problem::new(Code::TenantStatusConflict, format!("The tenant is not {from} any more.")))
    }

    /// Sets until when the data of a tenant that is being deleted is kept.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_purge_at(&self, id: TenantId, at: Option<OffsetDateTime>) -> Result<(), Problem> {
        self.raw()
            .execute("update tenants set purge_at = $2 where id = $1", &[&id.as_uuid(), &at])
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes the app schema version of a tenant's placement.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_tenant_schema_version(
        &self,
        id: TenantId,
        version: SchemaVersion,
    ) -> Result<(), Problem> {
        self.raw()
            .execute("update tenants set schema_version = $2 where id = $1", &[&id.as_uuid(), &version.0])
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes the app schema versions of the tenants in a cluster's shared
    /// tables, where they have a newer one than is known; how many that were.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_pool_tenants_schema_version(
        &self,
        cluster: &ClusterName,
        versions: &[(TenantId, SchemaVersion)],
    ) -> Result<u64, Problem> {
        let tenants: Vec<Uuid> = versions.iter().map(|(tenant, _)| tenant.as_uuid()).collect();
        let versions: Vec<i32> = versions.iter().map(|(_, version)| version.0).collect();
        self.raw()
            .execute(
                "update tenants t set schema_version = u.version
                 from unnest($2::uuid[], $3::int[]) as u (tenant_id, version)
                 join placements p on p.tenant_id = u.tenant_id and p.cluster = $1 and p.isolation = 'pool'
                 where t.id = u.tenant_id and t.schema_version < u.version
                     and t.status in ('active', 'suspended', 'deleting')",
                &[&cluster.as_str(), &tenants, &versions],
            )
            .await
            .map_err(db)
    }

    /// Notes the generation of the master key behind the tenant's roles.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_tenant_key_generation(&self, id: TenantId, generation: u32) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update tenants set key_generation = $2 where id = $1",
                &[&id.as_uuid(), &i32::try_from(generation).unwrap_or(i32::MAX)],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Changes a tenant's name, residency and tier.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_tenant_profile(
        &self,
        id: TenantId,
        name: &str,
        residency: &RegionGroup,
        tier: &TierName,
    ) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update tenants set name = $2, residency = $3, tier = $4 where id = $1",
                &[&id.as_uuid(), &name, &residency.as_str(), &tier.as_str()],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Makes a tenant a tombstone: its placement is released, its slug is free.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn bury_tenant(&self, id: TenantId) -> Result<(), Problem> {
        let id = id.as_uuid();
        for statement in [
            "update logins set revoked_at = $2 where tenant_id = $1 and revoked_at is null",
            "update api_keys set revoked_at = $2 where tenant_id = $1 and revoked_at is null",
            "update tenants set status = 'deleted', deleted_at = $2, purge_at = null where id = $1",
        ] {
            self.raw().execute(statement, &[&id, &self.at()]).await.map_err(db)?;
        }
        for statement in [
            "delete from placements where tenant_id = $1",
            "delete from schema_failures where tenant_id = $1",
        ] {
            self.raw().execute(statement, &[&id]).await.map_err(db)?;
        }
        Ok(())
    }

    /// How many tenants that are not gone have this one as their parent.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn living_children(&self, id: TenantId) -> Result<i64, Problem> {
        let row = self
            .raw()
            .query_one(
                "select count(*) from tenants where parent = $1 and status <> 'deleted'",
                &[&id.as_uuid()],
            )
            .await
            .map_err(db)?;
        Ok(row.get(0))
    }

    /// The tenants above this one, the nearest first.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn ancestors(&self, id: TenantId) -> Result<Vec<TenantId>, Problem> {
        let rows = self
            .raw()
            .query(
                "with recursive up (id, depth) as (
                     select parent, 1 from tenants where id = $1 and parent is not null
                     union all
                     select t.parent, up.depth + 1 from tenants t join up on up.id = t.id
                     where t.parent is not null and up.depth < 100
                 ) select id from up order by depth",
                &[&id.as_uuid()],
            )
            .await
            .map_err(db)?;
        Ok(rows.iter().map(|row| row.get::<_, Uuid>(0).into()).collect())
    }

    /// Puts a tenant under another, or under none.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_parent(&self, id: TenantId, parent: Option<TenantId>) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update tenants set parent = $2 where id = $1",
                &[&id.as_uuid(), &parent.map(TenantId::as_uuid)],
            )
            .await
            .map_err(db)?;
        Ok(())
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect()) + "."
}
