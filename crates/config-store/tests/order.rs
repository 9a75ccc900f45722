//! Many writers at once, in two processes' stead, against real PostgreSQL, held
//! against a model in memory that is fed with the log: a reader that goes on
//! from its last revision while they write misses nothing and sees everything
//! in order, one of several that write on the same condition wins, and the
//! history is what the tag says.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Here, here, json, key, one, scope, transaction, write};
use insula_config_model::{Scope, Stored, WriteOp, Written};
use insula_config_store::{LogChange, LogRow, Writer};
use insula_domain::Entropy;
use insula_problem::Code;
use insula_testkit::SeededEntropy;

/// Reads behind its last revision until it is told to stop, and then once more.
async fn follow(here: &Here, stop: &AtomicBool) -> Vec<LogRow> {
    let (mut rows, mut last): (Vec<LogRow>, i64) = (Vec::new(), 0);
    loop {
        let is_last = stop.load(Ordering::SeqCst);
        let log = here.store.log_after(last, 7).await.unwrap();
        assert!(log.revision >= last);
        last = log.revision;
        let is_empty = log.rows.is_empty();
        rows.extend(log.rows);
        if is_last && is_empty {
            return rows;
        }
    }
}

fn pick(entropy: &dyn Entropy, of: u8) -> u8 {
    let mut byte = [0];
    entropy.fill(&mut byte);
    byte[0] % of
}

/// One writer's work; what it was told of each write that was done.
async fn work(writer: Writer, number: u8, writes: usize) -> Vec<Written> {
    let entropy = SeededEntropy::new(u64::from(number));
    let mut told = Vec::new();
    for count in 0..writes {
        let name = format!("k/{}", pick(&entropy, 4));
        let place = scope(1 + u16::from(pick(&entropy, 2)));
        let text = format!("\"{number}/{count}\"");
        let op = match pick(&entropy, 8) {
            0 => WriteOp::Remove,
            1 => WriteOp::Rollback(i64::from(1 + pick(&entropy, 9))),
            2 => WriteOp::Label("kept".parse().unwrap(), Some(i64::from(1 + pick(&entropy, 9)))),
            _ => json(&text),
        };
        let condition = (pick(&entropy, 4) == 0).then(|| i64::from(pick(&entropy, 12)));
        let mut writes = vec![write(place.clone(), &name, op, condition)];
        if pick(&entropy, 4) == 0 {
            writes.push(write(place, "k/both", json(&text), None));
        }
        match writer.write(transaction(writes, None)).await {
            Ok(written) => told.extend(written),
            Err(problem) => assert!(
                [Code::ConfigVersionConflict, Code::ConfigVersionNotFound, Code::ConfigKeyNotFound]
                    .contains(&problem.code()),
                "{}",
                problem.chain()
            ),
        }
    }
    told
}

/// The newest versions and the labels, as the log tells them.
#[derive(Default)]
struct Model {
    newest: BTreeMap<(Scope, String), Option<Stored>>,
    versions: BTreeMap<(Scope, String), i64>,
    labels: BTreeMap<(Scope, String), i64>,
}

impl Model {
    fn of(rows: &[LogRow]) -> Self {
        let mut model = Self::default();
        for row in rows {
            match &row.change {
                LogChange::Version { key, version, stored, .. } => {
                    let place = (row.scope.clone(), key.to_string());
                    let newest = model.versions.entry(place.clone()).or_insert(0);
                    assert_eq!(*version, *newest + 1, "versions follow one another in the log");
                    *newest = *version;
                    model.newest.insert(place, stored.as_deref().cloned());
                }
                LogChange::Label { key, version: Some(version), .. } => {
                    model.labels.insert((row.scope.clone(), key.to_string()), *version);
                }
                _ => {}
            }
        }
        model
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_behind_its_last_revision_misses_nothing() {
    let here = here("config_order").await;
    // Two writers are two processes.
    let writers = [here.store.writer(), here.store.writer()];
    let stop = AtomicBool::new(false);
    let tasks: Vec<_> = (0..12_u8)
        .map(|number| tokio::spawn(work(writers[usize::from(number) % 2].clone(), number, 40)))
        .collect();
    let written = async {
        let mut told = Vec::new();
        for task in tasks {
            told.extend(task.await.unwrap());
        }
        stop.store(true, Ordering::SeqCst);
        told
    };
    let (rows, told) = tokio::join!(follow(&here, &stop), written);

    let revisions: Vec<i64> = rows.iter().map(|row| row.revision).collect();
    assert_eq!(revisions, (1..=revisions.len() as i64).collect::<Vec<_>>(), "each once, and in order");
    let seen: BTreeSet<i64> = revisions.into_iter().collect();
    assert!(told.iter().all(|written| seen.contains(&written.revision)), "what was acknowledged is there");

    let model = Model::of(&rows);
    for ((scope, name), newest) in &model.newest {
        let there = here.store.newest(std::slice::from_ref(scope), &key(name)).await.unwrap();
        let there = there.layers[0].stored.clone().unwrap();
        assert_eq!(there.version, model.versions[&(scope.clone(), name.clone())]);
        if let Some(newest) = newest {
            assert_eq!((&newest.value, newest.revision), (&there.value, there.revision));
        }
        let history = here.store.history(scope, &key(name), None, 1_000).await.unwrap().versions;
        let (with, without): (Vec<_>, Vec<_>) = history.iter().partition(|one| !one.labels.is_empty());
        assert!(history.len() <= 5 + with.len() && without.len() <= 5);
        let label = model.labels.get(&(scope.clone(), name.clone()));
        assert_eq!(with.first().map(|one| one.version), label.copied(), "a version with a label stays");
    }
    assert_eq!(here.store.clocks().await.unwrap().revision, rows.len() as i64);
}

/// The canary: the same reader, and writers that take numbers from a sequence as
/// one would without the clock's lock. One that commits late is missed.
#[tokio::test]
async fn without_the_lock_a_reader_would_miss_some() {
    let here = here("config_canary").await;
    let (mut late, mut early) = (here.database.connect().await, here.database.connect().await);
    late.batch_execute("create sequence numbers").await.unwrap();
    let log = "insert into config_log (revision, scope, key, kind, version, at)
        select nextval('numbers'), 'tenant/0190b8a0-0000-7000-8000-000000000001', 'k', 1, 1, now()";
    let (first, second) = (late.transaction().await.unwrap(), early.transaction().await.unwrap());
    first.execute(log, &[]).await.unwrap();
    second.execute(log, &[]).await.unwrap();
    second.commit().await.unwrap();
    let mut seen = here.store.log_after(0, 10).await.unwrap().rows;
    assert_eq!(seen.len(), 1);
    first.commit().await.unwrap();
    seen.extend(here.store.log_after(seen[0].revision, 10).await.unwrap().rows);
    assert_eq!(seen.len(), 1, "the first one is never seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_wins_and_a_token_counts_once() {
    let here = here("config_winner").await;
    let writers = [here.store.writer(), here.store.writer()];
    for round in 0..10_i64 {
        let tries = (0..16_usize).map(|number| {
            let put = write(scope(1), "a", json(&number.to_string()), Some(round));
            let token = (number < 8).then(|| format!("t{round}"));
            let same = write(scope(2), "b", json("1"), None);
            let writer = writers[number % 2].clone();
            tokio::spawn(async move {
                match token {
                    // Eight callers send the same request again and again.
                    Some(token) => writer.write(transaction(vec![same], Some(&token))).await,
                    None => writer.write(transaction(vec![put], None)).await,
                }
            })
        });
        let (mut won, mut answers) = (0, BTreeSet::new());
        for (number, done) in tries.collect::<Vec<_>>().into_iter().enumerate() {
            match (number < 8, done.await.unwrap()) {
                (true, answer) => {
                    answers.insert(answer.unwrap()[0].revision);
                }
                (false, Ok(_)) => won += 1,
                (false, Err(problem)) => assert_eq!(problem.code(), Code::ConfigVersionConflict),
            }
        }
        assert_eq!((won, answers.len()), (1, 1));
    }
    let versions = |layers: insula_config_store::Layers| layers.layers[0].stored.clone().unwrap().version;
    assert_eq!(versions(here.store.newest(&[scope(1)], &key("a")).await.unwrap()), 10);
    assert_eq!(versions(here.store.newest(&[scope(2)], &key("b")).await.unwrap()), 10);
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_store_that_was_away_is_used_again() {
    let here = here("config_full").await;
    let writer = here.store.writer();
    writer.write(one(scope(1), "a", json("1"))).await.unwrap();
    let holder = here.database.connect().await;
    holder.batch_execute("begin; select from config_clock for update").await.unwrap();
    let many: Vec<_> = (0..1_300).map(|_| writer.write(one(scope(1), "b", json("1")))).collect();
    let release = async {
        // All of them have been sent when the first answer can come.
        tokio::task::yield_now().await;
        holder.batch_execute("rollback").await.unwrap();
    };
    let (done, ()) = tokio::join!(futures_util::future::join_all(many), release);
    let refused = done.iter().filter_map(|one| one.as_ref().err()).collect::<Vec<_>>();
    assert!(refused.len() >= 200, "{}", refused.len());
    assert!(refused.iter().all(|problem| problem.code() == Code::Overloaded));
    let newest = here.store.newest(&[scope(1)], &key("b")).await.unwrap();
    assert_eq!(newest.layers[0].stored.clone().unwrap().version, (done.len() - refused.len()) as i64);

    // The connections end, as at a restart of the server.
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()";
    holder.batch_execute(kill).await.unwrap();
    writer.write(one(scope(1), "a", json("2"))).await.unwrap();
}

#[tokio::test]
#[ignore = "a measurement: cargo nextest run -p insula-config-store --run-ignored only --no-capture"]
#[allow(clippy::disallowed_methods)] // it measures
async fn what_a_write_costs() {
    let here = here("config_cost").await;
    let writer = Arc::new(here.store.writer());
    let mut times = Vec::new();
    for _ in 0..500 {
        let begun = std::time::Instant::now();
        writer.write(one(scope(1), "a", json("{\"some\":\"value\"}"))).await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!("one writer: p50 {:?} p99 {:?}", times[250], times[495]);
    let begun = std::time::Instant::now();
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let writer = Arc::clone(&writer);
            tokio::spawn(async move {
                for _ in 0..250 {
                    writer.write(one(scope(2), &format!("k/{number}"), json("1"))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!("16 writers: {:.0} writes/s", 4_000.0 / begun.elapsed().as_secs_f64());
    let begun = std::time::Instant::now();
    for _ in 0..1_000 {
        here.store.newest(&[Scope::Platform, scope(1)], &key("a")).await.unwrap();
    }
    println!("a read: {:?}", begun.elapsed() / 1_000);
}

#[tokio::test]
async fn a_page_of_the_log_is_bounded_by_what_its_values_weigh() {
    let here = here("config_pages").await;
    let writer = here.store.writer();
    let long = format!("\"{}\"", "x".repeat(3 << 20));
    for number in 0..5 {
        let text = if number == 3 { "1" } else { &long };
        writer.write(one(scope(1), &format!("k{number}"), json(text))).await.unwrap();
    }
    let (mut last, mut pages) = (0, Vec::new());
    loop {
        let log = here.store.log_after(last, 100).await.unwrap();
        pages.push(log.rows.len());
        last = log.revision;
        if log.is_all {
            break;
        }
    }
    assert_eq!((pages, last), (vec![2, 3], 5), "what is long is read in parts, and none is left out");
    let none = here.store.log_after(5, 100).await.unwrap();
    assert!(none.rows.is_empty() && none.is_all);
}

#[tokio::test]
async fn what_has_changed_in_some_scopes_is_known_whatever_others_write() {
    let here = here("config_touched").await;
    let (store, writer) = (&here.store, here.store.writer());
    writer.write(one(scope(1), "before", json("1"))).await.unwrap();
    let others: Vec<_> = (0..100).map(|n| write(scope(2), &format!("k{n}"), json("1"), None)).collect();
    for _ in 0..9 {
        writer.write(transaction(others.clone(), None)).await.unwrap();
    }
    for name in ["a", "b", "a"] {
        writer.write(one(scope(1), name, json("1"))).await.unwrap();
    }
    let label = WriteOp::Label("l".parse().unwrap(), Some(1));
    writer.write(one(scope(1), "b", label)).await.unwrap();
    let scopes = [Scope::Platform, scope(1)];
    let touched = store.touched(&scopes, 1, 3).await.unwrap();
    assert_eq!(touched.revision, 905);
    assert_eq!(touched.keys, None, "more than were asked for");
    let touched = store.touched(&scopes, 1, 4).await.unwrap();
    let names: Vec<String> = touched.keys.unwrap().into_iter().map(|(_, key)| key.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(store.touched(&scopes, 905, 4).await.unwrap().keys, Some([].into()), "nothing has changed");
    assert!(store.touched(&[scope(2)], 1, 100).await.unwrap().keys.is_none());
    // Further back than is looked through.
    let client = here.database.connect().await;
    let much = "insert into config_log (revision, scope, key, kind, version, at)
        select n, 'other', 'k', 1, 1, now() from generate_series(1000, 6000) n";
    client.batch_execute(much).await.unwrap();
    assert_eq!(store.touched(&scopes, 905, 4).await.unwrap().keys, None);
}
