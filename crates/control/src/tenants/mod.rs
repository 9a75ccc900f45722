//! What operators do with tenants: each file is one act, decided and recorded
//! in one transaction of the catalog; what takes longer is a workflow's.

pub mod create;
pub mod delete;
pub mod find;
pub mod suspend;
pub mod update;
