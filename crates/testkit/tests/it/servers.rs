//! Servers of a test's own.

use insula_testkit::{TestServer, installation};

async fn rows(server: &TestServer) -> i64 {
    server.connect("postgres").await.query_one("select count(*) from t", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_server_can_be_stopped_killed_and_started_again_and_keeps_what_it_acknowledged() {
    let mut server = TestServer::start().await;
    let port = server.port();
    let client = server.connect("postgres").await;
    client.batch_execute("create table t as select 1 as n").await.unwrap();
    server.stop().await;
    assert!(tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls).await.is_err());
    assert!(client.simple_query("select 1").await.is_err());

    server.start_again().await;
    assert_eq!((server.port(), rows(&server).await), (port, 1));
    server.connect("postgres").await.batch_execute("insert into t values (2)").await.unwrap();
    server.kill_9().await;
    assert_eq!(server.pid(), None);
    server.start_again().await;
    assert_eq!(rows(&server).await, 2);
}

#[tokio::test]
async fn settings_can_be_changed() {
    let server =
        TestServer::start_with(|spec| drop(spec.settings.insert("work_mem".to_owned(), "7MB".to_owned())))
            .await;
    let shown = server.connect("postgres").await.query_one("show work_mem", &[]).await.unwrap();
    assert_eq!(shown.get::<_, String>(0), "7MB");
}

#[tokio::test]
async fn the_server_is_of_the_version_that_was_asked_for() {
    let server = TestServer::start().await;
    let shown = server.connect("postgres").await.query_one("show server_version", &[]).await.unwrap();
    let shown: String = shown.get(0);
    assert_eq!(shown.split_whitespace().next(), Some(installation().version().as_str()));
}

#[tokio::test]
async fn each_server_is_one_of_its_own() {
    // More than there are folders to copy.
    let mut known = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let server = TestServer::start().await;
        let client = server.connect("postgres").await;
        let query = "select system_identifier::text from pg_control_system()";
        assert!(known.insert(client.query_one(query, &[]).await.unwrap().get::<_, String>(0)));
    }
}
