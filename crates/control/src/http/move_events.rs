//! `/v1/moves/{move}/events`: a move as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>). The id of
//! an event is the mark of the state that it tells.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use insula_problem::Problem;

use super::auth::LastingOperator;
use super::error::ApiError;
use super::extract::Named;
use super::moves::parse;
use crate::Control;
use crate::moves::follow::{Following, Told};

/// Follow a move
///
/// As server-sent events: `move` with the whole of it at once and whenever it has changed, `heartbeat` every ten seconds
/// without a change, and `end` with a problem where it cannot go on. It ends with the move; until then, who comes back
/// with `Last-Event-ID` is told what has become of it since. 204 where it has ended and all of it is known.
#[utoipa::path(
    get, path = "/v1/moves/{move}/events", tag = "moves", security(("operator" = [])),
    params(
        ("move" = String, Path, description = "Id"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received"),
    ),
    responses(
        (status = 200, body = String, content_type = "text/event-stream"),
        (status = 204, description = "The move has ended, and its last state is known"),
    )
)]
pub async fn follow_move(
    State(control): State<Arc<Control>>,
    operator: LastingOperator,
    Named(id): Named<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let Some(following) = Following::begin(control.clone(), parse(&id)?, seen).await? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let events = stream::unfold(Some((following, operator)), move |state| {
        let control = control.clone();
        async move {
            let (mut following, mut operator) = state?;
            let (text, goes_on) = match told(&control, &mut following, &mut operator).await {
                Ok(text) => (text?, true),
                Err(problem) => (last(&problem), false),
            };
            Some((Ok::<_, Infallible>(Bytes::from(text)), goes_on.then_some((following, operator))))
        }
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// The next event; a credential that has ended is not told any more.
async fn told(
    control: &Control,
    following: &mut Following,
    operator: &mut LastingOperator,
) -> Result<Option<String>, Problem> {
    let Some(told) = following.next().await? else { return Ok(None) };
    operator.check(control).await?;
    Ok(Some(match told {
        Told::Alive => "event: heartbeat\ndata: {}\n\n".to_owned(),
        Told::Changed(mark, found) => {
            let data = serde_json::to_string(&found).map_err(Problem::internal)?;
            format!("event: move\nid: {mark}\ndata: {data}\n\n")
        }
    }))
}

/// What ends a stream: the client connects again, and is answered there.
fn last(problem: &Problem) -> String {
    tracing::info!(cause = problem.chain(), "following a move has ended");
    let body = serde_json::to_string(&problem.to_body(None)).unwrap_or_default();
    format!("event: end\ndata: {body}\n\n")
}
