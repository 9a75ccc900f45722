//! Rollouts that meet rows which do not fit, and roles that a tenant has bent.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::time::{Duration, Instant};

use common::{Said, World};
use insula_domain::Entropy;
use insula_testkit::SeededEntropy;

/// Adds files to the app schema and applies it.
fn apply(world: &World, files: &[(&str, &str)]) -> Said {
    let folder = world.folder.join("schema");
    std::fs::create_dir_all(&folder).unwrap();
    for (file, sql) in files {
        std::fs::write(folder.join(file), sql).unwrap();
    }
    world.run(&["schema", "apply", &folder.display().to_string()])
}

/// The tenants that are behind, by slug.
fn behind(world: &World) -> Vec<String> {
    let status = world.run(&["schema", "status", "-o", "json"]).json();
    let behind = status["behind"].as_array().unwrap().iter();
    behind.map(|one| format!("{} {}", one["tenant"].as_str().unwrap(), one["version"])).collect()
}

/// The findings of the catalog audit.
fn findings(world: &World) -> Vec<String> {
    let said = world.run(&["schema", "audit", "-o", "json"]);
    let audit: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{}", said.err));
    let findings = audit["findings"].as_array().unwrap().iter();
    findings.map(|one| format!("{}: {}: {}", one["placement"], one["object"], one["detail"])).collect()
}

/// Asks until the answer is not empty.
async fn until_some(client: &tokio_postgres::Client, query: &str) {
    let begun = Instant::now();
    while client.query(query, &[]).await.unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {query}");
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks, not for an effect
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tenant_is_created_where_its_pool_is_behind() {
    let world = World::start().await;
    let first = "create table a (id int primary key, name text not null);
                 create table kinds (id int primary key);
                 insert into kinds values (1);";
    assert!(apply(&world, &[("0001_a.sql", first)]).ok);
    world.create("pooled", "free", "us-east-1");
    world.create("kept", "free", "us-east-1");
    assert!(world.run(&["tenant", "delete", "kept", "--retention", "30d"]).ok);
    world.create("kept-own", "business", "us-east-1");
    assert!(world.run(&["tenant", "delete", "kept-own", "--retention", "30d"]).ok);
    let double = "insert into a values (1, 'same'), (2, 'same')";
    world.connect("pooled").await.batch_execute(double).await.unwrap();
    let second = [(
        "0002_unique.sql",
        "insert into kinds values (2); alter table a add constraint one_name unique (name);",
    )];
    let said = apply(&world, &second);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("migration_failed: us-east-1-a"), "{}", said.err);

    let created = world.create("newcomer", "free", "us-east-1");
    assert_eq!(created["status"], "active");
    assert_eq!(behind(&world), ["newcomer 1", "pooled 1"]);
    let kinds = |slug: &'static str| {
        let world = &world;
        async move {
            let client = world.connect(slug).await;
            client.query("select id from kinds", &[]).await.unwrap().len()
        }
    };
    assert_eq!(kinds("newcomer").await, 1);
    world.connect("newcomer").await.batch_execute(double).await.unwrap();
    for (slug, tier) in [("schemed", "standard"), ("own", "business")] {
        world.create(slug, tier, "us-east-1");
        let refused = world.connect(slug).await.batch_execute(double).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "23505", "{slug}");
        assert_eq!(kinds(slug).await, 2);
    }
    let expected =
        "\"shared tables of us-east-1-a\": \"schema version\": \"It is at version 1; the newest is 2.\"";
    assert_eq!(findings(&world), [expected]);

    for slug in ["pooled", "newcomer"] {
        world.connect(slug).await.batch_execute("delete from a where id = 2").await.unwrap();
    }
    let said = apply(&world, &second);
    assert!(said.ok, "{}", said.err);
    assert_eq!(behind(&world), Vec::<String>::new());
    for slug in ["pooled", "newcomer"] {
        assert_eq!(kinds(slug).await, 2, "{slug}");
        let refused =
            world.connect(slug).await.batch_execute("insert into a values (2, 'same')").await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "23505", "{slug}");
    }
    assert_eq!(findings(&world), Vec::<String>::new());
    for slug in ["kept", "kept-own"] {
        assert!(world.run(&["tenant", "resume", slug]).ok);
        assert_eq!(kinds(slug).await, 2, "{slug}");
    }
    assert_eq!(findings(&world), Vec::<String>::new());
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_not_brought_further_while_a_tenant_is_being_opened_in_it() {
    let world = World::start().await;
    assert!(apply(&world, &[("0001_a.sql", "create table a (id int primary key);")]).ok);
    let pool = world.us.connect("insula_pool").await;
    let catalog = world.catalog.connect("insula_catalog").await;
    let key = "hashtextextended('insula app schema app', 0)";
    let waits =
        "select 1 from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' and not granted
                 and database = (select oid from pg_database where datname = 'insula_pool')";
    pool.batch_execute(&format!("select pg_advisory_lock_shared({key})")).await.unwrap();
    catalog.batch_execute("begin; lock table logins in share mode").await.unwrap();
    std::thread::scope(|scope| {
        let rollout = scope.spawn(|| apply(&world, &[("0002_b.sql", "alter table a add column b int;")]));
        let steps = async {
            // The version is published, and its way into the pool is barred.
            until_some(&pool, waits).await;
            let create = scope.spawn(|| world.create("late", "free", "us-east-1"));
            // The tenant is at its commit, with the version that it has read.
            until_some(
                &catalog,
                "select 1 from pg_locks where relation = 'logins'::regclass and not granted",
            )
            .await;
            // Now nobody but the tenant that is being opened bars the way, and it does.
            pool.batch_execute(&format!("select pg_advisory_unlock_shared({key})")).await.unwrap();
            until_some(&pool, waits).await;
            catalog.batch_execute("commit").await.unwrap();
            assert_eq!(create.join().unwrap()["status"], "active");
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(steps));
        let said = rollout.join().unwrap();
        assert!(said.ok, "{}", said.err);
    });
    assert_eq!(behind(&world), Vec::<String>::new());
    assert_eq!(findings(&world), Vec::<String>::new());
    world.connect("late").await.query("select b from a", &[]).await.unwrap();
    // The audit can see a tenant that was missed.
    catalog.batch_execute("update tenants set schema_version = 1").await.unwrap();
    assert_eq!(findings(&world).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_are_created_while_versions_are_published_have_the_newest() {
    let world = World::start().await;
    let sql = |version: usize| {
        format!("create table t{version} (id int primary key); insert into t{version} values (1);")
    };
    assert!(apply(&world, &[("0001_t.sql", &sql(1))]).ok);
    let random = SeededEntropy::new(7);
    for version in 2..=5 {
        let mut bytes = [0; 7];
        random.fill(&mut bytes);
        let file = format!("000{version}_t.sql");
        std::thread::scope(|scope| {
            for (number, byte) in bytes[..6].iter().enumerate() {
                let tier = ["free", "free", "standard", "business"][usize::from(byte % 4)];
                let (world, slug) = (&world, format!("v{version}-{number}"));
                // Spread over the time that a rollout takes.
                let begin = Duration::from_millis(u64::from(*byte) * 3);
                scope.spawn(move || {
                    std::thread::sleep(begin);
                    world.create(&slug, tier, "us-east-1")
                });
            }
            let said = apply(&world, &[(&file, &sql(version))]);
            assert!(said.ok, "{}\n{}", said.err, world.log());
        });
        assert_eq!(behind(&world), Vec::<String>::new(), "version {version}");
        assert_eq!(findings(&world), Vec::<String>::new(), "version {version}");
        for number in 0..6 {
            let client = world.connect(&format!("v{version}-{number}")).await;
            for table in 1..=version {
                let rows = client.query(&format!("select id from t{table}"), &[]).await.unwrap();
                assert_eq!(rows.len(), 1, "v{version}-{number}: t{table}");
            }
        }
    }
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_fit_keep_only_their_own_placement_back() {
    let world = World::start().await;
    let apply = |files: &[(&str, &str)]| apply(&world, files);
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
    assert_eq!(behind(&world), ["doubled 1", "pooled 1"]);
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

/// The tables of the catalog in which a text stands, in whatever column.
async fn catalog_has(world: &World, text: &str) -> Vec<String> {
    let client = world.catalog.connect("insula_catalog").await;
    let tables = "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where c.relkind in ('r', 'm', 'p') and n.nspname not in ('pg_catalog', 'information_schema')";
    let mut found = Vec::new();
    for row in client.query(tables, &[]).await.unwrap() {
        let table: String = row.get(0);
        let query = format!("select 1 from {table} t where strpos(t::text, $1) > 0 limit 1");
        if !client.query(&query, &[&text]).await.unwrap().is_empty() {
            found.push(table);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_fit_is_told_to_operators_and_stays_in_its_region() {
    let world = World::start().await;
    let first = "create table a (id int primary key, email text not null, word text);";
    assert!(apply(&world, &[("0001_a.sql", first)]).ok);
    let placed = [
        ("pooled", "free", "us-east-1"),
        ("own", "business", "us-east-1"),
        ("worded", "standard", "eu-west-1"),
    ];
    for (slug, tier, region) in placed {
        world.create(slug, tier, region);
        let value = format!("{slug}@private.example");
        let rows = match slug {
            "pooled" | "worded" => format!("insert into a values (1, 'x', '{value}')"),
            _ => format!("insert into a values (1, '{value}', '1'), (2, '{value}', '2')"),
        };
        world.connect(slug).await.batch_execute(&rows).await.unwrap();
    }
    let second = [(
        "0002_unique.sql",
        "alter table a alter word type int using word::int;
         alter table a add constraint one_email unique (email);",
    )];
    let said = apply(&world, &second);
    assert_eq!(said.code, Some(1), "{}", said.err);
    let detail = "0002_unique.sql:2: unique_violation on schema public, table a, constraint one_email (23505). In: \
                  alter table a add constraint one_email unique (email)";
    assert!(said.err.contains(&format!("migration_failed: own: {detail}")), "{}", said.err);

    let failures = world.run(&["schema", "failures", "-o", "json"]).json();
    let items = failures["items"].as_array().unwrap();
    assert_eq!(items.len(), 3, "{failures}");
    for (slug, ..) in placed {
        let value = format!("{slug}@private.example");
        let known = items.iter().filter(|item| item["row"].as_str().unwrap().contains(&value));
        let [failure] = known.collect::<Vec<_>>()[..] else { panic!("{slug}: {failures}") };
        assert_eq!(failure["version"], 2);
        assert!(failure["at"].is_string() && failure["code"] == "migration_failed");
        let silo = slug != "pooled";
        assert_eq!(failure["tenant"].as_str(), silo.then_some(slug), "{failure}");
        assert_eq!(failure["placement"].as_str().unwrap().starts_with("silo/"), silo, "{failure}");
        assert!(!failure["detail"].as_str().unwrap().contains("private"), "{failure}");
    }
    // Each showing is in the audit.
    assert_eq!(catalog_has(&world, "schema.failures.show").await, ["audit"]);
    // No value has left the region, neither to the catalog nor to the log.
    assert_eq!(catalog_has(&world, "private.example").await, Vec::<String>::new());
    let log = || std::fs::read_to_string(world.folder.join("insula.log")).unwrap();
    assert!(!log().contains("private.example") && !said.err.contains("private.example"));
    // The search finds what is there, and the log has the failure.
    let found = catalog_has(&world, "constraint one_email (23505)").await;
    assert!(
        found.contains(&"workflow_runs".to_owned()) && found.contains(&"schema_failures".to_owned()),
        "{found:?}"
    );
    assert!(log().contains("constraint one_email (23505)"));
    let kept = async |server: &insula_testkit::TestServer| {
        let client = server.connect("insula_region").await;
        let rows = client.query("select said from schema_failures", &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    let (us, eu) = (kept(&world.us).await, kept(&world.eu).await);
    assert!(us.len() == 2 && !us.concat().contains("worded@"), "{us:?}");
    assert!(eu.len() == 1 && eu[0].contains("worded@private.example"), "{eu:?}");

    // It goes with the tenant, and with the repair.
    assert!(world.run(&["tenant", "delete", "own"]).ok);
    assert!(!kept(&world.us).await.concat().contains("own@"));
    let items = world.run(&["schema", "failures", "-o", "json"]).json();
    assert_eq!(items["items"].as_array().unwrap().len(), 2);
    for slug in ["pooled", "worded"] {
        world.connect(slug).await.batch_execute("update a set word = '7'").await.unwrap();
    }
    let said = apply(&world, &second);
    assert!(said.ok, "{}", said.err);
    assert!(kept(&world.us).await.is_empty() && kept(&world.eu).await.is_empty());
    let items = world.run(&["schema", "failures", "-o", "json"]).json();
    assert_eq!(items["items"].as_array().unwrap().len(), 0);
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_in_the_rehearsal_is_told_in_full() {
    let world = World::start().await;
    let sql = "create table a (word text); insert into a values ('seven'); alter table a alter word type int using word::int;";
    let said = apply(&world, &[("0001_a.sql", sql)]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("invalid input syntax for type integer: \"seven\" (22P02)"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_has_set_for_its_role_is_undone_by_a_suspension() {
    let world = World::start().await;
    world.apply_shop();
    for (slug, tier) in [("acme", "free"), ("globex", "standard"), ("initech", "business")] {
        let role = world.create(slug, tier, "us-east-1")["placement"]["role"].as_str().unwrap().to_owned();
        // As the role itself could, past the front.
        let us = world.us.connect("postgres").await;
        let bend = format!("alter role {role} set search_path = pg_catalog; alter role {role} password 'x'");
        us.batch_execute(&bend).await.unwrap();
        assert_eq!(world.run(&["doctor"]).code, Some(1), "{slug}: the doctor sees the password");
        assert!(world.run(&["tenant", "suspend", slug]).ok);
        assert!(world.run(&["tenant", "resume", slug]).ok);
        world.connect(slug).await.query("select * from customers", &[]).await.unwrap();
    }
    world.doctor_is_content();
}
