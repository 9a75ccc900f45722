//! The app schema of the fleet: taking versions, bringing them to placements,
//! saying where they are, and proving what is there.

pub mod apply;
pub mod audit;
pub mod blueprint;
pub mod capture;
pub mod drift;
pub mod failures;
pub mod fleet;
pub mod known;
pub mod measure;
pub mod rollouts;
pub mod status;

/// The subject of rollouts: one at a time.
pub const SUBJECT: &str = "schema";
