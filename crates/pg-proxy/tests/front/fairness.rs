//! Who goes first among the tenants that want a backend, by what they have had.
//! It is seen by the order in which they get it, and not by how many do within a
//! time. How it goes on and on is played with a clock of the test's own, beside the
//! account.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use insula_pg_proxy::PgProxyConfig;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::places::waiting;
use crate::sharing::config_of;
use crate::support::{PATIENCE, Tenant, World, one};

/// For so long a tenant has the backend that others want: longer than it may be
/// ahead of them on the slowest machine.
const AHEAD: Duration = Duration::from_secs(1);

/// With so many backends, as many sessions at work as want to be, and all the
/// time that a busy machine takes for them.
async fn patient_world_of(backends: u32) -> World {
    let config = PgProxyConfig {
        backend_wait_max: Duration::from_secs(600),
        active_per_cluster_max: Some(0),
        ..config_of(backends)
    };
    World::start_with(config, None).await
}

/// A session that waits for a backend, and when it had it by the server's clock,
/// in microseconds.
type Turn = JoinHandle<i64>;

/// Has sessions of a tenant wait for a backend, behind those that wait already.
async fn come_to_wait(world: &World, tenant: &Tenant, clients: Vec<Client>, behind: usize) -> Vec<Turn> {
    let mut turns = Vec::new();
    for client in clients {
        turns.push(tokio::spawn(async move {
            let now = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint::text";
            one(&client, now).await.parse().unwrap()
        }));
        let here = async {
            while waiting(world, tenant) < u32::try_from(behind + turns.len()).unwrap() {
                sleep(Duration::from_millis(1)).await; // between two looks, not for an effect
            }
        };
        timeout(PATIENCE, here).await.expect("it waits");
    }
    turns
}

/// When the first and the last of them had it.
async fn had(turns: Vec<Turn>) -> (i64, i64) {
    let at: Vec<i64> = join_all(turns).await.into_iter().map(Result::unwrap).collect();
    (*at.iter().min().unwrap(), *at.iter().max().unwrap())
}

async fn some(world: &World, tenant: &Tenant, count: usize) -> Vec<Client> {
    join_all((0..count).map(|_| world.connect(tenant))).await
}

/// The only backend is the greedy tenant's for a while, many of its sessions wait
/// for it, and one that comes last. Whether that one is the last to have it.
async fn the_last_is_last(last_is_greedy: bool) -> bool {
    let world = patient_world_of(1).await;
    let (greedy, modest) = (world.tenant("greedy").await, world.tenant("modest").await);
    let of_last = if last_is_greedy { &greedy } else { &modest };
    let (mut many, last) = (some(&world, &greedy, 21).await, some(&world, of_last, 1).await);
    let holder = many.pop().unwrap();
    holder.batch_execute("begin").await.unwrap();
    let begun = Instant::now();
    let many = come_to_wait(&world, &greedy, many, 0).await;
    let behind = if last_is_greedy { many.len() } else { 0 };
    let last = come_to_wait(&world, of_last, last, behind).await;
    sleep(AHEAD.saturating_sub(begun.elapsed())).await; // what is counted is time
    holder.batch_execute("commit").await.unwrap();
    let ((first, latest), (last, _)) = (had(many).await, had(last).await);
    assert!(last < first || last > latest, "it is in their midst");
    last > latest
}

#[tokio::test]
async fn a_greedy_tenant_does_not_starve_another() {
    assert!(!the_last_is_last(false).await, "it waits until all others have been served");
    // The canary: among those of one tenant who came last is last.
    assert!(the_last_is_last(true).await);
}

/// Sessions of a tenant wait for a backend, and then those of another that has
/// had it for a while. Whether the first tenant's have it first.
async fn who_came_first_goes_first(keeps: bool) -> bool {
    let world = patient_world_of(1 + u32::from(keeps)).await;
    let (keeping, other) = (world.tenant("keeping").await, world.tenant("other").await);
    let mut theirs = some(&world, &keeping, 6).await;
    let keeper = theirs.pop().unwrap();
    if keeps {
        keeper.batch_execute("listen x").await.unwrap();
    }
    // Behind it, so that it has kept its own for longer than they have theirs.
    let mut ours = some(&world, &other, 6).await;
    let holder = ours.pop().unwrap();
    holder.batch_execute("begin").await.unwrap();
    let begun = Instant::now();
    let theirs = come_to_wait(&world, &keeping, theirs, 0).await;
    let ours = come_to_wait(&world, &other, ours, 0).await;
    sleep(AHEAD.saturating_sub(begun.elapsed())).await; // what is counted is time
    holder.batch_execute("commit").await.unwrap();
    let (theirs, ours) = (had(theirs).await, had(ours).await);
    assert!(theirs.1 < ours.0 || ours.1 < theirs.0, "{theirs:?} {ours:?}");
    drop(keeper);
    theirs.1 < ours.0
}

#[tokio::test]
async fn a_tenant_that_keeps_backends_pays_for_them() {
    assert!(!who_came_first_goes_first(true).await, "it has had as much, by the one that it keeps");
    // The canary: one that keeps nothing has had nothing.
    assert!(who_came_first_goes_first(false).await);
}
