//! Keys and prefixes of keys. A key is a path in plain text: words of any
//! script, with `_`, `-`, `.` and `/` between them as its author likes.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest key, in bytes: what every backend can hold beside a tenant's id.
pub const KEY_BYTES_MAX: usize = 512;

/// The text is not a valid key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the key {shown:?} is not valid: {rule}")]
pub struct InvalidKey {
    /// The rule that it breaks, in words.
    pub rule: &'static str,
    /// The text, cut to 60 characters.
    pub shown: String,
}

fn broken_rule(text: &str, is_prefix: bool) -> Option<&'static str> {
    if text.is_empty() && !is_prefix {
        return Some("it has at least one character");
    }
    if text.len() > KEY_BYTES_MAX {
        return Some("it has 512 bytes at the most");
    }
    if text.chars().any(|character| character.is_control() || character.is_whitespace()) {
        return Some("it has no white space and no control characters");
    }
    let mut parts = text.split('/').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        if part.is_empty() && !(is_prefix && is_last) {
            return Some("between slashes, before the first and behind the last there is something");
        }
        if part == "." || part == ".." {
            return Some("a part is not . or ..");
        }
    }
    None
}

fn checked(text: &str, is_prefix: bool) -> Result<String, InvalidKey> {
    match broken_rule(text, is_prefix) {
        None => Ok(text.to_owned()),
        Some(rule) => Err(InvalidKey { rule, shown: text.chars().take(60).collect() }),
    }
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $is_prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidKey;

            fn from_str(text: &str) -> Result<Self, InvalidKey> {
                checked(text, $is_prefix).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidKey;

            fn try_from(text: String) -> Result<Self, InvalidKey> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text! {
    /// The key of a value, for example `tenant_config_theme/colour`.
    ConfigKey, false
}
text! {
    /// What keys begin with; the empty one is what all do.
    KeyPrefix, true
}

impl KeyPrefix {
    /// Whether the key begins with this.
    #[must_use]
    pub fn covers(&self, key: &ConfigKey) -> bool {
        key.as_str().starts_with(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_in_any_script() {
        for key in
            ["a", "tenant_config_theme", "param_config_db/pool.size", "tenant_config_größe/日本", "a.b..c"]
        {
            let parsed: ConfigKey = key.parse().unwrap();
            assert_eq!(parsed.to_string(), key);
            assert!("".parse::<KeyPrefix>().unwrap().covers(&parsed));
        }
        let longest = "k".repeat(KEY_BYTES_MAX);
        assert!(longest.parse::<ConfigKey>().is_ok());
        let long = "k".repeat(2_000);
        for key in ["", "/a", "a/", "a//b", "a/../b", ".", "a b", "a\nb", "a\0", "\u{a0}", &long] {
            let refused = key.parse::<ConfigKey>().unwrap_err();
            assert!(refused.shown.len() <= 240, "{refused}");
        }
    }

    #[test]
    fn a_prefix_may_end_in_a_slash_or_in_the_middle_of_a_word() {
        let prefix: KeyPrefix = "tenant_config_theme/".parse().unwrap();
        assert!(prefix.covers(&"tenant_config_theme/colour".parse().unwrap()));
        assert!(!prefix.covers(&"tenant_config_theme".parse().unwrap()));
        assert!("tenant_con".parse::<KeyPrefix>().unwrap().covers(&"tenant_config_x".parse().unwrap()));
        assert!("a//".parse::<KeyPrefix>().is_err());
    }
}
