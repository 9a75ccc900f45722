//! Whether a tenant's transactions may begin. While a tenant is held they wait
//! here, in the order in which they came; those under way go on to their end,
//! and behind the last one the front says that it is quiet. Nothing can begin
//! between that and the end of the hold, as both are one number that is changed
//! at once: how many are under way, and whether the tenant is held.

mod tally;

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use insula_domain::{Epoch, TenantId};
use insula_route_map::{Hold, HoldReport, Snapshot};
use tokio::sync::mpsc;
use uuid::Uuid;

use self::tally::{Tally, Waits};
use crate::measure::{HoldOutcome, Measures};

/// In a gate's state: the tenant is held. The rest is how many are under way.
const HELD: u64 = 1 << 63;

/// The gate of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: AtomicU64,
    /// The placement to which it was opened last.
    epoch: AtomicI64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    held: Option<Held>,
    /// By when they came, and a number of their own.
    queue: BTreeMap<Mark, Waker>,
    next: u64,
}

type Mark = (Instant, u64);

#[derive(Debug)]
struct Held {
    is_quiet: bool,
    tally: Arc<Tally>,
}

/// What came of wanting to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// It may, and counts as under way.
    Through,
    /// The tenant is somewhere else by now: its session is told so.
    Elsewhere,
}

impl Gate {
    /// Counts one more, where the tenant is not held.
    fn begin(&self) -> bool {
        let one_more = |state: u64| (state & HELD == 0).then_some(state + 1);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    fn end(&self) {
        if self.state.fetch_sub(1, Ordering::AcqRel) == HELD | 1 {
            self.tell_if_quiet(&mut self.lock());
        }
    }

    /// Whether the tenant is held.
    pub fn is_held(&self) -> bool {
        self.state.load(Ordering::Acquire) & HELD != 0
    }

    /// As long as the tenant is held nothing is added to nothing.
    fn tell_if_quiet(&self, waiting: &mut Waiting) {
        if let Some(held) = waiting.held.as_mut().filter(|held| !held.is_quiet)
            && self.state.load(Ordering::Acquire) == HELD
        {
            held.is_quiet = true;
            held.tally.is_quiet();
        }
    }

    /// Nothing begins from here on.
    fn hold(&self, id: Uuid, reports: &mpsc::Sender<HoldReport>, measures: &Measures) {
        let tally = Arc::new(Tally::new(id, reports, measures));
        let mut waiting = self.lock();
        let before = waiting.held.replace(Held { is_quiet: false, tally });
        self.state.fetch_or(HELD, Ordering::AcqRel);
        self.tell_if_quiet(&mut waiting);
        drop(waiting);
        drop(before);
    }

    /// Those who wait go on, where the tenant is now.
    fn release(&self, epoch: Option<Epoch>) {
        let mut waiting = self.lock();
        let held = waiting.held.take();
        held.iter().for_each(|held| held.tally.is_over());
        if let Some(epoch) = epoch {
            self.epoch.store(epoch.0, Ordering::Release);
        }
        self.state.fetch_and(!HELD, Ordering::AcqRel);
        let queue = std::mem::take(&mut waiting.queue);
        drop(waiting);
        queue.into_values().for_each(Waker::wake);
        drop(held);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }
}

/// A session at its tenant's gate: at most one of its transactions is counted,
/// and none any more when this is dropped.
#[derive(Debug)]
pub(crate) struct Passer {
    gate: Arc<Gate>,
    is_through: bool,
    mark: Option<Mark>,
    waits: Option<Waits>,
}

impl Passer {
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate, is_through: false, mark: None, waits: None }
    }

    /// Whether what it does counts as under way.
    pub fn is_through(&self) -> bool {
        self.is_through
    }

    /// Whether it waits for the end of a hold.
    pub fn is_waiting(&self) -> bool {
        self.mark.is_some()
    }

    /// Whether its tenant is held.
    pub fn is_held(&self) -> bool {
        self.gate.is_held()
    }

    /// It wants to begin at a placement, since some time.
    pub fn poll(&mut self, context: &Context<'_>, epoch: Epoch, since: Option<Instant>) -> Poll<Passage> {
        loop {
            if self.is_through || self.gate.begin() {
                self.is_through = true;
                self.leave();
                if self.gate.epoch.load(Ordering::Acquire) <= epoch.0 {
                    return Poll::Ready(Passage::Through);
                }
                self.end();
                return Poll::Ready(Passage::Elsewhere);
            }
            let mut waiting = lock(&self.gate.waiting);
            // Else it was let go just now.
            let Some(held) = &waiting.held else { continue };
            let tally = Arc::clone(&held.tally);
            let mark = *self.mark.get_or_insert_with(|| {
                waiting.next += 1;
                (since.unwrap_or_else(Instant::now), waiting.next)
            });
            waiting.queue.insert(mark, context.waker().clone());
            drop(waiting);
            if self.waits.as_ref().is_none_or(|waits| !Arc::ptr_eq(&waits.tally, &tally)) {
                self.waits = Some(Waits::new(tally));
            }
            return Poll::Pending;
        }
    }

    /// The same, as a future.
    pub async fn passes(&mut self, epoch: Epoch) -> Passage {
        poll_fn(|context| self.poll(context, epoch, None)).await
    }

    /// Whether it may begin now.
    pub fn passes_now(&mut self, epoch: Epoch) -> bool {
        if !self.gate.begin() {
            return false;
        }
        self.is_through = true;
        if self.gate.epoch.load(Ordering::Acquire) > epoch.0 {
            self.end();
        }
        self.is_through
    }

    /// It has the backend for which it has waited.
    pub fn is_served(&mut self) {
        if self.waits.is_some() {
            self.waits = None;
        }
    }

    /// Its transaction is over.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.is_through) {
            self.gate.end();
        }
    }

    fn leave(&mut self) {
        if let Some(mark) = self.mark.take() {
            self.gate.lock().queue.remove(&mark);
        }
    }

    /// Whether it was held, and has no backend since.
    pub fn has_waited(&self) -> bool {
        self.waits.is_some()
    }
}

impl Drop for Passer {
    fn drop(&mut self) {
        self.leave();
        self.end();
    }
}

/// The gates of all tenants that have been here, and the holds that are known.
#[derive(Debug)]
pub(crate) struct Gates {
    by_tenant: Mutex<HashMap<TenantId, Arc<Gate>>>,
    known: Mutex<HashMap<TenantId, Known>>,
    reports: mpsc::Sender<HoldReport>,
    measures: Measures,
}

/// A hold that the routes speak of.
#[derive(Debug, Clone, Copy)]
struct Known {
    id: Uuid,
    /// Until when it lasts here; `None` when its time is over.
    until: Option<Instant>,
}

/// What came of a look at the routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// When the next hold's time is over.
    pub next: Option<Instant>,
    /// A tenant was let go.
    pub has_released: bool,
}

impl Gates {
    pub fn new(reports: mpsc::Sender<HoldReport>, measures: Measures) -> Self {
        Self { by_tenant: Mutex::default(), known: Mutex::default(), reports, measures }
    }

    /// The tenant's gate, which is open where it was not known.
    pub fn of(&self, tenant: TenantId) -> Arc<Gate> {
        Arc::clone(lock(&self.by_tenant).entry(tenant).or_default())
    }

    /// Whether the tenant is held.
    pub fn is_held(&self, tenant: TenantId) -> bool {
        lock(&self.by_tenant).get(&tenant).is_some_and(|gate| gate.is_held())
    }

    /// Forgets the gates at which nobody is, and that are open.
    pub fn forget(&self) {
        lock(&self.by_tenant).retain(|_, gate| Arc::strong_count(gate) > 1 || gate.is_held());
    }

    /// Holds those who are to be held, and lets those go who are not, or whose
    /// time is over.
    pub fn look(&self, snapshot: &Snapshot, now: Instant) -> Looked {
        let mut known = lock(&self.known);
        for (tenant, Hold { id, within }) in snapshot.holds() {
            if known.get(&tenant).is_none_or(|known| known.id != id) {
                known.insert(tenant, Known { id, until: Some(now + within) });
                self.of(tenant).hold(id, &self.reports, &self.measures);
                tracing::debug!(%tenant, hold = %id, "a tenant is held");
            }
        }
        let mut looked = Looked::default();
        known.retain(|tenant, known| {
            let route = snapshot.route(*tenant);
            let is_over = route.is_none_or(|route| route.hold.is_none());
            let is_due = is_over || known.until.is_some_and(|until| until <= now);
            if is_due && known.until.take().is_some() {
                let outcome = if is_over { HoldOutcome::Released } else { HoldOutcome::TimedOut };
                self.measures.hold_over(outcome);
                tracing::debug!(%tenant, hold = %known.id, ?outcome, "a tenant is held no more");
                let placement = route.and_then(|route| route.placement.as_ref());
                self.of(*tenant).release(placement.map(|placement| placement.epoch));
                looked.has_released = true;
            }
            looked.next = [looked.next, known.until].into_iter().flatten().min();
            !is_over
        });
        looked
    }
}

fn report(reports: &mpsc::Sender<HoldReport>, report: HoldReport) {
    if reports.try_send(report).is_err() {
        tracing::warn!(?report, "what is to be said of a hold cannot be said");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here can be left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use tokio::sync::mpsc::error::TryRecvError;

    use super::*;

    const HERE: Epoch = Epoch(1);
    const THERE: Epoch = Epoch(2);

    /// Notes in which order it is woken.
    struct Noted(usize, Arc<Mutex<Vec<usize>>>);

    impl Wake for Noted {
        fn wake(self: Arc<Self>) {
            lock(&self.1).push(self.0);
        }
    }

    struct Scene {
        gate: Arc<Gate>,
        sender: mpsc::Sender<HoldReport>,
        reports: mpsc::Receiver<HoldReport>,
        woken: Arc<Mutex<Vec<usize>>>,
    }

    impl Scene {
        fn new() -> Self {
            let (sender, reports) = mpsc::channel(10);
            Self { gate: Arc::default(), sender, reports, woken: Arc::default() }
        }

        fn hold(&self, id: u128) {
            self.gate.hold(Uuid::from_u128(id), &self.sender, &Measures::register());
        }

        fn passer(&self) -> Passer {
            Passer::new(Arc::clone(&self.gate))
        }

        fn wants(&self, passer: &mut Passer, number: usize, since: Option<Instant>) -> Poll<Passage> {
            let waker = Waker::from(Arc::new(Noted(number, Arc::clone(&self.woken))));
            passer.poll(&Context::from_waker(&waker), HERE, since)
        }

        fn said(&mut self) -> Option<HoldReport> {
            match self.reports.try_recv() {
                Ok(report) => Some(report),
                Err(error) => {
                    assert_eq!(error, TryRecvError::Empty);
                    None
                }
            }
        }
    }

    fn quiet(id: u128) -> Option<HoldReport> {
        Some(HoldReport::Quiet { hold: Uuid::from_u128(id) })
    }

    #[test]
    fn it_is_quiet_behind_the_last_one_and_says_so_once() {
        let mut scene = Scene::new();
        let (mut one, mut other, mut late) = (scene.passer(), scene.passer(), scene.passer());
        assert!(one.passes_now(HERE) && other.passes_now(HERE));
        scene.hold(1);
        assert!(!late.passes_now(HERE) && scene.wants(&mut late, 0, None).is_pending());
        one.end();
        one.end();
        assert_eq!(scene.said(), None, "one is under way, whatever is said twice");
        drop(other);
        assert_eq!((scene.said(), scene.said()), (quiet(1), None));
        scene.hold(2);
        assert_eq!(scene.said(), quiet(2), "another one at once");
        scene.gate.release(Some(HERE));
        assert_eq!(scene.wants(&mut late, 0, None), Poll::Ready(Passage::Through));
        let clients = |report| match report {
            Some(HoldReport::Released { hold, clients, .. }) => (hold.as_u128(), clients),
            other => panic!("{other:?}"),
        };
        assert_eq!(clients(scene.said()), (2, 0), "it has waited since the one before");
        assert_eq!(scene.said(), None, "it has no backend yet");
        late.is_served();
        assert_eq!(clients(scene.said()), (1, 1));
    }

    #[test]
    fn who_came_first_goes_first_and_who_left_is_not_woken() {
        let scene = Scene::new();
        scene.hold(1);
        let long_ago = Instant::now();
        let mut passers: Vec<Passer> = (0..4).map(|_| scene.passer()).collect();
        let came = [None, None, None, Some(long_ago)];
        for (number, (passer, since)) in passers.iter_mut().zip(came).enumerate() {
            assert!(scene.wants(passer, number, since).is_pending() && passer.is_waiting());
        }
        drop(passers.remove(1));
        scene.gate.release(None);
        assert_eq!(*lock(&scene.woken), [3, 0, 2]);
        assert!(passers.iter_mut().all(|passer| passer.passes_now(HERE)));
    }

    #[test]
    fn nobody_gets_through_to_where_the_tenant_was() {
        let mut scene = Scene::new();
        scene.hold(1);
        let mut passer = scene.passer();
        assert!(scene.wants(&mut passer, 0, None).is_pending());
        scene.gate.release(Some(THERE));
        assert_eq!(scene.wants(&mut passer, 0, None), Poll::Ready(Passage::Elsewhere));
        assert!(!passer.passes_now(HERE) && passer.passes_now(THERE));
        passer.end();
        scene.said();
        scene.hold(2);
        assert_eq!(scene.said(), quiet(2), "nothing was left counted");
    }
}
