//! `/v1/pg`: what the PostgreSQL front of this process is at.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use insula_api::{PgBackend, PgClient, PgList, PgTenant};
use insula_problem::{Code, Problem};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::Operator;
use super::error::ApiError;
use super::extract::Values;
use crate::Control;
use crate::front::{FrontView, Look};
use crate::tenants::find::find;

/// The most items that an answer has.
const MOST: u32 = 1_000;

/// What of it.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PgQuery {
    /// Of this tenant alone, by slug or id.
    tenant: Option<String>,
    /// How many items at the most: 100 where it is not given, 1,000 at the most.
    limit: Option<u32>,
}

/// List the clients of the front
///
/// Sessions of the front of the process that answers, those that wait for a
/// backend first, then those that are at work.
#[utoipa::path(
    get, path = "/v1/pg/clients", tag = "pg", security(("operator" = [])), params(PgQuery),
    responses((status = 200, body = PgList<PgClient>))
)]
pub async fn list_clients(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Values(query): Values<PgQuery>,
) -> Result<Json<PgList<PgClient>>, ApiError> {
    look(&control, query, |front| &front.clients).await
}

/// List the backends of the front
///
/// Connections of the front of the process that answers to tenants' clusters.
#[utoipa::path(
    get, path = "/v1/pg/backends", tag = "pg", security(("operator" = [])), params(PgQuery),
    responses((status = 200, body = PgList<PgBackend>))
)]
pub async fn list_backends(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Values(query): Values<PgQuery>,
) -> Result<Json<PgList<PgBackend>>, ApiError> {
    look(&control, query, |front| &front.backends).await
}

/// List the tenants in the front
///
/// Those that have been in the front of the process that answers since it
/// began, with what was counted of them: those whose clients wait first, then
/// those with most transactions.
#[utoipa::path(
    get, path = "/v1/pg/tenants", tag = "pg", security(("operator" = [])), params(PgQuery),
    responses((status = 200, body = PgList<PgTenant>))
)]
pub async fn list_tenants(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Values(query): Values<PgQuery>,
) -> Result<Json<PgList<PgTenant>>, ApiError> {
    look(&control, query, |front| &front.tenants).await
}

async fn look<T>(
    control: &Control,
    query: PgQuery,
    what: impl Fn(&FrontView) -> &Look<T>,
) -> Result<Json<PgList<T>>, ApiError> {
    let front = control.front.as_ref().ok_or_else(|| {
        Problem::new(
            Code::FrontMissing,
            "The process that answers has no PostgreSQL front; ask one that has the role pg-proxy.",
        )
    })?;
    let tenant = match &query.tenant {
        Some(tenant) => Some(find(&control.catalog.client().await?, tenant).await?.id),
        None => None,
    };
    let limit = query.limit.unwrap_or(100).clamp(1, MOST) as usize;
    Ok(Json(what(front)(tenant, limit)))
}
