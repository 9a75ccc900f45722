//! `POST /v1/tenants`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use insula_api::{CreateTenant, Operation};

use crate::http::auth::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Body;
use crate::{Control, tenants};

/// Create a tenant
///
/// Everything is checked and reserved at once; the operation in the answer
/// makes the tenant. Sent again with the same `Idempotency-Key` and body, the
/// call answers with the first one's operation and makes nothing new.
#[utoipa::path(
    post, path = "/v1/tenants", tag = "tenants", security(("operator" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters")),
    request_body = CreateTenant,
    responses(
        (status = 202, description = "Accepted", body = Operation, headers(("Location" = String))),
        (status = "4XX", description = "Refused", body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn create_tenant(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Body(request): Body<CreateTenant>,
) -> Result<Response, ApiError> {
    let operation = tenants::create::create(&control, operator.author(&control), &request).await?;
    accepted_operation(&control, operation).await
}

/// The answer to a call that an operation carries out.
pub async fn accepted_operation(
    control: &Control,
    id: insula_domain::OperationId,
) -> Result<Response, ApiError> {
    let operation = control.operations.show(id).await?;
    let location = format!("/v1/operations/{id}");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(operation)).into_response())
}
