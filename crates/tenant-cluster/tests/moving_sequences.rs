//! Sequences at the other end of a move: no number is given twice, neither to
//! the tenant nor to its neighbours in shared tables.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod moving_support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use insula_domain::Isolation;
use insula_problem::Code;
use insula_tenant_cluster::moving::{Place, Sequence, raise_sequences, sequences, set_sequences};
use moving_support::End;
use moving_support::schema_support::{new_tenant, one, versions};
use tokio_postgres::Client;

/// Longer than any wait of a test that passes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sets them as a cutover does, which is tried again where others who draw hold
/// one for too long.
async fn set(client: &Client, place: &Place, from: &[Sequence]) {
    let begun = Instant::now();
    while let Err(problem) = set_sequences(client, place, from).await {
        assert_eq!(problem.code(), Code::Unavailable, "{}", problem.chain());
        assert!(begun.elapsed() < PATIENCE, "they are never let go");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_ones_only_go_on_while_others_draw() {
    let tenant = new_tenant();
    let plain =
        versions(&["create table t (id bigserial primary key); create sequence \"Q\"\"s\" increment -2"]);
    let silo = End::new(Isolation::Database, tenant, &plain).await;
    let pool = Arc::new(End::new(Isolation::Pool, tenant, &plain).await);
    let at_pool = pool.place.connect().await.unwrap();
    let at_silo = silo.place.connect().await.unwrap();
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let drawers: Vec<_> = (0..3)
        .map(|_| {
            let (pool, stop, count) = (Arc::clone(&pool), Arc::clone(&stop), Arc::clone(&count));
            tokio::spawn(async move {
                let client = pool.place.connect().await.unwrap();
                let mut drawn = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    drawn.push(
                        client.query_one("select nextval('t_id_seq')", &[]).await.unwrap().get::<_, i64>(0),
                    );
                    count.fetch_add(1, Ordering::Relaxed);
                }
                drawn
            })
        })
        .collect();
    // Sometimes behind the others, sometimes ahead, as near as can be.
    let mut last = 0;
    for round in 0..40 {
        let there = sequences(&at_pool, &pool.place).await.unwrap();
        let value = there.iter().find(|sequence| sequence.name == "t_id_seq").unwrap().value;
        last = value + [3, -1, 40, 0][round % 4];
        at_silo.batch_execute(&format!("select setval('t_id_seq', {})", last.max(1))).await.unwrap();
        let from = sequences(&at_silo, &silo.place).await.unwrap();
        set(&at_pool, &pool.place, &from).await;
    }
    let begun = Instant::now();
    while count.load(Ordering::Relaxed) <= 100 {
        assert!(begun.elapsed() < PATIENCE, "nobody draws");
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    let drawn: Vec<i64> = join_all(drawers).await.into_iter().flat_map(Result::unwrap).collect();
    let different: HashSet<_> = drawn.iter().collect();
    assert!(drawn.len() > 100, "canary: they have drawn");
    assert_eq!(different.len(), drawn.len(), "a number was given twice");
    assert!(one(&at_pool, "select nextval('t_id_seq')").await.parse::<i64>().unwrap() > last);

    // Before the cutover it is brought so far that nothing is left to do then.
    at_silo.batch_execute("select setval('t_id_seq', 100000), setval('\"Q\"\"s\"', -501)").await.unwrap();
    let from = sequences(&at_silo, &silo.place).await.unwrap();
    assert_eq!(raise_sequences(&at_pool, &pool.place, &from, 1000).await.unwrap(), 2);
    at_silo.batch_execute("select setval('t_id_seq', 100900)").await.unwrap();
    let from = sequences(&at_silo, &silo.place).await.unwrap();
    assert_eq!(set_sequences(&at_pool, &pool.place, &from).await.unwrap(), 0);
    assert_eq!(
        one(&at_pool, "select nextval('t_id_seq') || ' ' || nextval('\"Q\"\"s\"')").await,
        "101001 -2503"
    );

    // Who holds one is not waited for long, and the connection goes on.
    let holder = pool.place.connect().await.unwrap();
    holder.batch_execute("begin; select nextval('t_id_seq')").await.unwrap();
    at_silo.batch_execute("select setval('t_id_seq', 200000)").await.unwrap();
    let from = sequences(&at_silo, &silo.place).await.unwrap();
    let held = set_sequences(&at_pool, &pool.place, &from).await.unwrap_err();
    assert_eq!(held.code(), Code::Unavailable);
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(set_sequences(&at_pool, &pool.place, &from).await.unwrap(), 1);

    // And back, with all that was drawn meanwhile.
    let back = sequences(&at_pool, &pool.place).await.unwrap();
    assert_eq!(set_sequences(&at_silo, &silo.place, &back).await.unwrap(), 1);
    assert_eq!(one(&at_silo, "select nextval('\"Q\"\"s\"')").await, "-2505");
}
