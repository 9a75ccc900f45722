//! The worker itself, on a log in memory and a clock that is moved by hand.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use insula_domain::{Clock, OperationId};
use insula_problem::{Code, Problem};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::definition::{Step, Workflow};
use crate::error::{StartError, StepError};
use crate::log::{NewRun, Started, StepLog};
use crate::operation::Operation;
use crate::plan::Retry;
use crate::registry::Registry;
use crate::run::Run;
use crate::state::{RunStatus, StepStatus};
use crate::tests::memory_log::MemoryLog;
use crate::tests::support::{ManualClock, Seeded};
use crate::worker::{Waker, Worker, WorkerSettings};

const LEASE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct CreateTenant {
    slug: String,
}

type Behaviour = Box<dyn Fn(u32) -> Result<(), StepError> + Send + Sync>;

/// Where the steps of the tests have their effects.
#[derive(Default)]
struct Site {
    seen: Mutex<Vec<String>>,
    behaviours: BTreeMap<&'static str, Behaviour>,
    /// A step of this name waits here for a permit.
    waits_at: Option<(&'static str, Arc<Semaphore>)>,
    waiting: AtomicUsize,
}

impl Site {
    fn failing(
        step: &'static str,
        behaviour: impl Fn(u32) -> Result<(), StepError> + Send + Sync + 'static,
    ) -> Self {
        Self { behaviours: BTreeMap::from([(step, Box::new(behaviour) as Behaviour)]), ..Self::default() }
    }

    async fn visit(&self, step: &'static str, attempt: u32) -> Result<(), StepError> {
        self.seen.lock().unwrap().push(step.to_owned());
        if let Some((_, permits)) = self.waits_at.as_ref().filter(|(name, _)| *name == step) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            permits.acquire().await.unwrap().forget();
        }
        self.behaviours.get(step).map_or(Ok(()), |behaviour| behaviour(attempt))
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

type TenantRun = Run<Site, CreateTenant>;

fn create_tenant() -> Workflow<Site, CreateTenant> {
    let reserve = |run: TenantRun| async move {
        run.deps().visit("reserve", run.attempt()).await?;
        Ok(json!({ "role": format!("role_of_{}", run.input().slug) }))
    };
    let release = |run: TenantRun| async move { run.deps().visit("release", run.attempt()).await };
    let create_role = |run: TenantRun| async move {
        let reserved: BTreeMap<String, String> = run.output("reserve")?;
        run.deps().visit("create_role", run.attempt()).await?;
        Ok(reserved["role"].clone())
    };
    let drop_role = |run: TenantRun| async move { run.deps().visit("drop_role", run.attempt()).await };
    let activate = |run: TenantRun| async move { run.deps().visit("activate", run.attempt()).await };
    let publish = |run: TenantRun| async move {
        run.deps().visit("publish", run.attempt()).await?;
        run.output::<String>("create_role")
    };
    Workflow::new("tenant.create", 1)
        .step(Step::new("reserve", "the name is taken before anything is made", reserve, release))
        .step(
            Step::new("create_role", "PostgreSQL keeps tenants apart by role", create_role, drop_role)
                .retry(Retry { attempts: 3, ..Retry::BRISK })
                .timeout(Duration::from_secs(5)),
        )
        .step(Step::without_undo("activate", "the tenant exists from here on", activate))
        .point_of_no_return()
        .step(Step::without_undo("publish", "the fronts learn of it", publish))
}

struct House {
    log: Arc<MemoryLog>,
    clock: Arc<ManualClock>,
    site: Arc<Site>,
}

struct Working {
    waker: Waker,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl House {
    fn new(site: Site) -> Self {
        Self { log: Arc::new(MemoryLog::new()), clock: Arc::new(ManualClock::new()), site: Arc::new(site) }
    }

    fn worker(&self, owner: &str, parallel_runs: usize) -> Working {
        let mut registry = Registry::new();
        registry.add(create_tenant(), &self.site).unwrap();
        let log = Arc::clone(&self.log) as Arc<dyn StepLog>;
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let settings = WorkerSettings { parallel_runs, lease: LEASE, ..WorkerSettings::new(owner) };
        let worker = Worker::new(log, registry, clock, Arc::new(Seeded::new(7)), settings);
        let (waker, shutdown) = (worker.waker(), CancellationToken::new());
        let stop = shutdown.clone();
        Working { waker, shutdown, task: tokio::spawn(async move { worker.run(stop).await }) }
    }

    fn new_run(&self, number: u64, slug: &str) -> NewRun {
        let id = OperationId::from(Uuid::from_u64_pair(2, number));
        create_tenant()
            .kind()
            .new_run(id, slug, &CreateTenant { slug: slug.into() }, self.clock.now())
            .unwrap()
    }

    fn start(&self, number: u64, slug: &str) -> OperationId {
        let run = self.new_run(number, slug);
        assert_eq!(self.log.start(run.clone()).unwrap(), Started::New);
        run.id
    }

    /// Lets time pass until the run is as the test wants it; the runtime's
    /// paused clock jumps to the next timer, and ours goes with it.
    async fn until(&self, id: OperationId, holds: impl Fn(&Operation) -> bool) -> Operation {
        for _ in 0..100_000 {
            let operation = self.log.operation(id).unwrap();
            if holds(&operation) {
                return operation;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.clock.advance(Duration::from_millis(10));
        }
        panic!("never as wanted: {:?}", self.log.operation(id));
    }

    async fn rest(&self, id: OperationId) -> Operation {
        self.until(id, |operation| operation.status.is_ended() || operation.status == RunStatus::Stuck).await
    }

    async fn until_waiting(&self, steps: usize) {
        while self.site.waiting.load(Ordering::SeqCst) < steps {
            tokio::task::yield_now().await;
        }
    }
}

fn no_room() -> StepError {
    StepError::fail(Problem::new(Code::NoCapacity, "No cluster has room.").caused_by("password=hunter2"))
}

fn down() -> StepError {
    StepError::retry(Problem::new(Code::Unavailable, "The cluster is down."))
}

fn statuses(operation: &Operation) -> Vec<StepStatus> {
    operation.steps.iter().map(|step| step.status).collect()
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_through_its_steps_with_one_write_for_each() {
    let house = House::new(Site::default());
    let _worker = house.worker("a", 4);
    let id = house.start(1, "acme");
    let operation = house.rest(id).await;
    assert_eq!(operation.status, RunStatus::Succeeded);
    assert_eq!(operation.output, Some(json!("role_of_acme")));
    assert_eq!(operation.kind, "tenant.create");
    assert!(operation.ended_at.is_some() && operation.steps.iter().all(|step| step.attempts == 1));
    assert_eq!(house.site.seen(), ["reserve", "create_role", "activate", "publish"]);
    assert_eq!(house.log.saves(), 5, "the begin of the first step, and the end of each");
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_undone_in_reverse_order() {
    let house = House::new(Site::failing("create_role", |_| Err(no_room())));
    let _worker = house.worker("a", 4);
    let id = house.start(1, "acme");
    let operation = house.rest(id).await;
    assert_eq!(operation.status, RunStatus::Undone);
    assert_eq!(house.site.seen(), ["reserve", "create_role", "drop_role", "release"]);
    assert_eq!(operation.error.as_ref().unwrap().code, "no_capacity");
    let (undone, pending) = (StepStatus::Undone, StepStatus::Pending);
    assert_eq!(statuses(&operation), [undone, undone, pending, pending]);
    let shown = serde_json::to_string(&operation).unwrap();
    assert!(!shown.contains("hunter2"), "causes are for the log alone: {shown}");
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_tried_again_so_often_and_then_undone() {
    let house = House::new(Site::failing("create_role", |_| Err(down())));
    let _worker = house.worker("a", 4);
    let id = house.start(1, "acme");
    let operation = house.rest(id).await;
    assert_eq!(operation.status, RunStatus::Undone);
    let seen = ["reserve", "create_role", "create_role", "create_role", "drop_role", "release"];
    assert_eq!(house.site.seen(), seen);
}

#[tokio::test(start_paused = true)]
async fn panics_and_steps_that_hang_are_tried_again() {
    let mut site = Site::failing("reserve", |attempt| {
        if attempt == 1 {
            std::panic::resume_unwind(Box::new("a panic on purpose"));
        }
        Ok(())
    });
    let permits = Arc::new(Semaphore::new(0));
    site.waits_at = Some(("create_role", Arc::clone(&permits)));
    let house = House::new(site);
    let _worker = house.worker("a", 4);
    let id = house.start(1, "acme");
    let failed = |operation: &Operation| operation.steps[1].error.is_some();
    let operation = house.until(id, failed).await;
    assert_eq!(operation.steps[0].attempts, 2);
    assert!(operation.steps[1].error.as_ref().unwrap().detail.contains("longer than 5 seconds"));
    permits.add_permits(1);
    assert_eq!(house.rest(id).await.status, RunStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn after_the_point_of_no_return_a_run_gets_stuck_and_an_operator_resumes_it() {
    let healed = Arc::new(AtomicUsize::new(0));
    let watched = Arc::clone(&healed);
    let house = House::new(Site::failing("publish", move |_| {
        if watched.load(Ordering::SeqCst) == 0 { Err(no_room()) } else { Ok(()) }
    }));
    let worker = house.worker("a", 4);
    let id = house.start(1, "acme");
    let operation = house.rest(id).await;
    assert_eq!(operation.status, RunStatus::Stuck);
    assert_eq!(operation.error.as_ref().unwrap().code, "no_capacity");
    assert_eq!(operation.steps[3].attempts, Retry::PATIENT.attempts);
    assert!(!house.site.seen().contains(&"drop_role".to_owned()));
    assert!(
        matches!(house.log.start(house.new_run(2, "acme")), Err(StartError::Busy { operation, .. }) if operation == id)
    );

    healed.store(1, Ordering::SeqCst);
    assert!(house.log.resume(id, house.clock.now()));
    worker.waker.wake();
    assert_eq!(house.rest(id).await.status, RunStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_runs_are_carried_at_a_time() {
    let permits = Arc::new(Semaphore::new(0));
    let house = House::new(Site { waits_at: Some(("reserve", Arc::clone(&permits))), ..Site::default() });
    let ids: Vec<_> = (0..7).map(|number| house.start(number, &format!("t{number}"))).collect();
    let worker = house.worker("a", 3);
    house.until_waiting(3).await;
    worker.waker.wake();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(house.site.waiting.load(Ordering::SeqCst), 3);
    permits.add_permits(7);
    for id in ids {
        assert_eq!(house.rest(id).await.status, RunStatus::Succeeded);
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_gives_its_run_back_after_the_step() {
    let permits = Arc::new(Semaphore::new(0));
    let house = House::new(Site { waits_at: Some(("reserve", Arc::clone(&permits))), ..Site::default() });
    let first = house.worker("a", 4);
    let id = house.start(1, "acme");
    first.waker.wake();
    house.until_waiting(1).await;
    first.shutdown.cancel();
    permits.add_permits(1);
    first.task.await.unwrap();
    let operation = house.log.operation(id).unwrap();
    assert_eq!(statuses(&operation)[..2], [StepStatus::Done, StepStatus::Pending]);

    // The clock has not moved: the second worker need not wait for the lease.
    let second = house.worker("b", 4);
    let operation = house.rest(id).await;
    assert_eq!(operation.status, RunStatus::Succeeded);
    assert!(operation.steps.iter().all(|step| step.attempts == 1));
    second.shutdown.cancel();
    second.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_was_taken_for_dead_changes_nothing() {
    let permits = Arc::new(Semaphore::new(0));
    let house = House::new(Site { waits_at: Some(("reserve", Arc::clone(&permits))), ..Site::default() });
    let slow = house.worker("slow", 4);
    let id = house.start(1, "acme");
    slow.waker.wake();
    house.until_waiting(1).await;
    // The slow worker's host stands still: no timer of it runs.
    house.clock.advance(LEASE);
    let quick = house.worker("quick", 4);
    house.until_waiting(2).await;
    permits.add_permits(2);
    let operation = house.rest(id).await;
    assert_eq!(operation.status, RunStatus::Succeeded);
    slow.shutdown.cancel();
    quick.shutdown.cancel();
    slow.task.await.unwrap();
    quick.task.await.unwrap();
    assert_eq!(house.log.refused(), 1, "the slow worker's write");
    assert_eq!(house.log.operation(id).unwrap(), operation);
}

#[tokio::test(start_paused = true)]
async fn starting_is_idempotent_by_id_and_exclusive_by_subject() {
    let house = House::new(Site::default());
    let id = house.start(1, "acme");
    assert_eq!(house.log.start(house.new_run(1, "acme")).unwrap(), Started::Already);
    assert!(matches!(house.log.start(house.new_run(1, "globex")), Err(StartError::IdTaken)));
    assert!(matches!(house.log.start(house.new_run(2, "acme")), Err(StartError::Busy { .. })));
    let shared = create_tenant().shares_its_subject().kind();
    let id_of_shared = OperationId::from(Uuid::from_u64_pair(2, 3));
    let input = CreateTenant { slug: "acme".into() };
    let run = shared.new_run(id_of_shared, "acme", &input, house.clock.now()).unwrap();
    assert_eq!(house.log.start(run).unwrap(), Started::New);
    let _worker = house.worker("a", 4);
    assert_eq!(house.rest(id).await.status, RunStatus::Succeeded);
    assert_eq!(house.log.start(house.new_run(4, "acme")).unwrap(), Started::New);
}
