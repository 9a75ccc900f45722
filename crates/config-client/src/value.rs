//! A value as the client has it: its own copy, so that a small one does not
//! hold on to the large message that it came in.

use std::fmt;
use std::sync::Arc;

use insula_config_proto::v1;
use zeroize::Zeroizing;

/// What a value takes beside its text, about.
pub(crate) const OVERHEAD_BYTES: usize = 256;

/// A large value, which is fetched apart ([`crate::Client::fetch`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Large {
    /// SHA-256 of the bytes, in hexadecimal digits.
    pub sha256: String,
    /// How many bytes.
    pub bytes: u64,
    /// The media type that its author gave.
    pub media_type: String,
}

/// What a value is.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// A JSON document.
    Json(Box<str>),
    /// A secret in clear, which is a JSON document too.
    Secret(Zeroizing<String>),
    /// A large value.
    Large(Large),
    /// A secret that was not asked for in clear.
    Sealed,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(text) => write!(f, "Json({text})"),
            Self::Secret(_) => f.write_str("Secret(…)"),
            Self::Large(large) => large.fmt(f),
            Self::Sealed => f.write_str("Sealed"),
        }
    }
}

/// A value that the tenant sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its key.
    pub key: Arc<str>,
    /// Where it is set: `platform`, `region/<name>`, `tier/<name>`, `tenant/<id>`.
    pub scope: Box<str>,
    /// Its version there.
    pub version: i64,
    /// The change that made it.
    pub revision: i64,
    /// What it is.
    pub content: Content,
}

impl Value {
    /// What the server says of a key; none where it says that there is nothing.
    pub(crate) fn read(entry: &v1::Entry) -> Result<Option<Self>, &'static str> {
        use v1::entry::Value as Sent;
        if entry.key.is_empty() {
            return Err("an entry has no key");
        }
        let content = match &entry.value {
            Some(Sent::Removed(_)) => return Ok(None),
            None => return Err("an entry has no value"),
            Some(Sent::Sealed(_)) => Content::Sealed,
            Some(Sent::Blob(blob)) => Content::Large(Large {
                sha256: blob.sha256.clone(),
                bytes: u64::try_from(blob.bytes).map_err(|_| "a large value has fewer than no bytes")?,
                media_type: blob.media_type.clone(),
            }),
            Some(Sent::Json(bytes)) => {
                let text = std::str::from_utf8(bytes).map_err(|_| "a value is no text")?;
                if is_secret(entry) {
                    Content::Secret(Zeroizing::new(text.to_owned()))
                } else {
                    Content::Json(text.into())
                }
            }
        };
        Ok(Some(Self {
            key: entry.key.as_str().into(),
            scope: entry.scope.as_str().into(),
            version: entry.version,
            revision: entry.revision,
            content,
        }))
    }

    /// What it takes in memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let content = match &self.content {
            Content::Json(text) => text.len(),
            Content::Secret(text) => text.len(),
            Content::Large(large) => large.sha256.len() + large.media_type.len(),
            Content::Sealed => 0,
        };
        self.key.len() + self.scope.len() + content + OVERHEAD_BYTES
    }

    /// Whether it is the very version that is here already, shown the same way.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.scope == other.scope
            && self.version == other.version
            && self.revision == other.revision
            && self.content == other.content
    }
}

/// The server says so; the usual tag of secrets is one whatever it says.
fn is_secret(entry: &v1::Entry) -> bool {
    entry.secret || entry.key.starts_with("secret_config_")
}
