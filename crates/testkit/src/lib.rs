//! What the tests of all crates share: real PostgreSQL, free ports, and a
//! clock and randomness that hold still.
//!
//! - [`postgres`] is one server for the whole test run; [`TestDatabase`] is a
//!   fresh database on it, and what nearly every test wants.
//! - [`TestServer`] is a server of the test's own, to be stopped and killed.
//! - [`Crowd`] is clients that go on whatever is killed, and [`complaints`] holds
//!   what they were told against what is there.
//! - **Roles, tablespaces and replication slots belong to the server, not to
//!   the database**: tests run at the same time on one server, so whoever
//!   makes them names them after something unique, such as a new tenant id, and
//!   never counts or lists all of them.
//! - `INSULA_TEST_PG_URL` (a superuser's URL) names a server that is there
//!   already, as the test runner sets it; `INSULA_PG_BIN` names the folder of
//!   the PostgreSQL programs to test with.

// These functions are for tests, and fail as tests do.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod author;
mod clock;
mod crowd;
mod database;
mod entropy;
mod folder;
mod ledger;
mod port;
mod postgres;
mod server;
mod url;

pub use author::{Author, Definitions};
pub use clock::ManualClock;
pub use crowd::{Crowd, LEDGER, Member, Temper, ledger_rows};
pub use database::TestDatabase;
pub use entropy::SeededEntropy;
pub use folder::passable_folder;
pub use insula_local_postgres::TcpAccess;
pub use ledger::{Complaint, Row, Story, complaints};
pub use port::unused_port;
pub use postgres::{TestPostgres, connect, installation, postgres};
pub use server::TestServer;
