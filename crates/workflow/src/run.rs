//! What a step is given: what the run was asked for, what earlier steps gave
//! back, what the steps work with, and the lease under which it runs.

use std::sync::Arc;

use insula_domain::OperationId;
use insula_problem::Problem;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::error::{LogError, StepError};
use crate::lease::LeaseKeeper;
use crate::log::FencingToken;
use crate::state::StepState;

/// What a step is given, before its types are known.
#[derive(Clone)]
pub(crate) struct RunContext {
    pub subject: Arc<str>,
    pub input: Arc<Value>,
    pub steps: Arc<[StepState]>,
    pub attempt: u32,
    pub keeper: Arc<LeaseKeeper>,
    pub stopping: CancellationToken,
}

/// What a step is given. `D` is what the steps work with, `I` what the run was
/// asked for.
pub struct Run<D, I> {
    deps: Arc<D>,
    input: Arc<I>,
    context: RunContext,
}

impl<D, I> Clone for Run<D, I> {
    fn clone(&self) -> Self {
        Self { deps: Arc::clone(&self.deps), input: Arc::clone(&self.input), context: self.context.clone() }
    }
}

impl<D, I: DeserializeOwned> Run<D, I> {
    pub(crate) fn new(deps: Arc<D>, context: RunContext) -> Result<Self, StepError> {
        let input = I::deserialize(context.input.as_ref()).map_err(StepError::broken)?;
        Ok(Self { deps, input: Arc::new(input), context })
    }
}

impl<D, I> Run<D, I> {
    /// What the steps work with.
    #[must_use]
    pub fn deps(&self) -> &D {
        &self.deps
    }

    /// What the run was asked for.
    #[must_use]
    pub fn input(&self) -> &I {
        &self.input
    }

    /// The run's id: the operation that its users see.
    #[must_use]
    pub fn id(&self) -> OperationId {
        self.context.keeper.lease().run
    }

    /// What the run is about, for example a tenant's id.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.context.subject
    }

    /// The fencing token: grows each time the run changes hands.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.context.keeper.lease().token
    }

    /// Which attempt it is, from 1 on; counted anew for the undo, and after an
    /// operator resumed the run.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.context.attempt
    }

    /// What the step gave back.
    ///
    /// # Errors
    /// A failure without another try where the step is not done, or gave back something
    /// of another type.
    pub fn output<T: DeserializeOwned>(&self, step: &str) -> Result<T, StepError> {
        self.output_if_any(step)?.ok_or_else(|| StepError::broken(format!("step {step} has no output")))
    }

    /// What the step gave back, if it is done; for an undo, which must also
    /// cope with a do that did not get so far.
    ///
    /// # Errors
    /// A failure without another try where the step gave back something of another type.
    pub fn output_if_any<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>, StepError> {
        let output = self.context.steps.iter().find(|state| state.name == step);
        let output = output.and_then(|state| state.output.as_ref());
        output.map(|output| T::deserialize(output).map_err(StepError::broken)).transpose()
    }

    /// Cancelled when the worker is about to stop. A long step may watch it,
    /// break off with [`StepError::stopped`] and go on at another worker.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.context.stopping
    }

    /// Asks the log whether the run is still in our hands, and renews the
    /// lease. The engine does so by itself, time and again; a step calls it
    /// right before an effect that knows no fencing token.
    ///
    /// # Errors
    /// Where another worker has the run, or the log cannot be reached.
    pub async fn heartbeat(&self) -> Result<(), StepError> {
        self.context.keeper.renew().await.map_err(|error| match error {
            LogError::LeaseLost => StepError::stopped(),
            unreachable => StepError::retry(Problem::internal(unreachable)),
        })
    }
}
