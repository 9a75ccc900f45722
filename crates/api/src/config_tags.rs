//! Where the tags of the configuration are kept.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// To which backend a tag is moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveConfigTag {
    /// The name of the backend.
    pub to: String,
}

/// Where a tag is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigTagPlace {
    /// What keys begin with.
    pub tag: String,
    /// The backend that keeps their values.
    pub backend: String,
    /// `ready`; `carrying` and `held` while it is moved, `failed` where that has
    /// ended, `unreachable` where the backend does not answer.
    pub state: String,
    /// To which backend it is moved, or was to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The stores whose values are still to be brought before the next state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// Why its move has ended, or began again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// Since when it is in this state of its move.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
}

/// What was done with events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigEventsTaken {
    /// Keys that were looked at.
    pub looked_at: usize,
    /// Events of what is no key of ours, or is kept elsewhere.
    pub ignored: usize,
}
