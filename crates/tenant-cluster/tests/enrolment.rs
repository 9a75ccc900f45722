//! The group of all tenants' roles, while roles come and go.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

use insula_tenant_cluster::{TENANTS, enroll_tenants};
use insula_testkit::TestServer;
use tokio_postgres::Client;

const ROLES: [&str; 3] = [
    "tenant_0190163d8694739baea5966c26f8ad91",
    "tenant_0190163d8694739baea5966c26f8ad92",
    "tenant_0190163d8694739baea5966c26f8ad92_ro",
];

async fn members(admin: &Client) -> Vec<String> {
    let query = "select m.member::regrole::text from pg_auth_members m
                 where m.roleid = $1::text::regrole order by 1";
    admin.query(query, &[&TENANTS]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Has the tenants enrolled while this session has something open, which the
/// enrolment waits for once it has listed them; then this session does the rest.
async fn enrolled_between(begin: &str, rest: &str) -> Vec<String> {
    let server = TestServer::start().await;
    let admin = server.connect("postgres").await;
    enroll_tenants(&admin).await.unwrap();
    for role in ROLES {
        admin.batch_execute(&format!("create role {role}")).await.unwrap();
    }
    admin.batch_execute(begin).await.unwrap();
    let other = server.connect("postgres").await;
    let enrolled = tokio::spawn(async move { enroll_tenants(&other).await });
    while admin.query_opt("select 1 from pg_locks where not granted", &[]).await.unwrap().is_none() {
        assert!(!enrolled.is_finished(), "it did not wait");
        tokio::task::yield_now().await;
    }
    admin.batch_execute(rest).await.unwrap();
    enrolled.await.unwrap().unwrap();
    members(&admin).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_meanwhile_need_not_be_enrolled() {
    let begin = "begin; lock table pg_auth_members in share mode";
    let rest = format!("drop role {}; commit", ROLES[1]);
    assert_eq!(enrolled_between(begin, &rest).await, [ROLES[0], ROLES[2]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_enrolled_by_another_meanwhile_is_enrolled() {
    let begin = format!("begin; grant {TENANTS} to {}", ROLES[1]);
    assert_eq!(enrolled_between(&begin, "commit").await, ROLES);
}
