//! Whatever is written and whatever ends: writers with a seed, large and small
//! transactions with others inside them, connections that are killed and appliers
//! that are dropped anywhere, and in the end both ends are the same.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod stream_support;

use insula_domain::Isolation::{Database, Pool, Schema};
use insula_tenant_cluster::Connection;
use stream_support::chunks::*;
use stream_support::*;
use tokio_postgres::error::SqlState;

/// A source of numbers that a seed decides (Numerical Recipes' generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) % (1 << 32);
        (self.0 >> 8) % end
    }
}

/// A statement of a writer that has keys of its own, and some that all have.
fn statement(dice: &mut Dice, writer: u64) -> String {
    let first = writer * 1_000_000 + dice.below(2_000);
    let most = if dice.below(3) == 0 { 600 } else { 5 };
    let last = first + dice.below(most);
    let mark = dice.below(1_000);
    match dice.below(6) {
        0 | 1 => format!(
            "insert into items select n, repeat(md5(n::text), 10) from generate_series({first}, {last}) n
             on conflict (id) do update set what = excluded.what || '{mark}'"
        ),
        2 => format!(
            "update items set what = left(what || ' {mark}', 600) where id between {first} and {last}"
        ),
        3 => format!("delete from items where id between {first} and {last}"),
        4 => format!(
            "update items set what = what || '{mark}' where id = (select id from items where id < 0 limit 1)"
        ),
        _ => format!(
            "update items set id = id + 3000 where id = {first} and not exists (select from items where id = {first} + 3000)"
        ),
    }
}

/// A transaction with others inside it, of which some are rolled back.
async fn write_once(client: &Connection, dice: &mut Dice, writer: u64) {
    let mut depth = 0;
    let mut all = vec!["begin".to_owned()];
    for _ in 0..1 + dice.below(12) {
        match dice.below(6) {
            0 => {
                depth += 1;
                all.push(format!("savepoint s{depth}"));
            }
            1 if depth > 0 => {
                let to = 1 + dice.below(depth);
                all.push(format!("rollback to s{to}"));
                depth = to;
            }
            2 if depth > 0 => {
                let to = 1 + dice.below(depth);
                all.push(format!("release s{to}"));
                depth = to - 1;
            }
            _ => all.push(statement(dice, writer)),
        }
    }
    all.push(if dice.below(6) == 0 { "rollback" } else { "commit" }.to_owned());
    for sql in all {
        match client.batch_execute(&sql).await {
            // Who has rolled back to before a change waits for the row again.
            Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {
                return client.batch_execute("rollback").await.unwrap();
            }
            done => done.unwrap_or_else(|error| panic!("{sql}: {error:?}")),
        }
    }
}

/// Says how many were applied while they ran, and how often that was given up.
async fn whatever_is_written_and_whatever_ends(
    target: insula_domain::Isolation,
    writers: u64,
    seed: u64,
) -> (u64, u64) {
    let pair = Pair::new(Schema, target, &versions(&[SMALL])).await;
    pair.source.run("insert into items values (-1)").await;
    let mut writing = Vec::new();
    for writer in 1..=writers {
        let client = pair.source.place.connect().await.unwrap();
        let mut dice = Dice(seed * 31 + writer);
        writing.push(tokio::spawn(async move {
            for _ in 0..25 {
                write_once(&client, &mut dice, writer).await;
            }
        }));
    }
    let mut dice = Dice(seed);
    let (mut streamed, mut fallen_back) = (0, 0);
    while !writing.iter().all(tokio::task::JoinHandle::is_finished) {
        let stream = chunks(&pair).await;
        let mut progress = stream.progress();
        // So many steps are seen before it ends, wherever it is.
        for step in 0..dice.below(60) {
            if tokio::time::timeout(std::time::Duration::from_millis(300), progress.changed()).await.is_err()
            {
                break;
            }
            if step % 20 == 19 {
                let server =
                    [&pair.target.admin, &pair.source.admin][usize::try_from(dice.below(2)).unwrap()];
                let end = format!(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = '{}'
                     order by random() limit 1",
                    pair.name
                );
                server.batch_execute(&end).await.unwrap();
            }
        }
        let fault = progress.borrow().fault.clone();
        assert!(fault.is_none(), "{fault:?}");
        streamed += counted(&stream).0;
        fallen_back += counted(&stream).1;
        drop(stream);
    }
    for writer in writing {
        writer.await.unwrap();
    }
    let stream = chunks(&pair).await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    stream.stop().await.unwrap();
    pair.clean().await;
    (streamed, fallen_back)
}

#[tokio::test]
async fn whatever_ends_all_is_there_once() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let counted = whatever_is_written_and_whatever_ends(Database, 3, seed).await;
    println!("applied while they ran, and given up: {counted:?}");
}

#[tokio::test]
async fn whatever_ends_all_is_there_once_in_shared_tables_with_more_writers_than_sessions() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let counted = whatever_is_written_and_whatever_ends(Pool, 6, seed).await;
    println!("applied while they ran, and given up: {counted:?}");
}
