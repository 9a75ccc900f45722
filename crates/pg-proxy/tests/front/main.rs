//! The front against real PostgreSQL: every test starts a front of its own
//! before a server that the run shares, with tenants of its own.

// The helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod ahead;
mod apart;
mod cancel;
mod corpus;
mod cost;
mod direct;
mod doors;
mod ending;
mod fairness;
mod faults;
mod hosts;
mod limits;
mod login;
mod memory;
mod moves;
mod places;
mod pool;
mod prepared;
mod raw;
mod relay;
mod renewal;
mod resets;
mod scope;
mod settings;
mod sharing;
mod statements;
mod strangers;
mod support;
mod tenant_metrics;
mod timeouts;
mod tls;
mod versions;
mod views;
