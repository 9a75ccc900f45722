//! Thousands of seeded schedules of the real driver: several workers on one
//! run, steps that fail, half-fail and panic, a log that loses, delays and
//! doubts its answers, clocks that jump, workers that die at any point and come
//! back. Whatever happens, the run must end done or undone and the world must
//! have seen nothing that may never happen. The seed is in every message.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use insula_domain::{Clock, OperationId};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::crash::NoCrash;
use crate::driver::Driver;
use crate::log::{LeaseRequest, StepLog};
use crate::plan::{self, Action, Planner, Shape};
use crate::registry::Registry;
use crate::state::{RunState, RunStatus, StepStatus};
use crate::tests::memory_log::{Broken, MemoryLog};
use crate::tests::support::{ManualClock, Seeded, pause};
use crate::tests::world::{Plan, World, workflow};

const LEASE: Duration = Duration::from_secs(10);
const WORKERS: usize = 3;
const TURNS: u32 = 250;

/// What is simulated: the engine as it is, or with one thing broken.
#[derive(Clone, Copy)]
struct Setup {
    planner: Planner,
    log: Broken,
    effects_are_fenced: bool,
}

const SOUND: Setup = Setup { planner: plan::next, log: Broken::Nothing, effects_are_fenced: true };

/// What a schedule went through.
struct Outcome {
    status: RunStatus,
    resumed: bool,
    leases: i64,
    refused: u64,
}

type Turn = Pin<Box<dyn Future<Output = ()>>>;

struct Simulation {
    seeded: Arc<Seeded>,
    clock: Arc<ManualClock>,
    log: Arc<MemoryLog>,
    world: Arc<World>,
    driver: Arc<Driver>,
    run: OperationId,
    workers: [Option<(Turn, CancellationToken)>; WORKERS],
    resumed: bool,
}

impl Simulation {
    fn new(seed: u64, setup: Setup) -> Self {
        let seeded = Arc::new(Seeded::new(seed));
        let clock = Arc::new(ManualClock::new());
        let log = Arc::new(MemoryLog::with(setup.log, Some(Arc::clone(&seeded))));
        let plan = Plan::draw(&seeded);
        let world = Arc::new(World::new(plan.clone(), Arc::clone(&seeded), setup.effects_are_fenced));
        let workflow = workflow(&plan);
        let run = OperationId::from(Uuid::from_u64_pair(1, seed));
        let new_run = workflow.kind().new_run(run, "subject", &(), clock.now()).unwrap();
        let mut registry = Registry::new();
        registry.add(workflow, &world).unwrap();
        log.start(new_run).unwrap();
        let driver = Driver {
            log: Arc::clone(&log) as Arc<dyn StepLog>,
            registry,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            entropy: Arc::clone(&seeded) as Arc<dyn insula_domain::Entropy>,
            crash_points: Arc::new(NoCrash),
            planner: setup.planner,
            lease_length: LEASE,
            log_timeout: Duration::from_secs(2),
        };
        let workers = [const { None }; WORKERS];
        Self { seeded, clock, log, world, driver: Arc::new(driver), run, workers, resumed: false }
    }

    /// Polls a worker once; one that has nothing takes what is due.
    fn step(&mut self, worker: usize) {
        let turn = self.workers[worker].get_or_insert_with(|| {
            let stopping = CancellationToken::new();
            let (driver, child) = (Arc::clone(&self.driver), stopping.clone());
            (Box::pin(take_and_drive(driver, child)), stopping)
        });
        if turn.0.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(()) {
            self.workers[worker] = None;
        }
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        tokio::time::advance(by).await;
    }

    fn resume(&mut self) {
        self.resumed |= self.log.resume(self.run, self.clock.now());
    }

    async fn something_happens(&mut self) {
        let worker = usize::try_from(self.seeded.below(WORKERS as u64)).unwrap();
        match self.seeded.below(100) {
            0..78 => self.step(worker),
            78..82 => self.workers[worker] = None,
            82..90 => self.advance(Duration::from_millis(self.seeded.below(800))).await,
            90..92 => self.advance(LEASE).await,
            // The clock of the host jumps: no timer ran meanwhile.
            92..94 => self.clock.advance(LEASE),
            94 => {
                if let Some((_, stopping)) = &self.workers[worker] {
                    stopping.cancel();
                }
            }
            95..99 => self.log.deliver_late(self.seeded.next()),
            _ => self.resume(),
        }
    }

    /// All goes well from now on; gives back whether the run came to its end.
    async fn calm_end(&mut self) -> bool {
        self.world.calm_down();
        self.log.no_more_faults();
        for _ in 0..100 {
            (0..200).for_each(|turn| self.step(turn % WORKERS));
            self.log.deliver_late(0);
            if self.log.operation(self.run).unwrap().status.is_ended() {
                return true;
            }
            self.resume();
            self.advance(LEASE).await;
        }
        false
    }

    fn verdict(&self) -> Result<Outcome, String> {
        let operation = self.log.operation(self.run).unwrap();
        let present = self.world.present();
        if let Some(violation) = self.world.violations().first() {
            return Err(violation.clone());
        }
        match operation.status {
            RunStatus::Succeeded if !present.iter().all(|present| *present) => {
                return Err(format!("succeeded, but the world has {present:?}"));
            }
            RunStatus::Undone if present.iter().any(|present| *present) => {
                return Err(format!("undone, but the world has {present:?}"));
            }
            RunStatus::Undone if operation.error.is_none() => return Err("undone without a reason".into()),
            _ => {}
        }
        Ok(Outcome {
            status: operation.status,
            resumed: self.resumed,
            leases: self.log.token(self.run),
            refused: self.log.refused(),
        })
    }
}

async fn take_and_drive(driver: Arc<Driver>, stopping: CancellationToken) {
    pause().await;
    let now = driver.clock.now();
    let workflows = driver.registry.keys();
    let request =
        LeaseRequest { owner: "simulated", workflows: &workflows, now, until: now + LEASE, limit: 1 };
    for leased in driver.log.lease(request).await.unwrap() {
        // Whoever loses the run just stops.
        let _ = driver.drive(leased, &stopping).await;
    }
}

async fn simulate(seed: u64, setup: Setup) -> Result<Outcome, String> {
    let mut simulation = Simulation::new(seed, setup);
    for _ in 0..TURNS {
        simulation.something_happens().await;
        let operation = simulation.log.operation(simulation.run).unwrap();
        if operation.status == RunStatus::Stuck && operation.error.is_none() {
            return Err(format!("seed {seed}: stuck without a reason"));
        }
    }
    if !simulation.calm_end().await {
        return Err(format!("seed {seed}: the run does not end"));
    }
    simulation.verdict().map_err(|violation| format!("seed {seed}: {violation}"))
}

/// Runs schedules until `enough` says so, on a runtime whose timers stand still.
fn simulate_until(
    seeds: std::ops::Range<u64>,
    setup: Setup,
    mut enough: impl FnMut(Result<Outcome, String>) -> bool,
) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let all = async {
        for seed in seeds {
            if enough(simulate(seed, setup).await) {
                break;
            }
        }
    };
    runtime.block_on(tokio::task::coop::unconstrained(all));
}

#[test]
fn every_schedule_ends_well() {
    let mut outcomes = Vec::new();
    simulate_until(0..4_000, SOUND, |outcome| {
        outcomes.push(outcome);
        false
    });
    let failures: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(failures.is_empty(), "{} schedules failed, the first: {}", failures.len(), failures[0]);
    let count = |holds: fn(&Outcome) -> bool| outcomes.iter().flatten().filter(|it| holds(it)).count();
    // The schedules must have been through what they are for.
    assert!(count(|outcome| outcome.status == RunStatus::Succeeded) > 500);
    assert!(count(|outcome| outcome.status == RunStatus::Undone) > 500);
    assert!(count(|outcome| outcome.resumed) > 100, "{}", count(|outcome| outcome.resumed));
    assert!(count(|outcome| outcome.leases > 3) > 1_000);
    assert!(count(|outcome| outcome.refused > 0) > 200, "{}", count(|outcome| outcome.refused > 0));
}

fn is_caught(setup: Setup) -> bool {
    let mut caught = false;
    simulate_until(0..4_000, setup, |outcome| {
        caught = outcome.is_err();
        caught
    });
    caught
}

/// Undoes the first step first.
fn undoes_in_the_wrong_order(shape: &Shape, run: &RunState) -> Action {
    let begun = |status: StepStatus| !matches!(status, StepStatus::Pending | StepStatus::Undone);
    match plan::next(shape, run) {
        Action::Undo(_) => {
            let first = run.steps.iter().position(|step| begun(step.status)).unwrap();
            if shape.steps[first].has_undo { Action::Undo(first) } else { Action::PassOver(first) }
        }
        action => action,
    }
}

/// Takes the failing step for one that left nothing behind.
fn forgets_the_failing_step(shape: &Shape, run: &RunState) -> Action {
    match plan::next(shape, run) {
        Action::Undo(step) if run.steps[step].status == StepStatus::Running => Action::PassOver(step),
        action => action,
    }
}

/// Goes on with the step after the one that is to be done.
fn skips_a_step(shape: &Shape, run: &RunState) -> Action {
    match plan::next(shape, run) {
        Action::Do(step) if step + 1 < shape.steps.len() && run.steps[step].tries == 1 => {
            Action::Do(step + 1)
        }
        action => action,
    }
}

/// Undoes a step before the point of no return when one after it fails.
fn turns_round_too_late(shape: &Shape, run: &RunState) -> Action {
    match plan::next(shape, run) {
        Action::Do(step) if step > 1 && shape.point_of_no_return == Some(1) && run.steps[step].tries > 0 => {
            Action::Undo(0)
        }
        action => action,
    }
}

#[test]
fn canary_a_wrong_planner_is_caught() {
    let wrong: [Planner; 4] =
        [undoes_in_the_wrong_order, forgets_the_failing_step, skips_a_step, turns_round_too_late];
    for (index, planner) in wrong.into_iter().enumerate() {
        assert!(is_caught(Setup { planner, ..SOUND }), "planner {index}");
    }
}

#[test]
fn canary_a_log_that_does_not_check_the_token_is_caught() {
    assert!(is_caught(Setup { log: Broken::TokenUnchecked, ..SOUND }));
}

#[test]
fn canary_a_log_that_takes_slow_writes_is_caught() {
    assert!(is_caught(Setup { log: Broken::RevisionUnchecked, ..SOUND }));
}

#[test]
fn canary_effects_that_ignore_the_token_are_caught() {
    assert!(is_caught(Setup { effects_are_fenced: false, ..SOUND }));
}
