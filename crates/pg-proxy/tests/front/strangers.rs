//! Clients that do not speak the protocol, or not all of it, or want what is
//! not served.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use insula_pg_proxy::PgProxyConfig;
use insula_pg_wire::backend::tag;
use insula_pg_wire::startup::{put_gss_encryption_request, put_ssl_request};

use crate::raw::Raw;
use crate::support::World;

#[tokio::test]
async fn a_browser_is_told_what_it_has_reached() {
    let world = World::start().await;
    for request in ["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "POST /v1/tenants HTTP/1.1\r\n\r\n{}"] {
        let mut raw = Raw::connect(&world).await;
        raw.send(request.as_bytes()).await;
        let answer = String::from_utf8(raw.rest().await).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(body.contains("PostgreSQL port"), "{body}");
    }
}

#[tokio::test]
async fn nonsense_is_refused_as_such() {
    let world = World::start().await;
    let hello = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    for (bytes, sqlstate) in [
        (&hello[..], "08P01"),
        (&[0, 0, 0, 4], "08P01"),
        (&[0, 0, 39, 17], "08P01"),
        (&[0xff; 16], "08P01"),
        (&[0, 0, 0, 9, 0, 3, 0, 0, b'x'], "08P01"),
        (&[0, 0, 0, 8, 0, 2, 0, 0], "0A000"),
        (&[0, 0, 0, 8, 4, 210, 99, 99], "0A000"),
    ] {
        let mut raw = Raw::connect(&world).await;
        raw.send(bytes).await;
        assert_eq!(raw.refusal().await.0, sqlstate, "{bytes:?}");
    }
}

#[tokio::test]
async fn half_a_packet_is_waited_for_only_so_long() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = world.connect(&tenant).await;
    let startup_timeout = Duration::from_secs(1);
    world.proxy.set_config(PgProxyConfig { startup_timeout, ..PgProxyConfig::default() });
    for half in [&b""[..], &[0, 0], &[0, 0, 0, 50, 0, 3, 0, 0, b'u', b's']] {
        let (mut raw, began) = (Raw::connect(&world).await, Instant::now());
        raw.send(half).await;
        if half.is_empty() {
            assert!(raw.rest().await.is_empty(), "who has said nothing is told nothing");
        } else {
            assert_eq!(raw.refusal().await.0, "57014", "{half:?}");
        }
        assert!(began.elapsed() >= startup_timeout, "it was given its time");
    }
    // Nor for a packet that does not follow a request for encryption.
    let mut raw = Raw::connect(&world).await;
    raw.write(put_gss_encryption_request).await;
    let mut answer = [0];
    tokio::io::AsyncReadExt::read_exact(&mut raw.stream, &mut answer).await.unwrap();
    assert_eq!(raw.refusal().await.0, "57014");
    // Nor for a proof that does not come.
    let mut raw = Raw::connect(&world).await;
    raw.start(&[("user", "acme"), ("database", "app")]).await;
    assert_eq!(raw.next().await.unwrap().tag, tag::AUTHENTICATION);
    assert_eq!(raw.refusal().await.0, "57014");
    // A session that is in is not touched by this.
    let slept = client.query_one("select pg_sleep(1.5)::text", &[]).await;
    assert!(slept.is_ok());
}

#[tokio::test]
async fn half_a_packet_before_the_end_is_answered_and_nothing_is_not() {
    let world = World::start().await;
    for half in [&b""[..], &[0], &[0, 0, 0, 50, 0, 3, 0, 0, b'u', b's']] {
        let mut raw = Raw::connect(&world).await;
        raw.send(half).await;
        tokio::io::AsyncWriteExt::shutdown(&mut raw.stream).await.unwrap();
        if half.is_empty() {
            assert!(raw.rest().await.is_empty(), "who only looks is left in peace");
        } else {
            let refusal = raw.refusal().await;
            assert_eq!(refusal, ("08P01".to_owned(), "incomplete startup packet".to_owned()), "{half:?}");
        }
    }
}

#[tokio::test]
async fn without_tls_a_request_for_it_is_answered_no_and_the_session_goes_on() {
    let world = World::start().await;
    world.tenant("acme").await;
    let mut raw = Raw::connect(&world).await;
    for request in [put_gss_encryption_request, put_ssl_request] {
        raw.write(request).await;
        let mut answer = [0];
        tokio::io::AsyncReadExt::read_exact(&mut raw.stream, &mut answer).await.unwrap();
        assert_eq!(&answer, b"N");
    }
    raw.start(&[("user", "acme"), ("database", "app")]).await;
    assert_eq!(raw.next().await.unwrap().tag, tag::AUTHENTICATION);
    // More than that nobody needs.
    let mut raw = Raw::connect(&world).await;
    for _ in 0..2 {
        raw.write(put_gss_encryption_request).await;
        let mut answer = [0];
        tokio::io::AsyncReadExt::read_exact(&mut raw.stream, &mut answer).await.unwrap();
        if answer == *b"N" {
            continue;
        }
        assert_eq!(&answer, b"E");
    }
}

#[tokio::test]
async fn what_follows_a_request_for_encryption_is_not_taken() {
    let world = World::start().await;
    world.tenant("acme").await;
    for request in [put_ssl_request, put_gss_encryption_request] {
        let mut out = BytesMut::new();
        request(&mut out);
        let parameters: [(&[u8], &[u8]); 1] = [(b"user", b"acme")];
        insula_pg_wire::startup::put_session_start(&mut out, &parameters).unwrap();
        let mut raw = Raw::connect(&world).await;
        raw.send(&out).await;
        assert_eq!(raw.refusal().await.0, "08P01");
    }
}

#[tokio::test]
async fn replication_connections_are_refused() {
    let world = World::start().await;
    world.tenant("acme").await;
    for value in ["true", "database", "1", "on"] {
        let mut raw = Raw::connect(&world).await;
        raw.start(&[("user", "acme"), ("database", "app"), ("replication", value)]).await;
        assert_eq!(raw.refusal().await.0, "0A000", "{value}");
    }
}

#[tokio::test]
async fn messages_out_of_place_before_the_session_are_refused() {
    let world = World::start().await;
    world.tenant("acme").await;
    for bytes in [
        &b"Q\0\0\0\x0dselect 1\0"[..],
        b"p\0\0\0\x04",
        b"p\xff\xff\xff\xff",
        b"p\0\x01\0\0",
        b"p\0\0\0\x0fSCRAM-MD5\0\0",
    ] {
        let mut raw = Raw::connect(&world).await;
        raw.start(&[("user", "acme"), ("database", "app")]).await;
        raw.next().await.expect("it is asked for its proof");
        raw.send(bytes).await;
        assert_eq!(raw.refusal().await.0, "08P01", "{bytes:?}");
    }
}
