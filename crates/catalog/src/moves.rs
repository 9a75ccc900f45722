//! Moves of tenants, and the commit of a cutover: one compare-and-swap of the
//! placement.
//!
//! What is written of a move's progress is for people to read: nothing is
//! decided by it, so it is not audited.

use insula_domain::{
    ClusterName, Epoch, MoveEnd, MoveProgress, MoveStatus, MoveTerms, OperationId, SchemaVersion, Slug,
    TenantId,
};
use insula_problem::Problem;
use insula_workflow::FencingToken;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::types::Json;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::change::{CatalogClient, Change};
use crate::db;
use crate::rows::{parsed, parsed_opt};

/// A move.
#[derive(Debug, Clone, PartialEq)]
pub struct MoveRecord {
    /// The id, which is that of its first operation.
    pub id: OperationId,
    /// Who moves.
    pub tenant: TenantId,
    /// Its slug, while it is there.
    pub slug: Option<Slug>,
    /// Where it is.
    pub status: MoveStatus,
    /// The operation that is at work on it, or was last.
    pub operation: OperationId,
    /// Where the tenant was.
    pub source: MoveEnd,
    /// Where it goes.
    pub target: MoveEnd,
    /// The version of the app schema that it was begun with: both ends have it, as
    /// long as it can go either way.
    pub schema_version: SchemaVersion,
    /// On what terms.
    pub terms: MoveTerms,
    /// How far it is.
    pub progress: MoveProgress,
    /// Whether an operator wants it to end before the cutover.
    pub cancel: bool,
    /// Why it failed: the stable code and what went wrong.
    pub error: Option<(String, String)>,
    /// What was removed at its end.
    pub manifest: Option<Value>,
    /// When it was asked for.
    pub created_at: OffsetDateTime,
    /// When the tenant was switched over.
    pub committed_at: Option<OffsetDateTime>,
    /// Until when it can be taken back.
    pub window_ends_at: Option<OffsetDateTime>,
    /// When it ended.
    pub ended_at: Option<OffsetDateTime>,
    /// Until when some process keeps its source current, unless it does so anew.
    pub keeper_until: Option<OffsetDateTime>,
}

/// Who says how far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToldBy {
    /// The run that is at work on it, in the hands in which it is.
    Run(OperationId, FencingToken),
    /// Who keeps its source current, while it can be taken back.
    Keeper,
}

/// What a try at a cutover begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutoverTry {
    /// Its number: no try with a smaller one commits from here on.
    pub number: i32,
    /// The epoch of the tenant's placement now.
    pub epoch: Epoch,
    /// Whether an operator wants the move to end.
    pub cancel: bool,
    /// Whether an earlier try may have let the tenant into the target.
    pub target_open: bool,
}

/// What the commit of a cutover writes.
#[derive(Debug)]
pub struct Cutover<'a> {
    /// The move.
    pub id: OperationId,
    /// Who moves.
    pub tenant: TenantId,
    /// The number of the try.
    pub number: i32,
    /// The epoch that the placement must still have.
    pub epoch: Epoch,
    /// Where the tenant is from now on; its epoch is the next one.
    pub to: &'a MoveEnd,
    /// The status of the move from now on.
    pub status: MoveStatus,
    /// Until when it can be taken back.
    pub window_ends_at: Option<OffsetDateTime>,
}

const SELECT: &str = "
    select m.id, m.tenant_id, t.slug, m.status, m.operation, m.source, m.target, m.terms, m.progress, m.cancel,
           coalesce((m.source->>'schema_version')::int, 0) as schema_version,
           m.error_code, m.error_detail, m.manifest, m.created_at, m.committed_at, m.window_ends_at, m.ended_at,
           m.keeper_until
    from moves m left join tenants t on t.id = m.tenant_id";

/// Of a tenant, the move that has not ended.
const OPEN: &str = "m.tenant_id = $1 and m.status in ('running', 'moved', 'rolling_back', 'completing')";

fn move_of(row: &Row) -> Result<MoveRecord, Problem> {
    let code: Option<String> = row.get("error_code");
    let detail: Option<String> = row.get("error_detail");
    Ok(MoveRecord {
        id: row.get::<_, Uuid>("id").into(),
        tenant: row.get::<_, Uuid>("tenant_id").into(),
        slug: parsed_opt(row, "slug")?,
        status: parsed(row, "status")?,
        operation: row.get::<_, Uuid>("operation").into(),
        source: json(row, "source")?,
        target: json(row, "target")?,
        schema_version: SchemaVersion(row.get("schema_version")),
        terms: json(row, "terms")?,
        progress: json(row, "progress")?,
        cancel: row.get("cancel"),
        error: code.zip(detail),
        manifest: row.get::<_, Option<Json<Value>>>("manifest").map(|manifest| manifest.0),
        created_at: row.get("created_at"),
        committed_at: row.get("committed_at"),
        window_ends_at: row.get("window_ends_at"),
        ended_at: row.get("ended_at"),
        keeper_until: row.get("keeper_until"),
    })
}

fn json<T: serde::de::DeserializeOwned>(row: &Row, column: &str) -> Result<T, Problem> {
    Ok(row.try_get::<_, Json<T>>(column).map_err(db)?.0)
}

async fn one<C: GenericClient + Sync>(
    client: &C,
    condition: &str,
    id: Uuid,
) -> Result<Option<MoveRecord>, Problem> {
    let row = client.query_opt(&format!("{SELECT} where {condition}"), &[&id]).await.map_err(db)?;
    row.as_ref().map(move_of).transpose()
}

async fn left_on<C: GenericClient + Sync>(
    client: &C,
    tenant: TenantId,
    cluster: &ClusterName,
) -> Result<Option<OperationId>, Problem> {
    let row = client
        .query_opt(
            "select id from moves where tenant_id = $1 and manifest->'left'->>'cluster' = $2 limit 1",
            &[&tenant.as_uuid(), &cluster.as_str()],
        )
        .await
        .map_err(db)?;
    Ok(row.map(|row| row.get::<_, Uuid>(0).into()))
}

impl CatalogClient {
    /// One move.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn tenant_move(&self, id: OperationId) -> Result<Option<MoveRecord>, Problem> {
        one(self.raw(), "m.id = $1", id.as_uuid()).await
    }

    /// The move of a tenant that has not ended.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn open_move(&self, tenant: TenantId) -> Result<Option<MoveRecord>, Problem> {
        one(self.raw(), OPEN, tenant.as_uuid()).await
    }

    /// Moves, the newest first, older than `before`.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn moves(
        &self,
        tenant: Option<TenantId>,
        before: Option<OperationId>,
        limit: i64,
    ) -> Result<Vec<MoveRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                &format!(
                    "{SELECT} where ($1::uuid is null or m.tenant_id = $1) and ($2::uuid is null or m.id < $2)
                     order by m.id desc limit $3"
                ),
                &[&tenant.map(TenantId::as_uuid), &before.map(OperationId::as_uuid), &limit],
            )
            .await
            .map_err(db)?;
        rows.iter().map(move_of).collect()
    }

    /// All moves that have not ended.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn open_moves(&self) -> Result<Vec<MoveRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                &format!(
                    "{SELECT} where m.status in ('running', 'moved', 'rolling_back', 'completing') order by m.id"
                ),
                &[],
            )
            .await
            .map_err(db)?;
        rows.iter().map(move_of).collect()
    }

    /// Moves that have ended and left something at a server that was away: those
    /// with `left` in their manifest.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn moves_with_left(&self, limit: i64) -> Result<Vec<MoveRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                &format!(
                    "{SELECT} where m.manifest ? 'left' and m.ended_at is not null order by m.id limit $1"
                ),
                &[&limit],
            )
            .await
            .map_err(db)?;
        rows.iter().map(move_of).collect()
    }

    /// The move of a tenant that has left something on a cluster.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn left_on(
        &self,
        tenant: TenantId,
        cluster: &ClusterName,
    ) -> Result<Option<OperationId>, Problem> {
        left_on(self.raw(), tenant, cluster).await
    }

    /// Whether a tenant was ever served from a cluster before a move, as far as
    /// moves tell: only then can a front have a way there.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn was_served_from(
        &self,
        tenant: TenantId,
        cluster: &ClusterName,
        before: OperationId,
    ) -> Result<bool, Problem> {
        let row = self
            .raw()
            .query_one(
                "select exists (select from moves where tenant_id = $1 and id <> $3
                     and (source->>'cluster' = $2 or (target->>'cluster' = $2 and committed_at is not null)))",
                &[&tenant.as_uuid(), &cluster.as_str(), &before.as_uuid()],
            )
            .await
            .map_err(db)?;
        Ok(row.get(0))
    }

    /// Writes how far a move is, where whoever says so has to say it now: what a
    /// worker says that was suspended, and has heard of nothing, is not written.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_move_progress(
        &self,
        id: OperationId,
        told_by: ToldBy,
        progress: &MoveProgress,
    ) -> Result<(), Problem> {
        let (run, token) = match told_by {
            ToldBy::Run(run, token) => (Some(run.as_uuid()), token.as_i64()),
            ToldBy::Keeper => (None, 0),
        };
        self.raw()
            .execute(
                "update moves set progress = $2
                 where id = $1 and case
                     when $3::uuid is null then status = 'moved'
                     else ended_at is null and operation = $3
                          and exists (select from workflow_runs run where run.id = $3 and run.token = $4) end",
                &[&id.as_uuid(), &Json(progress), &run, &token],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// What a worker has found equal at both ends of a move.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn compared(&self, id: OperationId) -> Result<Option<Value>, Problem> {
        let row = self
            .raw()
            .query_opt("select compared from moves where id = $1", &[&id.as_uuid()])
            .await
            .map_err(db)?;
        Ok(row.and_then(|row| row.get::<_, Option<Json<Value>>>(0)).map(|compared| compared.0))
    }

    /// Notes what was found equal at both ends of a move that has not come to its
    /// cutover.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_compared(&self, id: OperationId, compared: &Value) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update moves set compared = $2 where id = $1 and status = 'running'",
                &[&id.as_uuid(), &Json(compared)],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Begins a try at a cutover, or ends the one before. From its return on no
    /// earlier try commits: a commit that is under way is waited for, and the
    /// epoch then tells of it. None where the tenant or the move is gone.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn next_try(&self, id: OperationId) -> Result<Option<CutoverTry>, Problem> {
        // Two statements: the second one sees what the first has waited for.
        let begun = self
            .raw()
            .query_opt(
                "update moves set try = try + 1 where id = $1 returning try, cancel, target_open, tenant_id",
                &[&id.as_uuid()],
            )
            .await
            .map_err(db)?;
        let Some(begun) = begun else { return Ok(None) };
        let tenant: Uuid = begun.get("tenant_id");
        let placement = self
            .raw()
            .query_opt("select epoch from placements where tenant_id = $1", &[&tenant])
            .await
            .map_err(db)?;
        Ok(placement.map(|placement| CutoverTry {
            number: begun.get("try"),
            epoch: Epoch(placement.get("epoch")),
            cancel: begun.get("cancel"),
            target_open: begun.get("target_open"),
        }))
    }

    /// Notes whether the tenant may be let into the target, before it is and
    /// after it is not; `false` where a later try has begun.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_target_open(&self, id: OperationId, number: i32, open: bool) -> Result<bool, Problem> {
        let statement = self.prepared().prepare_cached(SET_TARGET_OPEN).await.map_err(db)?;
        let rows = self.raw().execute(&statement, &[&id.as_uuid(), &number, &open]).await.map_err(db)?;
        Ok(rows == 1)
    }

    /// The moves that can be taken back, as far as this keeper has them until
    /// the time: those that it had, and those that nobody has any more. Not
    /// those with one of the errors behind which there is no way back: they
    /// would take the places of others.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn keep_moved(
        &self,
        keeper: &str,
        now: OffsetDateTime,
        until: OffsetDateTime,
        lost: &[&str],
        limit: i64,
    ) -> Result<Vec<MoveRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                &format!(
                    "with mine as (
                         select id from moves
                         where status = 'moved' and (keeper = $1 or keeper is null or keeper_until < $2)
                             and (error_code is null or error_code <> all($5))
                         order by keeper = $1 desc nulls last, id limit $4 for update skip locked),
                     kept as (
                         update moves set keeper = $1, keeper_until = $3 where id in (select id from mine) returning id)
                     {SELECT} where m.id in (select id from kept) order by m.id"
                ),
                &[&keeper, &now, &until, &limit, &lost],
            )
            .await
            .map_err(db)?;
        rows.iter().map(move_of).collect()
    }
}

impl Change<'_> {
    /// Adds a move.
    ///
    /// # Errors
    /// Where the catalog is away, or another move of the tenant is open.
    pub async fn add_move(&self, new: &MoveRecord) -> Result<(), Problem> {
        self.raw()
            .execute(
                "insert into moves (id, tenant_id, status, operation, source, target, terms, created_at)
                 values ($1, $2, $3, $4, $5::jsonb || jsonb_build_object('schema_version', $9::int), $6, $7, $8)",
                &[
                    &new.id.as_uuid(),
                    &new.tenant.as_uuid(),
                    &new.status.as_str(),
                    &new.operation.as_uuid(),
                    &Json(&new.source),
                    &Json(&new.target),
                    &Json(&new.terms),
                    &new.created_at,
                    &new.schema_version.0,
                ],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// The move of a tenant that has not ended.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn open_move(&self, tenant: TenantId) -> Result<Option<MoveRecord>, Problem> {
        one(self.raw(), OPEN, tenant.as_uuid()).await
    }

    /// As [`CatalogClient::left_on`].
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn left_on(
        &self,
        tenant: TenantId,
        cluster: &ClusterName,
    ) -> Result<Option<OperationId>, Problem> {
        left_on(self.raw(), tenant, cluster).await
    }

    /// The move, locked until the end of the transaction.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn lock_move(&self, id: OperationId) -> Result<Option<MoveRecord>, Problem> {
        one(self.raw(), "m.id = $1 for update of m", id.as_uuid()).await
    }

    /// Names the server that was made for the target, or none again.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_move_target_cluster(
        &self,
        id: OperationId,
        cluster: Option<&ClusterName>,
    ) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update moves set target = jsonb_set(target, '{cluster}', coalesce(to_jsonb($2::text), 'null'))
                 where id = $1",
                &[&id.as_uuid(), &cluster.map(ClusterName::as_str)],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes that an operator wants a move to end before the cutover.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn cancel_move(&self, id: OperationId) -> Result<(), Problem> {
        self.raw()
            .execute("update moves set cancel = true where id = $1", &[&id.as_uuid()])
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Sets a move's status and the operation that is at work on it; one that
    /// is not open any more has ended now. A tenant that was narrowed for a cutover
    /// ([`CatalogClient::narrow`](crate::CatalogClient::narrow)) is not any more.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_move_status(
        &self,
        id: OperationId,
        status: MoveStatus,
        operation: OperationId,
    ) -> Result<(), Problem> {
        let ended_at = (!status.is_open()).then_some(self.at());
        self.raw()
            .execute(
                "update moves set status = $2, operation = $3, ended_at = $4 where id = $1",
                &[&id.as_uuid(), &status.as_str(), &operation.as_uuid(), &ended_at],
            )
            .await
            .map_err(db)?;
        // Another statement: it sees what the first has waited for.
        self.raw()
            .execute(
                "update placements set narrowed = false
                 where narrowed and tenant_id = (select tenant_id from moves where id = $1)",
                &[&id.as_uuid()],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes why a move failed.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_move_error(&self, id: OperationId, code: &str, detail: &str) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update moves set error_code = $2, error_detail = $3 where id = $1",
                &[&id.as_uuid(), &code, &detail],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes that nothing is wrong with a move any more.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn clear_move_error(&self, id: OperationId) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update moves set error_code = null, error_detail = null where id = $1",
                &[&id.as_uuid()],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes what was removed at a move's end, or left there, beside what is
    /// noted already.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_move_manifest(&self, id: OperationId, manifest: &Value) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update moves set manifest = coalesce(manifest, '{}') || $2 where id = $1",
                &[&id.as_uuid(), &Json(manifest)],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes that what was left at a move's end is removed now.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn clear_move_left(&self, id: OperationId, removed: &Value) -> Result<(), Problem> {
        self.raw()
            .execute(
                "update moves set manifest = (manifest - 'left') || jsonb_build_object('removed_later', $2::jsonb)
                 where id = $1 and manifest ? 'left'",
                &[&id.as_uuid(), &Json(removed)],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// From here on the change is rolled back where its author says nothing for 5 s:
    /// the next try waits for a commit that is under way, and would wait for a process
    /// that is suspended in the midst of it, or cut off, for as long.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn end_when_silent(&self) -> Result<(), Problem> {
        let end = self.prepared().prepare_cached(END_WHEN_SILENT).await.map_err(db)?;
        self.raw().execute(&end, &[]).await.map(drop).map_err(db)
    }

    /// The compare-and-swap of a cutover: the tenant is at its other end from
    /// the commit of this change on. A word that it is to end comes too late then,
    /// and must not end its rollback. `false`, and nothing changed, where a later
    /// try has begun or the placement is another one meanwhile.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn cut_over(&self, cutover: &Cutover<'_>) -> Result<bool, Problem> {
        let Some(cluster) = cutover.to.cluster.as_ref() else { return Ok(false) };
        let cut_over = self.prepared().prepare_cached(CUT_OVER).await.map_err(db)?;
        let swapped = self
            .raw()
            .execute(
                &cut_over,
                &[
                    &cutover.id.as_uuid(),
                    &cutover.number,
                    &cutover.tenant.as_uuid(),
                    &cutover.epoch.0,
                    &cluster.as_str(),
                    &cutover.to.isolation.as_str(),
                    &cutover.to.database.as_str(),
                    &cutover.to.schema.as_str(),
                    &cutover.to.tier.as_str(),
                    &cutover.to.region.as_str(),
                    &cutover.status.as_str(),
                    &self.at(),
                    &cutover.window_ends_at,
                ],
            )
            .await
            .map_err(db)?;
        Ok(swapped == 1)
    }
}

/// In the change alone: its connection goes back to others.
pub(crate) const END_WHEN_SILENT: &str =
    "select set_config('idle_in_transaction_session_timeout', '5s', true)";

pub(crate) const SET_TARGET_OPEN: &str = "update moves set target_open = $3 where id = $1 and try = $2";

/// The swap, where the try is still the last one, which stays so until the
/// change has ended, and with it what follows from it; in one journey, as the
/// tenant waits meanwhile.
pub(crate) const CUT_OVER: &str = "
with last as (
    select from moves where id = $1 and try = $2 and status in ('running', 'rolling_back') for update
), swapped as (
    update placements set cluster = $5, isolation = $6, database = $7, schema = $8, epoch = epoch + 1,
        hold_id = null, hold_ms = null
    from last where tenant_id = $3 and epoch = $4
    returning tenant_id
), tenant as (
    update tenants set tier = $9, region = $10 from swapped where id = swapped.tenant_id
)
update moves set status = $11, committed_at = coalesce(committed_at, $12), window_ends_at = $13,
    keeper = null, keeper_until = null, target_open = false, cancel = false
from swapped where id = $1";
