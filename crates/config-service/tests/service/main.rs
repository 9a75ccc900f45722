//! The service on real PostgreSQL, asked by a real gRPC client.

// These functions are for tests, and fail as tests do.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod backends;
mod bounds;
mod doors;
mod flags;
mod gated;
mod health;
mod isolation;
mod long;
mod open;
mod reads;
mod rollouts;
mod support;
mod tag_moves;
mod watches;
