//! Finding a tenant by what a caller wrote: a slug or an id.

use insula_api::Tenant;
use insula_catalog::{CatalogClient, TenantRecord};
use insula_domain::{Slug, TenantId, TenantStatus};
use insula_problem::{Code, Problem};

/// The tenant by slug or id; also one that is deleted, by its id.
///
/// # Errors
/// `tenant_not_found` where there is none.
pub async fn find(client: &CatalogClient, slug_or_id: &str) -> Result<TenantRecord, Problem> {
    let found = if let Ok(id) = slug_or_id.parse::<TenantId>() {
        client.tenant(id).await?
    } else if let Ok(slug) = slug_or_id.parse::<Slug>() {
        client.tenant_by_slug(&slug).await?
    } else {
        None
    };
    found.ok_or_else(|| {
        let shown: String = slug_or_id.chars().take(60).collect();
        Problem::new(Code::TenantNotFound, format!("There is no tenant {shown}."))
    })
}

/// The tenant as the API shows it.
#[must_use]
pub fn shown(record: TenantRecord) -> Tenant {
    let placement = record.placement.filter(|_| record.status != TenantStatus::Deleted);
    Tenant {
        id: record.id,
        slug: record.slug,
        name: record.name,
        parent: record.parent.map(|(_, slug)| slug),
        tier: record.tier,
        region: record.region,
        residency: record.residency,
        status: record.status,
        schema_version: record.schema_version,
        placement,
        created_at: record.created_at,
        purge_at: record.purge_at,
    }
}
