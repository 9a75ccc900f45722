//! `/v1/tenants/{tenant}/keys` and `/v1/keys`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use insula_api::{ApiKey, CreateApiKey, CreatedApiKey, Page};

use super::auth::Operator;
use super::error::ApiError;
use super::extract::{Body, Named};
use crate::{Control, api_keys};

/// List a tenant's API keys
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/keys", tag = "keys", security(("operator" = [])),
    params(("tenant" = String, Path, description = "Slug or id")),
    responses((status = 200, body = Page<ApiKey>))
)]
pub async fn list_keys(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Named(tenant): Named<String>,
) -> Result<Json<Page<ApiKey>>, ApiError> {
    Ok(Json(Page { items: api_keys::list(&control, &tenant).await?, next_cursor: None }))
}

/// Create an API key
///
/// The key is in this answer and in no other.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/keys", tag = "keys", security(("operator" = [])),
    params(
        ("tenant" = String, Path, description = "Slug or id"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters"),
    ), request_body = CreateApiKey,
    responses((status = 201, body = CreatedApiKey))
)]
pub async fn create_key(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(tenant): Named<String>,
    Body(request): Body<CreateApiKey>,
) -> Result<(StatusCode, Json<CreatedApiKey>), ApiError> {
    let created = api_keys::create(&control, operator.author(&control), &tenant, &request).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// Revoke an API key
#[utoipa::path(
    delete, path = "/v1/keys/{key}", tag = "keys", security(("operator" = [])),
    params(("key" = String, Path, description = "Id")),
    responses((status = 204))
)]
pub async fn revoke_key(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(key): Named<String>,
) -> Result<StatusCode, ApiError> {
    api_keys::revoke(&control, operator.author(&control), &key).await?;
    Ok(StatusCode::NO_CONTENT)
}
