//! What a process does: any set of roles.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Roles that later versions have, so that their names are answered clearly.
const NOT_YET: [&str; 1] = ["gateway"];

/// A role of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The admin API over HTTP.
    Control,
    /// The PostgreSQL front.
    PgProxy,
    /// Carries out the durable workflows.
    Worker,
    /// The configuration service over gRPC.
    Config,
}

impl Role {
    /// Every role that this version has.
    pub const ALL: [Self; 4] = [Self::Control, Self::PgProxy, Self::Worker, Self::Config];

    /// The word as it stands in the settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::PgProxy => "pg-proxy",
            Self::Worker => "worker",
            Self::Config => "config",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word is no role of this version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnknownRole {
    /// A role that is planned and not there.
    #[error("this version of Insula has no role {0} yet; it has control, pg-proxy, worker, config")]
    NotYet(String),
    /// No role at all.
    #[error("there is no role {0:?}; there are control, pg-proxy, worker, config")]
    Unknown(String),
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(role) = Self::ALL.into_iter().find(|role| role.as_str() == text) {
            return Ok(role);
        }
        let shown: String = text.chars().take(40).collect();
        Err(if NOT_YET.contains(&text) { UnknownRole::NotYet(shown) } else { UnknownRole::Unknown(shown) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_read_back_and_what_is_not_there_yet_is_said() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert_eq!("gateway".parse::<Role>(), Err(UnknownRole::NotYet("gateway".into())));
        assert_eq!("Control".parse::<Role>(), Err(UnknownRole::Unknown("Control".into())));
        let listed = Role::ALL.map(Role::as_str).join(", ");
        for refused in ["gateway", "x"] {
            let text = refused.parse::<Role>().unwrap_err().to_string();
            assert!(text.contains(&listed), "{text}");
        }
    }
}
