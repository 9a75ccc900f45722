//! The group of all tenants' roles, while roles come and go.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

use insula_tenant_cluster::{TENANTS, enroll_tenants};
use insula_testkit::TestServer;
use tokio_postgres::Client;

const ROLES: [&str; 4] = [
    "tenant_0190163d8694739baea5966c26f8ad91",
    "tenant_0190163d8694739baea5966c26f8ad92",
    "tenant_0190163d8694739baea5966c26f8ad92_ro",
    "tenant_0190163d8694739baea5966c26f8ad93",
];

async fn members(admin: &Client) -> Vec<String> {
    let query = "select m.member::regrole::text from pg_auth_members m
                 where m.roleid = $1::text::regrole order by 1";
    admin.query(query, &[&TENANTS]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_or_is_enrolled_meanwhile_stops_nobody() {
    let server = TestServer::start().await;
    let admin = server.connect("postgres").await;
    enroll_tenants(&admin).await.unwrap();
    for role in ROLES {
        admin.batch_execute(&format!("create role {role}")).await.unwrap();
    }
    // Nobody is granted anything until we say so: all have been listed by then.
    admin.batch_execute("begin; lock table pg_auth_members in share mode").await.unwrap();
    let other = server.connect("postgres").await;
    let enrolled = tokio::spawn(async move { enroll_tenants(&other).await });
    let waits = "select 1 from pg_locks where not granted and relation = 'pg_auth_members'::regclass";
    while admin.query_opt(waits, &[]).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    let meanwhile = format!("drop role {}; grant {TENANTS} to {}; commit", ROLES[1], ROLES[3]);
    admin.batch_execute(&meanwhile).await.unwrap();
    enrolled.await.unwrap().unwrap();
    assert_eq!(members(&admin).await, [ROLES[0], ROLES[2], ROLES[3]]);
}
