//! Rollouts and where each placement is in them.

use std::collections::BTreeMap;

use insula_domain::{
    AppTables, ClusterName, OperationId, Planned, RolloutPlacementStatus, RolloutStatus, SchemaVersion, Slug,
    TenantId,
};
use insula_problem::Problem;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::change::{CatalogClient, Change};
use crate::db;
use crate::rows::{parsed, parsed_opt, unsigned};

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutRecord {
    /// The id, which is that of its first operation.
    pub id: OperationId,
    /// The version that every placement shall have.
    pub version: SchemaVersion,
    /// Silos of a wave, at the most.
    pub wave_size: u32,
    /// Tenants that get the version first.
    pub canaries: Vec<TenantId>,
    /// Where it is.
    pub status: RolloutStatus,
    /// The operation that carries it out, or did last.
    pub operation: OperationId,
    /// When it was begun.
    pub created_at: OffsetDateTime,
    /// When it came to rest.
    pub ended_at: Option<OffsetDateTime>,
}

/// A placement in a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutPlacementRecord {
    /// The key of the tables, as [`AppTables`] prints it.
    pub tables: String,
    /// The tenant whose alone they are.
    pub tenant_id: Option<TenantId>,
    /// Its slug, while it is there.
    pub tenant: Option<Slug>,
    /// Their cluster.
    pub cluster: ClusterName,
    /// Its wave, from 0 for the canaries.
    pub wave: u32,
    /// Where it is.
    pub status: RolloutPlacementStatus,
    /// The stable code of what failed there.
    pub code: Option<String>,
    /// What failed there, in names.
    pub detail: Option<String>,
    /// When it was begun, last.
    pub started_at: Option<OffsetDateTime>,
    /// When it ended, last.
    pub ended_at: Option<OffsetDateTime>,
}

impl RolloutPlacementRecord {
    /// What is brought.
    #[must_use]
    pub fn app_tables(&self) -> AppTables {
        self.tenant_id.map_or_else(|| AppTables::Pool(self.cluster.clone()), AppTables::Silo)
    }
}

const SELECT: &str =
    "select r.id, r.version, r.wave_size, r.canaries, r.status, r.operation, r.created_at, r.ended_at
    from rollouts r";

const SELECT_PLACEMENTS: &str =
    "select p.tables, p.tenant_id, t.slug, p.cluster, p.wave, p.status, p.code, p.detail,
           p.started_at, p.ended_at
    from rollout_placements p left join tenants t on t.id = p.tenant_id";

fn rollout_of(row: &Row) -> Result<RolloutRecord, Problem> {
    Ok(RolloutRecord {
        id: row.get::<_, Uuid>("id").into(),
        version: SchemaVersion(row.get("version")),
        wave_size: unsigned("wave_size", row.get::<_, i32>("wave_size"))?,
        canaries: row.get::<_, Vec<Uuid>>("canaries").into_iter().map(TenantId::from).collect(),
        status: parsed(row, "status")?,
        operation: row.get::<_, Uuid>("operation").into(),
        created_at: row.get("created_at"),
        ended_at: row.get("ended_at"),
    })
}

fn placement_of(row: &Row) -> Result<RolloutPlacementRecord, Problem> {
    Ok(RolloutPlacementRecord {
        tables: row.get("tables"),
        tenant_id: row.get::<_, Option<Uuid>>("tenant_id").map(TenantId::from),
        tenant: parsed_opt(row, "slug")?,
        cluster: parsed(row, "cluster")?,
        wave: unsigned("wave", row.get::<_, i32>("wave"))?,
        status: parsed(row, "status")?,
        code: row.get("code"),
        detail: row.get("detail"),
        started_at: row.get("started_at"),
        ended_at: row.get("ended_at"),
    })
}

impl CatalogClient {
    /// Rollouts, the newest first, older than `before`.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn rollouts(
        &self,
        before: Option<OperationId>,
        limit: i64,
    ) -> Result<Vec<RolloutRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                &format!("{SELECT} where $1::uuid is null or r.id < $1 order by r.id desc limit $2"),
                &[&before.map(OperationId::as_uuid), &limit],
            )
            .await
            .map_err(db)?;
        rows.iter().map(rollout_of).collect()
    }

    /// One rollout.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn rollout(&self, id: OperationId) -> Result<Option<RolloutRecord>, Problem> {
        let row =
            self.raw().query_opt(&format!("{SELECT} where r.id = $1"), &[&id.as_uuid()]).await.map_err(db)?;
        row.as_ref().map(rollout_of).transpose()
    }

    /// How many placements of a rollout are in each status.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn rollout_counts(
        &self,
        id: OperationId,
    ) -> Result<BTreeMap<RolloutPlacementStatus, u32>, Problem> {
        let rows = self
            .raw()
            .query(
                "select status, count(*) as placements from rollout_placements where rollout = $1 group by status",
                &[&id.as_uuid()],
            )
            .await
            .map_err(db)?;
        rows.iter()
            .map(|row| Ok((parsed(row, "status")?, unsigned("placements", row.get::<_, i64>("placements"))?)))
            .collect()
    }

    /// Placements of a rollout by key, those after `after`, of one status where
    /// it is given.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn rollout_placements(
        &self,
        id: OperationId,
        status: Option<RolloutPlacementStatus>,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<RolloutPlacementRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                &format!(
                    "{SELECT_PLACEMENTS} where p.rollout = $1 and ($2::text is null or p.status = $2)
                         and ($3::text is null or p.tables > $3)
                     order by p.tables limit $4"
                ),
                &[&id.as_uuid(), &status.map(RolloutPlacementStatus::as_str), &after, &limit],
            )
            .await
            .map_err(db)?;
        rows.iter().map(placement_of).collect()
    }

    /// What is left of the first wave that is not brought yet; none where no
    /// wave is left.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn next_wave(&self, id: OperationId) -> Result<Vec<RolloutPlacementRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                &format!(
                    "{SELECT_PLACEMENTS} where p.rollout = $1 and p.status in ('waiting', 'running')
                         and p.wave = (select min(wave) from rollout_placements
                                       where rollout = $1 and status in ('waiting', 'running'))
                     order by p.tables"
                ),
                &[&id.as_uuid()],
            )
            .await
            .map_err(db)?;
        rows.iter().map(placement_of).collect()
    }

    /// How many placements have each version: tenants by the version of their tables.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn placements_by_version(&self) -> Result<Vec<(SchemaVersion, u32)>, Problem> {
        let rows = self
            .raw()
            .query(
                "select schema_version, count(*) as tenants from tenants
                 where status in ('active', 'suspended', 'deleting') group by schema_version order by 1",
                &[],
            )
            .await
            .map_err(db)?;
        rows.iter()
            .map(|row| Ok((SchemaVersion(row.get(0)), unsigned("tenants", row.get::<_, i64>("tenants"))?)))
            .collect()
    }
}

impl Change<'_> {
    /// Adds a rollout. Those before it that have not ended well are superseded:
    /// what was left of them is this one's.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn add_rollout(&self, rollout: &RolloutRecord) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update rollouts set status = 'superseded', ended_at = coalesce(ended_at, $1)
                 where status <> 'done' and status <> 'superseded'",
                &[&self.at()],
            )
            .await
            .map_err(db)?;
        let canaries: Vec<Uuid> = rollout.canaries.iter().map(|tenant| tenant.as_uuid()).collect();
        self.raw()
            .execute(
                "insert into rollouts (id, version, wave_size, canaries, status, operation, created_at)
                 values ($1, $2, $3, $4, $5, $6, $7)",
                &[
                    &rollout.id.as_uuid(),
                    &rollout.version.0,
                    &i32::try_from(rollout.wave_size).unwrap_or(i32::MAX),
                    &canaries,
                    &rollout.status.as_str(),
                    &rollout.operation.as_uuid(),
                    &rollout.created_at,
                ],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Adds what a rollout shall bring; what is there already is left as it is.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn add_rollout_placements(&self, id: OperationId, planned: &[Planned]) -> Result<(), Problem> {
        let tables: Vec<String> = planned.iter().map(|planned| planned.tables.to_string()).collect();
        let tenants: Vec<Option<Uuid>> =
            planned.iter().map(|planned| planned.tables.tenant().map(TenantId::as_uuid)).collect();
        let clusters: Vec<&str> = planned.iter().map(|planned| planned.cluster.as_str()).collect();
        let waves: Vec<i32> =
            planned.iter().map(|planned| i32::try_from(planned.wave).unwrap_or(i32::MAX)).collect();
        self.raw()
            .execute(
                "insert into rollout_placements (rollout, tables, tenant_id, cluster, wave, status)
                 select $1, u.tables, u.tenant_id, u.cluster, u.wave, 'waiting'
                 from unnest($2::text[], $3::uuid[], $4::text[], $5::int[]) as u (tables, tenant_id, cluster, wave)
                 on conflict (rollout, tables) do nothing",
                &[&id.as_uuid(), &tables, &tenants, &clusters, &waves],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// The rollout, locked until the end of the transaction.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn lock_rollout(&self, id: OperationId) -> Result<Option<RolloutRecord>, Problem> {
        let row = self
            .raw()
            .query_opt(&format!("{SELECT} where r.id = $1 for update"), &[&id.as_uuid()])
            .await
            .map_err(db)?;
        row.as_ref().map(rollout_of).transpose()
    }

    /// Notes where a rollout is, and which operation carries it out.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_rollout_status(
        &self,
        id: OperationId,
        status: RolloutStatus,
        operation: OperationId,
    ) -> Result<(), Problem> {
        let at_rest = !matches!(status, RolloutStatus::Rolling | RolloutStatus::Pausing);
        self.raw()
            .execute(
                "update rollouts set status = $2, operation = $3, ended_at = $4 where id = $1",
                &[&id.as_uuid(), &status.as_str(), &operation.as_uuid(), &at_rest.then_some(self.at())],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes where a placement is in a rollout; with a failure, what failed.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_rollout_placement(
        &self,
        id: OperationId,
        tables: &AppTables,
        status: RolloutPlacementStatus,
        failure: Option<(&str, &str)>,
    ) -> Result<(), Problem> {
        let running = status == RolloutPlacementStatus::Running;
        self.raw()
            .execute(
                "update rollout_placements set status = $3, code = $4, detail = $5,
                     started_at = case when $6 then $7 else started_at end,
                     ended_at = case when $6 then null else $7 end
                 where rollout = $1 and tables = $2",
                &[
                    &id.as_uuid(),
                    &tables.to_string(),
                    &status.as_str(),
                    &failure.map(|(code, _)| code),
                    &failure.map(|(_, detail)| detail),
                    &running,
                    &self.at(),
                ],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Puts the failed placements of a rollout back among those that wait; how
    /// many there were.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn retry_rollout_placements(&self, id: OperationId) -> Result<u64, Problem> {
        self.raw()
            .execute(
                "update rollout_placements set status = 'waiting', code = null, detail = null
                 where rollout = $1 and status = 'failed'",
                &[&id.as_uuid()],
            )
            .await
            .map_err(db)
    }
}
