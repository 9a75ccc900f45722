//! Who is woken by what, and that ten thousand tenants and two thousand
//! followers are no trouble.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::merge::Rows;
use crate::merge::tests::{delta, login, route, tenant};

fn is_ready(future: impl Future) -> bool {
    matches!(pin!(future).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
}

#[test]
fn a_change_wakes_who_follows_the_tenant_and_nobody_else() {
    let map = RouteMap::new();
    let (one, two, both) =
        (map.follow([tenant(1)]), map.follow([tenant(2)]), map.follow([tenant(1), tenant(2)]));
    assert!(!is_ready(one.changed()));
    map.apply(delta(1, vec![route(1, "a", 1)], vec![]));
    assert!(is_ready(one.changed()) && is_ready(both.changed()) && !is_ready(two.changed()));
    assert!(!is_ready(one.changed()), "once for a change");
    map.apply(delta(1, vec![route(1, "a", 1)], vec![]));
    assert!(!is_ready(one.changed()), "a repeated row is no change");
    map.apply(delta(2, vec![], vec![login(1, "acme", 2, 2)]));
    assert!(is_ready(two.changed()) && !is_ready(one.changed()), "a login wakes its tenant");
}

#[test]
fn a_change_before_the_wait_is_not_lost() {
    let map = RouteMap::new();
    let follower = map.follow([tenant(1)]);
    map.apply(delta(1, vec![route(1, "a", 1)], vec![]));
    map.apply(delta(2, vec![route(1, "b", 2)], vec![]));
    assert!(is_ready(follower.changed()));
}

#[test]
fn dropped_followers_leave_nothing_behind() {
    let map = RouteMap::new();
    let followers: Vec<_> = (0..2000).map(|number| map.follow([tenant(number % 7)])).collect();
    assert_eq!(map.followers.followed_tenants(), 7);
    drop(followers);
    assert_eq!(map.followers.followed_tenants(), 0);
}

#[test]
fn readiness_comes_with_the_first_whole_state() {
    let map = RouteMap::new();
    map.apply(delta(1, vec![route(1, "a", 1)], vec![]));
    assert!(!map.is_ready() && !is_ready(map.ready()));
    map.apply(Update::Whole { revision: 0, rows: Rows::default() });
    assert!(map.is_ready() && is_ready(map.ready()));
}

#[test]
fn everybody_who_follows_all_sees_the_revision() {
    let map = RouteMap::new();
    let mut changed = map.changed();
    map.apply(delta(4, vec![route(1, "a", 4)], vec![]));
    assert!(changed.has_changed().unwrap());
    assert_eq!(*changed.borrow_and_update(), 4);
    map.apply(delta(4, vec![route(1, "a", 4)], vec![]));
    assert!(!changed.has_changed().unwrap());
}

#[test]
fn a_snapshot_does_not_change_under_its_reader() {
    let map = RouteMap::new();
    map.apply(delta(1, vec![route(1, "a", 1)], vec![]));
    let before = map.snapshot();
    map.apply(delta(2, vec![route(1, "b", 2)], vec![]));
    assert!(before.route_by_slug("a").is_some() && map.snapshot().route_by_slug("a").is_none());
}

#[test]
fn ten_thousand_tenants_take_single_changes() {
    let map = RouteMap::new();
    let tenants = (0..10_000).map(|number| route(number, &format!("t{number}"), 1)).collect();
    map.apply(Update::Whole { revision: 1, rows: Rows { tenants, ..Rows::default() } });
    let followers: Vec<_> = (0..2000).map(|number| map.follow([tenant(number)])).collect();
    for number in 0..100 {
        map.apply(delta(2, vec![route(number, &format!("t{number}"), 2)], vec![]));
    }
    let woken = followers.iter().filter(|follower| is_ready(follower.changed())).count();
    assert_eq!(woken, 100);
}
