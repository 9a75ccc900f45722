//! `/v1/operations`

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use insula_api::{Operation, Page};
use insula_domain::OperationId;
use insula_problem::{Code, Problem};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::Operator;
use super::error::ApiError;
use super::extract::{Named, Values};
use super::paging::{PageQuery, page};
use crate::Control;

/// The longest that a call waits for an operation.
const WAIT_MAX: u32 = 30;

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// For how many seconds the answer may wait for the end of the operation: 30 at the most.
    wait: Option<u32>,
    /// With `wait`: answer as soon as the operation has gone on from here, which
    /// is the number in the header `Insula-Progress` of an earlier answer.
    progress: Option<usize>,
}

fn parse(id: &str) -> Result<OperationId, Problem> {
    id.parse().map_err(|_| Problem::new(Code::OperationNotFound, "There is no such operation."))
}

/// Show an operation
///
/// With `wait` the answer comes when the operation has ended, or has gone on,
/// or the time is over.
#[utoipa::path(
    get, path = "/v1/operations/{operation}", tag = "operations", security(("operator" = [])),
    params(("operation" = String, Path, description = "Id"), WaitQuery),
    responses((status = 200, body = Operation, headers(("Insula-Progress" = u64))))
)]
pub async fn show_operation(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Named(id): Named<String>,
    Values(query): Values<WaitQuery>,
) -> Result<([(&'static str, String); 1], Json<Operation>), ApiError> {
    let longest = Duration::from_secs(u64::from(query.wait.unwrap_or(0).min(WAIT_MAX)));
    let operation = control.operations.wait(parse(&id)?, longest, query.progress).await?;
    let progress = crate::operations::progress(&operation).to_string();
    Ok(([("insula-progress", progress)], Json(operation)))
}

/// List operations
///
/// The newest first.
#[utoipa::path(
    get, path = "/v1/operations", tag = "operations", security(("operator" = [])), params(PageQuery),
    responses((status = 200, body = Page<Operation>))
)]
pub async fn list_operations(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Values(query): Values<PageQuery>,
) -> Result<Json<Page<Operation>>, ApiError> {
    let limit = query.limit();
    let after = query.after()?.map(|id| parse(&id)).transpose()?;
    let operations = control.operations.list(after, limit + 1).await?;
    Ok(Json(page(operations, limit, |operation| operation.id.to_string(), |operation| operation)))
}

/// Resume a stuck operation
///
/// It goes on where it stopped, in the direction in which it went.
#[utoipa::path(
    post, path = "/v1/operations/{operation}/resume", tag = "operations", security(("operator" = [])),
    params(("operation" = String, Path, description = "Id")),
    responses((status = 200, body = Operation))
)]
pub async fn resume_operation(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(id): Named<String>,
) -> Result<Json<Operation>, ApiError> {
    Ok(Json(control.operations.resume(&control, operator.author(&control), parse(&id)?).await?))
}
