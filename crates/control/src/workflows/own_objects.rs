//! `tenant.own_objects` and `tier.own_objects`: the right to make objects of
//! one's own, brought to where the tenants are when their tier has changed.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use insula_catalog::TenantFilter;
use insula_domain::{TenantId, TierName};
use insula_problem::{Code, Problem};
use insula_workflow::{Kind, Run, Step, StepError, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::suspend::TenantInput;
use super::{rest, retried};
use crate::{Control, own_objects};

/// How many tenants are settled at a time.
const AT_ONCE: usize = 4;

/// How often a tenant is tried that is away or in use by another operation:
/// with the pauses about a minute.
const TRIES: u32 = 15;

/// A tier may have many tenants.
const LONG: Duration = Duration::from_secs(4 * 3600);

/// What the run for a tier is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TierInput {
    /// The tier.
    pub tier: TierName,
}

/// A tenant that could not be reached; the doctor finds it too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unsettled {
    /// The tenant's slug.
    pub tenant: String,
    /// The stable code.
    pub code: String,
    /// What stood in the way.
    pub detail: String,
}

type OfTier = Run<Control, TierInput>;

/// `tier.own_objects`
#[must_use]
pub fn of_tier_workflow() -> Workflow<Control, TierInput> {
    Workflow::new("tier.own_objects", 1)
        .step(
            Step::without_undo(
                "settle",
                "the tenants of the tier, several at a time; who is away is told and holds up nobody",
                settle_all,
            )
            .timeout(LONG),
        )
        .point_of_no_return()
}

/// `tenant.own_objects`
#[must_use]
pub fn of_tenant_workflow() -> Workflow<Control, TenantInput> {
    Workflow::new("tenant.own_objects", 1)
        .step(Step::without_undo("settle", "as the tenant's tier says", settle_one))
        .point_of_no_return()
}

/// What is needed to start runs of `tier.own_objects`.
#[must_use]
pub fn of_tier_kind() -> Kind<TierInput> {
    of_tier_workflow().kind()
}

/// What is needed to start runs of `tenant.own_objects`.
#[must_use]
pub fn of_tenant_kind() -> Kind<TenantInput> {
    of_tenant_workflow().kind()
}

/// The subject of a tier's runs: one at a time.
#[must_use]
pub fn subject(tier: &TierName) -> String {
    format!("tier/{tier}")
}

/// Whether a subject is a tier.
#[must_use]
pub fn is_tier(subject: &str) -> bool {
    subject.starts_with("tier/")
}

async fn settle_one(run: Run<Control, TenantInput>) -> Result<(), StepError> {
    own_objects::settle(run.deps(), run.input().tenant).await.map_err(retried)
}

/// Everybody who is on the tier, also who is being created or suspended.
async fn settle_all(run: OfTier) -> Result<Vec<Unsettled>, StepError> {
    let control = run.deps();
    let filter = TenantFilter { tier: Some(run.input().tier.clone()), ..TenantFilter::default() };
    let client = control.catalog.client().await.map_err(retried)?;
    let tenants = client.tenants(&filter, i64::MAX).await.map_err(retried)?;
    drop(client);
    let mut left: Vec<(TenantId, String)> =
        tenants.into_iter().map(|tenant| (tenant.id, tenant.slug.to_string())).collect();
    let (all, mut unsettled) = (left.len(), Vec::new());
    for pauses in 1..=TRIES {
        if run.stopping().is_cancelled() {
            return Err(StepError::stopped());
        }
        let tried: Vec<((TenantId, String), Result<(), Problem>)> = stream::iter(left)
            .map(|tenant| async move {
                let settled = settle_idle(control, tenant.0).await;
                (tenant, settled)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let failed = tried.into_iter().filter_map(|(tenant, tried)| Some((tenant, tried.err()?)));
        (left, unsettled) = failed
            .map(|((id, slug), problem)| {
                let (code, detail) = (problem.code().to_string(), problem.detail().to_owned());
                ((id, slug.clone()), Unsettled { tenant: slug, code, detail })
            })
            .unzip();
        if left.is_empty() {
            break;
        }
        rest(run.stopping(), pauses).await;
    }
    conclude(&run, all, &unsettled).await?;
    Ok(unsettled)
}

/// A tenant that no other operation is at work on: that one may read the tier
/// as it was before.
async fn settle_idle(control: &Control, tenant: TenantId) -> Result<(), Problem> {
    if control.operations.subjects_under_way().await?.contains(&tenant) {
        let detail = "Another operation on the tenant has not ended.";
        return Err(Problem::new(Code::TenantBusy, detail).retry_after(1));
    }
    own_objects::settle(control, tenant).await
}

async fn conclude(run: &OfTier, all: usize, unsettled: &[Unsettled]) -> Result<(), StepError> {
    let control = run.deps();
    let mut client = control.catalog.client().await.map_err(retried)?;
    let change = client.change(control.worker()).await.map_err(retried)?;
    let left: Vec<&str> = unsettled.iter().map(|tenant| tenant.tenant.as_str()).collect();
    let detail = json!({"tenants": all, "unsettled": left});
    change.audit("tier.own_objects", None, run.input().tier.as_str(), &detail).await.map_err(retried)?;
    change.commit().await.map_err(retried)
}
