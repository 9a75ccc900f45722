//! What keeps the values of a tag. A backend keeps versions of keys in scopes;
//! the order of changes, and who is told of them, are the region's log's, which
//! is beside it. What a backend has and the log does not is found by comparing.

use async_trait::async_trait;
use thiserror::Error;
use time::OffsetDateTime;

use crate::key::{ConfigKey, KeyPrefix};
use crate::scope::Scope;
use crate::stored::{Stored, Version};
use crate::write::{Label, Note};

/// Who wrote what was written to a backend past Insula.
pub const AUTHOR_EXTERNAL: &str = "external";

/// What stands between an author and the mark of a request. Authors have no spaces.
const MARK: &str = " #";

/// The author as a backend is told it: with a mark of the request, so that the
/// same value by the same author in another request is another write.
#[must_use]
pub fn marked(author: &str, mark: &str) -> String {
    format!("{author}{MARK}{mark}")
}

/// The author without the mark of the request.
#[must_use]
pub fn author_of(text: &str) -> &str {
    text.rsplit_once(MARK).map_or(text, |(author, _)| author)
}

/// What a backend can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendLimits {
    /// The longest value, in bytes.
    pub value_bytes_max: usize,
    /// The longest key of any script, in bytes; one that is longer may be refused.
    pub key_bytes_max: usize,
    /// The most versions that it keeps of a key; none where only the tag bounds them.
    pub versions_max: Option<u32>,
    /// The most labels on a version; none where there is no bound.
    pub labels_max: Option<u32>,
}

/// A new version, whose number its author gives.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVersion {
    /// Where.
    pub scope: Scope,
    /// Of which key.
    pub key: ConfigKey,
    /// Its number: behind all that were there when its author looked. It may
    /// leave some out, as where versions come from another backend.
    pub version: Version,
    /// The value as it is kept, always text: JSON, or a sealed secret in
    /// letters; none for a removal.
    pub value: Option<Vec<u8>>,
    /// Who writes.
    pub author: String,
    /// When.
    pub at: OffsetDateTime,
    /// What is said of it.
    pub note: Note,
}

/// Why a backend did not do something.
#[derive(Debug, Error)]
pub enum BackendFault {
    /// Another version was written in between; nothing was changed.
    #[error("the newest version is {newest}, not {expected}")]
    Conflict {
        /// The one that is there; 0 where there is none.
        newest: Version,
        /// The one that was expected.
        expected: Version,
    },
    /// There is no such version.
    #[error("there is no version {0}")]
    NoVersion(Version),
    /// It cannot hold this.
    #[error("{0}")]
    Refused(String),
    /// It cannot be reached, or has no room right now; another try may succeed.
    #[error("the backend {backend} cannot be reached")]
    Away {
        /// Which.
        backend: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// That a backend has a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Where.
    pub scope: Scope,
    /// Which.
    pub key: ConfigKey,
    /// Its newest version.
    pub version: Version,
}

/// A part of all keys that a backend has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Keys, in no order.
    pub held: Vec<Held>,
    /// Where to go on; none at the end.
    pub next: Option<String>,
}

/// Keeps values. In what it gives, `Stored::revision` is 0, and every value is
/// [`crate::ConfigValue::Json`] with the text as it was written, whatever the
/// tag makes of it.
///
/// Others may write to a backend past Insula, each with the backend's own
/// tools. What they wrote is the next version of the key, by the author
/// [`AUTHOR_EXTERNAL`], as soon as somebody looks.
#[async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// Its name, as tags give it.
    fn name(&self) -> &str;

    /// What it can hold.
    fn limits(&self) -> BackendLimits;

    /// The newest version of a key, a removal among them; none where there never was one.
    async fn newest(&self, scope: &Scope, key: &ConfigKey) -> Result<Option<Stored>, BackendFault>;

    /// One version.
    async fn version(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Option<Stored>, BackendFault>;

    /// The newest versions under a prefix in the order of their keys, removals
    /// among them, behind a key.
    async fn list(
        &self,
        scope: &Scope,
        prefix: &KeyPrefix,
        after: Option<&ConfigKey>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault>;

    /// The versions of a key before one, the newest first.
    async fn history(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault>;

    /// Writes a version, where the newest is still `expected` (0 where there is
    /// none). Repeated with the same version, value and author it changes
    /// nothing and succeeds, also when newer versions have come since.
    async fn write(&self, new: &NewVersion, expected: Version) -> Result<(), BackendFault>;

    /// Puts a label on a version and takes it from the others; with none, takes
    /// it away.
    async fn label(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        label: &Label,
        version: Option<Version>,
    ) -> Result<(), BackendFault>;

    /// Drops versions beyond the newest `keep`, those with a label excepted;
    /// how many were dropped. One that bounds the versions itself
    /// (`versions_max`) may drop fewer.
    async fn trim(&self, scope: &Scope, key: &ConfigKey, keep: u32) -> Result<u32, BackendFault>;

    /// Removes all that it has of a scope, without a trace.
    async fn forget(&self, scope: &Scope) -> Result<(), BackendFault>;

    /// The key that a name of the backend's own stands for, as events give it;
    /// none where it is not one of ours.
    fn place_of(&self, name: &str) -> Option<(Scope, ConfigKey)>;

    /// All keys that it has, removed ones among them, in parts of about
    /// `limit`. What changes meanwhile may be missed or be there twice.
    async fn sweep(&self, from: Option<&str>, limit: u32) -> Result<Sweep, BackendFault>;
}
