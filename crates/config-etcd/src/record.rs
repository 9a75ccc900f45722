//! What is written of a version: a line of JSON that says who, when and why,
//! and behind it the value as it is.

use insula_config_model::{AUTHOR_EXTERNAL, NewVersion, Version};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;

/// What is said of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) version: Version,
    #[serde(default)]
    pub(crate) removed: bool,
    pub(crate) author: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) at: OffsetDateTime,
    #[serde(default)]
    pub(crate) note: String,
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) head: Head,
    pub(crate) value: Option<Vec<u8>>,
}

/// What is in etcd was not written by Insula.
#[derive(Debug, Error)]
#[error("what stands at {name} in etcd cannot be read: {why}")]
pub(crate) struct Unreadable {
    pub(crate) name: String,
    pub(crate) why: String,
}

impl Head {
    pub(crate) fn parse(name: &[u8], bytes: &[u8]) -> Result<Self, Unreadable> {
        serde_json::from_slice(bytes).map_err(|error| Unreadable {
            name: String::from_utf8_lossy(name).into_owned(),
            why: error.to_string(),
        })
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        // A struct of text and numbers always becomes JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Record {
    pub(crate) fn new(new: &NewVersion) -> Self {
        let head = Head {
            version: new.version,
            removed: new.value.is_none(),
            author: new.author.clone(),
            at: new.at,
            note: new.note.clone(),
        };
        Self { head, value: new.value.clone() }
    }

    /// What somebody else wrote.
    pub(crate) fn external(version: Version, value: Option<Vec<u8>>, at: OffsetDateTime) -> Self {
        let author = AUTHOR_EXTERNAL.to_owned();
        Self { head: Head { version, removed: value.is_none(), author, at, note: String::new() }, value }
    }

    pub(crate) fn parse(name: &[u8], bytes: &[u8]) -> Result<Self, Unreadable> {
        let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let head = Head::parse(name, &bytes[..line])?;
        let value = (!head.removed).then(|| bytes.get(line + 1..).unwrap_or_default().to_vec());
        Ok(Self { head, value })
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.bytes();
        if let Some(value) = &self.value {
            bytes.push(b'\n');
            bytes.extend_from_slice(value);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn records_read_back() {
        for value in [None, Some(b"{\"a\":\"b\\n\"}".to_vec()), Some(b"two\nlines".to_vec())] {
            let mut record = Record::external(7, value, datetime!(2026-03-01 09:30:15.123456 UTC));
            record.head.note = "a\nb \"c\"".to_owned();
            assert_eq!(Record::parse(b"x", &record.bytes()).unwrap(), record);
        }
        for bytes in [&b""[..], b"{}", b"null\n1", b"{\"version\":1}"] {
            assert!(Record::parse(b"x", bytes).unwrap_err().to_string().contains("at x in etcd"));
        }
    }
}
