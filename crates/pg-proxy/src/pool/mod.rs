//! Backends that sessions share, by cluster. A session has one as long as its
//! transaction lasts, and gives it back. Backends of different roles never take
//! each other's place: each is authenticated as one tenant's role for its whole
//! life, so that nothing of one tenant can be found by another in it.

mod share;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use insula_credentials::{ChannelKey, MasterKeys};
use insula_domain::{ClusterName, DatabaseName, DatabaseTerms, Entropy, RoleName, Slug};
use insula_route_map::{ClusterEndpoint, Snapshot};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Sleep, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use self::share::{Acquired, Grant, Limits, Share, Task, Terms};
pub(crate) use self::share::{Holding, PoolKey, Tally};
use crate::account::Account;
use crate::backend::{Backend, BackendError, Opening, open};
use crate::cancel::CancelTarget;
use crate::config::LiveConfig;
use crate::measure::Measures;
use crate::refusal::Refusal;
use crate::roster::Roster;
use crate::settings::SessionSettings;

/// What a backend may still send after it was told to end.
const LEFTOVER_BYTES_MAX: usize = 64 * 1024;

/// What opening backends takes.
pub(crate) struct Opener {
    pub master_keys: Arc<MasterKeys>,
    pub entropy: Arc<dyn Entropy>,
    pub tls: TlsConnector,
    pub config: LiveConfig,
    pub measures: Measures,
    /// Where backends are to be seen.
    pub roster: Arc<Roster>,
    /// Backends that are terminated at the same time.
    pub terminating: Semaphore,
}

/// Where the backends of a pool lead.
#[derive(Debug)]
pub(crate) struct Destination {
    pub key: PoolKey,
    /// The tenant's, for messages.
    pub slug: Slug,
    /// What is counted of the tenant.
    pub account: Arc<Account>,
    pub endpoint: Arc<ClusterEndpoint>,
    pub role: RoleName,
    pub database: DatabaseName,
    /// By what its notification channels are named, where the database is not
    /// the tenant's own.
    pub channel_key: Option<ChannelKey>,
    /// What the tenant has of the cluster's backends.
    pub terms: LiveTerms,
    /// Grows when prepared statements may not fit their tables any more.
    pub definitions: AtomicU64,
}

/// What a tenant has of a cluster's backends, which changes with its plan.
#[derive(Debug)]
pub(crate) struct LiveTerms {
    weight: AtomicU32,
    backends: AtomicU32,
    warm: AtomicU32,
}

impl LiveTerms {
    pub fn new(terms: DatabaseTerms) -> Self {
        let Terms { weight, backends, warm } = terms_of(terms);
        Self { weight: weight.into(), backends: backends.into(), warm: warm.into() }
    }

    /// Holds from the next transaction on.
    pub fn set(&self, terms: DatabaseTerms) {
        let Terms { weight, backends, warm } = terms_of(terms);
        self.weight.store(weight, Ordering::Relaxed);
        self.backends.store(backends, Ordering::Relaxed);
        self.warm.store(warm, Ordering::Relaxed);
    }

    fn get(&self) -> Terms {
        let load = |value: &AtomicU32| value.load(Ordering::Relaxed);
        Terms { weight: load(&self.weight), backends: load(&self.backends), warm: load(&self.warm) }
    }
}

fn terms_of(terms: DatabaseTerms) -> Terms {
    let DatabaseTerms { weight, backends, backends_warm, .. } = terms;
    Terms { weight, backends: backends.unwrap_or(0), warm: backends_warm }
}

/// The pools of all clusters.
pub(crate) struct Pools {
    opener: Arc<Opener>,
    clusters: Mutex<HashMap<ClusterName, Arc<Cluster>>>,
}

/// The pools of one cluster.
pub(crate) struct Cluster {
    opener: Arc<Opener>,
    share: Mutex<Share<Box<Backend>>>,
    destinations: Mutex<HashMap<PoolKey, Weak<Destination>>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

/// A backend that a session has.
#[derive(Debug)]
pub(crate) struct Lease {
    pub backend: Box<Backend>,
    place: Place,
}

/// A backend's place in its cluster's account, which is free again when this is
/// dropped.
#[derive(Debug)]
pub(crate) struct Place {
    cluster: Arc<Cluster>,
    key: PoolKey,
    since: Instant,
    is_passed_on: bool,
}

/// What came of asking for a backend.
#[derive(Debug)]
pub(crate) enum Answer {
    Now(Lease),
    Later(Wait),
    Refused(Refusal),
}

/// A session's place in its tenant's queue.
#[derive(Debug)]
pub(crate) struct Wait {
    cluster: Arc<Cluster>,
    key: PoolKey,
    granted: oneshot::Receiver<Grant<Box<Backend>>>,
    patience: Patience,
    slug: Slug,
    since: Instant,
    account: Arc<Account>,
}

/// A timer that a session keeps from one wait to the next: to put it off costs
/// less than to make another.
#[derive(Debug, Default)]
pub(crate) struct Patience(Option<Pin<Box<Sleep>>>);

impl Patience {
    fn begins(&mut self, longest: Duration) {
        match &mut self.0 {
            Some(timer) => timer.as_mut().reset(tokio::time::Instant::now() + longest),
            None => self.0 = Some(Box::pin(sleep(longest))),
        }
    }

    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().map_or(Poll::Ready(()), |timer| timer.as_mut().poll(context))
    }
}

impl Pools {
    pub fn new(opener: Opener) -> Self {
        Self { opener: Arc::new(opener), clusters: Mutex::default() }
    }

    /// The pools of a cluster, and what is shared of the way to one of them.
    pub fn reach(&self, destination: Destination, terms: DatabaseTerms) -> (Arc<Cluster>, Arc<Destination>) {
        let endpoint = &destination.endpoint;
        let limits = self.limits(endpoint);
        let mut clusters = lock(&self.clusters);
        let cluster = clusters.entry(endpoint.name.clone()).or_insert_with(|| {
            let (opener, share) = (Arc::clone(&self.opener), Mutex::new(Share::new(limits)));
            Arc::new(Cluster { opener, share, destinations: Mutex::default() })
        });
        let cluster = Arc::clone(cluster);
        drop(clusters);
        cluster.share().set_limits(limits);
        let mut known = lock(&cluster.destinations);
        let shared = known.get(&destination.key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let key = destination.key;
            let shared = Arc::new(destination);
            known.insert(key, Arc::downgrade(&shared));
            shared
        });
        drop(known);
        shared.terms.set(terms);
        (cluster, shared)
    }

    fn limits(&self, endpoint: &ClusterEndpoint) -> Limits {
        let config = self.opener.config.get();
        let backends = endpoint.max_connections.unwrap_or(config.backends_per_cluster_max).max(1);
        Limits {
            backends,
            of_tenant: config.backends_per_tenant_max.unwrap_or(backends.div_ceil(4) * 3).clamp(1, backends),
            waiting_of_tenant: config.waiting_per_tenant_max,
            warm_for: config.backend_warm_for,
        }
    }

    /// Takes over the bounds that hold by now, and closes what has been idle for
    /// too long or leads where its tenant is not any more. To be called now and then.
    pub fn sweep(&self, snapshot: &Snapshot, now: Instant) {
        let idle_since = now.checked_sub(self.opener.config.get().backend_idle_max).unwrap_or(now);
        let clusters: Vec<(ClusterName, Arc<Cluster>)> =
            lock(&self.clusters).iter().map(|(name, cluster)| (name.clone(), Arc::clone(cluster))).collect();
        for (name, cluster) in clusters {
            if let Some(endpoint) = snapshot.endpoint(&name) {
                cluster.share().set_limits(self.limits(endpoint));
            }
            let terms = |tenant| snapshot.route(tenant).map(|route| terms_of(route.terms));
            let tasks = cluster.share().sweep((idle_since, now), |key| is_current(key, snapshot), terms);
            cluster.run(tasks);
            lock(&cluster.destinations).retain(|_, destination| destination.strong_count() > 0);
        }
    }

    /// What tenants have of each cluster.
    pub fn holdings(&self) -> Vec<Holding> {
        let clusters: Vec<Arc<Cluster>> = lock(&self.clusters).values().map(Arc::clone).collect();
        clusters.iter().flat_map(|cluster| cluster.share().holdings().collect::<Vec<_>>()).collect()
    }

    /// The most backends that a tenant with these terms may have on a cluster.
    pub fn most(&self, endpoint: &ClusterEndpoint, terms: DatabaseTerms) -> u32 {
        self.limits(endpoint).of(terms_of(terms))
    }

    /// How many backends there are, and who waits, on all clusters.
    pub fn tally(&self) -> Tally {
        let clusters: Vec<Arc<Cluster>> = lock(&self.clusters).values().map(Arc::clone).collect();
        clusters.iter().fold(Tally::default(), |sum, cluster| sum.and(cluster.share().tally()))
    }
}

/// Whether backends of a pool lead where its tenant is.
fn is_current(key: &PoolKey, snapshot: &Snapshot) -> bool {
    let Some(route) = snapshot.route(key.tenant) else { return false };
    let Some(placement) = &route.placement else { return false };
    let endpoint = snapshot.endpoint(&placement.cluster);
    route.status == insula_domain::TenantStatus::Active
        && placement.epoch == key.epoch
        && route.role_key_generation == key.key_generation
        && endpoint.is_some_and(|endpoint| endpoint.revision == key.endpoint_revision)
}

impl Cluster {
    /// A backend for a session, one that has its settings already where there
    /// is a choice.
    pub fn acquire(
        self: &Arc<Self>,
        to: &Destination,
        settings: &Arc<SessionSettings>,
        patience: &mut Patience,
    ) -> Answer {
        let now = Instant::now();
        loop {
            let acquired = self.share().acquire(to.key, to.terms.get(), now, |backend| {
                SessionSettings::are_same(&backend.contents.settings, settings)
            });
            match acquired {
                Acquired::Now(backend) => {
                    if backend.is_alive() {
                        return Answer::Now(self.lease(to.key, backend, now));
                    }
                    drop(backend);
                    let tasks = self.share().closed(to.key, now);
                    self.run(tasks);
                }
                Acquired::Later(granted, tasks) => {
                    self.run(tasks);
                    let mut patience = std::mem::take(patience);
                    patience.begins(self.opener.config.get().backend_wait_max);
                    return Answer::Later(Wait {
                        cluster: Arc::clone(self),
                        key: to.key,
                        granted,
                        patience,
                        slug: to.slug.clone(),
                        since: now,
                        account: Arc::clone(&to.account),
                    });
                }
                Acquired::Full => return Answer::Refused(Refusal::no_backend(&to.slug)),
            }
        }
    }

    fn lease(self: &Arc<Self>, key: PoolKey, backend: Box<Backend>, since: Instant) -> Lease {
        backend.badge.is_used(true, since);
        let place = Place { cluster: Arc::clone(self), key, since, is_passed_on: false };
        Lease { backend, place }
    }

    fn share(&self) -> MutexGuard<'_, Share<Box<Backend>>> {
        lock(&self.share)
    }

    fn run(self: &Arc<Self>, tasks: Vec<Task<Box<Backend>>>) {
        for task in tasks {
            let cluster = Arc::clone(self);
            tokio::spawn(async move {
                let began = Instant::now();
                match task {
                    Task::Open(key) => cluster.open(key, began).await,
                    Task::Close(key, backend) => {
                        backend.end(cluster.opener.config.get().connect_timeout, LEFTOVER_BYTES_MAX).await;
                        let tasks = cluster.share().closed(key, Instant::now());
                        cluster.run(tasks);
                    }
                    Task::Replace(backend, key) => {
                        backend.end(cluster.opener.config.get().connect_timeout, LEFTOVER_BYTES_MAX).await;
                        cluster.open(key, began).await;
                    }
                    Task::LookAt(time) => {
                        sleep_until(time.into()).await;
                        let tasks = cluster.share().look(Instant::now());
                        cluster.run(tasks);
                    }
                }
            });
        }
    }

    /// Ends a backend that does not end when it is cancelled: by another one of
    /// the same role, which may do that. It is best effort, and logged.
    pub async fn terminate(&self, destination: &Destination, target: &CancelTarget) {
        let _permit = self.opener.terminating.acquire().await;
        let (cluster, tenant) = (&destination.endpoint.name, &destination.slug);
        let ended = async {
            let mut other = self.opener.open(destination).await.map_err(|refusal| refusal.to_string())?;
            let sql = format!("SELECT pg_catalog.pg_terminate_backend({})", target.key.process_id);
            let within = self.opener.config.get().connect_timeout;
            let run = timeout(within, other.run(&sql)).await;
            other.end(within, LEFTOVER_BYTES_MAX).await;
            run.map_err(|_| "it took too long".to_owned())?.map_err(|error| error.to_string())
        };
        match ended.await {
            Ok(()) => tracing::info!(%cluster, %tenant, "a backend was terminated that caught its cancels"),
            Err(error) => tracing::warn!(%cluster, %tenant, error, "a backend could not be terminated"),
        }
    }

    async fn open(self: &Arc<Self>, key: PoolKey, began: Instant) {
        let destination = lock(&self.destinations).get(&key).and_then(Weak::upgrade);
        let opened = match destination {
            Some(destination) => self.opener.open(&destination).await,
            // Nobody waits for it any more.
            None => Err(Refusal::placement_unavailable()),
        };
        let now = Instant::now();
        let tasks = match opened {
            Ok(backend) => self.share().opened(key, Box::new(backend), now.duration_since(began), now),
            Err(refusal) => self.share().not_opened(key, &refusal, now),
        };
        self.run(tasks);
    }
}

impl Opener {
    async fn open(&self, to: &Destination) -> Result<Backend, Refusal> {
        let key = to.key;
        let password = self
            .master_keys
            .role_password(key.tenant, key.read_only, key.key_generation)
            .map_err(|error| {
                tracing::error!(%error, "the password of a role cannot be derived");
                Refusal::placement_unavailable()
            })?;
        let opening = Opening {
            tenant: key.tenant,
            endpoint: &to.endpoint,
            role: &to.role,
            database: &to.database,
            password,
            roster: &self.roster,
            channel_key: to.channel_key.clone(),
        };
        let began = Instant::now();
        let definitions = to.definitions.load(Ordering::Relaxed);
        let mut backend = open(opening, &self.tls, self.entropy.as_ref(), self.config.get().connect_timeout)
            .await
            .map_err(|error| not_opened(to, &error))?;
        backend.contents.definitions = definitions;
        self.measures.backend_opened(began.elapsed());
        Ok(backend)
    }
}

/// What sessions are told, and the log.
fn not_opened(to: &Destination, error: &BackendError) -> Refusal {
    let (cluster, tenant) = (&to.endpoint.name, &to.slug);
    if matches!(error, BackendError::Refused { sqlstate, .. } if sqlstate == "28P01") {
        tracing::error!(%cluster, %tenant, %error, "a server refuses the password of a tenant's role");
        return Refusal::role_refused();
    }
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%cluster, %tenant, %error, cause, "a backend could not be opened");
    if error.is_full() { Refusal::too_many_for_cluster(cluster) } else { Refusal::placement_unavailable() }
}

impl Lease {
    /// Gives the backend back, which stands between two transactions and has
    /// nothing in it that the next session does not expect.
    pub fn give_back(self) {
        let Self { backend, mut place } = self;
        place.is_passed_on = true;
        let now = Instant::now();
        backend.badge.is_used(false, now);
        let held = now.saturating_duration_since(place.since);
        let tasks = place.cluster.share().release(place.key, backend, held, now);
        if !tasks.is_empty() {
            place.cluster.run(tasks);
        }
    }

    /// Ends the backend, of which cannot be said what is in it.
    pub fn end(self) {
        let Self { backend, mut place } = self;
        place.is_passed_on = true;
        place.cluster.run(vec![Task::Close(place.key, backend)]);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_passed_on {
            let tasks = self.cluster.share().closed(self.key, Instant::now());
            self.cluster.run(tasks);
        }
    }
}

impl Future for Wait {
    type Output = Result<Lease, Refusal>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(granted) = Pin::new(&mut self.granted).poll(context) {
            return Poll::Ready(match granted {
                Ok(Ok(backend)) => Ok(self.cluster.lease(self.key, backend, Instant::now())),
                Ok(Err(refusal)) => Err(refusal),
                Err(_) => Err(Refusal::placement_unavailable()),
            });
        }
        ready!(self.patience.poll_end(context));
        Poll::Ready(Err(Refusal::no_backend(&self.slug)))
    }
}

impl Wait {
    /// The timer, for the next wait.
    pub fn take_patience(&mut self) -> Patience {
        std::mem::take(&mut self.patience)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.account.waited(self.since.elapsed());
        self.granted.close();
        // It may have been given just now.
        if let Ok(Ok(backend)) = self.granted.try_recv() {
            self.cluster.lease(self.key, backend, Instant::now()).give_back();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here can be left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
