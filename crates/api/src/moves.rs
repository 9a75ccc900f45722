//! Moves of living tenants.

use insula_domain::{
    ClusterName, Comparison, LongTransactions, MoveEnd, MovePhase, MoveProgress, MoveStatus, OperationId,
    Slug, TenantId, WayBack,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::operations::{OperationError, OperationStatus, Step};

/// Where a tenant shall be moved, and on what terms. What is not given stays as
/// it is, or as it is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartMove {
    /// What it buys from then on; its isolation model where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The isolation model: pool, schema, database or cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// The region, which must be in the tenant's region group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The cluster; the one with the most room where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// How long the tenant may be held at a time, in milliseconds: 1000 where
    /// it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u32>,
    /// What is done with transactions that are open at the hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_transactions: Option<LongTransactions>,
    /// For how many seconds after the cutover the move can be rolled back: 3600
    /// where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_window_seconds: Option<u32>,
    /// The most bytes a second that are copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_bytes_per_second: Option<u64>,
}

/// A move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Move {
    /// Its id, which is that of its first operation.
    pub id: OperationId,
    /// The slug of the tenant, while it is there.
    pub tenant: Option<Slug>,
    /// Who moves.
    pub tenant_id: TenantId,
    /// Where it was.
    pub from: MoveEnd,
    /// Where it goes.
    pub to: MoveEnd,
    /// Where the move is.
    pub status: MoveStatus,
    /// What it is at.
    pub phase: MovePhase,
    /// The operation that is at work on it, or was last.
    pub operation: OperationId,
    /// Where that operation is; none where it ended long ago and is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_status: Option<OperationStatus>,
    /// The steps of that operation.
    pub steps: Vec<Step>,
    /// Rows that were copied.
    pub rows: u64,
    /// Bytes that were copied.
    pub bytes: u64,
    /// How long transactions waited at the cutover, in milliseconds: the longest
    /// wait that a front has seen.
    pub pause_ms: Option<f64>,
    /// For how long the tenant had to do with few backends around the last try at the cutover, in milliseconds.
    /// Transactions that waited for one of them meanwhile are not in `pause_ms`.
    #[serde(default)]
    pub narrowed_ms: Option<f64>,
    /// The checksum in which both ends agree.
    pub checksum: Option<String>,
    /// How it stands with the checksums of both ends.
    pub comparison: Comparison,
    /// How far it is, in more detail.
    pub progress: MoveProgress,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<OperationError>,
    /// How it stands with the way back, while the tenant is at the target and the
    /// move can be completed or rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way_back: Option<WayBack>,
    /// What was removed at its end: rows by table, schema, database, server. Under `left`, what could not be,
    /// because its server was away; it is removed when the server is back. Under `differences`, how many rows
    /// differed in the comparison, and the first 100 of them by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<serde_json::Value>,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the tenant was switched over.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub committed_at: Option<OffsetDateTime>,
    /// Until when it can be rolled back.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub window_ends_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}

/// What a move would be, without one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MovePlan {
    /// Where the tenant is.
    pub from: MoveEnd,
    /// Where it would go. Without a cluster where none has room, and before a server of its own is there.
    pub to: MoveEnd,
    /// Whether it could be begun: nothing that is known stops it.
    pub possible: bool,
    /// The steps, each with its reason.
    pub steps: Vec<PlannedStep>,
    /// Tables of the app schema.
    pub tables: u32,
    /// About how many rows.
    pub rows: u64,
    /// About how many bytes, with indexes.
    pub bytes: u64,
    /// About how many seconds until the cutover: all of the bytes are copied, and compared, at `bytes_per_second`.
    pub estimate_seconds: u64,
    /// The pace that the estimate is made with: what a small machine does, or the limit of the copy.
    pub bytes_per_second: u64,
    /// The room on the disk of the cluster that it would go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<MoveDisk>,
    /// Everything that would stop it or slow it down, what stops it first.
    pub obstacles: Vec<MoveObstacle>,
}

/// The room on the disk of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveDisk {
    /// The cluster.
    pub cluster: ClusterName,
    /// About how many bytes the tenant takes there.
    pub needed_bytes: u64,
    /// How many are free, where that can be known.
    pub free_bytes: Option<u64>,
    /// The same in a sentence; where it is not known, why, and what to do.
    pub detail: String,
}

/// A step of a move that is planned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlannedStep {
    /// What it does, in a word.
    pub name: String,
    /// Why it is there.
    pub why: String,
    /// Whether it can be taken back.
    pub reversible: bool,
}

/// Something in the way of a move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MoveObstacle {
    /// Whether the move is refused because of it.
    pub stops: bool,
    /// What kind of thing it is, for example `no_identity`: a word that stays the same. What refuses a move
    /// by a code of its own has that code.
    pub kind: String,
    /// Its name.
    pub object: String,
    /// What is wrong, and what to do.
    pub detail: String,
}
