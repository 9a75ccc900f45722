//! `schema.rollout`: new versions of the app schema to every placement. What
//! can fail for a reason of the schema's own fails in the rehearsal, before
//! anything is published; after that the run goes on until all have it.

use std::time::Duration;

use insula_api::AuditFinding;
use insula_catalog::{CatalogClient, ClusterRecord, ClusterStatus};
use insula_domain::SchemaVersion;
use insula_problem::{Code, Problem};
use insula_workflow::{Kind, Run, Step, StepError, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::retried;
use crate::Control;
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
        .step(Step::without_undo("publish", "the commit: from here on new tenants get the version", publish))
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

async fn shared(run: Rollout) -> Result<(), StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let forms = fleet::forms(control).await.map_err(retried)?;
    for cluster in shared_clusters(&client).await? {
        let access = control.clusters.access_of(&cluster).map_err(retried)?;
        let version = fleet::bring_shared(&access, &forms).await.map_err(retried)?;
        if cluster.schema_version == version {
            continue;
        }
        let change = client.change(control.worker()).await.map_err(retried)?;
        change.set_cluster_schema_version(&cluster.name, version).await.map_err(retried)?;
        let detail = json!({"version": version});
        change.audit("cluster.schema", None, cluster.name.as_str(), &detail).await.map_err(retried)?;
        change.commit().await.map_err(retried)?;
    }
    Ok(())
}

/// A tenant on which another operation is at work is brought too: each version
/// is taken by its transaction on the cluster, once. One that fails does not
/// keep the others from being brought.
async fn tenants(run: Rollout) -> Result<u32, StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let behind = client.tenants_behind(run.input().to).await.map_err(retried)?;
    let (mut brought, mut failed) = (0, Vec::new());
    for tenant in behind {
        let Some(placement) = &tenant.placement else { continue };
        let version = match fleet::bring_tenant(control, &tenant, placement).await {
            Ok(version) => version,
            Err(problem) => {
                tracing::error!(tenant = %tenant.slug, cause = problem.chain(), "a version failed");
                failed.push((tenant.slug, problem));
                continue;
            }
        };
        let change = client.change(control.worker()).await.map_err(retried)?;
        change.set_tenant_schema_version(tenant.id, version).await.map_err(retried)?;
        let detail = json!({"version": version});
        change
            .audit("tenant.schema", Some(tenant.id), tenant.slug.as_str(), &detail)
            .await
            .map_err(retried)?;
        change.commit().await.map_err(retried)?;
        brought += 1;
        if run.stopping().is_cancelled() {
            return Err(StepError::stopped());
        }
    }
    let Some((first, problem)) = failed.first() else { return Ok(brought) };
    let detail =
        format!("{} of the placements failed, the first {first}: {}", failed.len(), problem.detail());
    Err(StepError::retry(Problem::new(problem.code(), detail)))
}

async fn audit_step(run: Rollout) -> Result<(), StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let (clusters, tenants) =
        (client.clusters().await.map_err(retried)?, client.all_tenants().await.map_err(retried)?);
    let moving = control.operations.subjects_under_way().await.map_err(retried)?;
    let mut findings: Vec<AuditFinding> = Vec::new();
    for cluster in &clusters {
        let here: Vec<_> = tenants
            .iter()
            .filter(|tenant| {
                tenant.placement.as_ref().is_some_and(|placement| placement.cluster == cluster.name)
            })
            .collect();
        findings.extend(audit::cluster(control, cluster, &here, &moving).await.map_err(retried)?.findings);
    }
    if let Some(first) = findings.first() {
        let detail = format!(
            "{} findings, the first: {} {}: {}",
            findings.len(),
            first.placement,
            first.object,
            first.detail
        );
        return Err(StepError::fail(Problem::new(Code::SchemaAuditFailed, detail)));
    }
    let change = client.change(control.worker()).await.map_err(retried)?;
    change.set_rolled_out(run.input().to).await.map_err(retried)?;
    let detail = json!({"version": run.input().to});
    change.audit("schema.rolled_out", None, SUBJECT, &detail).await.map_err(retried)?;
    change.commit().await.map_err(retried)
}
