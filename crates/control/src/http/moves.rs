//! `/v1/moves` and the moves of a tenant.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use insula_api::{Move, MovePlan, Operation, Page, ProblemBody, StartMove};
use insula_domain::OperationId;
use insula_problem::{Code, Problem};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::Operator;
use super::error::ApiError;
use super::extract::{Body, Named, Values};
use super::paging::{PageQuery, page};
use super::tenants::create::accepted_operation;
use crate::Control;
use crate::moves::follow::is_at_work;
use crate::moves::{plan, show, start, steer};
use crate::tenants::find::find;

/// The longest that a call waits for a move.
const WAIT_MAX: u32 = 30;

/// How often a waiting call looks.
const LOOK: Duration = Duration::from_millis(250);

pub(super) fn parse(id: &str) -> Result<OperationId, Problem> {
    id.parse().map_err(|_| Problem::new(Code::MoveNotFound, "There is no such move."))
}

/// Move a tenant
///
/// To another tier, isolation model, cluster or region, while it works. The operation in the answer has the move's id.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/moves", tag = "moves", security(("operator" = [])),
    params(
        ("tenant" = String, Path, description = "Slug or id"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters"),
    ),
    request_body = StartMove,
    responses(
        (status = 202, body = Operation, headers(("Location" = String))),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn move_tenant(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(tenant): Named<String>,
    Body(request): Body<StartMove>,
) -> Result<Response, ApiError> {
    let operation = start::start(&control, operator.author(&control), &tenant, &request).await?;
    accepted_operation(&control, operation).await
}

/// Plan a move
///
/// Where the tenant would go, what there is to move, and what is in the way. Nothing is changed.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/moves/plan", tag = "moves", security(("operator" = [])),
    params(("tenant" = String, Path, description = "Slug or id")),
    request_body = StartMove,
    responses(
        (status = 200, body = MovePlan),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn plan_move(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(tenant): Named<String>,
    Body(request): Body<StartMove>,
) -> Result<Json<MovePlan>, ApiError> {
    Ok(Json(plan::plan(&control, operator.author(&control), &tenant, &request).await?))
}

/// Whose moves.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MovesQuery {
    /// Of this tenant alone, by slug or id.
    tenant: Option<String>,
    /// How many items at the most: 100 where it is not given, 1000 at the most.
    limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List moves
///
/// The newest first.
#[utoipa::path(
    get, path = "/v1/moves", tag = "moves", security(("operator" = [])), params(MovesQuery),
    responses((status = 200, body = Page<Move>))
)]
pub async fn list_moves(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Values(query): Values<MovesQuery>,
) -> Result<Json<Page<Move>>, ApiError> {
    let paging = PageQuery { limit: query.limit, cursor: query.cursor };
    listed(&control, query.tenant.as_deref(), &paging).await
}

/// List the moves of a tenant
///
/// The newest first.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/moves", tag = "moves", security(("operator" = [])),
    params(("tenant" = String, Path, description = "Slug or id"), PageQuery),
    responses((status = 200, body = Page<Move>))
)]
pub async fn list_tenant_moves(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Named(tenant): Named<String>,
    Values(paging): Values<PageQuery>,
) -> Result<Json<Page<Move>>, ApiError> {
    listed(&control, Some(&tenant), &paging).await
}

async fn listed(
    control: &Control,
    tenant: Option<&str>,
    paging: &PageQuery,
) -> Result<Json<Page<Move>>, ApiError> {
    let limit = paging.limit();
    let before = paging.after()?.map(|id| parse(&id)).transpose()?;
    let tenant = match tenant {
        Some(tenant) => Some(find(&control.catalog.client().await?, tenant).await?.id),
        None => None,
    };
    let found = show::list(control, tenant, before, limit + 1).await?;
    Ok(Json(page(found, limit, |shown| shown.id.to_string(), |shown| shown)))
}

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// For how many seconds the answer may wait for the end of what the move is at: 30 at the most.
    wait: Option<u32>,
}

/// Show a move
///
/// With `wait` the answer comes when the move is no longer at work, or the time is over.
#[utoipa::path(
    get, path = "/v1/moves/{move}", tag = "moves", security(("operator" = [])),
    params(("move" = String, Path, description = "Id"), WaitQuery),
    responses((status = 200, body = Move))
)]
pub async fn show_move(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Named(id): Named<String>,
    Values(query): Values<WaitQuery>,
) -> Result<Json<Move>, ApiError> {
    let id = parse(&id)?;
    let longest = Duration::from_secs(u64::from(query.wait.unwrap_or(0).min(WAIT_MAX)));
    let deadline = tokio::time::Instant::now() + longest;
    loop {
        let shown = show::show(&control, id).await?;
        if !is_at_work(&shown) || tokio::time::Instant::now() >= deadline {
            return Ok(Json(shown));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Complete a move
///
/// The source is removed, and with it the way back.
#[utoipa::path(
    post, path = "/v1/moves/{move}/complete", tag = "moves", security(("operator" = [])),
    params(
        ("move" = String, Path, description = "Id"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters"),
    ),
    responses(
        (status = 202, body = Operation, headers(("Location" = String))),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn complete_move(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(id): Named<String>,
) -> Result<Response, ApiError> {
    let operation = steer::complete(&control, operator.author(&control), parse(&id)?).await?;
    accepted_operation(&control, operation).await
}

/// Roll a move back
///
/// The tenant comes back to where it was, with all that was written since.
#[utoipa::path(
    post, path = "/v1/moves/{move}/rollback", tag = "moves", security(("operator" = [])),
    params(
        ("move" = String, Path, description = "Id"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters"),
    ),
    responses(
        (status = 202, body = Operation, headers(("Location" = String))),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn roll_move_back(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(id): Named<String>,
) -> Result<Response, ApiError> {
    let operation = steer::rollback(&control, operator.author(&control), parse(&id)?).await?;
    accepted_operation(&control, operation).await
}

/// Cancel a move
///
/// Before its cutover; its operation undoes it.
#[utoipa::path(
    post, path = "/v1/moves/{move}/cancel", tag = "moves", security(("operator" = [])),
    params(
        ("move" = String, Path, description = "Id"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters"),
    ),
    responses(
        (status = 202, body = Operation, headers(("Location" = String))),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn cancel_move(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(id): Named<String>,
) -> Result<Response, ApiError> {
    let operation = steer::cancel(&control, operator.author(&control), parse(&id)?).await?;
    accepted_operation(&control, operation).await
}
