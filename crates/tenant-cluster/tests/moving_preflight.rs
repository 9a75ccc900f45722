//! What the look before a move finds, and that it finds nothing where nothing is.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod moving_support;

use insula_domain::Isolation;
use insula_tenant_cluster::moving::survey;
use moving_support::schema_support::{new_tenant, shop};
use moving_support::{End, NASTY_ROWS, nasty};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_named() {
    let tenant = new_tenant();
    let pool = End::new(Isolation::Pool, tenant, &shop()).await;
    let clean = survey(&pool.place, Isolation::Database).await.unwrap();
    assert_eq!(clean.obstacles, [], "canary: the shop can be moved");
    assert!(clean.tables > 5 && clean.sequences > 3 && clean.rows > 0);

    let silo = End::new(Isolation::Database, tenant, &nasty()).await;
    silo.fill(NASTY_ROWS).await;
    assert_eq!(survey(&silo.place, Isolation::Pool).await.unwrap().obstacles, []);
    let role = &silo.place.placement.role;
    silo.run(&format!(
        "create table bare (a int); create table twice (a int); alter table twice replica identity full;
         create table whole (a int primary key); alter table whole replica identity full;
         create unlogged table quick (a int primary key); create sequence round cycle;
         create materialized view seen as select 1 as a; alter table events_old replica identity full;
         create function f() returns trigger language plpgsql as 'begin return new; end';
         create trigger always before insert on whole for each row execute function f();
         alter table whole enable always trigger always; select lo_create(0);
         do $$ begin execute format('alter large object %s owner to {role}',
                                    (select max(oid) from pg_largeobject_metadata)); end $$"
    ))
    .await;
    let found = survey(&silo.place, Isolation::Pool).await.unwrap();
    let kinds: Vec<_> =
        found.obstacles.iter().map(|o| (o.kind.as_str(), o.object.as_str(), o.blocks)).collect();
    assert_eq!(
        kinds,
        [
            ("cyclic_sequence", "sequence round", true),
            ("large_objects", "large objects", true),
            ("no_identity", "table bare", true),
            ("no_identity", "table twice", true),
            ("trigger_fires_always", "trigger always on whole", true),
            ("unlogged", "table quick", true),
            ("full_identity", "table events_old", false),
            ("full_identity", "table whole", false),
            ("materialized_view", "materialized view seen", false),
        ]
    );
    let to_silo = survey(&silo.place, Isolation::Schema).await.unwrap();
    assert_eq!(to_silo.obstacles.len(), found.obstacles.len() - 1, "a sequence of its own may begin again");
}
