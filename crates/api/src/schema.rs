//! The app schema: its versions and where they are.

use insula_domain::{
    ClusterName, Isolation, OperationId, OwnObject, RolloutPlacementStatus, RolloutStatus, SchemaVersion,
    Slug,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// One file of an app schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaFile {
    /// `0001_products.sql`.
    pub name: String,
    /// Plain single-tenant SQL.
    pub sql: String,
}

/// The whole app schema, as the folder has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplySchema {
    /// All files, those that were applied before too.
    pub files: Vec<SchemaFile>,
    /// Placements of a wave, at the most: 100 where it is not given.
    #[serde(default)]
    pub wave_size: Option<u32>,
    /// Tenants that get the version first, alone: where it fails for one of
    /// them the rollout pauses.
    #[serde(default)]
    pub canaries: Vec<Slug>,
}

/// A version of the app schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SchemaVersionInfo {
    /// 1, 2, 3 …
    pub version: SchemaVersion,
    /// The file's name.
    pub name: String,
    /// SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
    /// When it was taken.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When every placement had it.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub rolled_out_at: Option<OffsetDateTime>,
}

/// The version of one placement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlacementVersion {
    /// The tenant.
    pub tenant: Slug,
    /// Its isolation model.
    pub isolation: Isolation,
    /// Its version.
    pub version: SchemaVersion,
}

/// Where the versions are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SchemaStatus {
    /// The newest version.
    pub newest: SchemaVersion,
    /// All versions, the oldest first.
    pub versions: Vec<SchemaVersionInfo>,
    /// How many placements are at the newest version.
    pub current: u32,
    /// The placements that are not.
    pub behind: Vec<PlacementVersion>,
    /// The blueprint, once it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blueprint: Option<BlueprintStatus>,
}

/// Where the blueprint is, and whether it is what the versions make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BlueprintStatus {
    /// The cluster that it is on.
    pub cluster: ClusterName,
    /// How it differed from the versions when it was last compared: after the
    /// last rollout at which nothing was left to be captured.
    pub drift: Vec<ObjectFinding>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ObjectFinding {
    /// The object, as in `table orders`.
    pub object: String,
    /// What is wrong with it.
    pub detail: String,
}

/// Asks what is to be said of an app schema before it is applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckSchema {
    /// All files, those that were applied before too.
    pub files: Vec<SchemaFile>,
}

/// What is to be said of an app schema before it is applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SchemaCheck {
    /// The files that would become new versions.
    pub new: Vec<String>,
    /// What in them breaks the application version that still runs, with file
    /// and line.
    pub warnings: Vec<String>,
}

/// Asks for the blueprint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenBlueprint {
    /// The cluster to make it on, where it is not made yet; without, the oldest
    /// cluster that tenants share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterName>,
}

/// Asks for the blueprint to be built again from the versions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RebuildBlueprint {
    /// Whether changes that were not captured may be lost.
    #[serde(default)]
    pub discard: bool,
}

/// The way to the blueprint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BlueprintUrl {
    /// The cluster that it is on.
    pub cluster: ClusterName,
    /// The URL, with the password.
    pub url: String,
}

/// Asks for the next version, made of what was done on the blueprint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CaptureSchema {
    /// What the file is called behind its number: letters, digits, `_` and `-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tables whose rows are left out.
    #[serde(default)]
    pub without_data: Vec<String>,
    /// Whether captures that were not applied are taken back and captured again.
    #[serde(default)]
    pub again: bool,
    /// Whether the file is made although something in it is refused.
    #[serde(default)]
    pub force: bool,
}

/// A version that was captured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CapturedSchema {
    /// Its number.
    pub version: SchemaVersion,
    /// The file.
    pub file: SchemaFile,
    /// What was changed or left out on the way.
    pub notes: Vec<CaptureNote>,
    /// What is refused; empty, unless it was forced.
    pub refusals: Vec<String>,
    /// What breaks the application version that still runs, with file and line.
    pub warnings: Vec<String>,
    /// How what the file makes differs from the blueprint.
    pub differences: Vec<ObjectFinding>,
}

/// Something that a capture has changed or left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CaptureNote {
    /// The statement, on one line and shortened.
    pub statement: String,
    /// What was done with it.
    pub note: String,
}

/// A version that could not be brought to a placement, and has not been since.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SchemaFailure {
    /// `pool/<cluster>` for the shared tables of a cluster, `silo/<tenant id>`.
    pub placement: String,
    /// The tenant whose tables they are; none for shared ones.
    #[serde(default)]
    pub tenant: Option<Slug>,
    /// The cluster.
    pub cluster: String,
    /// The version that failed.
    pub version: SchemaVersion,
    /// The stable code.
    pub code: String,
    /// File, line, SQLSTATE, the statement, and names; no value of any row.
    pub detail: String,
    /// When it failed last.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What PostgreSQL said, with the values of the row that does not fit. It is
    /// the tenant's data, kept in its region; none where it cannot be read.
    #[serde(default)]
    pub row: Option<String>,
}

/// What the catalog audit found on a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditFinding {
    /// The placement: a tenant's slug, or a cluster's shared tables.
    pub placement: String,
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub detail: String,
}

/// The catalog audit of the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SchemaAudit {
    /// How many placements were read: pools and silos.
    pub placements: u32,
    /// What was found.
    pub findings: Vec<AuditFinding>,
}

/// What differs between a tenant's tables and the version that it has, and what
/// it made itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TenantDrift {
    /// The tenant.
    pub tenant: Slug,
    /// Its isolation model.
    pub isolation: Isolation,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its version, with which its tables are compared.
    pub version: SchemaVersion,
    /// What is missing, changed or not expected in the app schema's tables.
    pub differences: Vec<DriftDifference>,
    /// Whether its tier lets it make objects of its own.
    pub may_own: bool,
    /// The objects that it made itself, a thousand at the most.
    pub own: Vec<OwnObject>,
    /// How many more there are.
    pub own_more: u32,
    /// Which of those listed would have no place after a move to where tenants share tables.
    pub in_the_way_of_a_pool: Vec<String>,
    /// Why it could not be read; nothing is known about it then.
    #[serde(default)]
    pub unread: Option<String>,
}

/// A difference from the version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DriftDifference {
    /// The object, as in `column orders.id`.
    pub object: String,
    /// What is different.
    pub detail: String,
}

/// A version's way over the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// Id.
    #[schema(value_type = String, format = "uuid")]
    pub id: OperationId,
    /// The version that every placement shall have.
    pub version: SchemaVersion,
    /// Where it is.
    pub status: RolloutStatus,
    /// Placements of a wave, at the most.
    pub wave_size: u32,
    /// Tenants that get the version first.
    pub canaries: Vec<Slug>,
    /// How many placements are where.
    pub placements: RolloutCounts,
    /// The operation that carries it out, or did last.
    #[schema(value_type = String, format = "uuid")]
    pub operation: OperationId,
    /// When it was begun.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it came to rest.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}

/// How many placements of a rollout are where. The shared tables of a cluster
/// are one placement, however many tenants are in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutCounts {
    /// Not begun.
    pub waiting: u32,
    /// Being brought.
    pub running: u32,
    /// They have the version.
    pub done: u32,
    /// They could not be brought.
    pub failed: u32,
}

/// A placement in a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutPlacement {
    /// `pool/<cluster>` for the shared tables of a cluster, `silo/<tenant id>`.
    pub placement: String,
    /// The tenant whose tables they are; none for shared ones.
    #[serde(default)]
    pub tenant: Option<Slug>,
    /// The cluster.
    pub cluster: ClusterName,
    /// Its wave; the canaries' is 0.
    pub wave: u32,
    /// Where it is.
    pub status: RolloutPlacementStatus,
    /// The stable code of what failed.
    #[serde(default)]
    pub code: Option<String>,
    /// What failed, in names; `insula schema failures` has the values.
    #[serde(default)]
    pub detail: Option<String>,
    /// When it was begun, last.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When it ended, last.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}
