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

fn share(backends: u32, of_tenant: u32) -> Share<u32> {
    Share::new(Limits { backends, of_tenant, waiting_of_tenant: 10 })
}

type Waiting = oneshot::Receiver<Grant<u32>>;

fn ask(share: &mut Share<u32>, key: PoolKey) -> (Waiting, Vec<Task<u32>>) {
    match share.acquire(key, 1, |_| true) {
        Acquired::Later(waiting, tasks) => (waiting, tasks),
        other => panic!("{other:?}"),
    }
}

fn given(waiting: &mut Waiting) -> Option<u32> {
    waiting.try_recv().ok().map(|granted| granted.unwrap())
}

const SOON: Duration = Duration::from_millis(1);

#[test]
fn who_came_first_is_first_and_a_free_one_is_given_at_once() {
    let (mut share, key, now) = (share(1, 1), key(), Instant::now());
    let (mut first, tasks) = ask(&mut share, key);
    assert!(matches!(tasks[..], [Task::Open(opened)] if opened == key));
    let (mut second, tasks) = ask(&mut share, key);
    assert!(tasks.is_empty(), "there is no room for another");
    assert!(share.opened(key, 7, now).is_empty());
    assert_eq!((given(&mut first), given(&mut second)), (Some(7), None));
    assert!(share.release(key, 7, SOON, now).is_empty());
    assert_eq!(given(&mut second), Some(7));
    assert!(share.release(key, 7, SOON, now).is_empty());
    assert_eq!(share.tally(), Tally { open: 1, idle: 1, waiting: 0 });
    assert!(matches!(share.acquire(key, 1, |_| false), Acquired::Now(7)), "rather than to wait");
}

#[test]
fn a_place_goes_to_who_has_had_less_but_not_after_each_transaction() {
    let (mut share, now) = (share(1, 1), Instant::now());
    let (greedy, modest) = (key(), key());
    let (_first, _) = ask(&mut share, greedy);
    assert!(share.opened(greedy, 1, now).is_empty());
    let (_again, _) = ask(&mut share, greedy);
    let (_waiting, tasks) = ask(&mut share, modest);
    assert!(tasks.is_empty());
    assert!(share.release(greedy, 1, SOON, now).is_empty(), "within the quantum it stays");
    let (_again, _) = ask(&mut share, greedy);
    let tasks = share.release(greedy, 1, 2 * QUANTUM, now);
    assert!(matches!(tasks[..], [Task::Replace(1, to)] if to == modest), "{tasks:?}");
    assert!(share.opened(modest, 2, now).is_empty());
    // And back, when the other has had as much.
    let (_more, _) = ask(&mut share, modest);
    let tasks = share.release(modest, 2, 4 * QUANTUM, now);
    assert!(matches!(tasks[..], [Task::Replace(2, to)] if to == greedy), "{tasks:?}");
}

#[test]
fn weights_count() {
    let (mut share, now) = (share(1, 1), Instant::now());
    let (heavy, light) = (key(), key());
    let Acquired::Later(_first, _) = share.acquire(heavy, 4, |_| true) else { panic!() };
    assert!(share.opened(heavy, 1, now).is_empty());
    let (_waiting, _) = ask(&mut share, light);
    let Acquired::Later(_again, _) = share.acquire(heavy, 4, |_| true) else { panic!() };
    assert!(share.release(heavy, 1, 3 * QUANTUM, now).is_empty(), "a quarter of it counts");
    let Acquired::Later(_again, _) = share.acquire(heavy, 4, |_| true) else { panic!() };
    assert!(matches!(share.release(heavy, 1, 3 * QUANTUM, now)[..], [Task::Replace(..)]));
}

#[test]
fn an_idle_one_makes_room_for_who_waits() {
    let (mut share, now) = (share(2, 2), Instant::now());
    let (one, other) = (key(), key());
    for backend in [1, 2] {
        let (_waiting, _) = ask(&mut share, one);
        assert!(share.opened(one, backend, now + SOON * backend).is_empty());
    }
    assert!(share.release(one, 2, SOON, now).is_empty());
    assert!(share.release(one, 1, SOON, now + SOON).is_empty());
    let (_waiting, tasks) = ask(&mut share, other);
    assert!(matches!(tasks[..], [Task::Replace(2, to)] if to == other), "the longest unused: {tasks:?}");
}

#[test]
fn who_is_over_its_bound_does_not_get_more() {
    let (mut share, now) = (share(4, 2), Instant::now());
    let key = key();
    let waiting: Vec<_> = (0..10).map(|_| ask(&mut share, key)).collect();
    let opened = waiting.iter().flat_map(|(_, tasks)| tasks).count();
    assert_eq!(opened, 2);
    assert!(matches!(share.acquire(key, 1, |_| true), Acquired::Full));
    drop(waiting);
    assert!(matches!(share.acquire(key, 1, |_| true), Acquired::Later(..)), "who left does not count");
    assert!(share.opened(key, 1, now).is_empty());
    share.set_limits(Limits { backends: 4, of_tenant: 1, waiting_of_tenant: 10 });
    assert!(matches!(share.release(key, 1, SOON, now)[..], [Task::Close(_, 1)]), "a lower bound holds");
}

#[test]
fn all_are_told_where_no_backend_can_be_had() {
    let (mut share, now) = (share(2, 2), Instant::now());
    let key = key();
    let mut waiting: Vec<_> = (0..3).map(|_| ask(&mut share, key).0).collect();
    assert!(share.opened(key, 1, now).is_empty());
    assert_eq!(given(&mut waiting[0]), Some(1));
    let tasks = share.not_opened(key, &Refusal::placement_unavailable());
    assert!(waiting[1].try_recv().unwrap().is_err(), "the next one is told");
    assert!(matches!(tasks[..], [Task::Open(_)]), "for the other it is tried once more");
    assert!(share.closed(key).is_empty());
    let tasks = share.not_opened(key, &Refusal::placement_unavailable());
    assert!(waiting[2].try_recv().unwrap().is_err() && tasks.is_empty());
    assert!(share.tenants.is_empty() && share.starving.is_empty() && share.open == 0, "nothing is kept");
}

#[test]
fn what_is_old_or_leads_elsewhere_is_closed() {
    let (mut share, now) = (share(3, 3), Instant::now());
    let (old, moved) = (key(), key());
    for (key, backend) in [(old, 1), (moved, 2)] {
        let (_waiting, _) = ask(&mut share, key);
        assert!(share.opened(key, backend, now).is_empty());
        assert!(share.release(key, backend, SOON, now + SOON * backend).is_empty());
    }
    assert!(share.sweep(now, |_| true).is_empty());
    let closed = share.sweep(now, |key| *key != moved);
    assert!(matches!(closed[..], [Task::Close(_, 2)]), "{closed:?}");
    let closed = share.sweep(now + 2 * SOON, |_| true);
    assert!(matches!(closed[..], [Task::Close(_, 1)]), "{closed:?}");
    for key in [old, moved] {
        assert!(share.closed(key).is_empty());
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
            Just(Happens::NotOpened), Just(Happens::Closed), Just(Happens::Swept),
        ], any::<prop::sample::Index>(), 0_u64..50), 1..200),
    ) {
        let (mut share, mut now) = (share(4, 3), Instant::now());
        let keys: Vec<PoolKey> = (0..5).map(|_| key()).collect();
        let mut next = 0;
        let mut waiting: Vec<(PoolKey, Waiting)> = Vec::new();
        let mut used: Vec<(PoolKey, u32)> = Vec::new();
        let (mut opening, mut closing): (Vec<PoolKey>, Vec<PoolKey>) = (Vec::new(), Vec::new());
        for (happens, index, millis) in happenings {
            now += SOON;
            let mut tasks = Vec::new();
            match happens {
                Happens::Asked => {
                    let key = keys[index.index(keys.len())];
                    match share.acquire(key, 1, |_| true) {
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
                    tasks = share.closed(key);
                }
                Happens::Opened if !opening.is_empty() => {
                    next += 1;
                    tasks = share.opened(opening.swap_remove(index.index(opening.len())), next, now);
                }
                Happens::NotOpened if !opening.is_empty() => {
                    let key = opening.swap_remove(index.index(opening.len()));
                    tasks = share.not_opened(key, &Refusal::placement_unavailable());
                }
                Happens::Closed if !closing.is_empty() => {
                    tasks = share.closed(closing.swap_remove(index.index(closing.len())));
                }
                Happens::Swept => tasks = share.sweep(now - Duration::from_millis(millis), |_| true),
                _ => {}
            }
            for task in tasks {
                match task {
                    Task::Open(key) | Task::Replace(_, key) => opening.push(key),
                    Task::Close(key, _) => closing.push(key),
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
            check(&share, &used, &opening, &closing)?;
        }
    }
}

fn check(
    share: &Share<u32>,
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
        prop_assert!(tenant.open <= share.limits.of_tenant);
        prop_assert_eq!(tenant.waiting, tenant.pools.iter().map(|pool| pool.waiting.len()).sum::<usize>());
        let is_short = tenant.pools.iter().any(Pool::is_short);
        prop_assert_eq!(tenant.starving.is_some(), is_short && tenant.open < share.limits.of_tenant);
    }
    let all = used.len() + opening.len() + closing.len() + idle;
    prop_assert_eq!(share.open as usize, all);
    prop_assert!(share.open <= share.limits.backends);
    if !share.starving.is_empty() {
        prop_assert_eq!((share.open, idle), (share.limits.backends, 0), "somebody waits for nothing");
    }
    Ok(())
}
