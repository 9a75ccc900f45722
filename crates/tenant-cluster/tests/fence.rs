//! The fence: whom it waits for, and for how long at the most.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

use std::time::{Duration, Instant};

use insula_domain::{OsEntropy, RoleName, SystemClock, TenantId};
use insula_tenant_cluster::{fence, unfence};
use insula_testkit::{TestServer, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_sessions_that_are_being_let_in_and_not_for_ever() {
    let server = TestServer::start().await;
    let admin = server.connect("postgres").await;
    let tenant = TenantId::generate(&SystemClock, &OsEntropy);
    let role = RoleName::of_tenant(tenant);
    admin.batch_execute(&format!("create role {role} login password 'x'")).await.unwrap();
    let inside = connect(&server.url_as(role.as_str(), "x", "postgres")).await;

    let mut quickest = Duration::MAX;
    for round in 0..5 {
        let begun = Instant::now();
        let ended = fence(&admin, tenant).await.unwrap();
        quickest = quickest.min(begun.elapsed());
        assert!(round > 0 || ended == 1);
    }
    // A busy machine may take a second for one of them.
    assert!(quickest < Duration::from_secs(1), "there was nobody to wait for: {quickest:?}");
    assert!(inside.simple_query("select 1").await.is_err());
    unfence(&admin, tenant).await.unwrap();

    // One that does not send its password: it has no right yet, and cannot hold the fence up.
    let mut stalled = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    let mut startup = vec![0, 0, 0, 0, 0, 3, 0, 0];
    startup.extend_from_slice(format!("user\0{role}\0database\0postgres\0\0").as_bytes());
    startup[3] = u8::try_from(startup.len()).unwrap();
    stalled.write_all(&startup).await.unwrap();
    assert_eq!(stalled.read_u8().await.unwrap(), b'R', "it is asked for its password");
    let begun = Instant::now();
    assert_eq!(fence(&admin, tenant).await.unwrap(), 0);
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(2), "canary: it was seen: {waited:?}");
    assert!(waited < Duration::from_secs(30), "{waited:?}");
}
