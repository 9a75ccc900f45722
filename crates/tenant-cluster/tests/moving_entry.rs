//! The entry to a placement: closed, nobody of the tenant is in there or gets
//! in, and who has lost the seat changes nothing any more.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod moving_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use insula_domain::Isolation;
use insula_tenant_cluster::moving::{Seat, admit_roles, close, is_open, open};
use moving_support::schema_support::{maintenance, new_tenant, one, versions};
use moving_support::{End, tenant_roles};
use tokio_postgres::NoTls;

/// Longer than any wait of a test that passes.
const PATIENCE: Duration = Duration::from_secs(60);

const TABLE: &str = "create table t (id bigint generated always as identity primary key, a int)";

/// Whether the tenant gets in.
async fn gets_in(end: &End, read_only: bool) -> bool {
    let role = &moving_support::roles(end.place.tenant)[usize::from(read_only)];
    tokio_postgres::connect(&end.database.url_as(role.as_str(), role.as_str()), NoTls).await.is_ok()
}

/// Waits until no session of the tenant's is listed there: one that has ended is
/// for some milliseconds more, and counts for whoever closes the door then.
async fn until_nobody_is_there(end: &End) {
    let [first, second] = moving_support::roles(end.place.tenant);
    let there = format!(
        "select count(*) from pg_stat_activity
         where datname = current_database() and usename in ('{first}', '{second}')"
    );
    let begun = Instant::now();
    while one(&end.admin, &there).await != "0" {
        assert!(begun.elapsed() < PATIENCE, "they do not end");
        tokio::time::sleep(Duration::from_millis(2)).await; // between two looks, not for an effect
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_placement_has_nobody_of_the_tenant() {
    let (tenant, neighbour) = (new_tenant(), new_tenant());
    let admin = maintenance().await;
    for isolation in [Isolation::Pool, Isolation::Schema, Isolation::Database] {
        let end = End::new(isolation, tenant, &versions(&[TABLE])).await;
        let seat = Seat::take(&end.place.access, tenant).await.unwrap();
        assert!(!is_open(&admin, &end.place).await.unwrap() && !gets_in(&end, false).await);
        open(&seat, &end.place).await.unwrap();
        open(&seat, &end.place).await.unwrap();
        assert!(is_open(&admin, &end.place).await.unwrap(), "canary: {isolation:?}");
        assert!(gets_in(&end, false).await && gets_in(&end, true).await);
        until_nobody_is_there(&end).await;

        let sessions = join_all((0..20).map(|_| end.session())).await;
        let writer = end.session().await;
        writer.batch_execute("begin; insert into t (a) values (1)").await.unwrap();
        let begun = Instant::now();
        assert_eq!(close(&seat, &end.place).await.unwrap(), 21);
        println!("{isolation:?}: closed with 21 sessions in {:?}", begun.elapsed());
        for session in sessions.iter().chain([&writer]) {
            assert!(session.simple_query("select 1").await.is_err());
        }
        let rows = one(&end.admin, &format!("select count(*) from {}.t", end.place.placement.schema)).await;
        assert_eq!(rows, "0", "what was not committed is gone");
        assert!(!is_open(&admin, &end.place).await.unwrap());
        assert!(!gets_in(&end, false).await && !gets_in(&end, true).await);
        until_nobody_is_there(&end).await;
        let begun = Instant::now();
        assert_eq!(close(&seat, &end.place).await.unwrap(), 0);
        println!("{isolation:?}: closed again in {:?}", begun.elapsed());
        let other = Seat::take(&end.place.access, neighbour).await.unwrap();
        assert!(open(&other, &end.place).await.is_err(), "it is the seat of another's move");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_is_being_let_in_is_forgotten() {
    let tenant = new_tenant();
    let end = Arc::new(End::new(Isolation::Database, tenant, &versions(&[TABLE])).await);
    let seat = Seat::take(&end.place.access, tenant).await.unwrap();
    let mut written = 0;
    for _ in 0..4 {
        open(&seat, &end.place).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let crowd: Vec<_> = (0..4)
            .map(|_| {
                let (end, stop) = (Arc::clone(&end), Arc::clone(&stop));
                tokio::spawn(async move {
                    let role = end.place.placement.role.to_string();
                    while !stop.load(Ordering::Relaxed) {
                        let connected =
                            tokio_postgres::connect(&end.database.url_as(&role, &role), NoTls).await;
                        let Ok((client, connection)) = connected else { continue };
                        let connection = tokio::spawn(connection);
                        let insert = format!("insert into {}.t (a) values (1)", end.place.placement.schema);
                        let _ = client.batch_execute(&insert).await;
                        connection.abort();
                    }
                })
            })
            .collect();
        let count = &format!("select count(*) from {}.t", end.place.placement.schema);
        while one(&end.admin, count).await.parse::<i64>().unwrap() < written + 10 {
            tokio::task::yield_now().await;
        }
        close(&seat, &end.place).await.unwrap();
        let left: i64 = one(&end.admin, count).await.parse().unwrap();
        for _ in 0..10 {
            assert!(!gets_in(&end, false).await);
        }
        assert_eq!(one(&end.admin, count).await.parse::<i64>().unwrap(), left, "a row came after the close");
        written = left;
        stop.store(true, Ordering::Relaxed);
        join_all(crowd).await;
    }
}

/// Sessions that were idle when they were told to end may be there for a moment
/// longer: they must do nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_once_it_is_closed() {
    let tenant = new_tenant();
    for isolation in [Isolation::Pool, Isolation::Database] {
        let end = End::new(isolation, tenant, &versions(&[TABLE])).await;
        let seat = Seat::take(&end.place.access, tenant).await.unwrap();
        let rows = &format!("select count(*) from {}.t", end.place.placement.schema);
        let mut before = 0;
        for _ in 0..6 {
            open(&seat, &end.place).await.unwrap();
            let sessions = join_all((0..8).map(|_| end.session())).await;
            let writers: Vec<_> = sessions
                .into_iter()
                .map(|session| {
                    tokio::spawn(async move {
                        let mut written = 0_i64;
                        // Each statement is a transaction; between two of them the session is idle.
                        while session.batch_execute("insert into t (a) values (1)").await.is_ok() {
                            written += 1;
                        }
                        written
                    })
                })
                .collect();
            while one(&end.admin, rows).await.parse::<i64>().unwrap() < before + 40 {
                tokio::task::yield_now().await;
            }
            close(&seat, &end.place).await.unwrap();
            let closed = one(&end.admin, rows).await.parse::<i64>().unwrap();
            let mut acknowledged = 0;
            for writer in writers {
                acknowledged += writer.await.unwrap();
            }
            let after = one(&end.admin, rows).await.parse::<i64>().unwrap();
            assert_eq!(after, closed, "{isolation:?}: a row came after the close");
            assert!(before + acknowledged <= after, "{isolation:?}: an acknowledged row is not there");
            before = after;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_lost_the_seat_changes_nothing() {
    let (tenant, neighbour) = (new_tenant(), new_tenant());
    let end = End::new(Isolation::Schema, tenant, &versions(&[TABLE])).await;
    let others = Seat::take(&end.place.access, neighbour).await.unwrap();
    let first = Seat::take(&end.place.access, tenant).await.unwrap();
    let first_there = Seat::take_at(&end.place).await.unwrap();
    open(&first, &end.place).await.unwrap();
    close(&first, &end.place).await.unwrap();
    let second = Seat::take(&end.place.access, tenant).await.unwrap();
    assert!(open(&first, &end.place).await.is_err(), "the first has lost it");
    first_there.batch_execute("select 1").await.expect("canary: the seat in the database is another");
    let _second_there = Seat::take_at(&end.place).await.unwrap();
    assert!(first_there.batch_execute("select 1").await.is_err());
    assert!(!is_open(&second, &end.place).await.unwrap());
    open(&second, &end.place).await.unwrap();
    others.batch_execute("select 1").await.expect("another tenant's seat is its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_admitted_and_get_no_entry() {
    let tenant = new_tenant();
    let admin = maintenance().await;
    let home = End::new(Isolation::Database, tenant, &versions(&[TABLE])).await;
    let target = End::new(Isolation::Schema, tenant, &versions(&[TABLE])).await;
    let role = &home.place.placement.role;
    let set = format!(
        "alter role {role} set work_mem = '5MB'; alter role {role} in database {} set work_mem = '6MB';
         alter role {role} in database {} set work_mem = '7MB'",
        home.database.name(),
        target.database.name()
    );
    admin.batch_execute(&set).await.unwrap();
    let settings = format!(
        "select string_agg(coalesce(d.datname, '-') || s.setconfig::text, ' ' order by d.datname nulls first)
         from pg_db_role_setting s left join pg_database d on d.oid = s.setdatabase
         where s.setrole = '{role}'::regrole"
    );
    let login = format!("select rolcanlogin from pg_roles where rolname = '{role}'");
    for (is_to, shown) in [(false, "f"), (true, "t"), (true, "t")] {
        admit_roles(&admin, &tenant_roles(tenant), &target.place.placement, is_to).await.unwrap();
        assert_eq!(one(&admin, &login).await, shown);
    }
    let mut expected = [
        format!("{}{{work_mem=6MB}}", home.database.name()),
        format!("{}{{\"search_path={}, public\"}}", target.database.name(), target.place.placement.schema),
    ];
    expected.sort();
    assert_eq!(one(&admin, &settings).await, format!("-{{work_mem=5MB}} {}", expected.join(" ")));
    assert!(!is_open(&admin, &target.place).await.unwrap() && !is_open(&admin, &home.place).await.unwrap());
}
