//! Events in good and in bad order, by what comes of them.

use std::sync::Arc;

use v1::entry::Value as Sent;

use super::*;

fn entry(key: &str, version: i64, json: &str) -> v1::Entry {
    v1::Entry {
        key: key.to_owned(),
        scope: "tenant/x".to_owned(),
        version,
        revision: version,
        value: Some(Sent::Json(json.to_owned().into())),
        ..v1::Entry::default()
    }
}

fn event(event: Event) -> v1::WatchEvent {
    v1::WatchEvent { event: Some(event) }
}

fn snapshot(revision: i64, entries: Vec<v1::Entry>, more: bool) -> v1::WatchEvent {
    event(Event::Snapshot(Snapshot { revision, entries, more, ..Snapshot::default() }))
}

fn delta(since: i64, revision: i64, entries: Vec<v1::Entry>, removed: &[&str]) -> v1::WatchEvent {
    let removed = removed.iter().map(|key| (*key).to_owned()).collect();
    event(Event::Delta(Delta { revision, entries, removed, since }))
}

fn heartbeat(since: i64, revision: i64) -> v1::WatchEvent {
    event(Event::Heartbeat(Heartbeat { revision, since, ..Heartbeat::default() }))
}

fn follower(rules: Rules) -> Follower {
    Follower::new(Arc::default(), rules, 1 << 20, String::new())
}

/// What is there, as `key=version`.
fn there(follower: &Follower) -> Vec<String> {
    follower.view.under("").iter().map(|value| format!("{}={}", value.key, value.version)).collect()
}

fn begun(entries: Vec<v1::Entry>) -> Follower {
    let mut follower = follower(Rules::default());
    assert_eq!(follower.begin(), 0);
    follower.take(snapshot(10, entries, false), Instant::now()).unwrap();
    follower
}

#[test]
fn a_snapshot_and_its_changes_are_taken_over() {
    let now = Instant::now();
    let mut follower = follower(Rules::default());
    follower.begin();
    assert!(matches!(follower.take(snapshot(10, vec![entry("a", 1, "1")], true), now), Ok(Step::Nothing)));
    assert_eq!(there(&follower), [""; 0], "half a snapshot is none");
    follower.take(snapshot(10, vec![entry("b", 2, "2")], false), now).unwrap();
    assert_eq!(there(&follower), ["a=1", "b=2"]);
    follower.take(delta(10, 12, vec![entry("a", 3, "3")], &["b", "never"]), now).unwrap();
    assert_eq!(there(&follower), ["a=3"]);
    assert!(matches!(follower.take(heartbeat(12, 20), now), Ok(Step::Current)));
    assert_eq!(follower.begin(), 20, "a new stream goes on where this one ended");
    follower.take(delta(12, 21, vec![entry("c", 1, "1")], &[]), now).unwrap();
    assert_eq!(there(&follower), ["a=3", "c=1"]);
}

#[test]
fn what_came_already_changes_nothing() {
    let now = Instant::now();
    let mut follower = begun(vec![entry("a", 5, "5")]);
    for old in [delta(0, 10, vec![entry("a", 4, "4")], &[]), delta(3, 4, vec![], &["a"]), heartbeat(3, 4)] {
        assert!(matches!(follower.take(old, now), Ok(Step::Nothing)));
    }
    assert_eq!(there(&follower), ["a=5"]);
    assert_eq!(follower.revision(), 10);
}

#[test]
fn a_lost_change_is_noticed_by_the_next_word() {
    let now = Instant::now();
    for next in [delta(12, 13, vec![], &[]), heartbeat(12, 13)] {
        let mut follower = begun(vec![]);
        let fault = follower.take(next, now).unwrap_err();
        assert_eq!(fault, Fault::Missed { since: 12, have: 10 });
        assert_eq!(follower.begin(), 0, "a snapshot is asked for");
    }
}

#[test]
fn bad_order_is_a_fault_and_leaves_what_is_there() {
    let now = Instant::now();
    let part = || snapshot(11, vec![entry("z", 1, "1")], true);
    let cases: [(Vec<v1::WatchEvent>, Fault); 6] = [
        (vec![part(), delta(0, 12, vec![], &[])], Fault::InSnapshot),
        (vec![part(), snapshot(12, vec![], false)], Fault::SeveralSnapshots),
        (vec![snapshot(9, vec![], false)], Fault::Backwards { offered: 9, have: 10 }),
        (vec![v1::WatchEvent { event: None }], Fault::Malformed("an event is none")),
        (vec![delta(0, 11, vec![v1::Entry::default()], &[])], Fault::Malformed("an entry has no key")),
        (vec![delta(0, 11, vec![entry("big", 1, &"x".repeat(2 << 20))], &["a"])], Fault::TooLarge(1 << 20)),
    ];
    for (events, expected) in cases {
        let mut follower = begun(vec![entry("a", 1, "1")]);
        let last = events.into_iter().map(|event| follower.take(event, now)).last().unwrap();
        assert_eq!(last.unwrap_err(), expected);
        assert_eq!(there(&follower), ["a=1"], "{expected}");
        assert_eq!(follower.begin(), 0, "{expected}");
    }
    let mut unbegun = follower(Rules::default());
    unbegun.begin();
    assert!(matches!(unbegun.take(heartbeat(0, 3), now), Ok(Step::Nothing)));
    assert_eq!(unbegun.take(delta(0, 3, vec![], &[]), now).unwrap_err(), Fault::NoSnapshot);
}

#[test]
fn parts_without_an_end_are_bounded() {
    let mut follower = follower(Rules::default());
    follower.begin();
    let parts = (0..100_000).map(|number| snapshot(1, vec![entry(&number.to_string(), 1, "1")], true));
    let taken = parts.map(|part| follower.take(part, Instant::now())).take_while(Result::is_ok).count();
    assert!((1_000..5_000).contains(&taken), "{taken} parts of 1 MiB at the most");
    assert!(follower.parts.is_none());
}

#[test]
fn a_server_that_stays_behind_is_believed_after_a_minute() {
    let now = Instant::now();
    let mut follower = begun(vec![entry("a", 5, "5")]);
    let restored = || snapshot(3, vec![entry("a", 2, "2")], false);
    assert!(follower.take(restored(), now).is_err());
    assert!(follower.take(restored(), now + BACKWARDS_PATIENCE / 2).is_err());
    follower.take(restored(), now + BACKWARDS_PATIENCE).unwrap();
    assert_eq!((there(&follower), follower.begin()), (vec!["a=2".to_owned()], 3));
}

#[test]
fn what_is_rejected_leaves_the_last_good_value() {
    let now = Instant::now();
    let mut rules = Rules::default();
    let check = |proposal: &Proposal<'_>| match proposal.new {
        Some(new) if new.version % 2 == 0 => Err("odd ones only".to_owned()),
        None => Err("it is needed".to_owned()),
        Some(_) => Ok(()),
    };
    rules.add("a".to_owned(), true, Arc::new(check));
    let mut follower = follower(rules);
    follower.begin();
    follower.take(snapshot(1, vec![entry("a", 1, "1"), entry("b", 2, "2")], false), now).unwrap();
    let step = follower.take(delta(1, 2, vec![entry("a", 2, "2")], &["b"]), now).unwrap();
    let Step::Changed(view, reports) = step else { panic!("{step:?}") };
    assert_eq!(there(&follower), ["a=1"]);
    let rejections: Vec<_> = view.rejections().map(|(key, why)| (key, why.version)).collect();
    assert_eq!(rejections, [("a", 2)]);
    assert_eq!(reports[0].rejection.as_deref(), Some("odd ones only"));
    // Removed by a delta, and by a snapshot without it.
    follower.take(delta(2, 3, vec![], &["a"]), now).unwrap();
    follower.take(snapshot(4, vec![], false), now).unwrap();
    assert_eq!(there(&follower), ["a=1"]);
    // A good one clears what is said of the bad one.
    let step = follower.take(delta(4, 5, vec![entry("a", 3, "3")], &[]), now).unwrap();
    let Step::Changed(view, _) = step else { panic!("{step:?}") };
    assert_eq!((there(&follower), view.rejections().count()), (vec!["a=3".to_owned()], 0));
}

#[test]
fn an_equal_snapshot_is_no_change() {
    let mut follower = begun(vec![entry("a", 1, "1")]);
    let again = follower.take(snapshot(15, vec![entry("a", 1, "1")], false), Instant::now());
    assert!(matches!(again, Ok(Step::Current)));
    assert_eq!(follower.begin(), 15);
}
