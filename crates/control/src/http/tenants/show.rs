//! `GET /v1/tenants/{tenant}`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::ETAG;
use axum::response::{IntoResponse, Response};
use insula_api::Tenant;
use insula_catalog::TenantRecord;

use crate::Control;
use crate::http::auth::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Named;
use crate::tenants::find::{find, shown};

/// Show a tenant
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}", tag = "tenants", security(("operator" = [])),
    params(("tenant" = String, Path, description = "Slug or id")),
    responses(
        (status = 200, body = Tenant, headers(("ETag" = String))),
        (status = 404, body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn show_tenant(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Named(tenant): Named<String>,
) -> Result<Response, ApiError> {
    let client = control.catalog.client().await?;
    Ok(with_etag(find(&client, &tenant).await?))
}

/// The tenant with its revision as the ETag (RFC 9110 §8.8.3).
pub fn with_etag(record: TenantRecord) -> Response {
    let etag = format!("\"{}\"", record.revision);
    ([(ETAG, etag)], Json(shown(record))).into_response()
}
