//! Staged rollouts, and which clients run with which version.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use insula_api::{
    AcknowledgeConfig, ConfigClientState, ConfigClients, ConfigRollout, Page, StartConfigRollout,
    SteerConfigRollout,
};
use insula_config_model::Plan;
use insula_config_proto::v1;
use insula_problem::{Code, Problem};
use serde::Deserialize;
use utoipa::IntoParams;

use super::call::{ApiError, Call, Values};
use super::documents::{clients, rollout};
use super::writes::{body, put, to};
use crate::reading::page;
use crate::rollouts::{NewRollout, Steer, share};
use crate::service::Service;
use crate::writing::{NewOp, NewWrite};

/// Show a staged rollout
///
/// The last one of the key, with what clients say of the version.
#[utoipa::path(
    get, path = "/config/{key}/rollout", tag = "config", security(("operator" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG")
    ),
    responses((status = 200, body = ConfigRollout))
)]
pub async fn show_config_rollout(
    State(service): State<Arc<Service>>,
    call: Call,
) -> Result<Json<ConfigRollout>, ApiError> {
    let found = service.rollout(&call.caller, &call.scope, &call.key()).await?;
    Ok(Json(rollout(&found, service.now())))
}

/// Roll a new version out in stages
///
/// The tenants of the first step see it at once, more with each step; the others
/// see the version before. It is taken back by itself where clients refuse it.
#[utoipa::path(
    post, path = "/config/{key}/rollout", tag = "config", security(("operator" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the version that is to be the newest"),
    ),
    request_body = StartConfigRollout,
    responses((status = 200, body = ConfigRollout))
)]
pub async fn start_config_rollout(
    State(service): State<Arc<Service>>,
    call: Call,
    request: Request,
) -> Result<Json<ConfigRollout>, ApiError> {
    let asked = started(&call, body(request).await?)?;
    let begun = service.start_rollout(&call.caller, asked).await?;
    Ok(Json(rollout(&begun, service.now())))
}

fn started(call: &Call, asked: StartConfigRollout) -> Result<NewRollout, Problem> {
    let is_older = asked.version.is_some() || asked.label.is_some();
    let ways = [asked.value.is_some() || asked.large.is_some(), is_older, asked.remove];
    if ways.into_iter().filter(|way| *way).count() != 1 {
        let detail = "A rollout has a value, or an older version or its label, or removes: one of them.";
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let op = match put(asked.value, asked.large, "")? {
        Some(put) => put,
        None if asked.remove => NewOp::Remove,
        None => NewOp::Rollback(to(asked.version, asked.label)?),
    };
    let write = NewWrite {
        scope: call.scope.clone(),
        key: call.key(),
        op,
        if_version: asked.if_version.or(call.if_version),
        note: asked.note,
    };
    let steps = asked.steps.into_iter().map(share).collect::<Result<_, _>>()?;
    let plan = Plan {
        steps,
        tenants: Vec::new(),
        bake_seconds: asked.bake_seconds,
        rejections: asked.rejections,
        confirmations: asked.confirmations,
    };
    Ok(NewRollout { write, plan, tenants: asked.tenants })
}

/// Pause, resume or abort a staged rollout
///
/// Aborted, the version before is set again as a new one.
#[utoipa::path(
    post, path = "/config/{key}/rollout/{act}", tag = "config", security(("operator" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("act" = String, Path, description = "pause, resume or abort"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG")
    ),
    request_body = SteerConfigRollout,
    responses((status = 200, body = ConfigRollout))
)]
pub async fn steer_config_rollout(
    State(service): State<Arc<Service>>,
    call: Call,
    request: Request,
) -> Result<Json<ConfigRollout>, ApiError> {
    let asked: SteerConfigRollout = body(request).await?;
    let unknown = || {
        let detail = "A rollout is paused, resumed or aborted: pause, resume, abort.";
        Problem::new(Code::InvalidRequest, detail).at("/act", "is none of these")
    };
    let steer = Steer::named(&call.part("act")).ok_or_else(unknown)?;
    let place = (call.scope.as_str(), call.key());
    let steered = service.steer_rollout(&call.caller, (place.0, &place.1), steer, asked.cause).await?;
    Ok(Json(rollout(&steered, service.now())))
}

/// List the staged rollouts that are under way in a scope
#[utoipa::path(
    get, path = "/config-rollouts", tag = "config", security(("operator" = [])),
    params(("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG")),
    responses((status = 200, body = Page<ConfigRollout>))
)]
pub async fn list_config_rollouts(
    State(service): State<Arc<Service>>,
    call: Call,
) -> Result<Json<Page<ConfigRollout>>, ApiError> {
    let found = service.rollouts(&call.caller, &call.scope).await?;
    let items = found.iter().map(|one| rollout(one, service.now())).collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// Which clients.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ClientsQuery {
    /// At most so many clients; 100 where it is left out, 1000 at the most.
    limit: Option<i64>,
}

/// Show which clients run with which version
///
/// The tenant's own, and for the provider's scopes those of all tenants.
#[utoipa::path(
    get, path = "/config/{key}/clients", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG"),
        ClientsQuery
    ),
    responses((status = 200, body = ConfigClients))
)]
pub async fn list_config_clients(
    State(service): State<Arc<Service>>,
    call: Call,
    Values(query): Values<ClientsQuery>,
) -> Result<Json<ConfigClients>, ApiError> {
    let (key, limit) = (call.key(), page(query.limit.unwrap_or(0)));
    let found = service.clients(&call.caller, (&call.scope, &key), limit).await?;
    Ok(Json(clients(found)))
}

/// Say what a client runs with
///
/// What it has received and taken over, or refuses to: what `clients` shows, and
/// what staged rollouts wait for.
#[utoipa::path(
    post, path = "/config-clients/{client}", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("client" = String, Path, description = "Who it is among the tenant's clients, 1 to 100 bytes"),
        ("scope" = Option<String>, Query, description = "tenant/SLUG")
    ),
    request_body = AcknowledgeConfig,
    responses((status = 204))
)]
pub async fn acknowledge_config(
    State(service): State<Arc<Service>>,
    call: Call,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let asked: AcknowledgeConfig = body(request).await?;
    let state = |state: ConfigClientState| v1::acknowledge_request::State {
        key: state.key,
        version: state.version,
        rejection: state.rejection.unwrap_or_default(),
        set_in: state.scope.unwrap_or_default(),
    };
    let told = v1::AcknowledgeRequest {
        client_id: call.part("client"),
        revision: asked.revision,
        states: asked.states.into_iter().map(state).collect(),
        scope: call.scope.clone(),
    };
    service.acknowledge(&call.caller, told).await?;
    Ok(StatusCode::NO_CONTENT)
}
