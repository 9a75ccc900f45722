//! Large transactions of a stream, which are applied while they run: little is
//! left when they are committed, what is rolled back is nowhere, and whatever
//! cannot be applied before its commit is applied behind it.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod stream_support;

use std::time::Instant;

use insula_domain::Isolation::{Database, Pool, Schema};
use insula_tenant_cluster::moving::{Stream, StreamFault, StreamSpec, replication_objects};
use stream_support::chunks::*;
use stream_support::*;

/// Bytes of the table at the target, whether its rows are committed or not.
async fn bytes_there(pair: &Pair) -> i64 {
    let size = format!("select pg_relation_size('{}.items')", pair.target.place.placement.schema);
    one(&pair.target.admin, &size).await.parse().unwrap()
}

#[tokio::test]
async fn a_large_transaction_is_at_the_target_before_its_commit() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let stream = chunks(&pair).await;
    let large = begun(&pair, &rows(1, 4_000)).await;
    until_open(&pair, 1).await;
    let begun_to_wait = Instant::now();
    while bytes_there(&pair).await < 2_000_000 {
        assert!(begun_to_wait.elapsed() < PATIENCE, "{} bytes are there", bytes_there(&pair).await);
    }
    assert_eq!(seen_there(&pair).await, "0", "nobody sees what is not committed");
    // Others are not held up meanwhile.
    pair.source.run("insert into items values (-1)").await;
    pair.caught_up(&stream).await.unwrap();
    assert_eq!((seen_there(&pair).await.as_str(), counted(&stream)), ("1", (0, 0)));
    let ending = Instant::now();
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    println!("applied {:?} after its commit", ending.elapsed());
    assert_eq!(counted(&stream), (1, 0));
    assert_eq!(stream.progress().borrow().rows, 4_001);
    pair.assert_same().await;
    stream.stop().await.unwrap();
    // Canary: what comes whole comes after its commit.
    let stream = pair.stream().await;
    let before = bytes_there(&pair).await;
    let large = begun(&pair, &rows(5_001, 9_000)).await;
    pair.source.run("insert into items values (-2)").await;
    pair.caught_up(&stream).await.unwrap();
    assert!(bytes_there(&pair).await < before + 100_000);
    let ending = Instant::now();
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    println!("applied {:?} after its commit, whole", ending.elapsed());
    assert_eq!(counted(&stream), (0, 0));
    pair.assert_same().await;
    drop(stream);
    pair.clean().await;
}

#[tokio::test]
async fn what_large_transactions_build_on_is_there_before_them() {
    let pair = Pair::new(Schema, Pool, &versions(&[SMALL])).await;
    let mut stream = Some(chunks(&pair).await);
    let (one_large, other) = (begun(&pair, "").await, begun(&pair, "").await);
    for round in 0..8 {
        if round == 4 {
            // From here on all comes at once.
            stream.take().unwrap().stop().await.unwrap();
        }
        let (a, b) = (round * 1_000 + 1, round * 1_000 + 501);
        // Each changes what was committed a moment ago.
        pair.source.run(&format!("insert into items values (-{a}, 'a'), (-{b}, 'b'), (-{a} - 1, 'c')")).await;
        pair.source.run(&format!("update items set what = what || 'd' where id in (-{a}, -{b})")).await;
        one_large
            .batch_execute(&format!(
                "{}update items set what = what || 'e' where id = -{a}",
                rows(a, a + 400)
            ))
            .await
            .unwrap();
        other
            .batch_execute(&format!(
                "{}delete from items where id = -{b}; delete from items where id = {b} + 5",
                rows(b, b + 400)
            ))
            .await
            .unwrap();
        pair.source.run(&format!("update items set what = what || 'f' where id = -{a} - 1")).await;
    }
    other.batch_execute("commit").await.unwrap();
    pair.source.run("update items set what = 'after ' || id where id between 501 and 520").await;
    one_large
        .batch_execute("update items set what = what || 'g' where id between 501 and 530; commit")
        .await
        .unwrap();
    pair.source.run("update items set what = what || 'h'; delete from items where id % 7 = 0").await;
    let stream = chunks(&pair).await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    let (streamed, fallen_back) = counted(&stream);
    assert!(streamed >= 2 && fallen_back == 0, "{streamed} {fallen_back}");
    stream.stop().await.unwrap();
    pair.clean().await;
}

#[tokio::test]
async fn what_is_rolled_back_in_it_is_nowhere() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let stream = chunks(&pair).await;
    pair.source.run("insert into items select -n, 'old' from generate_series(1, 100) n").await;
    let change = |text: &str| format!("update items set what = what || '{text}' where id < 0; ");
    let steps = [
        rows(1, 500),
        "savepoint a; ".to_owned(),
        rows(501, 1_000),
        change("a"),
        "savepoint b; ".to_owned(),
        rows(1_001, 1_500),
        change("b"),
        "rollback to b; ".to_owned(),
        rows(1_001, 1_200),
        "release b; savepoint c; savepoint d; ".to_owned(),
        rows(2_001, 2_500),
        "release d; ".to_owned(),
        change("c"),
        rows(2_501, 3_000),
        "savepoint e; ".to_owned(),
        rows(3_001, 3_500),
        // With it goes what was released into it, and what is within.
        "rollback to c; ".to_owned(),
        rows(2_001, 2_300),
        change("again"),
        "savepoint f; savepoint g; ".to_owned(),
        rows(4_001, 4_500),
        "release g; release f; rollback to a; ".to_owned(),
        rows(501, 800),
        change("at last"),
        "savepoint h; ".to_owned(),
        rows(5_001, 5_500),
        "release h; ".to_owned(),
        rows(6_001, 6_300),
    ];
    let large = begun(&pair, &steps.concat()).await;
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    assert_eq!(counted(&stream), (1, 0));
    assert_eq!(stream.progress().borrow().rows, 100 + 500 + 300 + 100 + 500 + 300);
    // All of it, and the same keys again.
    let never = format!("{}{}savepoint a; {}", rows(7_001, 9_000), change("never"), rows(9_001, 9_500));
    let large = begun(&pair, &never).await;
    until_open(&pair, 1).await;
    large.batch_execute("rollback").await.unwrap();
    pair.source.run(&format!("{}{}", rows(7_001, 7_010), change("small"))).await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    // Its session serves another one.
    let large = begun(&pair, &rows(10_001, 11_000)).await;
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    assert_eq!(counted(&stream), (2, 0));
    stream.stop().await.unwrap();
    pair.clean().await;
}

#[tokio::test]
async fn tables_that_are_emptied_in_it_are() {
    for target in [Database, Pool] {
        let pair = Pair::new(Schema, target, &versions(&[SMALL])).await;
        pair.source.run("insert into others values (1, 'a')").await;
        let stream = chunks(&pair).await;
        pair.source.run(&rows(1, 300)).await;
        let large =
            begun(&pair, &format!("{}truncate items, others; {}", rows(301, 600), rows(1, 700))).await;
        until_open(&pair, 1).await;
        large.batch_execute("commit").await.unwrap();
        pair.caught_up(&stream).await.unwrap();
        pair.assert_same().await;
        assert_eq!(counted(&stream), (2, 0));
        stream.stop().await.unwrap();
        pair.clean().await;
    }
}

#[tokio::test]
async fn connections_that_end_while_it_runs_are_opened_again() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let stream = chunks(&pair).await;
    let ends = [
        (&pair.target.admin, "application_name = $1 and backend_type = 'client backend'"),
        (&pair.source.admin, "application_name = $1 and backend_type = 'walsender'"),
    ];
    for (round, (server, which)) in (0_u32..).zip(ends.into_iter().cycle().take(4)) {
        let first = round * 10_000 + 1;
        let large = begun(&pair, &rows(first, first + 2_000)).await;
        until_open(&pair, 1).await;
        let end = format!("select pg_terminate_backend(pid) from pg_stat_activity where {which}");
        server.execute(&end, &[&pair.name.to_string()]).await.unwrap();
        large.batch_execute(&rows(first + 2_001, first + 3_000)).await.unwrap();
        pair.source.run(&format!("insert into items values (-{first})")).await;
        large.batch_execute("commit").await.unwrap();
        pair.caught_up(&stream).await.unwrap();
        pair.assert_same().await;
    }
    // Another one takes over in its midst.
    let large = begun(&pair, &rows(100_001, 102_000)).await;
    until_open(&pair, 1).await;
    let newcomer = chunks(&pair).await;
    let mut progress = stream.progress();
    let ended = progress.wait_for(|progress| progress.fault.is_some());
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().fault.clone();
    assert_eq!(ended, Some(StreamFault::Superseded));
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&newcomer).await.unwrap();
    pair.assert_same().await;
    newcomer.stop().await.unwrap();
    // Nothing is left, and nobody.
    pair.clean().await;
    let left = replication_objects(&pair.target.place.access).await.unwrap();
    assert!(!left.origins.iter().any(|(name, _)| *name == pair.name), "{left:?}");
    let begun = Instant::now();
    let anybody = format!("select count(*) from pg_stat_activity where application_name = '{}'", pair.name);
    while one(&pair.target.admin, &anybody).await != "0" {
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn more_at_once_than_there_are_sessions_come_whole() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let stream = chunks(&pair).await;
    let mut all = Vec::new();
    for number in 0..6 {
        all.push(begun(&pair, &rows(number * 1_000, number * 1_000 + 400)).await);
    }
    let mut progress = stream.progress();
    let fallen = progress.wait_for(|progress| progress.fallen_back > 0);
    tokio::time::timeout(PATIENCE, fallen).await.unwrap().unwrap();
    for (number, large) in all.iter().enumerate().rev() {
        let more =
            rows(u32::try_from(number).unwrap() * 1_000 + 500, u32::try_from(number).unwrap() * 1_000 + 700);
        large.batch_execute(&format!("{more}commit")).await.unwrap();
    }
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    // Then they come while they run again.
    let large = begun(&pair, &rows(10_001, 12_000)).await;
    until_open(&pair, 1).await;
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    stream.stop().await.unwrap();
    pair.clean().await;
}

#[tokio::test]
async fn what_cannot_be_applied_before_its_commit_comes_whole() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let stream = chunks(&pair).await;
    // More may be rolled back by itself than is followed.
    let many = "do $$ begin for n in 1..1500 loop
          begin insert into items values (n, repeat(md5(n::text), 20)); exception when unique_violation then null; end;
        end loop; end $$; ";
    pair.source.run(many).await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    assert_eq!(counted(&stream), (0, 1));
    // What fails at the source is in its log before it does.
    let stream = {
        stream.stop().await.unwrap();
        chunks(&pair).await
    };
    let fails = "do $$ begin for n in 1..900 loop
          begin insert into others values (n, repeat('x', 1000) || n % 10); exception when unique_violation then null; end;
        end loop; end $$; ";
    pair.source.run(fails).await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    // A key of one that runs on: who comes later waits, with its row in the log.
    let first = begun(&pair, "insert into others values (2001, 'one')").await;
    let second = begun(&pair, &rows(3_001, 3_500)).await;
    let waits = second.batch_execute("insert into others values (2002, 'one')");
    let ends = async {
        until_open(&pair, 1).await;
        pair.source.run(&rows(20_001, 20_010)).await;
        pair.caught_up(&stream).await.unwrap();
        first.batch_execute("commit").await.unwrap();
    };
    let (failed, ()) = tokio::join!(waits, ends);
    failed.unwrap_err();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    stream.stop().await.unwrap();
    pair.clean().await;
}

#[tokio::test]
async fn what_was_applied_before_its_commit_does_not_go_back() {
    let pair = Pair::new(Pool, Schema, &versions(&[SMALL])).await;
    pair.prepare_back().await;
    let spec = |skip_origins| pair.spec_back(skip_origins, little(&pair));
    let forth = Stream::start(StreamSpec { skip_origins: vec![pair.back()], ..little(&pair) }).await.unwrap();
    // It knows of nothing yet that it is to leave out, and has chunks.
    let returning = Stream::start(spec(vec![pair.name])).await.unwrap();
    let at_target = pair.target.database.connect().await;
    let own = pair.tenant().as_uuid();
    let with = |from: u32, to: u32| {
        format!(
            "insert into items (id, what, tenant_id)
             select n, repeat(md5(n::text), 20), '{own}' from generate_series({from}, {to}) n; "
        )
    };
    let large = begun(&pair, &format!("truncate others; {}", with(1, 2_000))).await;
    until_open(&pair, 1).await;
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&forth).await.unwrap();
    marked(&at_target, &returning).await.unwrap();
    pair.assert_same().await;
    assert_eq!(returning.progress().borrow().rows, 0);
    assert!(counted(&forth).0 >= 1, "{:?}", counted(&forth));
    // What the tenant writes there comes back, also if it is much.
    write(&pair.target, &rows(5_001, 7_000)).await;
    marked(&at_target, &returning).await.unwrap();
    pair.assert_same().await;
    assert_eq!(returning.progress().borrow().rows, 2_000);
    // Nor does what changes rows that are there, of which nobody would complain.
    let large = begun(
        &pair,
        &format!("truncate others; update items set what = 'x' || what where tenant_id = '{own}'"),
    )
    .await;
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&forth).await.unwrap();
    marked(&at_target, &returning).await.unwrap();
    pair.assert_same().await;
    assert_eq!(returning.progress().borrow().rows, 2_000);
    // Who begins later has the same before it.
    returning.stop().await.unwrap();
    let large = begun(&pair, &with(10_001, 11_000)).await;
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&forth).await.unwrap();
    let returning = Stream::start(spec(vec![pair.name])).await.unwrap();
    marked(&at_target, &returning).await.unwrap();
    pair.assert_same().await;
    assert_eq!(returning.progress().borrow().rows, 0);
    // Canary: what is not left out is applied where it already is.
    drop(returning);
    pair.source.run(&with(12_001, 12_500)).await;
    pair.caught_up(&forth).await.unwrap();
    let echo = Stream::start(spec(Vec::new())).await.unwrap();
    let fault = marked(&at_target, &echo).await.unwrap_err();
    assert!(matches!(fault, StreamFault::Diverged { .. }), "{fault:?}");
    drop((forth, echo));
    pair.clean().await;
    pair.clean_back().await;
}
