//! The hub of a region: it knows what its watched tenants see, and tells their
//! watchers what has changed. A tenant's watchers share one topic; one that
//! does not keep up with it takes a new snapshot.

mod pump;
mod queued;
mod state;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insula_config_model::{ConfigValue, Lineage, Revision, Rollout, Scope, Stored, TagTable};
use insula_config_proto::v1::watch_event::Reason;
use insula_config_store::ConfigStore;
use insula_domain::{RegionName, TenantId};
use insula_problem::{Code, Problem};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;

use crate::Bounds;
use crate::directory::Directory;
use crate::tags::Tags;
use pump::Mark;
use queued::{Queued, Waiting};
pub use state::{Item, Single, Told, short};
use state::{Meaning, Presence, Stage, State, Values};

/// Deltas that a watcher may be behind by before it takes a new snapshot.
const QUEUE: usize = 32;

/// How often it is tried to read values while they are being rolled out.
const READS_MAX: usize = 20;

/// How long a watcher waits for the values of its scopes.
const LOAD_WITHIN: Duration = Duration::from_secs(10);

/// What a topic says.
#[derive(Debug, Clone)]
pub enum Signal {
    /// Something has changed.
    Told(Arc<Waiting>),
    /// What the watcher has does not hold any more: it subscribes again.
    Again(Reason),
}

#[derive(Debug)]
struct Topic {
    tenant: TenantId,
    signals: broadcast::Sender<Signal>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    topics: HashMap<TenantId, Arc<Topic>>,
    /// The last change that was taken in.
    last: Option<Mark>,
}

/// The hub of a region.
#[derive(Debug)]
pub struct Hub {
    region: RegionName,
    store: ConfigStore,
    tags: Arc<Tags>,
    directory: Directory,
    bounds: Bounds,
    inner: Mutex<Inner>,
    /// A scope is there, or could not be read.
    loaded: Notify,
    /// The log is to be looked at.
    nudged: Notify,
    /// What waits for watchers.
    queued: Queued,
    /// Up to where the log was taken in, and when that was known to be all of
    /// it; none before the first look.
    known: watch::Sender<Option<(Revision, Instant)>>,
}

/// What a watcher begins with, and what comes then.
#[derive(Debug)]
pub struct Feed {
    /// Dropped before the seat, which counts it.
    pub signals: broadcast::Receiver<Signal>,
    /// Up to which revision the items go.
    pub revision: Revision,
    /// Everything that the tenant sees, by key.
    pub items: Vec<Item>,
    /// By which tags.
    pub tags: Arc<TagTable>,
    _seat: Seat,
}

/// A watcher's place; its end may be that of the topic.
#[derive(Debug)]
struct Seat {
    hub: Arc<Hub>,
    topic: Arc<Topic>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.hub.lock();
        let is_current =
            inner.topics.get(&self.topic.tenant).is_some_and(|now| Arc::ptr_eq(now, &self.topic));
        if is_current && self.topic.signals.receiver_count() == 0 {
            inner.topics.remove(&self.topic.tenant);
            inner.state.forget(self.topic.tenant);
        }
    }
}

fn unavailable(detail: &str) -> Problem {
    Problem::new(Code::Unavailable, detail).retry_after(1)
}

impl Hub {
    /// A hub that knows nothing yet; [`Hub::run`] begins it.
    #[must_use]
    pub fn new(
        region: RegionName,
        store: ConfigStore,
        tags: Arc<Tags>,
        directory: Directory,
        bounds: Bounds,
    ) -> Arc<Self> {
        Arc::new(Self {
            region,
            store,
            tags,
            directory,
            bounds,
            inner: Mutex::default(),
            loaded: Notify::new(),
            nudged: Notify::new(),
            queued: Queued::default(),
            known: watch::Sender::new(None),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its region.
    #[must_use]
    pub fn region(&self) -> &RegionName {
        &self.region
    }

    /// How many tenants are watched.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.lock().topics.len()
    }

    /// How many bytes of changes wait for watchers that have not taken them yet.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued.bytes()
    }

    /// Up to where the log was taken in, and since when that is not known to be
    /// all; none before the first look.
    #[must_use]
    pub fn known(&self) -> Option<(Revision, Instant)> {
        *self.known.borrow()
    }

    /// Has the log looked at now, and waits until a revision was taken in.
    ///
    /// # Errors
    /// `unavailable` where that takes too long.
    pub async fn reached(&self, revision: Revision, within: Duration) -> Result<(), Problem> {
        let mut known = self.known.subscribe();
        if known.borrow_and_update().is_some_and(|(there, _)| there >= revision) {
            return Ok(());
        }
        self.nudged.notify_one();
        let is_there = known.wait_for(|known| known.is_some_and(|(there, _)| there >= revision));
        match tokio::time::timeout(within, is_there).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(unavailable("The changes of the configuration cannot be followed right now.")),
        }
    }

    /// A watcher of a tenant. What it begins with is at least as new as the
    /// store was when its scopes were read.
    ///
    /// # Errors
    /// `config_moving` where the tenant's configuration is not here now, or is
    /// seen by other scopes already; `unavailable` and `overloaded`.
    pub async fn subscribe(self: &Arc<Self>, lineage: &Lineage) -> Result<Feed, Problem> {
        self.reached(0, LOAD_WITHIN).await?;
        let load = self.subscribed(lineage);
        let late = |_| Err(unavailable("The configuration cannot be read right now."));
        tokio::time::timeout(LOAD_WITHIN, load).await.unwrap_or_else(late)
    }

    async fn subscribed(self: &Arc<Self>, lineage: &Lineage) -> Result<Feed, Problem> {
        loop {
            let loaded = self.loaded.notified();
            tokio::pin!(loaded);
            // From here on nothing is missed.
            loaded.as_mut().enable();
            let mut loads = Vec::new();
            let mut is_waiting = false;
            let behind = {
                let mut inner = self.lock();
                self.check_lineage(&mut inner, lineage)?;
                for scope in lineage.scopes() {
                    match inner.state.presence(&scope) {
                        Presence::Here => {}
                        Presence::Loading => is_waiting = true,
                        Presence::Absent => {
                            if inner.state.bytes() > self.bounds.values_bytes {
                                let detail = "As many values as may be are watched already.";
                                return Err(Problem::new(Code::Overloaded, detail).retry_after(5));
                            }
                            let load = inner.state.begin(&scope);
                            loads.push(tokio::spawn(self.clone().load(scope, load)));
                        }
                    }
                }
                let at = inner.state.at(lineage);
                let is_there = loads.is_empty() && !is_waiting;
                if is_there && inner.state.applied >= at {
                    return Ok(self.seat(&mut inner, lineage));
                }
                is_there.then_some(at)
            };
            // What was read is newer than what has been told of: with the older
            // revision it would look as if the configuration went back.
            if let Some(at) = behind {
                self.reached(at, LOAD_WITHIN).await?;
            }
            // A load goes on to its end, also where nobody waits for it any more.
            for load in loads {
                load.await.map_err(Problem::internal)??;
            }
            if is_waiting {
                loaded.await;
            }
        }
    }

    /// Whether that is what the tenant is seen by now. Those who watch it by
    /// other scopes subscribe again, and what only they needed is dropped: so
    /// this comes before it is looked what is there.
    fn check_lineage(&self, inner: &mut Inner, lineage: &Lineage) -> Result<(), Problem> {
        let tenant = lineage.tenant;
        if self.directory.lineage(tenant).as_ref() != Some(lineage) {
            let detail = "The tenant's configuration is on its way to other scopes.";
            return Err(Problem::new(Code::ConfigMoving, detail).retry_after(1));
        }
        if inner.state.lineage(tenant).is_some_and(|known| known != lineage) {
            self.end_topic(inner, tenant, Reason::Moved);
        }
        Ok(())
    }

    /// A watcher's place; the tenant is watched by no other lineage, and all of
    /// its scopes are there.
    fn seat(self: &Arc<Self>, inner: &mut Inner, lineage: &Lineage) -> Feed {
        let tenant = lineage.tenant;
        if inner.state.lineage(tenant).is_none() {
            inner.state.watch(lineage.clone());
        }
        let new = || Arc::new(Topic { tenant, signals: broadcast::Sender::new(QUEUE) });
        let topic = inner.topics.entry(tenant).or_insert_with(new).clone();
        Feed {
            signals: topic.signals.subscribe(),
            revision: inner.state.applied,
            items: inner.state.seen(tenant),
            tags: inner.state.tags().clone(),
            _seat: Seat { hub: self.clone(), topic },
        }
    }

    /// Reads a scope. Other watchers may wait for it: it is told how it ended.
    async fn load(self: Arc<Self>, scope: Scope, load: u64) -> Result<(), Problem> {
        let read = self.read(&scope).await;
        let mut inner = self.lock();
        let ended = match read {
            Ok(values) => {
                inner.state.load(&scope, load, values);
                Ok(())
            }
            Err(problem) => {
                inner.state.abandon(&scope, load);
                Err(problem)
            }
        };
        drop(inner);
        self.loaded.notify_waiters();
        ended
    }

    async fn read(&self, scope: &Scope) -> Result<Values, Problem> {
        for _ in 0..READS_MAX {
            if let Some(values) = self.read_once(scope).await? {
                return Ok(values);
            }
        }
        Err(unavailable("The configuration changes too fast to be read right now."))
    }

    /// The values of a scope; none where those that are being rolled out have
    /// changed meanwhile.
    async fn read_once(&self, scope: &Scope) -> Result<Option<Values>, Problem> {
        let one = std::slice::from_ref(scope);
        let read = self.store.snapshot(one, &[], self.bounds.values_per_scope).await?;
        let mut values = Values { at: read.revision, ..Values::default() };
        let mut rollouts = Vec::new();
        for stored in read.entries {
            match Rollout::subject(&stored.key) {
                Some(key) => rollouts.push((key, rollout_of(&stored))),
                None => values.items.extend(Item::of(stored).map(|item| (item.stored.key.clone(), item))),
            }
        }
        for (key, rollout) in rollouts {
            let Some(rollout) = rollout.filter(|rollout| rollout.state.is_under_way()) else { continue };
            let layer = self.store.newest(one, &key).await?.layers.pop();
            let (newest, staged) = layer.map_or((None, None), |layer| (layer.stored, layer.staged));
            let version = newest.as_ref().map_or(0, |newest| newest.version);
            let there = newest.filter(|newest| newest.value.is_some()).map(|newest| newest.version);
            let is_same = values.items.get(&key).map(|item| item.stored.version) == there
                && staged.as_ref().map(|staged| &staged.rollout)
                    == Some(&*rollout).filter(|rollout| rollout.is_about(version));
            if !is_same {
                return Ok(None);
            }
            let before = staged.and_then(|staged| staged.before).and_then(Item::of);
            values.stages.insert(key, Stage { rollout, newest: version, before });
        }
        Ok(Some(values))
    }

    /// Ends a topic: its watchers subscribe again. Values that no other tenant
    /// is seen by are read again then.
    fn end_topic(&self, inner: &mut Inner, tenant: TenantId, reason: Reason) {
        if let Some(topic) = inner.topics.remove(&tenant) {
            // Those who have just gone hear nothing.
            let _ = topic.signals.send(Signal::Again(reason));
        }
        inner.state.forget(tenant);
    }

    fn end_all_topics(&self, inner: &mut Inner, reason: Reason) {
        let tenants: Vec<TenantId> = inner.topics.keys().copied().collect();
        tenants.into_iter().for_each(|tenant| self.end_topic(inner, tenant, reason));
    }

    /// Tells topics what changes mean to them.
    fn tell(&self, inner: &Inner, meanings: Vec<Meaning>) {
        // Most see the same, and it is kept once.
        let mut same: HashMap<*const Told, Arc<Waiting>> = HashMap::new();
        for Meaning { tenant, told } in meanings {
            let Some(topic) = inner.topics.get(&tenant) else { continue };
            let waiting = same.entry(Arc::as_ptr(&told)).or_insert_with(|| self.queued.count(told)).clone();
            // Those who have just gone hear nothing.
            let _ = topic.signals.send(Signal::Told(waiting));
        }
        drop(same);
        if self.queued.bytes() > self.bounds.queued_bytes {
            self.shed(inner);
        }
    }

    /// Drops what waits where most does, until half of what may wait is left:
    /// watchers of those topics take a new snapshot instead, which is in memory.
    fn shed(&self, inner: &Inner) {
        let mut topics: Vec<&Arc<Topic>> = inner.topics.values().collect();
        topics.sort_by_key(|topic| Reverse(topic.signals.len()));
        let mut dropped = 0;
        for topic in topics.into_iter().take_while(|topic| !topic.signals.is_empty()) {
            if self.queued.bytes() <= self.bounds.queued_bytes / 2 {
                break;
            }
            // Each takes the place of the oldest that waits.
            for _ in 0..QUEUE {
                let _ = topic.signals.send(Signal::Again(Reason::Overflow));
            }
            dropped += 1;
        }
        let region = self.region.as_str();
        tracing::warn!(region, dropped, "too many changes wait for watchers that do not take them");
    }

    /// Has those tenants' watchers subscribe again that are gone, or are seen
    /// by other scopes than before.
    pub fn look_at_tenants(&self) {
        let mut inner = self.lock();
        let moved: Vec<TenantId> = inner
            .state
            .tenants()
            .filter(|known| self.directory.lineage(known.tenant).as_ref() != Some(known))
            .map(|known| known.tenant)
            .collect();
        moved.into_iter().for_each(|tenant| self.end_topic(&mut inner, tenant, Reason::Moved));
    }
}

/// Where a rollout is; none where it was removed, or cannot be read.
fn rollout_of(stored: &Stored) -> Option<Arc<Rollout>> {
    let Some(ConfigValue::Json(json)) = &stored.value else { return None };
    let read = serde_json::from_slice(json).map(Arc::new);
    read.inspect_err(|error| tracing::error!(%error, key = %stored.key, "a rollout cannot be read")).ok()
}
