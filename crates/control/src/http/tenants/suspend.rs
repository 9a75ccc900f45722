//! `POST /v1/tenants/{tenant}/suspend`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use insula_api::Operation;

use super::create::accepted_operation;
use crate::http::auth::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Named;
use crate::{Control, tenants};

/// Suspend a tenant
///
/// The fronts end its sessions and refuse new ones at once; the operation fences it inside PostgreSQL.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/suspend", tag = "tenants", security(("operator" = [])),
    params(
        ("tenant" = String, Path, description = "Slug or id"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters"),
    ),
    responses(
        (status = 202, body = Operation, headers(("Location" = String))),
        (status = 409, body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn suspend_tenant(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(tenant): Named<String>,
) -> Result<Response, ApiError> {
    let operation = tenants::suspend::suspend(&control, operator.author(&control), &tenant).await?;
    accepted_operation(&control, operation).await
}
