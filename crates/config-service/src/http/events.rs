//! A watch as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//! The id of an event is its revision and the mark of the view, which a client
//! gives back as `Last-Event-ID`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures_util::stream;
use insula_api::{ConfigBlob, ConfigEntry, ConfigEvent};
use insula_config_proto::v1;
use insula_config_proto::v1::watch_event::Event;
use insula_problem::Problem;
use prost::Message;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::call::{ApiError, Call};
use crate::service::Service;
use crate::watching::{WatchAsked, Watcher};

/// What is watched, and by whom.
#[derive(Debug)]
pub struct Wanted {
    /// What keys begin with; all where there is none.
    pub prefixes: Vec<String>,
    /// Who the client is; empty where it is to be given an id.
    pub client_id: String,
    /// Secrets in clear.
    pub reveal: bool,
}

/// Begins the stream.
pub async fn stream(service: &Arc<Service>, call: Call, wanted: Wanted) -> Result<Response, ApiError> {
    let (from, view) = call.last_event();
    let Wanted { prefixes, client_id, reveal } = wanted;
    let (scope, arrival) = (call.scope, call.arrival);
    let asked = WatchAsked { prefixes, from, view: view.clone(), scope, client_id, reveal, arrival };
    let watcher = service.watch(call.caller, asked).await?;
    let told = stream::unfold((Some(watcher), view), |(watcher, mut view)| async move {
        let mut watcher: Watcher = watcher?;
        let (text, goes_on) = match watcher.next().await? {
            Ok(frame) => {
                let mut bytes = BytesMut::new();
                frame.put(&mut bytes);
                match v1::WatchEvent::decode(bytes.freeze())
                    .map_err(Problem::internal)
                    .and_then(|event| text(event, &mut view))
                {
                    Ok(text) => (text, true),
                    Err(problem) => (last(&problem), false),
                }
            }
            Err(problem) => (last(&problem), false),
        };
        let text = match watcher.sent() {
            Some(sent) => sent.hold(Bytes::from(text)),
            None => Bytes::from(text),
        };
        Some((Ok::<_, Infallible>(text), (goes_on.then_some(watcher), view)))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream")];
    Ok((headers, Body::from_stream(told)).into_response())
}

/// What ends a stream: the client connects again, and is answered there.
fn last(problem: &Problem) -> String {
    tracing::info!(cause = problem.chain(), "a watch has ended");
    let body = serde_json::to_string(&problem.to_body(None)).unwrap_or_default();
    format!("event: end\ndata: {body}\n\n")
}

fn text(event: v1::WatchEvent, view: &mut String) -> Result<String, Problem> {
    let (name, told) = match event.event {
        Some(Event::Snapshot(snapshot)) => {
            let reason = snapshot.reason().as_str_name().to_lowercase();
            view.clone_from(&snapshot.view);
            let told = ConfigEvent {
                entries: entries(snapshot.entries)?,
                more: snapshot.more,
                reason: Some(reason),
                ..until(snapshot.revision, snapshot.client_id)
            };
            ("snapshot", told)
        }
        Some(Event::Delta(delta)) => {
            let (entries, removed) = (entries(delta.entries)?, delta.removed);
            ("delta", ConfigEvent { entries, removed, ..until(delta.revision, String::new()) })
        }
        Some(Event::Heartbeat(heartbeat)) => ("heartbeat", until(heartbeat.revision, heartbeat.client_id)),
        None => return Err(Problem::internal("an event is empty")),
    };
    // A part of a snapshot is nothing to come back to.
    let id = if told.more { String::new() } else { format!("id: {}.{view}\n", told.revision) };
    let data = serde_json::to_string(&told).map_err(Problem::internal)?;
    Ok(format!("event: {name}\n{id}data: {data}\n\n"))
}

/// An event that says nothing beside how far it is true, and to whom.
fn until(revision: i64, client_id: String) -> ConfigEvent {
    ConfigEvent {
        revision,
        entries: Vec::new(),
        removed: Vec::new(),
        more: false,
        reason: None,
        client_id: Some(client_id).filter(|id| !id.is_empty()),
    }
}

fn entries(entries: Vec<v1::Entry>) -> Result<Vec<ConfigEntry>, Problem> {
    entries.into_iter().map(entry).collect()
}

fn entry(entry: v1::Entry) -> Result<ConfigEntry, Problem> {
    use v1::entry::Value;
    let (mut value, mut blob, mut sealed, mut removed) = (None, None, false, false);
    match entry.value {
        Some(Value::Json(json)) => {
            let text =
                String::from_utf8(json.to_vec()).map_err(|_| Problem::internal("a value is not UTF-8"))?;
            value = Some(RawValue::from_string(text).map_err(|_| Problem::internal("a value is not JSON"))?);
        }
        Some(Value::Blob(found)) => {
            blob =
                Some(ConfigBlob { sha256: found.sha256, bytes: found.bytes, media_type: found.media_type });
        }
        Some(Value::Sealed(_)) => sealed = true,
        Some(Value::Removed(_)) | None => removed = true,
    }
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(entry.at_us) * 1_000)
        .map_err(Problem::internal)?;
    Ok(ConfigEntry {
        key: entry.key,
        scope: entry.scope,
        version: entry.version,
        revision: entry.revision,
        value,
        blob,
        sealed,
        secret: entry.secret,
        removed,
        labels: entry.labels,
        author: entry.author,
        at,
        note: entry.note,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_a_name_an_id_and_one_line_of_data() {
        let entry = v1::Entry {
            key: "tenant_config_a".to_owned(),
            scope: "platform".to_owned(),
            value: Some(v1::entry::Value::Json(Bytes::from_static(b"{\"a\":1.50}"))),
            ..v1::Entry::default()
        };
        let delta =
            v1::watch_event::Delta { revision: 7, since: 5, entries: vec![entry], removed: vec!["b".into()] };
        let mut view = "v".to_owned();
        let said = text(v1::WatchEvent { event: Some(Event::Delta(delta)) }, &mut view).unwrap();
        assert!(said.starts_with("event: delta\nid: 7.v\ndata: {"), "{said}");
        assert!(said.ends_with("}\n\n") && said.contains("\"value\":{\"a\":1.50}"), "{said}");
        assert_eq!(said.lines().count(), 4);
    }
}
