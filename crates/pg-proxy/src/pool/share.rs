//! Who gets the next backend of a cluster. Pure: it keeps the account, and says
//! what is to be opened and closed.
//!
//! Within a tenant, who came first is first. Between tenants that wait, the one
//! goes first that has had the least of the backends' time by its weight
//! (start-time fair queueing, Goyal, Vin and Cheng 1996). A backend belongs to
//! one tenant's role, so giving its place to another tenant means closing it and
//! opening another. That is not done after each transaction, but when the tenant
//! that has it is ahead by more than a quantum.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use insula_domain::{Epoch, TenantId};
use tokio::sync::oneshot;

use crate::refusal::Refusal;

/// How far ahead of another one that waits a tenant may get before it gives up
/// a backend: a few times what opening one costs.
const QUANTUM: Duration = Duration::from_millis(20);

/// What a transaction costs at least, so that no number of short ones is free.
const COST_MIN: Duration = Duration::from_micros(20);

/// Backends that can take each other's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub tenant: TenantId,
    /// Backends of the role that may only read.
    pub read_only: bool,
    /// Of the placement to which they belong.
    pub epoch: Epoch,
    /// Of the key from which the role's password is made.
    pub key_generation: u32,
    /// The revision of the cluster's address.
    pub endpoint_revision: i64,
    /// Each for one session alone, and closed with it.
    pub for_one_session: bool,
}

/// The bounds of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Backends, those that are being opened or closed among them.
    pub backends: u32,
    /// Backends of one tenant.
    pub of_tenant: u32,
    /// Sessions of one tenant that wait for a backend.
    pub waiting_of_tenant: usize,
}

/// What a session that waits is given.
pub(crate) type Grant<B> = Result<B, Refusal>;

/// What came of asking for a backend.
#[derive(Debug)]
pub(crate) enum Acquired<B> {
    /// Here it is.
    Now(B),
    /// It will be given.
    Later(oneshot::Receiver<Grant<B>>, Vec<Task<B>>),
    /// Too many of the tenant's sessions wait already.
    Full,
}

/// What is to be done outside. Each is reported back: `opened`, `not_opened` or
/// `closed`.
#[derive(Debug)]
pub(crate) enum Task<B> {
    /// Open a backend.
    Open(PoolKey),
    /// Close one.
    Close(PoolKey, B),
    /// Close one; when it is gone, open one of the pool in its place.
    Replace(B, PoolKey),
}

/// How many there are, to be shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Backends, those that are being opened or closed among them.
    pub open: u32,
    pub idle: u32,
    pub waiting: u32,
}

/// The account of one cluster.
#[derive(Debug)]
pub(crate) struct Share<B> {
    limits: Limits,
    open: u32,
    tenants: HashMap<TenantId, Tenant<B>>,
    /// Tenants that wait for more than is being opened for them, and may have
    /// more, by what they have had.
    starving: BTreeSet<(u64, TenantId)>,
    /// What the tenant had had that was served last: who comes begins there.
    floor: u64,
}

#[derive(Debug)]
struct Tenant<B> {
    /// Nanoseconds of backends, divided by its weight.
    had: u64,
    weight: u32,
    open: u32,
    waiting: usize,
    /// As it stands in `starving`.
    starving: Option<u64>,
    pools: Vec<Pool<B>>,
}

#[derive(Debug)]
struct Pool<B> {
    key: PoolKey,
    open: u32,
    opening: u32,
    /// The one that was used last is last, and is used first.
    idle: Vec<(Instant, B)>,
    waiting: VecDeque<oneshot::Sender<Grant<B>>>,
}

impl<B> Pool<B> {
    /// More wait than are being served.
    fn is_short(&self) -> bool {
        self.waiting.len() > self.opening as usize
    }
}

impl<B> Tenant<B> {
    fn new(had: u64, weight: u32) -> Self {
        Self { had, weight, open: 0, waiting: 0, starving: None, pools: Vec::new() }
    }

    fn pool(&mut self, key: PoolKey) -> &mut Pool<B> {
        let index = self.pools.iter().position(|pool| pool.key == key).unwrap_or_else(|| {
            let (idle, waiting) = (Vec::new(), VecDeque::new());
            self.pools.push(Pool { key, open: 0, opening: 0, idle, waiting });
            self.pools.len() - 1
        });
        &mut self.pools[index]
    }

    /// Forgets sessions that do not wait any more.
    fn forget_who_left(&mut self) {
        self.pools.iter_mut().for_each(|pool| pool.waiting.retain(|waiting| !waiting.is_closed()));
        self.waiting = self.pools.iter().map(|pool| pool.waiting.len()).sum();
    }

    fn charge(&mut self, held: Duration) {
        let nanos = u64::try_from(held.max(COST_MIN).as_nanos()).unwrap_or(u64::MAX);
        self.had = self.had.saturating_add(nanos / u64::from(self.weight.max(1)));
    }
}

impl<B> Share<B> {
    pub fn new(limits: Limits) -> Self {
        Self { limits, open: 0, tenants: HashMap::new(), starving: BTreeSet::new(), floor: 0 }
    }

    /// Other bounds from here on. What is over them goes as it comes back.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub fn tally(&self) -> Tally {
        let mut tally = Tally { open: self.open, ..Tally::default() };
        for pool in self.tenants.values().flat_map(|tenant| &tenant.pools) {
            tally.idle += u32::try_from(pool.idle.len()).unwrap_or(u32::MAX);
            tally.waiting += u32::try_from(pool.waiting.len()).unwrap_or(u32::MAX);
        }
        tally
    }

    /// A backend of the pool, one that suits where there is a choice.
    pub fn acquire(&mut self, key: PoolKey, weight: u32, suits: impl Fn(&B) -> bool) -> Acquired<B> {
        let floor = self.floor;
        let tenant = self.tenants.entry(key.tenant).or_insert_with(|| Tenant::new(floor, weight));
        tenant.weight = weight;
        let pool = tenant.pool(key);
        if pool.waiting.is_empty() {
            let best = pool.idle.iter().rposition(|(_, backend)| suits(backend));
            if let Some(index) = best.or(pool.idle.len().checked_sub(1)) {
                return Acquired::Now(pool.idle.remove(index).1);
            }
        }
        if tenant.waiting >= self.limits.waiting_of_tenant {
            tenant.forget_who_left();
            if tenant.waiting >= self.limits.waiting_of_tenant {
                return Acquired::Full;
            }
        }
        let (sender, receiver) = oneshot::channel();
        tenant.had = tenant.had.max(floor);
        tenant.waiting += 1;
        tenant.pool(key).waiting.push_back(sender);
        self.enter(key.tenant);
        Acquired::Later(receiver, self.dispatch())
    }

    /// A backend comes back that was used for so long.
    #[must_use]
    pub fn release(&mut self, key: PoolKey, backend: B, held: Duration, now: Instant) -> Vec<Task<B>> {
        let Some(tenant) = self.tenants.get_mut(&key.tenant) else { return vec![Task::Close(key, backend)] };
        tenant.charge(held);
        if self.open > self.limits.backends || tenant.open > self.limits.of_tenant {
            return vec![Task::Close(key, backend)];
        }
        let has_to_wait = tenant.waiting > 0;
        let had = tenant.had;
        if has_to_wait {
            let quantum = u64::try_from(QUANTUM.as_nanos()).unwrap_or(u64::MAX);
            let other = self.starving.iter().find(|(_, tenant)| *tenant != key.tenant);
            if let Some(&(other_had, other)) = other
                && had > other_had.saturating_add(quantum)
                && self.open >= self.limits.backends
            {
                self.leave(key);
                self.enter(key.tenant);
                return self.begin(other).map(|key| Task::Replace(backend, key)).into_iter().collect();
            }
        }
        self.floor = if has_to_wait { self.floor.max(had) } else { self.floor };
        self.give(key, backend, now);
        self.dispatch()
    }

    /// A backend was opened.
    #[must_use]
    pub fn opened(&mut self, key: PoolKey, backend: B, now: Instant) -> Vec<Task<B>> {
        if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
            let pool = tenant.pool(key);
            pool.opening = pool.opening.saturating_sub(1);
        }
        self.give(key, backend, now);
        self.dispatch()
    }

    /// A backend could not be opened. Where the pool has others the next in the
    /// queue is told, and else all.
    #[must_use]
    pub fn not_opened(&mut self, key: PoolKey, why: &Refusal) -> Vec<Task<B>> {
        if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
            let pool = tenant.pool(key);
            pool.opening = pool.opening.saturating_sub(1);
            let told = if pool.open > 1 { 1 } else { pool.waiting.len() }.min(pool.waiting.len());
            for waiting in pool.waiting.drain(..told) {
                // It may have gone.
                let _ = waiting.send(Err(why.clone()));
            }
            tenant.waiting -= told;
        }
        self.closed(key)
    }

    /// A backend is gone.
    #[must_use]
    pub fn closed(&mut self, key: PoolKey) -> Vec<Task<B>> {
        self.open = self.open.saturating_sub(1);
        self.leave(key);
        self.enter(key.tenant);
        self.dispatch()
    }

    /// Closes what has been idle since before `idle_since`, and what is of no
    /// use any more, and forgets who has nothing.
    #[must_use]
    pub fn sweep(&mut self, idle_since: Instant, is_current: impl Fn(&PoolKey) -> bool) -> Vec<Task<B>> {
        let mut tasks = Vec::new();
        for tenant in self.tenants.values_mut() {
            tenant.forget_who_left();
            for pool in &mut tenant.pools {
                let current = is_current(&pool.key);
                let goes = |(since, _): &mut (Instant, B)| !current || *since < idle_since;
                tasks.extend(pool.idle.extract_if(.., goes).map(|(_, idle)| Task::Close(pool.key, idle)));
            }
            tenant.pools.retain(|pool| pool.open > 0 || !pool.waiting.is_empty());
        }
        let tenants: Vec<TenantId> = self.tenants.keys().copied().collect();
        tenants.into_iter().for_each(|tenant| self.enter(tenant));
        tasks
    }

    /// Gives a backend to who waits for it, or keeps it.
    fn give(&mut self, key: PoolKey, mut backend: B, now: Instant) {
        let Some(tenant) = self.tenants.get_mut(&key.tenant) else { return };
        let mut given = 0;
        let pool = tenant.pool(key);
        loop {
            let Some(waiting) = pool.waiting.pop_front() else {
                pool.idle.push((now, backend));
                break;
            };
            given += 1;
            match waiting.send(Ok(backend)) {
                Ok(()) => break,
                Err(Ok(returned)) => backend = returned,
                Err(Err(_)) => return,
            }
        }
        tenant.waiting -= given;
        if given > 0 || tenant.starving.is_some() {
            self.enter(key.tenant);
        }
    }

    /// What may be opened now, for those who have had the least.
    fn dispatch(&mut self) -> Vec<Task<B>> {
        let mut tasks = Vec::new();
        while let Some(&(had, tenant)) = self.starving.first() {
            self.floor = self.floor.max(had);
            if self.open < self.limits.backends {
                self.open += 1;
                tasks.extend(self.begin(tenant).map(Task::Open));
            } else if let Some((key, backend)) = self.take_oldest_idle() {
                self.leave(key);
                tasks.extend(self.begin(tenant).map(|key| Task::Replace(backend, key)));
            } else {
                break;
            }
        }
        tasks
    }

    /// Counts a backend for a pool of the tenant that is short of them.
    fn begin(&mut self, id: TenantId) -> Option<PoolKey> {
        let tenant = self.tenants.get_mut(&id)?;
        let pool = tenant.pools.iter_mut().find(|pool| pool.is_short())?;
        pool.open += 1;
        pool.opening += 1;
        tenant.open += 1;
        let key = pool.key;
        self.enter(id);
        Some(key)
    }

    /// Counts a backend of a pool out.
    fn leave(&mut self, key: PoolKey) {
        if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
            tenant.open = tenant.open.saturating_sub(1);
            let pool = tenant.pool(key);
            pool.open = pool.open.saturating_sub(1);
        }
    }

    /// Puts the tenant where it belongs among those that starve, and forgets it
    /// where it has nothing.
    fn enter(&mut self, id: TenantId) {
        let Some(tenant) = self.tenants.get_mut(&id) else { return };
        if let Some(had) = tenant.starving.take() {
            self.starving.remove(&(had, id));
        }
        if tenant.open == 0 && tenant.waiting == 0 {
            self.tenants.remove(&id);
        } else if tenant.open < self.limits.of_tenant && tenant.pools.iter().any(Pool::is_short) {
            tenant.starving = Some(tenant.had);
            self.starving.insert((tenant.had, id));
        }
    }

    /// The idle backend that was not used for the longest time.
    fn take_oldest_idle(&mut self) -> Option<(PoolKey, B)> {
        let pools = self.tenants.values_mut().flat_map(|tenant| &mut tenant.pools);
        let pool = pools
            .filter(|pool| !pool.idle.is_empty())
            .min_by_key(|pool| pool.idle.first().map(|(since, _)| *since))?;
        Some((pool.key, pool.idle.remove(0).1))
    }
}

#[cfg(test)]
mod tests;
