//! The worker: takes runs that are due, carries so many of them at a time, and
//! gives them back when it stops.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use insula_domain::{Clock, Entropy};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::crash::{CrashPoints, NoCrash};
use crate::driver::{Abandoned, Driver};
use crate::error::LogError;
use crate::log::{LeaseRequest, LeasedRun, StepLog, WorkflowKey};
use crate::measure;
use crate::plan;
use crate::registry::Registry;

/// The shortest wait between two looks into the log.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Who the worker is, for people to read: for example host and process id.
    pub owner: String,
    /// How many runs it carries at a time.
    pub parallel_runs: usize,
    /// How long a lease lasts, and so how long a run of a worker that died
    /// waits for another. More than the clocks of the hosts differ.
    pub lease: Duration,
    /// How often it looks for runs that nobody told it of.
    pub poll: Duration,
    /// How long its steps may go on after it was told to stop.
    pub stop_grace: Duration,
    /// How long a call of the step log may take.
    pub log_timeout: Duration,
}

impl WorkerSettings {
    /// Settings that suit most: 16 runs at a time, leases of 15 seconds.
    #[must_use]
    pub fn new(owner: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            parallel_runs: 16,
            lease: Duration::from_secs(15),
            poll: Duration::from_secs(5),
            stop_grace: Duration::from_secs(10),
            log_timeout: Duration::from_secs(3),
        }
    }
}

/// Tells a worker that there is something to do, so that it looks at once.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Notify>);

impl Waker {
    /// Tells it.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// Carries runs.
pub struct Worker {
    driver: Arc<Driver>,
    keys: Vec<WorkflowKey>,
    settings: WorkerSettings,
    wake: Arc<Notify>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("keys", &self.keys).field("settings", &self.settings).finish()
    }
}

impl Worker {
    /// A worker for the workflows of the registry.
    #[must_use]
    pub fn new(
        log: Arc<dyn StepLog>,
        registry: Registry,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: WorkerSettings,
    ) -> Self {
        Self::with_crash_points(log, registry, clock, entropy, settings, Arc::new(NoCrash))
    }

    /// A worker that tells of every point its runs pass; for tests.
    #[must_use]
    pub fn with_crash_points(
        log: Arc<dyn StepLog>,
        registry: Registry,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: WorkerSettings,
        crash_points: Arc<dyn CrashPoints>,
    ) -> Self {
        let keys = registry.keys();
        let driver = Driver {
            log,
            registry,
            clock,
            entropy,
            crash_points,
            planner: plan::next,
            lease_length: settings.lease,
            log_timeout: settings.log_timeout,
        };
        Self { driver: Arc::new(driver), keys, settings, wake: Arc::new(Notify::new()) }
    }

    /// What tells this worker that there is something to do.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    /// Carries runs until `shutdown` is cancelled; then it begins no step any
    /// more, lets those that run come to their end, gives its runs back, and
    /// returns. Steps that outlast the grace are broken off where they stand;
    /// their runs wait until their leases end.
    pub async fn run(&self, shutdown: CancellationToken) {
        measure::describe();
        let mut running = JoinSet::new();
        while !shutdown.is_cancelled() {
            let wait = self.take(&mut running, &shutdown).await;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.wake.notified() => {}
                Some(_) = running.join_next() => {}
                () = sleep(wait) => {}
            }
        }
        let all_given_back = async { while running.join_next().await.is_some() {} };
        if timeout(self.settings.stop_grace, all_given_back).await.is_err() {
            tracing::warn!(runs = running.len(), "steps outlast the stop of their worker");
        }
    }

    /// Takes as many runs as there is room for; gives back how long to wait
    /// before the next look.
    async fn take(&self, running: &mut JoinSet<()>, shutdown: &CancellationToken) -> Duration {
        while running.try_join_next().is_some() {}
        let room = self.settings.parallel_runs.saturating_sub(running.len());
        if room == 0 {
            return self.settings.poll;
        }
        match self.look(room).await {
            Ok((leased, wait)) => {
                leased.into_iter().for_each(|run| self.spawn(run, running, shutdown.clone()));
                wait
            }
            Err(error) => {
                tracing::warn!(error = %error, cause = ?error, "the step log gave no runs");
                self.settings.poll
            }
        }
    }

    async fn look(&self, room: usize) -> Result<(Vec<LeasedRun>, Duration), LogError> {
        let now = self.driver.clock.now();
        let request = LeaseRequest {
            owner: &self.settings.owner,
            workflows: &self.keys,
            now,
            until: now + self.settings.lease,
            limit: room,
        };
        let leased = self.bounded(self.driver.log.lease(request)).await?;
        if leased.len() == room {
            return Ok((leased, self.settings.poll));
        }
        // A failure here must not lose the runs that are leased already.
        let due = self.bounded(self.driver.log.next_due(&self.keys)).await.ok().flatten();
        Ok((leased, self.wait_until(due)))
    }

    fn wait_until(&self, due: Option<OffsetDateTime>) -> Duration {
        let Some(due) = due else { return self.settings.poll };
        let wait = Duration::try_from(due - self.driver.clock.now()).unwrap_or_default();
        wait.clamp(SHORTEST_WAIT, self.settings.poll.max(SHORTEST_WAIT))
    }

    async fn bounded<T>(&self, call: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        let elapsed = |error: tokio::time::error::Elapsed| LogError::Unavailable(error.into());
        timeout(self.settings.log_timeout, call).await.map_err(elapsed)?
    }

    fn spawn(&self, leased: LeasedRun, running: &mut JoinSet<()>, stopping: CancellationToken) {
        let driver = Arc::clone(&self.driver);
        let (run, workflow) = (leased.lease.run, leased.workflow.name.clone());
        let span = tracing::info_span!("run", %run, workflow, subject = leased.subject);
        let name = workflow.clone();
        let carry = async move {
            let _under_way = measure::UnderWay::new();
            match driver.drive(leased, &stopping).await {
                Ok(status) => {
                    measure::rests(&name, status);
                    tracing::info!(status = status.as_str(), "the run rests");
                }
                Err(Abandoned::LeaseLost) => tracing::warn!("another worker has the run"),
                Err(error) => tracing::warn!(error = ?error, "the run is left to another worker"),
            }
        };
        running.spawn(carry.instrument(span));
    }
}
