//! `/v1/schema`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use insula_api::{
    ApplySchema, BlueprintUrl, CaptureSchema, CapturedSchema, CheckSchema, OpenBlueprint, Operation, Page,
    RebuildBlueprint, Rollout, RolloutPlacement, SchemaAudit, SchemaCheck, SchemaFailure, SchemaStatus,
    SchemaVersionInfo, TenantDrift,
};
use insula_domain::{OperationId, RolloutPlacementStatus};
use insula_problem::{Code, Problem};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::Operator;
use super::error::ApiError;
use super::extract::{Body, Named, Values};
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

/// Which tenants' drift.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DriftQuery {
    /// This tenant alone, by slug or id.
    tenant: Option<String>,
    /// How many items at the most: 20 where it is not given, 100 at the most.
    limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List the drift of the tenants with tables of their own
///
/// What differs from the version that each has, and what each made itself. It is read from the clusters as the page
/// is asked for; a tenant that cannot be read says so and hides nobody else.
#[utoipa::path(
    get, path = "/v1/schema/drift", tag = "schema", security(("operator" = [])), params(DriftQuery),
    responses(
        (status = 200, body = Page<TenantDrift>),
        (status = "4XX", body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn schema_drift(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Values(query): Values<DriftQuery>,
) -> Result<Json<Page<TenantDrift>>, ApiError> {
    let limit = query.limit.unwrap_or(20).clamp(1, 100);
    let paging = PageQuery { limit: Some(limit), cursor: query.cursor };
    let (limit, after) = (paging.limit(), paging.after()?);
    let found = schema::drift::list(&control, query.tenant.as_deref(), after.as_deref(), limit + 1).await?;
    Ok(Json(page(found, limit, |drift| drift.tenant.to_string(), |drift| drift)))
}

/// List rollouts
///
/// The newest first.
#[utoipa::path(
    get, path = "/v1/schema/rollouts", tag = "schema", security(("operator" = [])), params(PageQuery),
    responses((status = 200, body = Page<Rollout>))
)]
pub async fn list_rollouts(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Values(query): Values<PageQuery>,
) -> Result<Json<Page<Rollout>>, ApiError> {
    let limit = query.limit();
    let before = query.after()?.map(|id| rollout_id(&id)).transpose()?;
    let found = schema::rollouts::list(&control, before, limit + 1).await?;
    Ok(Json(page(found, limit, |rollout| rollout.id.to_string(), |rollout| rollout)))
}

/// Show a rollout
#[utoipa::path(
    get, path = "/v1/schema/rollouts/{rollout}", tag = "schema", security(("operator" = [])),
    params(("rollout" = String, Path, description = "Id")),
    responses((status = 200, body = Rollout))
)]
pub async fn show_rollout(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Named(id): Named<String>,
) -> Result<Json<Rollout>, ApiError> {
    Ok(Json(schema::rollouts::show(&control, rollout_id(&id)?).await?))
}

/// Which placements of a rollout.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PlacementsQuery {
    /// Those of this status alone.
    status: Option<RolloutPlacementStatus>,
    /// How many items at the most: 100 where it is not given, 1,000 at the most.
    limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List the placements of a rollout
#[utoipa::path(
    get, path = "/v1/schema/rollouts/{rollout}/placements", tag = "schema", security(("operator" = [])),
    params(("rollout" = String, Path, description = "Id"), PlacementsQuery),
    responses((status = 200, body = Page<RolloutPlacement>))
)]
pub async fn list_rollout_placements(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Named(id): Named<String>,
    Values(query): Values<PlacementsQuery>,
) -> Result<Json<Page<RolloutPlacement>>, ApiError> {
    let paging = PageQuery { limit: query.limit, cursor: query.cursor };
    let (id, limit, after) = (rollout_id(&id)?, paging.limit(), paging.after()?);
    let found = schema::rollouts::placements(&control, id, query.status, after.as_deref(), limit + 1).await?;
    Ok(Json(page(found, limit, |placement| placement.placement.clone(), |placement| placement)))
}

/// Pause a rollout
///
/// What is being brought is brought to its end; then nothing more is begun.
#[utoipa::path(
    post, path = "/v1/schema/rollouts/{rollout}/pause", tag = "schema", security(("operator" = [])),
    params(("rollout" = String, Path, description = "Id")),
    responses((status = 200, body = Rollout))
)]
pub async fn pause_rollout(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(id): Named<String>,
) -> Result<Json<Rollout>, ApiError> {
    Ok(Json(schema::rollouts::pause(&control, operator.author(&control), rollout_id(&id)?).await?))
}

/// Resume a rollout that is paused
#[utoipa::path(
    post, path = "/v1/schema/rollouts/{rollout}/resume", tag = "schema", security(("operator" = [])),
    params(("rollout" = String, Path, description = "Id")),
    responses((status = 202, body = Operation, headers(("Location" = String))))
)]
pub async fn resume_rollout(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(id): Named<String>,
) -> Result<Response, ApiError> {
    let author = operator.author(&control);
    let operation = schema::rollouts::resume(&control, author, rollout_id(&id)?).await?;
    accepted_operation(&control, operation).await
}

/// Try again what has failed in a rollout
#[utoipa::path(
    post, path = "/v1/schema/rollouts/{rollout}/retry", tag = "schema", security(("operator" = [])),
    params(("rollout" = String, Path, description = "Id")),
    responses((status = 202, body = Operation, headers(("Location" = String))))
)]
pub async fn retry_rollout(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(id): Named<String>,
) -> Result<Response, ApiError> {
    let author = operator.author(&control);
    let operation = schema::rollouts::retry(&control, author, rollout_id(&id)?).await?;
    accepted_operation(&control, operation).await
}

fn rollout_id(id: &str) -> Result<OperationId, Problem> {
    id.parse().map_err(|_| Problem::new(Code::RolloutNotFound, "There is no such rollout."))
}

/// Check the app schema
///
/// The files are read and proved as by a rollout; the answer tells what in the
/// new ones breaks the application that still runs. Nothing is taken.
#[utoipa::path(
    post, path = "/v1/schema/checks", tag = "schema", security(("operator" = [])),
    request_body = CheckSchema,
    responses(
        (status = 200, body = SchemaCheck),
        (status = "4XX", body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn check_schema(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Body(request): Body<CheckSchema>,
) -> Result<Json<SchemaCheck>, ApiError> {
    Ok(Json(schema::apply::examine(&control, request).await?))
}

/// The way to the blueprint
///
/// A plain database for the application's own migration tool. It is made when
/// it is first asked for.
#[utoipa::path(
    post, path = "/v1/schema/blueprint", tag = "schema", security(("operator" = [])),
    request_body = OpenBlueprint,
    responses(
        (status = 200, body = BlueprintUrl),
        (status = "4XX", body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn open_blueprint(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Body(request): Body<OpenBlueprint>,
) -> Result<Json<BlueprintUrl>, ApiError> {
    Ok(Json(schema::blueprint::url(&control, operator.author(&control), &request).await?))
}

/// Build the blueprint again
///
/// It is removed and made anew from the versions of the app schema.
#[utoipa::path(
    post, path = "/v1/schema/blueprint/rebuild", tag = "schema", security(("operator" = [])),
    request_body = RebuildBlueprint,
    responses(
        (status = 200, body = BlueprintUrl),
        (status = "4XX", body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn rebuild_blueprint(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Body(request): Body<RebuildBlueprint>,
) -> Result<Json<BlueprintUrl>, ApiError> {
    Ok(Json(schema::blueprint::rebuild(&control, operator.author(&control), &request).await?))
}

/// Capture the next version
///
/// Everything that was done on the blueprint since the last capture, as the next
/// version's file. It is checked in every form and tried; nothing is applied.
#[utoipa::path(
    post, path = "/v1/schema/captures", tag = "schema", security(("operator" = [])),
    request_body = CaptureSchema,
    responses(
        (status = 201, body = CapturedSchema),
        (status = "4XX", body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn capture_schema(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Body(request): Body<CaptureSchema>,
) -> Result<(StatusCode, Json<CapturedSchema>), ApiError> {
    let captured = schema::capture::capture(&control, operator.author(&control), &request).await?;
    Ok((StatusCode::CREATED, Json(captured)))
}
