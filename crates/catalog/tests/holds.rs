//! Holds on a real PostgreSQL: who may set one, how fast fronts are told, and
//! that nobody is waited for who is gone.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use insula_catalog::{Acknowledged, Author, Catalog, HoldOf, HoldWatch, follow_routes, report_holds};
use insula_domain::{Epoch, Isolation, MoveStatus, OperationId, TenantId};
use insula_route_map::{Hold, HoldReport, RouteMap};
use insula_sql_store::{Connector, PoolSize};
use insula_testkit::TestDatabase;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

const MOVE: Uuid = Uuid::from_u128(8);

/// An end of the move, as far as fronts are told of it.
fn end(cluster: &str, isolation: &str, database: &str) -> Value {
    json!({"cluster": cluster, "isolation": isolation, "database": database})
}

/// A catalog with one tenant, which moves.
struct House {
    catalog: Catalog,
    tenant: TenantId,
    database: TestDatabase,
}

impl House {
    async fn new() -> Self {
        let database = TestDatabase::create("holds").await;
        let catalog = Catalog::new(Connector::new(&database.url(), None).unwrap(), PoolSize(4));
        catalog.migrate().await.unwrap();
        let tenant = TenantId::from(Uuid::from_u128(7));
        let admin = database.connect().await;
        // Only what routes are made of.
        let sql = format!(
            "set session_replication_role = replica;
             insert into plans (name) values ('p');
             insert into tiers (name, isolation, user_pool, plan, position) values ('t', 'pool', 'shared', 'p', 1);
             insert into tenants (id, slug, name, tier, region, residency, status, key_generation, created_at)
             values ('{tenant}', 'acme', 'Acme', 't', 'r', 'g', 'active', 1, now());
             insert into placements (tenant_id, cluster, isolation, database, schema, role, epoch)
             values ('{tenant}', 'c', 'pool', 'insula_pool', 'app', 'insula_t_x', 1);
             insert into moves (id, tenant_id, status, operation, source, target, terms, created_at)
             values ('{MOVE}', '{tenant}', 'running', '{MOVE}', '{}', '{}', '{{}}', now());",
            end("c", "pool", "insula_pool"),
            end("d", "database", "insula_t_7"),
        );
        admin.batch_execute(&sql).await.unwrap();
        Self { catalog, tenant, database }
    }

    /// Of the first try.
    fn of(&self, epoch: i64) -> HoldOf {
        HoldOf { tenant_move: OperationId::from(MOVE), number: 0, tenant: self.tenant, epoch: Epoch(epoch) }
    }

    async fn set_hold(&self, epoch: i64, hold: u128) -> bool {
        let client = self.catalog.client().await.unwrap();
        let within = Duration::from_secs(1);
        client.set_hold(&self.of(epoch), Uuid::from_u128(hold), within).await.unwrap()
    }

    async fn clear_hold(&self, epoch: i64) -> bool {
        let client = self.catalog.client().await.unwrap();
        client.clear_hold(&self.of(epoch)).await.unwrap()
    }

    async fn watch(&self, hold: u128) -> HoldWatch {
        HoldWatch::open(&self.catalog, Uuid::from_u128(hold)).await.unwrap()
    }

    async fn until_live(&self, fronts: &[&Front]) {
        let wanted: BTreeSet<Uuid> = fronts.iter().map(|front| front.number).collect();
        let watch = self.watch(0).await;
        let live = async {
            while watch.live_fronts().await.unwrap() != wanted {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, live).await.expect("the fronts are seen");
    }
}

/// What a front has to do with holds, without clients.
struct Front {
    number: Uuid,
    map: Arc<RouteMap>,
    reports: mpsc::Sender<HoldReport>,
    _stop: DropGuard,
}

impl Front {
    async fn start(house: &House, number: u128) -> Self {
        let (number, map, stop) =
            (Uuid::from_u128(number), Arc::new(RouteMap::new()), CancellationToken::new());
        let (reports, receiver) = mpsc::channel(16);
        tokio::spawn(follow_routes(house.catalog.clone(), Arc::clone(&map), Some(number), stop.clone()));
        tokio::spawn(report_holds(house.catalog.clone(), number, receiver, stop.clone()));
        timeout(PATIENCE, map.ready()).await.unwrap();
        Self { number, map, reports, _stop: stop.drop_guard() }
    }

    /// Waits until the tenant is held so, or not at all.
    async fn until_held(&self, house: &House, hold: Option<u128>) {
        let wanted = hold.map(Uuid::from_u128);
        let mut changed = self.map.changed();
        let held = || self.map.snapshot().route(house.tenant).unwrap().hold.map(|hold| hold.id);
        let told = async {
            while held() != wanted {
                changed.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, told).await.expect("the front is told");
    }

    async fn says(&self, report: HoldReport) {
        self.reports.send(report).await.unwrap();
    }

    async fn is_quiet(&self, hold: u128) {
        self.says(HoldReport::Quiet { hold: Uuid::from_u128(hold) }).await;
    }
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

#[tokio::test]
async fn a_hold_is_set_once_and_on_the_placement_that_is_meant() {
    let house = House::new().await;
    let front = Front::start(&house, 1).await;
    assert!(!house.set_hold(2, 1).await, "another placement");
    assert!(house.set_hold(1, 1).await && house.set_hold(1, 1).await, "again, by the same");
    assert!(!house.set_hold(1, 2).await, "another hold");
    front.until_held(&house, Some(1)).await;
    let held: Vec<_> = front.map.snapshot().holds().collect();
    assert_eq!(held, [(house.tenant, Hold { id: Uuid::from_u128(1), within: Duration::from_secs(1) })]);
    assert!(!house.clear_hold(2).await, "another placement");
    front.until_held(&house, Some(1)).await;
    assert!(house.clear_hold(1).await && !house.clear_hold(1).await);
    front.until_held(&house, None).await;
    assert_eq!(front.map.snapshot().holds().count(), 0);
    assert!(house.set_hold(1, 2).await);
}

#[tokio::test]
async fn fronts_are_told_to_narrow_while_a_move_is_under_way() {
    let house = House::new().await;
    let front = Front::start(&house, 1).await;
    let client = house.catalog.client().await.unwrap();
    let of = OperationId::from(MOVE);
    let narrow = async |epoch| client.narrow(house.tenant, Epoch(epoch), of).await.unwrap();
    let until = async |is_narrowed| {
        let mut changed = front.map.changed();
        let told = async {
            while front.map.snapshot().route(house.tenant).unwrap().is_narrowed != is_narrowed {
                changed.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, told).await.expect("the front is told");
    };
    let admin = house.database.connect().await;
    let narrowed = async || {
        let query = "select count(*) from placements where narrowed";
        admin.query_one(query, &[]).await.unwrap().get::<_, i64>(0) == 1
    };
    narrow(2).await;
    assert!(!narrowed().await, "by one that does not know where the tenant is by now");
    let goes_to = || {
        let place = front.map.snapshot().route(house.tenant).unwrap().goes_to.clone();
        place.map(|place| (place.cluster.to_string(), place.isolation, place.database.to_string()))
    };
    for (status, place) in [
        ("running", ("d".to_owned(), Isolation::Database, "insula_t_7".to_owned())),
        ("rolling_back", ("c".to_owned(), Isolation::Pool, "insula_pool".to_owned())),
    ] {
        assert_eq!(goes_to(), None);
        let sql = format!("update moves set status = '{status}' where id = '{MOVE}'");
        admin.batch_execute(&sql).await.unwrap();
        narrow(1).await;
        until(true).await;
        assert_eq!(goes_to(), Some(place));
        client.widen(house.tenant).await.unwrap();
        until(false).await;
    }
    assert_eq!(goes_to(), None);
    admin.batch_execute(&format!("update moves set status = 'running' where id = '{MOVE}'")).await.unwrap();

    // One that comes while the move ends waits for that, and is late then.
    for ends in [false, true] {
        let mut ending = house.catalog.client().await.unwrap();
        let change = ending.change(Author::new("test", OffsetDateTime::UNIX_EPOCH)).await.unwrap();
        change.set_move_status(of, MoveStatus::Failed, of).await.unwrap();
        let narrowing = narrow(1);
        tokio::pin!(narrowing);
        let waiting =
            "select from pg_stat_activity where wait_event_type = 'Lock' and query like '%going_on%'
                       and datname = current_database() and pid <> pg_backend_pid()";
        let until_waiting = async {
            while admin.query(waiting, &[]).await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = &mut narrowing => panic!("it has not waited"),
            waited = timeout(PATIENCE, until_waiting) => waited.unwrap(),
        }
        if ends {
            change.audit("tenant.move.undone", Some(house.tenant), "acme", &json!({})).await.unwrap();
            change.commit().await.unwrap();
        } else {
            drop(change);
        }
        narrowing.await;
        assert_eq!(narrowed().await, !ends);
        client.widen(house.tenant).await.unwrap();
    }

    // Who ends a move widens.
    admin.batch_execute(&format!("update moves set status = 'running' where id = '{MOVE}'")).await.unwrap();
    narrow(1).await;
    assert!(narrowed().await, "canary");
    let mut ending = house.catalog.client().await.unwrap();
    let change = ending.change(Author::new("test", OffsetDateTime::UNIX_EPOCH)).await.unwrap();
    change.set_move_status(of, MoveStatus::Failed, of).await.unwrap();
    change.audit("tenant.move.undone", Some(house.tenant), "acme", &json!({})).await.unwrap();
    change.commit().await.unwrap();
    assert!(!narrowed().await);
    until(false).await;
}

#[tokio::test]
async fn only_the_last_try_holds_a_tenant_and_lets_it_go() {
    let house = House::new().await;
    let (client, within) = (house.catalog.client().await.unwrap(), Duration::from_secs(1));
    let next = async || {
        let number = client.next_try(OperationId::from(MOVE)).await.unwrap().unwrap().number;
        HoldOf { number, ..house.of(1) }
    };
    let (late, last) = (next().await, next().await);
    let (one_hold, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    assert!(!client.set_hold(&late, one_hold, within).await.unwrap(), "of a try that was taken back");
    assert!(client.set_hold(&last, other, within).await.unwrap(), "canary");
    assert!(!client.clear_hold(&late).await.unwrap(), "the hold of a later try");
    assert!(client.clear_hold(&last).await.unwrap(), "canary");

    // One that comes while the next try begins waits for it, and is late then.
    let beginning = house.database.connect().await;
    beginning
        .batch_execute(&format!("begin; update moves set try = try + 1 where id = '{MOVE}'"))
        .await
        .unwrap();
    let setting = client.set_hold(&last, one_hold, within);
    tokio::pin!(setting);
    let waiting = "select from pg_stat_activity where wait_event_type = 'Lock' and query like '%hold_id%'
                   and datname = current_database() and pid <> pg_backend_pid()";
    let admin = house.database.connect().await;
    let until_waiting = async {
        while admin.query(waiting, &[]).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        set = &mut setting => panic!("it has not waited: {set:?}"),
        waited = timeout(PATIENCE, until_waiting) => waited.unwrap(),
    }
    beginning.batch_execute("commit").await.unwrap();
    assert!(!setting.await.unwrap());
    assert!(!client.clear_hold(&next().await).await.unwrap(), "nobody is held");
}

#[tokio::test]
async fn every_front_that_is_told_has_to_say_so_and_none_that_is_gone() {
    let house = House::new().await;
    let (quick, slow) = (Front::start(&house, 1).await, Front::start(&house, 2).await);
    house.until_live(&[&quick, &slow]).await;
    let mut watch = house.watch(5).await;
    assert!(house.set_hold(1, 5).await);
    let fronts = watch.live_fronts().await.unwrap();
    assert_eq!(fronts.len(), 2);
    for front in [&quick, &slow] {
        front.until_held(&house, Some(5)).await;
    }
    quick.is_quiet(5).await;
    // What is said of another hold is not taken for this one.
    slow.is_quiet(4).await;
    let short = Instant::now() + Duration::from_millis(200);
    let missing = watch.acknowledged(&fronts, short).await.unwrap();
    assert_eq!(missing, Acknowledged::NotBy(vec![slow.number]), "the one that never does");
    slow.is_quiet(5).await;
    assert_eq!(watch.acknowledged(&fronts, soon()).await.unwrap(), Acknowledged::ByAll);
    // One that dies meanwhile is not waited for.
    let mut watch = house.watch(6).await;
    assert!(house.clear_hold(1).await && house.set_hold(1, 6).await);
    quick.is_quiet(6).await;
    let dies = async {
        drop(slow);
    };
    let (acknowledged, ()) = tokio::join!(watch.acknowledged(&fronts, soon()), dies);
    assert_eq!(acknowledged.unwrap(), Acknowledged::ByAll);
    house.until_live(&[&quick]).await;
}

#[tokio::test]
async fn what_fronts_have_measured_comes_with_the_release() {
    let house = House::new().await;
    let front = Front::start(&house, 1).await;
    let mut watch = house.watch(5).await;
    let fronts = BTreeSet::from([front.number]);
    let longest_wait = Duration::from_micros(1_234);
    front.says(HoldReport::Released { hold: Uuid::from_u128(5), longest_wait, clients: 3 }).await;
    let released = watch.released(&fronts, soon()).await.unwrap();
    assert_eq!(released.len(), 1);
    assert_eq!(
        (released[0].front, released[0].longest_wait, released[0].clients),
        (front.number, longest_wait, 3)
    );
}

#[tokio::test]
async fn reports_find_their_way_after_the_connection_was_lost() {
    let house = House::new().await;
    let front = Front::start(&house, 1).await;
    let mut watch = house.watch(5).await;
    let fronts = BTreeSet::from([front.number]);
    front.is_quiet(5).await;
    assert_eq!(watch.acknowledged(&fronts, soon()).await.unwrap(), Acknowledged::ByAll);
    let admin = house.database.connect().await;
    let sql = "select pg_terminate_backend(pid, 20000) from pg_stat_activity
               where application_name = 'insula-holds' and datname = current_database()";
    assert_eq!(admin.query(sql, &[]).await.unwrap().len(), 1);
    let longest_wait = Duration::ZERO;
    front.says(HoldReport::Released { hold: Uuid::from_u128(5), longest_wait, clients: 0 }).await;
    assert_eq!(watch.released(&fronts, soon()).await.unwrap().len(), 1);
}

/// How long it takes until a front knows. To be looked at, and generous.
#[tokio::test]
async fn a_front_is_told_at_once() {
    let house = House::new().await;
    let front = Front::start(&house, 1).await;
    house.until_live(&[&front]).await;
    let mut took = Vec::new();
    for hold in 1..=50 {
        let client = house.catalog.client().await.unwrap();
        let began = Instant::now();
        let within = Duration::from_secs(1);
        let id = Uuid::from_u128(hold);
        assert!(client.set_hold(&house.of(1), id, within).await.unwrap());
        front.until_held(&house, Some(hold)).await;
        took.push(began.elapsed());
        assert!(house.clear_hold(1).await);
        front.until_held(&house, None).await;
    }
    took.sort_unstable();
    println!("from setting a hold to knowing of it: p50 {:?}, max {:?}", took[25], took[49]);
    assert!(took[25] < Duration::from_millis(50), "{took:?}");
}
