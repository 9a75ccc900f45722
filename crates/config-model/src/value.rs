//! Values: JSON documents, secrets and references to large ones. A secret shows
//! itself to nobody by accident.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;
use zeroize::Zeroizing;

/// A large value, by what it contains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// SHA-256 of the bytes, in hexadecimal digits.
    pub sha256: String,
    /// How many bytes.
    pub bytes: i64,
    /// The media type that its author gave, for example `image/png`.
    pub media_type: String,
}

/// A value.
#[derive(Clone, PartialEq)]
pub enum ConfigValue {
    /// A JSON document, as compact text.
    Json(Bytes),
    /// A JSON document that is kept sealed and shown to those alone who may see it.
    Secret(Zeroizing<Vec<u8>>),
    /// A secret as it is kept: an envelope that opens where it is stored alone.
    Sealed(Bytes),
    /// A large one, which is fetched apart.
    Blob(BlobRef),
}

impl fmt::Debug for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(text) => write!(f, "Json({})", String::from_utf8_lossy(text)),
            Self::Secret(_) => f.write_str("Secret(…)"),
            Self::Sealed(_) => f.write_str("Sealed(…)"),
            Self::Blob(blob) => blob.fmt(f),
        }
    }
}

/// The text is no value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ValueRefused {
    /// Not JSON.
    #[error("the value is not JSON: {0}")]
    NotJson(String),
    /// Longer than its tag allows.
    #[error("the value has {bytes} bytes, and the tag {tag} allows {max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The longest that is allowed.
        max: usize,
        /// By which tag.
        tag: String,
    },
    /// JSON with more levels than parsers can be relied on to follow.
    #[error("the value has more than 128 levels")]
    TooDeep,
}

/// The compact text of a JSON document; the order of members and the digits of
/// numbers stay.
///
/// # Errors
/// Where it is not one.
pub fn compact_json(text: &[u8]) -> Result<Bytes, ValueRefused> {
    let not_json = |error: serde_json::Error| ValueRefused::NotJson(error.to_string());
    let text = std::str::from_utf8(text).map_err(|error| ValueRefused::NotJson(error.to_string()))?;
    // Read as a document first: a raw value alone may be nested without an end.
    serde_json::from_str::<serde_json::Value>(text).map_err(|error| {
        if error.to_string().contains("recursion limit") { ValueRefused::TooDeep } else { not_json(error) }
    })?;
    let raw: &RawValue = serde_json::from_str(text).map_err(not_json)?;
    Ok(Bytes::from(without_space(raw.get())))
}

/// What a text means that others have written where values are: itself where it
/// is JSON, and else a JSON string of it, as other programs keep plain words.
#[must_use]
pub fn meaning(text: &[u8]) -> Bytes {
    compact_json(text).unwrap_or_else(|_| {
        let word = serde_json::Value::String(String::from_utf8_lossy(text).into_owned());
        Bytes::from(word.to_string())
    })
}

/// What a sealed secret begins with where a backend keeps text.
const SEALED: &str = "\"sealed:";

/// A secret's envelope, in letters, as text for a backend.
#[must_use]
pub fn sealed_text(letters: &str) -> String {
    format!("{SEALED}{letters}\"")
}

/// The letters of a secret's envelope; none where the text is no sealed secret.
#[must_use]
pub fn sealed_letters(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text).ok()?.strip_prefix(SEALED)?.strip_suffix('"')
}

/// JSON without the white space outside its strings.
fn without_space(json: &str) -> String {
    let (mut compact, mut in_string, mut escaped) = (String::with_capacity(json.len()), false, false);
    for character in json.chars() {
        match (in_string, character) {
            (false, ' ' | '\t' | '\n' | '\r') => continue,
            (false, '"') => in_string = true,
            (true, '"') if !escaped => in_string = false,
            _ => {}
        }
        escaped = in_string && character == '\\' && !escaped;
        compact.push(character);
    }
    compact
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compact(text: &str) -> Result<String, ValueRefused> {
        compact_json(text.as_bytes()).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn json_is_kept_as_it_is_but_for_the_space() {
        let text = " { \"b\" : [ 1.50, 1e300, \"a \\\" \\\\\" , \"x\" ] ,\n\"a\": \"\u{1f3db}\" } ";
        assert_eq!(compact(text).unwrap(), "{\"b\":[1.50,1e300,\"a \\\" \\\\\",\"x\"],\"a\":\"\u{1f3db}\"}");
        assert_eq!(compact("null").unwrap(), "null");
        for text in ["", "{", "{a:1}", "1 2", "NaN", "1e400", "'a'"] {
            assert!(matches!(compact(text), Err(ValueRefused::NotJson(_))), "{text}");
        }
        assert!(compact_json(&[0xff, b'1']).is_err());
        assert_eq!(compact(&format!("{}{}", "[".repeat(500), "]".repeat(500))), Err(ValueRefused::TooDeep));
    }

    #[test]
    fn what_others_write_is_json_or_a_word() {
        let meaning = |text: &[u8]| String::from_utf8(meaning(text).to_vec()).unwrap();
        assert_eq!(meaning(b"{ \"a\": 1 }"), "{\"a\":1}");
        assert_eq!(meaning(b"30"), "30");
        assert_eq!(meaning("grün \"x\"\n".as_bytes()), "\"grün \\\"x\\\"\\n\"");
        assert_eq!(meaning(&[0xff]), "\"\u{fffd}\"");
        assert_eq!(sealed_letters(sealed_text("QUJD").as_bytes()), Some("QUJD"));
        assert_eq!(sealed_letters(b"\"open\""), None);
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret = ConfigValue::Secret(Zeroizing::new(b"\"hunter2\"".to_vec()));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
