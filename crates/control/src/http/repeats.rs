//! `Idempotency-Key`: a layer around every POST that has one. What was answered
//! before is answered again, before anything else is looked at; else the key
//! goes on with the operator, into the transaction that makes the thing.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use insula_catalog::RepeatableRequest;
use insula_problem::{Code, Problem};

use super::auth::Operator;
use super::error::ApiError;
use super::extract::unreadable;
use super::tenants::create::accepted_operation;
use crate::Control;
use crate::repeats::{Repeated, Sent};

const HEADER: &str = "idempotency-key";

/// The most characters of an idempotency key.
const KEY_MAX: usize = 255;

/// The layer.
///
/// # Errors
/// `idempotency_key_reused` where the key stands for another content.
pub async fn answer_again(
    State(control): State<Arc<Control>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if *request.method() != Method::POST || !request.headers().contains_key(HEADER) {
        return Ok(next.run(request).await);
    }
    let (mut parts, body) = request.into_parts();
    let operator = Operator::from_request_parts(&mut parts, &control).await?;
    let key = key_of(&parts.headers)?;
    let whole = Request::from_parts(parts.clone(), body);
    let body = Bytes::from_request(whole, &()).await.map_err(unreadable)?;
    let (method, path) = (parts.method.as_str(), parts.uri.path());
    let request = control.repeatable(Sent { method, path, key: &key, body: &body })?;
    let actor = operator.author(&control).actor;
    if let Some(answer) = repeated(&control, &actor, &request, &body).await? {
        return Ok(answer);
    }
    parts.extensions.insert(operator.repeatable(request.clone()));
    let response = next.run(Request::from_parts(parts, Body::from(body.clone()))).await;
    // Of two at once the slower one finds the name taken, or the key: what it asked for is done.
    if response.status().is_client_error()
        && let Some(answer) = repeated(&control, &actor, &request, &body).await?
    {
        return Ok(answer);
    }
    Ok(response)
}

async fn repeated(
    control: &Control,
    actor: &str,
    request: &RepeatableRequest,
    body: &[u8],
) -> Result<Option<Response>, ApiError> {
    Ok(match control.repeated(actor, request, body).await? {
        None => None,
        Some(Repeated::Operation(id)) => Some(accepted_operation(control, id).await?),
        Some(Repeated::Body { status, body }) => {
            let status = StatusCode::from_u16(status).map_err(Problem::internal)?;
            let body = body.expose().to_owned();
            Some((status, [(CONTENT_TYPE, "application/json")], body).into_response())
        }
    })
}

fn key_of(headers: &HeaderMap) -> Result<String, Problem> {
    let invalid = || {
        Problem::new(
            Code::IdempotencyKeyInvalid,
            format!("There is one Idempotency-Key, of 1 to {KEY_MAX} visible ASCII characters."),
        )
    };
    let mut values = headers.get_all(HEADER).iter();
    let text = values.next().and_then(|value| value.to_str().ok()).ok_or_else(invalid)?;
    let fits = (1..=KEY_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits && values.next().is_none() { Ok(text.to_owned()) } else { Err(invalid()) }
}
