//! Who calls, and for which key of which scope; and how a problem leaves.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use insula_access::Arrival;
use insula_config_model::Version;
use insula_problem::{Code, Problem};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::caller::Caller;
use crate::service::Service;

/// A problem on its way out of a handler. The router that this one is part of
/// gives it its body.
#[derive(Debug)]
pub struct ApiError(pub Problem);

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(Arc::new(self.0));
        response
    }
}

/// What every call says.
#[derive(Debug)]
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// For which scope; empty is the caller's own.
    pub scope: String,
    /// The parts of the path.
    parts: HashMap<String, String>,
    /// Only where the newest version is this one.
    pub if_version: Option<Version>,
    /// Under which a write is done once.
    pub token: Option<String>,
    /// The id of the last event that a watcher has.
    last_event: String,
    /// The connection.
    pub arrival: Option<Arrival>,
}

#[derive(Debug, Deserialize)]
struct OfScope {
    scope: Option<String>,
}

fn invalid(detail: impl Into<String>) -> ApiError {
    ApiError(Problem::new(Code::InvalidRequest, detail))
}

impl Call {
    /// The scope of one of several writes: a path that names a tenant says it for
    /// all of them.
    pub fn scope_of(&self, own: Option<String>) -> Result<String, Problem> {
        match own {
            None => Ok(self.scope.clone()),
            Some(_) if self.parts.contains_key("tenant") => {
                let detail = "The path names the tenant, and a write its scope: one is enough.";
                Err(Problem::new(Code::InvalidRequest, detail).at("/writes", "has a scope"))
            }
            Some(own) => Ok(own),
        }
    }

    /// The key of the path.
    #[must_use]
    pub fn key(&self) -> String {
        self.part("key")
    }

    /// A part of the path.
    #[must_use]
    pub fn part(&self, name: &str) -> String {
        self.parts.get(name).cloned().unwrap_or_default()
    }

    /// The revision and the view of the last event that a watcher has.
    #[must_use]
    pub fn last_event(&self) -> (i64, String) {
        let (revision, view) = self.last_event.split_once('.').unwrap_or_default();
        revision.parse().map_or_else(|_| (0, String::new()), |revision| (revision, view.to_owned()))
    }
}

impl FromRequestParts<Arc<Service>> for Call {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, ApiError> {
        // Before all else: nobody learns anything without a credential.
        let nobody = || Problem::new(Code::Unauthenticated, "Nobody knows who calls.");
        let caller = parts.extensions.get::<Caller>().cloned().ok_or_else(nobody)?;
        let Path(found): Path<HashMap<String, String>> = Path::from_request_parts(parts, service)
            .await
            .map_err(|_| invalid("The path cannot be read."))?;
        let Query(given) = Query::<OfScope>::from_request_parts(parts, service)
            .await
            .map_err(|error| invalid(format!("The query does not fit: {}.", error.body_text())))?;
        let scope = match (found.get("tenant"), given.scope) {
            (Some(_), Some(_)) => {
                return Err(invalid("The path names the tenant, and the query a scope: one is enough."));
            }
            (Some(tenant), None) => format!("tenant/{tenant}"),
            (None, scope) => scope.unwrap_or_default(),
        };
        let if_version = condition(&parts.headers, parts.method.is_safe())?;
        let token = idempotency_key(&parts.headers)?;
        let last_event = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let last_event = last_event.unwrap_or_default().to_owned();
        let arrival = parts.extensions.get::<Arrival>().cloned();
        Ok(Self { caller, scope, parts: found, if_version, token, last_event, arrival })
    }
}

/// The condition of the headers: `If-Match: "3"` is version 3, `If-None-Match: *`
/// is no value. Who reads may have any version already, and is shown it again.
fn condition(headers: &HeaderMap, is_read: bool) -> Result<Option<Version>, ApiError> {
    let unusable = || {
        ApiError(Problem::new(Code::PreconditionFailed, "The ETag is not one of a version in this scope."))
    };
    if let Some(etag) = headers.get(IF_MATCH) {
        let version =
            etag.to_str().ok().and_then(|etag| etag.trim().trim_matches('"').parse::<Version>().ok());
        return version.filter(|version| *version > 0).map(Some).ok_or_else(unusable);
    }
    match headers.get(IF_NONE_MATCH).map(|etag| etag.as_bytes()) {
        Some(b"*") => Ok(Some(0)),
        Some(_) if !is_read => {
            let detail = "Of a write, If-None-Match is *: there is to be no value yet. \
                If-Match names the version that is to be the newest.";
            Err(invalid(detail))
        }
        _ => Ok(None),
    }
}

/// The key under which a write is done once.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key
        .to_str()
        .ok()
        .filter(|key| (1..=200).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()));
    let unusable =
        || Problem::new(Code::IdempotencyKeyInvalid, "The Idempotency-Key has 1 to 200 visible characters.");
    Ok(Some(key.ok_or_else(unusable)?.to_owned()))
}

/// Values of the query.
#[derive(Debug)]
pub struct Values<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Values<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(values)) => Ok(Self(values)),
            Err(error) => Err(invalid(format!("The query does not fit: {}.", error.body_text()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn conditions_are_read() {
        let condition = |headers: &HeaderMap| condition(headers, false);
        assert_eq!(condition(&headers("if-match", "\"3\"")).unwrap(), Some(3));
        assert_eq!(condition(&headers("if-none-match", "*")).unwrap(), Some(0));
        assert_eq!(condition(&HeaderMap::new()).unwrap(), None);
        for etag in ["\"1\"", "W/\"1\"", "1", ""] {
            let other = headers("if-none-match", etag);
            assert_eq!(condition(&other).unwrap_err().0.code(), Code::InvalidRequest, "{etag}");
            assert_eq!(super::condition(&other, true).unwrap(), None, "{etag}: it is read");
        }
        for etag in ["\"platform:3\"", "W/\"3\"", "*", "\"0\"", "\"-1\"", ""] {
            let refused = condition(&headers("if-match", etag)).unwrap_err();
            assert_eq!(refused.0.code(), Code::PreconditionFailed, "{etag}");
        }
        assert!(idempotency_key(&headers("idempotency-key", "a b")).is_err());
        assert_eq!(idempotency_key(&headers("idempotency-key", "k1")).unwrap().as_deref(), Some("k1"));
    }
}
