//! `insula schema …`

use std::path::{Path, PathBuf};

use insula_api::{
    ApplySchema, BlueprintUrl, CaptureSchema, CapturedSchema, CheckSchema, OpenBlueprint, Operation, Page,
    RebuildBlueprint, Rollout, RolloutPlacement, SchemaAudit, SchemaCheck, SchemaFailure, SchemaFile,
    SchemaStatus,
};
use insula_domain::{InvalidName, RolloutStatus, Slug};
use reqwest::Method;

use crate::args::{Format, RolloutCommand, SchemaCommand};
use crate::client::{Client, Failure};
use crate::output::{self, time};

/// The most bytes of all files together, as the server takes them.
const BYTES_MAX: u64 = 3 << 20;

/// Runs the command.
pub async fn run(client: &Client, format: Format, command: SchemaCommand) -> Result<(), Failure> {
    match command {
        SchemaCommand::Apply { dir, wave_size, canary, wait } => {
            let files = read_folder(&dir)?;
            let check = check(client, files.clone()).await?;
            tell_warnings(&check.warnings);
            let request = ApplySchema { files, wave_size, canaries: slugs(&canary)? };
            let operation: Operation = client.send(Method::POST, "/v1/schema/rollouts", &request).await?;
            if wait.no_wait {
                return super::operations::show(format, &operation);
            }
            let operation = output::follow(client, operation, format).await?;
            status(client, format).await?;
            tell_end(client, &operation).await
        }
        SchemaCommand::Check { dir } => {
            let check = check(client, read_folder(&dir)?).await?;
            if format == Format::Json {
                return output::json(&check);
            }
            tell_warnings(&check.warnings);
            output::line(&format!("{} new versions, {} warnings", check.new.len(), check.warnings.len()));
            Ok(())
        }
        SchemaCommand::Status { drift: true, tenant } => super::drift::show(client, format, tenant).await,
        SchemaCommand::Status { .. } => status(client, format).await,
        SchemaCommand::Failures => failures(client, format).await,
        SchemaCommand::Rollout(command) => rollout(client, format, command).await,
        SchemaCommand::Audit => audit(client, format).await,
        SchemaCommand::BlueprintUrl { cluster } => {
            let cluster = cluster.map(|name| name.parse()).transpose().map_err(|error: InvalidName| {
                Failure::local("invalid_request", format!("--cluster: {error}"))
            })?;
            let request = OpenBlueprint { cluster };
            show_url(format, &client.send(Method::POST, "/v1/schema/blueprint", &request).await?)
        }
        SchemaCommand::BlueprintRebuild { discard } => {
            let request = RebuildBlueprint { discard };
            show_url(format, &client.send(Method::POST, "/v1/schema/blueprint/rebuild", &request).await?)
        }
        SchemaCommand::Capture { name, dir, without_data, again, force } => {
            let request = CaptureSchema { name, without_data, again, force };
            let captured: CapturedSchema = client.send(Method::POST, "/v1/schema/captures", &request).await?;
            let path = write_file(&dir, &captured.file)?;
            show_captured(format, &captured, &path)
        }
    }
}

async fn check(client: &Client, files: Vec<SchemaFile>) -> Result<SchemaCheck, Failure> {
    client.send(Method::POST, "/v1/schema/checks", &CheckSchema { files }).await
}

fn tell_warnings(warnings: &[String]) {
    for warning in warnings {
        output::note(&format!("warning: {warning}"));
    }
}

/// The placements that the rollout could not bring, each with its reason.
fn tell_failed(operation: &Operation) -> Result<(), Failure> {
    let text = |failed: &serde_json::Value, field: &str| failed[field].as_str().unwrap_or("").to_owned();
    let failed = operation.output.as_ref().and_then(|output| output.as_array()).cloned().unwrap_or_default();
    if failed.is_empty() {
        return Ok(());
    }
    for failed in &failed {
        let [placement, code, detail] = ["placement", "code", "detail"].map(|field| text(failed, field));
        output::note(&format!("insula: {code}: {placement}: {detail}"));
    }
    output::note(
        "Repair what is wrong there, then: insula schema rollout retry. The rows that do not fit: \
         insula schema failures.",
    );
    Err(Failure::Told)
}

fn slugs(given: &[String]) -> Result<Vec<Slug>, Failure> {
    let read = |text: &String| {
        text.parse::<Slug>().map_err(|error| Failure::local("invalid_slug", format!("{text}: {error}")))
    };
    given.iter().map(read).collect()
}

/// What the operation could not bring, and whether it was paused before all
/// was brought.
async fn tell_end(client: &Client, operation: &Operation) -> Result<(), Failure> {
    let told = tell_failed(operation);
    let newest: Page<Rollout> = client.get("/v1/schema/rollouts?limit=1").await?;
    let paused = newest
        .items
        .iter()
        .find(|rollout| rollout.operation == operation.id && rollout.status == RolloutStatus::Paused);
    if let Some(rollout) = paused {
        output::note(&format!(
            "insula: the rollout is paused with {} placements waiting. Go on: insula schema rollout resume",
            rollout.placements.waiting
        ));
        return Err(Failure::Told);
    }
    told
}

/// `insula schema rollout …`
async fn rollout(client: &Client, format: Format, command: RolloutCommand) -> Result<(), Failure> {
    match command {
        RolloutCommand::List => {
            let rollouts: Vec<Rollout> = client.list("/v1/schema/rollouts").await?;
            output::list(format, &rollouts, &ROLLOUT_COLUMNS, rollout_row)
        }
        RolloutCommand::Show { id, status } => {
            let rollout = find_rollout(client, id).await?;
            let only = status.map_or_else(String::new, |status| format!("?status={status}"));
            let path = format!("/v1/schema/rollouts/{}/placements{only}", rollout.id);
            let placements: Vec<RolloutPlacement> = client.list(&path).await?;
            if format == Format::Json {
                return output::json(&serde_json::json!({"rollout": rollout, "placements": placements}));
            }
            output::list(format, &[rollout], &ROLLOUT_COLUMNS, rollout_row)?;
            output::list(format, &placements, &PLACEMENT_COLUMNS, placement_row)
        }
        RolloutCommand::Pause { id } => {
            let rollout = find_rollout(client, id).await?;
            let path = format!("/v1/schema/rollouts/{}/pause", rollout.id);
            let rollout: Rollout = client.order(Method::POST, &path).await?;
            output::list(format, &[rollout], &ROLLOUT_COLUMNS, rollout_row)
        }
        RolloutCommand::Resume { id, wait } => go_on(client, format, "resume", id, wait.no_wait).await,
        RolloutCommand::Retry { id, wait } => go_on(client, format, "retry", id, wait.no_wait).await,
    }
}

async fn go_on(
    client: &Client,
    format: Format,
    verb: &str,
    id: Option<String>,
    no_wait: bool,
) -> Result<(), Failure> {
    let rollout = find_rollout(client, id).await?;
    let path = format!("/v1/schema/rollouts/{}/{verb}", rollout.id);
    let operation: Operation = client.order(Method::POST, &path).await?;
    if no_wait {
        return super::operations::show(format, &operation);
    }
    let operation = output::follow(client, operation, format).await?;
    status(client, format).await?;
    tell_end(client, &operation).await
}

/// The rollout that is named, or the newest.
async fn find_rollout(client: &Client, id: Option<String>) -> Result<Rollout, Failure> {
    if let Some(id) = id {
        return client.get(&format!("/v1/schema/rollouts/{id}")).await;
    }
    let newest: Page<Rollout> = client.get("/v1/schema/rollouts?limit=1").await?;
    let none = || Failure::local("rollout_not_found", "there was no rollout yet".to_owned());
    newest.items.into_iter().next().ok_or_else(none)
}

const ROLLOUT_COLUMNS: [&str; 8] =
    ["id", "version", "status", "waiting", "running", "done", "failed", "begun"];

fn rollout_row(rollout: &Rollout) -> Vec<String> {
    let counts = &rollout.placements;
    let [waiting, running, done, failed] =
        [counts.waiting, counts.running, counts.done, counts.failed].map(|count| count.to_string());
    let (id, begun) = (rollout.id.to_string(), time(rollout.created_at));
    vec![id, rollout.version.to_string(), rollout.status.to_string(), waiting, running, done, failed, begun]
}

const PLACEMENT_COLUMNS: [&str; 6] = ["placement", "tenant", "wave", "status", "ended", "failure"];

fn placement_row(placement: &RolloutPlacement) -> Vec<String> {
    let failure = placement.code.as_ref().zip(placement.detail.as_ref());
    vec![
        placement.placement.clone(),
        output::or_dash(placement.tenant.as_ref()),
        placement.wave.to_string(),
        placement.status.to_string(),
        placement.ended_at.map_or_else(|| "-".to_owned(), time),
        failure.map_or_else(|| "-".to_owned(), |(code, detail)| format!("{code}: {detail}")),
    ]
}

/// The SQL files of a folder, by name.
pub fn read_folder(dir: &Path) -> Result<Vec<SchemaFile>, Failure> {
    let wrong = |why: String| Failure::local("schema_folder_invalid", format!("{}: {why}", dir.display()));
    let mut files = Vec::new();
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(|error| wrong(error.to_string()))? {
        let path = entry.map_err(|error| wrong(error.to_string()))?.path();
        if path.extension().is_none_or(|extension| extension != "sql") || !path.is_file() {
            continue;
        }
        bytes += path.metadata().map_err(|error| wrong(error.to_string()))?.len();
        if bytes > BYTES_MAX {
            return Err(wrong(format!("the files have more than {BYTES_MAX} bytes together")));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let content = std::fs::read(&path).map_err(|error| wrong(format!("{name}: {error}")))?;
        let sql = String::from_utf8(content).map_err(|_| wrong(format!("{name} is not UTF-8")))?;
        files.push(SchemaFile { name, sql });
    }
    if files.is_empty() {
        return Err(wrong("there is no .sql file; the first is named like 0001_products.sql".to_owned()));
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn show_url(format: Format, url: &BlueprintUrl) -> Result<(), Failure> {
    match format {
        Format::Json => output::json(url),
        Format::Table => {
            output::line(&url.url);
            Ok(())
        }
    }
}

/// Writes a version's file, and never over one that is there.
fn write_file(dir: &Path, file: &SchemaFile) -> Result<PathBuf, Failure> {
    let path = dir.join(&file.name);
    let failed = |error: std::io::Error| {
        let why = if error.kind() == std::io::ErrorKind::AlreadyExists {
            "it is there already".to_owned()
        } else {
            error.to_string()
        };
        let hint = "capture it again with --again and another --name or --dir";
        Failure::local("file_not_written", format!("{}: {why}; {hint}", path.display()))
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let mut options = std::fs::File::options();
    let mut open = options.write(true).create_new(true).open(&path).map_err(failed)?;
    std::io::Write::write_all(&mut open, file.sql.as_bytes()).map_err(failed)?;
    Ok(path)
}

fn show_captured(format: Format, captured: &CapturedSchema, path: &Path) -> Result<(), Failure> {
    if format == Format::Json {
        output::json(captured)?;
    } else {
        output::line(&path.display().to_string());
    }
    for note in &captured.notes {
        output::note(&format!("note: {}: {}", note.statement, note.note));
    }
    tell_warnings(&captured.warnings);
    for refusal in &captured.refusals {
        output::note(&format!("refused: {refusal}"));
    }
    for difference in &captured.differences {
        output::note(&format!("differs from the blueprint: {}: {}", difference.object, difference.detail));
    }
    Ok(())
}

async fn status(client: &Client, format: Format) -> Result<(), Failure> {
    let status: SchemaStatus = client.get("/v1/schema/status").await?;
    if format == Format::Json {
        return output::json(&status);
    }
    output::list(format, &status.versions, &["version", "name", "taken", "rolled out"], |version| {
        vec![
            version.version.to_string(),
            version.name.clone(),
            time(version.created_at),
            version.rolled_out_at.map_or("-".to_owned(), time),
        ]
    })?;
    for drift in status.blueprint.iter().flat_map(|blueprint| &blueprint.drift) {
        output::note(&format!("the blueprint has drifted: {}: {}", drift.object, drift.detail));
    }
    let behind = status.behind.len();
    output::note(&format!("{} placements at version {}, {behind} behind", status.current, status.newest));
    if behind == 0 {
        return Ok(());
    }
    output::list(format, &status.behind, &["tenant", "isolation", "version"], |placement| {
        vec![placement.tenant.to_string(), placement.isolation.to_string(), placement.version.to_string()]
    })
}

async fn failures(client: &Client, format: Format) -> Result<(), Failure> {
    let failures: Vec<SchemaFailure> = client.list("/v1/schema/failures").await?;
    output::list(format, &failures, &["placement", "tenant", "version", "at", "failure", "row"], |failure| {
        vec![
            failure.placement.clone(),
            output::or_dash(failure.tenant.as_ref()),
            failure.version.to_string(),
            time(failure.at),
            failure.detail.clone(),
            output::or_dash(failure.row.as_ref()),
        ]
    })
}

async fn audit(client: &Client, format: Format) -> Result<(), Failure> {
    let audit: SchemaAudit = client.order(Method::POST, "/v1/schema/audit").await?;
    match format {
        Format::Json => output::json(&audit)?,
        Format::Table if audit.findings.is_empty() => {
            output::line(&format!("well: {} placements read, nothing found", audit.placements));
        }
        Format::Table => {
            output::list(format, &audit.findings, &["placement", "object", "detail"], |finding| {
                vec![finding.placement.clone(), finding.object.clone(), finding.detail.clone()]
            })?
        }
    }
    if audit.findings.is_empty() { Ok(()) } else { Err(Failure::Told) }
}
