//! PostgreSQL servers on this machine: found, made, started, watched and
//! stopped. `insula up`, the local cluster provisioner and the tests use it.
//! How servers are stopped when their parent dies stands in
//! `docs/decisions/0003-local-servers-end-with-their-parent.md`.

mod command;
mod conf;
mod data_folder;
mod error;
mod files;
mod group;
mod hba;
mod installation;
mod launch;
mod leftovers;
mod pid_file;
mod port;
mod postmaster;
mod restarts;
mod run_as;
mod server;
mod sockets;
mod spec;
mod supervisor;
mod version;
mod watchdog;

pub use data_folder::remove;
pub use error::StartError;
pub use group::{Address, Servers};
pub use installation::{FindError, Installation, Looked, OLDEST_MAJOR, Places};
pub use port::{PortHolder, holder as port_holder};
pub use server::{Server, ServerStatus};
pub use sockets::place as socket_folder;
pub use spec::{SUPERUSER, ServerSpec, TcpAccess};
pub use version::Version;
