//! How a problem becomes an answer: handlers return it, and the outermost
//! layer gives it its body with the request id, logs its causes and counts it.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use insula_problem::{Code, MEDIA_TYPE, Problem, RateLimit};
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::Control;

/// A problem on its way out of a handler.
#[derive(Debug)]
pub struct ApiError(pub Problem);

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = status_of(self.0.code()).into_response();
        response.extensions_mut().insert(Arc::new(self.0));
        response
    }
}

fn status_of(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The id of a request, as the log and the audit have it.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// No such path.
pub async fn not_found() -> ApiError {
    ApiError(Problem::new(Code::NotFound, "There is nothing at this path. /docs lists all that there is."))
}

/// The path is there, and does not know the method.
pub async fn method_not_allowed() -> ApiError {
    ApiError(Problem::new(Code::MethodNotAllowed, "This path does not know this method."))
}

/// Takes a request in, where there is room.
pub async fn admit(State(room): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match room.try_acquire() {
        Ok(_place) => {
            metrics::gauge!("insula_http_requests_in_flight").increment(1.0);
            let response = next.run(request).await;
            metrics::gauge!("insula_http_requests_in_flight").decrement(1.0);
            response
        }
        Err(_) => ApiError(
            Problem::new(Code::Overloaded, "As many requests as may be are under way. Try again shortly.")
                .retry_after(1),
        )
        .into_response(),
    }
}

/// A handler panicked: a defect of ours.
pub fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default();
    ApiError(Problem::internal(format!("a handler panicked: {text}"))).into_response()
}

/// The outermost layer: request id, log, metrics, the body of problems.
pub async fn finish(State(control): State<Arc<Control>>, mut request: Request, next: Next) -> Response {
    let id = request_id(&control);
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", request_id = %id, %method, path);
    let started = Instant::now();
    async move {
        let response = next.run(request).await;
        let mut response = with_problem_body(response, &id);
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-request-id", value);
        }
        let (status, seconds) = (response.status().as_u16(), started.elapsed().as_secs_f64());
        let labels = [("method", method.to_string()), ("route", route), ("status", status.to_string())];
        metrics::counter!("insula_http_requests_total", &labels).increment(1);
        metrics::histogram!("insula_http_request_seconds", &labels[..2]).record(seconds);
        tracing::info!(status, duration_ms = seconds * 1000.0, "answered");
        response
    }
    .instrument(span)
    .await
}

/// The id is made here and not taken from the caller, who could otherwise make
/// two requests one in the log.
fn request_id(control: &Control) -> String {
    let mut bytes = [0_u8; 16];
    control.entropy.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().simple().to_string()
}

fn with_problem_body(response: Response, id: &str) -> Response {
    let problem = match response.extensions().get::<Arc<Problem>>() {
        Some(problem) => problem.clone(),
        None => match foreign_problem(&response) {
            Some(problem) => Arc::new(problem),
            None => return response,
        },
    };
    if problem.code().status() >= 500 {
        tracing::error!(code = %problem.code(), cause = problem.chain(), "failed");
    } else {
        tracing::info!(code = %problem.code(), cause = problem.chain(), "refused");
    }
    let body = serde_json::to_vec(&problem.to_body(Some(id.to_owned()))).unwrap_or_default();
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status_of(problem.code());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if let Some(seconds) = problem.retry_after_seconds() {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(limit) = problem.rate_limit() {
        limit_headers(answer.headers_mut(), limit, problem.retry_after_seconds().unwrap_or(1));
    }
    if problem.code() == Code::Unauthenticated {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// Structured fields (RFC 9651), as draft-ietf-httpapi-ratelimit-headers-10
/// has them: nothing is left, and after how many seconds there is.
fn limit_headers(headers: &mut HeaderMap, limit: RateLimit, seconds: u32) {
    let RateLimit { policy, quota, window_seconds } = limit;
    let fields = [
        ("ratelimit-policy", format!("\"{policy}\";q={quota};w={window_seconds}")),
        ("ratelimit", format!("\"{policy}\";r=0;t={seconds}")),
    ];
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

/// The problem behind an answer that a library made by itself.
fn foreign_problem(response: &Response) -> Option<Problem> {
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/"));
    if is_json {
        return None;
    }
    match response.status() {
        StatusCode::REQUEST_TIMEOUT => {
            Some(Problem::new(Code::RequestTimeout, "The request took longer than it may."))
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            Some(Problem::new(Code::RequestTooLarge, "The body is larger than it may be."))
        }
        StatusCode::BAD_REQUEST => Some(Problem::new(Code::InvalidRequest, "The request cannot be read.")),
        _ => None,
    }
}
