//! A tenant does with few backends around its cutover, and has all that its plan
//! gives it when the move is over, however it ends and whoever dies meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::Barrier;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::clients::tenant;
use crate::common::World;
use crate::suspended::{sleeper, world};
use crate::{POOL_TO_SCHEMA, ROWS, UNTIL_ENDED, last_move, until};

/// More than a tenant that is narrowed has by the defaults, on whichever machine:
/// half of a quarter of the 100 that a cluster has.
const CLIENTS: usize = 16;

/// Connections to the target that were begun before the tenant was held.
const DIALLED_AND_USED: &str = r#"insula_pg_dialled_ahead_total{outcome="used"}"#;

/// A narrowed tenant whose cutover has not begun.
const BEFORE_THE_HOLD: &str = "tenant.move:hold:before";

/// One that is at its target, and not settled there.
const BEHIND_THE_COMMIT: &str = "tenant.move:commit:inside";

/// Has the catalog note each change, so that none goes unnoticed.
async fn notes_changes(world: &World) {
    let noting = "
        create table narrowings (number bigint generated always as identity, narrowed boolean);
        create function note_narrowing() returns trigger language plpgsql as $$
            begin insert into narrowings (narrowed) values (new.narrowed); return null; end $$;
        create trigger narrowings after update on placements for each row
            when (old.narrowed <> new.narrowed) execute function note_narrowing()";
    world.catalog.connect("insula_catalog").await.batch_execute(noting).await.unwrap();
}

/// Whether it was narrowed each time that this has changed.
async fn changes(world: &World) -> Vec<bool> {
    let catalog = world.catalog.connect("insula_catalog").await;
    let rows = catalog.query("select narrowed from narrowings order by number", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Whether somebody is narrowed, by the catalog; there is only one tenant.
async fn is_narrowed(world: &World) -> bool {
    let catalog = world.catalog.connect("insula_catalog").await;
    let row = catalog.query_one("select bool_or(narrowed) from placements", &[]).await.unwrap();
    row.get(0)
}

/// The tenant, as the front shows it.
fn shown(world: &World) -> Value {
    let shown = world.run(&["pg", "show", "tenants", "--tenant", "acme", "-o", "json"]).json();
    shown["items"][0].clone()
}

/// Looks at the tenant until it is as it should be.
fn until_shown(world: &World, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let shown = shown(world);
        if is_so(&shown) {
            return shown;
        }
        assert!(begun.elapsed() < UNTIL_ENDED, "{what}: {shown:#}\n{}", world.log());
        std::thread::sleep(Duration::from_millis(10)); // between two looks, not for an effect
    }
}

/// Each has a transaction open while all others have one: as many backends.
async fn all_at_once(clients: &[Client]) {
    let all = Barrier::new(clients.len());
    let each = clients.iter().map(|client| async {
        client.batch_execute("begin; select from customers").await.unwrap();
        all.wait().await;
        client.batch_execute("commit").await.unwrap();
    });
    timeout(UNTIL_ENDED, join_all(each)).await.expect("some of them get no backend");
}

/// Clients that go on with one transaction after the other.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Client>>,
}

impl Load {
    fn begins(clients: Vec<Client>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let goes_on = |client: Client| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    client.batch_execute("begin; select from customers; commit").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(2)).await; // the pace of a client
                }
                client
            })
        };
        let clients = clients.into_iter().map(goes_on).collect();
        Self { stop, clients }
    }

    /// Ends, and gives the clients back, none of which was told an error.
    async fn ends(self) -> Vec<Client> {
        self.stop.store(true, Ordering::SeqCst);
        join_all(self.clients).await.into_iter().map(Result::unwrap).collect()
    }
}

/// A world whose catalog notes each change, and whose plan lets all clients in.
async fn noted() -> World {
    let world = world().await;
    let said = world.run(&["plan", "set", POOL_TO_SCHEMA.tier, "--database-connections", "100"]);
    assert!(said.ok, "{}", said.err);
    notes_changes(&world).await;
    world
}

fn moves(world: &World, hold: &str) {
    let way =
        ["tenant", "move", "acme", "--isolation", POOL_TO_SCHEMA.isolation, "--hold", hold, "--no-wait"];
    let begun = world.run(&way);
    assert!(begun.ok, "{}\n{}", begun.err, world.log());
}

/// The front says that it is so, by what it gives the tenant at the most.
fn until_wide(world: &World, wide: &Value) {
    until_shown(world, "it does not get back what it had", |shown| shown["backends_max"] == *wide);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_under_load_has_few_backends_before_its_cutover_and_all_of_them_after_it() {
    let world = noted().await;
    let worker = sleeper(&world, "worker", BEFORE_THE_HOLD);
    tenant(&world, "acme", POOL_TO_SCHEMA.tier, ROWS).await;
    let clients = join_all((0..CLIENTS).map(|_| world.connect("acme"))).await;
    all_at_once(&clients).await;
    let before = shown(&world);
    let wide = &before["backends_max"];
    let most = |shown: &Value, of: &str| shown[of].as_u64().unwrap();
    assert!(most(&before, "backends") >= CLIENTS as u64, "{before:#}");
    assert!(!is_narrowed(&world).await && changes(&world).await.is_empty());

    let load = Load::begins(clients);
    moves(&world, "10s");
    worker.until_suspended();
    assert!(is_narrowed(&world).await);
    let narrow = until_shown(&world, "it has too many backends", |shown| {
        let narrow = most(shown, "backends_max");
        narrow < CLIENTS as u64 && most(shown, "backends") <= narrow
    });
    assert!(most(&narrow, "backends_max") > 0 && narrow["held"] == false, "{narrow:#}");

    worker.goes_on();
    let moved = until(&world, "acme", &["moved"], "moved");
    assert!(!is_narrowed(&world).await, "{moved:#}");
    until_wide(&world, wide);
    let metrics = world.http("GET", "/metrics", None, None).unwrap().1;
    let used = metrics.lines().find(|line| line.starts_with(DIALLED_AND_USED));
    assert!(used.is_some_and(|line| !line.ends_with(" 0")), "nothing was begun ahead: {used:?}");
    all_at_once(&load.ends().await).await;
    let there = changes(&world).await;
    // More than once where the time of a try was over while the worker stood still.
    assert_eq!((there.first(), there.last()), (Some(&true), Some(&false)));

    let clients = join_all((0..CLIENTS).map(|_| world.connect("acme"))).await;
    let load = Load::begins(clients);
    let back = world.run(&["move", "rollback", moved["id"].as_str().unwrap()]);
    assert!(back.ok, "{}\n{}", back.err, world.log());
    assert!(!is_narrowed(&world).await);
    until_wide(&world, wide);
    all_at_once(&load.ends().await).await;
    let back = &changes(&world).await[there.len()..];
    assert_eq!((back.first(), back.last()), (Some(&true), Some(&false)));
}

/// The worker dies at a point with the tenant narrowed, and another one goes on.
async fn is_widened_by_the_heir(point: &str) {
    let world = noted().await;
    let first = sleeper(&world, "first", point);
    tenant(&world, "acme", POOL_TO_SCHEMA.tier, ROWS).await;
    let wide = shown(&world)["backends_max"].clone();
    moves(&world, "10s");
    first.until_suspended();
    // The canary: it stays so as long as nobody goes on.
    drop(first);
    assert!(is_narrowed(&world).await, "{point}");
    until_shown(&world, point, |shown| shown["backends_max"].as_u64() < wide.as_u64());
    let _heir = world.worker("heir", &[]);
    until(&world, "acme", &["moved"], point);
    assert!(!is_narrowed(&world).await, "{point}");
    until_wide(&world, &wide);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_for_a_worker_that_died_before_the_hold_widens_what_it_has_narrowed() {
    is_widened_by_the_heir(BEFORE_THE_HOLD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_for_a_worker_that_died_behind_the_commit_widens_what_it_has_narrowed() {
    is_widened_by_the_heir(BEHIND_THE_COMMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_undone_leaves_nobody_narrowed() {
    let world = noted().await;
    let first = sleeper(&world, "first", BEFORE_THE_HOLD);
    tenant(&world, "acme", POOL_TO_SCHEMA.tier, ROWS).await;
    let wide = shown(&world)["backends_max"].clone();
    let id = |world: &World| last_move(world, "acme")["id"].as_str().unwrap().to_owned();

    // By who goes on for a worker that died.
    moves(&world, "10s");
    first.until_suspended();
    drop(first);
    assert!(is_narrowed(&world).await);
    let cancelled = world.run(&["move", "cancel", &id(&world), "--no-wait"]);
    assert!(cancelled.ok, "{}", cancelled.err);
    let _heir = world.worker("heir", &[]);
    until(&world, "acme", &["cancelled"], "by an heir");
    assert!(!is_narrowed(&world).await);
    assert_eq!(changes(&world).await, [true, false]);

    // By a worker that lives, after a try that was taken back.
    let open = world.connect("acme").await;
    open.batch_execute("begin; select from customers").await.unwrap();
    moves(&world, "50ms");
    let begun = Instant::now();
    while last_move(&world, "acme")["progress"]["cutovers"].as_u64().is_none_or(|tries| tries == 0) {
        assert!(begun.elapsed() < UNTIL_ENDED, "{}", world.log());
        std::thread::sleep(Duration::from_millis(20)); // between two looks, not for an effect
    }
    let cancelled = world.run(&["move", "cancel", &id(&world), "--no-wait"]);
    assert!(cancelled.ok, "{}", cancelled.err);
    until(&world, "acme", &["cancelled"], "by a worker that lives");
    assert!(!is_narrowed(&world).await);
    let all = changes(&world).await;
    assert!(all.len() >= 4 && all.last() == Some(&false), "{all:?}");
    until_wide(&world, &wide);
}
