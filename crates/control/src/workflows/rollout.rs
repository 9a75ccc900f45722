//! `schema.rollout`: new versions of the app schema to every placement. What
//! can fail for a reason of the schema's own fails in the rehearsal, before
//! anything is published. Then the canaries get it, then one wave after the
//! other; what cannot be brought is told and holds up nobody else.
//!
//! Where each placement is stands in the catalog, so that a run that is begun
//! anew, by whichever worker, goes on with what is left. A rollout that is
//! paused ends its run; resuming it, or trying again what has failed, is a run
//! of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use insula_catalog::{CatalogClient, ClusterRecord, ClusterStatus, RolloutPlacementRecord};
use insula_domain::{
    AppTables, BehindTenant, ClusterName, Isolation, OperationId, RolloutPlacementStatus, RolloutStatus,
    SchemaVersion, TenantId, TenantStatus, plan_waves,
};
use insula_problem::{Code, Problem};
use insula_workflow::{Kind, Run, Step, StepError, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{rest, retried};
use crate::Control;
use crate::schema::failures::{mended, note};
use crate::schema::fleet::{self, Forms};
use crate::schema::{SUBJECT, audit, blueprint, measure};

/// A step that goes over the whole fleet may take long.
const LONG: Duration = Duration::from_secs(4 * 3600);

/// How many placements are brought at a time.
const AT_ONCE: usize = 4;

/// How often a placement is tried that is away, in use by another operation,
/// or whose tables others hold: with the pauses about a minute.
const TRIES: u32 = 15;

/// From this try on, sessions that hold shared tables and are idle in their
/// transaction for longer than `IDLE` are ended: one tenant's forgotten
/// transaction does not hold up the pool.
const TRIES_BEFORE_ENDING: u32 = 4;
const IDLE: Duration = Duration::from_secs(5);

/// How many failures the end of the operation names; the rollout has them all.
const NAMED_MAX: i64 = 100;

/// What the run is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutInput {
    /// Which rollout it carries out.
    pub rollout: OperationId,
    /// The version that every placement shall have.
    pub to: SchemaVersion,
}

type Rollout = Run<Control, RolloutInput>;

/// The workflow.
#[must_use]
pub fn workflow() -> Workflow<Control, RolloutInput> {
    Workflow::new("schema.rollout", 2)
        .step(
            Step::new(
                "rehearse",
                "a schema that fails must fail where nobody sees it",
                rehearse,
                drop_drafts,
            )
            .timeout(Duration::from_secs(600)),
        )
        .step(Step::without_undo("publish", "the commit: from here on new silos get the version", publish))
        .point_of_no_return()
        .step(Step::without_undo("plan", "who is behind, and in which wave each comes", plan))
        .step(Step::without_undo("waves", "several placements at a time, wave by wave", waves).timeout(LONG))
        .step(
            Step::without_undo("audit", "nothing is called done that the catalogs do not prove", conclude)
                .timeout(LONG),
        )
}

/// What is needed to start runs.
#[must_use]
pub fn rollout_kind() -> Kind<RolloutInput> {
    workflow().kind()
}

async fn shared_clusters(client: &CatalogClient) -> Result<Vec<ClusterRecord>, StepError> {
    let clusters = client.clusters().await.map_err(retried)?;
    Ok(clusters.into_iter().filter(|cluster| cluster.tenant.is_none()).collect())
}

/// On one cluster that others share. Without any there is nothing to rehearse
/// on, and nothing that could be broken.
async fn rehearse(run: Rollout) -> Result<(), StepError> {
    let control = run.deps();
    let client = control.catalog.client().await.map_err(retried)?;
    let all = client.schema_versions(true).await.map_err(retried)?;
    let published = client.newest_schema_version().await.map_err(retried)?;
    if all.last().is_none_or(|newest| newest.version == published) {
        return Ok(());
    }
    let forms = Forms::read(&all).map_err(StepError::fail)?;
    let clusters = shared_clusters(&client).await?;
    let stage = clusters.iter().find(|cluster| cluster.status == ClusterStatus::Active);
    let Some(stage) = stage else { return Ok(()) };
    fleet::rehearse(control, stage, &forms).await.map_err(retried)
}

async fn drop_drafts(run: Rollout) -> Result<(), StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    let dropped = change.drop_schema_drafts().await.map_err(retried)?;
    change.set_rollout_status(run.input().rollout, RolloutStatus::Failed, run.id()).await.map_err(retried)?;
    change.audit("schema.dropped", None, SUBJECT, &json!({"drafts": dropped})).await.map_err(retried)?;
    change.commit().await.map_err(retried)
}

async fn publish(run: Rollout) -> Result<(), StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    change.publish_schema_drafts().await.map_err(retried)?;
    change
        .audit("schema.publish", None, SUBJECT, &json!({"version": run.input().to}))
        .await
        .map_err(retried)?;
    change.commit().await.map_err(retried)
}

/// Adds what is behind to what the rollout brings already.
async fn plan(run: Rollout) -> Result<u64, StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    // A tenant that was being opened at the version before is open now, and seen.
    client.settle_openings().await.map_err(retried)?;
    let (id, to) = (run.input().rollout, run.input().to);
    let Some(rollout) = client.rollout(id).await.map_err(retried)? else {
        return Err(StepError::fail(Problem::internal(format!("there is no rollout {id}"))));
    };
    // Shared tables may have the version, and rows that do not fit it yet.
    let failures = client.schema_failures(None, i64::MAX).await.map_err(retried)?;
    let unfit: BTreeSet<ClusterName> = failures
        .into_iter()
        .filter(|failure| failure.tenant.is_none())
        .map(|failure| failure.cluster)
        .collect();
    let pools = shared_clusters(&client)
        .await?
        .into_iter()
        .filter(|cluster| cluster.schema_version < to || unfit.contains(&cluster.name));
    let pools: BTreeSet<ClusterName> = pools.map(|cluster| cluster.name).collect();
    let behind = client.tenants_behind(to).await.map_err(retried)?;
    let behind: Vec<BehindTenant> = behind
        .into_iter()
        .filter_map(|tenant| {
            let placement = tenant.placement?;
            let (isolation, cluster) = (placement.isolation, placement.cluster);
            Some(BehindTenant { id: tenant.id, tier: tenant.tier, isolation, cluster })
        })
        .collect();
    let canaries: BTreeSet<TenantId> = rollout.canaries.into_iter().collect();
    let planned = plan_waves(&pools, &behind, &canaries, rollout.wave_size);
    let change = client.change(control.worker()).await.map_err(retried)?;
    change.add_rollout_placements(id, &planned).await.map_err(retried)?;
    let detail = json!({"version": to, "placements": planned.len()});
    change.audit("schema.plan", None, SUBJECT, &detail).await.map_err(retried)?;
    change.commit().await.map_err(retried)?;
    Ok(planned.len() as u64)
}

/// Wave after wave until none is left, or the rollout is paused.
async fn waves(run: Rollout) -> Result<RolloutStatus, StepError> {
    let control = run.deps();
    let id = run.input().rollout;
    let mut tried: BTreeMap<String, u32> = BTreeMap::new();
    let mut pauses = 0;
    loop {
        if run.stopping().is_cancelled() {
            return Err(StepError::stopped());
        }
        let client = control.catalog.client().await.map_err(retried)?;
        let status = client.rollout(id).await.map_err(retried)?.map(|rollout| rollout.status);
        match status {
            Some(RolloutStatus::Rolling) => {}
            Some(RolloutStatus::Pausing) => return pause(&run).await,
            _ => return Ok(status.unwrap_or(RolloutStatus::Superseded)),
        }
        let wave = client.next_wave(id).await.map_err(retried)?;
        drop(client);
        if wave.is_empty() {
            return Ok(RolloutStatus::Rolling);
        }
        let tries = |tables: &str| tried.get(tables).copied().unwrap_or(0) + 1;
        let wave: Vec<(RolloutPlacementRecord, u32)> = wave
            .into_iter()
            .map(|placement| {
                let attempt = tries(&placement.tables);
                (placement, attempt)
            })
            .collect();
        let attempts: Vec<(String, Result<Option<Problem>, StepError>)> = stream::iter(wave)
            .map(|(placement, attempt)| {
                let run = run.clone();
                async move {
                    let later = bring(&run, &placement, attempt).await;
                    (placement.tables, later)
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut away = false;
        for (tables, later) in attempts {
            if let Some(problem) = later? {
                tracing::info!(tables, cause = problem.chain(), "a version has to wait");
                away = true;
                *tried.entry(tables).or_default() += 1;
            }
        }
        pauses = if away { pauses + 1 } else { 0 };
        if away {
            rest(run.stopping(), pauses).await;
        }
    }
}

async fn pause(run: &Rollout) -> Result<RolloutStatus, StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    change.set_rollout_status(run.input().rollout, RolloutStatus::Paused, run.id()).await.map_err(retried)?;
    let detail = json!({"version": run.input().to});
    change.audit("schema.paused", None, SUBJECT, &detail).await.map_err(retried)?;
    change.commit().await.map_err(retried)?;
    Ok(RolloutStatus::Paused)
}

/// Brings one placement, and writes down what became of it; what stands in the
/// way where another try may well succeed. Nothing is begun when the rollout is
/// to pause.
async fn bring(
    run: &Rollout,
    placement: &RolloutPlacementRecord,
    attempt: u32,
) -> Result<Option<Problem>, StepError> {
    let control = run.deps();
    let (id, tables) = (run.input().rollout, placement.app_tables());
    let mut client = control.catalog.client().await.map_err(retried)?;
    let status = client.rollout(id).await.map_err(retried)?.map(|rollout| rollout.status);
    if status != Some(RolloutStatus::Rolling) || run.stopping().is_cancelled() {
        return Ok(None);
    }
    set_placement(control, &mut client, id, &tables, RolloutPlacementStatus::Running).await?;
    let brought = match &tables {
        AppTables::Pool(cluster) => bring_pool(control, &mut client, cluster).await,
        AppTables::Silo(tenant) => bring_silo(control, &mut client, *tenant).await,
    };
    let problem = match brought {
        Ok(()) => {
            set_placement(control, &mut client, id, &tables, RolloutPlacementStatus::Done).await?;
            return Ok(None);
        }
        Err(problem) => problem,
    };
    if let Some(tenant) = tables.tenant()
        && is_going(control, tenant).await?
    {
        set_placement(control, &mut client, id, &tables, RolloutPlacementStatus::Done).await?;
        return Ok(None);
    }
    if is_passing(problem.code()) && attempt < TRIES {
        if let AppTables::Pool(cluster) = &tables
            && problem.code() == Code::Unavailable
            && attempt >= TRIES_BEFORE_ENDING
        {
            let ended = fleet::end_idle_holders(control, cluster, IDLE).await.map_err(retried)?;
            tracing::warn!(%cluster, ended, "ended idle transactions that hold the shared tables");
        }
        return Ok(Some(problem));
    }
    tracing::error!(%tables, cause = problem.chain(), "a version failed");
    note(control, &mut client, &tables, &placement.cluster, &problem).await.map_err(retried)?;
    fail_placement(control, &mut client, id, placement, &problem).await?;
    Ok(None)
}

/// Whether what stands in the way may go away by itself.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::PlacementUnavailable
            | Code::ClusterUnreachable
            | Code::Overloaded
            | Code::TenantBusy
    )
}

async fn set_placement(
    control: &Control,
    client: &mut CatalogClient,
    rollout: OperationId,
    tables: &AppTables,
    status: RolloutPlacementStatus,
) -> Result<(), StepError> {
    let change = client.change(control.worker()).await.map_err(retried)?;
    change.set_rollout_placement(rollout, tables, status, None).await.map_err(retried)?;
    let detail = json!({"rollout": rollout, "status": status});
    change.audit("schema.placement", tables.tenant(), &tables.to_string(), &detail).await.map_err(retried)?;
    change.commit().await.map_err(retried)
}

/// Writes down that a placement failed. With a canary the rollout is to pause
/// from the same transaction on, so that no crash lets the version past it.
async fn fail_placement(
    control: &Control,
    client: &mut CatalogClient,
    rollout: OperationId,
    placement: &RolloutPlacementRecord,
    problem: &Problem,
) -> Result<(), StepError> {
    let (tables, code) = (placement.app_tables(), problem.code().to_string());
    let failed = RolloutPlacementStatus::Failed;
    let change = client.change(control.worker()).await.map_err(retried)?;
    let held = change.lock_rollout(rollout).await.map_err(retried)?;
    let failure = Some((code.as_str(), problem.detail()));
    change.set_rollout_placement(rollout, &tables, failed, failure).await.map_err(retried)?;
    let rolling = held.filter(|held| held.status == RolloutStatus::Rolling);
    if placement.wave == 0
        && let Some(held) = rolling
    {
        change.set_rollout_status(rollout, RolloutStatus::Pausing, held.operation).await.map_err(retried)?;
    }
    let detail = json!({"rollout": rollout, "status": failed, "code": code, "wave": placement.wave});
    change.audit("schema.placement", tables.tenant(), &tables.to_string(), &detail).await.map_err(retried)?;
    change.commit().await.map_err(retried)
}

/// The shared tables of a cluster, for all tenants in them.
async fn bring_pool(
    control: &Control,
    client: &mut CatalogClient,
    cluster: &ClusterName,
) -> Result<(), Problem> {
    let access = control.clusters.access(cluster).await?;
    let forms = fleet::forms(control).await?;
    let brought = fleet::bring_shared(&access, &forms).await;
    if let Ok(version) = &brought {
        mended(control, client, &AppTables::Pool(cluster.clone()), cluster, *version).await?;
    }
    // A version whose constraints rows of some tenants do not fit is there all
    // the same, and holds for every new row.
    note_pool(control, client, cluster, fleet::pool_version(&access).await?).await?;
    brought.map(|_| ())
}

/// Writes down which version the shared tables have, and each tenant in them.
async fn note_pool(
    control: &Control,
    client: &mut CatalogClient,
    cluster: &ClusterName,
    version: SchemaVersion,
) -> Result<(), Problem> {
    let versions = fleet::pool_versions(control, cluster).await?;
    let change = client.change(control.worker()).await?;
    change.set_cluster_schema_version(cluster, version).await?;
    let tenants = change.set_pool_tenants_schema_version(cluster, &versions).await?;
    let detail = json!({"version": version, "tenants": tenants});
    change.audit("cluster.schema", None, cluster.as_str(), &detail).await?;
    change.commit().await
}

/// A tenant's own tables. A tenant that is being moved waits for the end of it.
async fn bring_silo(control: &Control, client: &mut CatalogClient, id: TenantId) -> Result<(), Problem> {
    let Some(tenant) = client.tenant(id).await? else { return Ok(()) };
    let Some(placement) = tenant.placement.clone() else { return Ok(()) };
    if control.operations.subjects_under_way().await?.contains(&id) {
        let detail = format!("Another operation on {} has not ended.", tenant.slug);
        return Err(Problem::new(Code::TenantBusy, detail).retry_after(1));
    }
    let version = fleet::bring_tenant(control, &tenant, &placement).await?;
    mended(control, client, &AppTables::Silo(id), &placement.cluster, version).await?;
    let change = client.change(control.worker()).await?;
    change.set_tenant_schema_version(id, version).await?;
    let detail = json!({"version": version});
    change.audit("tenant.schema", Some(id), tenant.slug.as_str(), &detail).await?;
    change.commit().await
}

/// Whether a tenant is being purged, or is gone.
async fn is_going(control: &Control, tenant: TenantId) -> Result<bool, StepError> {
    let client = control.catalog.client().await.map_err(retried)?;
    let status = client.tenant(tenant).await.map_err(retried)?.map(|tenant| tenant.status);
    Ok(match status {
        None | Some(TenantStatus::Deleted) => true,
        Some(TenantStatus::Deleting) => {
            control.operations.subjects_under_way().await.map_err(retried)?.contains(&tenant)
        }
        Some(_) => false,
    })
}

/// A placement that does not have the version, or is not as it must be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failed {
    /// A tenant's slug, or a cluster's shared tables.
    pub placement: String,
    /// The stable code.
    pub code: String,
    /// What went wrong there, in names.
    pub detail: String,
}

/// The end of the run: what failed, and what the catalogs do not prove of what
/// was brought.
async fn conclude(run: Rollout) -> Result<Vec<Failed>, StepError> {
    let control = run.deps();
    let id = run.input().rollout;
    let mut client = control.catalog.client().await.map_err(retried)?;
    let mut failed = failed_placements(&client, id).await?;
    if run.output::<RolloutStatus>("waves")? != RolloutStatus::Rolling {
        measure::placements(&client).await.map_err(retried)?;
        return Ok(failed);
    }
    settle_pools(&run, &mut client).await?;
    failed.extend(unproved(&run, &client).await?);
    blueprint::follow(control).await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    let status = if failed.is_empty() { RolloutStatus::Done } else { RolloutStatus::Failed };
    if failed.is_empty() {
        change.set_rolled_out(run.input().to).await.map_err(retried)?;
    }
    change.set_rollout_status(id, status, run.id()).await.map_err(retried)?;
    let placements: Vec<_> = failed.iter().map(|failed| &failed.placement).collect();
    let detail = json!({"version": run.input().to, "failed": placements});
    change.audit("schema.rolled_out", None, SUBJECT, &detail).await.map_err(retried)?;
    change.commit().await.map_err(retried)?;
    measure::placements(&client).await.map_err(retried)?;
    Ok(failed)
}

async fn failed_placements(client: &CatalogClient, id: OperationId) -> Result<Vec<Failed>, StepError> {
    let failed = RolloutPlacementStatus::Failed;
    let failed = client.rollout_placements(id, Some(failed), None, NAMED_MAX).await.map_err(retried)?;
    let told = failed.into_iter().map(|placement| Failed {
        placement: placement.tenant.map_or_else(|| placement.cluster.to_string(), |slug| slug.to_string()),
        code: placement.code.unwrap_or_default(),
        detail: placement.detail.unwrap_or_default(),
    });
    Ok(told.collect())
}

/// A tenant that came into a pool while it was brought has its version from
/// there, and is known to have it only now.
async fn settle_pools(run: &Rollout, client: &mut CatalogClient) -> Result<(), StepError> {
    let control = run.deps();
    client.settle_openings().await.map_err(retried)?;
    let behind = client.tenants_behind(run.input().to).await.map_err(retried)?;
    let pools: BTreeSet<ClusterName> = behind
        .into_iter()
        .filter_map(|tenant| tenant.placement)
        .filter(|placement| placement.isolation == Isolation::Pool)
        .map(|placement| placement.cluster)
        .collect();
    for cluster in shared_clusters(client).await? {
        if pools.contains(&cluster.name) && cluster.schema_version >= run.input().to {
            note_pool(control, client, &cluster.name, cluster.schema_version).await.map_err(retried)?;
        }
    }
    Ok(())
}

/// What the catalogs of the clusters do not prove of the placements that this
/// rollout has brought.
async fn unproved(run: &Rollout, client: &CatalogClient) -> Result<Vec<Failed>, StepError> {
    let control = run.deps();
    let done = Some(RolloutPlacementStatus::Done);
    let brought =
        client.rollout_placements(run.input().rollout, done, None, i64::MAX).await.map_err(retried)?;
    let tables: BTreeSet<AppTables> = brought.iter().map(RolloutPlacementRecord::app_tables).collect();
    let touched: BTreeSet<&ClusterName> = brought.iter().map(|placement| &placement.cluster).collect();
    let (clusters, tenants) =
        (client.clusters().await.map_err(retried)?, client.all_tenants().await.map_err(retried)?);
    let moving = control.operations.subjects_under_way().await.map_err(retried)?;
    let mut failed = Vec::new();
    for cluster in clusters.iter().filter(|cluster| touched.contains(&cluster.name)) {
        let here: Vec<_> = tenants
            .iter()
            .filter(|tenant| match &tenant.placement {
                Some(placement) if placement.cluster == cluster.name => {
                    placement.isolation == Isolation::Pool || tables.contains(&AppTables::Silo(tenant.id))
                }
                _ => false,
            })
            .collect();
        let pool = tables.contains(&AppTables::Pool(cluster.name.clone()));
        let found = audit::cluster(control, cluster, &here, &moving, pool).await.map_err(retried)?.findings;
        failed.extend(found.into_iter().map(|finding| Failed {
            placement: finding.placement,
            code: Code::SchemaAuditFailed.to_string(),
            detail: format!("{}: {}", finding.object, finding.detail),
        }));
    }
    Ok(failed)
}
