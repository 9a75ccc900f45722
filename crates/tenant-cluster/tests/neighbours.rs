//! What a database of a tenant's own shows of sessions and locks on its server.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

use insula_domain::{DatabaseName, SchemaVersion, TenantId};
use insula_sql_store::Connector;
use insula_tenant_cluster::{ClusterAccess, create_database, prepare_shared};
use insula_testkit::TestServer;
use tokio_postgres::{Client, NoTls};

async fn session(server: &TestServer, database: &str, role: &str) -> Client {
    let mut config: tokio_postgres::Config = server.url(database).parse().unwrap();
    config.user(role).password("secret").application_name(format!("of {role}"));
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn text(client: &Client, query: &str) -> String {
    let sql = format!("select coalesce(string_agg(x::text, ',' order by x::text), '') from ({query}) q (x)");
    client.query_one(&sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_database_shows_its_own_sessions_and_locks() {
    let server = TestServer::start().await;
    let admin = server.connect("postgres").await;
    let connector = Connector::new(&server.url("postgres"), None).unwrap();
    let access = ClusterAccess::new("us-east-1-a".parse().unwrap(), connector);
    prepare_shared(&access).await.unwrap();
    let mut databases = Vec::new();
    for (role, tenant) in
        [("a", "0190163d-8694-739b-aea5-966c26f8ad91"), ("b", "0190163d-8694-739b-aea5-966c26f8ad92")]
    {
        let database = DatabaseName::of_tenant(tenant.parse::<TenantId>().unwrap());
        create_database(&admin, &database, SchemaVersion(0)).await.unwrap();
        let made = format!(
            "create role {role} login password 'secret'; grant connect on database {database} to {role}"
        );
        admin.batch_execute(&made).await.unwrap();
        databases.push(database);
    }
    let mine = session(&server, databases[0].as_str(), "a").await;
    let beside = session(&server, databases[0].as_str(), "a").await;
    let other = session(&server, databases[1].as_str(), "b").await;
    for (client, number) in [(&beside, 41), (&other, 42)] {
        client.batch_execute(&format!("select pg_advisory_lock({number})")).await.unwrap();
    }
    let names = "select application_name from pg_stat_activity";
    let locks = "select objid from pg_locks where locktype = 'advisory'";
    assert_eq!((text(&mine, names).await, text(&mine, locks).await), ("of a,of a".into(), "41".into()));
    assert_eq!((text(&other, names).await, text(&other, locks).await), ("of b".into(), "42".into()));
    assert_eq!(text(&mine, "select count(*) from pg_stat_ssl").await, "2");
    let asks = "select query from pg_stat_activity where pid <> pg_backend_pid()";
    assert!(text(&mine, asks).await.contains("pg_advisory_lock(41)"), "its own it sees as before");
    for past in [
        "select pg_stat_get_activity(null)",
        "select pg_lock_status()",
        "select insula.pg_stat_get_activity(null)",
        "select insula.pg_lock_status()",
        "create or replace view pg_catalog.pg_locks as select 1",
    ] {
        let refused = mine.batch_execute(past).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42501", "{past}");
    }
    // The canary: where nothing was done a session sees all of it.
    admin.batch_execute("create database plain template template0").await.unwrap();
    let elsewhere = session(&server, "plain", "a").await;
    assert!(text(&elsewhere, names).await.contains("of b"));
    assert_eq!(text(&elsewhere, locks).await, "41,42");
}
