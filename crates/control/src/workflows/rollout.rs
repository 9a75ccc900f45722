//! `schema.rollout`: new versions of the app schema to every placement. What
//! can fail for a reason of the schema's own fails in the rehearsal, before
//! anything is published; after that the run goes on until all have it.

use std::collections::BTreeSet;
use std::time::Duration;

use insula_catalog::{CatalogClient, ClusterRecord, ClusterStatus};
use insula_domain::{AppTables, Isolation, SchemaVersion, TenantId, TenantStatus};
use insula_problem::{Code, Problem};
use insula_workflow::{Kind, Run, Step, StepError, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::retried;
use crate::Control;
use crate::schema::failures::{mended, note};
use crate::schema::fleet::{self, Forms};
use crate::schema::{SUBJECT, audit};

/// A step that goes over the whole fleet may take long.
const LONG: Duration = Duration::from_secs(4 * 3600);

/// What the run is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutInput {
    /// The version that every placement shall have.
    pub to: SchemaVersion,
}

type Rollout = Run<Control, RolloutInput>;

/// The workflow.
#[must_use]
pub fn workflow() -> Workflow<Control, RolloutInput> {
    Workflow::new("schema.rollout", 1)
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
        .step(
            Step::without_undo("shared", "shared tables and templates, one a cluster", shared).timeout(LONG),
        )
        .step(
            Step::without_undo("tenants", "every placement that is behind, one by one", tenants)
                .timeout(LONG),
        )
        .step(
            Step::without_undo("audit", "nothing is called done that the catalogs do not prove", audit_step)
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
    let access = control.clusters.access_of(stage).map_err(retried)?;
    fleet::rehearse(&access, &forms).await.map_err(retried)
}

async fn drop_drafts(run: Rollout) -> Result<(), StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    let dropped = change.drop_schema_drafts().await.map_err(retried)?;
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

/// A placement that could not be brought, for a reason of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failed {
    /// A tenant's slug, or a cluster's shared tables.
    pub placement: String,
    /// The stable code.
    pub code: String,
    /// What went wrong there.
    pub detail: String,
}

impl Failed {
    fn of(placement: impl ToString, problem: &Problem) -> Self {
        let (code, detail) = (problem.code().to_string(), problem.detail().to_owned());
        Self { placement: placement.to_string(), code, detail }
    }
}

/// Sorts out what a placement's failure means: rows that do not fit the
/// version fail again and are told, and what is away comes back.
fn take_failure(
    placement: impl ToString,
    problem: Problem,
    failed: &mut Vec<Failed>,
    later: &mut Option<Problem>,
) {
    tracing::error!(placement = placement.to_string(), cause = problem.chain(), "a version failed");
    if problem.code() == Code::MigrationFailed {
        failed.push(Failed::of(placement, &problem));
    } else {
        later.get_or_insert(problem);
    }
}

/// One cluster that fails does not keep the others from being brought.
async fn shared(run: Rollout) -> Result<Vec<Failed>, StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let forms = fleet::forms(control).await.map_err(retried)?;
    let (mut failed, mut later) = (Vec::new(), None);
    for cluster in shared_clusters(&client).await? {
        let access = control.clusters.access_of(&cluster).map_err(retried)?;
        let tables = AppTables::Pool(cluster.name.clone());
        let version = match fleet::bring_shared(&access, &forms).await {
            Ok(version) => version,
            Err(problem) => {
                note(control, &mut client, &tables, &cluster.name, &problem).await.map_err(retried)?;
                take_failure(&cluster.name, problem, &mut failed, &mut later);
                continue;
            }
        };
        mended(control, &mut client, &tables, &cluster.name, version).await.map_err(retried)?;
        if cluster.schema_version == version {
            continue;
        }
        let change = client.change(control.worker()).await.map_err(retried)?;
        change.set_cluster_schema_version(&cluster.name, version).await.map_err(retried)?;
        let detail = json!({"version": version});
        change.audit("cluster.schema", None, cluster.name.as_str(), &detail).await.map_err(retried)?;
        change.commit().await.map_err(retried)?;
    }
    later.map_or(Ok(failed), |problem| Err(retried(problem)))
}

/// A tenant on which another operation is at work is brought too: each version
/// is taken by its transaction on the cluster, once. One that fails does not
/// keep the others from being brought.
async fn tenants(run: Rollout) -> Result<Vec<Failed>, StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let mut failed: Vec<Failed> = run.output("shared")?;
    let pools_that_failed: BTreeSet<String> = failed.iter().map(|failed| failed.placement.clone()).collect();
    let mut later = None;
    // A tenant that was being opened at the version before is open now, and seen.
    client.settle_openings().await.map_err(retried)?;
    for tenant in client.tenants_behind(run.input().to).await.map_err(retried)? {
        let Some(placement) = &tenant.placement else { continue };
        let waits_for_its_pool =
            placement.isolation == Isolation::Pool && pools_that_failed.contains(placement.cluster.as_str());
        if waits_for_its_pool {
            continue;
        }
        let tables = AppTables::Silo(tenant.id);
        let version = match fleet::bring_tenant(control, &tenant, placement).await {
            Ok(version) => version,
            Err(_) if is_going(control, tenant.id).await? => continue,
            Err(problem) => {
                note(control, &mut client, &tables, &placement.cluster, &problem).await.map_err(retried)?;
                take_failure(&tenant.slug, problem, &mut failed, &mut later);
                continue;
            }
        };
        mended(control, &mut client, &tables, &placement.cluster, version).await.map_err(retried)?;
        let change = client.change(control.worker()).await.map_err(retried)?;
        change.set_tenant_schema_version(tenant.id, version).await.map_err(retried)?;
        let detail = json!({"version": version});
        change
            .audit("tenant.schema", Some(tenant.id), tenant.slug.as_str(), &detail)
            .await
            .map_err(retried)?;
        change.commit().await.map_err(retried)?;
        if run.stopping().is_cancelled() {
            return Err(StepError::stopped());
        }
    }
    later.map_or(Ok(failed), |problem| Err(retried(problem)))
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

/// The end of the run: what failed, and what the catalogs do not prove. A run
/// with failures has ended too, so that the next one can try again when the
/// rows are repaired, or bring a version that mends it.
async fn audit_step(run: Rollout) -> Result<Vec<Failed>, StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let mut failed: Vec<Failed> = run.output("tenants")?;
    let (clusters, tenants) =
        (client.clusters().await.map_err(retried)?, client.all_tenants().await.map_err(retried)?);
    let moving = control.operations.subjects_under_way().await.map_err(retried)?;
    if failed.is_empty() {
        for cluster in &clusters {
            let here: Vec<_> = tenants
                .iter()
                .filter(|tenant| {
                    tenant.placement.as_ref().is_some_and(|placement| placement.cluster == cluster.name)
                })
                .collect();
            let found = audit::cluster(control, cluster, &here, &moving).await.map_err(retried)?.findings;
            failed.extend(found.into_iter().map(|finding| Failed {
                placement: finding.placement,
                code: Code::SchemaAuditFailed.to_string(),
                detail: format!("{}: {}", finding.object, finding.detail),
            }));
        }
    }
    let change = client.change(control.worker()).await.map_err(retried)?;
    if failed.is_empty() {
        change.set_rolled_out(run.input().to).await.map_err(retried)?;
    }
    let placements: Vec<_> = failed.iter().map(|failed| &failed.placement).collect();
    let detail = json!({"version": run.input().to, "failed": placements});
    change.audit("schema.rolled_out", None, SUBJECT, &detail).await.map_err(retried)?;
    change.commit().await.map_err(retried)?;
    Ok(failed)
}
