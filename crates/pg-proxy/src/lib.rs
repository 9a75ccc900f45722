//! The PostgreSQL front: verifies who a client is, finds where the tenant's
//! data is, opens a backend as the tenant's own role, and relays. PostgreSQL
//! itself keeps tenants apart; nothing here looks into rows, and into statements
//! only as far as they are of a kind that no tenant may use.

mod account;
mod backend;
mod cancel;
mod channels;
mod config;
mod counter;
mod entrance;
mod fitting;
mod front;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod gate;
mod guard;
mod host;
mod journal;
mod link;
mod measure;
mod parameters;
mod pipeline;
mod pool;
mod prepared;
mod refusal;
mod roster;
mod scope;
mod session;
mod settings;
mod show;
mod standing;
mod tenant_metrics;
mod threads;
mod tls;
mod top;
mod views;
mod vital;
mod wire;

pub use config::PgProxyConfig;
pub use front::{Parts, PgProxy};
pub use tls::{FrontTls, NoChannelBinding};
pub use views::Ask;
