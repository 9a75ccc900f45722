//! The ends of a move as what the rest of the control plane works with: the
//! tenant as if it were there, and the way to the servers.

use insula_catalog::{MoveRecord, TenantRecord};
use insula_domain::MoveEnd;
use insula_problem::Problem;
use insula_tenant_cluster::moving::Place;

use crate::Control;

/// The tenant as if it were at this end: what is done to a tenant's placement
/// is done to that one.
#[must_use]
pub fn as_if_at(tenant: &TenantRecord, end: &MoveEnd) -> TenantRecord {
    TenantRecord {
        tier: end.tier.clone(),
        region: end.region.clone(),
        placement: end.placement(tenant.id),
        isolation: Some(end.isolation),
        ..tenant.clone()
    }
}

/// The end as a place on its cluster.
///
/// # Errors
/// Where the catalog is away, or the end has no cluster (yet, or any more).
pub async fn place(control: &Control, tenant_move: &MoveRecord, end: &MoveEnd) -> Result<Place, Problem> {
    let placement = end
        .placement(tenant_move.tenant)
        .ok_or_else(|| Problem::internal("an end of a move without a cluster"))?;
    let access = control.clusters.access(&placement.cluster).await?;
    Ok(Place { access, placement, tenant: tenant_move.tenant })
}
