//! Changing a tenant: its name, its residency, its tier within one isolation
//! model, its place in the tree.

use std::time::Duration;

use insula_api::UpdateTenant;
use insula_catalog::{Author, Change, TenantRecord};
use insula_domain::{OperationId, TenantId, TenantStatus, may_reside};
use insula_problem::{Code, Problem};
use serde_json::json;

use super::create::{check_name, check_parent, find_group, find_tier, sentence};
use super::find::find;
use crate::Control;
use crate::workflows::own_objects::of_tenant_kind;
use crate::workflows::suspend::TenantInput;

/// How long the caller waits for the tenant's new rights. They come in any case.
const SETTLED: Duration = Duration::from_secs(10);

/// Changes a tenant, where it still is as the caller saw it (`revision`).
///
/// # Errors
/// For everything that is wrong with the request; nothing is changed then.
pub async fn update(
    control: &Control,
    author: Author,
    slug_or_id: &str,
    request: &UpdateTenant,
    revision: Option<i64>,
) -> Result<TenantRecord, Problem> {
    let mut client = control.catalog.client().await?;
    let seen = find(&client, slug_or_id).await?;
    let regions = client.regions().await?;
    let residency = match &request.residency {
        Some(group) => find_group(&regions, group)?,
        None => seen.residency.clone(),
    };
    let region = regions.iter().find(|region| region.name == seen.region);
    let groups = region.map(|region| region.groups.clone()).unwrap_or_default();
    may_reside(&residency, &seen.region, &groups)
        .map_err(|error| Problem::new(Code::ResidencyViolation, sentence(&error.to_string())))?;
    let tier = match &request.tier {
        Some(tier) => Some(find_tier(&client, tier).await?),
        None => None,
    };
    let name = request.name.clone().unwrap_or_else(|| seen.name.clone());
    check_name(&name)?;
    let parent = match request.parent.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(parent) => Some(Some(find(&client, parent).await?.id)),
    };

    let change = client.change(author).await?;
    let tenant =
        change.lock_tenant(seen.id).await?.ok_or_else(|| Problem::internal("a tenant that is gone"))?;
    if revision.is_some_and(|revision| revision != tenant.revision) {
        return Err(Problem::new(Code::PreconditionFailed, "The tenant has changed since it was read."));
    }
    if matches!(tenant.status, TenantStatus::Deleting | TenantStatus::Deleted) {
        return Err(Problem::new(Code::TenantStatusConflict, format!("The tenant is {}.", tenant.status)));
    }
    let goes_elsewhere =
        residency != tenant.residency || tier.as_ref().is_some_and(|tier| tier.name != tenant.tier);
    if goes_elsewhere && let Some(open) = change.open_move(tenant.id).await? {
        return Err(Problem::new(
            Code::MoveOpen,
            format!(
                "The residency and the tier of {} are part of the move {}. Complete it, roll it back or cancel it \
                 first: insula move show {}.",
                tenant.slug, open.id, open.id
            ),
        ));
    }
    if let Some(tier) = &tier
        && tenant.isolation.is_some_and(|isolation| isolation != tier.isolation)
    {
        return Err(Problem::new(
            Code::MoveNotSupported,
            format!(
                "The tier {} has the isolation model {}: insula tenant move {} --tier {} brings the tenant there.",
                tier.name, tier.isolation, tenant.slug, tier.name
            ),
        ));
    }
    if let Some(parent) = parent {
        set_parent(&change, &tenant, parent).await?;
    }
    let may_own = tier.as_ref().map_or(tenant.tier_own_objects, |tier| tier.own_objects);
    let tier_name = tier.map_or_else(|| tenant.tier.clone(), |tier| tier.name);
    change.set_tenant_profile(tenant.id, &name, &residency, &tier_name).await?;
    let detail = json!({
        "name_changed": name != tenant.name,
        "residency": {"from": tenant.residency, "to": residency},
        "tier": {"from": tenant.tier, "to": tier_name},
        "parent_changed": parent.is_some(),
    });
    change.audit("tenant.update", Some(tenant.id), tenant.slug.as_str(), &detail).await?;
    let operation = match may_own == tenant.tier_own_objects {
        true => None,
        false => Some(settle_own_objects(control, &change, &tenant).await?),
    };
    change.commit().await?;
    if let Some(operation) = operation {
        control.operations.wake();
        control.operations.wait(operation, SETTLED, None).await?;
    }
    client.tenant(seen.id).await?.ok_or_else(|| Problem::internal("a tenant that is gone"))
}

/// Starts the operation that brings the right to objects of the tenant's own
/// to where it is.
async fn settle_own_objects(
    control: &Control,
    change: &Change<'_>,
    tenant: &TenantRecord,
) -> Result<OperationId, Problem> {
    let id = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let input = TenantInput { tenant: tenant.id };
    let run = of_tenant_kind().new_run(id, tenant.id.to_string(), &input, change.at());
    control.operations.start(change, run).await?;
    Ok(id)
}

async fn set_parent(
    change: &Change<'_>,
    tenant: &TenantRecord,
    parent: Option<TenantId>,
) -> Result<(), Problem> {
    if let Some(parent) = parent {
        check_parent(change, parent).await?;
        if parent == tenant.id || change.ancestors(parent).await?.contains(&tenant.id) {
            return Err(Problem::new(
                Code::ParentCycle,
                format!("The tenant {} would become its own ancestor.", tenant.slug),
            )
            .at("/parent", "a cycle"));
        }
    }
    change.set_parent(tenant.id, parent).await
}
