//! `POST /v1/tenants/{tenant}/resume`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use insula_api::Operation;

use super::create::accepted_operation;
use crate::http::auth::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Named;
use crate::{Control, tenants};

/// Resume a tenant
///
/// It is served again when the operation has succeeded. A tenant that is being deleted can be resumed until its retention time is over.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/resume", tag = "tenants", security(("operator" = [])),
    params(
        ("tenant" = String, Path, description = "Slug or id"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters"),
    ),
    responses(
        (status = 202, body = Operation, headers(("Location" = String))),
        (status = 409, body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn resume_tenant(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(tenant): Named<String>,
) -> Result<Response, ApiError> {
    let operation = tenants::suspend::resume(&control, operator.author(&control), &tenant).await?;
    accepted_operation(&control, operation).await
}
