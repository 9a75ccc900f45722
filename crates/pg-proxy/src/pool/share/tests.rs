//! The account of a cluster, played by hand and at random.

use std::collections::BTreeMap;

use insula_domain::{OsEntropy, SystemClock};
use proptest::prelude::*;

use super::*;

fn key() -> PoolKey {
    PoolKey {
        tenant: TenantId::generate(&SystemClock, &OsEntropy),
        read_only: false,
        epoch: Epoch::FIRST,
        key_generation: 1,
        endpoint_revision: 1,
        for_one_session: false,
    }
}

fn limits(backends: u32, of_tenant: u32) -> Limits {
    Limits { backends, of_tenant, waiting_of_tenant: 10, warm_for: Duration::from_secs(1) }
}

fn weight(weight: u32) -> Terms {
    Terms { weight, backends: 0, warm: 0 }
}

fn warm(warm: u32) -> Terms {
    Terms { warm, ..weight(1) }
}

fn share(backends: u32, of_tenant: u32) -> Share<u32> {
    Share::new(limits(backends, of_tenant))
}

type Waiting = oneshot::Receiver<Grant<u32>>;

fn ask(share: &mut Share<u32>, key: PoolKey) -> (Waiting, Vec<Task<u32>>) {
    ask_at(share, key, Instant::now())
}

fn ask_at(share: &mut Share<u32>, key: PoolKey, now: Instant) -> (Waiting, Vec<Task<u32>>) {
    match share.acquire(key, weight(1), now, |_| true) {
        Acquired::Later(waiting, tasks) => (waiting, tasks),
        other => panic!("{other:?}"),
    }
}

fn given(waiting: &mut Waiting) -> Option<u32> {
    waiting.try_recv().ok().map(|granted| granted.unwrap())
}

const SOON: Duration = Duration::from_millis(1);

const OPENING: Duration = Duration::from_millis(4);

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

/// What may happen, with a number that says to whom.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Asked,
    LeftTheQueue,
    Released,
    Ended,
    Opened,
    NotOpened,
    Closed,
    Looked,
    Swept,
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
        ], any::<prop::sample::Index>(), 0_u64..50), 1..200),
    ) {
        let (mut share, mut now) = (share(4, 3), Instant::now());
        let mut keys: Vec<PoolKey> = (0..5).map(|_| key()).collect();
        let read_only: Vec<PoolKey> = keys[..2].iter().map(|key| PoolKey { read_only: true, ..*key }).collect();
        keys.extend(read_only);
        // Some keep backends, and one has a bound of its own.
        let plans = [warm(0), warm(1), Terms { backends: 1, ..warm(3) }, weight(2), warm(2)];
        let (mut next, mut look) = (0, None);
        let mut waiting: Vec<(PoolKey, Waiting)> = Vec::new();
        let mut used: Vec<(PoolKey, u32)> = Vec::new();
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
                Happens::LeftTheQueue if !waiting.is_empty() => {
                    drop(waiting.swap_remove(index.index(waiting.len())));
                }
                Happens::Released if !used.is_empty() => {
                    let (key, backend) = used.swap_remove(index.index(used.len()));
                    tasks = share.release(key, backend, Duration::from_millis(millis), now);
                }
                Happens::Ended if !used.is_empty() => {
                    let (key, _) = used.swap_remove(index.index(used.len()));
                    tasks = share.closed(key, now);
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
        }
    }
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
        let bound = share.limits.of(tenant.terms);
        prop_assert!(tenant.open <= bound);
        prop_assert_eq!(tenant.waiting, tenant.pools.iter().map(|pool| pool.waiting.len()).sum::<usize>());
        let is_short = tenant.pools.iter().any(Pool::is_short);
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
