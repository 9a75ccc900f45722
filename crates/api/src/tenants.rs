//! Tenants and their audit.

use insula_domain::{
    Placement, RegionGroup, RegionName, SchemaVersion, Slug, TenantId, TenantStatus, TierName,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Who it is, for ever.
    pub id: TenantId,
    /// Its short name.
    pub slug: Slug,
    /// Its name for people.
    pub name: String,
    /// The slug of the tenant above it.
    pub parent: Option<Slug>,
    /// What it has bought.
    pub tier: TierName,
    /// Its home.
    pub region: RegionName,
    /// The boundary within which its data stays.
    pub residency: RegionGroup,
    /// Where it is in its life.
    pub status: TenantStatus,
    /// The app schema version of its placement.
    pub schema_version: SchemaVersion,
    /// Where its data is; none before its cluster is there, and after its deletion.
    pub placement: Option<Placement>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// While it is being deleted: until when its data is kept.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub purge_at: Option<OffsetDateTime>,
}

/// A tenant to be created. Names are texts here, so that a wrong one is
/// answered with its own code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// Its short name: a DNS label of at most 40 characters.
    #[schema(example = "acme")]
    pub slug: String,
    /// What it buys.
    #[schema(example = "free")]
    pub tier: String,
    /// Its home.
    #[schema(example = "us-east-1")]
    pub region: String,
    /// The boundary within which its data stays; the region's own group where
    /// it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<String>,
    /// The slug or id of the tenant above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Its name for people; the slug where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What to change of a tenant; what is not given stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateTenant {
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The boundary within which its data stays. It must hold the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<String>,
    /// A tier of the same isolation model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The slug or id of the tenant above it; an empty text for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// One row of the audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Grows with every entry.
    pub id: i64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who.
    pub actor: String,
    /// What, for example `tenant.create`.
    pub action: String,
    /// To which tenant.
    pub tenant_id: Option<TenantId>,
    /// To which thing, by its name.
    pub subject: String,
    /// With which values.
    pub detail: serde_json::Value,
    /// On which request.
    pub request_id: Option<String>,
}
