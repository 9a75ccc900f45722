//! The workflows of tenants and of the app schema. Each file is one workflow:
//! first the list of its steps, which is to be read like a table of contents,
//! then what the steps do. Every do and every undo can be repeated.

pub mod create;
pub mod purge;
pub mod rollout;
pub mod suspend;

use std::sync::Arc;

use insula_problem::{Code, Problem};
use insula_workflow::{InvalidWorkflow, Registry, StepError};

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
    Ok(registry)
}

/// Whether a failed step is worth another try: what is away comes back, and
/// what is wrong inside us may be a race; what the request asks for in vain
/// stays in vain.
fn retried(problem: Problem) -> StepError {
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
