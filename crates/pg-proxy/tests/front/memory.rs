//! The front's memory does not grow with what passes through it: clients that do
//! not read, rows and parameters of 64 MB, thousands of questions ahead, and COPY
//! in both directions. It is the memory of a process that the system counts.

use std::time::Instant;

use bytes::{Buf, BufMut, BytesMut};
use insula_pg_wire::backend::tag;
use insula_pg_wire::frontend::{self, Parse};
use insula_pg_wire::{Header, Message, read_message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::apart::Apart;
use crate::raw::{Raw, letters};
use crate::support::PATIENCE;

const MIB: usize = 1024 * 1024;

/// What one session may take: a buffer of 64 KiB and one read each way, as they
/// grow.
const SESSION_KIB: u64 = 256;

/// Beside that, for what a process takes when it does something the first time,
/// and for the questions of one session that are not answered yet.
const ONCE_KIB: u64 = 2 * 1024;

/// Fails where the front has had more than so much for each of so many sessions.
#[allow(clippy::print_stdout)] // the figures, for who runs them with --no-capture
fn check(apart: &Apart, before_kib: u64, sessions: u64, what: &str) {
    let grown = apart.peak_kib().saturating_sub(before_kib);
    println!("{what}: {grown} KiB with {sessions} sessions, from {before_kib} KiB");
    let allowed = ONCE_KIB + sessions * SESSION_KIB;
    assert!(grown <= allowed, "{what}: {grown} KiB more, {allowed} KiB are allowed");
}

async fn warm(apart: &Apart, slug: &str) -> Raw {
    let mut raw = apart.session(slug).await;
    raw.query("select 1").await;
    raw.until_ready().await;
    raw
}

/// Waits until so many backends wait for something.
async fn until_waiting(admin: &Client, event: &str, count: i64) {
    let query = "select count(*) from pg_stat_activity where datname = current_database() \
                 and usename like 'tenant\\_%' and wait_event = $1";
    let begun = Instant::now();
    while admin.query_one(query, &[&event]).await.unwrap().get::<_, i64>(0) != count {
        assert!(begun.elapsed() < PATIENCE, "{count} backends do not come to wait for {event}");
    }
}

/// Reads to the next `ReadyForQuery` without keeping anything; counts bytes of
/// rows and of COPY data.
async fn bytes_until_ready(raw: &mut Raw) -> usize {
    let mut bytes = 0;
    loop {
        let message = raw.next().await.expect("the session goes on");
        match message.tag {
            tag::DATA_ROW | frontend::tag::COPY_DATA => bytes += message.body.len(),
            tag::READY_FOR_QUERY => return bytes,
            tag::ERROR_RESPONSE => panic!("{message:?}"),
            _ => {}
        }
    }
}

const ROWS: usize = 500_000;

#[tokio::test]
async fn clients_that_do_not_read_cost_no_more_than_others() {
    let apart = Apart::start();
    let admin = apart.admin().await;
    let rows = format!("select repeat('x', 1000) from generate_series(1, {ROWS})");
    let mut clients = Vec::new();
    for number in 0..10 {
        clients.push(warm(&apart, ["acme", "globex"][number % 2]).await);
    }
    let before = apart.resident_kib();
    for (number, raw) in clients.iter_mut().enumerate() {
        let copied = format!("copy ({rows}) to stdout");
        raw.query(if number % 4 < 2 { &rows } else { &copied }).await;
    }
    // Each would get 500 MB, and the servers have no room for it.
    until_waiting(&admin, "ClientWrite", 10).await;
    check(&apart, before, 10, "rows of 500 MB for each, not read");
    // Two of them read in the end, and get all of it.
    for (index, bytes) in [(0, ROWS * 1006), (2, ROWS * 1001)] {
        assert_eq!(bytes_until_ready(&mut clients[index]).await, bytes);
    }
    check(&apart, before, 10, "rows of 500 MB, read");
    // Whoever has not read goes, and its backend with it.
    drop(clients);
    until_waiting(&admin, "ClientWrite", 0).await;
}

/// A message with a body of so many equal bytes between others.
fn long(tag: u8, before: &[u8], byte: u8, count: usize, behind: &[u8]) -> BytesMut {
    let length = before.len() + count + behind.len();
    let mut message = BytesMut::with_capacity(Header::BYTES + length);
    message.put_u8(tag);
    message.put_u32(u32::try_from(length + 4).unwrap());
    message.put_slice(before);
    message.put_bytes(byte, count);
    message.put_slice(behind);
    message
}

#[tokio::test]
async fn messages_of_64_megabytes_pass_in_both_directions() {
    const BYTES: usize = 64 * MIB;
    let apart = Apart::start();
    let mut raw = warm(&apart, "acme").await;
    let before = apart.resident_kib();
    raw.query(&format!("select repeat('x', {BYTES}) from generate_series(1, 2)")).await;
    assert_eq!(bytes_until_ready(&mut raw).await, 2 * (BYTES + 6));
    check(&apart, before, 1, "rows of 64 MB");

    raw.send(&long(b'P', b"\0select length('", b'y', BYTES, b"')\0\0\0")).await;
    raw.send(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04").await;
    let answer = raw.until_ready().await;
    assert!(letters(&answer) == "12DCZ" && answer[2].body.ends_with(b"67108864"));
    check(&apart, before, 1, "a prepared statement of 64 MB");

    // In a pool a text might have to be changed.
    let mut raw = warm(&apart, "globex").await;
    raw.send(&long(b'Q', b"select length('", b'y', BYTES, b"')\0")).await;
    let answer = raw.until_ready().await;
    assert!(letters(&answer) == "TDCZ" && answer[1].body.ends_with(b"67108864"));
    check(&apart, before, 2, "a statement of 64 MB");

    for slug in ["acme", "globex"] {
        for name in [&b""[..], b"named"] {
            let mut raw = warm(&apart, slug).await;
            raw.write(|out| {
                Parse { name, query: b"select length($1::text)", parameter_types: b"\0\0" }.put(out).unwrap();
            })
            .await;
            let names = [b"\0", name, b"\0\0\0\0\x01\x04\0\0\0"].concat();
            raw.send(&long(b'B', &names, b'z', BYTES, b"\0\0")).await;
            raw.send(b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04").await;
            let answer = raw.until_ready().await;
            assert!(letters(&answer) == "12DCZ" && answer[2].body.ends_with(b"67108864"), "{slug}");
            check(&apart, before, 3, "a parameter of 64 MB");
        }
    }
}

/// The half of a session that is read beside the other one.
struct Answers {
    half: OwnedReadHalf,
    inbox: BytesMut,
}

impl Answers {
    async fn next(&mut self) -> Message {
        loop {
            if let Some(message) = read_message(&mut self.inbox, 1 << 30).unwrap() {
                return message;
            }
            let read = timeout(PATIENCE, self.half.read_buf(&mut self.inbox)).await;
            assert!(read.expect("an answer comes").unwrap() > 0, "the session goes on");
        }
    }
}

#[tokio::test]
async fn twenty_thousand_questions_ahead_are_answered_in_order_in_bounded_memory() {
    const QUESTIONS: usize = 20_000;
    let apart = Apart::start();
    let admin = apart.admin().await;
    for slug in ["acme", "globex"] {
        for waits in [false, true] {
            let raw = warm(&apart, slug).await;
            let before = apart.resident_kib();
            let (half, mut write) = raw.stream.into_split();
            let writing = tokio::spawn(async move {
                let mut out = BytesMut::new();
                if waits {
                    // Meanwhile more are asked than the front takes.
                    frontend::put_query(&mut out, b"select pg_sleep(0.5)").unwrap();
                }
                for number in 0..QUESTIONS {
                    let query = format!("select '{number}', repeat('x', 1000)");
                    if number % 2 == 0 {
                        frontend::put_query(&mut out, query.as_bytes()).unwrap();
                        continue;
                    }
                    Parse { name: b"", query: query.as_bytes(), parameter_types: b"\0\0" }
                        .put(&mut out)
                        .unwrap();
                    out.put_slice(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04");
                }
                write.write_all(&out).await.unwrap();
                write
            });
            if !waits {
                // Nobody reads: in the end nothing moves any more.
                until_waiting(&admin, "ClientWrite", 1).await;
            }
            let mut answers = Answers { half, inbox: BytesMut::new() };
            let mut expected = 0;
            if waits {
                while answers.next().await.tag != tag::READY_FOR_QUERY {}
            }
            while expected < QUESTIONS {
                let message = answers.next().await;
                assert_ne!(message.tag, tag::ERROR_RESPONSE, "{message:?}");
                if message.tag == tag::DATA_ROW {
                    let mut body = message.body;
                    body.advance(2);
                    let length = body.get_u32() as usize;
                    assert_eq!(&body[..length], expected.to_string().as_bytes());
                    expected += 1;
                }
            }
            check(&apart, before, 1, "twenty thousand questions ahead");
            // The session goes on until here.
            drop((writing.await.unwrap(), answers));
        }
    }
}

#[tokio::test]
async fn rows_for_a_server_that_does_not_take_them_wait_with_the_client() {
    const ROWS: usize = 300;
    let apart = Apart::start();
    let admin = apart.admin().await;
    let mut raw = warm(&apart, "acme").await;
    // The first row waits for a lock, and none of them stays.
    raw.query(
        "create table t (a text);
         create function waits() returns trigger language plpgsql as $$
         begin perform pg_advisory_xact_lock_shared(7); return null; end $$;
         create trigger waits before insert on t for each row execute function waits()",
    )
    .await;
    raw.until_ready().await;
    admin.batch_execute("begin; select pg_advisory_xact_lock(7)").await.unwrap();
    let before = apart.resident_kib();
    raw.query("copy t from stdin").await;
    assert_eq!(raw.next().await.unwrap().tag, tag::COPY_IN_RESPONSE);
    let (half, mut write) = raw.stream.into_split();
    let writing = tokio::spawn(async move {
        // In one message each, and one of 64 MB.
        let row = long(b'd', b"", b'x', MIB, b"\n");
        for _ in 0..ROWS {
            write.write_all(&row).await.unwrap();
        }
        write.write_all(&long(b'd', b"", b'y', 64 * MIB, b"\n")).await.unwrap();
        write.write_all(b"c\0\0\0\x04").await.unwrap();
        write
    });
    until_waiting(&admin, "advisory", 1).await;
    // As much as goes into the buffers of the system; then nothing moves.
    let begun = Instant::now();
    while begun.elapsed().as_millis() < 500 {
        tokio::task::yield_now().await;
        assert!(!writing.is_finished(), "364 MB are on their way to a server that takes none");
    }
    check(&apart, before, 1, "rows that wait");
    admin.batch_execute("commit").await.unwrap();
    let mut answers = Answers { half, inbox: BytesMut::new() };
    let done = answers.next().await;
    assert_eq!((done.tag, &done.body[..]), (tag::COMMAND_COMPLETE, &b"COPY 0\0"[..]));
    check(&apart, before, 1, "rows of 364 MB");
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn memory_that_is_held_is_seen() {
    // The canary: statements that a session may keep are kept.
    let apart = Apart::start();
    let mut raw = warm(&apart, "acme").await;
    let before = apart.resident_kib();
    for number in 0..120 {
        let (name, text) = (format!("s{number}"), format!("select '{number}{}'", "x".repeat(60_000)));
        raw.write(|out| {
            let (name, query) = (name.as_bytes(), text.as_bytes());
            Parse { name, query, parameter_types: b"\0\0" }.put(out).unwrap();
            out.put_slice(b"S\0\0\0\x04");
        })
        .await;
        raw.until_ready().await;
    }
    let grown = apart.peak_kib() - before;
    assert!(grown > ONCE_KIB + SESSION_KIB, "{grown} KiB for statements of 7 MB");
}
