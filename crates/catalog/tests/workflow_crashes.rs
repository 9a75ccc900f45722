//! Runs on a real PostgreSQL survive the death of their worker: before, inside
//! and after every do and every undo, and in the middle of a step; and a
//! worker that was only taken for dead changes nothing any more.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod workflow_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use insula_problem::{Code, Problem};
use insula_workflow::{
    CrashPoint, CrashPoints, Operation, Registry, RunStatus, Step, StepError, StepStatus, Workflow,
};
use tokio::sync::Semaphore;
use workflow_support::{House, LEASE, STEPS, Site, UNDOABLE, Working, new_run, registry};

/// Ends the run's task at one point, the first time it is reached.
#[derive(Debug)]
struct CrashAt {
    point: String,
    done: AtomicBool,
    crashed: Semaphore,
}

impl CrashAt {
    fn new(step: &str, moment: &str) -> Arc<Self> {
        let point = format!("tenant.create:{step}:{moment}");
        Arc::new(Self { point, done: AtomicBool::new(false), crashed: Semaphore::new(0) })
    }
}

impl CrashPoints for CrashAt {
    fn reached(&self, point: &CrashPoint<'_>) {
        if point.to_string() == self.point && !self.done.swap(true, Ordering::SeqCst) {
            self.crashed.add_permits(1);
            // The task ends without a word, like a process that is killed.
            std::panic::resume_unwind(Box::new("killed"));
        }
    }
}

/// Runs the workflow with a crash at the point, and lets another worker go on.
async fn crash_and_go_on(house: &mut House, site: Site, step: &str, moment: &str) -> (Operation, Arc<Site>) {
    let site = Arc::new(site);
    let crash = CrashAt::new(step, moment);
    let id = house.start(new_run(house, &format!("{step} {moment}"))).await;
    let first = house.worker("first", registry(&site), Arc::clone(&crash) as Arc<dyn CrashPoints>);
    // A point that is never reached fails the test by its time-out.
    let reached = tokio::time::timeout(LEASE, crash.crashed.acquire()).await;
    reached.unwrap_or_else(|_| panic!("{} is reached", crash.point)).unwrap().forget();
    first.die().await;
    house.clock.advance(LEASE);
    let second = Working::without_crashes(house, "second", registry(&site));
    let operation = house.until_it_rests(id).await;
    second.stop().await;
    (operation, site)
}

#[tokio::test]
async fn a_worker_dies_at_every_point_of_every_do() {
    let mut house = House::new("crash_do").await;
    for step in STEPS {
        for moment in ["before", "inside", "after"] {
            let (operation, site) = crash_and_go_on(&mut house, Site::default(), step, moment).await;
            assert_eq!(operation.status, RunStatus::Succeeded, "{step} {moment}");
            assert_eq!(site.present().len(), STEPS.len(), "{step} {moment}");
            // A crash inside repeats exactly that do; nothing is undone.
            let repeats = site.seen().iter().filter(|seen| *seen == step).count();
            assert_eq!(repeats, if moment == "inside" { 2 } else { 1 }, "{step} {moment}");
            assert_eq!(site.seen().len(), STEPS.len() + repeats - 1, "{step} {moment}: {:?}", site.seen());
        }
    }
}

#[tokio::test]
async fn a_worker_dies_at_every_point_of_every_undo() {
    let mut house = House::new("crash_undo").await;
    // A failure of the last step that can be undone, half done; and of the commit.
    for failing in [STEPS[UNDOABLE - 1], "commit"] {
        for step in &STEPS[..UNDOABLE] {
            for moment in ["undo_before", "undo_inside", "undo_after"] {
                let site = Site::failing_at(failing);
                let (operation, site) = crash_and_go_on(&mut house, site, step, moment).await;
                assert_eq!(operation.status, RunStatus::Undone, "{failing} {step} {moment}");
                assert_eq!(operation.error.unwrap().code, "no_capacity");
                assert_eq!(site.present(), Vec::<&str>::new(), "{failing} {step} {moment}");
                let mut undone: Vec<_> =
                    site.seen().into_iter().filter(|it| it.starts_with("undo")).collect();
                undone.dedup();
                assert_eq!(undone, ["undo database", "undo role", "undo reserve"], "{step} {moment}");
            }
        }
    }
}

#[tokio::test]
async fn a_worker_dies_at_every_point_of_a_do_that_fails() {
    let mut house = House::new("crash_fail").await;
    for failing in &STEPS[..=UNDOABLE] {
        for moment in ["before", "inside", "after"] {
            let site = Site::failing_at(failing);
            let (operation, site) = crash_and_go_on(&mut house, site, failing, moment).await;
            assert_eq!(operation.status, RunStatus::Undone, "{failing} {moment}");
            assert_eq!(site.present(), Vec::<&str>::new(), "{failing} {moment}");
        }
    }
}

/// A step that waits inside until the test lets it go on.
struct Gate {
    entered: Semaphore,
    open: Semaphore,
}

fn gated(gate: &Arc<Gate>) -> Registry {
    let pass = |run: insula_workflow::Run<Gate, String>| async move {
        run.deps().entered.add_permits(1);
        let permit = run.deps().open.acquire().await;
        permit.map_err(|closed| StepError::retry(Problem::internal(closed)))?.forget();
        Ok::<_, StepError>(run.token().as_i64())
    };
    let mut registry = Registry::new();
    let workflow = Workflow::new("tenant.create", 1)
        .step(Step::without_undo("reserve", "for the test", pass))
        .step(Step::without_undo("role", "for the test", |_| async {
            Err::<(), _>(StepError::fail(Problem::new(Code::NoCapacity, "No cluster has room.")))
        }));
    registry.add(workflow, gate).unwrap();
    registry
}

#[tokio::test]
async fn a_worker_taken_for_dead_writes_nothing_after_another_took_over() {
    let mut house = House::new("stale").await;
    let gate = Arc::new(Gate { entered: Semaphore::new(0), open: Semaphore::new(0) });
    let mut run = new_run(&house, "acme");
    run.state = insula_workflow::RunState::new(["reserve", "role"]);
    let id = house.start(run).await;
    let stale = Working::without_crashes(&house, "stale", gated(&gate));
    gate.entered.acquire().await.unwrap().forget();
    // Its timers stand still, as they do in a host that is suspended.
    house.clock.advance(LEASE);
    let other = Working::without_crashes(&house, "other", gated(&gate));
    gate.entered.acquire().await.unwrap().forget();
    let operation = house.until(id, |it| it.steps[0].attempts == 2).await;
    assert_eq!(operation.steps[0].status, StepStatus::Running);
    // Both go on at once; only the second one's token counts.
    gate.open.add_permits(2);
    let operation = house.until_it_rests(id).await;
    assert_eq!(operation.status, RunStatus::Undone);
    stale.stop().await;
    other.stop().await;
    assert_eq!(house.log.operation(id).await.unwrap().unwrap(), operation);
    assert_eq!(operation.steps[0].attempts, 2);
}
