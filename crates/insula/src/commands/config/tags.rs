//! `insula config tags …`

use std::time::Duration;

use insula_api::{ConfigEntry, ConfigTagPlace, MoveConfigTag};
use insula_config_model::TagTable;
use reqwest::Method;

use super::path;
use crate::args::{ConfigTagsCommand, Format, Place};
use crate::client::{Client, Failure, segment};
use crate::output::{self, or_dash, time};

/// Where tags are kept.
const PLACES: &str = "/v1/config-tags";
/// How often it is asked how far a move is.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Runs the command.
pub async fn run(client: &Client, format: Format, command: Option<ConfigTagsCommand>) -> Result<(), Failure> {
    match command {
        None => list(client, format).await,
        Some(ConfigTagsCommand::Where) => show(format, &client.list(PLACES).await?),
        Some(ConfigTagsCommand::Move { tag, to, no_wait }) => {
            let at = format!("{PLACES}/{}/move", segment(&tag));
            let begun: ConfigTagPlace =
                client.send(Method::POST, &at, &MoveConfigTag { to: to.clone() }).await?;
            let place = if no_wait { begun } else { moved(client, &tag, &to).await? };
            show(format, &[place])
        }
    }
}

/// Waits until a tag is where it was to go.
async fn moved(client: &Client, tag: &str, to: &str) -> Result<ConfigTagPlace, Failure> {
    loop {
        let places: Vec<ConfigTagPlace> = client.list(PLACES).await?;
        let place = places.into_iter().find(|place| place.tag == tag);
        let place = place.ok_or_else(|| Failure::local("config_tag_unknown", format!("{tag} is gone.")))?;
        match (&place.to, place.state.as_str()) {
            // One that was called back has failed, and is where it was to be.
            (None, _) | (Some(_), "failed") if place.backend == to => return Ok(place),
            (Some(_), "failed") | (None, _) => {
                let cause = if place.cause.is_empty() { "It is not known why." } else { &place.cause };
                let detail = format!("{tag} stays in {}: {cause}", place.backend);
                return Err(Failure::local("config_tag_not_moved", detail));
            }
            _ => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

fn show(format: Format, places: &[ConfigTagPlace]) -> Result<(), Failure> {
    let columns = ["tag", "backend", "state", "to", "waits for", "since", "cause"];
    output::list(format, places, &columns, |place| {
        vec![
            place.tag.clone(),
            place.backend.clone(),
            place.state.clone(),
            or_dash(place.to.as_ref()),
            if place.waits_for.is_empty() { "-".to_owned() } else { place.waits_for.join(", ") },
            place.since.map_or("-".to_owned(), time),
            if place.cause.is_empty() { "-".to_owned() } else { place.cause.clone() },
        ]
    })
}

/// The table of tags.
async fn list(client: &Client, format: Format) -> Result<(), Failure> {
    if client.is_tenant() {
        // It is the provider's, who says that.
        client.list::<ConfigTagPlace>(PLACES).await?;
    }
    let place = Place { tenant: None, scope: Some("platform".to_owned()) };
    let found: Result<ConfigEntry, Failure> =
        client.get(&path(client, &place, &format!("/{}", TagTable::KEY), &[])).await;
    let table = match found {
        Ok(entry) => {
            entry.value.and_then(|json| TagTable::parse(json.get().as_bytes()).ok()).unwrap_or_default()
        }
        Err(Failure::Problem(problem)) if problem.code == "config_key_not_found" => TagTable::default(),
        Err(failure) => return Err(failure),
    };
    if format == Format::Json {
        return output::json(&table);
    }
    let rows: Vec<_> = table.iter().collect();
    let columns = ["tag", "kind", "backend", "bytes", "history", "inherited", "aliases"];
    output::list(format, &rows, &columns, |(prefix, tag)| {
        let kind = serde_json::to_value(tag.kind).unwrap_or_default();
        vec![
            (*prefix).to_owned(),
            kind.as_str().unwrap_or_default().to_owned(),
            tag.backend.clone(),
            tag.max_bytes.to_string(),
            tag.history.to_string(),
            tag.inherited.to_string(),
            tag.aliases.join(", "),
        ]
    })
}
