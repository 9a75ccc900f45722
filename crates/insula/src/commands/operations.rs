//! `insula operation …`, `insula audit …`, `insula doctor`

use insula_api::{AuditEntry, DoctorReport, Operation, Page, Step};
use reqwest::Method;

use crate::args::{AuditCommand, Format, OperationCommand};
use crate::client::{Client, Failure, query, segment};
use crate::output::{self, or_dash, time};

/// `insula operation …`
pub async fn operations(client: &Client, format: Format, command: OperationCommand) -> Result<(), Failure> {
    match command {
        OperationCommand::List => {
            let operations: Vec<Operation> = client.list("/v1/operations").await?;
            let columns = ["id", "kind", "status", "subject", "created", "ended", "error"];
            output::list(format, &operations, &columns, |operation| {
                vec![
                    operation.id.to_string(),
                    operation.kind.clone(),
                    operation.status.as_str().to_owned(),
                    operation.subject.clone(),
                    time(operation.created_at),
                    operation.ended_at.map_or("-".to_owned(), time),
                    or_dash(operation.error.as_ref().map(|error| &error.code)),
                ]
            })
        }
        OperationCommand::Show { id, watch } => {
            let operation: Operation = client.get(&format!("/v1/operations/{}", segment(&id))).await?;
            let operation = if watch { output::follow(client, operation, format).await? } else { operation };
            show(format, &operation)
        }
        OperationCommand::Resume { id, wait } => {
            let path = format!("/v1/operations/{}/resume", segment(&id));
            let operation: Operation = client.order(Method::POST, &path).await?;
            let operation =
                if wait.no_wait { operation } else { output::follow(client, operation, format).await? };
            show(format, &operation)
        }
    }
}

/// Prints an operation with its steps.
pub fn show(format: Format, operation: &Operation) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(operation);
    }
    let error = operation.error.as_ref().map(|error| format!("{}: {}", error.code, error.detail));
    output::one(
        format,
        operation,
        &[
            ("id", operation.id.to_string()),
            ("kind", operation.kind.clone()),
            ("subject", operation.subject.clone()),
            ("status", operation.status.as_str().to_owned()),
            ("created", time(operation.created_at)),
            ("ended", operation.ended_at.map_or("-".to_owned(), time)),
            ("error", or_dash(error.as_ref())),
        ],
    )?;
    show_steps(format, &operation.steps)
}

/// Prints the steps of an operation.
pub fn show_steps(format: Format, steps: &[Step]) -> Result<(), Failure> {
    output::list(format, steps, &["step", "status", "attempts", "started", "took", "last error"], |step| {
        let status = format!("{:?}", step.status).to_lowercase();
        let took = match (step.started_at, step.ended_at) {
            (Some(start), Some(end)) => format!("{} ms", (end - start).whole_milliseconds()),
            _ => "-".to_owned(),
        };
        vec![
            step.name.clone(),
            status,
            step.attempts.to_string(),
            step.started_at.map_or("-".to_owned(), time),
            took,
            or_dash(step.error.as_ref().map(|error| format!("{}: {}", error.code, error.detail)).as_ref()),
        ]
    })
}

/// `insula audit …`
pub async fn audit(client: &Client, format: Format, command: AuditCommand) -> Result<(), Failure> {
    let AuditCommand::List { slug, limit } = command;
    let query = query(&[("tenant", &slug), ("limit", &Some(limit.to_string()))]);
    let page: Page<AuditEntry> = client.get(&format!("/v1/audit{query}")).await?;
    output::list(format, &page.items, &["at", "actor", "action", "subject", "detail"], |entry| {
        vec![
            time(entry.at),
            entry.actor.clone(),
            entry.action.clone(),
            entry.subject.clone(),
            entry.detail.to_string(),
        ]
    })
}

/// `insula doctor`
pub async fn doctor(client: &Client, format: Format) -> Result<(), Failure> {
    let report: DoctorReport = client.order(Method::POST, "/v1/doctor").await?;
    match format {
        Format::Json => output::json(&report)?,
        Format::Table if report.findings.is_empty() => output::line(&format!(
            "well: {} checks on {} tenants and {} clusters, nothing found",
            report.checks, report.tenants, report.clusters
        )),
        Format::Table => {
            output::list(format, &report.findings, &["kind", "place", "object", "detail"], |finding| {
                vec![
                    finding.kind.as_str().to_owned(),
                    finding.place.clone(),
                    finding.object.clone(),
                    finding.detail.clone(),
                ]
            })?
        }
    }
    if format == Format::Table {
        for note in &report.notes {
            output::note(&format!("note: {}, {}: {}", note.place, note.object, note.detail));
        }
    }
    if report.findings.is_empty() { Ok(()) } else { Err(Failure::Told) }
}
