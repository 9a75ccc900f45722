//! What is served without a token: health, metrics, the description of the API
//! and the pages of the problem codes.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use insula_problem::{Code, Problem};
use serde::Serialize;
use utoipa::openapi::OpenApi;

use super::error::ApiError;
use super::extract::Named;

/// One thing that must be well for this process to take requests.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it is well.
    pub ok: bool,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How this process answers about itself: what it checks when it is asked
/// whether it is ready, and its metrics.
#[derive(Clone)]
pub struct Health {
    /// The checks of `/readyz`.
    pub ready: Arc<dyn Fn() -> futures_util::future::BoxFuture<'static, Vec<Check>> + Send + Sync>,
    /// The text of `/metrics`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Health")
    }
}

/// The pages.
pub fn router(openapi: OpenApi, health: Health) -> Router {
    let documents = Router::new()
        .route("/openapi.json", get(description))
        .route("/docs", get(reference))
        .route("/docs/problems/{code}", get(problem_page))
        .with_state(Arc::new(openapi));
    health_router(health).merge(documents)
}

/// Health and metrics.
pub fn health_router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

/// The process runs and answers: that is all, so that a database that is away
/// does not get every process restarted.
async fn alive() -> &'static str {
    "ok\n"
}

/// The process can do what it is for.
async fn ready(State(health): State<Health>) -> Response {
    let checks = (health.ready)().await;
    let all = checks.iter().all(|check| check.ok);
    let status = if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({"ready": all, "checks": checks}))).into_response()
}

/// Prometheus' text format, version 0.0.4.
async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (health.metrics)())
}

async fn description(State(openapi): State<Arc<OpenApi>>) -> Json<OpenApi> {
    Json((*openapi).clone())
}

async fn reference(State(openapi): State<Arc<OpenApi>>) -> Html<String> {
    Html(crate::reference::page(&openapi))
}

async fn problem_page(Named(code): Named<String>) -> Result<Response, ApiError> {
    let known = Code::ALL.iter().find(|known| known.as_str() == code);
    let text = known
        .and_then(|code| crate::reference::problem_page(*code))
        .ok_or_else(|| Problem::new(Code::NotFound, "There is no problem code of this name."))?;
    Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], text).into_response())
}
