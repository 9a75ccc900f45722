//! The body of an error: RFC 9457, with the extension members `code`,
//! `request_id` and `errors`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of a [`ProblemBody`] (RFC 9457 §3).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// One part of the request that is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldProblem {
    /// Where in the request body: a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
}

/// The body of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemBody {
    /// The page that explains the code.
    pub r#type: String,
    /// The same few words for every problem of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// The stable code.
    pub code: String,
    /// The id under which the log knows the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The parts of the request that are at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
}
