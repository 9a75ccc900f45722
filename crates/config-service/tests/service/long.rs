//! Changes that are long, and watchers that do not take what they are sent.

use insula_config_proto::v1;
use insula_config_proto::v1::config_client::ConfigClient;
use insula_config_proto::v1::transact_request::{Op, op};
use insula_config_proto::v1::watch_event::{Event, Reason};
use insula_config_service::{Bounds, WatchAsked};
use prost::Message;
use tokio::sync::mpsc;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::support::{Bearer, Client, PATIENCE, World, put};
use crate::watches::watcher_of;

/// What a client takes that was not told otherwise.
const USUAL: usize = 4 << 20;

/// So many values are longer than that together.
const MANY: usize = 17;

fn long(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes))
}

fn put_text(key: &str, json: String) -> v1::PutRequest {
    v1::PutRequest { value: Some(v1::put_request::Value::Json(json.into())), ..put(key, "1") }
}

/// Puts many long values at once, and a short one.
async fn put_many(client: &mut Client, short: &'static str) {
    let value = long(250_000);
    let op = |key: &str, json: &str| Op { op: Some(op::Op::Put(put_text(key, json.to_owned()))) };
    let longs = (0..MANY).map(|number| op(&format!("tenant_config_long/{number:02}"), &value));
    let ops = longs.chain([op("tenant_config_short", short)]).collect();
    client.transact(v1::TransactRequest { ops, ..Default::default() }).await.unwrap();
}

type Stock = ConfigClient<InterceptedService<Channel, Bearer>>;

async fn stock(world: &World, role: &str) -> Stock {
    ConfigClient::with_interceptor(world.channel(), Bearer(world.credential(1, role).await))
}

/// Events of a watch by a client that was not told to take long messages.
struct Told(tonic::Streaming<v1::WatchEvent>);

impl Told {
    async fn begin(client: &mut Stock, request: v1::WatchRequest) -> Self {
        Self(client.watch(request).await.unwrap().into_inner())
    }

    /// The next event that is no heartbeat, and how long it was.
    async fn next(&mut self) -> (Event, usize) {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.message()).await.expect("something comes");
            let event = next.unwrap().unwrap();
            let length = event.encoded_len();
            match event.event.unwrap() {
                Event::Heartbeat(_) => {}
                event => return (event, length),
            }
        }
    }

    /// A snapshot, all of its parts, and the longest of them.
    async fn snapshot(&mut self) -> (v1::watch_event::Snapshot, usize) {
        let (mut entries, mut longest) = (Vec::new(), 0);
        loop {
            let (event, length) = self.next().await;
            let Event::Snapshot(part) = event else { panic!("a snapshot: {event:?}") };
            longest = longest.max(length);
            entries.extend(part.entries.clone());
            if !part.more {
                return (v1::watch_event::Snapshot { entries, ..part }, longest);
            }
        }
    }

    async fn delta(&mut self) -> Vec<String> {
        let (event, _) = self.next().await;
        let Event::Delta(delta) = event else { panic!("a delta: {event:?}") };
        delta.entries.into_iter().map(|entry| entry.key).collect()
    }
}

#[tokio::test]
async fn a_change_that_is_long_comes_in_parts_live_and_to_who_comes_back() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    let mut stock = stock(&world, "reader").await;
    acme.put(put("tenant_config_short", "0")).await.unwrap();
    let under = |prefix: &str| v1::WatchRequest { prefixes: vec![prefix.to_owned()], ..Default::default() };
    let mut all = Told::begin(&mut stock, v1::WatchRequest::default()).await;
    let (first, _) = all.snapshot().await;
    assert_eq!(first.entries.len(), 1);
    let mut longs = Told::begin(&mut stock, under("tenant_config_long")).await;
    let mut one = Told::begin(&mut stock, under("tenant_config_long/03")).await;
    let mut short = Told::begin(&mut stock, under("tenant_config_short")).await;
    for watch in [&mut longs, &mut one, &mut short] {
        watch.snapshot().await;
    }

    put_many(&mut acme, "1").await;
    for (watch, number) in [(&mut all, MANY + 1), (&mut longs, MANY)] {
        let (told, longest) = watch.snapshot().await;
        assert_eq!((told.reason(), told.entries.len()), (Reason::Overflow, number));
        assert!(longest < 512 << 10, "{longest} bytes in one message");
        let bytes: usize = told.entries.iter().map(Message::encoded_len).sum();
        assert!(bytes > USUAL, "canary: in one message it would not be taken");
    }
    // By what each of them watches.
    assert_eq!(one.delta().await, ["tenant_config_long/03"]);
    assert_eq!(short.delta().await, ["tenant_config_short"]);
    acme.put(put("tenant_config_short", "2")).await.unwrap();
    assert_eq!(all.delta().await, ["tenant_config_short"], "and it goes on");

    let back = |first: &v1::watch_event::Snapshot, prefix: &str| v1::WatchRequest {
        from_revision: first.revision,
        view: first.view.clone(),
        client_id: "one".to_owned(),
        ..under(prefix)
    };
    let (told, longest) = Told::begin(&mut stock, back(&first, "")).await.snapshot().await;
    assert_eq!((told.reason(), told.entries.len()), (Reason::Compacted, MANY + 1));
    assert!(longest < 512 << 10, "{longest} bytes in one message");
    let mut short = Told::begin(&mut stock, back(&first, "tenant_config_short")).await;
    assert_eq!(short.delta().await, ["tenant_config_short"], "what it has missed is short");
}

/// Watchers that take a long value each, and nothing more until they are told to:
/// how much was on its way at the most.
async fn stalled(sending_bytes: usize, watchers: usize) -> usize {
    let world = World::with(Bounds { sending_bytes, ..Bounds::default() }).await;
    let mut acme = world.admin(1).await;
    acme.put(put_text("tenant_config_a", long(100_000))).await.unwrap();
    let (told, mut has_come) = mpsc::unbounded_channel();
    for _ in 0..watchers {
        let (service, told) = (world.service.clone(), told.clone());
        tokio::spawn(async move {
            let mut watcher = service.watch(watcher_of(1), WatchAsked::default()).await.unwrap();
            watcher.next().await.unwrap().unwrap();
            told.send(watcher).unwrap();
        });
    }
    let (mut most, mut held) = (0, Vec::new());
    for number in 0..watchers {
        // As many as are let in take theirs; then one goes, and another gets its own.
        if (number + 1) * 101_000 > sending_bytes / 8 {
            held.pop();
        }
        let came = tokio::time::timeout(PATIENCE, has_come.recv()).await.expect("each gets its own");
        most = most.max(world.service.sending_bytes());
        held.push(came.unwrap());
    }
    drop(held);
    assert_eq!(world.service.sending_bytes(), 0, "nothing is left");
    most
}

#[tokio::test]
async fn what_is_on_its_way_to_those_who_take_nothing_is_bounded() {
    let most = stalled(8 * 256_000, 12).await;
    assert!(most <= 256_000, "{most} bytes");
    // Canary: it is the bound that has the others wait.
    let most = stalled(usize::MAX, 12).await;
    assert!(most > 1_200_000, "{most} bytes");
}

/// Waits until so many bytes are on their way.
async fn until_sending(world: &World, is_so: impl Fn(usize) -> bool) {
    let so = async {
        while !is_so(world.service.sending_bytes()) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await; // between two looks
        }
    };
    tokio::time::timeout(PATIENCE, so).await.expect("so many are on their way");
}

#[tokio::test]
async fn what_was_sent_counts_until_it_is_read() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    acme.put(put_text("tenant_config_a", long(250_000))).await.unwrap();
    let key = world.credential(1, "reader").await;
    let small = Endpoint::from_shared(world.address.clone()).unwrap().initial_stream_window_size(65_535);
    let mut stock = ConfigClient::with_interceptor(small.connect_lazy(), Bearer(key));
    let mut one = Told::begin(&mut stock, v1::WatchRequest::default()).await;
    let mut other = Told::begin(&mut stock, v1::WatchRequest::default()).await;
    until_sending(&world, |bytes| bytes > 500_000).await;
    one.snapshot().await;
    until_sending(&world, |bytes| (250_000..500_000).contains(&bytes)).await;
    // It goes on, though nothing came behind it; and an end lets go as well.
    other.snapshot().await;
    until_sending(&world, |bytes| bytes == 0).await;
    let third = Told::begin(&mut stock, v1::WatchRequest::default()).await;
    until_sending(&world, |bytes| bytes > 0).await;
    drop(third);
    until_sending(&world, |bytes| bytes == 0).await;

    // So does what comes to who comes back.
    drop((one, other));
    let back = Told::begin(&mut stock, v1::WatchRequest::default()).await.snapshot().await.0;
    acme.put(put_text("tenant_config_a", long(240_000))).await.unwrap();
    until_sending(&world, |bytes| bytes == 0).await;
    let (from_revision, view) = (back.revision, back.view);
    let back = v1::WatchRequest { from_revision, view, client_id: "one".to_owned(), ..Default::default() };
    let mut resumed = Told::begin(&mut stock, back).await;
    until_sending(&world, |bytes| bytes > 240_000).await;
    assert_eq!(resumed.delta().await, ["tenant_config_a"]);
    until_sending(&world, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn secrets_in_clear_are_as_long_as_they_are() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    let mut stock = stock(&world, "tenant_admin").await;
    let secrets = |count: usize, letter: &str| {
        let value = format!("\"{}\"", letter.repeat(60_000));
        let op = |number| Op {
            op: Some(op::Op::Put(put_text(&format!("secret_config_s/{number:02}"), value.clone()))),
        };
        v1::TransactRequest { ops: (0..count).map(op).collect(), ..Default::default() }
    };
    acme.transact(secrets(80, "x")).await.unwrap();
    let in_clear = v1::WatchRequest { reveal: true, ..Default::default() };
    let mut watch = Told::begin(&mut stock, in_clear).await;
    for reason in [Reason::Asked, Reason::Overflow] {
        let (told, longest) = watch.snapshot().await;
        assert_eq!((told.reason(), told.entries.len()), (reason, 80));
        assert!(longest < 256 << 10, "{longest} bytes in one message");
        let bytes: usize = told.entries.iter().map(Message::encoded_len).sum();
        assert!(bytes > USUAL, "canary: in one message it would not be taken");
        acme.transact(secrets(80, "y")).await.unwrap();
    }
}
