//! Values as types of the application's. What is wrong with one is said with
//! its key and version, and never with a word of a secret.

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::value::{Content, Value};

/// The longest text on what is wrong with a value, in bytes.
pub(crate) const REASON_BYTES_MAX: usize = 500;

/// Why a value cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// There is none, or none that was not rejected.
    #[error("there is no value for the key {key}")]
    Missing {
        /// The key.
        key: String,
    },
    /// It is not what the application reads it as.
    #[error("version {version} of {key}, set for {scope}, does not fit: {reason}")]
    Unfit {
        /// The key.
        key: String,
        /// Where it is set.
        scope: String,
        /// Its version there.
        version: i64,
        /// What is wrong, cut to 500 bytes; of a secret only where.
        reason: String,
    },
    /// It is a secret, and the client has not asked for secrets in clear.
    #[error("{key} is a secret, and the client does not ask for secrets in clear")]
    Sealed {
        /// The key.
        key: String,
    },
    /// It is a large value, which has to be fetched.
    #[error("{key} is a large value, which is fetched apart")]
    Large {
        /// The key.
        key: String,
    },
}

/// A text of others, cut.
pub(crate) fn cut(text: &str) -> &str {
    let end = (0..=REASON_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

pub(crate) fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, ReadError> {
    let unfit = |reason: &str| ReadError::Unfit {
        key: value.key.to_string(),
        scope: value.scope.to_string(),
        version: value.version,
        reason: cut(reason).to_owned(),
    };
    match &value.content {
        Content::Json(text) => serde_json::from_str(text).map_err(|error| unfit(&error.to_string())),
        Content::Secret(text) => serde_json::from_str(text)
            .map_err(|error| unfit(&format!("a secret, at line {} column {}", error.line(), error.column()))),
        Content::Large(_) => Err(ReadError::Large { key: value.key.to_string() }),
        Content::Sealed => Err(ReadError::Sealed { key: value.key.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(content: Content) -> Value {
        Value { key: "k/x".into(), scope: "platform".into(), version: 7, revision: 9, content }
    }

    #[test]
    fn an_error_names_the_key_and_the_version() {
        let text = parse::<u32>(&value(Content::Json("\"blue\"".into()))).unwrap_err().to_string();
        assert!(text.contains("version 7 of k/x, set for platform"), "{text}");
        assert!(text.contains("blue"), "{text}");
        assert_eq!(parse::<u32>(&value(Content::Json("12".into()))), Ok(12));
    }

    #[test]
    fn an_error_says_nothing_of_a_secret() {
        let secret = value(Content::Secret("\"hunter2\"".to_owned().into()));
        let error = parse::<u32>(&secret).unwrap_err();
        assert!(error.to_string().contains("k/x") && !format!("{error:?}{secret:?}").contains("hunter"));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = "ü".repeat(REASON_BYTES_MAX);
        assert_eq!(cut(&long).len(), REASON_BYTES_MAX);
        assert_eq!(cut(&format!("a{long}")).len(), REASON_BYTES_MAX - 1);
        assert_eq!(cut("short"), "short");
    }
}
