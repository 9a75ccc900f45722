//! Taking versions of the app schema. What can be told from the files alone is
//! told at once; what only PostgreSQL can tell is rehearsed by the rollout
//! before anything is published.

use insula_api::{ApplySchema, CheckSchema, SchemaCheck, SchemaFile};
use insula_app_schema::{
    AppSchema, AppliedVersion, FolderError, PlainMigration, PoolMigration, Refusals, check_all, warnings,
};
use insula_catalog::{Author, CatalogClient, RolloutRecord, SchemaVersionRecord};
use insula_domain::{OperationId, RolloutStatus, SchemaVersion, Slug, TenantId};
use insula_problem::{Code, Problem};
use serde_json::json;

use super::fleet::pool_form;
use super::{SUBJECT, blueprint};
use crate::Control;
use crate::repeats::answer_operation;
use crate::tenants::create::sentence;
use crate::workflows::rollout::{RolloutInput, rollout_kind};

/// Placements of a wave, where the request does not say.
const WAVE_SIZE: u32 = 100;

/// An app schema, and its versions in both forms.
type Read = (AppSchema, Vec<PlainMigration>, Vec<PoolMigration>);

/// Reads the files, and refuses what cannot be taken in every form.
fn read(files: Vec<SchemaFile>) -> Result<Read, Problem> {
    let files = files.into_iter().map(|file| (file.name, file.sql.into_bytes())).collect();
    let app = AppSchema::from_files(files).map_err(|error| folder_problem(&error))?;
    let plain = check_all(app.migrations()).map_err(|refusals| refused(&refusals))?;
    let pool = pool_form(&plain).map_err(|refusals| refused(&refusals))?;
    Ok((app, plain, pool))
}

/// Reads the files as [`apply`] does, and tells what in the new versions breaks
/// the application that still runs. Nothing is taken.
///
/// # Errors
/// As [`apply`], as far as the files alone tell.
pub async fn examine(control: &Control, request: CheckSchema) -> Result<SchemaCheck, Problem> {
    let (_, plain, _) = read(request.files)?;
    let newest = control.catalog.client().await?.newest_schema_version().await?;
    let new = plain.iter().filter(|migration| migration.version() > newest);
    Ok(SchemaCheck {
        new: new.clone().map(|migration| migration.migration().file_name()).collect(),
        warnings: new.flat_map(warnings).map(|warning| warning.to_string()).collect(),
    })
}

/// Takes the files as the app schema and begins the rollout of what is new.
/// With nothing new the rollout looks whether every placement is current.
///
/// # Errors
/// `schema_folder_invalid`, `migration_syntax_error`, `migration_refused`,
/// `migration_changed`, with file and line; `blueprint_ahead`; `schema_busy` where another rollout
/// is under way; `tenant_not_found` for a canary that is not there.
pub async fn apply(control: &Control, author: Author, request: ApplySchema) -> Result<OperationId, Problem> {
    let wave_size = wave_size(request.wave_size)?;
    let (app, _, pool) = read(request.files)?;
    let mut client = control.catalog.client().await?;
    let canaries = canaries(&client, &request.canaries).await?;
    let taken: Vec<AppliedVersion> = client
        .schema_versions(false)
        .await?
        .into_iter()
        .map(|record| AppliedVersion { version: record.version, sha256: record.sha256 })
        .collect();
    let pending = app
        .pending(&taken)
        .map_err(|error| Problem::new(Code::MigrationChanged, sentence(&error.to_string())))?;
    blueprint::refuse_if_ahead(control, pending).await?;
    let drafts: Vec<SchemaVersionRecord> = pending
        .iter()
        .map(|migration| SchemaVersionRecord {
            keys: pool.iter().find(|form| form.version() == migration.version).map(|form| form.keys.clone()),
            version: migration.version,
            name: migration.file_name(),
            sha256: migration.sha256.clone(),
            sql: migration.sql.clone(),
            created_at: author.at,
            rolled_out_at: None,
        })
        .collect();
    let operation = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let change = client.change(author).await?;
    let input = RolloutInput { rollout: operation, to: app.version() };
    let run = rollout_kind().new_run(operation, SUBJECT, &input, change.at());
    // First: where another rollout is under way, its drafts are not touched.
    control.operations.start(&change, run).await?;
    let seen = taken.last().map_or(SchemaVersion(0), |newest| newest.version);
    if change.hold_newest_schema_version().await? != seen {
        return Err(Problem::new(
            Code::SchemaBusy,
            "Another version was published while this call was being read. Apply again.",
        )
        .retry_after(1));
    }
    change.add_schema_drafts(&drafts).await?;
    change
        .add_rollout(&RolloutRecord {
            id: operation,
            version: app.version(),
            wave_size,
            canaries,
            status: RolloutStatus::Rolling,
            operation,
            created_at: change.at(),
            ended_at: None,
        })
        .await?;
    change.audit("schema.apply", None, SUBJECT, &json!({"to": app.version(), "new": drafts.len()})).await?;
    answer_operation(&change, operation).await?;
    change.commit().await?;
    control.operations.wake();
    Ok(operation)
}

fn wave_size(asked: Option<u32>) -> Result<u32, Problem> {
    let invalid = || {
        let detail = "A wave has from 1 to 100,000 placements.";
        Problem::new(Code::InvalidRequest, detail).at("/wave_size", "from 1 to 100000")
    };
    let size = asked.unwrap_or(WAVE_SIZE);
    if (1..=100_000).contains(&size) { Ok(size) } else { Err(invalid()) }
}

async fn canaries(client: &CatalogClient, slugs: &[Slug]) -> Result<Vec<TenantId>, Problem> {
    let mut ids = Vec::new();
    for slug in slugs {
        let tenant = client.tenant_by_slug(slug).await?.ok_or_else(|| {
            Problem::new(Code::TenantNotFound, format!("There is no tenant {slug}, which is to be a canary."))
                .at("/canaries", format!("{slug} is not there"))
        })?;
        ids.push(tenant.id);
    }
    Ok(ids)
}

fn folder_problem(error: &FolderError) -> Problem {
    Problem::new(Code::SchemaFolderInvalid, sentence(&error.to_string()))
}

/// All refusals at once, each with its place.
fn refused(refusals: &Refusals) -> Problem {
    let code = if refusals.is_syntax_error() { Code::MigrationSyntaxError } else { Code::MigrationRefused };
    let Refusals(all) = refusals;
    let first = all.first().map(ToString::to_string).unwrap_or_default();
    let more = if all.len() > 1 { format!(" There are {} refusals.", all.len()) } else { String::new() };
    all.iter().fold(Problem::new(code, format!("{first}{more}")), |problem, refusal| {
        problem.at(format!("/files/{}", refusal.file), refusal.to_string())
    })
}
