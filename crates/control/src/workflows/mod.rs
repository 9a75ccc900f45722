//! The workflows of tenants and of the app schema. Each file is one workflow:
//! first the list of its steps, which is to be read like a table of contents,
//! then what the steps do. Every do and every undo can be repeated.

pub mod clear;
pub mod create;
pub mod move_back;
pub mod moving;
pub mod own_objects;
pub mod purge;
pub mod retire;
pub mod rollout;
pub mod suspend;

use std::sync::Arc;
use std::time::Duration;

use insula_problem::{Code, Problem};
use insula_workflow::{InvalidWorkflow, Registry, StepError};
use tokio_util::sync::CancellationToken;

use crate::Control;

/// All workflows of the control plane.
///
/// # Errors
/// Where a definition breaks a rule: a defect of ours.
pub fn registry(control: &Arc<Control>) -> Result<Registry, InvalidWorkflow> {
    let mut registry = Registry::new();
    registry.add(create::workflow(), control)?;
    registry.add(suspend::suspend_workflow(), control)?;
    registry.add(suspend::resume_workflow(), control)?;
    registry.add(purge::workflow(), control)?;
    registry.add(rollout::workflow(), control)?;
    registry.add(moving::workflow(), control)?;
    registry.add(move_back::workflow(), control)?;
    registry.add(retire::workflow(), control)?;
    registry.add(clear::workflow(), control)?;
    registry.add(own_objects::of_tier_workflow(), control)?;
    registry.add(own_objects::of_tenant_workflow(), control)?;
    Ok(registry)
}

/// The longest pause between two tries within a step.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A pause between two tries within a step, which doubles with their number,
/// unless the worker stops.
async fn rest(stopping: &CancellationToken, pauses: u32) {
    let pause = Duration::from_millis(100).saturating_mul(1 << pauses.min(10)).min(PAUSE_MAX);
    tokio::select! {
        () = stopping.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

/// Whether a failed step is worth another try: what is away comes back, and
/// what is wrong inside us may be a race; what the request asks for in vain
/// stays in vain.
pub(crate) fn retried(problem: Problem) -> StepError {
    let problem = for_operators(problem);
    match problem.code() {
        Code::Unavailable
        | Code::CatalogUnavailable
        | Code::PlacementUnavailable
        | Code::Overloaded
        | Code::ClusterUnreachable
        | Code::Internal => StepError::retry(problem),
        _ => StepError::fail(problem),
    }
}

/// What is wrong inside us in words that an operator can do something with: the
/// server's, where they hold no value of a row. Operations are operators' alone.
fn for_operators(problem: Problem) -> Problem {
    if problem.code() != Code::Internal {
        return problem;
    }
    let detail = match insula_tenant_cluster::schema::said_by_server(&problem) {
        Some(said) => format!("PostgreSQL said: {said}."),
        None => "Something went wrong inside Insula. The operation's id finds it in the log.".to_owned(),
    };
    Problem::new(Code::Internal, detail).caused_by(problem)
}
