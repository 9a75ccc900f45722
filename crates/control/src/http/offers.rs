//! `/v1/tiers` and `/v1/plans`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use insula_api::{Page, PutPlan, PutTier, TierAfterPut};
use insula_domain::{InvalidName, Plan, Tier};
use insula_problem::{Code, Problem};
use serde_json::json;

use super::auth::Operator;
use super::error::ApiError;
use super::extract::{Body, Named};
use crate::Control;
use crate::tenants::create::sentence;
use crate::tiers::{self, WantedTier};

fn invalid(error: &InvalidName) -> Problem {
    Problem::new(Code::InvalidRequest, sentence(&error.to_string()))
}

/// List tiers
///
/// The smallest first.
#[utoipa::path(
    get, path = "/v1/tiers", tag = "tiers", security(("operator" = [])),
    responses((status = 200, body = Page<Tier>))
)]
pub async fn list_tiers(
    State(control): State<Arc<Control>>,
    _operator: Operator,
) -> Result<Json<Page<Tier>>, ApiError> {
    Ok(Json(Page { items: control.catalog.client().await?.tiers().await?, next_cursor: None }))
}

/// Add or change a tier
///
/// Tenants that are on the tier keep their placement; their limits follow at once. Where `own_objects` changes, the
/// operation in the answer gives the tenants the right to objects of their own, or takes it; what they made stays.
#[utoipa::path(
    put, path = "/v1/tiers/{tier}", tag = "tiers", security(("operator" = [])),
    params(("tier" = String, Path, description = "Name")), request_body = PutTier,
    responses(
        (status = 200, body = TierAfterPut),
        (status = "4XX", body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn put_tier(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(name): Named<String>,
    Body(request): Body<PutTier>,
) -> Result<Json<TierAfterPut>, ApiError> {
    let name = name.parse().map_err(|error| invalid(&error))?;
    let unknown = || {
        Problem::new(Code::UnknownPlan, "There is no such plan. insula plan list shows them.")
            .at("/plan", "unknown")
    };
    let client = control.catalog.client().await?;
    let plan = request.plan.parse().map_err(|_| unknown())?;
    client.plan(&plan).await?.ok_or_else(unknown)?;
    let wanted = WantedTier {
        name,
        isolation: request.isolation,
        user_pool: request.user_pool,
        plan,
        own_objects: request.own_objects,
    };
    Ok(Json(tiers::put(&control, operator.author(&control), wanted).await?))
}

/// List plans
#[utoipa::path(
    get, path = "/v1/plans", tag = "tiers", security(("operator" = [])),
    responses((status = 200, body = Page<Plan>))
)]
pub async fn list_plans(
    State(control): State<Arc<Control>>,
    _operator: Operator,
) -> Result<Json<Page<Plan>>, ApiError> {
    Ok(Json(Page { items: control.catalog.client().await?.plans().await?, next_cursor: None }))
}

/// Add or change a plan
///
/// The limits of all tenants whose tier has the plan follow at once.
#[utoipa::path(
    put, path = "/v1/plans/{plan}", tag = "tiers", security(("operator" = [])),
    params(("plan" = String, Path, description = "Name")), request_body = PutPlan,
    responses((status = 200, body = Plan))
)]
pub async fn put_plan(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(name): Named<String>,
    Body(request): Body<PutPlan>,
) -> Result<Json<Plan>, ApiError> {
    let plan = Plan {
        name: name.parse().map_err(|error| invalid(&error))?,
        requests_per_second: request.requests_per_second,
        burst: request.burst,
        daily_quota: request.daily_quota,
        requests_in_flight: request.requests_in_flight,
        database_connections: request.database_connections,
        database_weight: request.database_weight.unwrap_or(1),
        database_backends: request.database_backends,
        database_backends_warm: request.database_backends_warm,
        statement_timeout_ms: request.statement_timeout_ms,
        idle_in_transaction_timeout_ms: request.idle_in_transaction_timeout_ms,
        storage_bytes: request.storage_bytes,
    };
    check_limits(&plan)?;
    let mut client = control.catalog.client().await?;
    let change = client.change(operator.author(&control)).await?;
    change.put_plan(&plan).await?;
    change.audit("plan.put", None, plan.name.as_str(), &json!(plan)).await?;
    change.commit().await?;
    Ok(Json(plan))
}

/// The greatest weight: with more a tenant's use of backends would count as
/// next to nothing.
const WEIGHT_MAX: u32 = 1_000;

/// A limit of 0 would be a suspension in disguise, and the catalog keeps 31
/// and 63 bits.
fn check_limits(plan: &Plan) -> Result<(), Problem> {
    let small = [
        ("/requests_per_second", plan.requests_per_second, 1),
        ("/burst", plan.burst, 0),
        ("/requests_in_flight", plan.requests_in_flight, 1),
        ("/database_connections", plan.database_connections, 1),
        ("/database_backends", plan.database_backends, 1),
        ("/database_backends_warm", plan.database_backends_warm, 0),
        ("/statement_timeout_ms", plan.statement_timeout_ms, 1),
        ("/idle_in_transaction_timeout_ms", plan.idle_in_transaction_timeout_ms, 1),
    ];
    let large = [("/daily_quota", plan.daily_quota), ("/storage_bytes", plan.storage_bytes)];
    let too = |pointer: &str, rule: String| {
        Err(Problem::new(Code::InvalidRequest, "A limit is out of range.").at(pointer, rule))
    };
    for (pointer, value, least) in small {
        if value.is_some_and(|value| value < least || i32::try_from(value).is_err()) {
            return too(pointer, format!("from {least} to {}", i32::MAX));
        }
    }
    if !(1..=WEIGHT_MAX).contains(&plan.database_weight) {
        return too("/database_weight", format!("from 1 to {WEIGHT_MAX}"));
    }
    for (pointer, value) in large {
        if value.is_some_and(|value| i64::try_from(value).is_err()) {
            return too(pointer, format!("at the most {}", i64::MAX));
        }
    }
    Ok(())
}
