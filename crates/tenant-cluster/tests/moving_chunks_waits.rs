//! Who waits for whom around large transactions of a stream: for locks, at the gate,
//! for a slot, and for a server that says nothing any more.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod stream_support;

use std::time::Instant;

use insula_domain::Isolation::{Database, Schema};
use insula_tenant_cluster::moving::{Stream, StreamSpec, temporary_slot};
use insula_testkit::TestServer;
use stream_support::beside::Beside;
use stream_support::chunks::*;
use stream_support::*;

#[tokio::test]
async fn what_somebody_has_locked_is_not_waited_for_for_ever() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    pair.source.run("insert into items values (-1)").await;
    let stream = chunks(&pair).await;
    pair.caught_up(&stream).await.unwrap();
    let locked = pair.target.place.connect().await.unwrap();
    locked.batch_execute("begin; select from items where id = -1 for update").await.unwrap();
    let large = begun(&pair, &format!("update items set what = 'x' where id = -1; {}", rows(1, 500))).await;
    let mut progress = stream.progress();
    let fallen = progress.wait_for(|progress| progress.fallen_back > 0);
    tokio::time::timeout(PATIENCE, fallen).await.unwrap().unwrap();
    locked.batch_execute("rollback").await.unwrap();
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    assert!(progress.borrow().away.is_none());
    stream.stop().await.unwrap();
    pair.clean().await;
}

/// What a savepoint had locked is free at the target when its next owner comes,
/// also where all of it comes at once.
#[tokio::test]
async fn what_is_rolled_back_in_it_is_let_go_before_others_come() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    pair.source.run("insert into items select -n, 'a' from generate_series(1, 40) n").await;
    let stream = chunks(&pair).await;
    pair.caught_up(&stream).await.unwrap();
    stream.stop().await.unwrap();
    let large = begun(&pair, &rows(1, 400)).await;
    for round in 1..=40 {
        let tried = format!(
            "savepoint s; update items set what = 'b' where id = -{round}; {}rollback to savepoint s",
            rows(1_001, 1_150)
        );
        large.batch_execute(&tried).await.unwrap();
        pair.source.run(&format!("update items set what = what || 'c' where id = -{round}")).await;
    }
    let began = Instant::now();
    let stream = chunks(&pair).await;
    pair.caught_up(&stream).await.unwrap();
    println!("caught up after {:?}", began.elapsed());
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    assert_eq!(counted(&stream), (1, 0), "nobody has waited for a lock");
    stream.stop().await.unwrap();
    pair.clean().await;
}

#[tokio::test]
async fn a_commit_waits_at_the_gate() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let stream = chunks(&pair).await;
    let large = begun(&pair, &rows(1, 1_500)).await;
    until_open(&pair, 1).await;
    let hold = stream.hold().await.unwrap();
    pair.source.run("insert into items values (-1)").await;
    let before = log_end(&pair.source.admin).await;
    large.batch_execute(&format!("{}commit", rows(2_001, 2_100))).await.unwrap();
    let behind = log_end(&pair.source.admin).await;
    pair.source.run("insert into items values (-2)").await;
    hold.at(before).await.unwrap();
    assert_eq!(seen_there(&pair).await, "1");
    hold.at(behind).await.unwrap();
    assert_eq!(seen_there(&pair).await, "1601");
    assert_eq!(counted(&stream), (0, 0), "while the applier stands all comes whole");
    assert!(hold.at(before).await.is_err());
    drop(hold);
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    // A chunk that is there at once with what it builds on is applied behind it.
    let hold = stream.hold().await.unwrap();
    pair.source.run("insert into items values (-5)").await;
    pair.source.run("insert into items values (-3)").await;
    let change = format!("update items set what = 'b' where id = -3; {}", rows(3_001, 3_150));
    let large = begun(&pair, &change).await;
    pair.source.run("insert into items values (-4)").await;
    until_sent(&pair.source.place, pair.name).await;
    drop(hold);
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    assert_eq!(counted(&stream).1, 0);
    stream.stop().await.unwrap();
    pair.clean().await;
}

/// Who waits at the target's server for its transactions says so.
#[tokio::test]
async fn nothing_is_open_while_all_is_to_come_whole() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let stream = chunks(&pair).await;
    let large = begun(&pair, &rows(1, 1_500)).await;
    until_open(&pair, 1).await;
    let (one_wish, other) = (stream.in_whole(), stream.in_whole());
    until_open(&pair, 0).await;
    drop(one_wish);
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    assert_eq!((seen_there(&pair).await.as_str(), counted(&stream)), ("1500", (0, 0)));
    drop(other);
    let again = begun(&pair, &rows(2_001, 3_500)).await;
    until_open(&pair, 1).await;
    again.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    assert_eq!(counted(&stream), (1, 0));
    stream.stop().await.unwrap();
    pair.clean().await;
}

#[tokio::test]
async fn nothing_is_open_while_the_applier_stands_still() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let stream = chunks(&pair).await;
    let large = begun(&pair, &rows(1, 1_500)).await;
    until_open(&pair, 1).await;
    let hold = stream.hold().await.unwrap();
    // Who makes a slot waits for all that is open: for this as well, if it were.
    until_open(&pair, 0).await;
    large.batch_execute("commit").await.unwrap();
    let behind = log_end(&pair.source.admin).await;
    hold.at(behind).await.unwrap();
    assert_eq!(seen_there(&pair).await, "1500");
    drop(hold);
    let again = begun(&pair, &rows(2_001, 3_500)).await;
    until_open(&pair, 1).await;
    again.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    let progress = stream.progress().borrow().clone();
    assert_eq!((progress.streamed, progress.fallen_back), (1, 0));
    stream.stop().await.unwrap();
    pair.clean().await;
}

/// Waits until who makes a slot at the source waits for a transaction there.
async fn until_a_slot_waits(pair: &Pair) {
    let waiting = "select count(*) from pg_locks join pg_stat_activity using (pid)
                   where not granted and locktype = 'transactionid' and backend_type = 'walsender'";
    let begun = Instant::now();
    while one(&pair.source.admin, waiting).await != "1" {
        assert!(begun.elapsed() < PATIENCE, "nobody waits");
    }
}

/// Two moves both ways between two servers, both at their comparison: each applier stands
/// still, while a slot at its source waits for all that is open there, and that is where
/// the other one applies.
#[tokio::test]
async fn two_streams_both_ways_that_stand_still_do_not_wait_for_each_other() {
    let (east, west) = tokio::join!(TestServer::start(), TestServer::start());
    let pairs = [
        Pair::on([Some(&east), Some(&west)], SMALL).await,
        Pair::on([Some(&west), Some(&east)], SMALL).await,
    ];
    let streams = [chunks(&pairs[0]).await, chunks(&pairs[1]).await];
    let large = [begun(&pairs[0], &rows(1, 1_500)).await, begun(&pairs[1], &rows(1, 1_500)).await];
    for pair in &pairs {
        until_open(pair, 1).await;
    }
    let holds = [streams[0].hold().await.unwrap(), streams[1].hold().await.unwrap()];
    let slot = |pair: usize| temporary_slot(&pairs[pair].source.place, pairs[pair].name, PATIENCE);
    let ends = async {
        for pair in &pairs {
            until_a_slot_waits(pair).await;
        }
        for large in &large {
            large.batch_execute("commit").await.unwrap();
        }
    };
    let (of_east, of_west, ()) = tokio::join!(slot(0), slot(1), ends);
    for ((pair, hold), slot) in pairs.iter().zip(&holds).zip([of_east.unwrap(), of_west.unwrap()]) {
        hold.at(slot.consistent_point).await.unwrap();
        assert_eq!(seen_there(pair).await, "1500", "what the slot's snapshot has is applied");
    }
    drop(holds);
    for (pair, stream) in pairs.iter().zip(streams) {
        pair.source.run("update items set what = 'later' where id < 10").await;
        pair.caught_up(&stream).await.unwrap();
        pair.assert_same().await;
        stream.stop().await.unwrap();
        pair.clean().await;
    }
}

/// Waits until a stream has fallen back, which is not to take longer than its limits.
async fn until_fallen(stream: &Stream) {
    let mut progress = stream.progress();
    let fallen = progress.wait_for(|progress| progress.fallen_back > 0);
    tokio::time::timeout(PATIENCE, fallen).await.expect("it has a limit").unwrap();
}

/// A server that is frozen when a session is to be opened for a large transaction.
#[tokio::test]
async fn a_target_that_says_nothing_gives_no_session() {
    let server = TestServer::start().await;
    let pair = Pair::on([None, Some(&server)], SMALL).await;
    let stream = chunks(&pair).await;
    pair.source.run("insert into items values (-1)").await;
    pair.caught_up(&stream).await.unwrap();
    server.freeze();
    let large = begun(&pair, &rows(1, 1_500)).await;
    flushed(&pair.source.admin).await;
    until_fallen(&stream).await;
    server.thaw();
    large.batch_execute("commit").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    stream.stop().await.unwrap();
    pair.clean().await;
}

/// A stream whose next commit of a large transaction is there, and is to be asked about:
/// from which streams the source has something that is left out.
async fn at_a_commit(pair: &Pair, beside: &Beside) -> Stream {
    let spec = StreamSpec { skip_origins: vec![pair.back()], ..little(pair) };
    let stream = Stream::start(spec).await.unwrap();
    let (source, name) = (pair.source.place.clone(), pair.name);
    let large = beside.alone(async move { begun_at(&source, &rows(1, 1_500)).await });
    until_open(pair, 1).await;
    let source = pair.source.place.clone();
    beside.alone(async move {
        large.batch_execute("commit").await.unwrap();
        until_sent(&source, name).await;
    });
    stream
}

/// A server that is frozen when it is asked, before a commit at the target.
#[tokio::test]
async fn a_source_that_says_nothing_is_not_asked_for_ever() {
    let server = TestServer::start().await;
    let pair = Pair::on([Some(&server), None], SMALL).await;
    let beside = Beside::new();
    let stream = at_a_commit(&pair, &beside).await;
    server.freeze();
    until_fallen(&stream).await;
    server.thaw();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    assert_eq!((seen_there(&pair).await.as_str(), counted(&stream)), ("1500", (0, 1)));
    stream.stop().await.unwrap();
    pair.clean().await;
}

/// A server that takes the connection, and does not answer the question.
#[tokio::test]
async fn a_question_without_an_answer_is_not_waited_for_for_ever() {
    let server = TestServer::start().await;
    let pair = Pair::on([Some(&server), None], SMALL).await;
    // The server looks its name up, where it has applied anything.
    let somebody =
        "select pg_replication_origin_create('somebody'), pg_replication_origin_advance('somebody', '0/1')";
    pair.source.admin.batch_execute(somebody).await.unwrap();
    let beside = Beside::new();
    let stream = at_a_commit(&pair, &beside).await;
    let place = pair.source.place.clone();
    let names = "lock table pg_replication_origin";
    let locked = beside.alone(async move { begun_at(&place, names).await });
    until_fallen(&stream).await;
    locked.batch_execute("rollback").await.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    assert_eq!((seen_there(&pair).await.as_str(), counted(&stream)), ("1500", (0, 1)));
    stream.stop().await.unwrap();
    pair.clean().await;
}
