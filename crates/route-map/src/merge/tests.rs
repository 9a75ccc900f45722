//! Updates that come late, twice and in the wrong order, and the lookups on
//! what they leave.

use insula_domain::{DatabaseTerms, Isolation, LoginId, Placement, TenantStatus};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

pub(crate) fn tenant(number: u128) -> TenantId {
    TenantId::from(Uuid::from_u128(number))
}

pub(crate) fn route(number: u128, slug: &str, revision: i64) -> Route {
    let placement =
        Placement::new(tenant(number), Isolation::Pool, "us-east-1-a".parse().unwrap(), Epoch::FIRST);
    Route {
        tenant: tenant(number),
        slug: slug.parse().unwrap(),
        parent: None,
        tier: "free".parse().unwrap(),
        region: "us-east-1".parse().unwrap(),
        status: TenantStatus::Active,
        placement: Some(placement),
        role_key_generation: 1,
        max_connections: Some(10),
        terms: DatabaseTerms::default(),
        hold: None,
        is_narrowed: false,
        goes_to: None,
        revision,
    }
}

fn at_epoch(mut route: Route, epoch: i64) -> Route {
    route.placement.as_mut().unwrap().epoch = Epoch(epoch);
    route
}

fn below(mut route: Route, parent: u128) -> Route {
    route.parent = Some(tenant(parent));
    route
}

pub(crate) fn login(number: u128, name: &str, of: u128, revision: i64) -> LoginRoute {
    LoginRoute {
        id: LoginId::from(Uuid::from_u128(number)),
        name: name.parse().unwrap(),
        tenant: tenant(of),
        verifier: "SCRAM-SHA-256$secret".into(),
        read_only: false,
        descendants: false,
        max_sessions: None,
        pool_mode: None,
        revision,
    }
}

fn endpoint(name: &str, port: u16, revision: i64) -> ClusterEndpoint {
    ClusterEndpoint {
        name: name.parse().unwrap(),
        host: "127.0.0.1".into(),
        port,
        tls: false,
        system_identifier: None,
        max_connections: None,
        revision,
    }
}

pub(crate) fn delta(revision: i64, tenants: Vec<Route>, logins: Vec<LoginRoute>) -> Update {
    Update::Delta {
        revision,
        rows: Rows { tenants, logins, endpoints: vec![], keys: None },
        removed_logins: vec![],
    }
}

fn removed(revision: i64, number: u128) -> Update {
    let removed_logins = vec![LoginId::from(Uuid::from_u128(number))];
    Update::Delta { revision, rows: Rows::default(), removed_logins }
}

fn after(updates: impl IntoIterator<Item = Update>) -> Snapshot {
    updates.into_iter().fold(Snapshot::default(), |snapshot, update| merge(&snapshot, update).0)
}

#[test]
fn an_older_row_never_replaces_a_newer_one() {
    let updates = [(5, "new"), (4, "old"), (5, "same")]
        .map(|(revision, slug)| delta(revision, vec![route(1, slug, revision)], vec![]));
    let snapshot = after(updates);
    assert_eq!(snapshot.route(tenant(1)).unwrap().slug.as_str(), "new");
    assert!(snapshot.route_by_slug("new").is_some() && snapshot.route_by_slug("old").is_none());
    assert_eq!(snapshot.revision(), 5);
}

#[test]
fn an_epoch_never_goes_back() {
    let before = after([delta(1, vec![at_epoch(route(1, "a", 1), 7)], vec![])]);
    let (snapshot, applied) = merge(&before, delta(2, vec![at_epoch(route(1, "a", 2), 6)], vec![]));
    assert_eq!(snapshot.route(tenant(1)).unwrap().placement.as_ref().unwrap().epoch, Epoch(7));
    assert_eq!(
        applied.refused,
        [Refused::EpochWentBack { tenant: tenant(1), known: Epoch(7), offered: Epoch(6) }]
    );
    assert!(applied.tenants.is_empty());
}

#[test]
fn a_rename_frees_the_slug_and_a_deleted_tenant_has_none() {
    let mut gone = route(1, "b", 3);
    gone.status = TenantStatus::Deleted;
    let snapshot = after([
        delta(1, vec![route(1, "a", 1)], vec![]),
        delta(2, vec![route(1, "b", 2), route(2, "a", 2)], vec![]),
    ]);
    assert_eq!(snapshot.route_by_slug("a").unwrap().tenant, tenant(2));
    assert_eq!(snapshot.route_by_slug("b").unwrap().tenant, tenant(1));
    let (snapshot, _) = merge(&snapshot, delta(3, vec![gone], vec![]));
    assert!(snapshot.route_by_slug("b").is_none());
    assert!(snapshot.route(tenant(1)).is_some(), "a late older row must not revive it");
}

#[test]
fn a_removed_login_stays_removed() {
    let snapshot = after([delta(1, vec![], vec![login(9, "acme", 1, 1)]), removed(3, 9)]);
    assert!(snapshot.login("acme").is_none());
    let (snapshot, applied) = merge(&snapshot, delta(2, vec![], vec![login(9, "acme", 1, 2)]));
    assert!(snapshot.login("acme").is_none() && applied.tenants.is_empty());
    // What is newer than the removal counts again; an older removal does not.
    let snapshot = after([delta(4, vec![], vec![login(9, "acme", 1, 4)]), removed(3, 9)]);
    assert!(snapshot.login("acme").is_some());
}

#[test]
fn a_whole_state_removes_what_is_absent_but_nothing_newer() {
    let before = after([delta(
        9,
        vec![route(1, "old", 2), route(2, "newer", 9), route(3, "stays", 3)],
        vec![login(1, "old", 1, 2), login(2, "newer", 2, 9)],
    )]);
    let rows = Rows { tenants: vec![route(3, "stays", 3)], logins: vec![], endpoints: vec![], keys: None };
    let (snapshot, applied) = merge(&before, Update::Whole { revision: 5, rows });
    assert!(snapshot.route_by_slug("old").is_none() && snapshot.login("old").is_none());
    assert!(snapshot.route_by_slug("newer").is_some() && snapshot.login("newer").is_some());
    assert!(snapshot.route_by_slug("stays").is_some());
    assert_eq!(applied.tenants, HashSet::from([tenant(1)]));
    assert_eq!(snapshot.revision(), 9, "a late whole state does not turn the revision back");
}

#[test]
fn clusters_change_by_revision_too() {
    let rows = |port, revision| Rows { endpoints: vec![endpoint("c", port, revision)], ..Rows::default() };
    let update = |port, revision| Update::Whole { revision, rows: rows(port, revision) };
    let snapshot = after([update(1, 1), update(3, 3), update(2, 2)]);
    assert_eq!(snapshot.endpoint(&"c".parse().unwrap()).unwrap().port, 3);
    let (snapshot, applied) = merge(&snapshot, Update::Whole { revision: 4, rows: Rows::default() });
    assert!(snapshot.endpoint(&"c".parse().unwrap()).is_none());
    assert_eq!(applied.endpoints, 1);
}

#[test]
fn paths_go_from_parent_to_child_alone() {
    let tree = vec![
        route(1, "acme", 1),
        below(route(2, "child", 1), 1),
        below(route(3, "grandchild", 1), 2),
        route(4, "globex", 1),
        below(route(5, "loop-a", 1), 6),
        below(route(6, "loop-b", 1), 5),
    ];
    let snapshot = after([delta(1, tree, vec![])]);
    let find = |path: &[&str]| snapshot.descendant(tenant(1), path.iter().copied()).map(|route| route.tenant);
    assert_eq!(find(&[]), Some(tenant(1)));
    assert_eq!(find(&["child"]), Some(tenant(2)));
    assert_eq!(find(&["child", "grandchild"]), Some(tenant(3)));
    for wrong in
        [&["grandchild"][..], &["globex"], &["acme"], &["child", "child"], &["child", "", "grandchild"]]
    {
        assert_eq!(find(wrong), None, "{wrong:?}");
    }
    assert!(snapshot.is_within(tenant(3), tenant(1)) && snapshot.is_within(tenant(1), tenant(1)));
    assert!(!snapshot.is_within(tenant(1), tenant(3)) && !snapshot.is_within(tenant(4), tenant(1)));
    assert!(!snapshot.is_within(tenant(5), tenant(1)), "a cycle ends");
}

#[test]
fn debug_shows_no_verifier() {
    let snapshot = after([delta(1, vec![], vec![login(1, "acme", 1, 1)])]);
    assert!(!format!("{snapshot:?}").contains("secret"));
}

proptest! {
    /// The same deltas in any order, some of them twice, give the same state.
    #[test]
    fn the_order_of_deltas_does_not_matter(
        rows in proptest::collection::vec((1_u128..5, 1_i64..30), 1..20),
        shuffled in any::<prop::sample::Index>(),
    ) {
        let update = |(number, revision): (u128, i64)| {
            let slug = format!("t{number}-r{revision}");
            // The epoch grows with the revision, as the catalog writes it.
            delta(revision, vec![at_epoch(route(number, &slug, revision), revision)], vec![])
        };
        let mut other = rows.clone();
        other.rotate_left(shuffled.index(rows.len()));
        other.reverse();
        other.extend(rows.first().copied());
        let (a, b) = (after(rows.into_iter().map(update)), after(other.into_iter().map(update)));
        prop_assert_eq!(a.routes, b.routes);
        prop_assert_eq!(a.slugs, b.slugs);
        prop_assert_eq!(a.revision, b.revision);
    }
}
