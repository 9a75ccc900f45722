//! Where tags are kept, their moves, and what is told of changes behind our back:
//! the provider's alone.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use insula_api::{ConfigEventsTaken, ConfigTagPlace, MoveConfigTag, Page};

use super::call::{ApiError, Call};
use super::writes::{body, bytes};
use crate::backends::TagPlace;
use crate::service::Service;

fn place(place: TagPlace) -> ConfigTagPlace {
    let TagPlace { tag, backend, is_reached, moving } = place;
    let state = match &moving {
        Some(moving) => moving.state.as_str(),
        None if is_reached => "ready",
        None => "unreachable",
    };
    let waits_for = moving.iter().filter(|moving| moving.is_under_way());
    ConfigTagPlace {
        tag,
        backend,
        state: state.to_owned(),
        waits_for: waits_for.flat_map(|moving| moving.parts.difference(&moving.done).cloned()).collect(),
        since: moving.as_ref().map(|moving| moving.since),
        cause: moving.as_ref().map(|moving| moving.cause.clone()).unwrap_or_default(),
        to: moving.map(|moving| moving.to),
    }
}

/// List the tags with the backends that keep their values
#[utoipa::path(
    get, path = "/config-tags", tag = "config", security(("operator" = [])),
    responses((status = 200, body = Page<ConfigTagPlace>))
)]
pub async fn list_config_tags(
    State(service): State<Arc<Service>>,
    call: Call,
) -> Result<Json<Page<ConfigTagPlace>>, ApiError> {
    let items = service.tag_places(&call.caller).await?.into_iter().map(place).collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// Move a tag to another backend
///
/// Its values are brought while they are written, and writes wait for a moment at
/// the end. How far it is, is said by the list.
#[utoipa::path(
    post, path = "/config-tags/{tag}/move", tag = "config", security(("operator" = [])),
    params(("tag" = String, Path, description = "The tag")),
    request_body = MoveConfigTag,
    responses((status = 202, body = ConfigTagPlace))
)]
pub async fn move_config_tag(
    State(service): State<Arc<Service>>,
    call: Call,
    request: Request,
) -> Result<(StatusCode, Json<ConfigTagPlace>), ApiError> {
    let asked: MoveConfigTag = body(request).await?;
    let begun = service.move_tag(&call.caller, &call.part("tag"), &asked.to).await?;
    Ok((StatusCode::ACCEPTED, Json(place(begun))))
}

/// Tell of changes in a backend
///
/// An event as EventBridge sends it, or a list of up to 100: of Parameter Store
/// (`detail.name`), or a record of a DynamoDB stream. The keys are looked at at once.
#[utoipa::path(
    post, path = "/config/events", tag = "config", security(("operator" = [])),
    request_body = serde_json::Value,
    responses((status = 200, body = ConfigEventsTaken))
)]
pub async fn take_config_events(
    State(service): State<Arc<Service>>,
    call: Call,
    request: Request,
) -> Result<Json<ConfigEventsTaken>, ApiError> {
    let body = bytes(request).await?;
    let (looked_at, ignored) = service.take_events(&call.caller, &body).await?;
    Ok(Json(ConfigEventsTaken { looked_at, ignored }))
}
