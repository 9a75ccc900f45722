//! The servers against real PostgreSQL: how they live, what goes wrong, and
//! what is left when whoever started them is killed.

// A test program: its helpers fail as tests do.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod group;
mod life;
mod parent;
mod support;
mod trouble;
