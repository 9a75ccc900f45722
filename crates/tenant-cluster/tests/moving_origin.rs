//! How far a stream is, at servers where a transaction that is rolled back moves
//! its session's origin as well (PostgreSQL 16 and newer): whenever the session of
//! an applier ends, and whatever its origin says then, nothing is missing.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod stream_support;

use std::time::{Duration, Instant};

use insula_domain::Isolation::{Database, Schema};
use insula_problem::Code;
use insula_sql_store::Connector;
use insula_tenant_cluster::ClusterAccess;
use insula_tenant_cluster::moving::{
    Lsn, Stream, StreamName, StreamSpec, Way, create_origin, replication_objects,
};
use insula_testkit::{TestServer, installation};
use stream_support::between::{Before, Between};
use stream_support::*;
use tokio_postgres::Client;

const SMALL: &str = "create table items (id int primary key, what text not null default '')";

/// From this version on servers do so.
const MOVES_BACK: i32 = 160_000;

async fn version_of(client: &Client) -> i32 {
    client.query_one("select current_setting('server_version_num')::int", &[]).await.unwrap().get(0)
}

/// Gives the stream its witnesses, where the server's version asks for none.
async fn with_witnesses(pair: &Pair) {
    for end in ["known", "mover"] {
        let create = format!(
            "select pg_replication_origin_create('{0}_{end}')
             where not exists (select from pg_replication_origin where roname = '{0}_{end}')",
            pair.name
        );
        pair.target.admin.execute(&create, &[]).await.unwrap();
    }
}

async fn without_witnesses(pair: &Pair) {
    let drop = format!(
        "select pg_replication_origin_drop(roname) from pg_replication_origin where roname in ('{0}_known', '{0}_mover')",
        pair.name
    );
    pair.target.admin.execute(&drop, &[]).await.unwrap();
}

/// A pair that is in step, whose stream has ended.
async fn in_step() -> Pair {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    with_witnesses(&pair).await;
    let stream = pair.stream().await;
    pair.source.run("insert into items values (1)").await;
    pair.caught_up(&stream).await.unwrap();
    assert_known(&pair).await;
    stream.stop().await.unwrap();
    until_nobody(&pair).await;
    pair
}

/// What is committed is known to be: else it would be set back too far.
async fn assert_known(pair: &Pair) {
    let at = |origin: String| async move {
        let place = "select remote_lsn from pg_replication_origin_status where external_id = $1";
        pair.target.admin.query_one(place, &[&origin]).await.unwrap().get::<_, Lsn>(0)
    };
    assert_eq!(at(pair.name.to_string()).await, at(format!("{}_known", pair.name)).await);
}

/// Waits until the stream has no session at its target.
async fn until_nobody(pair: &Pair) {
    let count = format!(
        "select count(*) from pg_stat_activity where application_name = '{}' and backend_type = 'client backend'",
        pair.name
    );
    let begun = Instant::now();
    while one(&pair.target.admin, &count).await != "0" {
        assert!(begun.elapsed() < PATIENCE, "a session does not end");
    }
}

/// A row that is at the source alone, and the origin behind it: what such a server
/// leaves of a transaction that has ended with its session, or of one that has
/// committed. The statement in between ends it.
async fn origin_is_ahead(pair: &Pair, by: &Client) -> Lsn {
    pair.source.run("insert into items select coalesce(max(id), 0) + 1, 'not applied' from items").await;
    let end = log_end(&pair.source.admin).await;
    by.batch_execute(&format!(
        "begin; select pg_replication_origin_advance('{0}_mover', '0/0'::pg_lsn + pg_current_xact_id()::text::numeric);
         select pg_replication_origin_advance('{0}', '{end}')",
        pair.name
    ))
    .await
    .unwrap();
    end
}

async fn is_same_after(pair: &Pair) -> bool {
    let stream = pair.stream().await;
    pair.caught_up(&stream).await.unwrap();
    let (source, target) = pair.both().await;
    stream.stop().await.unwrap();
    source == target
}

/// Where the origin of the stream was before, and where it is set back to.
async fn origin_of(pair: &Pair) -> Option<Lsn> {
    let objects = replication_objects(&pair.target.place.access).await.unwrap();
    objects.origins.into_iter().find(|(name, _)| *name == pair.name).and_then(|(_, applied)| applied)
}

#[tokio::test]
async fn what_was_rolled_back_is_applied_again_though_the_origin_is_behind_it() {
    let pair = in_step().await;
    origin_is_ahead(&pair, &pair.target.admin).await;
    pair.target.admin.batch_execute("rollback").await.unwrap();
    assert!(is_same_after(&pair).await);
    // Once more from where it is now, so that what was set back is known to be.
    until_nobody(&pair).await;
    pair.source.run("delete from items").await;
    origin_is_ahead(&pair, &pair.target.admin).await;
    pair.target.admin.batch_execute("rollback").await.unwrap();
    assert!(is_same_after(&pair).await);
    pair.clean().await;
}

#[tokio::test]
async fn without_witnesses_it_is_missing() {
    // The canary of the test above.
    let pair = in_step().await;
    origin_is_ahead(&pair, &pair.target.admin).await;
    pair.target.admin.batch_execute("rollback").await.unwrap();
    without_witnesses(&pair).await;
    assert!(!is_same_after(&pair).await);
    pair.clean().await;
}

#[tokio::test]
async fn what_was_committed_is_not_applied_again() {
    let pair = in_step().await;
    let end = origin_is_ahead(&pair, &pair.target.admin).await;
    // Its row, without which the origin says what is not.
    let row = format!("insert into {}.items values (2, 'not applied')", pair.target.place.placement.schema);
    pair.target.admin.batch_execute(&row).await.unwrap();
    pair.target.admin.batch_execute("commit").await.unwrap();
    let stream = pair.stream().await;
    assert!(stream.progress().borrow().applied >= end);
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    drop(stream);
    pair.clean().await;
}

#[tokio::test]
async fn one_that_is_not_decided_is_waited_for_and_one_that_is_forgotten_ends_the_stream() {
    let pair = in_step().await;
    let before = origin_of(&pair).await;
    origin_is_ahead(&pair, &pair.target.admin).await;
    let (begun, decided) = tokio::join!(Stream::start(pair.spec()), async {
        // The stream has asked what became of it.
        let asked = format!(
            "select count(*) from pg_stat_activity
             where application_name = '{}' and query like '%pg_xact_status%' and pid <> pg_backend_pid()",
            pair.name
        );
        let begun = Instant::now();
        while one(&pair.source.admin, &asked).await == "0" {
            assert!(begun.elapsed() < PATIENCE, "nobody asks");
        }
        assert!(origin_of(&pair).await > before, "nothing is set back before it is decided");
        pair.target.admin.batch_execute("rollback").await
    });
    decided.unwrap();
    let stream = begun.unwrap();
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    stream.stop().await.unwrap();
    until_nobody(&pair).await;
    origin_is_ahead(&pair, &pair.target.admin).await;
    let of_nobody = format!("rollback; select pg_replication_origin_advance('{}_mover', '0/0')", pair.name);
    pair.target.admin.batch_execute(&of_nobody).await.unwrap();
    let refused = Stream::start(pair.spec()).await.unwrap_err();
    assert!(refused.chain().contains("nobody knows any more"), "{}", refused.chain());
    pair.clean().await;
}

#[tokio::test]
async fn nothing_is_left_of_the_witnesses() {
    let pair = in_step().await;
    let listed = || async {
        let objects = replication_objects(&pair.target.place.access).await.unwrap();
        objects.origins.into_iter().filter(|(name, _)| *name == pair.name).collect::<Vec<_>>()
    };
    let found = listed().await;
    assert!(matches!(found.as_slice(), [(_, Some(_))]), "told as one, with its place: {found:?}");
    // Witnesses that have lost their stream's origin are found as well.
    let drop = format!("select pg_replication_origin_drop('{}')", pair.name);
    pair.target.admin.batch_execute(&drop).await.unwrap();
    assert_eq!(listed().await, [(pair.name, None)]);
    pair.clean().await;
    assert_eq!(listed().await, []);
    let left = format!("select count(*) from pg_replication_origin where roname like '{}%'", pair.name);
    assert_eq!(one(&pair.target.admin, &left).await, "0");
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A transaction that comes whole.
    Small,
    /// One that is applied while it runs, and committed by a session of its own.
    Large,
}

/// Who goes on when a session has ended.
#[derive(Debug, Clone, Copy)]
enum By {
    TheSame,
    Another,
}

/// A session of an applier ends about its commit; whether all is there at last.
async fn ends(kind: Kind, before: Before, by: By, witnesses: bool) -> (bool, Pair) {
    let mut pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    if witnesses {
        with_witnesses(&pair).await;
    } else {
        without_witnesses(&pair).await;
    }
    let port = one(&pair.target.admin, "show port").await.parse().unwrap();
    let between = Between::new(port, before).await;
    let connector = Connector::new(&between.through(&pair.target.database.url()), None).unwrap();
    pair.target.place.access = ClusterAccess::new("test-b".parse().unwrap(), connector);
    let spec = StreamSpec { chunks_above_kb: 64, ..pair.spec() };
    let mut stream = Stream::start(spec.clone()).await.unwrap();
    pair.source.run("insert into items values (1)").await;
    pair.caught_up(&stream).await.unwrap();
    match kind {
        Kind::Small => {
            between.stop();
            pair.source.run("insert into items values (2)").await;
        }
        Kind::Large => {
            let client = pair.source.place.connect().await.unwrap();
            let rows =
                "begin; insert into items select n, repeat(md5(n::text), 20) from generate_series(2, 2000) n";
            client.batch_execute(rows).await.unwrap();
            until_begun(&pair).await;
            between.stop();
            client.batch_execute("commit").await.unwrap();
        }
    }
    until_stopped(&pair, &between, before).await;
    match by {
        By::TheSame => end_it(&pair, before).await,
        By::Another => {
            drop(stream);
            stream = Stream::start(spec).await.unwrap();
        }
    }
    pair.caught_up(&stream).await.unwrap();
    if witnesses {
        assert_known(&pair).await;
    }
    let (source, target) = pair.both().await;
    drop(stream);
    (source == target, pair)
}

/// Waits until a transaction that runs is at the target.
async fn until_begun(pair: &Pair) {
    let open = format!(
        "select count(*) from pg_stat_activity where application_name = '{}' and backend_xid is not null",
        pair.name
    );
    let begun = Instant::now();
    while one(&pair.target.admin, &open).await == "0" {
        assert!(begun.elapsed() < PATIENCE, "it does not come");
    }
}

/// The session that stands before the statement, as the rest of a query.
fn standing(pair: &Pair, before: Before) -> String {
    let last = match before {
        Before::Commit => "query like '%pg_replication_origin_xact_setup%' and backend_xid is not null",
        Before::IsKnown => "query = 'commit' and backend_xid is null",
    };
    format!(
        "from pg_stat_activity where application_name = '{}' and wait_event = 'ClientRead' and {last}",
        pair.name
    )
}

async fn until_stopped(pair: &Pair, between: &Between, before: Before) {
    let stands = format!("select count(*) {}", standing(pair, before));
    let begun = Instant::now();
    while between.is_to_stop() || one(&pair.target.admin, &stands).await == "0" {
        assert!(begun.elapsed() < PATIENCE, "it does not come to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn end_it(pair: &Pair, before: Before) {
    let end = format!("select count(pg_terminate_backend(pid, 10000)) {}", standing(pair, before));
    assert_eq!(one(&pair.target.admin, &end).await, "1");
}

#[tokio::test]
async fn a_session_may_end_between_its_progress_and_its_commit() {
    for (kind, by) in [(Kind::Small, By::TheSame), (Kind::Large, By::Another)] {
        let (is_same, pair) = ends(kind, Before::Commit, by, true).await;
        assert!(is_same, "{kind:?}");
        pair.clean().await;
        // Canary: at the servers that do so, changes are lost without witnesses.
        let (is_same, pair) = ends(kind, Before::Commit, by, false).await;
        assert_eq!(is_same, version_of(&pair.target.admin).await < MOVES_BACK, "{kind:?}");
        pair.clean().await;
    }
}

#[tokio::test]
async fn a_session_may_end_behind_its_commit() {
    for (kind, by) in [(Kind::Small, By::Another), (Kind::Large, By::TheSame)] {
        let (is_same, pair) = ends(kind, Before::IsKnown, by, true).await;
        assert!(is_same, "{kind:?}");
        pair.clean().await;
    }
}

#[tokio::test]
async fn a_server_without_room_for_an_origin_says_so_before_anything_is_copied() {
    const ROOM: &str = "4";
    let has_own_limit = installation().version().major() >= 18;
    let limit = if has_own_limit { "max_active_replication_origins" } else { "max_replication_slots" };
    let server = TestServer::start_with(|spec| drop(spec.settings.insert(limit.into(), ROOM.into()))).await;
    let admin = server.connect("postgres").await;
    let mut place = End::new(Schema, new_tenant(), &versions(&[SMALL])).await.place;
    place.access =
        ClusterAccess::new("test-b".parse().unwrap(), Connector::new(&server.url("postgres"), None).unwrap());
    let count = "select count(*) || ' ' || (select count(*) from pg_replication_origin_status) from pg_replication_origin";
    let mut made = one(&admin, count).await;
    let refused = loop {
        match create_origin(&place, StreamName::new(Way::Forward, new_id())).await {
            Ok(()) => made = one(&admin, count).await,
            Err(problem) => break problem,
        }
    };
    assert_eq!(refused.code(), Code::ClusterUnsuitable, "{}", refused.chain());
    assert_eq!(one(&admin, count).await, made, "nothing is left of the one that was refused");
    let each = if version_of(&admin).await < MOVES_BACK { "4 4" } else { "3 3" };
    assert_eq!(made, each);
}
