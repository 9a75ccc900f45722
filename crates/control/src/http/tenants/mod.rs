//! The endpoints of tenants.

pub mod create;
pub mod delete;
pub mod list;
pub mod resume;
pub mod show;
pub mod suspend;
pub mod update;
