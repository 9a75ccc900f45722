//! Moves of tenants, as operators ask for them, see them and steer them.

mod disk;
pub mod ends;
pub mod follow;
pub mod keeper;
pub mod left;
pub mod measure;
pub mod plan;
pub(crate) mod preflight;
pub mod reaper;
pub(crate) mod refusals;
pub(crate) mod remove;
pub(crate) mod seats;
pub mod show;
pub mod start;
pub mod steer;
pub mod way_back;
