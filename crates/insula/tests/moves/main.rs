//! Moves of living tenants, as their clients and their operators have them:
//! under load from one model to another, back again with what was written
//! since, and refused where they would lose something.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

#[path = "../common/mod.rs"]
mod common;

mod changed;
mod configuration;
mod events;
mod gone;
mod large;
mod load;
mod matrix;
mod place;
mod refused;
mod rollback;
mod sessions;
mod under_load;
