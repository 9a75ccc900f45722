//! The kit against real PostgreSQL: databases are apart and go, servers can be
//! killed, and nothing outlives the process of a test.

// A test program: its helpers fail as tests do.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod databases;
mod leavings;
mod servers;
