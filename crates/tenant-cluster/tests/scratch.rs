//! Scratch databases: gone however their use ends, never open to a tenant's
//! role, and never removed from under whoever uses them.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

use std::time::{Duration, Instant};

use insula_sql_store::Connector;
use insula_tenant_cluster::{ClusterAccess, Scratch, drop_abandoned_scratch, survey};
use insula_testkit::TestServer;
use tokio_postgres::Client;

const THERE: &str = "select count(*) from pg_database where datname like 'insula_scratch_%'";

async fn count(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

async fn until_none_is_left(client: &Client) {
    let begun = Instant::now();
    while count(client, THERE).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "some are left");
    }
}

fn access(server: &TestServer) -> ClusterAccess {
    let connector = Connector::new(&server.url("postgres"), None).unwrap();
    ClusterAccess::new("us-east-1-a".parse().unwrap(), connector)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_away_leaves_no_database_and_none_is_open_to_tenants() {
    let server = TestServer::start().await;
    let (client, access) = (server.connect("postgres").await, access(&server));
    client.batch_execute("create role tenant_of_nobody login").await.unwrap();
    let open = "select count(*) from pg_database where datname like 'insula_scratch_%' and datallowconn
                and has_database_privilege('tenant_of_nobody', oid, 'connect')";
    let mut seen = 0;
    // Cut off at every stage: before it is made, while it is, and after; on a
    // slow machine that comes later.
    for cut in (0..400).map(|step| Duration::from_millis(step * 10)) {
        if seen > 0 && cut > Duration::from_millis(400) {
            break;
        }
        let access = access.clone();
        let making = tokio::spawn(async move {
            let scratch = Scratch::plain(&access, &[]).await.unwrap();
            std::future::pending::<()>().await;
            drop(scratch);
        });
        let begun = Instant::now();
        while begun.elapsed() < cut {
            assert_eq!(count(&client, open).await, 0);
        }
        seen = seen.max(count(&client, THERE).await);
        making.abort();
        let _ = making.await;
    }
    assert!(seen > 0, "canary: some were there");
    until_none_is_left(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_named_and_removed_and_what_is_used_is_not() {
    let server = TestServer::start().await;
    let (client, access) = (server.connect("postgres").await, access(&server));
    let used = Scratch::empty(&access).await.unwrap();
    let left = format!("insula_scratch_{}", "a".repeat(32));
    client.batch_execute(&format!("create database {left}")).await.unwrap();
    let abandoned = survey(&client).await.unwrap().abandoned;
    assert_eq!(abandoned.iter().map(|name| name.as_str()).collect::<Vec<_>>(), [left.as_str()]);
    let next = Scratch::empty(&access).await.unwrap();
    assert!(survey(&client).await.unwrap().abandoned.is_empty());
    assert_eq!(count(&client, THERE).await, 2, "the two that are used");
    // Another one: the session that has removed the first keeps its lock.
    let left = format!("insula_scratch_{}", "b".repeat(32));
    client.batch_execute(&format!("create database {left}")).await.unwrap();
    drop_abandoned_scratch(&access).await.unwrap();
    assert_eq!(count(&client, THERE).await, 2, "they are used still");
    drop((next, used));
    until_none_is_left(&client).await;
}
