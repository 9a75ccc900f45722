//! `/v1/schema`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use insula_api::{ApplySchema, Operation, Page, SchemaAudit, SchemaFailure, SchemaStatus, SchemaVersionInfo};

use super::auth::Operator;
use super::error::ApiError;
use super::extract::{Body, Values};
use super::paging::{PageQuery, page};
use super::tenants::create::accepted_operation;
use crate::{Control, schema};

/// List the versions of the app schema
#[utoipa::path(
    get, path = "/v1/schema/versions", tag = "schema", security(("operator" = [])),
    responses((status = 200, body = Page<SchemaVersionInfo>))
)]
pub async fn list_versions(
    State(control): State<Arc<Control>>,
    _operator: Operator,
) -> Result<Json<Page<SchemaVersionInfo>>, ApiError> {
    Ok(Json(Page { items: schema::status::versions(&control).await?, next_cursor: None }))
}

/// Apply the app schema
///
/// The files are plain single-tenant SQL, numbered from 0001. New ones become
/// the next versions: they are read and proved at once, rehearsed, and then
/// brought to every placement by the operation in the answer.
#[utoipa::path(
    post, path = "/v1/schema/rollouts", tag = "schema", security(("operator" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters")),
    request_body = ApplySchema,
    responses(
        (status = 202, body = Operation, headers(("Location" = String))),
        (status = "4XX", body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn apply_schema(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Body(request): Body<ApplySchema>,
) -> Result<Response, ApiError> {
    let operation = schema::apply::apply(&control, operator.author(&control), request).await?;
    accepted_operation(&control, operation).await
}

/// Where the versions are
#[utoipa::path(
    get, path = "/v1/schema/status", tag = "schema", security(("operator" = [])),
    responses((status = 200, body = SchemaStatus))
)]
pub async fn schema_status(
    State(control): State<Arc<Control>>,
    _operator: Operator,
) -> Result<Json<SchemaStatus>, ApiError> {
    Ok(Json(schema::status::status(&control).await?))
}

/// List the placements that a version could not be brought to
///
/// With the words of PostgreSQL, which hold values of tenants' rows: each
/// showing is in the audit.
#[utoipa::path(
    get, path = "/v1/schema/failures", tag = "schema", security(("operator" = [])), params(PageQuery),
    responses((status = 200, body = Page<SchemaFailure>))
)]
pub async fn schema_failures(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Values(query): Values<PageQuery>,
) -> Result<Json<Page<SchemaFailure>>, ApiError> {
    let (limit, after) = (query.limit(), query.after()?);
    let author = operator.author(&control);
    let found = schema::failures::list(&control, author, after.as_deref(), limit + 1).await?;
    Ok(Json(page(found, limit, |failure| failure.placement.clone(), |failure| failure)))
}

/// Audit the catalogs of the fleet
///
/// Reads the clusters' own catalogs and proves the form of every placement.
#[utoipa::path(
    post, path = "/v1/schema/audit", tag = "schema", security(("operator" = [])),
    responses((status = 200, body = SchemaAudit))
)]
pub async fn schema_audit(
    State(control): State<Arc<Control>>,
    _operator: Operator,
) -> Result<Json<SchemaAudit>, ApiError> {
    Ok(Json(schema::audit::audit(&control).await?))
}
