//! `POST /v1/tenants`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use insula_api::{CreateTenant, Operation};
use insula_problem::{Code, Problem};

use crate::http::auth::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Body;
use crate::{Control, tenants};

/// The most characters of an idempotency key.
const KEY_MAX: usize = 255;

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
    headers: HeaderMap,
    Body(request): Body<CreateTenant>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(&headers)?;
    let accepted = tenants::create::create(&control, operator.author(&control), &request, key).await?;
    accepted_operation(&control, accepted.operation).await
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

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let valid = value.to_str().ok().filter(|text| {
        (1..=KEY_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    match valid {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(Problem::new(
            Code::IdempotencyKeyInvalid,
            format!("The Idempotency-Key has 1 to {KEY_MAX} visible ASCII characters."),
        )),
    }
}
