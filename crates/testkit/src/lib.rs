//! What the tests of all crates share: real PostgreSQL, free ports, and a
//! clock and randomness that hold still.
//!
//! - [`postgres`] is one server for the whole test run; [`TestDatabase`] is a
//!   fresh database on it, and what nearly every test wants.
//! - [`TestServer`] is a server of the test's own, to be stopped and killed.
//! - [`Crowd`] is clients that go on whatever is killed, and [`complaints`] holds
//!   what they were told against what is there.
//! - [`Bank`] is clients that must notice nothing of a move, and [`faults`] holds
//!   what they were told against the books.
//! - [`backend`] is what every backend of the configuration service must do.
//! - **Roles, tablespaces and replication slots belong to the server, not to
//!   the database**: tests run at the same time on one server, so whoever
//!   makes them names them after something unique, such as a new tenant id, and
//!   never counts or lists all of them.
//! - `INSULA_TEST_PG_URL` (a superuser's URL) names a server that is there
//!   already, and `INSULA_TEST_PG_TEMPLATES` data folders to copy, as the test
//!   runner sets them; `INSULA_PG_BIN` names the folder of the PostgreSQL
//!   programs to test with.

// These functions are for tests, and fail as tests do.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod author;
pub mod backend;
mod bank;
mod clock;
mod crowd;
mod database;
mod emulator;
mod entropy;
mod etcd;
mod folder;
mod ledger;
mod port;
mod postgres;
mod program;
mod server;
mod template;
mod url;

pub use author::{Author, Definitions};
pub use bank::{
    BANK, Bank, Books, Entry, Fault, Gap, Hours, OPENING, Opening, Told, faults, longest_gap, pauses,
    typical_gap,
};
pub use clock::ManualClock;
pub use crowd::{Crowd, LEDGER, Member, Temper, ledger_rows};
pub use database::TestDatabase;
pub use emulator::{Emulator, emulator};
pub use entropy::SeededEntropy;
pub use etcd::{etcd_url, etcdctl};
pub use folder::passable_folder;
pub use insula_local_postgres::TcpAccess;
pub use ledger::{Complaint, Row, Story, complaints};
pub use port::unused_port;
pub use postgres::{PROGRAMS, SHARED_URL, TestPostgres, connect, installation, postgres};
pub use program::TestProgram;
pub use server::TestServer;
pub use template::TEMPLATES;
