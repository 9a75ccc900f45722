//! Operations that do not come to an end by themselves: stuck ones, and those
//! whose step fails again and again and is tried for ever.

use insula_api::FindingKind;
use insula_problem::Problem;
use insula_workflow::{Operation, OperationStep, RunStatus, StepStatus};
use time::{Duration, OffsetDateTime};

use super::Findings;
use crate::Control;
use crate::operations::trouble;

/// An operation that is this old and has a step that failed so often is one
/// that keeps failing: the first tries follow each other in seconds, and a
/// server that restarts is back by then.
const AGE: Duration = Duration::minutes(5);
const ATTEMPTS: u32 = 5;

/// Lists them.
///
/// # Errors
/// Where the catalog is away.
pub async fn examine(control: &Control, findings: &mut Findings) -> Result<(), Problem> {
    let now = control.clock.now();
    for operation in control.operations.not_ended().await? {
        let found = match operation.status {
            RunStatus::Stuck => Some((FindingKind::Stuck, stuck(&operation))),
            _ => failing(&operation, now).map(|detail| (FindingKind::Failing, detail)),
        };
        findings.checks += 1;
        if let Some((kind, detail)) = found {
            findings.add(kind, "catalog", &format!("operation {}", operation.id), &detail);
        }
    }
    Ok(())
}

fn stuck(operation: &Operation) -> String {
    let why = operation.error.as_ref().map(|error| format!("{}: {}", error.code, error.detail));
    let step = trouble(operation).map(|step| format!(" at {} after {} attempts", step.name, step.attempts));
    format!(
        "{} on {} is stuck{}. {}",
        operation.kind,
        operation.subject,
        step.unwrap_or_default(),
        why.unwrap_or_default()
    )
}

fn failing(operation: &Operation, now: OffsetDateTime) -> Option<String> {
    let at_work = |step: &&OperationStep| {
        !matches!(step.status, StepStatus::Done | StepStatus::Undone) && step.attempts >= ATTEMPTS
    };
    let step = operation.steps.iter().filter(|_| now - operation.created_at >= AGE).find(at_work)?;
    let error = step.error.as_ref()?;
    Some(format!(
        "{} on {} keeps failing at {} since {} minutes: {} attempts, the last one with {}: {}",
        operation.kind,
        operation.subject,
        step.name,
        (now - operation.created_at).whole_minutes(),
        step.attempts,
        error.code,
        error.detail
    ))
}

#[cfg(test)]
mod tests {
    use insula_workflow::RunError;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn operation(age: Duration, attempts: u32, status: StepStatus, failed: bool) -> Operation {
        let error = RunError { code: "cluster_unreachable".to_owned(), detail: "No answer.".to_owned() };
        Operation {
            id: "0199a1c2-7d5e-7000-8000-9d2f6b4c1e07".parse().unwrap(),
            kind: "tenant.create".to_owned(),
            subject: "acme".to_owned(),
            status: RunStatus::Running,
            steps: vec![OperationStep {
                name: "roles".to_owned(),
                status,
                started_at: None,
                ended_at: None,
                attempts,
                error: failed.then_some(error),
            }],
            error: None,
            output: None,
            created_at: NOW - age,
            ended_at: None,
        }
    }

    #[test]
    fn what_keeps_failing_is_told_with_all_that_helps() {
        let text = failing(&operation(Duration::minutes(7), 9, StepStatus::Running, true), NOW).unwrap();
        for part in ["tenant.create", "acme", "roles", "7 minutes", "9 attempts", "cluster_unreachable"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(failing(&operation(AGE, ATTEMPTS, StepStatus::Undoing, true), NOW).is_some());
    }

    #[test]
    fn what_is_young_or_went_on_is_not() {
        let none = |age, attempts, status, failed| {
            assert_eq!(failing(&operation(age, attempts, status, failed), NOW), None);
        };
        none(Duration::minutes(4), 9, StepStatus::Running, true);
        none(Duration::minutes(7), 4, StepStatus::Running, true);
        none(Duration::minutes(7), 9, StepStatus::Done, true);
        none(Duration::minutes(7), 9, StepStatus::Running, false);
    }
}
