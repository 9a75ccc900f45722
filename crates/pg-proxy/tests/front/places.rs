//! Places for those at work: who asks for much leaves others their part, who has
//! a transaction open and asks nothing needs none, and locks cannot make it
//! stand still.

use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};
use insula_pg_proxy::{Ask, PgProxyConfig};
use tokio::time::{sleep, timeout};

use crate::support::{PATIENCE, Tenant, World, one};

/// A front that has so many places, and two tenants of which one has a table.
async fn world(places: u32) -> (World, Tenant, Tenant) {
    let config = PgProxyConfig { active_per_cluster_max: Some(places), ..PgProxyConfig::default() };
    let world = World::start_with(config, None).await;
    let (greedy, modest) = (world.tenant("greedy").await, world.tenant("modest").await);
    let client = world.connect(&greedy).await;
    client.batch_execute("create table t (n int); insert into t values (1)").await.unwrap();
    (world, greedy, modest)
}

/// How many sessions of a tenant wait for a place or a backend.
pub fn waiting(world: &World, tenant: &Tenant) -> u32 {
    let items = world.proxy.tenants(&Ask { tenant: Some(tenant.id), limit: 1 }).items;
    items.iter().map(|tenant| tenant.waiting).sum()
}

#[tokio::test]
async fn who_asks_for_much_waits_and_the_other_one_does_not() {
    let (world, greedy, modest) = world(2).await;
    let modest = world.connect(&modest).await;
    let client = world.connect(&greedy).await;
    let others = try_join_all((0..20).map(|_| async { Ok::<_, ()>(Arc::new(world.connect(&greedy).await)) }));
    let others = others.await.unwrap();
    client.batch_execute("begin; update t set n = n + 1").await.unwrap();
    one(&modest, "select '1'").await;
    // They wait for the lock, those that have a place.
    let updates = others.iter().map(|other| {
        let other = Arc::clone(other);
        tokio::spawn(async move { other.batch_execute("update t set n = n + 1").await })
    });
    let updates: Vec<_> = updates.collect();
    let held_up = async {
        while waiting(&world, &greedy) == 0 {
            sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, held_up).await.expect("some of them stand in line");
    timeout(PATIENCE, one(&modest, "select '1'")).await.expect("the other tenant is served meanwhile");
    // Who has begun goes on, though there is no place for it.
    client.batch_execute("select 1; commit").await.unwrap();
    for update in join_all(updates).await {
        update.unwrap().unwrap();
    }
    assert_eq!(one(&client, "select n::text from t").await, "22");
}

#[tokio::test]
async fn transactions_that_stand_open_need_no_place_and_locks_do_not_block_for_ever() {
    let (world, greedy, modest) = world(1).await;
    let modest = world.connect(&modest).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        one(&modest, "select '1'").await;
        let client = world.connect(&greedy).await;
        client.batch_execute("begin; select 1").await.unwrap();
        open.push(client);
    }
    // The first has the lock, the second waits for it in the only place, and the
    // client of the first asks something else before it lets go.
    open[0].batch_execute("update t set n = 2").await.unwrap();
    let second = open.remove(1);
    let blocked = tokio::spawn(async move { second.batch_execute("update t set n = 3; commit").await });
    world.until_backends(&greedy, "wait_event_type = 'Lock'", 1).await;
    one(&modest, "select '1'").await;
    let third = world.connect(&greedy).await;
    assert_eq!(one(&third, "select n::text from t").await, "1");
    open[0].batch_execute("commit").await.unwrap();
    blocked.await.unwrap().unwrap();
    assert_eq!(one(&third, "select n::text from t").await, "3");
}
