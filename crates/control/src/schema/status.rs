//! Where the versions are.

use insula_api::{PlacementVersion, SchemaStatus, SchemaVersionInfo};
use insula_domain::TenantStatus;
use insula_problem::Problem;

use crate::Control;

/// The published versions, the oldest first.
///
/// # Errors
/// Where the catalog is away.
pub async fn versions(control: &Control) -> Result<Vec<SchemaVersionInfo>, Problem> {
    let versions = control.catalog.client().await?.schema_versions(false).await?;
    Ok(versions
        .into_iter()
        .map(|version| SchemaVersionInfo {
            version: version.version,
            name: version.name,
            sha256: version.sha256,
            created_at: version.created_at,
            rolled_out_at: version.rolled_out_at,
        })
        .collect())
}

/// The versions and the placements that are behind.
///
/// # Errors
/// Where the catalog is away.
pub async fn status(control: &Control) -> Result<SchemaStatus, Problem> {
    let client = control.catalog.client().await?;
    let newest = client.newest_schema_version().await?;
    let tenants = client.all_tenants().await?;
    let placed = tenants
        .into_iter()
        .filter(|tenant| matches!(tenant.status, TenantStatus::Active | TenantStatus::Suspended))
        .filter_map(|tenant| {
            let isolation = tenant.isolation?;
            Some(PlacementVersion { tenant: tenant.slug, isolation, version: tenant.schema_version })
        });
    let (current, behind): (Vec<_>, Vec<_>) = placed.partition(|placement| placement.version == newest);
    Ok(SchemaStatus {
        newest,
        versions: versions(control).await?,
        current: u32::try_from(current.len()).unwrap_or(u32::MAX),
        behind,
        blueprint: super::blueprint::status(&client).await?,
    })
}
