//! Insula's configuration in an application: a copy in memory that the service
//! keeps current by pushing, read without locks and without the network. It
//! says how fresh it is, goes on with the last good values when the service is
//! away, and reports what it has taken over.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! #[derive(serde::Deserialize)]
//! struct Theme {
//!     colour: String,
//! }
//!
//! let client = insula_config::Client::builder("https://config.example.com:7401", "isk_…")
//!     .prefix("tenant_config_")
//!     .must_fit::<Theme>("tenant_config_theme")
//!     .keep_on_disk("/var/lib/shop/config")
//!     .start()
//!     .await?;
//! client.ready(Duration::from_secs(5)).await?;
//!
//! let theme = client.typed::<Theme>("tenant_config_theme");
//! println!("{} ({:?})", theme.get()?.colour, client.freshness());
//! # Ok(())
//! # }
//! ```
//!
//! - **Keys are read in their own spelling** (`tenant_config_…`); aliases are the
//!   service's affair.
//! - **Nothing depends on the wall clock**: ages are measured with the monotonic
//!   one, and order comes from the service's revisions.
//! - **Memory is bounded** by [`Builder::memory_bytes_max`]; while a new snapshot
//!   comes in, there may be two copies.

mod acknowledge;
mod backoff;
mod builder;
mod changes;
mod client;
mod dial;
mod fetch;
mod file;
mod follow;
mod keeper;
mod read;
mod rules;
mod session;
mod shared;
mod typed;
mod value;
mod view;

pub use builder::{Builder, InvalidOptions};
pub use changes::{Change, Changes};
pub use client::{Client, NotReady};
pub use fetch::FetchError;
pub use read::ReadError;
pub use rules::Proposal;
pub use shared::{Freshness, Origin, Standing};
pub use typed::Typed;
pub use value::{Content, Large, Value};
pub use view::{Rejection, View};
