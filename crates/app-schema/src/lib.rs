//! The app schema: an application's own tables, written by its developer as
//! plain SQL for one tenant. This crate reads the numbered files, proves that
//! they keep to a placement, and rewrites them into the form that is safe in
//! tables which tenants share. It touches neither files nor servers.
//!
//! - [`AppSchema::from_files`] reads a folder and finds what has changed.
//! - [`check`] makes a [`PlainMigration`] of a [`Migration`], or refuses it
//!   with file, line and reason. That is what silos get, unchanged.
//! - [`PoolForm::rewrite`] makes a [`PoolMigration`] of that, or refuses it.
//! - [`warnings`] tells what in a version breaks the application that runs.
//! - [`capture`] makes the text of a migration of what a tool has done.

mod body;
mod builtins;
pub mod capture;
mod concurrent;
mod facts;
mod folder;
mod names;
mod plain;
mod pool;
mod refusal;
mod source;
mod syntax;
mod tokens;
mod warnings;

// Named for the feature that Cargo.toml asks of it: trees may be nested deeply.
use prost as _;

pub use builtins::{EXTENSIONS, TABLE_FREE};
pub use concurrent::{ConcurrentIndex, concurrent_index};
pub use folder::{
    AppSchema, AppliedVersion, FolderError, HistoryError, MAX_FILE_BYTES, MAX_TOTAL_BYTES, MAX_VERSION,
    Migration,
};
pub use plain::{PlainMigration, StatementPlace, check, check_all};
pub use pool::{
    EXTENSION_SCHEMA, Find, PINNED_SEARCH_PATH, POLICY_CHECK, POLICY_NAME, POLICY_USING, POOL_SCHEMA,
    PoolForm, PoolMigration, PoolShape, PoolStatement, RowCondition, Runs,
};
pub use refusal::{Refusal, RefusalKind, Refusals};
pub use warnings::{Warning, WarningKind, warnings};
