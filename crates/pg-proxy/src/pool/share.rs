//! Who gets the next backend of a cluster. Pure: it keeps the account, and says
//! what is to be opened and closed.
//!
//! Within a tenant, who came first is first. Between tenants that wait, the one
//! goes first that has had the least of the backends' time by its weight
//! (start-time fair queueing, Goyal, Vin and Cheng 1996). A backend belongs to
//! one tenant's role, so giving its place to another tenant means closing it and
//! opening another. That is not done after each transaction, but when the tenant
//! that has it is ahead by more than a quantum. Nor is it done as soon as a
//! backend is idle: most often the same client goes on at once, so for about as
//! long as it takes to open another it is kept for its tenant (anticipatory
//! scheduling, Iyer and Druschel 2001).
//!
//! Before a session asks for a backend it needs a place among those that are at
//! work (`crowd.rs`). Who finds none stands in its tenant's line.

mod line;

mod kept;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use insula_domain::{Epoch, TenantId};
use tokio::sync::oneshot;

use self::kept::{Keeping, Kept};
use self::line::Held;
use super::crowd::{Crowd, Seen};
use crate::refusal::Refusal;

/// How far ahead of another one that waits a tenant may get before it gives up
/// a backend: so many times what opening one takes, within these bounds.
const QUANTUM_IN_OPENINGS: u32 = 6;
const QUANTUM_MIN: Duration = Duration::from_millis(20);
const QUANTUM_MAX: Duration = Duration::from_millis(600);

/// How long an idle backend is kept for its tenant while others wait: as long as
/// opening one takes, within these bounds. So what is lost is at most twice
/// what would be lost by who knew whether the tenant goes on.
const KEPT_MIN: Duration = Duration::from_millis(2);
const KEPT_MAX: Duration = Duration::from_millis(20);

/// The part that the newest has in what is known of how long opening takes.
const OPENING_MEMORY: u32 = 8;

/// What a transaction costs at least, so that no number of short ones is free.
const COST_MIN: Duration = Duration::from_micros(20);

/// What a tenant has of a cluster's backends by its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Its weight among others that want them.
    pub weight: u32,
    /// At once; 0 is as the cluster's bounds say.
    pub backends: u32,
    /// Kept open while it is in use.
    pub warm: u32,
    /// It is to do with few for now.
    pub is_narrowed: bool,
}

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
    /// Backends of one tenant, where its plan does not say.
    pub of_tenant: u32,
    /// Sessions of one tenant that wait for a backend.
    pub waiting_of_tenant: usize,
    /// How long after a transaction a tenant counts as in use.
    pub warm_for: Duration,
    /// Sessions at work at once while several tenants are; 0 is no bound.
    pub at_work: u32,
    /// Backends of one pool that are being opened at once. Who waits is served
    /// as soon as the first of them is there: all at once they would be there
    /// together, and late.
    pub opening: u32,
    /// Backends of a tenant that is about to be held, beside those that its
    /// sessions keep: as few as still keep the server at work.
    pub of_narrowed: u32,
}

impl Limits {
    /// The most that a tenant may have of whose backends sessions keep so many. Those
    /// are of no use to its others, who would be left with none if they counted while
    /// it is narrowed.
    pub fn of(&self, terms: Terms, kept: u32) -> u32 {
        let most = if terms.backends == 0 { self.of_tenant } else { terms.backends.min(self.backends) };
        if terms.is_narrowed { most.min(self.of_narrowed.saturating_add(kept)) } else { most }
    }
}

/// What may have ended while it was not used.
pub(crate) trait Usable {
    fn is_usable(&self) -> bool;
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
    /// Look again at this time (`look`): what is kept may go to others then.
    LookAt(Instant),
}

/// How many there are, to be shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Backends, those that are being opened or closed among them.
    pub open: u32,
    pub idle: u32,
    pub waiting: u32,
}

impl Tally {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            open: self.open + other.open,
            idle: self.idle + other.idle,
            waiting: self.waiting + other.waiting,
        }
    }
}

/// What one tenant has of a cluster, to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub tenant: TenantId,
    pub tally: Tally,
}

/// The account of one cluster.
#[derive(Debug)]
pub(crate) struct Share<B> {
    limits: Limits,
    open: u32,
    tenants: HashMap<TenantId, Tenant<B>>,
    /// Tenants that wait for more than is being opened for them, and may have
    /// more, by what they have had; and of those who have had the same who came
    /// first.
    starving: BTreeSet<Starving>,
    /// What the tenant had had that was served last: who comes begins there.
    floor: u64,
    /// Idle backends by when they may go to others.
    idle: BTreeMap<Mark, PoolKey>,
    /// A look was asked for and has not been taken yet.
    will_look: bool,
    /// Grows with each that becomes idle or begins to starve.
    next: u64,
    /// How long opening a backend takes, and closing the one before it.
    opening: Duration,
    keeping: Keeping,
    /// Who is at work.
    crowd: Crowd,
    /// Tenants with sessions in line for a place, as in `starving`.
    in_line: BTreeSet<Starving>,
}

/// Until when an idle backend is kept for its tenant, and a number of its own.
type Mark = (Instant, u64);

/// What a tenant has had, a number by which it came, and the tenant.
type Starving = (u64, u64, TenantId);

#[derive(Debug)]
struct Tenant<B> {
    /// Nanoseconds of backends, divided by its weight.
    had: u64,
    terms: Terms,
    open: u32,
    /// When a backend of it came back, or was opened, the last time; `None` when
    /// that is long ago.
    used: Option<Instant>,
    /// Sessions that have a place and wait for a backend.
    waiting: usize,
    /// As it stands in `starving`.
    starving: Option<(u64, u64)>,
    pools: Vec<Pool<B>>,
    kept: Kept,
    /// Sessions that have a backend and are at work.
    at_work: usize,
    seen: Seen,
    /// Sessions in line for a place.
    line: VecDeque<Held<B>>,
    /// As it stands in `in_line`.
    in_line: Option<(u64, u64)>,
    /// When a session of it began or ended its work the last time.
    moved: Option<Instant>,
}

#[derive(Debug)]
struct Pool<B> {
    key: PoolKey,
    open: u32,
    opening: u32,
    /// The server does not let the role in for now: only one is tried at a time.
    is_closed: bool,
    /// The one that was used last is last, and is used first.
    idle: Vec<Idle<B>>,
    waiting: VecDeque<oneshot::Sender<Grant<B>>>,
}

#[derive(Debug)]
struct Idle<B> {
    since: Instant,
    mark: Mark,
    backend: B,
}

impl<B> Pool<B> {
    /// More wait than are being served, and one more may be opened for them.
    fn is_short(&self, opening_max: u32) -> bool {
        let most = if self.is_closed { 1 } else { opening_max };
        self.opening < most && self.waiting.len() > self.opening as usize
    }
}

impl<B> Tenant<B> {
    fn new(had: u64, terms: Terms) -> Self {
        Self {
            had,
            terms,
            open: 0,
            used: None,
            waiting: 0,
            starving: None,
            pools: Vec::new(),
            kept: Kept::default(),
            at_work: 0,
            seen: Seen::default(),
            line: VecDeque::new(),
            in_line: None,
            moved: None,
        }
    }

    /// How many backends it may have.
    fn most(&self, limits: &Limits) -> u32 {
        limits.of(self.terms, self.kept.backends())
    }

    /// Whether its idle backends are kept for it.
    fn is_warm(&self) -> bool {
        self.used.is_some() && self.open <= self.terms.warm
    }

    /// Whether it has less of the cluster than another one, by their weights.
    fn has_less_than(&self, other: &Self) -> bool {
        let own = u64::from(self.open) * u64::from(other.terms.weight);
        own < u64::from(other.open) * u64::from(self.terms.weight)
    }

    fn pool(&mut self, key: PoolKey) -> &mut Pool<B> {
        let index = self.pools.iter().position(|pool| pool.key == key).unwrap_or_else(|| {
            let (idle, waiting) = (Vec::new(), VecDeque::new());
            self.pools.push(Pool { key, open: 0, opening: 0, is_closed: false, idle, waiting });
            self.pools.len() - 1
        });
        &mut self.pools[index]
    }

    /// Forgets sessions that do not wait any more.
    fn forget_who_left(&mut self, crowd: &mut Crowd) {
        self.line.retain(|held| !held.is_gone());
        self.pools.iter_mut().for_each(|pool| pool.waiting.retain(|waiting| !waiting.is_closed()));
        let waiting = self.pools.iter().map(|pool| pool.waiting.len()).sum();
        crowd.end(self.waiting - waiting);
        self.waiting = waiting;
    }

    /// Sessions that wait for a place or for a backend.
    fn all_waiting(&self) -> usize {
        self.waiting + self.line.len()
    }

    fn charge(&mut self, held: Duration) {
        self.had = self.had.saturating_add(nanos(held.max(COST_MIN)) / u64::from(self.terms.weight.max(1)));
    }
}

impl<B: Usable> Share<B> {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: 0,
            tenants: HashMap::new(),
            starving: BTreeSet::new(),
            floor: 0,
            idle: BTreeMap::new(),
            will_look: false,
            next: 0,
            opening: Duration::ZERO,
            keeping: Keeping::default(),
            crowd: Crowd::new(),
            in_line: BTreeSet::new(),
        }
    }

    /// Other bounds from here on. What is over them goes as it comes back.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub fn tally(&self) -> Tally {
        let mut tally = Tally { open: self.open, ..Tally::default() };
        tally.idle = u32::try_from(self.idle.len()).unwrap_or(u32::MAX);
        for tenant in self.tenants.values() {
            tally.waiting += u32::try_from(tenant.all_waiting()).unwrap_or(u32::MAX);
        }
        tally
    }

    /// What each tenant has that has anything, or waits.
    pub fn holdings(&self) -> impl Iterator<Item = Holding> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.tenants.iter().map(move |(id, tenant)| {
            let idle = tenant.pools.iter().map(|pool| pool.idle.len()).sum();
            let tally = Tally { open: tenant.open, idle: count(idle), waiting: count(tenant.all_waiting()) };
            Holding { tenant: *id, tally }
        })
    }

    /// A backend of the pool, one that suits where there is a choice. Those who
    /// were held come all at once, and none of them is refused because there are
    /// many.
    pub fn acquire_for(
        &mut self,
        (key, terms): (PoolKey, Terms),
        was_held: bool,
        now: Instant,
        suits: impl Fn(&B) -> bool,
    ) -> Acquired<B> {
        let floor = self.floor;
        let tenant = self.tenants.entry(key.tenant).or_insert_with(|| Tenant::new(floor, terms));
        tenant.terms = terms;
        self.crowd.sees(&mut tenant.seen, terms.weight);
        // A session that keeps its backend is not one at work yet.
        let has_place = key.for_one_session
            || tenant.line.is_empty()
                && self.crowd.has_place(tenant.seen, tenant.at_work + tenant.waiting, self.limits.at_work);
        let pool = tenant.pool(key);
        if has_place && pool.waiting.is_empty() {
            let best = pool.idle.iter().rposition(|idle| suits(&idle.backend));
            if let Some(index) = best.or(pool.idle.len().checked_sub(1)) {
                let idle = pool.idle.remove(index);
                self.idle.remove(&idle.mark);
                tenant.at_work += 1;
                self.crowd.begin(1);
                return Acquired::Now(idle.backend);
            }
        }
        if tenant.all_waiting() >= self.limits.waiting_of_tenant && !was_held {
            tenant.forget_who_left(&mut self.crowd);
            if tenant.all_waiting() >= self.limits.waiting_of_tenant {
                return Acquired::Full;
            }
        }
        self.charge_kept(now);
        let tenant = self.tenants.entry(key.tenant).or_insert_with(|| Tenant::new(floor, terms));
        let (sender, receiver) = oneshot::channel();
        tenant.had = tenant.had.max(floor);
        tenant.stands_in_line(Held::new(key, sender), has_place, now);
        let tasks = if has_place { self.lets_one_begin(key.tenant, &mut None, now) } else { Vec::new() };
        self.line_up(key.tenant);
        Acquired::Later(receiver, tasks)
    }

    /// A backend comes back that was used for so long, and on which its session
    /// does not work any more.
    #[must_use]
    pub fn release(&mut self, key: PoolKey, backend: B, held: Duration, now: Instant) -> Vec<Task<B>> {
        self.charge_kept(now);
        let Some(tenant) = self.tenants.get_mut(&key.tenant) else { return vec![Task::Close(key, backend)] };
        tenant.has_rested(&mut self.crowd, now);
        tenant.charge(held);
        tenant.used = Some(now);
        let (had, has_to_wait) = (tenant.had, tenant.all_waiting() > 0);
        let is_over = self.open > self.limits.backends || tenant.open > tenant.most(&self.limits);
        if tenant.in_line.is_some() {
            self.line_up(key.tenant);
        }
        if is_over {
            let mut tasks = self.call_up(key.tenant, None, now);
            tasks.push(Task::Close(key, backend));
            return tasks;
        }
        let other = self.starving.iter().find(|(_, _, tenant)| *tenant != key.tenant);
        if let Some(&(other_had, _, other)) = other
            && had > other_had.saturating_add(nanos(self.quantum()))
            && self.open >= self.limits.backends
        {
            self.leave(key);
            self.enter(key.tenant);
            let mut tasks = self.serve(other, |key| Task::Replace(backend, key));
            tasks.extend(self.dispatch(now));
            tasks.extend(self.call_up(key.tenant, None, now));
            return tasks;
        }
        self.floor = if has_to_wait { self.floor.max(had) } else { self.floor };
        let mut tasks = self.call_up(key.tenant, Some(key), now);
        self.give(key, backend, now, now + self.kept());
        tasks.extend(self.dispatch(now));
        if has_to_wait {
            tasks.extend(self.swap_own(key.tenant));
        }
        tasks
    }

    /// A backend was opened, which took so long.
    #[must_use]
    pub fn opened(&mut self, key: PoolKey, backend: B, took: Duration, now: Instant) -> Vec<Task<B>> {
        self.opening = (self.opening * (OPENING_MEMORY - 1) + took) / OPENING_MEMORY;
        if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
            let pool = tenant.pool(key);
            pool.opening = pool.opening.saturating_sub(1);
            pool.is_closed = false;
            tenant.used = Some(now);
        }
        self.give(key, backend, now, now);
        let mut tasks = self.dispatch(now);
        tasks.extend(self.swap_own(key.tenant));
        tasks
    }

    /// The time has come that a [`Task::LookAt`] has named.
    #[must_use]
    pub fn look(&mut self, now: Instant) -> Vec<Task<B>> {
        self.will_look = false;
        self.charge_kept(now);
        self.dispatch(now)
    }

    /// How far a tenant may get ahead of others.
    fn quantum(&self) -> Duration {
        (self.opening * QUANTUM_IN_OPENINGS).clamp(QUANTUM_MIN, QUANTUM_MAX)
    }

    /// How long an idle backend is kept for its tenant.
    fn kept(&self) -> Duration {
        self.opening.clamp(KEPT_MIN, KEPT_MAX)
    }

    /// A backend could not be opened because the server lets the role in no more:
    /// who waits goes on waiting. `None` is for the one that is to try again until
    /// it does; the others give up, and are counted out.
    #[must_use]
    pub fn found_closed(&mut self, key: PoolKey, now: Instant) -> Option<Vec<Task<B>>> {
        let pool = self.tenants.get_mut(&key.tenant)?.pool(key);
        if !std::mem::replace(&mut pool.is_closed, true) {
            return None;
        }
        pool.opening = pool.opening.saturating_sub(1);
        Some(self.closed(key, now))
    }

    /// A backend could not be opened. Where the pool has others the next in the
    /// queue is told, and else all.
    #[must_use]
    pub fn not_opened(&mut self, key: PoolKey, why: &Refusal, now: Instant) -> Vec<Task<B>> {
        if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
            let pool = tenant.pool(key);
            pool.opening = pool.opening.saturating_sub(1);
            pool.is_closed = false;
            let told = if pool.open > 1 { 1 } else { pool.waiting.len() }.min(pool.waiting.len());
            for waiting in pool.waiting.drain(..told) {
                // It may have gone.
                let _ = waiting.send(Err(why.clone()));
            }
            tenant.waiting -= told;
            self.crowd.end(told);
        }
        let mut tasks = self.closed(key, now);
        tasks.extend(self.call_up(key.tenant, None, now));
        tasks
    }

    /// A backend is gone.
    #[must_use]
    pub fn closed(&mut self, key: PoolKey, now: Instant) -> Vec<Task<B>> {
        self.charge_kept(now);
        self.open = self.open.saturating_sub(1);
        self.leave(key);
        self.enter(key.tenant);
        self.dispatch(now)
    }

    /// The idle backend that a session was given is gone: nobody is at work with
    /// it.
    #[must_use]
    pub fn found_gone(&mut self, key: PoolKey, now: Instant) -> Vec<Task<B>> {
        let mut tasks = self.rests(key.tenant, now);
        tasks.extend(self.closed(key, now));
        tasks
    }

    /// Closes what has been idle since before `idle_since`, and what is of no
    /// use any more, and forgets who has nothing. Tenants get what their plans
    /// say by now.
    #[must_use]
    pub fn sweep(
        &mut self,
        (idle_since, now): (Instant, Instant),
        is_current: impl Fn(&PoolKey) -> bool,
        terms: impl Fn(TenantId) -> Option<Terms>,
    ) -> Vec<Task<B>> {
        self.charge_kept(now);
        let mut tasks = Vec::new();
        let used_since = now.checked_sub(self.limits.warm_for);
        for (id, tenant) in &mut self.tenants {
            tenant.terms = terms(*id).unwrap_or(tenant.terms);
            tenant.used = tenant.used.filter(|used| used_since.is_none_or(|since| *used >= since));
            tenant.forget_who_left(&mut self.crowd);
            let warm = if tenant.used.is_some() { tenant.terms.warm } else { 0 };
            // Those that go in this sweep are not counted out yet.
            let mut stay = tenant.open;
            for pool in &mut tenant.pools {
                let current = is_current(&pool.key);
                let goes = |idle: &mut Idle<B>| {
                    let goes = !current || idle.since < idle_since && stay > warm;
                    stay -= u32::from(goes);
                    goes
                };
                for idle in pool.idle.extract_if(.., goes) {
                    self.idle.remove(&idle.mark);
                    tasks.push(Task::Close(pool.key, idle.backend));
                }
            }
            tenant.pools.retain(|pool| pool.open > 0 || !pool.waiting.is_empty());
        }
        if self.tenants.values().all(|tenant| tenant.all_waiting() == 0) {
            // Nobody has anything on anybody else.
            self.floor = self.tenants.values().map(|tenant| tenant.had).fold(self.floor, u64::max);
        }
        let tenants: Vec<TenantId> = self.tenants.keys().copied().collect();
        for tenant in tenants {
            self.line_up(tenant);
            self.enter(tenant);
        }
        tasks.extend(self.dispatch(now));
        tasks
    }

    /// Gives a backend to who waits for it, or keeps it, and until then from
    /// others.
    fn give(&mut self, key: PoolKey, mut backend: B, now: Instant, kept_until: Instant) {
        let Some(tenant) = self.tenants.get_mut(&key.tenant) else { return };
        let (mut given, mut got) = (0, 0);
        let pool = tenant.pool(key);
        loop {
            let Some(waiting) = pool.waiting.pop_front() else {
                let mark = (kept_until, self.next);
                self.next += 1;
                self.idle.insert(mark, key);
                pool.idle.push(Idle { since: now, mark, backend });
                break;
            };
            given += 1;
            match waiting.send(Ok(backend)) {
                Ok(()) => {
                    got = 1;
                    break;
                }
                Err(Ok(returned)) => backend = returned,
                // What was sent is what comes back.
                Err(Err(_)) => break,
            }
        }
        tenant.waiting -= given;
        tenant.at_work += got;
        self.crowd.end(given - got);
        if given > 0 || tenant.starving.is_some() {
            self.enter(key.tenant);
        }
    }

    /// What may be opened now, for those who have had the least.
    fn dispatch(&mut self, now: Instant) -> Vec<Task<B>> {
        let mut tasks = Vec::new();
        while let Some(&(had, _, tenant)) = self.starving.first() {
            if self.open < self.limits.backends {
                self.open += 1;
                self.floor = self.floor.max(had);
                tasks.extend(self.serve(tenant, Task::Open));
            } else if let Some((key, backend, for_whom)) = self.take_idle(now) {
                self.floor = self.floor.max(had);
                self.leave(key);
                self.enter(key.tenant);
                tasks.extend(self.serve(for_whom, |key| Task::Replace(backend, key)));
            } else {
                tasks.extend(self.asks_to_look(now));
                break;
            }
        }
        tasks
    }

    /// Where something is kept that others wait for.
    fn asks_to_look(&mut self, now: Instant) -> Option<Task<B>> {
        let &(kept_until, _) = self.idle.range((now, u64::MAX)..).next()?.0;
        let asks = !std::mem::replace(&mut self.will_look, true);
        asks.then_some(Task::LookAt(kept_until))
    }

    /// Begins a backend for the tenant. With it the tenant may have all it may
    /// have, and still be short in one pool with an idle one in another.
    fn serve(&mut self, id: TenantId, how: impl FnOnce(PoolKey) -> Task<B>) -> Vec<Task<B>> {
        let begun = self.begin(id).map(how);
        begun.into_iter().chain(self.swap_own(id)).collect()
    }

    /// Counts a backend for a pool of the tenant that is short of them.
    fn begin(&mut self, id: TenantId) -> Option<PoolKey> {
        let opening_max = self.limits.opening;
        let tenant = self.tenants.get_mut(&id)?;
        let pool = tenant.pools.iter_mut().find(|pool| pool.is_short(opening_max))?;
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
        let opening_max = self.limits.opening;
        let is_short = |pool: &Pool<B>| pool.is_short(opening_max);
        let Some(tenant) = self.tenants.get_mut(&id) else { return };
        let before = tenant.starving.take();
        if let Some((had, number)) = before {
            self.starving.remove(&(had, number, id));
        }
        if tenant.open == 0 && tenant.all_waiting() == 0 {
            tenant.pools.clear();
            // Who has had more than others is known until they have had as much.
            if tenant.had <= self.floor {
                self.crowd.forgets(&mut tenant.seen);
                self.tenants.remove(&id);
            }
        } else if tenant.open < tenant.most(&self.limits) && tenant.pools.iter().any(is_short) {
            let number = before.map_or(self.next, |(_, number)| number);
            self.next += 1;
            tenant.starving = Some((tenant.had, number));
            self.starving.insert((tenant.had, number, id));
        }
    }

    /// An idle backend that is not kept any more, and for whom: the one that was
    /// not used for the longest time. Those that a plan keeps open go last, and
    /// only to a tenant that has less of the cluster by its weight.
    fn take_idle(&mut self, now: Instant) -> Option<(PoolKey, B, TenantId)> {
        let ready = self.idle.range(..=(now, u64::MAX));
        let owner = |key: &PoolKey| self.tenants.get(&key.tenant);
        let is_free = |key: &PoolKey| owner(key).is_none_or(|owner| !owner.is_warm());
        let free = ready.clone().find(|(_, key)| is_free(key)).map(|(mark, key)| (*mark, *key));
        let (mark, key, for_whom) = match free {
            Some((mark, key)) => (mark, key, self.starving.first()?.2),
            None => ready.into_iter().find_map(|(mark, key)| {
                let owner = owner(key)?;
                let may_take = |id: &TenantId| {
                    *id == key.tenant || self.tenants.get(id).is_some_and(|it| it.has_less_than(owner))
                };
                Some((*mark, *key, self.starving.iter().map(|(_, _, id)| *id).find(may_take)?))
            })?,
        };
        self.take(mark, key).map(|backend| (key, backend, for_whom))
    }

    fn take(&mut self, mark: Mark, key: PoolKey) -> Option<B> {
        self.idle.remove(&mark);
        let pool = self.tenants.get_mut(&key.tenant)?.pool(key);
        let index = pool.idle.iter().position(|idle| idle.mark == mark)?;
        Some(pool.idle.remove(index).backend)
    }

    /// Where a tenant that has all it may have is short in one pool and has an
    /// idle backend in another, that one makes room.
    fn swap_own(&mut self, id: TenantId) -> Option<Task<B>> {
        let tenant = self.tenants.get(&id)?;
        if tenant.open < tenant.most(&self.limits)
            || !tenant.pools.iter().any(|pool| pool.is_short(self.limits.opening))
        {
            return None;
        }
        let (key, mark) = tenant.pools.iter().find_map(|pool| Some((pool.key, pool.idle.first()?.mark)))?;
        let backend = self.take(mark, key)?;
        self.leave(key);
        self.begin(id).map(|key| Task::Replace(backend, key))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
