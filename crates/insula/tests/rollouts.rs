//! Rollouts that meet rows which do not fit, and roles that a tenant has bent.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::World;

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_fit_keep_only_their_own_placement_back() {
    let world = World::start().await;
    let apply = |files: &[(&str, &str)]| {
        let folder = world.folder.join("schema");
        std::fs::create_dir_all(&folder).unwrap();
        for (file, sql) in files {
            std::fs::write(folder.join(file), sql).unwrap();
        }
        world.run(&["schema", "apply", &folder.display().to_string()])
    };
    let table = "create table a (id int primary key, name text not null);";
    assert!(apply(&[("0001_a.sql", table)]).ok);
    for (slug, tier) in
        [("pooled", "free"), ("doubled", "standard"), ("good", "standard"), ("own", "business")]
    {
        world.create(slug, tier, "us-east-1");
    }
    let double = "insert into a values (1, 'same'), (2, 'same')";
    for slug in ["pooled", "doubled"] {
        world.connect(slug).await.batch_execute(double).await.unwrap();
    }
    let unique = [("0002_unique.sql", "alter table a add constraint one_name unique (name);")];
    let said = apply(&unique);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("migration_failed: us-east-1-a"), "{}", said.err);
    assert!(said.err.contains("migration_failed: doubled"), "{}", said.err);
    let status = world.run(&["schema", "status", "-o", "json"]).json();
    let behind: Vec<_> =
        status["behind"].as_array().unwrap().iter().map(|one| one["tenant"].clone()).collect();
    assert_eq!(behind, ["doubled", "pooled"], "{status}");
    for slug in ["good", "own"] {
        let refused = world.connect(slug).await.batch_execute(double).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "23505", "{slug}");
    }
    // Nothing is in the way of the next try, and after the repair it works.
    for slug in ["pooled", "doubled"] {
        world.connect(slug).await.batch_execute("delete from a where id = 2").await.unwrap();
    }
    let said = apply(&unique);
    assert!(said.ok, "{}", said.err);
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_has_set_for_its_role_is_undone_by_a_suspension() {
    let world = World::start().await;
    world.apply_shop();
    for (slug, tier) in [("acme", "free"), ("globex", "standard"), ("initech", "business")] {
        world.create(slug, tier, "us-east-1");
        let client = world.connect(slug).await;
        client.batch_execute("alter role current_user set search_path = pg_catalog").await.unwrap();
        client.batch_execute("alter role current_user password 'x'").await.unwrap();
        assert_eq!(world.run(&["doctor"]).code, Some(1), "{slug}: the doctor sees the password");
        assert!(world.run(&["tenant", "suspend", slug]).ok);
        assert!(world.run(&["tenant", "resume", slug]).ok);
        world.connect(slug).await.query("select * from customers", &[]).await.unwrap();
    }
    world.doctor_is_content();
}
