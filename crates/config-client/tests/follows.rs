//! What the client does about what a server says, in order and out of it, over
//! real connections.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // fails as tests do

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use insula_config::{Client, InvalidOptions, Origin, ReadError, Standing};
use insula_config_proto::v1::watch_event::{Event, Heartbeat, Snapshot};
use insula_config_proto::v1::{Blob, entry::Value as Sent};
use tonic::Status;
use tonic::transport::Identity;

/// A client that has this snapshot, and the stream that it follows.
async fn begun(script: &mut Script, entries: Vec<insula_config_proto::v1::Entry>) -> (Client, Opened) {
    let client = script.builder().prefix("a").start().await.unwrap();
    let opened = script.opened().await;
    opened.say(snapshot(10, entries));
    assert_eq!(client.ready(PATIENCE).await, Ok(Origin::Server));
    (client, opened)
}

/// Waits until a key has this version.
async fn until(client: &Client, key: &str, version: i64) {
    let mut changes = client.changes(key);
    let arrived = async {
        while client.value(key).is_none_or(|value| value.version != version) {
            changes.next().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.expect("the version comes");
}

#[tokio::test]
async fn values_are_read_and_changes_are_told() {
    let mut script = Script::start().await;
    let (client, opened) = begun(&mut script, vec![entry("a/x", 1, "1"), entry("a/y", 2, "\"why\"")]).await;
    assert_eq!((opened.authorization.as_str(), opened.request.from_revision), ("Bearer isk_test", 0));
    assert_eq!(
        (opened.request.prefixes.as_slice(), opened.request.client_id.as_str()),
        (&["a".to_owned()][..], "me")
    );
    let (typed, fresh) = (client.typed::<u32>("a/x"), client.freshness());
    assert_eq!((*typed.get().unwrap(), client.get::<String>("a/y").unwrap().as_str()), (1, "why"));
    assert!(fresh.connected && fresh.is_within(PATIENCE) && fresh.revision == 10, "{fresh:?}");
    let error = client.get::<u32>("a/y").unwrap_err();
    assert!(error.to_string().contains("version 2 of a/y, set for tenant/x"), "{error}");
    assert_eq!(client.get::<u32>("a/z"), Err(ReadError::Missing { key: "a/z".to_owned() }));

    let (mut changes, mut others) = (client.changes("a/"), client.changes("b/"));
    let told = Arc::new(Mutex::new(Vec::new()));
    let (tell, mut telling) = tokio::sync::mpsc::unbounded_channel();
    let into = Arc::clone(&told);
    client.on_change("a/", move |change| {
        into.lock().unwrap().extend(change.changed.clone());
        tell.send(()).unwrap();
        panic!("a callback that panics is called again");
    });
    opened.say(delta(10, 11, vec![entry("a/x", 3, "3")], &["a/y"]));
    let change = changes.next().await.unwrap();
    assert_eq!((&*change.changed[0], &*change.removed[0], change.view.revision()), ("a/x", "a/y", 11));
    assert_eq!((*typed.get().unwrap(), client.find::<u32>("a/y")), (3, Ok(None)));
    telling.recv().await.unwrap();
    opened.say(delta(11, 12, vec![entry("a/w", 4, "4")], &[]));
    telling.recv().await.unwrap();
    let told: Vec<_> = told.lock().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(told, ["a/x", "a/w"]);
    client.close().await;
    assert!(others.next().await.is_none(), "nothing is told of other prefixes, and the end ends it");
    assert_eq!(*typed.get().unwrap(), 3, "what was read stays");
}

#[tokio::test]
async fn a_stream_that_ends_is_resumed_and_a_faulty_one_begun_anew() {
    let mut script = Script::start().await;
    let (client, opened) = begun(&mut script, vec![entry("a", 1, "1")]).await;
    opened.say(heartbeat(12));
    drop(opened);
    let opened = script.opened().await;
    assert_eq!(opened.request.from_revision, 12, "an end is no fault");
    assert_eq!(opened.request.view, "here", "what it is seen by is said again");
    opened.say(delta(12, 13, vec![entry("a", 2, "2")], &[]));
    until(&client, "a", 2).await;
    opened.fail(Status::unavailable("restarting"));
    let opened = script.opened().await;
    assert_eq!(opened.request.from_revision, 13, "an error is no fault");
    // Something between 13 and 15 got lost.
    opened.say(delta(15, 16, vec![entry("a", 4, "4")], &[]));
    opened.given_up().await;
    let opened = script.opened().await;
    assert_eq!(opened.request.from_revision, 0, "a gap is");
    assert_eq!(client.get::<u32>("a"), Ok(2), "what is here stays until there is better");
    opened.say(snapshot(16, vec![entry("a", 4, "4")]));
    until(&client, "a", 4).await;
    // A change before the snapshot.
    drop(opened);
    script.opened().await.say(delta(20, 21, vec![], &[]));
    let opened = script.opened().await;
    assert_eq!(opened.request.from_revision, 0);
    opened.say(delta(0, 22, vec![entry("a", 9, "9")], &[]));
    opened.given_up().await;
    assert_eq!(client.get::<u32>("a"), Ok(4));
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left() {
    let mut script = Script::start().await;
    let client = script.builder().silence_max(Duration::from_millis(300)).start().await.unwrap();
    let opened = script.opened().await;
    opened.say(snapshot(10, vec![entry("a", 1, "1")]));
    client.ready(PATIENCE).await.unwrap();
    // Not a word, though the connection stands.
    opened.given_up().await;
    let opened = script.opened().await;
    assert_eq!(opened.request.from_revision, 10);
    // One that knows less than the client does is no better than silence.
    let saying = async {
        loop {
            opened.say(heartbeat(9));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = saying => {}
        () = opened.given_up() => {}
    }
    let standing = client.freshness();
    assert!(!standing.connected && standing.age >= Some(Duration::from_millis(300)), "{standing:?}");
}

#[tokio::test]
async fn clocks_that_are_wrong_matter_to_nothing() {
    let mut script = Script::start().await;
    let (client, opened) = begun(&mut script, vec![entry("a", 1, "1")]).await;
    for (revision, at_us) in [(11, 0), (12, i64::MAX), (13, i64::MIN)] {
        opened.say(Event::Heartbeat(Heartbeat { revision, at_us, ..Heartbeat::default() }));
        while client.freshness().revision != revision {
            tokio::time::sleep(Duration::from_millis(1)).await; // between two looks
        }
        let fresh = client.freshness();
        assert!(fresh.connected && fresh.is_within(PATIENCE), "{fresh:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_let_in_is_told_and_the_values_stay() {
    let mut script = Script::start().await;
    *script.refuse.lock().unwrap() = Some(Status::unauthenticated("the key is revoked"));
    let client = script.builder().start().await.unwrap();
    let refused = client.ready(PATIENCE).await.unwrap_err();
    assert!(refused.to_string().contains("the key is revoked"), "{refused}");
    assert!(matches!(client.freshness().standing, Standing::Refused(_)));

    let (client, opened) = begun(&mut script, vec![entry("a", 1, "1")]).await;
    *script.refuse.lock().unwrap() = Some(Status::unauthenticated("the key is revoked"));
    let mut standing = client.freshness().standing;
    opened.fail(Status::unauthenticated("the token has ended"));
    while !matches!(standing, Standing::Refused(_)) {
        tokio::task::yield_now().await;
        standing = client.freshness().standing;
    }
    assert_eq!((client.get::<u32>("a"), client.freshness().connected), (Ok(1), false));
}

#[tokio::test]
async fn what_the_application_refuses_is_reported_and_the_last_good_value_stays() {
    let mut script = Script::start().await;
    let client = script.builder().must_fit::<u32>("a").start().await.unwrap();
    let opened = script.opened().await;
    opened.say(snapshot(10, vec![entry("a", 1, "1"), entry("b", 1, "1")]));
    client.ready(PATIENCE).await.unwrap();
    let said = script.acknowledged().await;
    let states: Vec<_> = said.states.iter().map(|state| (state.key.as_str(), state.version)).collect();
    assert_eq!((said.client_id.as_str(), said.revision, states), ("me", 10, vec![("a", 1), ("b", 1)]));
    opened.say(delta(10, 11, vec![entry("a", 2, "\"two\""), entry("b", 2, "2")], &[]));
    until(&client, "b", 2).await;
    assert_eq!(client.get::<u32>("a"), Ok(1));
    let view = client.view();
    let rejections: Vec<_> = view.rejections().collect();
    assert_eq!((rejections.len(), rejections[0].0, rejections[0].1.version), (1, "a", 2));
    let said = script.acknowledged().await;
    assert_eq!((said.revision, said.states.len(), said.states[0].version), (11, 2, 2));
    assert!(
        said.states[0].rejection.contains("does not fit") && said.states[1].rejection.is_empty(),
        "{said:?}"
    );
}

#[tokio::test]
async fn memory_is_bounded_whatever_the_server_sends() {
    let mut script = Script::start().await;
    let client = script.builder().memory_bytes_max(100_000).start().await.unwrap();
    let opened = script.opened().await;
    opened.say(snapshot(10, vec![entry("a", 1, "1")]));
    client.ready(PATIENCE).await.unwrap();
    for number in 0_i64..1_000 {
        opened.say(delta(0, 11 + number, vec![entry(&format!("k{number}"), 1, "1")], &[]));
    }
    opened.given_up().await;
    let held = client.view().under("").len();
    assert!((200..400).contains(&held), "{held} values of 260 bytes");
    let trouble = client.freshness();
    assert!(!trouble.connected && format!("{trouble:?}").contains("more than 100000 bytes"), "{trouble:?}");
    // Parts of a snapshot without an end, and one message that is too long.
    let opened = script.opened().await;
    for number in 0..1_000 {
        let entries = vec![entry(&format!("k{number}"), 1, "1")];
        opened.say(Event::Snapshot(Snapshot { revision: 5_000, entries, more: true, ..Snapshot::default() }));
    }
    opened.given_up().await;
    let opened = script.opened().await;
    opened.say(snapshot(5_000, vec![entry("big", 1, &format!("\"{}\"", "x".repeat(5 << 20)))]));
    opened.given_up().await;
    assert_eq!(client.view().under("").len(), held);
    // A server that comes to its senses is followed again.
    let opened = script.opened().await;
    opened.say(snapshot(5_000, vec![entry("a", 2, "2")]));
    until(&client, "a", 2).await;
    assert!(client.freshness().connected);
}

#[tokio::test]
async fn words_that_are_refused_for_good_are_not_said_again() {
    let mut script = Script::start().await;
    let mut refused = Status::not_found("there is no such version");
    refused.metadata_mut().insert("insula-code", "config_version_not_found".parse().unwrap());
    for (refusal, next) in [(Status::unavailable("canary: this is"), 2), (refused, 1)] {
        *script.refuse_words.lock().unwrap() = Some(refusal);
        let client = script.builder().start().await.unwrap();
        let opened = script.opened().await;
        opened.say(snapshot(10, vec![entry("a", 1, "1")]));
        assert_eq!(script.acknowledged().await.states.len(), 1);
        opened.say(delta(10, 11, vec![entry("b", 1, "1")], &[]));
        let said = script.acknowledged().await;
        assert_eq!((said.states.len(), said.revision), (next, 11), "{said:?}");
        client.close().await;
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_taken_is_not_asked_for_again() {
    let mut script = Script::start().await;
    let client = script.builder().start().await.unwrap();
    let opened = script.opened().await;
    opened.say(snapshot(10, vec![entry("a", 1, "1")]));
    client.ready(PATIENCE).await.unwrap();
    // What is only an end is gone on from.
    opened.fail(Status::unavailable("away"));
    let opened = script.opened().await;
    assert_eq!(opened.request.from_revision, 10);
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    let longs = (0..5).map(|number| entry(&format!("k{number}"), 1, &long)).collect();
    opened.say(delta(10, 11, longs, &[]));
    opened.given_up().await;
    let mut opened = script.opened().await;
    assert_eq!(opened.request.from_revision, 0, "from where it was it would come again");
    opened.say(snapshot(11, vec![entry("a", 2, "2")]));
    until(&client, "a", 2).await;
    // A server that says by its code what is wrong has not sent anything of that kind.
    let mut told = Status::internal("a defect");
    told.metadata_mut().insert("insula-code", "internal".parse().unwrap());
    for status in [told.clone(), told, Status::internal("a proxy lost its server")] {
        opened.fail(status);
        opened = script.opened().await;
        assert_eq!(opened.request.from_revision, 11);
    }
    // What does so again, before anything else has come, would go on with it.
    opened.fail(Status::internal("cannot be decoded"));
    assert_eq!(script.opened().await.request.from_revision, 0);
}

#[tokio::test]
async fn the_file_serves_while_the_server_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let mut script = Script::start().await;
    let client = script.builder().reveal_secrets().keep_on_disk(&path).start().await.unwrap();
    let opened = script.opened().await;
    assert!(opened.request.reveal);
    opened.say(snapshot(10, vec![entry("a", 1, "1"), entry("secret_config_x", 1, "\"hunter2\"")]));
    client.ready(PATIENCE).await.unwrap();
    assert_eq!(client.get::<String>("secret_config_x").unwrap(), "hunter2");
    client.close().await;
    assert!(!std::fs::read_to_string(&path).unwrap().contains("hunter2"));

    *script.refuse.lock().unwrap() = Some(Status::unavailable("away"));
    let client = script.builder().keep_on_disk(&path).start().await.unwrap();
    assert_eq!(client.get::<u32>("a"), Ok(1), "at once");
    let fresh = client.freshness();
    assert!(fresh.origin == Origin::Disk && fresh.age.is_none() && !fresh.connected, "{fresh:?}");
    let opened = script.opened().await;
    assert_eq!(opened.request.from_revision, 0, "an old file is no place to go on from");
    // A region restored from a backup is older than the file, and right.
    opened.say(snapshot(5, vec![entry("a", 2, "2")]));
    assert_eq!(client.ready(PATIENCE).await, Ok(Origin::Server));
    assert_eq!((client.get::<u32>("a"), client.freshness().revision), (Ok(2), 5));
    client.close().await;

    // A broken file is told and ignored; and so is somebody else's.
    std::fs::write(&path, b"insula-config 1 0000\n{}").unwrap();
    let client = script.builder().keep_on_disk(&path).start().await.unwrap();
    assert!(client.freshness().file_trouble.unwrap().contains("checksum"));
    assert!(client.ready(Duration::from_millis(50)).await.unwrap_err().to_string().contains("not answered"));
}

#[tokio::test]
async fn large_values_are_fetched_and_compared() {
    let mut script = Script::start().await;
    let bytes: Vec<u8> = (0..5_000_u32).map(|number| number as u8).collect();
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    let sha256 = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let blob = Blob { sha256, bytes: 5_000, media_type: "image/png".to_owned() };
    let large = insula_config_proto::v1::Entry { value: Some(Sent::Blob(blob)), ..entry("a", 1, "") };
    let (client, _opened) = begun(&mut script, vec![large, entry("b", 1, "1")]).await;
    *script.blob.lock().unwrap() = bytes.clone();
    assert_eq!(client.fetch("a").await.unwrap(), bytes);
    script.blob.lock().unwrap()[3] ^= 1;
    assert!(client.fetch("a").await.unwrap_err().to_string().contains("not what its reference says"));
    *script.blob.lock().unwrap() = vec![0; 1 << 20];
    assert!(client.fetch("a").await.is_err());
    assert!(client.fetch("b").await.is_err() && client.fetch("c").await.is_err());
}

#[tokio::test]
async fn the_server_has_to_be_the_right_one() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let mut script = Script::start_with(Some(Identity::from_pem(&pem, key))).await;
    let client = script.builder().ca_certificate(pem).start().await.unwrap();
    let opened = script.opened().await;
    opened.say(snapshot(10, vec![entry("a", 1, "1")]));
    client.ready(PATIENCE).await.unwrap();
    let stranger = script.builder().start().await.unwrap();
    let error = stranger.ready(Duration::from_secs(1)).await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("certificate"), "{error}");
}

#[tokio::test]
async fn options_that_make_no_client_are_told() {
    let builder = || Client::builder("http://localhost:1", KEY);
    let many = (0..21).fold(builder(), |builder, number| builder.prefix(number.to_string()));
    assert!(matches!(many.start().await, Err(InvalidOptions::Prefixes(21))));
    assert!(builder().client_id("x".repeat(101)).start().await.is_err());
    assert!(builder().memory_bytes_max(0).start().await.is_err());
    assert!(Client::builder("http://config.example", KEY).start().await.is_err());
    let client = builder().start().await.unwrap();
    let why = client.ready(Duration::from_millis(200)).await.unwrap_err().to_string();
    assert!(why.contains("refused") || why.contains("not answered"), "{why}");
}
