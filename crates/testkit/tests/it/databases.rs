//! Databases of tests.

use insula_testkit::{TestDatabase, TestServer, connect, postgres};

async fn count(client: &tokio_postgres::Client, name: &str) -> i64 {
    client.query_one("select count(*) from pg_database where datname = $1", &[&name]).await.unwrap().get(0)
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (first, second) = tokio::join!(TestDatabase::create("same"), TestDatabase::create("same"));
    first.connect().await.batch_execute("create table t ()").await.unwrap();
    let there = "select count(*) from pg_class where relname = 't'";
    let tables = |client: tokio_postgres::Client| async move {
        client.query_one(there, &[]).await.unwrap().get::<_, i64>(0)
    };
    assert_eq!(tables(first.connect().await).await, 1, "canary");
    assert_eq!(tables(second.connect().await).await, 0);
}

#[tokio::test]
async fn a_dropped_database_is_gone_with_the_sessions_in_it() {
    let database = TestDatabase::create("dropped").await;
    let name = database.name().to_owned();
    let session = database.connect().await;
    let admin = postgres().await.connect("postgres").await;
    assert_eq!(count(&admin, &name).await, 1, "canary");
    database.drop().await;
    assert_eq!(count(&admin, &name).await, 0);
    assert!(session.simple_query("select 1").await.is_err());
}

#[tokio::test]
async fn another_user_can_be_named_in_the_url() {
    let server = TestServer::start().await;
    let admin = server.connect("postgres").await;
    admin.batch_execute("create role me login password 'pw'").await.unwrap();
    let client = connect(&server.url_as("me", "pw", "postgres")).await;
    let user: String = client.query_one("select current_user::text", &[]).await.unwrap().get(0);
    assert_eq!(user, "me");
}
