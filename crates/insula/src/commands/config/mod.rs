//! `insula config …`

mod changes;
mod content;
mod rollout;
mod tags;
mod watch;

use std::io::Read;
use std::path::Path;

use insula_api::{
    ConfigEntry, ConfigExplained, ConfigRead, ConfigTransacted, ConfigWritten, LabelConfig, Page,
    RollbackConfig, TransactConfig,
};
use reqwest::Method;

use crate::args::{ConfigCommand, Format, Place, Said};
use crate::client::{Client, Failure, query, segment};
use crate::output::{self, or_dash, time};

/// The longest value that is shown whole among others on a terminal, in characters.
const SHOWN_MAX: usize = 60;

/// Runs the command.
pub async fn run(client: &Client, format: Format, command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Put { key, value, file, string, media_type, place, said } => {
            let bytes = document(value, file.as_deref(), string)?;
            let media_type = media_type.unwrap_or_else(|| "application/json".to_owned());
            let path = path(client, &place, &of(&key)?, &[("note", &said.note)]);
            let body = (media_type.as_str(), bytes);
            let done = client.send_bytes(Method::PUT, &path, Some(body), &headers(said)).await;
            written(format, &done.map_err(hinted)?)
        }
        ConfigCommand::Get { key, version, label, own, reveal, raw, place } => {
            let (version, own, reveal) =
                (version.map(|version| version.to_string()), flag(own), flag(reveal));
            let asked = [("version", &version), ("label", &label), ("own", &own), ("reveal", &reveal)];
            let path = path(client, &place, &of(&key)?, &asked);
            let found: ConfigEntry = client.get(&path).await?;
            if raw { print_raw(&found) } else { show(format, &found) }
        }
        ConfigCommand::List { prefix, own, reveal, limit, place } => {
            let (own, reveal) = (flag(own), flag(reveal));
            let path = path(client, &place, "", &[("prefix", &prefix), ("own", &own), ("reveal", &reveal)]);
            let entries: Vec<ConfigEntry> =
                client.list_from(&path, None, limit.unwrap_or(usize::MAX)).await?;
            let columns = ["key", "value", "scope", "version", "author", "at"];
            output::list(format, &entries, &columns, |entry| {
                vec![
                    entry.key.clone(),
                    in_table(entry),
                    entry.scope.clone(),
                    entry.version.to_string(),
                    entry.author.clone(),
                    time(entry.at),
                ]
            })
        }
        ConfigCommand::Fetch { key, file, sha256, place } => {
            let path = path(client, &place, &format!("{}/content", of(&key)?), &[("sha256", &sha256)]);
            content::fetch(client.content(&path).await?, file.as_deref()).await
        }
        ConfigCommand::Remove { key, place, said } => {
            let path = path(client, &place, &of(&key)?, &[("note", &said.note)]);
            let done = client.send_bytes(Method::DELETE, &path, None, &headers(said)).await?;
            written(format, &done)
        }
        ConfigCommand::History { key, reveal, limit, before, place } => {
            let (reveal, before) = (flag(reveal), before.map(|before| before.to_string()));
            let path = path(client, &place, &format!("{}/history", of(&key)?), &[("reveal", &reveal)]);
            history(format, &client.list_from(&path, before, limit.unwrap_or(usize::MAX)).await?)
        }
        ConfigCommand::Rollback { key, to, label, place, said } => {
            let request = RollbackConfig { version: to, label, note: said.note.clone().unwrap_or_default() };
            let path = path(client, &place, &format!("{}/rollback", of(&key)?), &[]);
            let body = ("application/json", to_json(&request)?);
            let done = client.send_bytes(Method::POST, &path, Some(body), &headers(said)).await?;
            written(format, &done)
        }
        ConfigCommand::Label { key, label, version, place } => {
            let rest = format!("{}/labels/{}", of(&key)?, part("label", &label)?);
            let path = path(client, &place, &rest, &[]);
            let done: ConfigWritten = match version {
                Some(version) => client.send(Method::PUT, &path, &LabelConfig { version }).await?,
                None => client.order(Method::DELETE, &path).await?,
            };
            written(format, &done)
        }
        ConfigCommand::Explain { key, place } => {
            let path = path(client, &place, &format!("{}/explain", of(&key)?), &[]);
            explain(format, &client.get(&path).await?)
        }
        ConfigCommand::Watch(asked) => {
            let (prefixes, reveal) = (asked.prefix.into_iter().map(Some), flag(asked.reveal));
            let prefixes: Vec<_> = prefixes.collect();
            let mut query = vec![("reveal", &reveal), ("client_id", &asked.client_id)];
            query.extend(prefixes.iter().map(|prefix| ("prefix", prefix)));
            let path = path(client, &asked.place, "", &query);
            watch::run(client, format, &path, (asked.changes, asked.after)).await
        }
        ConfigCommand::Acknowledge(said) => rollout::acknowledge(client, *said).await,
        ConfigCommand::Transact { file, idempotency_key, place } => {
            let text = read(&file)?;
            let request: TransactConfig = serde_json::from_slice(&text)
                .map_err(|error| Failure::local("invalid_request", format!("{}: {error}", file.display())))?;
            let headers: Vec<_> = idempotency_key.map(|key| ("idempotency-key", key)).into_iter().collect();
            let path = path(client, &place, "", &[]);
            let body = ("application/json", to_json(&request)?);
            let done: ConfigTransacted = client.send_bytes(Method::POST, &path, Some(body), &headers).await?;
            output::list(format, &done.written, &["version", "revision"], |written| {
                vec![written.version.to_string(), written.revision.to_string()]
            })
        }
        ConfigCommand::Clients { key, limit, place } => {
            let limit = limit.map(|limit| limit.to_string());
            let path = path(client, &place, &format!("{}/clients", of(&key)?), &[("limit", &limit)]);
            rollout::clients(format, &client.get(&path).await?)
        }
        ConfigCommand::Reads { key, limit, place } => {
            let limit = limit.map(|limit| limit.to_string());
            let path = path(client, &place, "-reads", &[("key", &key), ("limit", &limit)]);
            reads(format, &client.get::<Page<ConfigRead>>(&path).await?.items)
        }
        ConfigCommand::Rollout(command) => rollout::run(client, format, command).await,
        ConfigCommand::Tags { command } => tags::run(client, format, command).await,
    }
}

fn flag(is_set: bool) -> Option<String> {
    is_set.then(|| "true".to_owned())
}

/// The path of a place, with a query.
fn path(client: &Client, place: &Place, rest: &str, asked: &[(&str, &Option<String>)]) -> String {
    let (base, scope) = match (&place.tenant, &place.scope) {
        (Some(tenant), _) => (format!("/v1/tenants/{}/config", segment(tenant)), None),
        (None, Some(scope)) => ("/v1/config".to_owned(), Some(scope.clone())),
        // A tenant's key says itself whose the values are.
        (None, None) if client.is_tenant() => ("/v1/config".to_owned(), None),
        (None, None) => ("/v1/config".to_owned(), Some("platform".to_owned())),
    };
    let mut all = vec![("scope", &scope)];
    all.extend_from_slice(asked);
    format!("{base}{rest}{}", query(&all))
}

/// The path of a key, below that of its place.
fn of(key: &str) -> Result<String, Failure> {
    Ok(format!("/{}", part("key", key)?))
}

/// A part of a path that somebody has named. Those that would lead to another
/// path are refused here, as the server would refuse them.
fn part(what: &str, text: &str) -> Result<String, Failure> {
    if !["", ".", ".."].contains(&text) {
        return Ok(segment(text));
    }
    let code = if what == "label" { "config_label_invalid" } else { "config_key_invalid" };
    Err(Failure::local(code, format!("{text:?} is no {what}.")))
}

/// The condition of a write, and under what it is done once.
fn headers(said: Said) -> Vec<(&'static str, String)> {
    let condition = said.if_version.map(|version| match version {
        0 => ("if-none-match", "*".to_owned()),
        version => ("if-match", format!("\"{version}\"")),
    });
    let token = said.idempotency_key.map(|key| ("idempotency-key", key));
    condition.into_iter().chain(token).collect()
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: std::io::Error| Failure::local("file", format!("{}: {error}", file.display()));
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(unreadable)?;
        return Ok(bytes);
    }
    std::fs::read(file).map_err(unreadable)
}

fn document(value: Option<String>, file: Option<&Path>, is_text: bool) -> Result<Vec<u8>, Failure> {
    let bytes = match (value, file) {
        (Some(value), _) => value.into_bytes(),
        (None, Some(file)) => read(file)?,
        (None, None) => Vec::new(),
    };
    if !is_text {
        return Ok(bytes);
    }
    let text = String::from_utf8(bytes).map_err(|_| Failure::local("file", "The text is not UTF-8."))?;
    to_json(&text)
}

/// Whoever gives a word is told how.
fn hinted(failure: Failure) -> Failure {
    match failure {
        Failure::Problem(mut problem) if problem.detail.contains("value is not JSON") => {
            problem.detail.push_str(" A text that is no JSON is given with --string.");
            Failure::Problem(problem)
        }
        other => other,
    }
}

fn to_json<T: serde::Serialize>(document: &T) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(document).map_err(|error| Failure::local("invalid_request", error.to_string()))
}

fn written(format: Format, written: &ConfigWritten) -> Result<(), Failure> {
    let fields = [("version", written.version.to_string()), ("revision", written.revision.to_string())];
    output::one(format, written, &fields)
}

/// A value in a text: the JSON itself, or in words what is not shown.
fn value(entry: &ConfigEntry) -> String {
    match (&entry.value, &entry.blob) {
        (Some(json), _) => json.get().to_owned(),
        (None, Some(blob)) => format!("{} bytes of {}", blob.bytes, blob.media_type),
        (None, None) if entry.sealed => "(sealed)".to_owned(),
        (None, None) => "(removed)".to_owned(),
    }
}

/// A value as a table on a terminal has room for it; a pipe gets the whole.
fn in_table(entry: &ConfigEntry) -> String {
    let whole = value(entry);
    if output::is_terminal() { shortened(&whole) } else { whole }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= SHOWN_MAX {
        return text.to_owned();
    }
    format!("{}…", text.chars().take(SHOWN_MAX - 1).collect::<String>())
}

fn print_raw(entry: &ConfigEntry) -> Result<(), Failure> {
    let Some(json) = &entry.value else {
        let detail = format!("{} has no value that can be printed: {}.", entry.key, value(entry));
        return Err(Failure::local("no_value", detail));
    };
    output::json_line(json.get());
    Ok(())
}

fn show(format: Format, entry: &ConfigEntry) -> Result<(), Failure> {
    let fields = [
        ("key", entry.key.clone()),
        ("value", value(entry)),
        ("scope", entry.scope.clone()),
        ("version", entry.version.to_string()),
        ("revision", entry.revision.to_string()),
        ("labels", entry.labels.join(", ")),
        ("author", entry.author.clone()),
        ("at", time(entry.at)),
        ("note", entry.note.clone()),
    ];
    output::one(format, entry, &fields)
}

fn history(format: Format, versions: &[ConfigEntry]) -> Result<(), Failure> {
    output::list(format, versions, &["version", "value", "labels", "author", "at", "note"], |entry| {
        vec![
            entry.version.to_string(),
            in_table(entry),
            entry.labels.join(", "),
            entry.author.clone(),
            time(entry.at),
            entry.note.clone(),
        ]
    })
}

fn reads(format: Format, reads: &[ConfigRead]) -> Result<(), Failure> {
    output::list(format, reads, &["at", "key", "version", "reader"], |read| {
        vec![time(read.at), read.key.clone(), read.version.to_string(), read.reader.clone()]
    })
}

fn explain(format: Format, explained: &ConfigExplained) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(explained);
    }
    let columns = ["scope", "seen", "version", "value", "author", "rollout"];
    output::list(format, &explained.layers, &columns, |layer| {
        let entry = layer.entry.as_ref();
        let staged = layer.rollout.as_ref().map(|stage| {
            let reached = if stage.reached { "among them" } else { "not yet here" };
            format!("version {} for {} %, {reached}", stage.version, stage.percent)
        });
        vec![
            layer.scope.clone(),
            if layer.effective { "yes" } else { "-" }.to_owned(),
            or_dash(entry.map(|entry| entry.version).as_ref()),
            entry.map_or_else(|| "-".to_owned(), in_table),
            or_dash(entry.map(|entry| &entry.author)),
            or_dash(staged.as_ref()),
        ]
    })
}
