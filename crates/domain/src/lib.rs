//! The words of Insula as types: ids, slugs, tiers, placements, epochs, the
//! residency rule, plan arithmetic and the choice of a cluster. Pure: nothing
//! here reads a clock, a socket or a file, except the two ambient sources in
//! [`ambient`], which everything else takes as arguments.

mod address;
pub mod ambient;
mod app_tables;
mod capacity;
mod ids;
mod isolation;
mod moves;
mod names;
mod own_objects;
mod placement;
mod plan;
mod pool_mode;
mod region;
mod rollout;
mod tenant;
mod text;
mod tier;

pub use address::Address;
pub use ambient::{Clock, Entropy, OsEntropy, SystemClock};
pub use app_tables::AppTables;
pub use capacity::{ClusterRoom, NoCluster, choose_cluster};
pub use ids::{ApiKeyId, LoginId, OperationId, SchemaVersion, TenantId};
pub use isolation::{Isolation, UnknownIsolation};
pub use moves::{
    Comparison, EstimatedFrom, LongTransactions, MoveEnd, MovePace, MovePhase, MoveProgress, MoveStatus,
    MoveTerms, UnknownMoveStatus, WayBack,
};
pub use names::{DatabaseName, RoleName, SchemaName};
pub use own_objects::{OwnObject, in_the_way};
pub use placement::{Epoch, Placement};
pub use plan::{DatabaseTerms, Plan};
pub use pool_mode::{PoolMode, UnknownPoolMode};
pub use region::{ResidencyViolation, may_reside};
pub use rollout::{
    BehindTenant, Planned, RolloutPlacementStatus, RolloutStatus, UnknownRolloutStatus, plan_waves,
};
pub use tenant::{StatusChangeRefused, TenantStatus};
pub use text::{ClusterName, InvalidName, LoginName, PlanName, RegionGroup, RegionName, Slug, TierName};
pub use tier::{Tier, UserPoolKind, default_plans, default_tiers};
