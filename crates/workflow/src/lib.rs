//! Durable sagas: a workflow is a list of do and undo pairs; a run of it
//! survives the death of its worker at any point, goes on at another one, and
//! ends done, undone, or stuck with a reason that an operator can act on.
//!
//! The decisions are in [`plan`], pure; the driver and the worker carry them
//! out; the log of the steps is a [`StepLog`], which the catalog implements.

mod crash;
mod definition;
mod driver;
mod error;
mod lease;
mod log;
mod measure;
mod operation;
pub mod plan;
mod registry;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod worker;

pub use crash::{CrashPoint, CrashPoints, Moment, NoCrash};
pub use definition::{Kind, Outline, OutlineStep, Step, Workflow};
pub use error::{FailureKind, InvalidWorkflow, LogError, StartError, StepError};
pub use log::{
    FencingToken, Hold, Lease, LeaseRequest, LeasedRun, NewRun, Started, StepLog, WorkflowKey, Write,
};
pub use operation::{Operation, OperationStep, RunFacts};
pub use plan::Retry;
pub use registry::Registry;
pub use run::Run;
pub use state::{Direction, NotStuck, RunError, RunState, RunStatus, StepState, StepStatus, UnknownStatus};
pub use worker::{Waker, Worker, WorkerSettings};
