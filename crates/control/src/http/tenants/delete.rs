//! `DELETE /v1/tenants/{tenant}`

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use insula_api::Operation;
use serde::Deserialize;
use utoipa::IntoParams;

use super::create::accepted_operation;
use crate::http::auth::Operator;
use crate::http::error::ApiError;
use crate::http::extract::{Named, Values};
use crate::{Control, tenants};

/// How to delete.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// For how many seconds the data is kept; the setting where it is not given.
    retention_seconds: Option<u64>,
}

/// Delete a tenant
///
/// It is suspended first. Its data is kept for the retention time, during
/// which it can be resumed, and then purged by itself. With a retention time
/// of 0 the operation in the answer is the purge.
#[utoipa::path(
    delete, path = "/v1/tenants/{tenant}", tag = "tenants", security(("operator" = [])),
    params(("tenant" = String, Path, description = "Slug or id"), DeleteQuery),
    responses(
        (status = 202, body = Operation, headers(("Location" = String))),
        (status = 409, body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn delete_tenant(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(tenant): Named<String>,
    Values(query): Values<DeleteQuery>,
) -> Result<Response, ApiError> {
    let retention = query.retention_seconds.map(Duration::from_secs);
    let author = operator.author(&control);
    let operation = tenants::delete::delete(&control, author, &tenant, retention).await?;
    accepted_operation(&control, operation).await
}
