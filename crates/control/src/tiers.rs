//! Adding and changing tiers.

use insula_api::TierAfterPut;
use insula_catalog::Author;
use insula_domain::{Isolation, OperationId, PlanName, Tier, TierName, UserPoolKind};
use insula_problem::{Code, Problem};
use serde_json::json;

use crate::Control;
use crate::workflows::own_objects::{TierInput, of_tier_kind, subject};

/// A tier as it shall be; its plan is there.
#[derive(Debug)]
pub struct WantedTier {
    /// Its name.
    pub name: TierName,
    /// The isolation model.
    pub isolation: Isolation,
    /// Where users are kept.
    pub user_pool: UserPoolKind,
    /// The plan.
    pub plan: PlanName,
    /// Whether tenants may make objects of their own; none: as it is.
    pub own_objects: Option<bool>,
}

/// Adds or changes a tier. Where the right to objects of one's own changes, an
/// operation brings that to the tenants.
///
/// # Errors
/// `own_objects_refused` where tenants share tables, `tier_busy` where another
/// such operation is under way.
pub async fn put(control: &Control, author: Author, wanted: WantedTier) -> Result<TierAfterPut, Problem> {
    let pooled = wanted.isolation == Isolation::Pool;
    if pooled && wanted.own_objects == Some(true) {
        return Err(Problem::new(
            Code::OwnObjectsRefused,
            format!(
                "Tenants of the tier {} share tables, and nobody makes objects there. The isolation models schema, \
                 database and cluster allow objects of a tenant's own.",
                wanted.name
            ),
        )
        .at("/own_objects", "not with the isolation model pool"));
    }
    let mut client = control.catalog.client().await?;
    let change = client.change(author).await?;
    let known = change.lock_tier(&wanted.name).await?;
    let was = known.as_ref().is_some_and(|tier| tier.own_objects);
    let tier = Tier {
        name: wanted.name,
        isolation: wanted.isolation,
        user_pool: wanted.user_pool,
        plan: wanted.plan,
        own_objects: wanted.own_objects.unwrap_or(was && !pooled),
    };
    change.put_tier(&tier).await?;
    change.audit("tier.put", None, tier.name.as_str(), &json!(tier)).await?;
    let mut operation = None;
    if known.is_some() && was != tier.own_objects {
        let id = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());
        let input = TierInput { tier: tier.name.clone() };
        let run = of_tier_kind().new_run(id, subject(&tier.name), &input, change.at());
        control.operations.start(&change, run).await?;
        operation = Some(id);
    }
    change.commit().await?;
    control.operations.wake();
    Ok(TierAfterPut { tier, operation })
}
