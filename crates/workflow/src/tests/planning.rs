//! The planner by values.

use std::time::Duration;

use insula_problem::{Code, Problem};
use serde_json::json;
use time::OffsetDateTime;

use crate::error::{FailureKind, StepError};
use crate::plan::{Action, Retry, Shape, StepShape, Verdict, judge, next};
use crate::state::{Direction, RunState, RunStatus, StepStatus};

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const TWICE: Retry = Retry { attempts: 2, ..Retry::BRISK };

/// `reserve` and `create` can be undone, `commit` commits, `publish` follows.
fn shape() -> Shape {
    let step = |name, has_undo| StepShape { name, has_undo, retry: TWICE, undo_retry: TWICE };
    Shape {
        steps: vec![
            step("reserve", true),
            step("create", true),
            step("commit", false),
            step("publish", false),
        ],
        point_of_no_return: Some(2),
    }
}

/// A run whose first steps are done, and whose next one has begun so often.
fn run(done: usize, begun: u32) -> RunState {
    let mut run = RunState::new(["reserve", "create", "commit", "publish"]);
    for step in 0..done {
        run.begin(step, Direction::Do, NOW);
        run.done(step, json!(step), NOW);
    }
    (0..begun).for_each(|_| run.begin(done, Direction::Do, NOW));
    run
}

fn error(kind: FailureKind) -> StepError {
    let problem = Problem::new(Code::NoCapacity, "No cluster has room.");
    match kind {
        FailureKind::Permanent => StepError::fail(problem),
        FailureKind::Broken => StepError::broken("a bug"),
        _ => StepError::retry(problem),
    }
}

#[test]
fn forward_the_first_step_that_is_not_done_is_next() {
    for done in 0..4 {
        assert_eq!(next(&shape(), &run(done, 0)), Action::Do(done));
        assert_eq!(next(&shape(), &run(done, 1)), Action::Do(done), "a dead worker's step is run again");
        assert_eq!(next(&shape(), &run(done, 2)), Action::GiveUp(done));
    }
    assert_eq!(next(&shape(), &run(4, 0)), Action::Succeed);
}

#[test]
fn a_failure_is_judged_by_where_it_happens() {
    use FailureKind::{Broken, Permanent, Transient};
    use Verdict::{Stick, TryAgain, TurnRound};
    let table = [
        // before the point: create
        (1, 1, Transient, TryAgain),
        (1, 2, Transient, TurnRound),
        (1, 1, Permanent, TurnRound),
        (1, 1, Broken, TurnRound),
        // the point itself: commit
        (2, 1, Transient, TryAgain),
        (2, 2, Transient, Stick),
        (2, 1, Permanent, TurnRound),
        (2, 1, Broken, Stick),
        // after the point: publish
        (3, 1, Transient, TryAgain),
        (3, 1, Permanent, TryAgain),
        (3, 2, Permanent, Stick),
        (3, 1, Broken, Stick),
    ];
    for (step, tries, kind, verdict) in table {
        assert_eq!(judge(&shape(), &run(step, tries), step, kind), verdict, "{step} {tries} {kind:?}");
    }
}

#[test]
fn the_way_back_takes_in_the_failing_step_and_ends_at_the_first() {
    let mut run = run(1, 1);
    assert_eq!(run.failed(&shape(), 1, &error(FailureKind::Permanent)), Verdict::TurnRound);
    assert_eq!((run.status, run.undoing), (RunStatus::Undoing, true));
    let mut seen = Vec::new();
    loop {
        match next(&shape(), &run) {
            Action::Undo(step) => {
                seen.push(step);
                run.begin(step, Direction::Undo, NOW);
                run.undone(step, NOW);
            }
            action => {
                assert_eq!(action, Action::CloseUndone);
                break;
            }
        }
    }
    assert_eq!(seen, [1, 0]);
    assert_eq!(run.steps[2].status, StepStatus::Pending);
    assert_eq!(run.reason().unwrap().code, "no_capacity");
}

#[test]
fn the_step_that_commits_has_nothing_to_run_on_the_way_back() {
    let mut run = run(2, 1);
    run.failed(&shape(), 2, &error(FailureKind::Permanent));
    assert_eq!(next(&shape(), &run), Action::PassOver(2));
}

#[test]
fn a_run_stuck_on_its_way_back_goes_on_back_and_keeps_both_reasons() {
    let unavailable = || StepError::retry(Problem::new(Code::Unavailable, "The cluster is down."));
    let mut run = run(1, 1);
    run.failed(&shape(), 1, &error(FailureKind::Permanent));
    run.begin(1, Direction::Undo, NOW);
    assert_eq!(run.failed(&shape(), 1, &unavailable()), Verdict::TryAgain);
    run.begin(1, Direction::Undo, NOW);
    assert_eq!(run.failed(&shape(), 1, &unavailable()), Verdict::Stick);
    assert_eq!((run.status, next(&shape(), &run)), (RunStatus::Stuck, Action::Rest));
    assert_eq!(run.reason().unwrap().code, "unavailable", "why it is stuck");

    run.resume().unwrap();
    assert_eq!((run.status, next(&shape(), &run)), (RunStatus::Undoing, Action::Undo(1)));
    assert_eq!(run.reason().unwrap().code, "no_capacity", "why it turned round");
    assert!(run.resume().is_err(), "only a stuck run is resumed");
}

#[test]
fn a_run_stuck_after_the_point_of_no_return_goes_on_forward() {
    let mut run = run(3, 2);
    assert_eq!(run.failed(&shape(), 3, &error(FailureKind::Transient)), Verdict::Stick);
    assert_eq!(run.reason().unwrap().code, "no_capacity");
    run.resume().unwrap();
    assert_eq!((run.status, next(&shape(), &run)), (RunStatus::Running, Action::Do(3)));
    assert_eq!(run.steps[3].attempts, 2, "the history stays");
}

#[test]
fn the_wait_grows_and_is_bounded_and_jittered() {
    let retry =
        Retry { attempts: 9, first_wait: Duration::from_millis(100), longest_wait: Duration::from_secs(1) };
    let waits: Vec<_> = (1..7).map(|failures| retry.wait(failures, u32::MAX).as_millis()).collect();
    assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
    assert_eq!(retry.wait(3, 0), Duration::from_millis(200), "jitter takes away up to half");
    assert_eq!(retry.wait(u32::MAX, u32::MAX), Duration::from_secs(1));
}
