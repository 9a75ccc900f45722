//! The account of a cluster, played by hand and at random.

use std::collections::BTreeMap;

use insula_domain::{OsEntropy, SystemClock};
use proptest::prelude::*;

use super::*;

pub(super) fn key() -> PoolKey {
    PoolKey {
        tenant: TenantId::generate(&SystemClock, &OsEntropy),
        read_only: false,
        epoch: Epoch::FIRST,
        key_generation: 1,
        endpoint_revision: 1,
        for_one_session: false,
    }
}

pub(super) fn limits(backends: u32, of_tenant: u32) -> Limits {
    let (waiting_of_tenant, warm_for) = (10, Duration::from_secs(1));
    Limits { backends, of_tenant, waiting_of_tenant, warm_for, at_work: 0, opening: u32::MAX, of_narrowed: 2 }
}

impl Usable for u32 {
    fn is_usable(&self) -> bool {
        *self != ENDED
    }
}

/// A backend that has ended while it was idle.
const ENDED: u32 = u32::MAX;

pub(super) fn weight(weight: u32) -> Terms {
    Terms { weight, backends: 0, warm: 0, is_narrowed: false }
}

fn warm(warm: u32) -> Terms {
    Terms { warm, ..weight(1) }
}

fn share(backends: u32, of_tenant: u32) -> Share<u32> {
    Share::new(limits(backends, of_tenant))
}

pub(super) type Waiting = oneshot::Receiver<Grant<u32>>;

fn ask(share: &mut Share<u32>, key: PoolKey) -> (Waiting, Vec<Task<u32>>) {
    ask_at(share, key, Instant::now())
}

fn ask_at(share: &mut Share<u32>, key: PoolKey, now: Instant) -> (Waiting, Vec<Task<u32>>) {
    match share.acquire(key, weight(1), now, |_| true) {
        Acquired::Later(waiting, tasks) => (waiting, tasks),
        other => panic!("{other:?}"),
    }
}

pub(super) fn given(waiting: &mut Waiting) -> Option<u32> {
    waiting.try_recv().ok().map(|granted| granted.unwrap())
}

const SOON: Duration = Duration::from_millis(1);

pub(super) const OPENING: Duration = Duration::from_millis(4);

impl<B: Usable> Share<B> {
    /// For one that was not held.
    pub(super) fn acquire(
        &mut self,
        key: PoolKey,
        terms: Terms,
        now: Instant,
        suits: impl Fn(&B) -> bool,
    ) -> Acquired<B> {
        self.acquire_for((key, terms), false, now, suits)
    }
}

#[test]
fn who_came_first_is_first_and_a_free_one_is_given_at_once() {
    let (mut share, key, now) = (share(1, 1), key(), Instant::now());
    let (mut first, tasks) = ask(&mut share, key);
    assert!(matches!(tasks[..], [Task::Open(opened)] if opened == key));
    let (mut second, tasks) = ask(&mut share, key);
    assert!(tasks.is_empty(), "there is no room for another");
    assert!(share.opened(key, 7, OPENING, now).is_empty());
    assert_eq!((given(&mut first), given(&mut second)), (Some(7), None));
    assert!(share.release(key, 7, SOON, now).is_empty());
    assert_eq!(given(&mut second), Some(7));
    assert!(share.release(key, 7, SOON, now).is_empty());
    assert_eq!(share.tally(), Tally { open: 1, idle: 1, waiting: 0 });
    assert!(matches!(share.acquire(key, weight(1), now, |_| false), Acquired::Now(7)), "rather than to wait");
}

#[test]
fn a_place_goes_to_who_has_had_less_but_not_after_each_transaction() {
    let (mut share, now) = (share(1, 1), Instant::now());
    let (greedy, modest) = (key(), key());
    let (_first, _) = ask(&mut share, greedy);
    assert!(share.opened(greedy, 1, OPENING, now).is_empty());
    let (_again, _) = ask(&mut share, greedy);
    let (_waiting, tasks) = ask(&mut share, modest);
    assert!(tasks.is_empty());
    assert!(share.release(greedy, 1, SOON, now).is_empty(), "within the quantum it stays");
    let (_again, _) = ask(&mut share, greedy);
    let tasks = share.release(greedy, 1, 2 * QUANTUM_MIN, now);
    assert!(matches!(tasks[..], [Task::Replace(1, to)] if to == modest), "{tasks:?}");
    assert!(share.opened(modest, 2, OPENING, now).is_empty());
    // And back, when the other has had as much.
    let (_more, _) = ask(&mut share, modest);
    let tasks = share.release(modest, 2, 4 * QUANTUM_MIN, now);
    assert!(matches!(tasks[..], [Task::Replace(2, to)] if to == greedy), "{tasks:?}");
}

#[test]
fn weights_count() {
    let (mut share, now) = (share(1, 1), Instant::now());
    let (heavy, light) = (key(), key());
    let Acquired::Later(_first, _) = share.acquire(heavy, weight(4), now, |_| true) else { panic!() };
    assert!(share.opened(heavy, 1, OPENING, now).is_empty());
    let (_waiting, _) = ask(&mut share, light);
    let Acquired::Later(_again, _) = share.acquire(heavy, weight(4), now, |_| true) else { panic!() };
    assert!(share.release(heavy, 1, 3 * QUANTUM_MIN, now).is_empty(), "a quarter of it counts");
    let Acquired::Later(_again, _) = share.acquire(heavy, weight(4), now, |_| true) else { panic!() };
    assert!(matches!(share.release(heavy, 1, 3 * QUANTUM_MIN, now)[..], [Task::Replace(..)]));
}

#[test]
fn an_idle_one_makes_room_for_who_waits() {
    let (mut share, now) = (share(2, 2), Instant::now());
    let (one, other) = (key(), key());
    for backend in [1, 2] {
        let (_waiting, _) = ask(&mut share, one);
        assert!(share.opened(one, backend, OPENING, now + SOON * backend).is_empty());
    }
    assert!(share.release(one, 2, SOON, now).is_empty());
    assert!(share.release(one, 1, SOON, now + SOON).is_empty());
    let later = now + KEPT_MAX;
    let (_waiting, tasks) = ask_at(&mut share, other, later);
    assert!(matches!(tasks[..], [Task::Replace(2, to)] if to == other), "the longest unused: {tasks:?}");
}

#[test]
fn an_idle_one_is_kept_for_its_tenant_for_as_long_as_opening_takes() {
    let (mut share, now) = (share(1, 1), Instant::now());
    let (one, other) = (key(), key());
    share.opening = OPENING;
    let (_first, _) = ask(&mut share, one);
    assert!(share.opened(one, 1, OPENING, now).is_empty());
    let (_waiting, tasks) = ask_at(&mut share, other, now);
    assert!(tasks.is_empty());
    let tasks = share.release(one, 1, SOON, now);
    assert!(matches!(tasks[..], [Task::LookAt(at)] if at == now + OPENING), "{tasks:?}");
    assert!(matches!(share.acquire(one, weight(1), now + SOON, |_| true), Acquired::Now(1)), "it goes on");
    assert!(share.release(one, 1, SOON, now + 2 * SOON).is_empty(), "one look at a time");
    let tasks = share.look(now + OPENING);
    assert!(matches!(tasks[..], [Task::LookAt(at)] if at == now + 2 * SOON + OPENING), "{tasks:?}");
    let tasks = share.look(now + 2 * SOON + OPENING);
    assert!(matches!(tasks[..], [Task::Replace(1, to)] if to == other), "{tasks:?}");
}

/// A tenant whose transactions take long does not get more of the time by it.
#[test]
fn the_time_counts_and_not_the_turns() {
    let mut share = share(1, 1);
    let (long, short) = (key(), key());
    let mut now = Instant::now();
    let mut had = BTreeMap::from([(long.tenant, Duration::ZERO), (short.tenant, Duration::ZERO)]);
    // Always two of each wait or run.
    let mut waiting: Vec<(PoolKey, Waiting)> = Vec::new();
    let mut tasks = Vec::new();
    for key in [long, short, long, short] {
        let (receiver, more) = ask_at(&mut share, key, now);
        waiting.push((key, receiver));
        tasks.extend(more);
    }
    for _ in 0..2_000 {
        for task in std::mem::take(&mut tasks) {
            if let Task::Open(to) | Task::Replace(_, to) = task {
                tasks.extend(share.opened(to, 1, OPENING, now));
            }
        }
        let Some(index) = waiting.iter_mut().position(|(_, receiver)| receiver.try_recv().is_ok()) else {
            panic!("nobody is served")
        };
        let (key, _) = waiting.remove(index);
        let takes = if key == long { Duration::from_secs(10) } else { Duration::from_millis(100) };
        now += takes;
        *had.get_mut(&key.tenant).unwrap() += takes;
        // It asks again before it gives back what it has.
        let (receiver, more) = ask_at(&mut share, key, now);
        waiting.push((key, receiver));
        tasks.extend(more);
        tasks.extend(share.release(key, 1, takes, now));
    }
    let (of_long, of_short) = (had[&long.tenant].as_secs_f64(), had[&short.tenant].as_secs_f64());
    assert!((of_long / of_short - 1.0).abs() < 0.2, "{of_long} s and {of_short} s");
}

/// Tenants with one client each, who asks again as soon as it is answered.
#[test]
fn many_tenants_take_turns() {
    let mut share = share(1, 1);
    let keys: Vec<PoolKey> = (0..5).map(|_| key()).collect();
    let mut now = Instant::now();
    let mut had = vec![0; keys.len()];
    let mut waiting = BTreeMap::new();
    let mut tasks = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let (receiver, more) = ask_at(&mut share, *key, now);
        waiting.insert(index, receiver);
        tasks.extend(more);
    }
    for _ in 0..500 {
        for task in std::mem::take(&mut tasks) {
            let (Task::Open(to) | Task::Replace(_, to)) = task else { panic!("{task:?}") };
            tasks.extend(share.opened(to, 1, OPENING, now));
        }
        let granted: Vec<usize> = waiting
            .iter_mut()
            .filter_map(|(index, receiver)| receiver.try_recv().is_ok().then_some(*index))
            .collect();
        let [index] = granted[..] else { panic!("{granted:?}") };
        waiting.remove(&index);
        had[index] += 1;
        now += 2 * SOON;
        tasks.extend(share.release(keys[index], 1, 2 * SOON, now));
        if let Acquired::Later(receiver, more) = share.acquire(keys[index], weight(1), now, |_| true) {
            waiting.insert(index, receiver);
            tasks.extend(more);
        } else {
            // It has the one that was kept for it.
            let (sender, receiver) = oneshot::channel();
            sender.send(Ok(1)).unwrap();
            waiting.insert(index, receiver);
            tasks.retain(|task| !matches!(task, Task::LookAt(_)));
        }
    }
    let (least, most) = (had.iter().min().unwrap(), had.iter().max().unwrap());
    assert!(*least >= 80 && *most <= 120, "{had:?}");
}

#[test]
fn who_is_over_its_bound_does_not_get_more() {
    let (mut share, now) = (share(4, 2), Instant::now());
    let key = key();
    let waiting: Vec<_> = (0..10).map(|_| ask(&mut share, key)).collect();
    let opened = waiting.iter().flat_map(|(_, tasks)| tasks).count();
    assert_eq!(opened, 2);
    assert!(matches!(share.acquire(key, weight(1), Instant::now(), |_| true), Acquired::Full));
    drop(waiting);
    assert!(
        matches!(share.acquire(key, weight(1), Instant::now(), |_| true), Acquired::Later(..)),
        "who left does not count"
    );
    assert!(share.opened(key, 1, OPENING, now).is_empty());
    share.set_limits(limits(4, 1));
    assert!(matches!(share.release(key, 1, SOON, now)[..], [Task::Close(_, 1)]), "a lower bound holds");
}

/// A tenant with so many idle backends, which are numbered from 1.
fn with_idle(share: &mut Share<u32>, key: PoolKey, terms: Terms, count: u32, now: Instant) {
    for backend in 1..=count {
        let Acquired::Later(_waiting, _) = share.acquire(key, terms, now, |_| true) else { panic!() };
        assert!(share.opened(key, backend, OPENING, now).is_empty());
    }
    for backend in 1..=count {
        assert!(share.release(key, backend, SOON, now).is_empty());
    }
}

#[test]
fn a_tenant_in_use_keeps_what_its_plan_keeps_open() {
    let (mut share, now) = (share(3, 3), Instant::now());
    let (busy, other, third) = (key(), key(), key());
    with_idle(&mut share, busy, warm(1), 2, now);
    // By idle time alone one goes and one stays.
    let later = now + KEPT_MAX;
    let closed = share.sweep((later, later), |_| true, |_| None);
    assert!(matches!(closed[..], [Task::Close(_, 1)]), "{closed:?}");
    assert!(share.closed(busy, later).is_empty());
    assert!(share.sweep((later, later), |_| true, |_| None).is_empty());
    // Another one that has as much already does not get it, who has nothing does.
    let (_first, tasks) = ask_at(&mut share, other, later);
    let (_second, more) = ask_at(&mut share, other, later);
    assert_eq!((tasks.len(), more.len()), (1, 1), "there is room");
    let (_third, tasks) = ask_at(&mut share, other, later);
    assert!(tasks.is_empty(), "{tasks:?}");
    let (_fourth, tasks) = ask_at(&mut share, third, later);
    assert!(matches!(tasks[..], [Task::Replace(2, to)] if to == third), "{tasks:?}");
}

#[test]
fn what_is_kept_goes_when_its_tenant_is_not_in_use_any_more() {
    let (mut share, now) = (share(1, 1), Instant::now());
    with_idle(&mut share, key(), warm(1), 1, now);
    let soon = now + share.limits.warm_for;
    assert!(share.sweep((soon, soon), |_| true, |_| None).is_empty());
    let closed = share.sweep((soon, soon + SOON), |_| true, |_| None);
    assert!(matches!(closed[..], [Task::Close(_, 1)]), "{closed:?}");
}

#[test]
fn a_plan_that_changes_holds_at_once() {
    let (mut share, now) = (share(3, 3), Instant::now());
    let key = key();
    for backend in [1, 2] {
        let Acquired::Later(_waiting, _) = share.acquire(key, warm(0), now, |_| true) else { panic!() };
        assert!(share.opened(key, backend, OPENING, now).is_empty());
    }
    let one = Terms { backends: 1, ..warm(0) };
    assert!(share.sweep((now, now), |_| true, |_| Some(one)).is_empty());
    assert!(matches!(share.release(key, 1, SOON, now)[..], [Task::Close(_, 1)]));
    assert!(share.closed(key, now).is_empty() && share.release(key, 2, SOON, now).is_empty());
    // Its own idle one makes room for a session of its other role.
    let reader = PoolKey { read_only: true, ..key };
    let Acquired::Later(_, tasks) = share.acquire(reader, one, now, |_| true) else { panic!() };
    assert!(matches!(tasks[..], [Task::Replace(2, to)] if to.read_only), "{tasks:?}");
}

#[test]
fn who_is_narrowed_gives_back_what_it_has_too_many_of_and_goes_on_with_the_rest() {
    let (mut share, now, key) = (share(6, 6), Instant::now(), key());
    let mut waiting: Vec<_> = (0..7).map(|_| ask(&mut share, key).0).collect();
    for backend in 1..=6 {
        assert!(share.opened(key, backend, OPENING, now).is_empty());
    }
    let narrow = Terms { is_narrowed: true, ..weight(1) };
    assert!(share.sweep((now, now), |_| true, |_| Some(narrow)).is_empty(), "they are at work");
    for backend in 1..=4 {
        let tasks = share.release(key, backend, SOON, now);
        assert!(matches!(tasks[..], [Task::Close(_, it)] if it == backend), "{tasks:?}");
        assert!(given(&mut waiting[6]).is_none());
        assert!(share.closed(key, now).is_empty(), "none is opened instead");
    }
    assert!(share.release(key, 5, SOON, now).is_empty());
    assert_eq!(given(&mut waiting[6]), Some(5), "who waits is served by those that stay");
    assert!(share.release(key, 6, SOON, now).is_empty() && share.release(key, 5, SOON, now).is_empty());
    assert_eq!(share.tally(), Tally { open: 2, idle: 2, waiting: 0 });
    assert_eq!(share.limits.of(Terms { backends: 1, ..narrow }, 0), 1, "a plan that allows less");
    // Later it may have more again.
    for _ in 0..2 {
        assert!(matches!(share.acquire(key, weight(1), now, |_| true), Acquired::Now(_)));
    }
    assert!(matches!(ask(&mut share, key).1[..], [Task::Open(_)]));
}

#[test]
fn who_is_narrowed_has_backends_beside_those_that_sessions_keep() {
    let (mut share, now, key) = (share(6, 6), Instant::now(), key());
    let mut waiting: Vec<_> = (0..3).map(|_| ask(&mut share, key).0).collect();
    for backend in 1..=3 {
        assert!(share.opened(key, backend, OPENING, now).is_empty());
        assert_eq!(given(&mut waiting[backend as usize - 1]), Some(backend));
    }
    assert!(share.keeps(key, SOON, now).is_empty());
    let narrow = Terms { is_narrowed: true, ..weight(1) };
    assert!(share.sweep((now, now), |_| true, |_| Some(narrow)).is_empty());
    let Acquired::Later(mut waits, tasks) = share.acquire(key, narrow, now, |_| true) else { panic!() };
    assert!(tasks.is_empty(), "two are at work beside the one that is kept: {tasks:?}");
    let tasks = share.keeps(key, SOON, now);
    assert!(matches!(tasks[..], [Task::Open(_)]), "only one is left for all others: {tasks:?}");
    assert!(share.opened(key, 4, OPENING, now).is_empty());
    assert_eq!(given(&mut waits), Some(4));
    let tasks = share.keeps(key, SOON, now);
    assert!(tasks.is_empty(), "nobody waits: {tasks:?}");
    assert!(share.release(key, 4, SOON, now).is_empty());
    // As many as the plan says are the most all the same.
    let plan = Terms { backends: 4, ..narrow };
    assert_eq!((share.limits.of(plan, 3), share.limits.of(narrow, 3)), (4, 5));
}

#[test]
fn all_are_told_where_no_backend_can_be_had() {
    let (mut share, now) = (share(2, 2), Instant::now());
    let key = key();
    let mut waiting: Vec<_> = (0..3).map(|_| ask(&mut share, key).0).collect();
    assert!(share.opened(key, 1, OPENING, now).is_empty());
    assert_eq!(given(&mut waiting[0]), Some(1));
    let tasks = share.not_opened(key, &Refusal::placement_unavailable(), now);
    assert!(waiting[1].try_recv().unwrap().is_err(), "the next one is told");
    assert!(matches!(tasks[..], [Task::Open(_)]), "for the other it is tried once more");
    assert!(share.closed(key, now).is_empty());
    let tasks = share.not_opened(key, &Refusal::placement_unavailable(), now);
    assert!(waiting[2].try_recv().unwrap().is_err() && tasks.is_empty());
    assert!(share.tenants.is_empty() && share.starving.is_empty() && share.open == 0, "nothing is kept");
}

#[test]
fn who_comes_with_many_is_served_by_the_first_that_is_opened() {
    let (mut share, now, key) = (Share::new(Limits { opening: 2, ..limits(20, 20) }), Instant::now(), key());
    let (mut waiting, mut tasks) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let Acquired::Later(waits, more) = share.acquire(key, weight(1), now, |_| true) else { panic!() };
        waiting.push(waits);
        tasks.extend(more);
    }
    assert_eq!(tasks.len(), 2, "{tasks:?}");
    let tasks = share.opened(key, 1, OPENING, now);
    assert!(matches!(tasks[..], [Task::Open(to)] if to == key), "as long as others wait: {tasks:?}");
    assert_eq!(given(&mut waiting[0]), Some(1));
    for waits in &mut waiting[1..4] {
        assert!(share.release(key, 1, SOON, now).is_empty());
        assert_eq!(given(waits), Some(1));
    }
    // One waits, and two are being opened.
    assert!(share.opened(key, 2, OPENING, now).is_empty());
    assert_eq!(given(&mut waiting[4]), Some(2));
}

#[test]
fn where_a_database_is_closed_one_is_tried_and_nobody_is_told() {
    let (mut share, now) = (share(3, 3), Instant::now());
    let key = key();
    let mut waiting: Vec<_> = (0..4).map(|_| ask(&mut share, key).0).collect();
    assert!(share.found_closed(key, now).is_none(), "the first tries again");
    for _ in 0..2 {
        let tasks = share.found_closed(key, now).expect("the others give up");
        assert!(tasks.is_empty(), "and no other one begins: {tasks:?}");
    }
    assert_eq!(share.tally(), Tally { open: 1, idle: 0, waiting: 4 });
    let tasks = share.opened(key, 1, OPENING, now);
    assert_eq!(given(&mut waiting[0]), Some(1));
    assert!(matches!(tasks[..], [Task::Open(_), Task::Open(_)]), "it is open, so all begin: {tasks:?}");
    assert!(waiting[1..].iter_mut().all(|waiting| waiting.try_recv().is_err()));
}

#[test]
fn who_was_held_is_not_refused_because_there_are_many() {
    let (mut share, key, now) = (share(1, 1), key(), Instant::now());
    let _waiting: Vec<_> = (0..10).map(|_| ask(&mut share, key).0).collect();
    assert!(matches!(share.acquire(key, weight(1), now, |_| true), Acquired::Full));
    assert!(matches!(share.acquire_for((key, weight(1)), true, now, |_| true), Acquired::Later(..)));
}

#[test]
fn what_is_old_or_leads_elsewhere_is_closed() {
    let (mut share, now) = (share(3, 3), Instant::now());
    let (old, moved) = (key(), key());
    for (key, backend) in [(old, 1), (moved, 2)] {
        let (_waiting, _) = ask(&mut share, key);
        assert!(share.opened(key, backend, OPENING, now).is_empty());
        assert!(share.release(key, backend, SOON, now + SOON * backend).is_empty());
    }
    assert!(share.sweep((now, now), |_| true, |_| None).is_empty());
    let closed = share.sweep((now, now), |key| *key != moved, |_| None);
    assert!(matches!(closed[..], [Task::Close(_, 2)]), "{closed:?}");
    let closed = share.sweep((now + 2 * SOON, now), |_| true, |_| None);
    assert!(matches!(closed[..], [Task::Close(_, 1)]), "{closed:?}");
    for key in [old, moved] {
        assert!(share.closed(key, now).is_empty());
    }
    assert!(share.tenants.is_empty());
}

/// A cluster with room for backends and so many places for those at work.
fn crowded(at_work: u32) -> Share<u32> {
    Share::new(Limits { at_work, ..limits(20, 20) })
}

/// A session that is served.
fn begins(share: &mut Share<u32>, key: PoolKey, backend: u32, now: Instant) {
    let Acquired::Later(mut waiting, tasks) = share.acquire(key, weight(1), now, |_| true) else { panic!() };
    assert!(matches!(tasks[..], [Task::Open(to)] if to == key), "{tasks:?}");
    assert!(share.opened(key, backend, OPENING, now).is_empty());
    assert_eq!(given(&mut waiting), Some(backend));
}

/// A session that has to stand in line.
fn stands(share: &mut Share<u32>, key: PoolKey, now: Instant) -> Waiting {
    let (mut waiting, tasks) = ask_at(share, key, now);
    assert!(tasks.is_empty() && given(&mut waiting).is_none(), "{tasks:?}");
    waiting
}

#[test]
fn who_is_alone_has_no_bound_and_who_is_not_leaves_the_others_their_part() {
    let (mut share, now) = (crowded(4), Instant::now());
    let (greedy, modest) = (key(), key());
    (1..=8).for_each(|backend| begins(&mut share, greedy, backend, now));
    // The other one has its part at once, and nobody loses what it has begun.
    begins(&mut share, modest, 11, now);
    begins(&mut share, modest, 12, now);
    let mut of_greedy: Vec<Waiting> = (0..8).map(|_| stands(&mut share, greedy, now)).collect();
    // Eight, then seven, until it has one less than its part of two.
    for backend in 1..=6 {
        assert!(share.release(greedy, backend, SOON, now).is_empty());
        assert!(of_greedy.iter_mut().all(|waiting| given(waiting).is_none()), "{backend} of 8 came back");
    }
    assert!(share.release(greedy, 7, SOON, now).is_empty());
    assert_eq!(given(&mut of_greedy[0]), Some(7), "the next is given what came back");
    // What the other one leaves is its own again.
    for backend in [11, 12] {
        assert!(share.release(modest, backend, SOON, now).is_empty());
    }
    let served = of_greedy.iter_mut().filter_map(given).count();
    assert_eq!((served, share.crowd.at_work()), (2, 4), "all places are used");
    // And all it wants, when the other one has been gone for a while.
    let later = |seconds| now + Duration::from_secs(seconds);
    let tasks: Vec<_> = [0, 2, 4].into_iter().flat_map(|seconds| share.relieve(later(seconds))).collect();
    assert!(matches!(tasks[..], [Task::Open(to)] if to == greedy), "{tasks:?}");
    assert_eq!(of_greedy.iter_mut().filter_map(given).count(), 4, "with those that it had");
}

#[test]
fn who_is_heavier_has_a_larger_part() {
    let (mut share, now) = (crowded(6), Instant::now());
    let (heavy, light) = (key(), key());
    let ask = |share: &mut Share<u32>, key, terms| match share.acquire(key, terms, now, |_| true) {
        Acquired::Later(_, tasks) => tasks.len(),
        other => panic!("{other:?}"),
    };
    let served = (0..10).map(|_| ask(&mut share, light, weight(1)) + ask(&mut share, heavy, weight(2)));
    assert_eq!(served.sum::<usize>(), 7, "six, and one that was there when it was alone");
    assert_eq!(share.tenants[&heavy.tenant].waiting, 4);
}

#[test]
fn who_rests_in_a_transaction_needs_no_place_and_goes_on_without_one() {
    let (mut share, now) = (crowded(2), Instant::now());
    let (one, other) = (key(), key());
    begins(&mut share, other, 11, now);
    begins(&mut share, one, 1, now);
    let mut waiting = stands(&mut share, one, now);
    let tasks = share.rests(one.tenant, now);
    assert!(matches!(tasks[..], [Task::Open(to)] if to == one), "{tasks:?}");
    assert!(share.opened(one, 2, OPENING, now).is_empty());
    assert_eq!(given(&mut waiting), Some(2));
    share.works(one.tenant);
    assert_eq!(share.crowd.at_work(), 3, "it may hold what others wait for");
}

/// Its own sessions may wait for a client that waits for one in line.
#[test]
fn who_is_stuck_goes_on_after_a_while() {
    let (mut share, now) = (crowded(2), Instant::now());
    let (one, other) = (key(), key());
    begins(&mut share, other, 11, now);
    begins(&mut share, one, 1, now);
    let _waiting = [stands(&mut share, one, now), stands(&mut share, one, now)];
    assert!(share.relieve(now + Duration::from_millis(200)).is_empty());
    for millis in [300, 600] {
        let tasks = share.relieve(now + Duration::from_millis(millis));
        assert!(matches!(tasks[..], [Task::Open(_)]), "one after the other: {tasks:?}");
        assert!(share.relieve(now + Duration::from_millis(millis + 100)).is_empty());
    }
}

#[test]
fn a_backend_that_has_ended_is_not_given_to_who_stood_in_line() {
    let (mut share, now) = (crowded(1), Instant::now());
    let (one, other) = (key(), key());
    begins(&mut share, one, ENDED, now);
    begins(&mut share, other, 11, now);
    assert!(share.release(one, ENDED, SOON, now).is_empty());
    share.works(one.tenant);
    let mut waiting = stands(&mut share, one, now);
    let tasks = share.rests(one.tenant, now);
    assert!(matches!(tasks[..], [Task::Close(_, ENDED), Task::Open(to)] if to == one), "{tasks:?}");
    assert!(share.opened(one, 2, OPENING, now).is_empty());
    assert_eq!(given(&mut waiting), Some(2));
}

/// What may happen, with a number that says to whom.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Asked,
    AskedInVain,
    LeftTheQueue,
    Released,
    Ended,
    Opened,
    NotOpened,
    Closed,
    Looked,
    Swept,
    Rested,
    Worked,
    Relieved,
}

proptest! {
    /// Whatever happens: no bound is passed, the counts are right, and nobody
    /// waits while there is room.
    #[test]
    fn the_account_is_always_right(
        happenings in proptest::collection::vec((prop_oneof![
            Just(Happens::Asked), Just(Happens::Asked), Just(Happens::LeftTheQueue), Just(Happens::Released),
            Just(Happens::Released), Just(Happens::Ended), Just(Happens::Opened), Just(Happens::Opened),
            Just(Happens::NotOpened), Just(Happens::Closed), Just(Happens::Looked), Just(Happens::Swept),
            Just(Happens::Rested), Just(Happens::Worked), Just(Happens::Relieved), Just(Happens::AskedInVain),
        ], any::<prop::sample::Index>(), 0_u64..50), 1..200),
        at_work in 0_u32..5,
        opening in 1_u32..4,
    ) {
        let (mut share, mut now) = (Share::new(Limits { at_work, opening, ..limits(4, 3) }), Instant::now());
        let mut keys: Vec<PoolKey> = (0..5).map(|_| key()).collect();
        let read_only: Vec<PoolKey> = keys[..2].iter().map(|key| PoolKey { read_only: true, ..*key }).collect();
        keys.extend(read_only);
        // Some keep backends, and one has a bound of its own.
        let plans = [warm(0), warm(1), Terms { backends: 1, ..warm(3) }, weight(2), warm(2)];
        let (mut next, mut look) = (0, None);
        let mut waiting: Vec<(PoolKey, Waiting)> = Vec::new();
        let mut used: Vec<(PoolKey, u32)> = Vec::new();
        // Those of them whose sessions are in a transaction, and ask nothing.
        let mut resting: Vec<u32> = Vec::new();
        let (mut opening, mut closing): (Vec<PoolKey>, Vec<PoolKey>) = (Vec::new(), Vec::new());
        for (happens, index, millis) in happenings {
            now += SOON;
            let mut tasks = Vec::new();
            match happens {
                Happens::Asked => {
                    let index = index.index(keys.len());
                    let key = keys[index];
                    match share.acquire(key, plans[index % 5], now, |_| true) {
                        Acquired::Now(backend) => used.push((key, backend)),
                        Acquired::Later(receiver, more) => {
                            waiting.push((key, receiver));
                            tasks = more;
                        }
                        Acquired::Full => {}
                    }
                }
                // What is idle has ended, and its session leaves.
                Happens::AskedInVain => {
                    let index = index.index(keys.len());
                    let key = keys[index];
                    match share.acquire(key, plans[index % 5], now, |_| true) {
                        Acquired::Now(_) => tasks = share.found_gone(key, now),
                        Acquired::Later(_, more) => tasks = more,
                        Acquired::Full => {}
                    }
                }
                Happens::LeftTheQueue if !waiting.is_empty() => {
                    drop(waiting.swap_remove(index.index(waiting.len())));
                }
                Happens::Released if !used.is_empty() => {
                    let (key, backend) = used.swap_remove(index.index(used.len()));
                    if wakes(&mut resting, backend) {
                        share.works(key.tenant);
                    }
                    tasks = share.release(key, backend, Duration::from_millis(millis), now);
                }
                Happens::Ended if !used.is_empty() => {
                    let (key, backend) = used.swap_remove(index.index(used.len()));
                    if !wakes(&mut resting, backend) {
                        tasks = share.rests(key.tenant, now);
                    }
                    tasks.extend(share.closed(key, now));
                }
                Happens::Rested if !used.is_empty() => {
                    let (key, backend) = used[index.index(used.len())];
                    if !resting.contains(&backend) {
                        resting.push(backend);
                        tasks = share.rests(key.tenant, now);
                    }
                }
                Happens::Worked if !used.is_empty() => {
                    let (key, backend) = used[index.index(used.len())];
                    if wakes(&mut resting, backend) {
                        share.works(key.tenant);
                    }
                }
                Happens::Relieved => {
                    now += Duration::from_millis(millis * 10);
                    tasks = share.relieve(now);
                    let may_begin = share.in_line.iter().find(|(_, _, id)| share.may_begin(*id));
                    prop_assert_eq!(may_begin, None, "stands in line for nothing");
                }
                Happens::Opened if !opening.is_empty() => {
                    next += 1;
                    tasks = share.opened(opening.swap_remove(index.index(opening.len())), next, OPENING, now);
                }
                Happens::NotOpened if !opening.is_empty() => {
                    let key = opening.swap_remove(index.index(opening.len()));
                    tasks = share.not_opened(key, &Refusal::placement_unavailable(), now);
                }
                Happens::Closed if !closing.is_empty() => {
                    tasks = share.closed(closing.swap_remove(index.index(closing.len())), now);
                }
                Happens::Looked => {
                    if let Some(at) = look.take() {
                        now = now.max(at);
                        tasks = share.look(now);
                    }
                }
                Happens::Swept => {
                    let idle_since = now - Duration::from_millis(millis);
                    tasks = share.sweep((idle_since, now), |_| true, |_| None);
                }
                _ => {}
            }
            for task in tasks {
                match task {
                    Task::Open(key) | Task::Replace(_, key) => opening.push(key),
                    Task::Close(key, _) => closing.push(key),
                    Task::LookAt(at) => prop_assert!(look.replace(at).is_none(), "one look at a time"),
                }
            }
            waiting.retain_mut(|(key, receiver)| match receiver.try_recv() {
                Ok(Ok(backend)) => {
                    used.push((*key, backend));
                    false
                }
                Ok(Err(_)) => false,
                Err(oneshot::error::TryRecvError::Empty) => true,
                Err(oneshot::error::TryRecvError::Closed) => panic!("a session is forgotten"),
            });
            prop_assert_eq!(share.will_look, look.is_some());
            check(&share, now, &used, &opening, &closing)?;
            check_crowd(&share, &used, &resting)?;
        }
    }
}

/// Whether it rested.
fn wakes(resting: &mut Vec<u32>, backend: u32) -> bool {
    let at = resting.iter().position(|resting| *resting == backend);
    at.map(|at| resting.swap_remove(at)).is_some()
}

fn check_crowd(share: &Share<u32>, used: &[(PoolKey, u32)], resting: &[u32]) -> Result<(), TestCaseError> {
    let mut all = 0;
    for (id, tenant) in &share.tenants {
        let works = |(key, backend): &&(PoolKey, u32)| key.tenant == *id && !resting.contains(backend);
        prop_assert_eq!(tenant.at_work, used.iter().filter(works).count());
        all += tenant.at_work + tenant.waiting;
        prop_assert_eq!(tenant.in_line.is_some(), !tenant.line.is_empty());
    }
    prop_assert_eq!(share.crowd.at_work() as usize, all);
    let in_line = share.tenants.values().filter(|tenant| tenant.in_line.is_some()).count();
    prop_assert_eq!(share.in_line.len(), in_line);
    Ok(())
}

fn check(
    share: &Share<u32>,
    now: Instant,
    used: &[(PoolKey, u32)],
    opening: &[PoolKey],
    closing: &[PoolKey],
) -> Result<(), TestCaseError> {
    let mut open: BTreeMap<TenantId, u32> = BTreeMap::new();
    let keys = used.iter().map(|(key, _)| key).chain(opening).chain(closing);
    keys.for_each(|key| *open.entry(key.tenant).or_default() += 1);
    let mut idle = 0;
    for (id, tenant) in &share.tenants {
        let of_tenant: usize = tenant.pools.iter().map(|pool| pool.idle.len()).sum();
        idle += of_tenant;
        let counted = open.get(id).copied().unwrap_or(0) + u32::try_from(of_tenant).unwrap();
        prop_assert_eq!(tenant.open, counted);
        let bound = tenant.most(&share.limits);
        prop_assert!(tenant.open <= bound);
        prop_assert_eq!(tenant.waiting, tenant.pools.iter().map(|pool| pool.waiting.len()).sum::<usize>());
        let is_short = tenant.pools.iter().any(|pool| pool.is_short(share.limits.opening));
        prop_assert_eq!(tenant.starving.is_some(), is_short && tenant.open < bound);
        prop_assert!(!is_short || tenant.open < bound || of_tenant == 0, "its own idle one is in its way");
    }
    prop_assert_eq!(share.idle.len(), idle);
    let all = used.len() + opening.len() + closing.len() + idle;
    prop_assert_eq!(share.open as usize, all);
    prop_assert!(share.open <= share.limits.backends);
    if !share.starving.is_empty() {
        prop_assert_eq!(share.open, share.limits.backends, "somebody waits for nothing");
        let later = share.idle.range((now, u64::MAX)..).next().is_some();
        prop_assert!(!later || share.will_look, "somebody waits for what nobody will give");
        for key in share.idle.range(..=(now, u64::MAX)).map(|(_, key)| key).filter(|_| !share.will_look) {
            let owner = &share.tenants[&key.tenant];
            for waits in share.starving.iter().map(|(_, _, id)| &share.tenants[id]) {
                prop_assert!(owner.is_warm() && !waits.has_less_than(owner), "it is kept from who has less");
            }
        }
    }
    Ok(())
}
