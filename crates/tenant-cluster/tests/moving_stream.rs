//! A stream of changes on real servers: from every form to every form, only
//! the tenant's own rows, whatever is done to them, and not at all where the
//! ends have come apart.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod stream_support;

use insula_domain::Isolation::{Database, Pool, Schema};
use insula_problem::Code;
use insula_tenant_cluster::moving::{
    Stream, StreamFault, StreamName, StreamSpec, publish, replication_objects,
};
use stream_support::moving_support::{NASTY_ROWS, nasty};
use stream_support::*;

/// What is done to rows besides adding them. The text of 300,000 letters is
/// stored apart from its row, and not in the log when the row changes.
const CHANGES: &str = r#"
update "Order ""Lines""" set words = array[(select string_agg(md5(n::text), '') from generate_series(1, 9375) n)] where id = 1;
update "Order ""Lines""" set n = n + 1, m = 'so so' where id = 1;
update "Order ""Lines""" set words = '{x}' where id <> 1;
delete from "Order ""Lines""" where id = 2;
insert into "no rows" values (1, 'b'), (1, 'c'), (2, 'b');
update "no rows" set a = a + 10 where b = 'b';
update "no rows" set a = 1, b = 'd' where b = 'c';
delete from "no rows" where a = 12;
update seats set place = 51 - place;
update seats set id = id + 100 where id <= 3;
update events set what = upper(what) where id % 3 = 0;
update events set at = '2026-05-05' where id = 7;
delete from events where id > 900;
update "Order ""Lines""" set parent = null;
update "Order ""Lines""" set id = default, n = n + 1 where id = 1;
insert into counted (id, what) values (1, 'a'), (2, 'b');
update counted set what = 'c', turn = default where id = 1;
update counted set what = 'd' where id = 2;
insert into visits select 1, min(id) from seats"#;

const SMALL: &str = "create table items (id int primary key, what text not null default '')";

async fn follows(from: insula_domain::Isolation, to: insula_domain::Isolation) {
    let pair = Pair::new(from, to, &nasty()).await;
    let stream = pair.stream().await;
    pair.write(NASTY_ROWS).await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    pair.write(CHANGES).await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    let progress = stream.progress().borrow().clone();
    assert!(progress.rows > 1_500 && progress.transactions >= 2, "{progress:?}");
    if from != Pool {
        // One partition alone, as old rows are thrown away.
        pair.source.run("truncate events_old").await;
        pair.caught_up(&stream).await.unwrap();
        pair.assert_same().await;
        let left = "select count(*) > 0 from events_new";
        assert_eq!(one(&pair.target.place.connect().await.unwrap(), left).await, "t");
        pair.source.run("truncate seats, events, visits; insert into seats (id, place) values (1, 1)").await;
        pair.caught_up(&stream).await.unwrap();
    }
    stream.stop().await.unwrap();
    pair.assert_same().await;
    pair.clean().await;
}

#[tokio::test]
async fn from_shared_tables_to_a_silo_all_comes() {
    follows(Pool, Schema).await;
}

#[tokio::test]
async fn from_a_silo_to_shared_tables_all_comes() {
    follows(Database, Pool).await;
}

#[tokio::test]
async fn from_silo_to_silo_all_comes() {
    follows(Schema, Database).await;
}

#[tokio::test]
async fn from_pool_to_pool_others_rows_never_come_and_never_go() {
    let pair = Pair::new(Pool, Pool, &versions(&[SMALL])).await;
    let (source, target) = (&pair.source.place, &pair.target.place);
    let (own, other) = (pair.tenant().as_uuid(), new_tenant().as_uuid());
    // The other has the same keys at both ends.
    pair.target
        .run(&format!("insert into items values (1, 'kept', '{other}'), (2, 'kept', '{other}')"))
        .await;
    let stream = pair.stream().await;
    let change = format!(
        "insert into items select n, 'of ' || t, t from generate_series(1, 5) n, unnest('{{{own},{other}}}'::uuid[]) t;
         update items set what = 'new ' || what where id = 1; delete from items where id = 2"
    );
    pair.source.run(&change).await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    let client = target.connect().await.unwrap();
    let others =
        format!("select string_agg(id || what, ' ' order by id) from items where tenant_id = '{other}'");
    assert_eq!(one(&client, &others).await, "1kept 2kept");
    // An administrator may truncate shared tables: the tenant's rows go, no others.
    pair.source.run("truncate items").await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    assert_eq!(one(&client, &others).await, "1kept 2kept");
    // A table whose rows have no key is not published: nobody could change them any more.
    let mut without = pair.tables.clone();
    without[0].key.clear();
    let refused = publish(source, pair.name, &without).await.unwrap_err();
    assert_eq!(refused.code(), Code::MoveBlocked);
    // Canary: without the filter others' rows come.
    pair.source.run(&format!("alter publication {} set table app.items", pair.name)).await;
    pair.source.run(&format!("insert into items values (9, 'foreign', '{other}')")).await;
    pair.caught_up(&stream).await.unwrap();
    let foreign = format!("select count(*) from items where tenant_id = '{own}' and what = 'foreign'");
    assert_eq!(one(&client, &foreign).await, "1");
    assert_eq!(one(&source.connect().await.unwrap(), &foreign).await, "0");
    drop(stream);
    pair.clean().await;
}

#[tokio::test]
async fn a_stream_ends_where_the_ends_have_come_apart() {
    let pair = Pair::new(Schema, Pool, &versions(&[SMALL])).await;
    let apart = [
        ("delete from items where id = 1", "update items set what = 'x' where id = 1", "update", "id=1"),
        ("delete from items where id = 2", "delete from items where id = 2", "delete", "id=2"),
        ("insert into items (id, tenant_id) values (9, %)", "insert into items values (9)", "insert", "id=9"),
    ];
    for (at_target, at_source, what, which) in apart {
        pair.source.run("delete from items; insert into items values (1), (2)").await;
        drop(pair.prepare().await);
        let tenant = format!("'{}'", pair.tenant().as_uuid());
        pair.target
            .run(&format!("delete from items; insert into items values (1, '', {tenant}), (2, '', {tenant})"))
            .await;
        pair.target.run(&at_target.replace('%', &tenant)).await;
        let stream = pair.stream().await;
        pair.source.run(at_source).await;
        match pair.caught_up(&stream).await {
            Err(StreamFault::Diverged { table, change, key, .. }) => {
                assert_eq!((table.as_str(), change.as_str(), key.as_str()), ("items", what, which));
            }
            other => panic!("{at_target}: {other:?}"),
        }
        let fault = stream.stop().await.unwrap_err();
        assert_eq!(insula_problem::Problem::from(fault).code(), Code::MoveDiverged);
    }
    pair.clean().await;
}

#[tokio::test]
async fn a_table_that_is_changed_ends_the_stream() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let changes = [
        "alter table items add column more int",
        "alter table items alter column id type bigint",
        "alter table items rename to things",
    ];
    for change in changes {
        pair.source.run("begin; drop table if exists things, items; create table items (id int primary key, what text not null default ''); commit").await;
        drop(pair.prepare().await);
        let stream = pair.stream().await;
        pair.source.run("insert into items values (1); insert into items values (2)").await;
        pair.caught_up(&stream).await.unwrap();
        let table = if change.contains("things") { "things" } else { "items" };
        pair.source.run(&format!("{change}; insert into {table} values (3)")).await;
        let fault = pair.caught_up(&stream).await.unwrap_err();
        assert!(matches!(fault, StreamFault::SchemaChanged { .. }), "{change}: {fault:?}");
        // What was committed before the change is there, and nothing of the change.
        let client = pair.target.place.connect().await.unwrap();
        assert_eq!(one(&client, "select string_agg(id::text, ' ' order by id) from items").await, "1 2");
        assert!(stream.stop().await.is_err());
        let again = Stream::start(pair.spec()).await.unwrap_err();
        assert_eq!(again.code(), Code::SchemaChanged, "{change}: {}", again.chain());
        pair.target.run("delete from items").await;
    }
    pair.clean().await;
}

#[tokio::test]
async fn what_came_from_the_other_end_does_not_go_back() {
    let pair = Pair::new(Pool, Schema, &versions(&[SMALL])).await;
    pair.prepare_back().await;
    let spec = |skip_origins| pair.spec_back(skip_origins, pair.spec());
    let forth = Stream::start(StreamSpec { skip_origins: vec![pair.back()], ..pair.spec() }).await.unwrap();
    let returning = Stream::start(spec(vec![pair.name])).await.unwrap();
    let at_target = pair.target.database.connect().await;
    pair.write("insert into items select n from generate_series(1, 20) n").await;
    pair.caught_up(&forth).await.unwrap();
    write(
        &pair.target,
        "insert into items select n from generate_series(21, 30) n; update items set what = 'b' where id < 5",
    )
    .await;
    marked(&at_target, &returning).await.unwrap();
    pair.caught_up(&forth).await.unwrap();
    pair.assert_same().await;
    assert_eq!(returning.progress().borrow().rows, 14);
    // Canary: what is not left out is applied where it already is.
    drop(returning);
    pair.write("insert into items values (99)").await;
    pair.caught_up(&forth).await.unwrap();
    let echo = Stream::start(spec(Vec::new())).await.unwrap();
    let fault = marked(&at_target, &echo).await.unwrap_err();
    assert!(matches!(fault, StreamFault::Diverged { .. }), "{fault:?}");
    drop((forth, echo));
    pair.clean().await;
    pair.clean_back().await;
    let left = replication_objects(&pair.source.place.access).await.unwrap();
    let of_this = |name: &StreamName| name.move_id == pair.name.move_id;
    assert!(!left.slots.iter().any(|slot| of_this(&slot.stream)), "{left:?}");
    assert!(!left.origins.iter().any(|(name, _)| of_this(name)), "{left:?}");
}
