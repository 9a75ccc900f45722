//! Backends that sessions share, by cluster. A session has one as long as its
//! transaction lasts, and gives it back. Backends of different roles never take
//! each other's place: each is authenticated as one tenant's role for its whole
//! life, so that nothing of one tenant can be found by another in it.

mod ahead;
mod closed;
mod crowd;
mod share;

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use insula_credentials::{ChannelKey, MasterKeys, Secret};
use insula_domain::{ClusterName, DatabaseName, DatabaseTerms, Entropy, RoleName, Slug};
use insula_route_map::{ClusterEndpoint, Route, Snapshot};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Sleep, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;

pub(crate) use self::ahead::channel_key;
use self::ahead::{Ahead, LeadsTo};
use self::closed::NotOpened;
use self::share::{Acquired, Grant, Limits, Share, Task, Terms, Usable};
pub(crate) use self::share::{Holding, PoolKey, Tally};
use crate::account::Account;
use crate::backend::{Backend, BackendError, Dialling, Listing, dial};
use crate::cancel::CancelTarget;
use crate::config::LiveConfig;
use crate::measure::{DialledOutcome, Measures};
use crate::refusal::Refusal;
use crate::roster::Roster;
use crate::settings::SessionSettings;

/// What a backend may still send after it was told to end.
const LEFTOVER_BYTES_MAX: usize = 64 * 1024;

/// Sessions at work on a server of this machine, for each processor: while one
/// computes others wait for their log to be written, or for the front.
const AT_WORK_FOR_ONE_PROCESSOR: u32 = 4;

/// Of the backends that a cluster may have, how many there are for each session
/// that may be at work. Where its processors are not known its bound stands for
/// how large it is.
const BACKENDS_FOR_ONE_AT_WORK: u32 = 4;

/// As few places as there are at least.
const PLACES_MIN: u32 = 2;

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
    ahead: Ahead,
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
    /// The server lets the role in no more, and is tried again and again.
    pub is_closed: AtomicBool,
}

/// What a tenant has of a cluster's backends, which changes with its plan.
#[derive(Debug)]
pub(crate) struct LiveTerms {
    weight: AtomicU32,
    backends: AtomicU32,
    warm: AtomicU32,
    is_narrowed: AtomicBool,
}

impl LiveTerms {
    pub fn new(route: &Route) -> Self {
        let Terms { weight, backends, warm, is_narrowed } = terms_of(route);
        let (weight, backends, warm) = (weight.into(), backends.into(), warm.into());
        Self { weight, backends, warm, is_narrowed: is_narrowed.into() }
    }

    /// Holds from the next transaction on.
    pub fn set(&self, route: &Route) {
        let Terms { weight, backends, warm, is_narrowed } = terms_of(route);
        self.weight.store(weight, Ordering::Relaxed);
        self.backends.store(backends, Ordering::Relaxed);
        self.warm.store(warm, Ordering::Relaxed);
        self.is_narrowed.store(is_narrowed, Ordering::Relaxed);
    }

    fn get(&self) -> Terms {
        let load = |value: &AtomicU32| value.load(Ordering::Relaxed);
        Terms {
            weight: load(&self.weight),
            backends: load(&self.backends),
            warm: load(&self.warm),
            is_narrowed: self.is_narrowed.load(Ordering::Relaxed),
        }
    }
}

fn terms_of(route: &Route) -> Terms {
    let DatabaseTerms { weight, backends, backends_warm, .. } = route.terms;
    Terms { weight, backends: backends.unwrap_or(0), warm: backends_warm, is_narrowed: route.is_narrowed }
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
    /// Its session keeps it, and it is charged while it does.
    is_kept: bool,
    /// Its session is at work, and counted so.
    is_at_work: bool,
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
    destination: Arc<Destination>,
    since: Instant,
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
    pub fn reach(&self, destination: Destination, route: &Route) -> (Arc<Cluster>, Arc<Destination>) {
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
        shared.terms.set(route);
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
            at_work: config.active_per_cluster_max.unwrap_or_else(|| places(endpoint, backends)),
            opening: places(endpoint, backends).div_ceil(2),
            of_narrowed: places(endpoint, backends).div_ceil(2),
        }
    }

    /// Lets sessions go on that are in line for a place and have one by now. To
    /// be called often.
    pub fn relieve(&self, now: Instant) {
        for cluster in lock(&self.clusters).values() {
            let tasks = cluster.share().relieve(now);
            cluster.run(tasks);
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
            let terms = |tenant| snapshot.route(tenant).map(|route| terms_of(route));
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

    /// The most backends that a tenant may have on a cluster, where its sessions keep
    /// none.
    pub fn most(&self, endpoint: &ClusterEndpoint, route: &Route) -> u32 {
        self.limits(endpoint).of(terms_of(route), 0)
    }

    /// How many backends there are, and who waits, on all clusters.
    pub fn tally(&self) -> Tally {
        let clusters: Vec<Arc<Cluster>> = lock(&self.clusters).values().map(Arc::clone).collect();
        clusters.iter().fold(Tally::default(), |sum, cluster| sum.and(cluster.share().tally()))
    }
}

/// How many sessions a cluster serves at once while several tenants are at work,
/// where nothing else is said: by the processors of a server on this machine,
/// and else by the backends for which it was made.
fn places(endpoint: &ClusterEndpoint, backends: u32) -> u32 {
    let by_backends = backends.div_ceil(BACKENDS_FOR_ONE_AT_WORK).max(PLACES_MIN);
    let processors = available_parallelism().map_or(1, usize::from);
    let by_processors =
        u32::try_from(processors).unwrap_or(u32::MAX).saturating_mul(AT_WORK_FOR_ONE_PROCESSOR);
    if is_here(&endpoint.host) { by_processors.max(PLACES_MIN).min(by_backends) } else { by_backends }
}

fn is_here(host: &str) -> bool {
    let is_loopback = |address: IpAddr| address.is_loopback();
    host.starts_with('/') || host == "localhost" || host.parse().is_ok_and(is_loopback)
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
    /// is a choice. One that was held is not refused because many wait.
    pub fn acquire(
        self: &Arc<Self>,
        to: &Arc<Destination>,
        settings: &Arc<SessionSettings>,
        (patience, was_held): (&mut Patience, bool),
    ) -> Answer {
        let now = Instant::now();
        loop {
            let acquired = self.share().acquire_for((to.key, to.terms.get()), was_held, now, |backend| {
                SessionSettings::are_same(&backend.contents.settings, settings)
            });
            match acquired {
                Acquired::Now(backend) => {
                    if backend.is_alive() {
                        return Answer::Now(self.lease(to.key, backend, now));
                    }
                    drop(backend);
                    let tasks = self.share().found_gone(to.key, now);
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
                        destination: Arc::clone(to),
                        since: now,
                    });
                }
                Acquired::Full => return Answer::Refused(Refusal::no_backend(&to.slug)),
            }
        }
    }

    fn lease(self: &Arc<Self>, key: PoolKey, backend: Box<Backend>, since: Instant) -> Lease {
        backend.badge.is_used(true, since);
        let (is_kept, is_at_work) = (false, true);
        let place = Place { cluster: Arc::clone(self), key, since, is_passed_on: false, is_kept, is_at_work };
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
            let mut other = self.opener.open(destination).await.map_err(|error| error.to_string())?;
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

    async fn open(self: &Arc<Self>, key: PoolKey, mut began: Instant) {
        let destination = lock(&self.destinations).get(&key).map(Weak::clone).unwrap_or_default();
        let mut opened = self.try_to_open(&destination).await;
        if let Err(NotOpened::Closed(_)) = opened {
            let given_up = self.share().found_closed(key, Instant::now());
            if let Some(tasks) = given_up {
                return self.run(tasks);
            }
            opened = self.try_until_open(&destination).await;
            // How long it was closed says nothing of how long opening takes.
            began = Instant::now();
        }
        let now = Instant::now();
        let opened = opened.map_err(NotOpened::into_refusal);
        let tasks = match opened {
            Ok(backend) => self.share().opened(key, Box::new(backend), now.duration_since(began), now),
            Err(refusal) => self.share().not_opened(key, &refusal, now),
        };
        self.run(tasks);
    }
}

impl Opener {
    /// With the sources of what opening backends takes.
    pub fn new(
        (master_keys, entropy): (Arc<MasterKeys>, Arc<dyn Entropy>),
        tls: TlsConnector,
        config: LiveConfig,
        (measures, roster): (Measures, Arc<Roster>),
        terminating_max: usize,
    ) -> Self {
        let (terminating, ahead) = (Semaphore::new(terminating_max), Ahead::default());
        Self { master_keys, entropy, tls, config, measures, roster, terminating, ahead }
    }

    async fn open(&self, to: &Destination) -> Result<Backend, NotOpened> {
        let began = Instant::now();
        let definitions = to.definitions.load(Ordering::Relaxed);
        let within = self.config.get().connect_timeout;
        let opened = match self.finish_ahead(to, within).await {
            Some(opened) => opened,
            None => {
                let password = self.password(to)?;
                let Destination { endpoint, role, database, .. } = to;
                let channel_key = to.channel_key.clone();
                let dialling = Dialling { endpoint, role, database, password, channel_key };
                let opened = async {
                    let dialled = dial(dialling, &self.tls, self.entropy.as_ref()).await?;
                    dialled.finish(self.listing(to)).await
                };
                timeout(within, opened).await.unwrap_or(Err(BackendError::TimedOut))
            }
        };
        let mut backend = opened.map_err(|error| NotOpened::of(to, &error))?;
        backend.contents.definitions = definitions;
        self.measures.backend_opened(began.elapsed());
        Ok(backend)
    }

    /// A backend whose connection was begun ahead, or the server's refusal. None
    /// where there is no such connection, or it was of no use.
    async fn finish_ahead(
        &self,
        to: &Destination,
        within: Duration,
    ) -> Option<Result<Backend, BackendError>> {
        let dialled = self.ahead.take(to.key.tenant, &LeadsTo::of(to))?;
        if !dialled.is_alive() {
            self.measures.dialled(DialledOutcome::Failed);
            return None;
        }
        let finished = timeout(within, dialled.finish(self.listing(to))).await;
        let finished = finished.unwrap_or(Err(BackendError::TimedOut));
        let is_answer = matches!(finished, Ok(_) | Err(BackendError::Refused { .. }));
        self.measures.dialled(if is_answer { DialledOutcome::Used } else { DialledOutcome::Failed });
        is_answer.then_some(finished)
    }

    fn password(&self, to: &Destination) -> Result<Secret, NotOpened> {
        let PoolKey { tenant, read_only, key_generation, .. } = to.key;
        self.master_keys.role_password(tenant, read_only, key_generation).map_err(|error| {
            tracing::error!(%error, "the password of a role cannot be derived");
            NotOpened::Failed(Refusal::placement_unavailable())
        })
    }

    fn listing<'a>(&'a self, to: &'a Destination) -> Listing<'a> {
        Listing { tenant: to.key.tenant, endpoint: &to.endpoint, role: &to.role, roster: &self.roster }
    }
}

impl Lease {
    /// Gives the backend back, which stands between two transactions and has
    /// nothing in it that the next session does not expect.
    pub fn give_back(self) {
        let Self { backend, mut place } = self;
        place.is_passed_on = true;
        place.is_at_work(true);
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
        place.ends();
        place.is_at_work(false);
        place.cluster.run(vec![Task::Close(place.key, backend)]);
    }

    /// Whether its session has something under way.
    pub fn is_at_work(&mut self, is_at_work: bool) {
        self.place.is_at_work(is_at_work);
    }

    /// The session keeps the backend from here on.
    pub fn keep(&mut self) {
        let Place { cluster, key, since, is_kept, .. } = &mut self.place;
        if !std::mem::replace(is_kept, true) {
            let now = Instant::now();
            let tasks = cluster.share().keeps(*key, now.saturating_duration_since(*since), now);
            cluster.run(tasks);
        }
    }
}

impl Place {
    fn is_at_work(&mut self, is_at_work: bool) {
        if std::mem::replace(&mut self.is_at_work, is_at_work) == is_at_work {
            return;
        }
        if is_at_work {
            return self.cluster.share().works(self.key.tenant);
        }
        let tasks = self.cluster.share().rests(self.key.tenant, Instant::now());
        self.cluster.run(tasks);
    }

    /// The backend is about to be closed, and its time counts until here.
    fn ends(&self) {
        let now = Instant::now();
        let mut share = self.cluster.share();
        if self.is_kept {
            share.keeps_no_more(self.key, now);
        } else {
            share.ends(self.key, now.saturating_duration_since(self.since));
        }
    }
}

impl Usable for Box<Backend> {
    fn is_usable(&self) -> bool {
        self.is_alive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_passed_on {
            self.ends();
            self.is_at_work(false);
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
        loop {
            ready!(self.patience.poll_end(context));
            let slug = &self.destination.slug;
            if !self.destination.is_closed.load(Ordering::Relaxed) {
                return Poll::Ready(Err(Refusal::no_backend(slug)));
            }
            let left = closed::TRIED_FOR.saturating_sub(self.since.elapsed());
            if left.is_zero() {
                return Poll::Ready(Err(Refusal::closed(slug)));
            }
            self.patience.begins(left);
        }
    }
}

impl Wait {
    /// Since when it waits.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The timer, for the next wait.
    pub fn take_patience(&mut self) -> Patience {
        std::mem::take(&mut self.patience)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.destination.account.waited(self.since.elapsed());
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
