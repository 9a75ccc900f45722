//! `insula config rollout …`, `insula config clients` and `insula config acknowledge`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use insula_api::{
    AcknowledgeConfig, ConfigClientState, ConfigClients, ConfigLarge, ConfigRollout, StartConfigRollout,
    SteerConfigRollout,
};
use reqwest::Method;
use serde_json::value::RawValue;

use super::{document, of, part, path};
use crate::args::{Acknowledge, ConfigRolloutCommand, Format, Place, Start};
use crate::client::{Client, Failure};
use crate::output::{self, or_dash, time};

/// Runs the command.
pub async fn run(client: &Client, format: Format, command: ConfigRolloutCommand) -> Result<(), Failure> {
    match command {
        ConfigRolloutCommand::Start(start) => {
            let at = path(client, &start.place, &format!("{}/rollout", of(&start.key)?), &[]);
            let begun = client.send(Method::POST, &at, &asked(*start)?).await?;
            show(format, &begun)
        }
        ConfigRolloutCommand::Show { key, place } => {
            let at = path(client, &place, &format!("{}/rollout", of(&key)?), &[]);
            show(format, &client.get(&at).await?)
        }
        ConfigRolloutCommand::List { place } => {
            let at = path(client, &place, "-rollouts", &[]);
            let found: Vec<ConfigRollout> = client.list(&at).await?;
            let columns = ["key", "scope", "version", "state", "percent", "confirmed", "rejecting"];
            output::list(format, &found, &columns, |one| {
                vec![
                    one.key.clone(),
                    one.scope.clone(),
                    one.version.to_string(),
                    one.state.clone(),
                    one.percent.to_string(),
                    one.confirmed.to_string(),
                    one.rejecting.to_string(),
                ]
            })
        }
        ConfigRolloutCommand::Pause { key, cause, place } => {
            steer(client, format, &place, (&key, "pause"), cause).await
        }
        ConfigRolloutCommand::Resume { key, cause, place } => {
            steer(client, format, &place, (&key, "resume"), cause).await
        }
        ConfigRolloutCommand::Abort { key, cause, place } => {
            steer(client, format, &place, (&key, "abort"), cause).await
        }
    }
}

async fn steer(
    client: &Client,
    format: Format,
    place: &Place,
    (key, act): (&str, &str),
    cause: Option<String>,
) -> Result<(), Failure> {
    let at = path(client, place, &format!("{}/rollout/{act}", of(key)?), &[]);
    let request = SteerConfigRollout { cause: cause.unwrap_or_default() };
    show(format, &client.send(Method::POST, &at, &request).await?)
}

fn asked(start: Start) -> Result<StartConfigRollout, Failure> {
    let bytes = match (&start.value, &start.file) {
        (None, None) => None,
        _ => Some(document(start.value, start.file.as_deref(), false)?),
    };
    let (value, large) = match (bytes, start.media_type) {
        (Some(bytes), Some(media_type)) => {
            (None, Some(ConfigLarge { base64: STANDARD.encode(bytes), media_type }))
        }
        (bytes, _) => (bytes.map(raw).transpose()?, None),
    };
    Ok(StartConfigRollout {
        value,
        large,
        version: start.version,
        label: start.label,
        remove: start.remove,
        steps: start.steps,
        bake_seconds: start.bake,
        tenants: start.tenants,
        rejections: start.rejections,
        confirmations: start.confirmations,
        if_version: start.if_version,
        note: start.note.unwrap_or_default(),
    })
}

fn raw(bytes: Vec<u8>) -> Result<Box<RawValue>, Failure> {
    let invalid =
        |error: String| Failure::local("invalid_request", format!("The value is not JSON: {error}"));
    let text = String::from_utf8(bytes).map_err(|error| invalid(error.to_string()))?;
    RawValue::from_string(text).map_err(|error| invalid(error.to_string()))
}

fn show(format: Format, rollout: &ConfigRollout) -> Result<(), Failure> {
    let percents: Vec<String> = rollout.steps.iter().map(|step| format!("{step} %")).collect();
    let baked = format!("{} of {} s", rollout.baked_seconds, rollout.bake_seconds);
    let clients = |number: u64, bound: u32| format!("{number} (of {bound})");
    let fields = [
        ("key", rollout.key.clone()),
        ("scope", rollout.scope.clone()),
        ("version", rollout.version.to_string()),
        ("state", rollout.state.clone()),
        ("step", format!("{} of {}: {} %", rollout.step, rollout.steps.len(), rollout.percent)),
        ("steps", percents.join(", ")),
        ("first", rollout.tenants.join(", ")),
        ("looked at", baked),
        ("confirmed", clients(rollout.confirmed, rollout.confirmations)),
        ("refusing", clients(rollout.rejecting, rollout.rejections)),
        ("refusal", or_dash(rollout.rejection.as_ref())),
        ("began", time(rollout.began)),
        ("at", time(rollout.at)),
        ("author", rollout.author.clone()),
        ("cause", rollout.cause.clone()),
    ];
    output::one(format, rollout, &fields)
}

/// Says what a client runs with.
pub async fn acknowledge(client: &Client, said: Acknowledge) -> Result<(), Failure> {
    let at = path(client, &said.place, &format!("-clients/{}", part("client", &said.client)?), &[]);
    let Acknowledge { key, version, rejection, set_in, revision, .. } = said;
    let state = ConfigClientState { key, version, rejection, scope: set_in };
    client.send(Method::POST, &at, &AcknowledgeConfig { revision, states: vec![state] }).await
}

/// Shows which clients run with which version: the counts, then the clients.
pub fn clients(format: Format, found: &ConfigClients) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(found);
    }
    output::list(format, &found.versions, &["scope", "version", "running", "refusing"], |runs| {
        vec![
            runs.scope.clone(),
            runs.version.to_string(),
            runs.running.to_string(),
            runs.refusing.to_string(),
        ]
    })?;
    if found.clients.is_empty() {
        return Ok(());
    }
    output::line("");
    let columns = ["tenant", "client", "scope", "version", "refused because", "at"];
    output::list(format, &found.clients, &columns, |client| {
        vec![
            client.tenant.clone(),
            client.client_id.clone(),
            client.scope.clone(),
            client.version.to_string(),
            or_dash(client.rejection.as_ref()),
            time(client.at),
        ]
    })
}
