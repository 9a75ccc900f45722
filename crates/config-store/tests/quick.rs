//! The usual write, which takes one journey to the server, does and refuses what
//! any other write does and refuses: the same puts, in one store as they come and
//! in another one under tokens, which are always decided by the writer.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::time::Duration;

use common::{Here, here, json, key, one, scope, transaction, write};
use futures_util::FutureExt;
use insula_config_model::{ConfigValue, Scope, Transaction, Write, WriteOp, Written};
use insula_config_store::{CHANNEL, Quota, is_by_old_schemas, is_by_old_tags};
use insula_domain::Entropy;
use insula_problem::{Code, Problem};
use insula_sql_store::Listener;
use insula_testkit::SeededEntropy;

/// The longest that anything may take before the test says so.
const PATIENCE: Duration = Duration::from_secs(20);

const QUOTA: Quota = Quota { keys: 6, bytes: 400, kept: 6_000, large: 0 };

/// All that the tables say, without times.
async fn tables(here: &Here) -> Vec<String> {
    let client = here.database.connect().await;
    let mut all = Vec::new();
    for sql in [
        "select (revision, compacted)::text from config_clock",
        "select (scope, key, version, history)::text from config_values order by scope, key",
        "select (scope, key, version, revision, kind, value, author, note)::text from config_versions
            order by scope, key, version",
        "select (scope, keys, bytes, kept)::text from config_usage order by scope",
        "select (revision, scope, key, kind, version)::text from config_log order by revision",
    ] {
        all.extend(client.query(sql, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)));
    }
    all
}

fn said(outcome: Result<Vec<Written>, Problem>) -> Result<Vec<Written>, (Code, String)> {
    outcome.map_err(|problem| (problem.code(), problem.detail().to_owned()))
}

fn pick(entropy: &dyn Entropy, of: u8) -> u8 {
    let mut byte = [0];
    entropy.fill(&mut byte);
    byte[0] % of
}

/// A write at random: mostly a value, sometimes on a condition, now and then a
/// removal or a label, which are never the usual write.
fn some_write(entropy: &dyn Entropy) -> Write {
    let name = format!("param_config_{}", pick(entropy, 8));
    let op = match pick(entropy, 12) {
        0 => WriteOp::Remove,
        1 => WriteOp::Label("stable".parse().unwrap(), Some(i64::from(1 + pick(entropy, 4)))),
        _ => json(&format!("\"{}\"", "x".repeat(pick(entropy, 120).into()))),
    };
    let if_version = (pick(entropy, 4) == 0).then(|| i64::from(pick(entropy, 4)));
    let history = u32::from(1 + pick(entropy, 4));
    let scope = scope(1 + u16::from(pick(entropy, 2)));
    Write { history, ..write(scope, &name, op, if_version) }
}

#[tokio::test]
async fn it_does_and_refuses_what_any_other_write_does() {
    let (quick, slow) = (here("config_quick").await, here("config_not_quick").await);
    let writers = [&quick, &slow].map(|here| here.store.clone().with_quota(QUOTA).writer());
    let entropy = SeededEntropy::new(7);
    let mut refused = std::collections::BTreeSet::new();
    for number in 0..400 {
        let write = some_write(&entropy);
        let token = format!("{number}");
        let one = said(writers[0].write(transaction(vec![write.clone()], None)).await);
        let other = said(writers[1].write(transaction(vec![write.clone()], Some(&token))).await);
        assert_eq!(one, other, "{write:?}");
        refused.extend(one.err().map(|(code, _)| code.as_str()));
    }
    for code in [Code::ConfigQuotaExceeded, Code::ConfigVersionConflict] {
        assert!(refused.contains(code.as_str()), "{refused:?}");
    }
    assert_eq!(tables(&quick).await, tables(&slow).await);
    assert!(!tables(&quick).await.is_empty());
}

#[tokio::test]
async fn several_at_once_are_done_by_their_order_and_told_of() {
    let here = here("config_quick_many").await;
    let (writer, holder) = (here.store.writer(), here.database.connect().await);
    let mut committed = writer.committed();
    holder.batch_execute("begin; select from config_clock for update").await.unwrap();
    let writes = (1..=4).map(|number| {
        let writer = writer.clone();
        tokio::spawn(async move { writer.write(one(scope(number), "param_config_a", json("1"))).await })
    });
    let writes: Vec<_> = writes.collect();
    tokio::task::yield_now().await;
    holder.batch_execute("commit").await.unwrap();
    let mut revisions = Vec::new();
    for write in writes {
        revisions.push(write.await.unwrap().unwrap()[0].revision);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, [1, 2, 3, 4]);
    let mut told = Vec::new();
    while told.len() < 4 {
        told.extend(committed.recv().await.unwrap().iter().map(|row| (row.revision, row.scope.clone())));
    }
    let log = here.store.log_after(0, 10).await.unwrap().rows;
    assert_eq!(told, log.iter().map(|row| (row.revision, row.scope.clone())).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_waits_to_be_written_is_bounded_in_bytes() {
    let here = here("config_waiting").await;
    let (writer, holder) = (here.store.writer(), here.database.connect().await);
    holder.batch_execute("begin; select from config_clock for update").await.unwrap();
    let long = bytes::Bytes::from(format!("\"{}\"", "x".repeat(16 << 20)));
    let put = |number| one(scope(number), "param_config_a", WriteOp::Put(ConfigValue::Json(long.clone())));
    // Seven, which are a little more than 16 MiB each, are within 128.
    let mut waiting: Vec<_> = (0..7).map(|_| Box::pin(writer.write(put(1)))).collect();
    for one in &mut waiting {
        assert!(one.as_mut().now_or_never().is_none());
    }
    assert_eq!(writer.write(put(2)).await.unwrap_err().code(), Code::Overloaded);
    let mut short = Box::pin(writer.write(one(scope(2), "param_config_a", json("1"))));
    assert!(short.as_mut().now_or_never().is_none(), "canary: there is room for what is short");
}

async fn refused(here: &Here, asked: Transaction) -> Problem {
    let before = tables(here).await;
    let problem = here.store.writer().write(asked).await.unwrap_err();
    assert_eq!(tables(here).await, before);
    problem
}

#[tokio::test]
async fn who_is_not_here_and_who_knows_old_tags_or_schemas_is_refused() {
    let here = here("config_quick_refused").await;
    let put = |at: Scope| one(at, "param_config_a", json("1"));
    assert_eq!(refused(&here, put(scope(9))).await.code(), Code::ConfigMoving);
    let writer = here.store.writer();

    let held_against = |known: &[(u16, i64)]| Transaction {
        schemas: known.iter().map(|(number, revision)| (scope(*number), *revision)).collect(),
        ..put(scope(1))
    };
    writer.write(held_against(&[(1, 0), (2, 0)])).await.unwrap();
    let schema = one(scope(2), "insula_schema/param_config_a", json("{}"));
    let revision = writer.write(schema.clone()).await.unwrap()[0].revision;
    assert!(is_by_old_schemas(&refused(&here, held_against(&[(1, 0), (2, 0)])).await));
    writer.write(held_against(&[(1, 0), (2, revision)])).await.unwrap();
    writer.write(held_against(&[(1, 0)])).await.unwrap();
    // A removal is a change too, and nobody knows of those that are elsewhere.
    let removal = one(scope(2), "insula_schema/param_config_a", WriteOp::Remove);
    let removed = writer.write(removal).await.unwrap()[0].revision;
    assert!(is_by_old_schemas(&refused(&here, held_against(&[(2, revision)])).await));
    writer.write(held_against(&[(2, removed)])).await.unwrap();
    assert!(is_by_old_schemas(&refused(&here, held_against(&[(9, 0)])).await));
    let under_token = Transaction { token: Some("t".to_owned()), ..held_against(&[(2, revision)]) };
    assert!(is_by_old_schemas(&refused(&here, under_token).await), "so is what the writer decides");

    let client = here.database.connect().await;
    let table = "insert into config_versions (scope, key, version, revision, kind, value, author, at, note)
            values ('platform', 'insula_tags', 3, 1, 1, '{}', '', now(), '');
        insert into config_values (scope, key, version, history) values ('platform', 'insula_tags', 3, 9)";
    client.batch_execute(table).await.unwrap();
    let by = |tags| Transaction { tags: Some(tags), ..put(scope(1)) };
    assert!(is_by_old_tags(&refused(&here, by(2)).await));
    writer.write(by(3)).await.unwrap();
    let newest = here.store.newest(&[scope(1)], &key("param_config_a")).await.unwrap();
    assert_eq!(newest.layers[0].stored.as_ref().unwrap().version, 5);
}

/// How many sessions have the function of usual writes.
async fn taught(here: &Here) -> i64 {
    let count = "select count(*) from pg_proc where proname = 'insula_quick'";
    here.database.connect().await.query_one(count, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn whose_session_may_have_no_function_is_written_for_all_the_same() {
    let here = here("config_quick_untaught").await;
    let put = one(scope(1), "param_config_a", json("1"));
    let (writer, client) = (here.store.writer(), here.database.connect().await);
    assert_eq!(writer.write(put.clone()).await.unwrap()[0].version, 1);
    assert_eq!(taught(&here).await, 1, "canary: else it is taught otherwise");
    // As where the privilege TEMPORARY was taken away.
    let refusal = "create function refuse() returns event_trigger language plpgsql as $$
            begin raise exception 'not here' using errcode = 'insufficient_privilege'; end $$;
        create event trigger refuse on ddl_command_start when tag in ('CREATE FUNCTION')
            execute function refuse()";
    client.batch_execute(refusal).await.unwrap();
    let untaught = here.store.writer();
    assert_eq!(untaught.write(put.clone()).await.unwrap()[0].version, 2);
    assert_eq!(untaught.write(put).await.unwrap()[0].version, 3);
    assert_eq!(taught(&here).await, 1);
}

#[tokio::test]
async fn other_processes_are_told_of_what_is_committed() {
    let here = here("config_notices").await;
    let mut heard = Listener::open(here.store.connector(), &[CHANNEL]).await.unwrap();
    let writer = here.store.writer();
    for number in 1..=30 {
        // Every third is not the usual write.
        let token = (number % 3 == 0).then(|| number.to_string());
        let put = one(scope(1), "param_config_a", json(&number.to_string()));
        writer.write(Transaction { token, ..put }).await.unwrap();
    }
    let mut last = 0;
    while last < 30 {
        let notice =
            tokio::time::timeout(PATIENCE, heard.next()).await.expect("the last is told of").unwrap();
        let revision: i64 = notice.payload.parse().unwrap();
        assert!(revision > last, "{revision} behind {last}");
        assert!(here.store.clocks().await.unwrap().revision >= revision, "it is there");
        last = revision;
    }
}
