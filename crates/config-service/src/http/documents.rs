//! Versions as HTTP shows them.

use axum::http::{HeaderName, HeaderValue, header};
use insula_api::{
    ConfigBlob, ConfigClientRun, ConfigClients, ConfigEntry, ConfigExplained, ConfigLayer, ConfigRead,
    ConfigRollout, ConfigStage, ConfigVersionRuns, ConfigWritten,
};
use insula_config_model::{ConfigValue, Explained, Layer, Scope, Share, Stored, Written};
use insula_config_store::{ClientRun, SecretRead, VersionRuns};
use insula_problem::Problem;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::acknowledged::Clients;
use crate::rollouts::Progress;

/// A version as callers get it; a secret is in clear only where it was opened.
pub fn entry(stored: &Stored) -> Result<ConfigEntry, Problem> {
    let value = match &stored.value {
        Some(ConfigValue::Json(json)) => Some(raw(json)?),
        Some(ConfigValue::Secret(clear)) => Some(raw(clear)?),
        _ => None,
    };
    let blob = match &stored.value {
        Some(ConfigValue::Blob(blob)) => Some(ConfigBlob {
            sha256: blob.sha256.clone(),
            bytes: blob.bytes,
            media_type: blob.media_type.clone(),
        }),
        _ => None,
    };
    Ok(ConfigEntry {
        key: stored.key.to_string(),
        scope: stored.scope.to_string(),
        version: stored.version,
        revision: stored.revision,
        value,
        blob,
        sealed: matches!(stored.value, Some(ConfigValue::Sealed(_))),
        secret: matches!(stored.value, Some(ConfigValue::Secret(_) | ConfigValue::Sealed(_))),
        removed: stored.value.is_none(),
        labels: stored.labels.iter().map(ToString::to_string).collect(),
        author: stored.author.clone(),
        at: stored.at,
        note: stored.note.clone(),
    })
}

fn raw(json: &[u8]) -> Result<Box<RawValue>, Problem> {
    // The parser's words could show a secret.
    let broken = || Problem::internal("a stored value is not JSON");
    let text = std::str::from_utf8(json).map_err(|_| broken())?;
    RawValue::from_string(text.to_owned()).map_err(|_| broken())
}

/// The ETag of a version: its number where it is the scope's own, and else one
/// that no write takes.
pub fn etag(stored: &Stored, own: Option<&Scope>) -> [(HeaderName, HeaderValue); 1] {
    let is_own = own == Some(&stored.scope);
    let text = if is_own {
        format!("\"{}\"", stored.version)
    } else {
        format!("\"{}:{}\"", stored.scope, stored.version)
    };
    [(header::ETAG, HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("\"\"")))]
}

/// What every scope that counts says of a key.
pub fn explained(explained: &Explained) -> Result<ConfigExplained, Problem> {
    let (effective, passed_over) = (explained.effective(), explained.passed_over());
    let layers = explained.layers.iter().zip(passed_over).enumerate().map(|(index, (layer, passed_over))| {
        Ok(ConfigLayer {
            scope: layer.scope.to_string(),
            entry: layer.stored.as_ref().map(entry).transpose()?,
            effective: effective == Some(index),
            passed_over,
            rollout: stage(layer),
        })
    });
    Ok(ConfigExplained { layers: layers.collect::<Result<_, Problem>>()? })
}

/// That a layer's newest version is being rolled out.
fn stage(layer: &Layer) -> Option<ConfigStage> {
    let (version, percent, reached) = layer.stage()?;
    Some(ConfigStage { version, percent, reached })
}

/// A staged rollout.
pub fn rollout(progress: &Progress, now: OffsetDateTime) -> ConfigRollout {
    let Progress { rollout, health, .. } = progress;
    let percents = |share: &Share| share.percent();
    ConfigRollout {
        key: progress.key.to_string(),
        scope: progress.scope.to_string(),
        version: rollout.candidate,
        state: rollout.state.as_str().to_owned(),
        step: rollout.step + 1,
        steps: rollout.plan.steps.iter().map(percents).collect(),
        percent: rollout.share().percent(),
        tenants: rollout.plan.tenants.iter().map(ToString::to_string).collect(),
        bake_seconds: rollout.plan.bake_seconds,
        baked_seconds: rollout.baked(now),
        rejections: rollout.plan.rejections,
        confirmations: rollout.plan.confirmations,
        confirmed: health.confirmed,
        rejecting: health.rejecting,
        rejection: health.rejection.clone(),
        began: rollout.began,
        at: progress.at,
        author: progress.author.clone(),
        cause: rollout.cause.clone(),
    }
}

/// Which clients run with which version.
pub fn clients(found: Clients) -> ConfigClients {
    let version = |runs: VersionRuns| ConfigVersionRuns {
        scope: runs.set_in.to_string(),
        version: runs.version,
        running: runs.running,
        refusing: runs.refusing,
    };
    let client = |one: ClientRun| ConfigClientRun {
        tenant: one.tenant.to_string(),
        client_id: one.client_id,
        scope: one.run.set_in.to_string(),
        version: one.run.version,
        rejection: one.run.rejection,
        revision: one.revision,
        at: one.at,
    };
    ConfigClients {
        versions: found.versions.into_iter().map(version).collect(),
        clients: found.clients.into_iter().map(client).collect(),
    }
}

/// That somebody was shown a secret.
pub fn read(read: SecretRead) -> ConfigRead {
    ConfigRead { key: read.key.to_string(), version: read.version, reader: read.reader, at: read.at }
}

/// What came of a write.
pub fn written(written: &Written) -> ConfigWritten {
    ConfigWritten { version: written.version, revision: written.revision }
}
