//! What the tests of the step log share: a catalog of their own, a workflow
//! whose effects can be looked at, and ways to wait without sleeping.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do
#![allow(dead_code)] // each test program uses a part

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use insula_catalog::Catalog;
use insula_catalog::workflow_log::{OPERATIONS_CHANNEL, WORKFLOW_CHANNEL, WorkflowLog};
use insula_domain::{Clock, OperationId, OsEntropy};
use insula_problem::{Code, Problem};
use insula_sql_store::{Connector, Listener, Pool, PoolSize};
use insula_testkit::{ManualClock, TestDatabase};
use insula_workflow::{
    CrashPoints, NewRun, NoCrash, Operation, Registry, Retry, Run, RunStatus, Started, Step, StepError,
    StepLog, Waker, Worker, WorkerSettings, Workflow,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub const LEASE: Duration = Duration::from_secs(15);
/// Longer than anything here takes; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(60);

/// A catalog of the test's own.
pub struct House {
    pub catalog: Catalog,
    pub log: WorkflowLog,
    pub clock: Arc<ManualClock>,
    pub listener: Listener,
    _database: TestDatabase,
}

impl House {
    pub async fn new(label: &str) -> Self {
        let database = TestDatabase::create(label).await;
        let connector = Connector::new(&database.url(), None).unwrap();
        let catalog = Catalog::new(connector.clone(), PoolSize(8));
        catalog.migrate().await.unwrap();
        let channels = [OPERATIONS_CHANNEL, WORKFLOW_CHANNEL];
        let listener = Listener::open(&connector, &channels).await.unwrap();
        let log = WorkflowLog::new(catalog.pool());
        Self { catalog, log, clock: Arc::new(ManualClock::default()), listener, _database: database }
    }

    pub fn pool(&self) -> Pool {
        self.catalog.pool()
    }

    pub fn new_id(&self) -> OperationId {
        OperationId::generate(self.clock.as_ref(), &OsEntropy)
    }

    /// Starts a run in a transaction of its own.
    pub async fn start(&self, run: NewRun) -> OperationId {
        let id = run.id;
        let mut client = self.pool().get().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        assert_eq!(self.log.start(&transaction, run).await.unwrap(), Started::New);
        transaction.commit().await.unwrap();
        id
    }

    pub fn worker(&self, owner: &str, registry: Registry, crash_points: Arc<dyn CrashPoints>) -> Working {
        let settings = WorkerSettings { lease: LEASE, ..WorkerSettings::new(owner) };
        let log = Arc::new(self.log.clone()) as Arc<dyn StepLog>;
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let entropy = Arc::new(OsEntropy);
        let worker = Worker::with_crash_points(log, registry, clock, entropy, settings, crash_points);
        let (waker, shutdown) = (worker.waker(), CancellationToken::new());
        let stop = shutdown.clone();
        Working { waker, shutdown, task: tokio::spawn(async move { worker.run(stop).await }) }
    }

    /// Waits until the operation is as wanted, looking at each notification.
    pub async fn until(&mut self, id: OperationId, wanted: impl Fn(&Operation) -> bool) -> Operation {
        let look = async {
            loop {
                let operation = self.log.operation(id).await.unwrap().unwrap();
                if wanted(&operation) {
                    return operation;
                }
                self.listener.next().await.unwrap();
            }
        };
        timeout(LONG, look).await.expect("the operation gets where it should")
    }

    pub async fn until_it_rests(&mut self, id: OperationId) -> Operation {
        self.until(id, |it| it.status.is_ended() || it.status == RunStatus::Stuck).await
    }
}

/// A worker at work.
pub struct Working {
    pub waker: Waker,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Working {
    pub fn without_crashes(house: &House, owner: &str, registry: Registry) -> Self {
        house.worker(owner, registry, Arc::new(NoCrash))
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        timeout(LONG, self.task).await.expect("the worker stops").unwrap();
    }

    /// Ends the worker as a death of its process would: nothing is given back.
    pub async fn die(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Where the steps have their effects.
#[derive(Debug, Default)]
pub struct Site {
    present: Mutex<BTreeSet<&'static str>>,
    seen: Mutex<Vec<String>>,
    fence: Mutex<i64>,
    /// The step that has its effect and then says that it will never succeed.
    pub fails_at: Option<&'static str>,
}

impl Site {
    pub fn failing_at(step: &'static str) -> Self {
        Self { fails_at: Some(step), ..Self::default() }
    }

    pub fn present(&self) -> Vec<&'static str> {
        self.present.lock().unwrap().iter().copied().collect()
    }

    /// Every do and undo, in the order in which they were run.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    fn admit(&self, run: &Run<Self, String>, what: String) -> Result<(), StepError> {
        let mut fence = self.fence.lock().unwrap();
        if run.token().as_i64() < *fence {
            return Err(StepError::retry(Problem::new(Code::Unavailable, "an older token")));
        }
        *fence = run.token().as_i64();
        self.seen.lock().unwrap().push(what);
        Ok(())
    }
}

async fn put(run: Run<Site, String>, step: &'static str) -> Result<String, StepError> {
    let site = run.deps();
    site.admit(&run, step.to_owned())?;
    let fails = site.fails_at == Some(step);
    if !(fails && step == "commit") {
        site.present.lock().unwrap().insert(step);
    }
    if fails {
        return Err(StepError::fail(Problem::new(Code::NoCapacity, "No cluster has room.")));
    }
    Ok(format!("{step} of {}", run.input()))
}

async fn take_back(run: Run<Site, String>, step: &'static str) -> Result<(), StepError> {
    let site = run.deps();
    site.admit(&run, format!("undo {step}"))?;
    site.present.lock().unwrap().remove(step);
    Ok(())
}

pub const STEPS: [&str; 5] = ["reserve", "role", "database", "commit", "publish"];
pub const UNDOABLE: usize = 3;

/// A workflow of the shape of those that create tenants.
pub fn create_tenant() -> Workflow<Site, String> {
    let quick = Retry { attempts: 5, first_wait: Duration::ZERO, longest_wait: Duration::ZERO };
    let mut workflow = Workflow::new("tenant.create", 1);
    for (index, name) in STEPS.into_iter().enumerate() {
        let run = move |run| put(run, name);
        let step = if index < UNDOABLE {
            Step::new(name, "for the test", run, move |run| take_back(run, name))
        } else {
            Step::without_undo(name, "for the test", run)
        };
        workflow = workflow.step(step.retry(quick).undo_retry(quick));
        if name == "commit" {
            workflow = workflow.point_of_no_return();
        }
    }
    workflow
}

pub fn registry(site: &Arc<Site>) -> Registry {
    let mut registry = Registry::new();
    registry.add(create_tenant(), site).unwrap();
    registry
}

pub fn new_run(house: &House, subject: &str) -> NewRun {
    let kind = create_tenant().kind();
    kind.new_run(house.new_id(), subject, &"acme".to_owned(), house.clock.now()).unwrap()
}
