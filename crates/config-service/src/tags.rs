//! The table of tags that holds now. It is itself a value of the platform, which
//! each region's pump reads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use insula_config_model::{ConfigKey, InvalidKey, KeyPrefix, Tag, TagTable, UnknownTag, Version};
use insula_problem::{Code, Problem};
use tokio::sync::watch;

/// The table of tags. It is not known before the first region has been read.
#[derive(Debug, Default)]
pub struct Tags {
    newest: Mutex<(Version, Arc<TagTable>)>,
    is_known: AtomicBool,
    changed: watch::Sender<Version>,
}

impl Tags {
    /// The table, for those who ask: by the built-in one a secret would be kept
    /// in clear that another table has as one.
    ///
    /// # Errors
    /// `unavailable` before it is known.
    pub fn known(&self) -> Result<Arc<TagTable>, Problem> {
        if !self.is_known.load(Ordering::Acquire) {
            let detail = "The table of tags has not been read yet.";
            return Err(Problem::new(Code::Unavailable, detail).retry_after(1));
        }
        Ok(self.table())
    }

    /// The same with its version, for those who decide by it where to write.
    ///
    /// # Errors
    /// `unavailable` before it is known.
    pub fn known_version(&self) -> Result<(Version, Arc<TagTable>), Problem> {
        self.known()?;
        Ok(self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Waits for a newer version of the table than this one.
    pub async fn newer_than(&self, version: Version) {
        // The sender is ours, and so it does not end.
        let _ = self.changed.subscribe().wait_for(|newest| *newest > version).await;
    }

    /// The table; the built-in one before it is known.
    #[must_use]
    pub fn table(&self) -> Arc<TagTable> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Takes a version of the table, unless a newer one is known.
    pub fn set(&self, version: Version, table: Arc<TagTable>) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if version >= newest.0 {
            *newest = (version, table);
            self.changed.send_replace(version);
        }
        self.is_known.store(true, Ordering::Release);
    }
}

/// A key with its tag.
#[derive(Debug, Clone)]
pub struct Tagged {
    /// The key in the tag's own spelling.
    pub key: ConfigKey,
    /// What the key begins with.
    pub prefix: String,
    /// The tag.
    pub tag: Tag,
}

fn invalid_key(error: InvalidKey) -> Problem {
    Problem::new(Code::ConfigKeyInvalid, format!("{error}.")).at("/key", error.rule)
}

/// Reads a key and finds its tag.
///
/// # Errors
/// `config_key_invalid`, `config_tag_unknown`.
pub fn tagged(table: &TagTable, text: &str) -> Result<Tagged, Problem> {
    let unknown = |error: UnknownTag| {
        Problem::new(Code::ConfigTagUnknown, format!("{error}.")).at("/key", "begins with no tag")
    };
    let key: ConfigKey = text.parse().map_err(invalid_key)?;
    let key = table.canonical(&key).map_err(unknown)?;
    let tag = table.of(&key).map_err(unknown)?.clone();
    let prefix = table.prefix_of(&key).map_err(unknown)?.to_owned();
    Ok(Tagged { key, prefix, tag })
}

/// Reads a prefix of keys. A tag's alias becomes the tag.
///
/// # Errors
/// `config_key_invalid`.
pub fn prefix(table: &TagTable, text: &str) -> Result<KeyPrefix, Problem> {
    let prefix: KeyPrefix = text.parse().map_err(invalid_key)?;
    let as_key = text.trim_end_matches('/').parse::<ConfigKey>().ok();
    match as_key.and_then(|key| table.canonical(&key).ok()) {
        Some(key) if text.ends_with('/') => format!("{key}/").parse().map_err(invalid_key),
        Some(key) => key.as_str().parse().map_err(invalid_key),
        None => Ok(prefix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_was_not_read_is_not_guessed() {
        let tags = Tags::default();
        assert_eq!(tags.known().unwrap_err().code(), Code::Unavailable);
        let json = br#"{"tenant_config_credentials_": {"kind": "secret", "max_bytes": 1000}}"#;
        tags.set(3, Arc::new(TagTable::parse(json).unwrap()));
        let table = tags.known().unwrap();
        let kind = tagged(&table, "tenant_config_credentials_db").unwrap().tag.kind;
        assert_eq!(kind, insula_config_model::Kind::Secret);
    }
}
