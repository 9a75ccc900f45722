//! The right of tenants to make objects of their own: it follows the tier, and
//! is settled on the tenant's cluster whenever one of the two changes.

use insula_catalog::TenantRecord;
use insula_domain::{Isolation, TenantId, TenantStatus};
use insula_problem::Problem;
use insula_tenant_cluster::{self as cluster, Connection, OwnSpace};

use crate::Control;

/// How often a tenant is settled anew whose tier changes meanwhile.
const TRIES: u32 = 5;

/// Where a tenant has its own objects, or would have them, and a connection to
/// that database; none in a pool, or where the tenant has no placement.
///
/// # Errors
/// Where the cluster is away.
pub async fn space(
    control: &Control,
    tenant: &TenantRecord,
) -> Result<Option<(OwnSpace, Connection)>, Problem> {
    let (Some(placement), Some(own)) = (&tenant.placement, tenant.own_schema()) else { return Ok(None) };
    let access = control.clusters.access(&placement.cluster).await?;
    let client = match placement.isolation {
        Isolation::Schema => access.shared(&placement.database).await?,
        _ => access.own(&placement.database).await?,
    };
    let space = OwnSpace {
        tenant: tenant.id,
        isolation: placement.isolation,
        database: placement.database.clone(),
        app: placement.schema.clone(),
        own,
    };
    Ok(Some((space, client)))
}

/// Gives a tenant the right to objects of its own, or takes it, as its tier
/// says, and looks again afterwards whether it still says so.
///
/// # Errors
/// Where the catalog or the cluster is away.
pub async fn settle(control: &Control, tenant: TenantId) -> Result<(), Problem> {
    let mut settled = None;
    for _ in 0..TRIES {
        let found = control.catalog.client().await?.tenant(tenant).await?;
        let Some(tenant) = found.filter(|tenant| tenant.status != TenantStatus::Deleted) else {
            return Ok(());
        };
        let allowed = tenant.may_own();
        if settled == Some(allowed) {
            return Ok(());
        }
        let Some((space, client)) = space(control, &tenant).await? else { return Ok(()) };
        cluster::settle_own(&client, &space, allowed).await?;
        settled = Some(allowed);
    }
    Err(Problem::internal("a tenant's tier changes all the time"))
}
