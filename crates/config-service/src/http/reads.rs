//! Reading values, lists, versions and where a value comes from.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use insula_api::{ConfigEntry, ConfigExplained, ConfigRead, Page};
use insula_problem::{Code, Problem};
use serde::Deserialize;
use utoipa::IntoParams;

use super::call::{ApiError, Call, Values};
use super::documents::{self, entry, etag, read};
use super::events::{self, Wanted};
use crate::reading::{Asked, Which, after, no_cursor, page};
use crate::service::Service;

/// Which values.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only what is set in the scope itself.
    #[serde(default)]
    own: bool,
    /// Show secrets in clear, which is written down.
    #[serde(default)]
    reveal: bool,
    /// At most so many; 100 where it is left out, 1000 at the most.
    limit: Option<i64>,
    /// The cursor of the page before.
    cursor: Option<String>,
    /// Of a watch: who the client is among the tenant's, 100 bytes at the most.
    /// One is given where it is left out.
    #[serde(default)]
    client_id: String,
}

/// List values, or watch them
///
/// As a tenant sees them. With `Accept: text/event-stream` it is a watch: a
/// snapshot, then each change, as server-sent events whose names are `snapshot`,
/// `delta` and `heartbeat`. The header `Insula-Revision` of a list says up to
/// which change it is true.
#[utoipa::path(
    get, path = "/config", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG"),
        ("prefix" = Option<Vec<String>>, Query, description = "What their keys begin with; one of a list, up to 20 of a watch"),
        ("Last-Event-ID" = Option<String>, Header, description = "Of a watch: the id of the last event, behind which it goes on"),
        ListQuery
    ),
    responses((status = 200, body = Page<ConfigEntry>))
)]
pub async fn list_config(
    State(service): State<Arc<Service>>,
    call: Call,
    Values(query): Values<ListQuery>,
    Values(pairs): Values<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let prefixes = pairs.into_iter().filter(|(name, _)| name == "prefix").map(|(_, prefix)| prefix);
    let mut prefixes: Vec<String> = prefixes.filter(|prefix| !prefix.is_empty()).collect();
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepted.split(',').any(|media| media.trim().starts_with("text/event-stream")) {
        let wanted = Wanted { prefixes, client_id: query.client_id, reveal: query.reveal };
        return events::stream(&service, call, wanted).await;
    }
    if prefixes.len() > 1 {
        let detail = "A list has one prefix. A watch can have several.";
        return Err(Problem::new(Code::InvalidRequest, detail).into());
    }
    let after = after(query.cursor.as_deref().unwrap_or_default())?;
    let asked = Asked {
        key: prefixes.pop().unwrap_or_default(),
        scope: call.scope,
        own: query.own,
        which: None,
        reveal: query.reveal,
    };
    let listed = service.list(&call.caller, &asked, page(query.limit.unwrap_or(0)), after.as_ref()).await?;
    let items = listed.entries.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    let page = Page { items, next_cursor: listed.cursor() };
    Ok(([("insula-revision", listed.revision.to_string())], Json(page)).into_response())
}

/// Which version of a value.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ShowQuery {
    /// Only what is set in the scope itself.
    #[serde(default)]
    own: bool,
    /// A version of the scope itself, by its number.
    version: Option<i64>,
    /// A version of the scope itself, by a label.
    label: Option<String>,
    /// Show a secret in clear, which is written down.
    #[serde(default)]
    reveal: bool,
}

/// Show a value
///
/// As a tenant sees it. The ETag is the version, where it is the scope's own.
#[utoipa::path(
    get, path = "/config/{key}", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG"), ShowQuery
    ),
    responses((status = 200, body = ConfigEntry))
)]
pub async fn show_config(
    State(service): State<Arc<Service>>,
    call: Call,
    Values(query): Values<ShowQuery>,
) -> Result<Response, ApiError> {
    let which = match (query.version, query.label) {
        (Some(_), Some(_)) => {
            return Err(Problem::new(
                Code::InvalidRequest,
                "A version is named by its number or by a label.",
            )
            .into());
        }
        (Some(version), None) => Some(Which::Version(version)),
        (None, label) => label.map(Which::Label),
    };
    let own = service.directory().named(&call.caller, &call.scope)?.scope();
    let asked = Asked { key: call.key(), scope: call.scope, own: query.own, which, reveal: query.reveal };
    let found = service.get(&call.caller, &asked).await?;
    Ok((etag(&found, Some(&own)), Json(entry(&found)?)).into_response())
}

/// Which versions.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// At most so many; 100 where it is left out, 1000 at the most.
    limit: Option<i64>,
    /// The cursor of the page before.
    cursor: Option<String>,
    /// Show secrets in clear, which is written down.
    #[serde(default)]
    reveal: bool,
}

/// List the versions of a key in a scope, the newest first
#[utoipa::path(
    get, path = "/config/{key}/history", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG"), HistoryQuery
    ),
    responses((status = 200, body = Page<ConfigEntry>))
)]
pub async fn config_history(
    State(service): State<Arc<Service>>,
    call: Call,
    Values(query): Values<HistoryQuery>,
) -> Result<Json<Page<ConfigEntry>>, ApiError> {
    let before = query.cursor.map(|cursor| cursor.parse::<i64>().map_err(|_| no_cursor())).transpose()?;
    let limit = page(query.limit.unwrap_or(0));
    let asked = Asked { key: call.key(), scope: call.scope, own: true, which: None, reveal: query.reveal };
    let page = service.history(&call.caller, &asked, before, limit).await?;
    let next_cursor = page.next.map(|next| next.to_string());
    let items = page.versions.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(Page { items, next_cursor }))
}

/// Say where a value comes from
///
/// Every scope that counts, the strongest first.
#[utoipa::path(
    get, path = "/config/{key}/explain", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG")
    ),
    responses((status = 200, body = ConfigExplained))
)]
pub async fn explain_config(
    State(service): State<Arc<Service>>,
    call: Call,
) -> Result<Json<ConfigExplained>, ApiError> {
    let explained = service.explain(&call.caller, &call.scope, &call.key()).await?;
    Ok(Json(documents::explained(&explained)?))
}

/// Which bytes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FetchQuery {
    /// Only if they are those with this SHA-256, in hexadecimal digits.
    #[serde(default)]
    sha256: String,
}

/// Fetch the bytes of a large value
#[utoipa::path(
    get, path = "/config/{key}/content", tag = "config", security(("operator" = []), ("tenant" = [])),
    params(
        ("key" = String, Path, description = "The key; its slashes are %2F"),
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG"), FetchQuery
    ),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"))
)]
pub async fn fetch_config(
    State(service): State<Arc<Service>>,
    call: Call,
    Values(query): Values<FetchQuery>,
) -> Result<Response, ApiError> {
    let large = service.fetch(&call.caller, &call.scope, &call.key(), &query.sha256).await?;
    // Whatever its author says that it is, a browser does not run it.
    let headers = [
        (CONTENT_TYPE.as_str(), large.blob.media_type),
        (CONTENT_LENGTH.as_str(), large.blob.bytes.to_string()),
        ("content-disposition", "attachment".to_owned()),
        ("x-content-type-options", "nosniff".to_owned()),
    ];
    Ok((headers, Body::from_stream(large.bytes)).into_response())
}

/// Whose looks at secrets.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ReadsQuery {
    /// Of this key alone.
    key: Option<String>,
    /// At most so many; 100 where it is left out, 1000 at the most.
    limit: Option<i64>,
}

/// List who was shown which secret, the latest first
///
/// Each look is written down before the secret is shown, and kept for 400 days.
#[utoipa::path(
    get, path = "/config-reads", tag = "config", security(("operator" = [])),
    params(
        ("scope" = Option<String>, Query, description = "platform, region/NAME, tier/NAME or tenant/SLUG"), ReadsQuery
    ),
    responses((status = 200, body = Page<ConfigRead>))
)]
pub async fn list_config_reads(
    State(service): State<Arc<Service>>,
    call: Call,
    Values(query): Values<ReadsQuery>,
) -> Result<Json<Page<ConfigRead>>, ApiError> {
    let place = (call.scope.as_str(), query.key.as_deref());
    let found = service.reads(&call.caller, place, page(query.limit.unwrap_or(0))).await?;
    Ok(Json(Page { items: found.into_iter().map(read).collect(), next_cursor: None }))
}
