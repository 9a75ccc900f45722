//! Changes against watched tenants, and at random against a slow model.

use std::collections::BTreeSet;

use insula_config_model::{ConfigValue, Plan, Share};
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;

fn tenant(number: u128) -> TenantId {
    TenantId::from(Uuid::from_u128(number))
}

fn scope(text: &str) -> Scope {
    match text.strip_prefix('t') {
        Some(number) if number.parse::<u128>().is_ok() => Scope::Tenant(tenant(number.parse().unwrap())),
        _ => text.parse().unwrap(),
    }
}

/// A version of a key; an empty text is a removal.
fn change(revision: Revision, at: &str, key: &str, text: &'static str) -> Change {
    let value = (!text.is_empty()).then(|| ConfigValue::Json(Bytes::from_static(text.as_bytes())));
    let stored = Stored {
        scope: scope(at),
        key: key.parse().unwrap(),
        version: revision,
        revision,
        value,
        labels: BTreeSet::new(),
        author: String::new(),
        at: OffsetDateTime::UNIX_EPOCH,
        note: String::new(),
    };
    let (scope, key) = (stored.scope.clone(), stored.key.clone());
    Change { revision, scope, key, news: News::Version(revision, Item::of(stored)) }
}

fn item(change: Change) -> Option<Item> {
    match change.news {
        News::Version(_, item) => item,
        News::Rollout(_) => None,
    }
}

fn values(at: Revision, items: impl IntoIterator<Item = Item>) -> Values {
    let items = items.into_iter().map(|item| (item.stored.key.clone(), item)).collect();
    Values { at, items, stages: BTreeMap::new() }
}

/// That a version is being rolled out, to those who are named, and one in
/// 10,000 of the others.
fn rollout(revision: Revision, at: &str, key: &str, candidate: Version, named: &[u128]) -> Change {
    let (scope, key): (Scope, ConfigKey) = (scope(at), key.parse().unwrap());
    let plan = Plan {
        steps: vec![Share::of_percent(0.01).unwrap(), Share::ALL],
        tenants: named.iter().copied().map(tenant).collect(),
        bake_seconds: 0,
        rejections: 0,
        confirmations: 0,
    };
    let rollout = Rollout::begin(plan, (&scope, &key), candidate, OffsetDateTime::UNIX_EPOCH);
    Change { revision, scope, key, news: News::Rollout(Some(Arc::new(rollout))) }
}

/// That nothing is being rolled out any more.
fn ended(revision: Revision, at: &str, key: &str) -> Change {
    Change { revision, scope: scope(at), key: key.parse().unwrap(), news: News::Rollout(None) }
}

fn lineage(number: u128, ancestors: &[u128]) -> Lineage {
    Lineage {
        tenant: tenant(number),
        region: "eu-west-1".parse().unwrap(),
        tier: "free".parse().unwrap(),
        ancestors: ancestors.iter().copied().map(tenant).collect(),
    }
}

/// Tenant 1, with 2 below it and 3 below that, and 9 on its own.
fn watched() -> State {
    let mut state = State::default();
    for lineage in [lineage(1, &[]), lineage(2, &[1]), lineage(3, &[2, 1]), lineage(9, &[])] {
        for scope in lineage.scopes() {
            if state.presence(&scope) == Presence::Absent {
                let load = state.begin(&scope);
                state.load(&scope, load, values(0, []));
            }
        }
        state.watch(lineage);
    }
    state
}

fn text(item: &Item) -> String {
    match &item.stored.value {
        Some(ConfigValue::Json(json)) => String::from_utf8(json.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Who is told what: `tenant:key=value`, or `tenant:key` for a removal.
fn told(meanings: &[Meaning]) -> BTreeSet<String> {
    let one = |tenant: TenantId, single: &Single| {
        let number = tenant.as_uuid().as_u128();
        match &single.item {
            Some(item) => format!("{number}:{}={}", single.key, text(item)),
            None => format!("{number}:{}", single.key),
        }
    };
    meanings.iter().flat_map(|meaning| meaning.told.single.iter().map(|s| one(meaning.tenant, s))).collect()
}

fn all(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|one| (*one).to_owned()).collect()
}

const KEY: &str = "tenant_config_a";

#[test]
fn a_change_reaches_those_who_have_nothing_closer() {
    let mut state = watched();
    let mut apply = |revision, at, text| told(&state.apply(&[change(revision, at, KEY, text)], revision));
    let everybody = |value: &str| (["1", "2", "3", "9"]).map(|t| format!("{t}:{KEY}={value}")).into();
    assert_eq!(apply(1, "platform", "1"), everybody("1"));
    assert_eq!(apply(2, "region/eu-west-1", "2"), everybody("2"));
    assert_eq!(apply(3, "tier/free", "3"), everybody("3"));
    assert_eq!(apply(4, "platform", "4"), all(&[]), "all have something closer");
    assert_eq!(apply(5, "t2", "5"), all(&["2:tenant_config_a=5", "3:tenant_config_a=5"]));
    assert_eq!(apply(6, "t1", "6"), all(&["1:tenant_config_a=6"]), "2 and 3 have something closer");
    assert_eq!(apply(7, "tier/free", "7"), all(&["9:tenant_config_a=7"]));
    // What a removal uncovers is shown again.
    assert_eq!(apply(8, "t2", ""), all(&["2:tenant_config_a=6", "3:tenant_config_a=6"]));
    assert_eq!(apply(9, "t1", ""), (["1", "2", "3"]).map(|t| format!("{t}:{KEY}=7")).into());
    assert_eq!(apply(10, "tier/free", ""), everybody("2"));
    assert_eq!(apply(11, "region/eu-west-1", ""), everybody("4"));
    assert_eq!(apply(12, "platform", ""), (["1", "2", "3", "9"]).map(|t| format!("{t}:{KEY}")).into());
    assert_eq!(apply(13, "platform", ""), all(&[]), "nothing was there");
    assert_eq!(apply(14, "region/us-east-1", "x"), all(&[]), "another region");
}

#[test]
fn what_was_given_in_confidence_is_not_for_those_below() {
    let mut state = watched();
    let secret = "secret_config_smtp";
    let said = told(&state.apply(&[change(1, "t1", secret, "1")], 1));
    assert_eq!(said, all(&["1:secret_config_smtp=1"]));
    assert_eq!(state.seen(tenant(2)).len(), 0);
    // Canary: what is inherited is for them.
    let said = told(&state.apply(&[change(2, "t1", KEY, "1")], 2));
    assert_eq!(said.len(), 3);
    assert_eq!(state.seen(tenant(2)).len(), 1);
}

#[test]
fn what_everybody_sees_is_encoded_once() {
    let mut state = watched();
    let meanings = state.apply(&[change(1, "platform", KEY, "1")], 1);
    assert_eq!(meanings.len(), 4);
    assert!(meanings.iter().all(|meaning| Arc::ptr_eq(&meaning.told, &meanings[0].told)));
    let meanings =
        state.apply(&[change(2, "platform", "tenant_config_b", "1"), change(3, "t9", KEY, "2")], 3);
    let of = |number| meanings.iter().find(|meaning| meaning.tenant == tenant(number)).unwrap();
    assert!(Arc::ptr_eq(&of(1).told, &of(2).told) && !Arc::ptr_eq(&of(1).told, &of(9).told));
    assert_eq!(of(9).told.single.len(), 2);
}

#[test]
fn changes_during_a_load_are_neither_lost_nor_undone() {
    let mut state = State::default();
    let line = lineage(1, &[]);
    let overtaken: Vec<u64> = line.scopes().iter().map(|scope| state.begin(scope)).collect();
    let loads: Vec<u64> = line.scopes().iter().map(|scope| state.begin(scope)).collect();
    let loaded = |revision| item(change(revision, "t1", KEY, "5"));
    // Three changes come; the load has seen the first and the second.
    let changes =
        [change(4, "t1", KEY, "4"), change(5, "t1", KEY, "5"), change(6, "t1", "tenant_config_b", "6")];
    assert!(state.apply(&changes, 6).is_empty());
    for ((scope, load), before) in line.scopes().into_iter().zip(loads).zip(overtaken) {
        state.load(&scope, before, values(3, loaded(3)));
        assert_eq!(state.presence(&scope), Presence::Loading, "a load that was overtaken");
        let items = if scope.tenant().is_some() { loaded(5) } else { None };
        state.load(&scope, load, values(5, items));
    }
    state.watch(line);
    let seen: Vec<String> = state.seen(tenant(1)).iter().map(text).collect();
    assert_eq!(seen, ["5", "6"]);
    // What the load has seen already is not told again, what it has not is.
    assert!(state.apply(&[change(4, "t1", KEY, "4")], 6).is_empty());
    assert_eq!(told(&state.apply(&[change(7, "t1", KEY, "7")], 7)), all(&["1:tenant_config_a=7"]));
    state.forget(tenant(1));
    assert_eq!((state.bytes(), state.scopes.len(), state.watching.len()), (0, 0, 0), "nothing is left");
}

#[test]
fn a_version_that_is_rolled_out_is_seen_by_those_whom_it_reaches() {
    let mut state = watched();
    let of = |state: &State, number| state.seen(tenant(number)).first().map(text);
    let seen = |state: &State| [of(state, 1), of(state, 2), of(state, 3), of(state, 9)].map(Option::unwrap);
    state.apply(&[change(1, "platform", KEY, "1")], 1);
    // Where it is comes before what it is about, here in two batches.
    assert_eq!(told(&state.apply(&[rollout(2, "platform", KEY, 3, &[9])], 2)), all(&[]));
    assert_eq!(told(&state.apply(&[change(3, "platform", KEY, "3")], 3)), all(&["9:tenant_config_a=3"]));
    assert_eq!(seen(&state), ["1", "1", "1", "3"]);
    // A step tells those whom it adds, and nobody else.
    let step = rollout(4, "platform", KEY, 3, &[9, 2]);
    assert_eq!(told(&state.apply(&[step], 4)), all(&["2:tenant_config_a=3"]));
    // What is closer counts, whatever is rolled out further away.
    state.apply(&[change(5, "t2", KEY, "5")], 5);
    assert_eq!(seen(&state), ["1", "5", "5", "3"]);
    // Taken back: the value first, and then that it is.
    let said = told(&state.apply(&[change(6, "platform", KEY, "1"), ended(7, "platform", KEY)], 7));
    assert_eq!(said, all(&["1:tenant_config_a=1", "9:tenant_config_a=1"]));
    assert_eq!(seen(&state), ["1", "5", "5", "1"]);
    // Canary: without its rollout a version is everybody's.
    state.apply(&[change(8, "platform", KEY, "8")], 8);
    assert_eq!(seen(&state), ["8", "5", "5", "8"]);
}

#[test]
fn what_is_removed_in_stages_stays_for_the_others() {
    let mut state = watched();
    state.apply(&[change(1, "region/eu-west-1", KEY, "1"), change(2, "tier/free", KEY, "2")], 2);
    let said = state.apply(&[rollout(3, "tier/free", KEY, 4, &[1]), change(4, "tier/free", KEY, "")], 4);
    assert_eq!(told(&said), all(&["1:tenant_config_a=1"]), "what is further away shows");
    let seen = |state: &State, number| state.seen(tenant(number)).first().map(text);
    assert_eq!((seen(&state, 1), seen(&state, 9)), (Some("1".to_owned()), Some("2".to_owned())));
    // What is new where nothing was is seen by nobody else.
    let new = "tenant_config_b";
    let said = state.apply(&[rollout(5, "platform", new, 6, &[9]), change(6, "platform", new, "6")], 6);
    assert_eq!(told(&said), all(&["9:tenant_config_b=6"]));
    assert_eq!((state.seen(tenant(1)).len(), state.seen(tenant(9)).len()), (1, 2));
    // A write of another version ends it: it counts for all.
    let said = state.apply(&[change(7, "platform", new, "7")], 7);
    assert_eq!(told(&said).len(), 4);
}

#[test]
fn a_version_that_came_before_its_rollout_is_read_again() {
    let mut state = watched();
    let of = |change: &Change| match &change.news {
        News::Rollout(Some(rollout)) => rollout.clone(),
        other => panic!("{other:?}"),
    };
    let lacks = |state: &State, late: &Change, taken: &[Change]| {
        state.lacks_before(&late.scope, &late.key, &of(late), taken)
    };
    let late = rollout(3, "platform", KEY, 2, &[9]);
    assert!(!lacks(&state, &late, &[]), "it is still to come");
    assert!(lacks(&state, &late, &[change(2, "platform", KEY, "2")]));
    state.apply(&[rollout(1, "platform", KEY, 2, &[9]), change(2, "platform", KEY, "2")], 2);
    assert!(!lacks(&state, &late, &[]), "a later step");
    state.apply(&[change(4, "platform", KEY, "4")], 4);
    assert!(lacks(&state, &rollout(5, "platform", KEY, 4, &[]), &[]));
}

/// A stream of numbers that only looks random.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

#[test]
fn whoever_follows_the_changes_has_what_a_snapshot_has() {
    const SCOPES: [&str; 7] = ["platform", "region/eu-west-1", "tier/free", "t1", "t2", "t3", "t9"];
    const KEYS: [&str; 3] = [KEY, "tenant_config_b", "secret_config_c"];
    const VALUES: [&str; 4] = ["1", "2", "3", ""];
    let mut seed = 42;
    let mut state = watched();
    let mut followed: HashMap<TenantId, BTreeMap<ConfigKey, String>> = HashMap::new();
    let mut revision = 0;
    // Per place the texts of the newest version and of the one before, and to
    // whom the newest is rolled out.
    type Known = (&'static str, &'static str, Option<Arc<Rollout>>);
    let mut model: BTreeMap<(&str, &str), Known> = BTreeMap::new();
    for _ in 0..3_000 {
        let mut batch = Vec::new();
        for _ in 0..=next(&mut seed) % 4 {
            revision += 1;
            let mut pick = |from: usize| usize::try_from(next(&mut seed)).unwrap() % from;
            let (at, key) = (SCOPES[pick(SCOPES.len())], KEYS[pick(KEYS.len())]);
            let known = model.entry((at, key)).or_insert(("", "", None));
            let named: Vec<u128> = [1, 2, 3, 9].into_iter().filter(|_| pick(2) == 0).collect();
            let what = pick(6);
            if what == 0 && known.2.is_some() {
                known.2 = None;
                batch.push(ended(revision, at, key));
                continue;
            }
            let text = VALUES[pick(VALUES.len())];
            let is_staged = what < 3;
            if is_staged {
                batch.push(rollout(revision, at, key, revision + 1, &named));
                revision += 1;
            }
            let staged = batch.last().filter(|_| is_staged).and_then(|change| match &change.news {
                News::Rollout(rollout) => rollout.clone(),
                News::Version(..) => None,
            });
            *known = (text, known.0, staged);
            batch.push(change(revision, at, key, text));
        }
        for meaning in state.apply(&batch, revision) {
            let own = followed.entry(meaning.tenant).or_default();
            for single in &meaning.told.single {
                match &single.item {
                    Some(item) => own.insert(single.key.clone(), text(item)),
                    None => own.remove(&single.key),
                };
            }
        }
        for number in [1, 2, 3, 9] {
            let seen: BTreeMap<ConfigKey, String> =
                state.seen(tenant(number)).iter().map(|item| (item.stored.key.clone(), text(item))).collect();
            let own = followed.entry(tenant(number)).or_default();
            assert_eq!(*own, seen, "tenant {number} at {revision}");
            let closest = |key: &str| {
                let scopes: Vec<String> = state
                    .lineage(tenant(number))
                    .unwrap()
                    .scopes()
                    .iter()
                    .rev()
                    .map(ToString::to_string)
                    .collect();
                let texts = scopes.iter().filter_map(|at| {
                    let place = SCOPES.iter().find(|name| scope(name).to_string() == *at)?;
                    let is_others =
                        place.starts_with('t') && *place != format!("t{number}") && !place.contains('/');
                    let (newest, before, staged) = model.get(&(*place, key))?;
                    let is_held = staged.as_ref().is_some_and(|rollout| !rollout.reaches(tenant(number)));
                    let text = if is_held { before } else { newest };
                    let is_hidden = is_others && key.starts_with("secret_");
                    (!text.is_empty() && !is_hidden).then(|| (*text).to_owned())
                });
                texts.into_iter().next()
            };
            let wanted: BTreeMap<ConfigKey, String> =
                KEYS.iter().filter_map(|key| Some((key.parse().unwrap(), closest(key)?))).collect();
            assert_eq!(seen, wanted, "tenant {number} at {revision}");
        }
    }
}
