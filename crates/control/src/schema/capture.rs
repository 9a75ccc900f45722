//! Capture: the next version of the app schema, from what was done on the
//! blueprint. It is checked as `schema apply` checks it, and tried: what the
//! file makes, together with the versions before it, must be the blueprint.

use std::collections::{BTreeMap, BTreeSet};

use insula_api::{CaptureNote, CaptureSchema, CapturedSchema, ObjectFinding, SchemaFile};
use insula_app_schema::capture::{Draft, Recording};
use insula_app_schema::{Migration, PlainMigration, Refusals, check, check_all, warnings};
use insula_catalog::Author;
use insula_domain::SchemaVersion;
use insula_problem::{Code, Problem};
use insula_tenant_cluster::blueprint::{self, Blueprint, BlueprintVersion, Contents, Recorded};
use serde_json::json;
use time::OffsetDateTime;

use super::blueprint::{SUBJECT, find};
use super::fleet::{self, pool_form};
use crate::Control;

/// What a file is called that nobody named.
const UNNAMED: &str = "captured";

/// What stands against a captured version.
#[derive(Debug, Default)]
struct Findings {
    refusals: Vec<String>,
    warnings: Vec<String>,
    differences: Vec<ObjectFinding>,
}

/// Captures everything since the last capture.
///
/// # Errors
/// `nothing_to_capture`; `capture_refused` with each statement and its reason,
/// unless it is forced; `blueprint_missing`, `blueprint_busy`.
pub async fn capture(
    control: &Control,
    author: Author,
    request: &CaptureSchema,
) -> Result<CapturedSchema, Problem> {
    let name = name(request)?;
    let found = find(control).await?;
    let mut opened = found.open().await?;
    opened.take().await?;
    let forms = fleet::forms(control).await?;
    match opened.bring(&forms.plain).await {
        // A version came while the blueprint was away: it follows when this is captured.
        Err(problem) if problem.code() == Code::BlueprintAhead => {}
        other => other?,
    }
    let mut client = control.catalog.client().await?;
    let taken = client.schema_versions(true).await?.last().map_or(SchemaVersion(0), |newest| newest.version);
    if request.again {
        opened.take_back(taken).await?;
    }
    let there = opened.versions().await?;
    let newest = there.last().map_or(taken, |newest| newest.version.max(taken));
    let version = SchemaVersion(newest.0 + 1);
    let recorded = opened.recorded().await?;
    let draft = draft(&recorded, request, &Migration::new(version, &name, "").file_name(), author.at);
    if draft.statements == 0 {
        opened.pass_over(&recorded).await?;
        return Err(nothing(&draft));
    }
    let migration = Migration::new(version, &name, &draft.sql);
    let before = before(&forms.plain, &there);
    let findings = examine(&opened, &recorded, &draft, &migration, before, request).await?;
    if !findings.refusals.is_empty() && !request.force {
        return Err(refused(&findings.refusals));
    }
    let unmarked = findings.refusals.get(draft.refusals.len()..).unwrap_or_default();
    let migration = Migration::new(version, &name, &marked(migration.sql, unmarked));
    opened.mark(&recorded, &migration).await?;
    let change = client.change(author).await?;
    let detail =
        json!({"version": version, "statements": draft.statements, "refused": findings.refusals.len()});
    change.audit("schema.capture", None, SUBJECT, &detail).await?;
    change.commit().await?;
    Ok(answer(migration, draft, findings))
}

/// The file with what is refused in it and is not marked at its statement: at
/// the end, so that the lines that are named stay where they are.
fn marked(mut sql: String, refusals: &[String]) -> String {
    if !refusals.is_empty() {
        sql.push_str("\n-- Refused, to be edited before it is applied:\n");
    }
    for line in refusals.iter().flat_map(|refusal| refusal.lines()) {
        sql.push_str("--   ");
        sql.push_str(line);
        sql.push('\n');
    }
    sql
}

fn answer(migration: Migration, draft: Draft, findings: Findings) -> CapturedSchema {
    let notes = draft.notes.into_iter();
    CapturedSchema {
        version: migration.version,
        file: SchemaFile { name: migration.file_name(), sql: migration.sql },
        notes: notes.map(|note| CaptureNote { statement: note.statement, note: note.note }).collect(),
        refusals: findings.refusals,
        warnings: findings.warnings,
        differences: findings.differences,
    }
}

fn name(request: &CaptureSchema) -> Result<String, Problem> {
    let name = request.name.as_deref().unwrap_or(UNNAMED);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.len() <= 60 && name.chars().all(plain) {
        return Ok(name.to_owned());
    }
    let rule = "1 to 60 letters, digits, '_' and '-'";
    Err(Problem::new(Code::InvalidRequest, format!("The name of a version has {rule}.")).at("/name", rule))
}

fn draft(recorded: &Recorded, request: &CaptureSchema, file: &str, at: OffsetDateTime) -> Draft {
    let without_data: BTreeSet<String> = request.without_data.iter().cloned().collect();
    let header =
        format!("Captured from the blueprint on {} at {:02}:{:02} UTC.", at.date(), at.hour(), at.minute());
    Recording {
        firings: &recorded.firings,
        sequences: &recorded.sequences,
        without_data: &without_data,
        role: blueprint::ROLE,
        file,
        header: &header,
    }
    .draft()
}

fn nothing(draft: &Draft) -> Problem {
    let notes = draft.notes.iter().take(20);
    let problem =
        Problem::new(Code::NothingToCapture, "Nothing was done on the blueprint since the last capture.");
    notes.fold(problem, |problem, note| problem.at(note.statement.clone(), note.note.clone()))
}

fn refused(refusals: &[String]) -> Problem {
    let first = refusals.first().cloned().unwrap_or_default();
    let more =
        if refusals.len() > 1 { format!(" There are {} refusals.", refusals.len()) } else { String::new() };
    let problem = Problem::new(Code::CaptureRefused, format!("{first}{more}"));
    refusals.iter().fold(problem, |problem, refusal| problem.at("/", refusal.clone()))
}

/// The versions before a capture: the published ones, and captures that were not
/// applied yet, as they were captured. None where one of those is refused.
fn before(published: &[PlainMigration], there: &[BlueprintVersion]) -> Option<Vec<PlainMigration>> {
    let newest = published.last().map_or(SchemaVersion(0), PlainMigration::version);
    let captured: Vec<_> = there
        .iter()
        .filter(|version| version.version > newest)
        .map(|version| Migration::new(version.version, &version.name, &version.sql))
        .collect();
    let captured = check_all(&captured).ok()?;
    Some(published.iter().cloned().chain(captured).collect())
}

async fn examine(
    opened: &Blueprint<'_>,
    recorded: &Recorded,
    draft: &Draft,
    migration: &Migration,
    before: Option<Vec<PlainMigration>>,
    request: &CaptureSchema,
) -> Result<Findings, Problem> {
    let mut findings = Findings::default();
    findings.refusals.extend(draft.refusals.iter().map(said));
    let known: BTreeSet<usize> = draft.refusals.iter().map(|refusal| refusal.line).collect();
    let plain = match check(migration) {
        Ok(plain) => plain,
        Err(Refusals(refusals)) => {
            let new = refusals.iter().filter(|refusal| !known.contains(&refusal.line));
            findings.refusals.extend(new.map(said));
            return Ok(findings);
        }
    };
    findings.warnings = warnings(&plain).iter().map(ToString::to_string).collect();
    let Some(mut all) = before else { return Ok(findings) };
    all.push(plain);
    if let Err(Refusals(refusals)) = pool_form(&all) {
        findings.refusals.extend(refusals.iter().map(said));
    }
    if !findings.refusals.is_empty() {
        return Ok(findings);
    }
    match opened.try_versions(&all).await {
        Ok(made) => findings.differences = differences(&made, &recorded.contents, request),
        Err(problem) if problem.code() == Code::MigrationFailed => {
            findings.refusals.push(problem.detail().to_owned());
        }
        Err(problem) => return Err(problem),
    }
    Ok(findings)
}

fn said(refusal: &insula_app_schema::Refusal) -> String {
    format!("{refusal} (in: {})", refusal.statement)
}

/// How what the versions make differs from the blueprint.
fn differences(made: &Contents, found: &Contents, request: &CaptureSchema) -> Vec<ObjectFinding> {
    let definitions = made.fingerprint.differences(&found.fingerprint).into_iter();
    let definitions =
        definitions.map(|finding| ObjectFinding { object: finding.object, detail: finding.detail });
    let nobody = BTreeMap::new();
    let counted = if made.fingerprint == found.fingerprint { &found.rows } else { &nobody };
    let rows = counted.iter().filter_map(|(table, rows)| {
        let made = made.rows.get(table).copied().unwrap_or(0);
        (made != *rows && !request.without_data.contains(table)).then(|| ObjectFinding {
            object: format!("rows of {table}"),
            detail: format!("The blueprint has {rows}, and the versions alone make {made}."),
        })
    });
    definitions.chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_stands_at_the_end_and_moves_no_line() {
        assert_eq!(marked("SELECT 1;\n".into(), &[]), "SELECT 1;\n");
        let refusals = ["f.sql:1: no\nreally".to_owned(), "f.sql:2: nor this".to_owned()];
        assert_eq!(
            marked("SELECT 1;\n".into(), &refusals),
            "SELECT 1;\n\n-- Refused, to be edited before it is applied:\n--   f.sql:1: no\n--   really\n\
             --   f.sql:2: nor this\n"
        );
    }
}
