//! What a worker measures. Labels have few values: workflows and steps are
//! ours, and no label names a tenant.

use std::time::Instant;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::state::{Direction, RunStatus};

const RUNS: &str = "insula_workflow_runs_total";
const STEP_SECONDS: &str = "insula_workflow_step_seconds";
const RUNNING: &str = "insula_workflow_running";

/// Says what the metrics are, once the recorder of the process is there.
pub(crate) fn describe() {
    describe_counter!(RUNS, "Workflow runs that rest, by workflow and status");
    describe_histogram!(
        STEP_SECONDS,
        Unit::Seconds,
        "Time of a workflow step, by workflow, step and direction"
    );
    describe_gauge!(RUNNING, "Workflow runs under way in this process");
}

/// An attempt at a step has ended.
pub(crate) fn step(workflow: &str, step: &'static str, direction: Direction, begun: Instant) {
    let direction = match direction {
        Direction::Do => "do",
        Direction::Undo => "undo",
    };
    histogram!(STEP_SECONDS, "workflow" => workflow.to_owned(), "step" => step, "direction" => direction)
        .record(begun.elapsed().as_secs_f64());
}

/// A run rests: it has ended, is stuck, or waits for another try.
pub(crate) fn rests(workflow: &str, status: RunStatus) {
    counter!(RUNS, "workflow" => workflow.to_owned(), "status" => status.as_str()).increment(1);
}

/// Counts a run as under way for as long as it lives.
pub(crate) struct UnderWay(());

impl UnderWay {
    pub(crate) fn new() -> Self {
        gauge!(RUNNING).increment(1.0);
        Self(())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        gauge!(RUNNING).decrement(1.0);
    }
}
