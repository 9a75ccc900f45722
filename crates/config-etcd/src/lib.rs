//! Values of the configuration kept in etcd, where other programs can read and
//! write them with etcd's own tools. Every version is written in one
//! transaction, on condition that nobody wrote in between. What others write
//! becomes a version of its own when somebody looks.

mod backend;
mod client;
mod keys;
mod record;
mod state;

pub use backend::EtcdBackend;
pub use client::{EtcdSettings, InvalidEndpoint};
