//! What a move sees of an app schema's tables, in each form.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod moving_support;

use insula_domain::Isolation;
use insula_tenant_cluster::moving::{MovedTable, ReplicaIdentity, tables};
use moving_support::schema_support::new_tenant;
use moving_support::{End, NASTY_ROWS, nasty};

#[tokio::test(flavor = "multi_thread")]
async fn both_forms_show_the_same_tables() {
    let tenant = new_tenant();
    let mut seen = Vec::new();
    for isolation in [Isolation::Pool, Isolation::Schema, Isolation::Database] {
        let end = End::new(isolation, tenant, &nasty()).await;
        end.fill(NASTY_ROWS).await;
        let found = tables(&end.place.connect().await.unwrap(), &end.place).await.unwrap();
        seen.push(found.into_iter().map(|table| MovedTable { bytes: 0, ..table }).collect::<Vec<_>>());
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[1], seen[2]);
    let names: Vec<_> = seen[0].iter().map(|table| (table.name.as_str(), table.rows)).collect();
    assert_eq!(
        names,
        [
            ("Order \"Lines\"", 3),
            ("counted", 0),
            ("events_new", 372),
            ("events_old", 628),
            ("no rows", 0),
            ("seats", 50),
            ("visits_all", 0)
        ]
    );
    let lines = &seen[0][0];
    assert!(!lines.binary, "an array of an enum and a composite value hold oids of this database");
    assert!(seen[0][1..].iter().all(|table| table.binary && table.identity == ReplicaIdentity::Key));
    assert!(lines.columns[0].always_identity && !lines.columns[1].always_identity);
    assert!(!lines.columns.iter().any(|column| column.name == "twice" || column.name == "tenant_id"));
    assert_eq!(lines.columns[2].type_name, "mood[]");
    assert_eq!(
        (&seen[0][2].key, &seen[0][4].key),
        (&vec!["id".into(), "at".into()], &vec!["b".into(), "a".into()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_alone_may_have_more() {
    let end = End::new(Isolation::Database, new_tenant(), &nasty()).await;
    end.run(
        "create table bare (a int); create table whole (a int); alter table whole replica identity full;
         create table chosen (a int not null unique, b int primary key);
         alter table chosen replica identity using index chosen_a_key;
         create table late (a int primary key deferrable); create unlogged table quick (tenant_id int primary key);
         create domain moods as mood[]; create domain one_mood as mood;
         create table d1 (a moods primary key); create table d2 (a one_mood[] primary key);
         create table d3 (a one_mood primary key, b int[], c numrange, d nummultirange, e int2vector);
         create type mood_range as range (subtype = mood); create table d4 (a mood_range primary key, b mood_multirange);
         create table d5 (a regclass); create table d6 (a oid); create table heir () inherits (d6);
         insert into heir values (1)",
    )
    .await;
    let found = tables(&end.place.connect().await.unwrap(), &end.place).await.unwrap();
    let of = |name: &str| found.iter().find(|table| table.name == name).unwrap();
    let identity = |name| (of(name).identity, of(name).key.join(","));
    assert_eq!(identity("bare"), (ReplicaIdentity::Nothing, String::new()));
    assert_eq!(identity("whole"), (ReplicaIdentity::Full, String::new()));
    assert_eq!(identity("chosen"), (ReplicaIdentity::Key, "a".to_owned()));
    assert_eq!(
        identity("late"),
        (ReplicaIdentity::Nothing, String::new()),
        "PostgreSQL takes no deferrable key"
    );
    assert_eq!(identity("quick"), (ReplicaIdentity::Key, "tenant_id".to_owned()));
    assert!(!of("quick").logged && of("bare").logged);
    assert_eq!((of("d6").rows, of("heir").rows), (0, 1));
    let binary: Vec<_> = ["d1", "d2", "d3", "d4", "d5", "d6"].map(|name| of(name).binary).into();
    assert_eq!(binary, [false, false, true, true, false, true]);
}
