//! Limits of a tenant that Insula reads from its own configuration: set for
//! everybody, a region, a tier or one tenant, like every value.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Limits that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("limits are {{\"watchers\": N}}: {0}")]
pub struct InvalidLimits(String);

/// What a tenant may use; what is left out is bounded by the process alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Watchers of its configuration at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchers: Option<u32>,
}

impl Limits {
    /// Under which key they are set.
    pub const KEY: &'static str = "insula_limits";

    /// Reads them.
    ///
    /// # Errors
    /// Where they are none.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidLimits> {
        serde_json::from_slice(json).map_err(|error| InvalidLimits(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_under_known_names() {
        assert_eq!(Limits::parse(b"{}"), Ok(Limits::default()));
        assert_eq!(Limits::parse(br#"{"watchers":3}"#), Ok(Limits { watchers: Some(3) }));
        for json in [r#"{"watchers":-1}"#, r#"{"watchers":"3"}"#, r#"{"watcher":3}"#, "3", "null", ""] {
            assert!(Limits::parse(json.as_bytes()).is_err(), "{json}");
        }
    }
}
