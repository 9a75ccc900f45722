//! Copying a tenant's rows between all forms and comparing them: what comes is
//! what was there, and a comparison finds what is not.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod moving_support;

use std::sync::Arc;
use std::time::Duration;

use insula_app_schema::PlainMigration;
use insula_domain::{Isolation, TenantId};
use insula_problem::Code;
use insula_tenant_cluster::moving::{
    CompareOptions, Comparison, Copied, CopyOptions, CopyProgress, Differs, Seat, Throttle, Verified, copy,
    manifest, sequences, set_sequences, tables, verify,
};
use insula_tenant_cluster::purge_pool_rows;
use insula_tenant_cluster::schema::fingerprint;
use moving_support::schema_support::{new_tenant, one, shop, versions};
use moving_support::{End, NASTY_ROWS, nasty};
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

/// A snapshot of an end, as long as its session is there.
async fn snapshot(end: &End) -> (Client, String) {
    let keeper = end.database.connect().await;
    keeper.batch_execute("begin isolation level repeatable read").await.unwrap();
    let name = one(&keeper, "select pg_export_snapshot()").await;
    (keeper, name)
}

fn small_ranges() -> CopyOptions {
    CopyOptions { parallel: 3, rows_per_range: 90, ..CopyOptions::default() }
}

/// Copies and sets the sequences.
async fn copied(source: &End, target: &End) -> Copied {
    let found = tables(&source.place.connect().await.unwrap(), &source.place).await.unwrap();
    let (_keeper, snapshot) = snapshot(source).await;
    if target.place.is_pool_form() {
        // A new tenant has begun with rows of the template's.
        purge_pool_rows(&mut target.place.connect().await.unwrap(), target.place.tenant).await.unwrap();
    }
    let (progress, stop) = (CopyProgress::default(), CancellationToken::new());
    let mut seat = Seat::take_at(&target.place).await.unwrap();
    let (from, to) = ((&source.place, &*snapshot), (&target.place, &mut seat));
    let copied = copy(from, to, &found, small_ranges(), &progress, &stop).await.unwrap();
    assert_eq!((progress.rows(), progress.tables()), (copied.rows, u64::try_from(found.len()).unwrap()));
    let there = sequences(&source.place.connect().await.unwrap(), &source.place).await.unwrap();
    set_sequences(&target.place.connect().await.unwrap(), &target.place, &there).await.unwrap();
    copied
}

async fn verified(source: &End, target: &End) -> Verified {
    let found = tables(&source.place.connect().await.unwrap(), &source.place).await.unwrap();
    let (comparison, stop) = (Comparison::default(), CancellationToken::new());
    let (from, to) = ((&source.place, None), (&target.place, None));
    verify(from, to, &found, CompareOptions::default(), &comparison, &stop).await.unwrap()
}

/// Through all forms and back; the ends, of which each has the rows.
async fn round_trip(tenant: TenantId, plain: &[PlainMigration], rows: &str) -> Vec<End> {
    let mut ends = vec![End::new(Isolation::Pool, tenant, plain).await];
    ends[0].fill(rows).await;
    // Somebody else has rows in the shared tables, too.
    ends[0].fill_beside(rows).await;
    let mut sums = Vec::new();
    for isolation in [Isolation::Schema, Isolation::Database, Isolation::Pool] {
        let mut target = End::new(isolation, tenant, plain).await;
        if isolation == Isolation::Pool {
            target.fill_beside(rows).await;
        }
        let schema = &target.place.placement.schema;
        let before = fingerprint(&target.admin, schema).await.unwrap();
        let source = ends.last().unwrap();
        let copied = copied(source, &target).await;
        let after = fingerprint(&target.admin, schema).await.unwrap();
        assert_eq!(before.differences(&after), [], "{isolation:?}: the form is the same again");
        let verified = verified(source, &target).await;
        assert_eq!(verified.differences, [], "{isolation:?}");
        assert_eq!(verified.rows, copied.rows);
        assert_eq!(manifest(&target.place).await.unwrap().tables, copied.tables);
        sums.push((verified.rows, verified.checksum));
        ends.push(target);
    }
    assert!(sums[0].0 > 0 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    ends
}

const SHOP_ROWS: &str = "
insert into customers (email, name) select 'c' || n || '@x', 'Customer ' || n from generate_series(1, 300) n;
insert into products (sku, name) select 'sku ' || n, 'Product ' || n from generate_series(1, 200) n;
insert into prices (product_id, currency, cents) select id, 'EUR', id * 100 from products;
update products set description = 'changed' where sku = 'sku 7'";

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_goes_through_all_forms() {
    let ends = round_trip(new_tenant(), &shop(), SHOP_ROWS).await;
    // Of a placement that is left nothing stays but the others' rows.
    let before = one(&ends[0].admin, "select count(*) from app.products").await;
    let mut client = ends[0].place.connect().await.unwrap();
    purge_pool_rows(&mut client, ends[0].place.tenant).await.unwrap();
    assert_eq!(manifest(&ends[0].place).await.unwrap().rows, 0);
    assert_eq!(
        (before.as_str(), one(&ends[0].admin, "select count(*) from app.products").await.as_str()),
        ("400", "200")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nasty_schema_goes_through_all_forms() {
    let ends = round_trip(new_tenant(), &nasty(), NASTY_ROWS).await;
    // No number that was given is given again.
    for end in &ends {
        let next = "select nextval('\"Free \"\"Seq\"\"\"'), nextval('seats_id_seq')";
        let client = end.place.connect().await.unwrap();
        let row = client.query_one(next, &[]).await.unwrap();
        assert!(row.get::<_, i64>(0) >= 16 && row.get::<_, i64>(1) > 50, "{row:?}");
    }
    // And each difference is found, whatever it is.
    let (pool, silo) = (&ends[0], &ends[2]);
    silo.run(
        "set session_replication_role = replica;
         update \"Order \"\"Lines\"\"\" set r = 0 where id = 1; delete from events where id = 17;
         insert into events values (5000, '2024-01-01', 'extra'); update seats set place = 777 where id = 50;
         insert into \"no rows\" values (1, 'it''s')",
    )
    .await;
    let found = verified(pool, silo).await.differences;
    let found: Vec<_> = found.iter().map(|d| (d.table.as_str(), d.key.as_str(), d.what)).collect();
    assert_eq!(
        found,
        [
            ("Order \"Lines\"", "id=1", Differs::OtherValues),
            ("events_old", "id=17, at=2024-06-18", Differs::MissingAtTarget),
            ("events_old", "id=5000, at=2024-01-01", Differs::OnlyAtTarget),
            (
                "no rows",
                &*format!("b=md5:{}, a=1", one(&pool.admin, "select md5('it''s')").await),
                Differs::OnlyAtTarget
            ),
            ("seats", "id=50", Differs::OtherValues),
        ]
    );
}

/// What a tenant alone may have: it must come back as it was.
const RICH: &str = "
create table p (id int primary key, b int, c text, constraint p_b unique (b) deferrable initially deferred,
                exclude using gist (int4range(id, id + 1) with &&));
comment on constraint p_b on p is 'it''s \"b\"'; comment on index p_pkey is 'the key';
create index \"P \"\"c\" on p (lower(c), b desc nulls last) include (id) with (fillfactor = 70) where b > 0;
comment on index \"P \"\"c\" is 'c'; alter index \"P \"\"c\" alter column 1 set statistics 77;
alter table p cluster on p_b; create index on p using gin (to_tsvector('simple', c));
create table q (id int not null unique, p int references p on delete cascade, d int default 1,
                self int references q (id) deferrable initially deferred);
alter table q replica identity using index q_id_key; create unique index on q (p, d) nulls not distinct;
comment on constraint q_p_fkey on q is 'to p';
create table part (id int, k int references p, primary key (id)) partition by hash (id);
create table part0 partition of part for values with (modulus 2, remainder 0);
create table part1 partition of part for values with (modulus 2, remainder 1);
create index part_k on part (k); create table to_part (id int primary key references part);
create view grouped as select id, c from p group by id;
create view counted as select q.id, q.d from q join p on p.id = q.p";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_away_is_made_again_as_it_was() {
    let tenant = new_tenant();
    let plain = versions(&["select 1"]);
    let (source, target) = (
        End::new(Isolation::Database, tenant, &plain).await,
        End::new(Isolation::Schema, tenant, &plain).await,
    );
    for end in [&source, &target] {
        end.run(RICH).await;
    }
    source
        .run(
            "insert into p select n, n, 'c' || n from generate_series(1, 500) n;
             insert into q select n, n, n, 501 - n from generate_series(1, 500) n;
             insert into part select n, n from generate_series(1, 500) n; insert into to_part values (7)",
        )
        .await;
    for end in [&source, &target] {
        end.run("alter table q add constraint q_late foreign key (d) references p not valid").await;
    }
    let detail = format!(
        "select string_agg(x, E'\n' order by x) from (
           select k.conname || pg_get_constraintdef(k.oid) || k.convalidated
                  || coalesce(obj_description(k.oid, 'pg_constraint'), '') from pg_constraint k
           where k.connamespace = '{0}'::regnamespace
           union all select c.relname || i.indisclustered || i.indisreplident || i.indisvalid || c.reloptions::text
                            || coalesce(obj_description(c.oid, 'pg_class'), '') || c.relowner::regrole
                            || (select string_agg(attstattarget::text, ',') from pg_attribute where attrelid = c.oid)
           from pg_index i join pg_class c on c.oid = i.indexrelid where c.relnamespace = '{0}'::regnamespace) s (x)",
        target.place.placement.schema
    );
    let schema = &target.place.placement.schema;
    let before = (fingerprint(&target.admin, schema).await.unwrap(), one(&target.admin, &detail).await);
    let copied = copied(&source, &target).await;
    assert_eq!(copied.rows, 1501);
    let after = (fingerprint(&target.admin, schema).await.unwrap(), one(&target.admin, &detail).await);
    assert_eq!(before.0.differences(&after.0), []);
    assert_eq!(before.1, after.1);
    assert_eq!(verified(&source, &target).await.differences, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_of_its_snapshot_and_can_be_paused_and_stopped() {
    let tenant = new_tenant();
    let plain = versions(&["create table t (a int primary key, b int check (b < 10))"]);
    let source = End::new(Isolation::Schema, tenant, &plain).await;
    let target = End::new(Isolation::Database, tenant, &plain).await;
    source.run("insert into t select n, 1 from generate_series(1, 1000) n").await;
    let found = tables(&source.place.connect().await.unwrap(), &source.place).await.unwrap();
    let (_keeper, snapshot) = snapshot(&source).await;
    source.run("insert into t values (5000, 1); update t set b = 2").await;

    let (hold, pause) = watch::channel(true);
    let throttle = Throttle { bytes_per_second: Some(100_000_000), pause: Some(pause) };
    let how = CopyOptions { throttle, ..small_ranges() };
    let (progress, stop) = (Arc::new(CopyProgress::default()), CancellationToken::new());
    let task = {
        let (source, target, found, snapshot) =
            (source.place.clone(), target.place.clone(), found.clone(), snapshot.clone());
        let (progress, stop, how) = (Arc::clone(&progress), stop.clone(), how.clone());
        tokio::spawn(async move {
            let mut seat = Seat::take_at(&target).await?;
            copy((&source, &snapshot), (&target, &mut seat), &found, how, &progress, &stop).await
        })
    };
    let paused = tokio::time::timeout(Duration::from_millis(300), async {
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    });
    assert!(paused.await.is_err() && progress.rows() == 0, "canary: it is paused");
    stop.cancel();
    let stopped = task.await.unwrap().unwrap_err();
    assert_eq!(stopped.code(), Code::Unavailable);

    // What it left behind is made anew, and then it comes whole.
    hold.send(false).unwrap();
    let target = End::new(Isolation::Database, tenant, &plain).await;
    let stop = CancellationToken::new();
    let (ends, none) = ((&source.place, &target.place), CopyProgress::default());
    let mut seat = Seat::take_at(&target.place).await.unwrap();
    let copied = copy((ends.0, &snapshot), (ends.1, &mut seat), &found, how, &none, &stop).await.unwrap();
    assert_eq!(copied.rows, 1000);
    let (how, comparison) = (CompareOptions::default(), Comparison::default());
    let (from, to) = ((ends.0, Some(&*snapshot)), (ends.1, None));
    let as_of = verify(from, to, &found, how.clone(), &comparison, &stop).await.unwrap();
    assert!(as_of.differences.is_empty() && as_of.rows == 1000);
    let now = verify((ends.0, None), to, &found, how, &Comparison::default(), &stop).await.unwrap();
    assert_eq!(now.differences.len(), 100, "canary: now it is another");
    assert_eq!(now.rows_differing, 1001);

    // Rows that the target does not take are named.
    source.run("alter table t drop constraint t_b_check; update t set b = 11 where a = 3").await;
    let (_keeper, snapshot) = self::snapshot(&source).await;
    let how = small_ranges();
    let (from, to) = ((&source.place, &*snapshot), (&target.place, &mut seat));
    let refused = copy(from, to, &found, how, &none, &stop).await.unwrap_err();
    assert_eq!(refused.code(), Code::MoveBlocked);
    assert!(
        refused.detail().contains(" of t ") && refused.detail().contains("t_b_check"),
        "{}",
        refused.detail()
    );
}

/// A worker that was suspended wakes when another one has moved the tenant: the
/// target is where the tenant is.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_lost_the_seat_copies_nothing_and_removes_nothing() {
    let (tenant, plain) = (new_tenant(), versions(&["create table t (a int primary key, b int)"]));
    let source = End::new(Isolation::Schema, tenant, &plain).await;
    let target = End::new(Isolation::Database, tenant, &plain).await;
    source.run("insert into t select n, 1 from generate_series(1, 1000) n").await;
    let found = tables(&source.place.connect().await.unwrap(), &source.place).await.unwrap();
    let (_keeper, snapshot) = snapshot(&source).await;
    let (hold, pause) = watch::channel(true);
    let paused =
        CopyOptions { throttle: Throttle { pause: Some(pause), ..Throttle::default() }, ..small_ranges() };
    let (progress, stop) = (CopyProgress::default(), CancellationToken::new());

    // One is in the middle of it, the other has not begun yet.
    let mut late = Seat::take_at(&target.place).await.unwrap();
    let sleeper = {
        let (source, target, found) = (source.place.clone(), target.place.clone(), found.clone());
        let (snapshot, stop) = (snapshot.clone(), stop.clone());
        tokio::spawn(async move {
            let (mut seat, progress) = (Seat::take_at(&target).await?, CopyProgress::default());
            copy((&source, &snapshot), (&target, &mut seat), &found, paused, &progress, &stop).await
        })
    };
    let copying = "select count(*) from pg_stat_activity
                   where datname = current_database() and query like 'copy %' and state = 'active'";
    while one(&target.admin, copying).await == "0" {
        tokio::task::yield_now().await;
    }
    let mut heir = Seat::take_at(&target.place).await.unwrap();
    target.run("insert into t values (7777, 1)").await;
    // It may have found its connections gone already, and be over.
    hold.send_replace(false);
    assert!(sleeper.await.unwrap().is_err());
    let (from, lost) = ((&source.place, &*snapshot), (&target.place, &mut late));
    assert!(copy(from, lost, &found, small_ranges(), &progress, &stop).await.is_err());
    assert_eq!(one(&target.admin, "select sum(a) from t").await, "7777");

    let own = (&target.place, &mut heir);
    copy(from, own, &found, small_ranges(), &progress, &stop).await.unwrap();
    assert_eq!(one(&target.admin, "select count(*) from t").await, "1000", "canary: who has it replaces all");
}
