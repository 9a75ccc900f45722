//! Tenants on all four isolation models, through the command line and the
//! front: the same program, the same keys, each sees its own alone.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::{TENANTS, World};

/// A program written for one tenant: it mentions none.
const PROGRAM: &str = "
    insert into categories (id, slug, name) overriding system value values (1, 'tools', 'Tools');
    insert into products (id, category_id, sku, name) overriding system value
        values (1, 1, 'HAMMER-1', 'Hammer');
    insert into customers (id, email, name) overriding system value
        values (1, 'ada@example.com', 'Ada of ' || current_database());
";

#[tokio::test(flavor = "multi_thread")]
async fn the_same_program_serves_all_four_and_each_sees_its_own() {
    let world = World::start().await;
    world.apply_shop();
    for (slug, tier, region) in TENANTS {
        let tenant = world.create(slug, tier, region);
        assert_eq!(tenant["status"], "active", "{tenant}");
    }
    for (slug, ..) in TENANTS {
        let client = world.connect(slug).await;
        client.batch_execute(PROGRAM).await.unwrap_or_else(|error| panic!("{slug}: {error:?}"));
        client.execute("update customers set name = $1", &[&slug]).await.unwrap();
    }
    for (slug, ..) in TENANTS {
        let client = world.connect(slug).await;
        let rows = client.query("select id, email, name from customers", &[]).await.unwrap();
        assert_eq!(rows.len(), 1, "{slug}");
        assert_eq!(rows[0].get::<_, String>("name"), slug);
        let shown = client.query_one("show insula.tenant", &[]).await.unwrap();
        assert_eq!(shown.get::<_, String>(0), slug);
    }
    silos_have_no_column_of_ours(&world).await;
    world.doctor_is_content();
}

/// In the silos every table has what its developer wrote and no more.
async fn silos_have_no_column_of_ours(world: &World) {
    let columns = "select table_name::text, column_name::text from information_schema.columns
                   where table_schema = current_schema() order by 1, 2";
    let mut seen = Vec::new();
    for slug in ["globex", "initech", "umbrella"] {
        let client = world.connect(slug).await;
        let rows = client.query(columns, &[]).await.unwrap();
        let found: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert!(
            !found.is_empty() && found.iter().all(|(_, column)| column != "tenant_id"),
            "{slug}: {found:?}"
        );
        seen.push(found);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    // The check can fail: in the pool there is such a column.
    let client = world.connect("acme").await;
    let rows = client.query(columns, &[]).await.unwrap();
    assert!(rows.iter().any(|row| row.get::<_, String>(1) == "tenant_id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_is_out_and_a_deleted_one_is_gone() {
    let world = World::start().await;
    world.apply_shop();
    for (slug, tier, region) in TENANTS {
        world.create(slug, tier, region);
        let client = world.connect(slug).await;
        client.batch_execute(PROGRAM).await.unwrap();
        let url = world.url(slug);

        assert!(world.run(&["tenant", "suspend", slug]).ok);
        // The session that was open has ended, and no new one is let in.
        assert!(client.simple_query("select 1").await.is_err(), "{slug}");
        let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.err().unwrap();
        let refused = format!("{refused:?}");
        assert!(refused.contains("tenant_suspended"), "{slug}: {refused}");
        world.run(&["tenant", "suspend", slug]).failed_with("tenant_status_conflict");

        assert!(world.run(&["tenant", "resume", slug]).ok);
        let client = world.connect(slug).await;
        let rows = client.query("select 1 from customers", &[]).await.unwrap();
        assert_eq!(rows.len(), 1, "{slug}");
        world.doctor_is_content();

        let deleted = world.run(&["tenant", "delete", slug, "-o", "json"]).json();
        assert_eq!(deleted["status"], "deleted");
        world.run(&["tenant", "show", slug]).failed_with("tenant_not_found");
        assert!(tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err(), "{slug}");
        world.doctor_is_content();
    }
    // A slug is free again, and what comes under it begins empty.
    world.create("acme", "free", "us-east-1");
    let client = world.connect("acme").await;
    assert!(client.query("select 1 from customers", &[]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_time_keeps_the_data_and_resume_brings_it_back() {
    let world = World::start().await;
    world.apply_shop();
    world.create("acme", "free", "us-east-1");
    world.connect("acme").await.batch_execute(PROGRAM).await.unwrap();
    let deleting = world.run(&["tenant", "delete", "acme", "--retention", "30d", "-o", "json"]).json();
    assert_eq!(deleting["status"], "deleting");
    assert!(deleting["purge_at"].is_string());
    world.doctor_is_content();
    assert!(world.run(&["tenant", "resume", "acme"]).ok);
    let rows = world.connect("acme").await.query("select 1 from customers", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_reach_their_children_and_nobody_elses() {
    let world = World::start().await;
    world.apply_shop();
    world.create("holding", "free", "us-east-1");
    for (child, parent) in [("north", "holding"), ("deep", "north")] {
        let said = world.run(&[
            "tenant",
            "create",
            child,
            "--tier",
            "standard",
            "--region",
            "us-east-1",
            "--parent",
            parent,
        ]);
        assert!(said.ok, "{}", said.err);
    }
    world.create("stranger", "free", "us-east-1");
    let base = world.url("holding");
    for (path, tenant) in [("app", "holding"), ("app/north", "north"), ("app/north/deep", "deep")] {
        let client =
            insula_testkit::connect(&base.replace("/app", &format!("/{}", path.replace('/', "%2F")))).await;
        let row = client.query_one("show insula.tenant", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), tenant);
    }
    for path in ["app/stranger", "app/deep", "postgres", "app/north/stranger"] {
        let url = base.replace("/app", &format!("/{}", path.replace('/', "%2F")));
        let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.err().unwrap();
        assert_eq!(refused.code().map(|code| code.code()), Some("3D000"), "{path}: {refused:?}");
    }
    world.run(&["tenant", "set", "holding", "--parent", "deep"]).failed_with("parent_cycle");
    world.run(&["tenant", "delete", "holding"]).failed_with("tenant_has_children");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_granted_to_a_tenant_does_not_hold_up_its_end() {
    let world = World::start().await;
    world.apply_shop();
    world.create("giver", "business", "us-east-1");
    let giver = world.connect("giver").await;
    for (slug, tier) in [("pooled", "free"), ("schemed", "standard"), ("own", "business")] {
        let role = world.create(slug, tier, "us-east-1")["placement"]["role"].as_str().unwrap().to_owned();
        // The front refuses the statements; a block hides them.
        let default = format!("alter default privileges grant select on tables to {role}");
        let refused = giver.batch_execute(&default).await.unwrap_err();
        assert_eq!(refused.as_db_error().unwrap().hint(), Some("insula: statement_refused"));
        let number: u32 = giver.query_one("select lo_create(0)", &[]).await.unwrap().get(0);
        let grants = format!("{default}; grant select on large object {number} to {role}");
        giver.batch_execute(&format!("do $$ begin execute '{grants}'; end $$")).await.unwrap();
        // They are there, and hold the role up.
        let us = world.us.connect("postgres").await;
        let error = us.batch_execute(&format!("drop role {role}")).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "2BP01", "{slug}");
        let deleted = world.run(&["tenant", "delete", slug, "-o", "json"]).json();
        assert_eq!(deleted["status"], "deleted", "{slug}");
        world.doctor_is_content();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_created_at_once() {
    let world = World::start().await;
    world.apply_shop();
    std::thread::scope(|scope| {
        for (name, tier) in [("p", "free"), ("s", "standard"), ("d", "business")] {
            for number in 0..8 {
                let world = &world;
                scope.spawn(move || world.create(&format!("{name}{number}"), tier, "us-east-1"));
            }
        }
    });
    // Rights on a shared database are one row, which two at once cannot change;
    // and no connection is left in a transaction that failed.
    assert!(!world.log().contains("concurrently updated") && !world.log().contains("is aborted"));
    world.doctor_is_content();
}
