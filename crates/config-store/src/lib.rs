//! The only SQL on configuration: values with their versions and labels, the
//! log of changes, secrets, large values, and what of them moves with a tenant.
//! The same tables are in each region store (what its tenants have, and a copy
//! of what the provider has) and in the catalog (what the provider has).
//!
//! Every write locks one row, the clock, and gets its revisions from it: they
//! are committed in their order, so that whoever reads the log behind its last
//! revision misses none.

mod blobs;
mod clients;
mod decide;
mod held;
mod homes;
mod line;
mod log;
mod mirror;
mod notice;
mod provider;
mod quick;
mod read;
mod reads;
mod rekey;
mod requests;
mod rollouts;
mod room;
mod rows;
mod said;
mod secrets;
mod state;
mod text;
mod tidy;
mod transfer;
mod usage;
mod writer;

use std::sync::Arc;

use insula_credentials::MasterKeys;
use insula_domain::{Clock, Entropy};
use insula_sql_store::{Connector, Store};

use line::{Lines, Pace};

pub use blobs::CHUNK_BYTES;
pub use clients::{ClientRun, Run, VersionRuns, Word};
pub use decide::{is_by_old_schemas, is_by_old_tags};
pub use held::Since;
pub use homes::{Home, HomeState, Leaving, begin_leaving, expect_home, open_home, remove_left};
pub use log::{Log, LogChange, LogRow, Touched};
pub use mirror::{Mirror, backend_text};
pub use provider::Replicator;
pub use read::{Clocks, HistoryPage, KeyLayers, Layers, ListPage, Snapshot};
pub use reads::SecretRead;
pub use rekey::Resealed;
pub use said::{OneVersion, Saying, Says};
pub use tidy::Retention;
pub use usage::Quota;
pub use writer::{Hears, Next, Plan, Writer};

/// The tables, as a migration of a region store and of the catalog.
pub const TABLES: &str = include_str!("../migrations/config.sql");

/// What bounds the tables, as a later migration of both.
pub const BOUNDS: &str = include_str!("../migrations/config_bounds.sql");
/// What finds the rollouts that are under way, as a migration of the catalog.
pub const ROLLOUTS: &str = include_str!("../migrations/rollouts.sql");

/// The same, and what clients of tenants say, as a migration of region stores.
pub const ROLLOUTS_AND_CLIENTS: &str =
    concat!(include_str!("../migrations/rollouts.sql"), "\n", include_str!("../migrations/clients.sql"));

/// What finds and bounds what clients say, as a later migration of region stores.
pub const WORDS: &str = include_str!("../migrations/config_words.sql");

/// On which a store says, as decimal digits, up to which revision there are
/// changes: a wake-up, which may be lost.
pub const CHANNEL: &str = "insula_config";

/// What a store needs beside its tables.
#[derive(Clone, Debug)]
pub struct Ambient {
    /// With which secrets are sealed.
    pub keys: Arc<MasterKeys>,
    /// The time of versions.
    pub clock: Arc<dyn Clock>,
    /// For the keys of secrets.
    pub entropy: Arc<dyn Entropy>,
}

/// The configuration of one region, or of the provider. Clones are the same.
#[derive(Clone, Debug)]
pub struct ConfigStore {
    store: Store,
    connector: Connector,
    /// On which values are read for those who wait.
    lines: Arc<Lines>,
    /// For the log alone: whoever follows it does not stand behind large pages.
    following: Arc<Lines>,
    /// For large values, and all that a scope has.
    large: Arc<Lines>,
    /// For what goes on beside the calls.
    chores: Arc<Lines>,
    ambient: Ambient,
    quota: Quota,
}

impl ConfigStore {
    /// The tables behind a connector: [`Store::Region`] has what tenants have,
    /// [`Store::Catalog`] what the provider has. Nothing is opened yet.
    #[must_use]
    pub fn new(store: Store, connector: Connector, ambient: Ambient) -> Self {
        let lines = |pace, count| Arc::new(Lines::new(store, connector.clone(), pace, count));
        let (following, large) = (lines(Pace::Brisk, 1), lines(Pace::Brisk, 2));
        let (chores, lines) = (lines(Pace::Patient, 2), lines(Pace::Brisk, 3));
        Self { store, connector, lines, following, large, chores, ambient, quota: Quota::default() }
    }

    /// The same, where each scope may have so much.
    #[must_use]
    pub fn with_quota(self, quota: Quota) -> Self {
        Self { quota, ..self }
    }

    /// The way to open a connection, to listen on.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }
}
