//! What handlers take from a request, with problems for what does not fit.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use insula_problem::{Code, Problem};
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// A JSON body.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError(Problem::new(
                Code::UnsupportedMediaType,
                "The body must be JSON: Content-Type: application/json.",
            )));
        }
        let bytes = axum::body::Bytes::from_request(request, state).await.map_err(unreadable)?;
        let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let pointer = pointer(error.path());
            let detail = error.into_inner().to_string();
            ApiError(
                Problem::new(Code::InvalidRequest, format!("The body does not fit: {detail}."))
                    .at(pointer, detail),
            )
        })?;
        deserializer.end().map_err(|error| {
            ApiError(Problem::new(Code::InvalidRequest, format!("There is more after the body: {error}.")))
        })?;
        Ok(Self(value))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(';').next().is_some_and(|media| media.trim() == "application/json"))
}

pub fn unreadable(rejection: BytesRejection) -> ApiError {
    let status = axum::response::IntoResponse::into_response(rejection).status();
    ApiError(if status == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
        Problem::new(Code::RequestTooLarge, "The body is larger than it may be.")
    } else {
        Problem::new(Code::InvalidRequest, "The body cannot be read.")
    })
}

/// A JSON pointer (RFC 6901) from the path at which reading stopped.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |mut text, segment| {
        match segment {
            Segment::Map { key } => {
                text.push('/');
                text.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Seq { index } => text.push_str(&format!("/{index}")),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
        text
    })
}

/// Values of the query.
#[derive(Debug)]
pub struct Values<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Values<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(values)) => Ok(Self(values)),
            Err(rejection) => Err(ApiError(Problem::new(
                Code::InvalidRequest,
                format!("The query does not fit: {}.", rejection.body_text()),
            ))),
        }
    }
}

/// A part of the path.
#[derive(Debug)]
pub struct Named<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(_) => Err(ApiError(Problem::new(Code::NotFound, "There is nothing at this path."))),
        }
    }
}
