//! Streams of changes whose appliers, connections and servers fail: nothing is
//! lost, nothing is applied twice, and nothing is left on a server.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod stream_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use insula_domain::Isolation::{Database, Pool, Schema};
use insula_problem::Code;
use insula_sql_store::Connector;
use insula_tenant_cluster::ClusterAccess;
use insula_tenant_cluster::moving::{
    Lsn, Stream, StreamFault, StreamProgress, StreamSpec, create_slot, drop_slot, replication_objects,
    replication_room, temporary_slot,
};
use insula_testkit::TestServer;
use stream_support::*;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

const SMALL: &str = "create table items (id int primary key, what text not null default '')";

/// Writes without end, in transactions of a few rows, until it is told to end.
fn keep_writing(client: Client, seed: u64) -> (Arc<AtomicU64>, tokio::task::JoinHandle<()>) {
    let left = Arc::new(AtomicU64::new(u64::MAX));
    let until = left.clone();
    let task = tokio::spawn(async move {
        let mut number = 0_u64;
        while number < until.load(Ordering::Relaxed) {
            number += 1;
            let (id, other) = (number * 3, (number * seed) % (number + 1));
            let sql = format!(
                "begin; insert into items values ({id}, 'a'), ({id} + 1, 'b');
                 update items set what = what || 'x' where id = {other};
                 delete from items where id = {other} + 1; commit"
            );
            client.batch_execute(&sql).await.unwrap();
        }
    });
    (left, task)
}

/// The next of a row of numbers that a seed decides (Numerical Recipes' generator).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) % (1 << 32);
    *state >> 8
}

#[tokio::test]
async fn whoever_applies_may_end_at_any_moment() {
    let pair = Pair::new(Schema, Pool, &versions(&[SMALL])).await;
    let mut state = u64::from(std::process::id());
    println!("seed {state}");
    let writer = pair.source.place.connect().await.unwrap();
    let insula_tenant_cluster::Connection::Own(writer) = writer else { panic!("a connection of its own") };
    let (left, writing) = keep_writing(writer, state | 1);
    let mut applied = 0;
    for _ in 0..20 {
        let stream = pair.stream().await;
        let mut progress = stream.progress();
        // So many steps are seen before the applier is dropped, wherever it is.
        for _ in 0..next_random(&mut state) % 40 {
            progress.changed().await.unwrap();
        }
        applied += progress.borrow().rows;
        drop(stream);
    }
    left.store(0, Ordering::Relaxed);
    writing.await.unwrap();
    let stream = pair.stream().await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    println!("{applied} rows were applied by those that were dropped");
    stream.stop().await.unwrap();
    // Canary: progress that does not come from the transactions themselves loses.
    pair.source.run("insert into items values (-1)").await;
    let end = log_end(&pair.source.admin).await;
    let advance = format!("select pg_replication_origin_advance('{}', '{end}')", pair.name);
    let begun = Instant::now();
    while let Err(error) = pair.target.admin.batch_execute(&advance).await {
        // The session of the one that was stopped may be ending still.
        assert_eq!(error.code(), Some(&SqlState::OBJECT_IN_USE), "{error:?}");
        assert!(begun.elapsed() < PATIENCE, "its session does not end");
    }
    let stream = pair.stream().await;
    pair.caught_up(&stream).await.unwrap();
    let (source, target) = pair.both().await;
    assert_ne!(source, target);
    drop(stream);
    pair.clean().await;
}

#[tokio::test]
async fn connections_that_end_are_opened_again_and_a_newcomer_takes_over() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let stream = pair.stream().await;
    for number in 0..3 {
        pair.source.run(&format!("insert into items values ({number})")).await;
        let end = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = '{}'",
            pair.name
        );
        pair.target.admin.batch_execute(&end).await.unwrap();
        pair.caught_up(&stream).await.unwrap();
    }
    pair.assert_same().await;
    let newcomer = pair.stream().await;
    let mut progress = stream.progress();
    let ended = progress.wait_for(|progress| progress.fault.is_some());
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().fault.clone();
    assert_eq!(ended, Some(StreamFault::Superseded));
    pair.source.run("insert into items values (7)").await;
    pair.caught_up(&newcomer).await.unwrap();
    pair.assert_same().await;
    // Without its slot a stream ends, and says why.
    drop_slot(&pair.source.place.access, pair.name).await.unwrap();
    let mut progress = newcomer.progress();
    let ended = progress.wait_for(|progress| progress.fault.is_some());
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().fault.clone();
    assert!(matches!(ended, Some(StreamFault::SlotLost(_))), "{ended:?}");
    pair.clean().await;
}

#[tokio::test]
async fn a_server_that_freezes_is_away() {
    let server = TestServer::start().await;
    let pair = Pair::on([None, Some(&server)], SMALL).await;
    let patience = Duration::from_secs(2);
    let stream = Stream::start(StreamSpec { patience, ..pair.spec() }).await.unwrap();
    pair.source.run("insert into items values (1)").await;
    pair.caught_up(&stream).await.unwrap();
    // One that is only slow is not.
    let locked = server.connect(pair.target.database.name()).await;
    let table = format!("{}.items", pair.target.place.placement.schema);
    locked.batch_execute(&format!("begin; lock table {table}")).await.unwrap();
    pair.source.run("insert into items values (2)").await;
    let mut progress = stream.progress();
    let is_away = |progress: &StreamProgress| progress.away.is_some() || progress.fault.is_some();
    assert!(tokio::time::timeout(patience * 2, progress.wait_for(is_away)).await.is_err());
    locked.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    server.freeze();
    pair.source.run("insert into items values (3)").await;
    let ended = progress.wait_for(|progress| progress.fault.is_some());
    let ended = tokio::time::timeout(PATIENCE, ended).await.map(|ended| ended.unwrap().fault.clone());
    server.thaw();
    assert!(matches!(ended, Ok(Some(StreamFault::Away(_)))), "{ended:?}");
    let stream = pair.stream().await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    drop(stream);
    pair.clean().await;
}

#[tokio::test]
async fn a_server_that_is_away_for_too_long_ends_the_stream_and_a_short_while_does_not() {
    let mut server = TestServer::start().await;
    let pair = Pair::on([None, Some(&server)], SMALL).await;
    let stream = pair.stream().await;
    pair.source.run("insert into items values (1)").await;
    pair.caught_up(&stream).await.unwrap();
    server.kill_9().await;
    pair.source.run("insert into items values (2)").await;
    let mut progress = stream.progress();
    let away = progress.wait_for(|progress| progress.away.is_some());
    tokio::time::timeout(PATIENCE, away).await.unwrap().unwrap();
    server.start_again().await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    drop(stream);
    let impatient = StreamSpec { patience: Duration::from_millis(300), ..pair.spec() };
    let stream = Stream::start(impatient).await.unwrap();
    server.stop().await;
    let mut progress = stream.progress();
    let ended = progress.wait_for(|progress| progress.fault.is_some());
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().fault.clone();
    assert!(matches!(ended, Some(StreamFault::Away(_))), "{ended:?}");
    server.start_again().await;
    pair.clean().await;
}

#[tokio::test]
async fn a_large_transaction_takes_little_memory() {
    let pair = Pair::new(Pool, Database, &versions(&[SMALL])).await;
    let stream = pair.stream().await;
    pair.write("insert into items values (0)").await;
    pair.caught_up(&stream).await.unwrap();
    let before = resident_bytes();
    let began = Instant::now();
    pair.source
        .fill("insert into items select n, repeat(md5(n::text), 10) from generate_series(1, 200000) n")
        .await;
    let written = began.elapsed();
    pair.caught_up(&stream).await.unwrap();
    let (took, grown) = (began.elapsed(), resident_bytes().saturating_sub(before));
    println!(
        "200,000 rows of 320 letters: written after {written:?}, applied after {took:?}; {grown} bytes more"
    );
    // All of it would be 64 MB and more.
    assert!(grown < 32 << 20, "{grown}");
    pair.assert_same().await;
    // Many small transactions are merged when they wait.
    drop(stream);
    let own = pair.tenant().as_uuid();
    let many = format!(
        "do $$ begin for n in 1..3000 loop update items set what = 'y' where id = n and tenant_id = '{own}'; commit; end loop; end $$"
    );
    let client = pair.source.database.connect().await;
    client.batch_execute("set search_path = app").await.unwrap();
    client.batch_execute(&many).await.unwrap();
    let began = Instant::now();
    let stream = pair.stream().await;
    pair.caught_up(&stream).await.unwrap();
    println!("3,000 transactions of one row: applied after {:?}", began.elapsed());
    pair.assert_same().await;
    // One row at a time, as soon as it is committed.
    let mut times = Vec::new();
    for number in 0..100 {
        let write = format!("update items set what = 'z' where id = {number} and tenant_id = '{own}'");
        client.batch_execute(&write).await.unwrap();
        let began = Instant::now();
        pair.caught_up(&stream).await.unwrap();
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!("marker to applied: p50 {:?}, p99 {:?}", times[50], times[98]);
    drop(stream);
    pair.clean().await;
}

/// What the process has in memory.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn both_ends_are_seen_at_the_same_moment() {
    let pair = Pair::new(Schema, Pool, &versions(&[SMALL])).await;
    let stream = pair.stream().await;
    let writer = pair.source.place.connect().await.unwrap();
    let insula_tenant_cluster::Connection::Own(writer) = writer else { panic!("a connection of its own") };
    let (left, writing) = keep_writing(writer, 7);
    let mut seen = Vec::new();
    for _ in 0..5 {
        let hold = stream.hold().await.unwrap();
        let exported = temporary_slot(&pair.source.place, pair.name, PATIENCE).await.unwrap();
        hold.at(exported.consistent_point).await.unwrap();
        let (source, target) =
            (pair.source.place.connect().await.unwrap(), pair.target.place.connect().await.unwrap());
        let import = format!(
            "begin isolation level repeatable read; set transaction snapshot '{}'",
            exported.snapshot
        );
        source.batch_execute(&import).await.unwrap();
        target.batch_execute("begin isolation level repeatable read; select 1").await.unwrap();
        drop(hold);
        drop(exported);
        let before = stream.progress().borrow().rows;
        let mut progress = stream.progress();
        progress.wait_for(|progress| progress.rows > before).await.unwrap();
        let at_source = contents(&source, &pair.source.place, &pair.tables).await;
        let at_target = contents(&target, &pair.target.place, &pair.tables).await;
        assert_eq!(at_source, at_target);
        // Canary: a moment later they differ from what was seen.
        assert_ne!(pair.contents(&pair.target.place).await, at_target);
        seen.push(at_source);
    }
    seen.dedup();
    assert_eq!(seen.len(), 5, "it was another moment each time");
    let hold = stream.hold().await.unwrap();
    let old = stream.progress().borrow().applied;
    drop(hold);
    pair.caught_up(&stream).await.unwrap();
    let hold = stream.hold().await.unwrap();
    assert!(hold.at(old).await.is_err(), "it is past that place");
    drop(hold);
    left.store(0, Ordering::Relaxed);
    writing.await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    drop(stream);
    pair.clean().await;
}

/// How far the target says that the stream was applied.
async fn origin_progress(pair: &Pair) -> Option<Lsn> {
    let objects = replication_objects(&pair.target.place.access).await.unwrap();
    objects.origins.into_iter().find(|(name, _)| *name == pair.name).and_then(|(_, applied)| applied)
}

#[tokio::test]
async fn a_quiet_stream_does_not_keep_the_log() {
    let pair = Pair::new(Pool, Schema, &versions(&[SMALL])).await;
    let stream = pair.stream().await;
    let other = new_tenant().as_uuid();
    pair.source
        .run(&format!("insert into items select n, 'of another', '{other}' from generate_series(1, 5000) n"))
        .await;
    let end = log_end(&pair.source.admin).await;
    let mut seen = stream.progress();
    tokio::time::timeout(PATIENCE, seen.wait_for(|now| now.applied >= end)).await.unwrap().unwrap();
    let progress = stream.progress().borrow().clone();
    assert_eq!(progress.rows, 0);
    stream.stop().await.unwrap();
    let begun = Instant::now();
    let slot = loop {
        let objects = replication_objects(&pair.source.place.access).await.unwrap();
        let slot = objects.slots.into_iter().find(|slot| slot.stream == pair.name).unwrap();
        // Its reader may be ending still.
        if slot.active_pid.is_none() {
            break slot;
        }
        assert!(begun.elapsed() < PATIENCE, "{slot:?}");
    };
    assert!(slot.confirmed >= Some(end), "{slot:?} {end}");
    assert_eq!(slot.database, pair.source.database.name());
    assert!(slot.retained_bytes.is_some(), "{slot:?}");
    // Nothing was applied, so the origin is not needed to know where to go on.
    assert_eq!(origin_progress(&pair).await, None);
    pair.write("insert into items values (1)").await;
    let stream = pair.stream().await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    assert!(origin_progress(&pair).await > Some(end));
    drop(stream);
    pair.clean().await;
}

#[tokio::test]
async fn a_transaction_in_the_way_of_a_slot_is_named_and_no_slot_is_left() {
    is_in_the_way_for(Duration::from_millis(300)).await;
}

/// No time limit of a session, ours or the server's, comes before who makes the slot.
#[tokio::test]
#[ignore = "half a minute of waiting: make test-moves"]
async fn a_transaction_may_be_in_the_way_of_a_slot_for_long() {
    is_in_the_way_for(Duration::from_secs(33)).await;
}

async fn is_in_the_way_for(within: Duration) {
    // A server of its own: nobody else should have to wait for this transaction.
    let server = TestServer::start().await;
    let mut pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    pair.clean().await;
    // Over the Unix socket, as servers are reached that Insula runs itself.
    let url = server.url("postgres");
    let (start, host) = url.split_once('@').unwrap();
    let folder = server.socket_folder().display().to_string().replace('/', "%2F");
    let url = format!("{start}@{}", host.replacen("127.0.0.1", &folder, 1).replacen("localhost", &folder, 1));
    assert!(url.contains("%2F"), "{host}");
    let access = ClusterAccess::new("test-b".parse().unwrap(), Connector::new(&url, None).unwrap());
    let name = pair.source.database.name().to_owned();
    let admin = server.connect("postgres").await;
    admin.batch_execute(&format!("create database {name}")).await.unwrap();
    pair.source.place.access = access.clone();
    let in_the_way = server.connect("postgres").await;
    in_the_way.batch_execute("begin; create table t ()").await.unwrap();
    let pid: i32 = in_the_way.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let room = replication_room(&access).await.unwrap();
    assert_eq!(room.wal_level, "logical");
    let problem = create_slot(&pair.source.place, pair.name, within).await.unwrap_err();
    assert_eq!(problem.code(), Code::MoveBlocked, "{}", problem.chain());
    assert!(problem.detail().contains(&format!("process {pid} ")), "{}", problem.detail());
    assert_eq!(replication_objects(&access).await.unwrap().slots, []);
    in_the_way.batch_execute("commit").await.unwrap();
    let exported = create_slot(&pair.source.place, pair.name, PATIENCE).await.unwrap();
    let again = create_slot(&pair.source.place, pair.name, PATIENCE).await.unwrap();
    assert!(again.consistent_point >= exported.consistent_point);
    drop(exported);
    let looking = temporary_slot(&pair.source.place, pair.name, PATIENCE).await.unwrap();
    let objects = replication_objects(&access).await.unwrap();
    assert_eq!(objects.slots.iter().map(|slot| slot.temporary).collect::<Vec<_>>(), [false, true]);
    let taken = replication_room(&access).await.unwrap();
    assert_eq!(taken.free_slots, room.free_slots - 2);
    drop(looking);
    drop_slot(&access, pair.name).await.unwrap();
    drop_slot(&access, pair.name).await.unwrap();
    assert_eq!(replication_objects(&access).await.unwrap().slots, []);
}
