//! Tags: the beginnings of keys, and for each the kind of its values, the
//! backend that keeps them, and the bounds. The longest tag with which a key
//! begins is the key's; there is no default one. The table is itself a value of
//! the configuration, set for the platform under [`TagTable::KEY`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::key::{ConfigKey, InvalidKey};
use crate::tag_move::TagMove;

/// What values of a tag are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// JSON that is read and changed often.
    KeyValue,
    /// JSON in a hierarchy, with versions that matter.
    Parameter,
    /// JSON that is kept sealed, and whose readers are written down.
    Secret,
    /// Large values of any type, by reference.
    Blob,
}

/// The name of a backend, for example `postgres`, `dynamodb`, `parameter-store`, `etcd`.
pub type BackendName = String;

/// The backend that keeps its values in the store, beside the log.
pub const OWN_BACKEND: &str = "postgres";

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// What values of it are.
    pub kind: Kind,
    /// Which backend keeps them.
    #[serde(default = "postgres")]
    pub backend: BackendName,
    /// The longest value, in bytes.
    pub max_bytes: usize,
    /// How many versions of a key are kept, beside those that have a label.
    #[serde(default = "hundred")]
    pub history: u32,
    /// Whether the tenants below a tenant see its values.
    #[serde(default = "yes")]
    pub inherited: bool,
    /// What keys may begin with instead.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// That another backend is to keep them, and how far that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<TagMove>,
}

fn postgres() -> BackendName {
    OWN_BACKEND.to_owned()
}

const fn hundred() -> u32 {
    100
}

const fn yes() -> bool {
    true
}

/// The key begins with no tag.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the key {key:?} begins with no tag; there are {tags}")]
pub struct UnknownTag {
    /// The key, cut to 60 characters.
    pub key: String,
    /// The tags that there are.
    pub tags: String,
}

/// A table of tags that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidTags {
    /// It cannot be read.
    #[error("the table of tags cannot be read: {0}")]
    Unreadable(String),
    /// A tag could not begin a key.
    #[error("the tag {tag:?} cannot begin a key: {rule}")]
    Prefix {
        /// Which.
        tag: String,
        /// Why not.
        rule: &'static str,
    },
    /// Two tags claim the same beginning.
    #[error("{0:?} stands twice in the table of tags")]
    Twice(String),
    /// What a tag bounds, it bounds to something that is possible.
    #[error("the tag {tag:?}: {rule}")]
    Bounds {
        /// Which.
        tag: String,
        /// What is wrong.
        rule: &'static str,
    },
}

/// The tags, by what keys begin with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TagTable(pub(crate) BTreeMap<String, Tag>);

impl Default for TagTable {
    fn default() -> Self {
        let tag = |kind, max_bytes, inherited, aliases: &[&str]| Tag {
            kind,
            backend: postgres(),
            max_bytes,
            history: hundred(),
            inherited,
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            moving: None,
        };
        Self(BTreeMap::from([
            ("tenant_config_".to_owned(), tag(Kind::KeyValue, 256 << 10, true, &["tenantconfig_"])),
            ("param_config_".to_owned(), tag(Kind::Parameter, 64 << 10, true, &["paramconfig_"])),
            ("secret_config_".to_owned(), tag(Kind::Secret, 64 << 10, false, &[])),
            ("blob_config_".to_owned(), tag(Kind::Blob, 16 << 20, true, &[])),
            ("insula_".to_owned(), tag(Kind::KeyValue, 256 << 10, true, &[])),
        ]))
    }
}

impl TagTable {
    /// The key of the platform's value that is the table.
    pub const KEY: &'static str = "insula_tags";

    /// What Insula's own keys begin with; only operators write them.
    pub const OWN: &'static str = "insula_";

    /// Reads a table. Insula's own tag is always in it.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidTags> {
        let mut table: Self =
            serde_json::from_slice(json).map_err(|error| InvalidTags::Unreadable(error.to_string()))?;
        let own = Self::default().0.remove(Self::OWN);
        table.0.extend(own.map(|own| (Self::OWN.to_owned(), own)));
        let mut seen = std::collections::BTreeSet::new();
        for (prefix, tag) in &table.0 {
            let bounds = |rule| InvalidTags::Bounds { tag: prefix.clone(), rule };
            if tag.max_bytes == 0 || tag.max_bytes > 64 << 20 {
                return Err(bounds("max_bytes is between 1 and 67108864"));
            }
            if tag.kind != Kind::Blob && tag.max_bytes > 1 << 20 {
                return Err(bounds("max_bytes is 1048576 at the most where values are not blobs"));
            }
            if tag.history == 0 || tag.history > 10_000 {
                return Err(bounds("history is between 1 and 10000"));
            }
            for beginning in std::iter::once(prefix).chain(&tag.aliases) {
                let parsed: Result<ConfigKey, InvalidKey> = beginning.parse();
                parsed.map_err(|error| InvalidTags::Prefix { tag: beginning.clone(), rule: error.rule })?;
                if !seen.insert(beginning.clone()) {
                    return Err(InvalidTags::Twice(beginning.clone()));
                }
            }
        }
        Ok(table)
    }

    /// The tag of a key: the longest with which it begins.
    ///
    /// # Errors
    /// Where there is none.
    pub fn of(&self, key: &ConfigKey) -> Result<&Tag, UnknownTag> {
        self.entry(key.as_str()).map(|(_, tag)| tag).ok_or_else(|| self.unknown(key))
    }

    /// The beginning of a key that is its tag.
    ///
    /// # Errors
    /// Where there is none.
    pub fn prefix_of(&self, key: &ConfigKey) -> Result<&str, UnknownTag> {
        self.entry(key.as_str()).map(|(prefix, _)| prefix).ok_or_else(|| self.unknown(key))
    }

    /// The key with its tag's own spelling in the place of an alias.
    ///
    /// # Errors
    /// Where the key has no tag, or becomes too long.
    pub fn canonical(&self, key: &ConfigKey) -> Result<ConfigKey, UnknownTag> {
        let text = key.as_str();
        let aliased = self
            .0
            .iter()
            .flat_map(|(prefix, tag)| tag.aliases.iter().map(move |alias| (alias, prefix)))
            .filter(|(alias, _)| text.starts_with(alias.as_str()))
            .max_by_key(|(alias, _)| alias.len());
        let own = self.entry(text).map_or(0, |(prefix, _)| prefix.len());
        match aliased {
            Some((alias, prefix)) if alias.len() > own => {
                format!("{prefix}{}", &text[alias.len()..]).parse().map_err(|_| self.unknown(key))
            }
            _ if own > 0 => Ok(key.clone()),
            _ => Err(self.unknown(key)),
        }
    }

    /// All tags, by what keys begin with.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tag)> {
        self.0.iter().map(|(prefix, tag)| (prefix.as_str(), tag))
    }

    pub(crate) fn entry(&self, key: &str) -> Option<(&str, &Tag)> {
        // Tags are few; the longest that fits is the last of those in order.
        self.iter().filter(|(prefix, _)| key.starts_with(prefix)).max_by_key(|(prefix, _)| prefix.len())
    }

    fn unknown(&self, key: &ConfigKey) -> UnknownTag {
        let tags: Vec<&str> = self.0.keys().map(String::as_str).collect();
        UnknownTag { key: key.as_str().chars().take(60).collect(), tags: tags.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ConfigKey {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_tag_wins_and_an_unknown_one_is_an_error() {
        let json = br#"{
            "tenant_config_": {"kind": "key-value", "max_bytes": 1000},
            "tenant_config_big_": {"kind": "blob", "max_bytes": 5000000, "backend": "etcd", "aliases": ["big_"]}
        }"#;
        let tags = TagTable::parse(json).unwrap();
        assert_eq!(tags.of(&key("tenant_config_a")).unwrap().kind, Kind::KeyValue);
        assert_eq!(tags.of(&key("tenant_config_big_a")).unwrap().backend, "etcd");
        assert_eq!(tags.prefix_of(&key("tenant_config_bi")).unwrap(), "tenant_config_");
        assert_eq!(tags.canonical(&key("big_a")).unwrap(), key("tenant_config_big_a"));
        assert_eq!(tags.of(&key("insula_tags")).unwrap().kind, Kind::KeyValue, "it is always there");
        let unknown = tags.of(&key("tenant_conf")).unwrap_err();
        assert!(unknown.to_string().contains("insula_, tenant_config_, tenant_config_big_"), "{unknown}");
    }

    #[test]
    fn both_spellings_are_one_key() {
        let tags = TagTable::default();
        assert_eq!(tags.canonical(&key("tenantconfig_x")).unwrap(), key("tenant_config_x"));
        assert_eq!(tags.canonical(&key("paramconfig_a/b")).unwrap(), key("param_config_a/b"));
        assert_eq!(tags.canonical(&key("tenant_config_x")).unwrap(), key("tenant_config_x"));
        assert!(tags.canonical(&key("other_x")).is_err());
        let written = serde_json::to_vec(&tags).unwrap();
        assert_eq!(TagTable::parse(&written).unwrap(), tags);
    }

    #[test]
    fn a_table_that_cannot_be_used_is_refused() {
        for (json, said) in [
            ("[]", "cannot be read"),
            (r#"{"a": {"kind": "other", "max_bytes": 1}}"#, "cannot be read"),
            (r#"{"a": {"kind": "secret", "max_bytes": 1, "x": 1}}"#, "cannot be read"),
            (r#"{"a": {"kind": "secret", "max_bytes": 0}}"#, "between 1 and"),
            (r#"{"a": {"kind": "secret", "max_bytes": 2000000}}"#, "1048576"),
            (r#"{"a": {"kind": "secret", "max_bytes": 1, "history": 0}}"#, "history"),
            (r#"{"a b": {"kind": "secret", "max_bytes": 1}}"#, "cannot begin a key"),
            (r#"{"a": {"kind": "secret", "max_bytes": 1, "aliases": ["a"]}}"#, "twice"),
        ] {
            let refused = TagTable::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(said), "{json}: {refused}");
        }
    }
}
