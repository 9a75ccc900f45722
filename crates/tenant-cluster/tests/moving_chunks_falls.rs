//! Where large transactions of a stream cannot be applied while they run: how often
//! that is tried again, how long it is remembered, and what is no reason for it.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod stream_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use insula_domain::Isolation::{Database, Schema};
use insula_tenant_cluster::moving::{Place, Stream, StreamName, StreamSpec};
use insula_testkit::ManualClock;
use metrics_exporter_prometheus::PrometheusBuilder;
use stream_support::beside::Beside;
use stream_support::chunks::*;
use stream_support::*;

/// Has the target refuse one row of a kind that the source does not.
async fn with_a_row_that_is_refused() -> Pair {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    pair.target.run("insert into others values (1, 'there')").await;
    pair
}

/// The row.
const REFUSED: &str = "insert into others values (2, 'there'); ";

/// A large transaction with the row, which is rolled back in the end. Where the connections
/// are being opened again, it may come whole.
async fn writes_what_is_refused(pair: &Pair, stream: &Stream) {
    let before = counted(stream).1;
    let large = begun(pair, &format!("{REFUSED}{}", rows(1, 400))).await;
    flushed(&pair.source.admin).await;
    let mut progress = stream.progress();
    let fallen = progress.wait_for(|progress| progress.fallen_back > before);
    // That none comes is no fault here.
    let _ = tokio::time::timeout(Duration::from_millis(500), fallen).await;
    large.batch_execute("rollback").await.unwrap();
    pair.caught_up(stream).await.unwrap();
}

/// Has a stream fall back.
async fn falls(pair: &Pair, stream: &Stream) {
    let (before, begun) = (counted(stream).1, Instant::now());
    while counted(stream).1 == before {
        assert!(begun.elapsed() < PATIENCE, "all comes whole");
        writes_what_is_refused(pair, stream).await;
    }
}

#[tokio::test]
async fn falls_are_forgotten_after_a_while_without_one() {
    let pair = with_a_row_that_is_refused().await;
    let clock = ManualClock::default();
    let spec = StreamSpec { clock: Arc::new(clock.clone()), ..little(&pair) };
    let stream = Stream::start(spec).await.unwrap();
    while counted(&stream).1 < 3 {
        falls(&pair, &stream).await;
    }
    // While they are remembered, all comes whole, and nothing can be refused.
    let remembered = counted(&stream);
    for _ in 0..3 {
        writes_what_is_refused(&pair, &stream).await;
    }
    assert_eq!(counted(&stream), remembered);
    clock.advance(Duration::from_secs(3_600));
    falls(&pair, &stream).await;
    pair.target.run("delete from others").await;
    pair.assert_same().await;
    stream.stop().await.unwrap();
    pair.clean().await;
}

#[tokio::test]
async fn what_was_applied_while_it_ran_and_falls_are_counted_for_the_process() {
    let pair = with_a_row_that_is_refused().await;
    let recorder = PrometheusBuilder::new().build_recorder();
    let told = recorder.handle();
    // The applier shares the test's thread.
    let _recording = metrics::set_default_local_recorder(&recorder);
    let stream = chunks(&pair).await;
    for (number, first) in [(1, 1_001), (2, 3_001)] {
        let large = begun(&pair, &rows(first, first + 1_000)).await;
        until_open(&pair, 1).await;
        large.batch_execute("commit").await.unwrap();
        pair.caught_up(&stream).await.unwrap();
        // Canary: what has not happened yet is not counted.
        let expected = format!("insula_move_streamed_total {number}\n");
        assert!(told.render().contains(&expected), "{}", told.render());
        assert!(!told.render().contains("insula_move_fallen_back_total"), "{}", told.render());
    }
    falls(&pair, &stream).await;
    let (streamed, fallen_back) = counted(&stream);
    assert!(streamed == 2 && fallen_back > 0, "{streamed} {fallen_back}");
    for expected in [
        format!("insula_move_streamed_total {streamed}\n"),
        format!("insula_move_fallen_back_total {fallen_back}\n"),
    ] {
        assert!(told.render().contains(&expected), "{}", told.render());
    }
    stream.stop().await.unwrap();
    pair.clean().await;
}

/// The processes of the stream at the target, the oldest first.
async fn processes_there(pair: &Pair) -> Vec<i32> {
    let processes = "select pid from pg_stat_activity
                     where application_name = $1 and backend_type = 'client backend' order by backend_start";
    let rows = pair.target.admin.query(processes, &[&pair.name.to_string()]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Whatever is wrong with rows that nobody will ever see.
#[tokio::test]
async fn what_fails_while_it_is_rolled_back_is_no_fall() {
    let pair = with_a_row_that_is_refused().await;
    let stream = chunks(&pair).await;
    let first = begun(&pair, &rows(1, 400)).await;
    until_open(&pair, 1).await;
    first.batch_execute("rollback").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    let before = processes_there(&pair).await;
    assert_eq!(before.len(), 2, "{before:?}");
    // The applier has all of it at once, the row and that it was rolled back.
    let beside = Beside::new();
    beside.alone(refused_and_rolled_back(pair.source.place.clone(), pair.name));
    pair.caught_up(&stream).await.unwrap();
    assert_eq!(counted(&stream), (0, 0));
    // Its session has ended, which shows that the row was refused there; the stream's own goes on.
    let waiting = Instant::now();
    while processes_there(&pair).await != before[..1] {
        assert!(waiting.elapsed() < PATIENCE, "{:?} of {before:?}", processes_there(&pair).await);
    }
    let large = begun(&pair, &rows(1_001, 3_000)).await;
    until_open(&pair, 1).await;
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    assert_eq!(counted(&stream), (1, 0));
    // Canary: a row like this that is to stay is a reason.
    falls(&pair, &stream).await;
    pair.target.run("delete from others").await;
    pair.assert_same().await;
    stream.stop().await.unwrap();
    pair.clean().await;
}

/// Rows of 1.7 kB, as the decoder counts them.
fn wide(from: u32, to: u32) -> String {
    format!(
        "insert into items select n, (select string_agg(md5(n || '/' || part), '') from generate_series(1, 50) part)
         from generate_series({from}, {to}) n; "
    )
}

/// A large transaction of which so little is sent, and in so few messages, that one look
/// into a socket takes all of it, and that ends in a row that the target refuses.
async fn refused_and_rolled_back(source: Place, name: StreamName) {
    let refused = begun_at(&source, &format!("{}{REFUSED}", wide(10_001, 10_012))).await;
    // With the last of these the decoder has too much in its memory, and sends the largest one.
    let mut others = Vec::new();
    for first in [20_001, 30_001, 40_001, 50_001] {
        others.push(begun_at(&source, &wide(first, first + 7)).await);
    }
    until_sent(&source, name).await;
    refused.batch_execute("rollback").await.unwrap();
    until_sent(&source, name).await;
    for other in others {
        other.batch_execute("rollback").await.unwrap();
    }
}
