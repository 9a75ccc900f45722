//! What the survey of a cluster sees.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

use insula_tenant_cluster::survey;
use insula_testkit::TestServer;

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_notifications_that_cannot_be_emptied_is_seen() {
    let server = TestServer::start().await;
    let (client, listener) = (server.connect("postgres").await, server.connect("postgres").await);
    let fill = "select count(pg_notify('news', repeat('x', 7000) || n)) from generate_series(1, 100) n";
    client.batch_execute(fill).await.unwrap();
    let empty = survey(&client).await.unwrap().notification_queue;
    assert!(empty.abs() < f64::EPSILON, "nobody listens: {empty}");
    for sql in ["listen news", "begin", "select 1"] {
        listener.batch_execute(sql).await.unwrap();
    }
    client.batch_execute(fill).await.unwrap();
    let held = survey(&client).await.unwrap().notification_queue;
    assert!(held > 0.0 && held < 0.001, "{held}");
}
