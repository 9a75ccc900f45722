//! A worker of a move that was suspended wakes when another one has the run: it
//! removes nothing any more, and makes nothing anew that the other works with.
//! Both workers' steps are taken by hand.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod stream_support;

use insula_domain::DatabaseName;
use insula_domain::Isolation::{Database, Pool, Schema};
use insula_tenant_cluster::moving::{
    Place, Seat, StreamFault, create_origin, create_slot, drop_slot, open, publish, remove_stream,
};
use insula_tenant_cluster::{drop_database, drop_roles, drop_schemas, purge_pool_rows};
use stream_support::moving_support::roles;
use stream_support::moving_support::schema_support::maintenance;
use stream_support::*;
use tokio_postgres::error::SqlState;

const SMALL: &str = "create table items (id int primary key, what text not null default '')";

/// How many of the tenant's roles there are on the server.
async fn roles_left(end: &End) -> String {
    let [one_role, other] = roles(end.place.tenant);
    one(&end.admin, &format!("select count(*) from pg_roles where rolname in ('{one_role}', '{other}')"))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_worker_removes_nothing_of_a_tenant_that_has_come_again() {
    for isolation in [Pool, Schema] {
        let tenant = new_tenant();
        let end = End::new(isolation, tenant, &versions(&[SMALL])).await;
        let (access, placement) = (&end.place.access, &end.place.placement);
        let rows = format!("select count(*) from {}.items", placement.schema);
        // It was suspended after it had asked whose the run is, in the midst of removing.
        let late = Seat::take(access, tenant).await.unwrap().at_length().await.unwrap();
        let mut beside = late.beside(&placement.database).await.unwrap();
        let heir = Seat::take(access, tenant).await.unwrap();
        open(&heir, &end.place).await.unwrap();
        end.fill("insert into items values (1), (2)").await;

        if isolation == Pool {
            purge_pool_rows(&mut beside, tenant).await.unwrap_err();
        }
        beside.batch_execute(&format!("delete from {}.items", placement.schema)).await.unwrap_err();
        late.beside(&placement.database).await.unwrap_err();
        drop_schemas(&late, &placement.database, &placement.schema, None).await.unwrap_err();
        drop_roles(&late, tenant).await.unwrap_err();
        assert_eq!(one(&end.admin, &rows).await, "2", "{isolation:?}");
        assert_eq!(roles_left(&end).await, "2", "{isolation:?}");

        // Canary: who has the seat removes all of it, and so does who needs none.
        let mut beside = heir.beside(&placement.database).await.unwrap();
        if isolation == Pool {
            assert_eq!(purge_pool_rows(&mut beside, tenant).await.unwrap(), 2);
        } else {
            drop_schemas(access, &placement.database, &placement.schema, None).await.unwrap();
        }
        drop_roles(&heir, tenant).await.unwrap();
        assert_eq!(roles_left(&end).await, "0", "{isolation:?}");
    }
}

/// It is not dead: its connections are open, and what it has begun to write with
/// them is locked.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_suspended_in_the_midst_of_a_copy_holds_nobody_up_who_removes() {
    let tenant = new_tenant();
    let end = End::new(Schema, tenant, &versions(&[SMALL])).await;
    let (access, placement) = (&end.place.access, &end.place.placement);
    let suspended = end.place.connect().await.unwrap();
    suspended.batch_execute("begin; insert into items values (1)").await.unwrap();
    let heir = Seat::take(access, tenant).await.unwrap();
    let remove = format!("set lock_timeout = '100ms'; drop table {}.items", placement.schema);
    let waits = end.admin.batch_execute(&remove).await.unwrap_err();
    assert_eq!(waits.code(), Some(&SqlState::LOCK_NOT_AVAILABLE), "canary: it would be waited for");
    // Another tenant's move there is none of its business.
    let neighbour = Place { tenant: new_tenant(), ..end.place.clone() }.connect().await.unwrap();
    heir.end_at(&placement.database).await.unwrap();
    let removed = drop_schemas(&heir, &placement.database, &placement.schema, None);
    tokio::time::timeout(PATIENCE, removed).await.expect("nobody is in the way").unwrap();
    suspended.batch_execute("commit").await.unwrap_err();
    neighbour.batch_execute("select 1").await.unwrap();
    drop_roles(&heir, tenant).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_worker_drops_no_database() {
    let tenant = new_tenant();
    let end = End::new(Schema, tenant, &versions(&[SMALL])).await;
    let name = DatabaseName::from_stored(format!("late_{}", new_id().simple()));
    let late = Seat::take(&end.place.access, tenant).await.unwrap();
    let heir = Seat::take(&end.place.access, tenant).await.unwrap();
    maintenance().await.batch_execute(&format!("create database {name} template template0")).await.unwrap();
    let there = format!("select count(*) from pg_database where datname = '{name}'");
    drop_database(&late, &name).await.unwrap_err();
    assert_eq!(one(&end.admin, &there).await, "1");
    drop_database(&heir, &name).await.unwrap();
    assert_eq!(one(&end.admin, &there).await, "0", "canary");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_worker_does_not_make_the_stream_anew_that_another_one_reads() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let (source, target) = (&pair.source.place, &pair.target.place);
    // Both ends are on one server. It was suspended before the publication, or
    // while the slot was made, for which it was connected already.
    let late = Seat::take(&source.access, pair.tenant()).await.unwrap();
    let exported = create_slot((&late, source), pair.name, PATIENCE).await.unwrap();
    let heir = Seat::take(&source.access, pair.tenant()).await.unwrap();
    let import =
        format!("begin isolation level repeatable read; set transaction snapshot '{}'", exported.snapshot);
    let reader = source.connect().await.unwrap();
    reader.batch_execute(&import).await.expect_err("its connection has ended, and the snapshot with it");
    publish((&heir, source), pair.name, &pair.tables).await.unwrap();
    create_origin((&heir, target), pair.name).await.unwrap();
    let exported = create_slot((&heir, source), pair.name, PATIENCE).await.unwrap();
    let reader = source.connect().await.unwrap();
    let import =
        format!("begin isolation level repeatable read; set transaction snapshot '{}'", exported.snapshot);
    reader.batch_execute(&import).await.expect("canary");
    let stream = pair.stream().await;
    pair.source.run("insert into items values (1)").await;
    pair.caught_up(&stream).await.unwrap();

    publish((&late, source), pair.name, &pair.tables).await.unwrap_err();
    create_origin((&late, target), pair.name).await.unwrap_err();
    create_slot((&late, source), pair.name, PATIENCE).await.unwrap_err();
    drop_slot(&late, pair.name).await.unwrap_err();
    remove_stream((&late, source), (&late, target), pair.name).await.unwrap_err();
    pair.source.run("insert into items values (2)").await;
    pair.caught_up(&stream).await.unwrap();
    pair.assert_same().await;
    stream.stop().await.unwrap();
    pair.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_comes_back_does_not_go_on_from_another_slot() {
    let pair = Pair::new(Schema, Database, &versions(&[SMALL])).await;
    let stream = pair.stream().await;
    pair.source.run("insert into items values (1)").await;
    pair.caught_up(&stream).await.unwrap();
    let hold = stream.hold().await.unwrap();
    let end = format!(
        "select pg_terminate_backend(active_pid, 10000) from pg_replication_slots where slot_name = '{}'",
        pair.name
    );
    let advance = format!("select pg_replication_slot_advance('{}', pg_current_wal_lsn())", pair.name);
    // What is committed between its connections it has not been sent when the
    // slot is moved on, which can be done only before it is back.
    for row in 2.. {
        pair.source.admin.batch_execute(&end).await.unwrap();
        pair.source.run(&format!("insert into items values ({row})")).await;
        if pair.source.admin.batch_execute(&advance).await.is_ok() {
            break;
        }
    }
    drop(hold);
    let mut progress = stream.progress();
    let ended = progress.wait_for(|progress| progress.fault.is_some());
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().fault.clone();
    let lost = matches!(&ended, Some(StreamFault::SlotLost(why)) if why.contains("is applied"));
    assert!(lost, "{ended:?}");
    // Canary: a newcomer, which knows nothing of where the stream was, goes on and has a gap.
    let newcomer = pair.stream().await;
    pair.caught_up(&newcomer).await.unwrap();
    let (source, target) = pair.both().await;
    assert_ne!(source, target);
    drop(newcomer);
    pair.clean().await;
}
