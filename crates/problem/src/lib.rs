//! Errors as the outside sees them: a stable code, an HTTP status, a sentence
//! for the reader, and RFC 9457 (problem details) as the body. What went wrong
//! inside is kept as the source, goes to the log, and is never shown.

mod body;
mod code;

pub use body::{FieldProblem, MEDIA_TYPE, ProblemBody};
pub use code::Code;

use std::error::Error as StdError;
use std::fmt;

/// The limit that a request ran into, for the headers `RateLimit` and
/// `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The name of the limit.
    pub policy: &'static str,
    /// How many are let through in the window.
    pub quota: u32,
    /// The window in seconds.
    pub window_seconds: u32,
}

/// An error with a public face and an internal cause.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    fields: Vec<FieldProblem>,
    retry_after_seconds: Option<u32>,
    rate_limit: Option<RateLimit>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Problem {
    /// A problem with a sentence that its reader may see.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            fields: Vec::new(),
            retry_after_seconds: None,
            rate_limit: None,
            source: None,
        }
    }

    /// What is wrong inside; the reader sees only that something is.
    #[must_use]
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Code::Internal, "Something went wrong on our side. The request id finds it in the log.")
            .caused_by(source)
    }

    /// Adds the cause, for the log alone.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds a sentence for the reader.
    #[must_use]
    pub fn adding(mut self, sentence: &str) -> Self {
        self.detail = format!("{} {sentence}", self.detail.trim_end());
        self
    }

    /// Adds a part of the request that is at fault, by JSON pointer (RFC 6901).
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.fields.push(FieldProblem { pointer: pointer.into(), detail: detail.into() });
        self
    }

    /// Adds after how many seconds another try may succeed.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// Adds the limit that was run into.
    #[must_use]
    pub fn limited_by(mut self, limit: RateLimit) -> Self {
        self.rate_limit = Some(limit);
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The sentence for the reader.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// After how many seconds another try may succeed.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.retry_after_seconds
    }

    /// The limit that was run into.
    #[must_use]
    pub fn rate_limit(&self) -> Option<RateLimit> {
        self.rate_limit
    }

    /// The body that the outside sees.
    #[must_use]
    pub fn to_body(&self, request_id: Option<String>) -> ProblemBody {
        ProblemBody {
            r#type: format!("/docs/problems/{}", self.code),
            title: self.code.title().to_owned(),
            status: self.code.status(),
            detail: self.detail.clone(),
            code: self.code.as_str().to_owned(),
            request_id,
            errors: self.fields.clone(),
        }
    }

    /// The whole chain of causes in one line, for the log.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = format!("{}: {}", self.code, self.detail);
        let mut next: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl StdError for Problem {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_in_the_chain_and_not_in_the_body() {
        let problem = Problem::internal(std::io::Error::other("password=hunter2"))
            .at("/slug", "too long")
            .retry_after(3);
        assert!(problem.chain().contains("hunter2"));
        let body = serde_json::to_string(&problem.to_body(Some("r1".into()))).unwrap();
        assert!(!body.contains("hunter2"), "{body}");
        assert!(body.contains(r#""code":"internal""#) && body.contains(r#""pointer":"/slug""#), "{body}");
    }
}
