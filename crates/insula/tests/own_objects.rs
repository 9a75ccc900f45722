//! Objects of tenants' own, from the tier that allows them to the purge that
//! leaves none, with rollouts, audits and drift in between.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::{Said, World};
use serde_json::Value;
use tokio_postgres::Client;

const FIRST: &str = "create table orders (id int primary key, amount int, note text);";

/// The three models that allow it: tier, slug, and the schema of its own.
const SILOS: [(&str, &str); 3] =
    [("standard", "globex"), ("business", "initech"), ("enterprise", "umbrella")];

/// What a tenant makes; `OWN` is its schema.
const MINE: &str = "
    create table OWN.leads (id int primary key, name text);
    insert into OWN.leads select n, 'lead ' || n from generate_series(1, 10) n;
    create view OWN.totals as select sum(amount) as total from orders;
    create function OWN.score(a int) returns int language sql as 'select a * 2'";

fn apply(world: &World, files: &[(&str, &str)]) -> Said {
    let folder = world.folder.join("schema");
    std::fs::create_dir_all(&folder).unwrap();
    for (file, sql) in files {
        std::fs::write(folder.join(file), sql).unwrap();
    }
    world.run(&["schema", "apply", &folder.display().to_string()])
}

fn set_tier(world: &World, name: &str, isolation: &str, more: &[&str]) -> Said {
    let mut arguments = vec!["tier", "set", name, "--isolation", isolation, "--plan", "standard"];
    arguments.extend(more);
    world.run(&arguments)
}

fn own_of(tenant: &Value) -> String {
    match tenant["placement"]["isolation"].as_str().unwrap() {
        "schema" => format!("{}_own", tenant["placement"]["schema"].as_str().unwrap()),
        _ => "own".to_owned(),
    }
}

async fn run(client: &Client, own: &str, sql: &str) -> Result<(), String> {
    let done = client.batch_execute(&sql.replace("OWN", own)).await;
    done.map_err(|error| error.code().map(|code| code.code().to_owned()).unwrap_or_default())
}

async fn count(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

fn drift(world: &World, more: &[&str]) -> (Said, Vec<Value>) {
    let mut arguments = vec!["schema", "status", "--drift", "-o", "json"];
    arguments.extend(more);
    let said = world.run(&arguments);
    let items: Value =
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.err));
    let items = items["items"].as_array().unwrap().clone();
    (said, items)
}

fn names(drift: &Value) -> Vec<String> {
    let own = drift["own"].as_array().unwrap().iter();
    own.map(|object| format!("{} {}", object["kind"].as_str().unwrap(), object["name"].as_str().unwrap()))
        .collect()
}

fn audit_is_clean(world: &World) {
    let said = world.run(&["schema", "audit", "-o", "json"]);
    assert!(said.ok, "{}{}", said.out, said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_objects_live_and_die_with_it() {
    let world = World::start().await;
    assert!(apply(&world, &[("0001_orders.sql", FIRST)]).ok);
    set_tier(&world, "free", "pool", &["--own-objects"]).failed_with("own_objects_refused");
    let before = world.create("before", "standard", "us-east-1");
    let refused = run(&world.connect("before").await, &own_of(&before), "create table OWN.t (a int)").await;
    assert_eq!(refused.unwrap_err(), "3F000");
    for (tier, isolation) in [("standard", "schema"), ("business", "database"), ("enterprise", "cluster")] {
        let said = set_tier(&world, tier, isolation, &["--own-objects", "-o", "json"]);
        assert!(said.ok && said.out.contains("\"own_objects\": true"), "{}{}", said.out, said.err);
    }
    // The flag has reached who was there, and reaches who comes.
    run(&world.connect("before").await, &own_of(&before), "create table OWN.t (a int)").await.unwrap();
    let mut tenants = Vec::new();
    for (tier, slug) in SILOS {
        let tenant = world.create(slug, tier, "us-east-1");
        let own = own_of(&tenant);
        let client = world.connect(slug).await;
        run(&client, &own, "insert into orders values (1, 5, 'n')").await.unwrap();
        run(&client, &own, MINE).await.unwrap();
        run(&client, &own, "create table public.t (a int)").await.unwrap_err();
        assert_eq!(count(&client, "select count(*) from leads").await, 10, "{slug}");
        tenants.push((slug, own));
    }
    world.doctor_is_content();
    audit_is_clean(&world);

    // A version goes on beside it.
    let second =
        ("0002_leads.sql", "alter table orders add column at date; create table later (id int primary key);");
    let said = apply(&world, &[second]);
    assert!(said.ok, "{}", said.err);
    let (said, items) = drift(&world, &[]);
    assert!(said.ok, "{}", said.err);
    let slugs: Vec<_> = items.iter().map(|item| item["tenant"].as_str().unwrap()).collect();
    assert_eq!(slugs, ["before", "globex", "initech", "umbrella"]);
    assert!(
        items.iter().all(|item| item["differences"].as_array().unwrap().is_empty() && item["version"] == 2)
    );
    let all = ["function score(integer)", "table leads", "view totals"];
    assert_eq!(names(&items[1]), all);
    assert_eq!(items[1]["in_the_way_of_a_pool"].as_array().unwrap().len(), 3);

    // Suspended and resumed, it is all there, and stays out of reach meanwhile.
    for (slug, own) in &tenants {
        let open = world.connect(slug).await;
        assert!(world.run(&["tenant", "suspend", slug]).ok);
        assert!(run(&open, own, "insert into OWN.leads values (99)").await.is_err(), "{slug}");
        assert!(world.run(&["tenant", "resume", slug]).ok);
        let client = world.connect(slug).await;
        assert_eq!(count(&client, "select count(*) from leads").await, 10, "{slug}");
        assert_eq!(count(&client, "select score(1)::bigint").await, 2, "{slug}");
        run(&client, own, "create table OWN.after_that (a int)").await.unwrap();
    }
    world.doctor_is_content();

    // Purged, nothing is left of it.
    let admin = world.us.connect("insula_schemas").await;
    for (slug, _) in &tenants {
        assert!(world.run(&["tenant", "delete", slug]).ok, "{slug}");
    }
    let left = "select count(*) from pg_namespace where nspname ~ '_own$'";
    assert_eq!(count(&admin, left).await, 1, "that of the tenant that is still there");
    assert_eq!(count(&admin, "select count(*) from pg_roles where rolname ~ '^tenant_'").await, 2);
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_a_tenants_view_stands_in_the_way_of_is_told_and_tried_again() {
    let world = World::start().await;
    assert!(apply(&world, &[("0001_orders.sql", FIRST)]).ok);
    for (tier, isolation) in [("standard", "schema"), ("business", "database")] {
        assert!(set_tier(&world, tier, isolation, &["--own-objects"]).ok);
    }
    let mut viewers = Vec::new();
    for (slug, tier) in [("globex", "standard"), ("initech", "business"), ("plain", "standard")] {
        let own = own_of(&world.create(slug, tier, "us-east-1"));
        if slug != "plain" {
            run(&world.connect(slug).await, &own, MINE).await.unwrap();
            viewers.push((slug, own));
        }
    }
    for (number, sql) in [
        (2, "alter table orders alter column amount type bigint;"),
        (3, "alter table orders drop column amount;"),
    ] {
        let file = format!("000{number}_change.sql");
        let said = apply(&world, &[(&file, sql)]);
        assert_eq!(said.code, Some(1), "{}", said.err);
        for (slug, own) in &viewers {
            let told = said.err.lines().find(|line| line.contains(&format!("migration_failed: {slug}")));
            let told = told.unwrap_or_else(|| panic!("{slug}: {}", said.err));
            assert!(told.contains(&format!("view {own}.totals (on column amount of table")), "{told}");
            assert!(told.contains("insula schema rollout retry"), "{told}");
        }
        // Nobody else waited, and the operation has ended.
        let status = world.run(&["schema", "status", "-o", "json"]).json();
        let behind: Vec<_> =
            status["behind"].as_array().unwrap().iter().map(|one| one["tenant"].clone()).collect();
        assert_eq!(behind, ["globex", "initech"], "{status}");
        // Who is behind has no drift: it is compared with the version that it has.
        assert!(drift(&world, &[]).0.ok);
        for (slug, own) in &viewers {
            run(&world.connect(slug).await, own, "drop view OWN.totals").await.unwrap();
        }
        let said = world.run(&["schema", "rollout", "retry"]);
        assert!(said.ok, "{}", said.err);
        for (slug, own) in &viewers {
            let view = match number {
                2 => "create view OWN.totals as select amount from orders",
                _ => "create view OWN.totals as select id from orders",
            };
            run(&world.connect(slug).await, own, view).await.unwrap();
        }
    }
    audit_is_clean(&world);
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_follows_the_tier_and_drift_is_told() {
    let mut world = World::start().await;
    assert!(apply(&world, &[("0001_orders.sql", FIRST)]).ok);
    assert!(set_tier(&world, "roomy", "schema", &["--own-objects"]).ok);
    let globex = world.create("globex", "standard", "us-east-1");
    world.create("initech", "business", "eu-west-1");
    world.create("pooled", "free", "us-east-1");
    let own = own_of(&globex);
    assert!(world.run(&["tenant", "set", "globex", "--tier", "roomy"]).ok);
    run(&world.connect("globex").await, &own, MINE).await.unwrap();
    world.doctor_is_content();
    // Back: what is there stays, no more comes, and it is found.
    assert!(world.run(&["tenant", "set", "globex", "--tier", "standard"]).ok);
    let client = world.connect("globex").await;
    assert_eq!(run(&client, &own, "create table OWN.more (a int)").await.unwrap_err(), "42501");
    assert_eq!(count(&client, "select count(*) from leads").await, 10);
    for command in ["doctor", "audit"] {
        let said = if command == "doctor" { world.run(&["doctor"]) } else { world.run(&["schema", "audit"]) };
        assert_eq!(said.code, Some(1), "{command}");
        assert!(said.out.contains("there are 3 from before"), "{command}: {}", said.out);
    }
    // A rollout is not held up by it, and a resumption keeps it.
    assert!(apply(&world, &[("0002_more.sql", "create table more (id int primary key);")]).ok);
    assert!(world.run(&["tenant", "suspend", "globex"]).ok && world.run(&["tenant", "resume", "globex"]).ok);
    assert_eq!(count(&world.connect("globex").await, "select count(*) from leads").await, 10);
    assert!(set_tier(&world, "standard", "schema", &["--own-objects"]).ok);
    assert!(set_tier(&world, "standard", "schema", &[]).ok, "not given, it stays");
    run(&world.connect("globex").await, &own, "create table OWN.more (a int)").await.unwrap();
    world.doctor_is_content();

    // Drift: what was changed by hand, apart from what the tenant made.
    let admin = world.us.connect("insula_schemas").await;
    let app = globex["placement"]["schema"].as_str().unwrap();
    admin
        .batch_execute(&format!("alter table {app}.orders add column by_hand int, drop column note"))
        .await
        .unwrap();
    let (said, items) = drift(&world, &[]);
    assert_eq!(said.code, Some(1));
    let found: Vec<_> =
        items[0]["differences"].as_array().unwrap().iter().map(|one| one["object"].clone()).collect();
    assert_eq!(found, ["column orders.note", "column orders.by_hand"]);
    assert_eq!(names(&items[0]).len(), 4);
    assert_eq!(items[1]["differences"], serde_json::json!([]));
    let (said, only) = drift(&world, &["--tenant", "initech"]);
    assert!(said.ok && only.len() == 1, "{}", said.err);
    world.run(&["schema", "status", "--drift", "--tenant", "pooled"]).failed_with("invalid_request");
    world.run(&["schema", "status", "--drift", "--tenant", "nobody"]).failed_with("tenant_not_found");
    // Page by page; and a cluster that is away hides nobody else.
    world.us.stop().await;
    let (said, items) = drift(&world, &[]);
    assert_eq!(said.code, Some(1));
    assert!(items[0]["unread"].as_str().is_some_and(|why| why.contains("unavailable")), "{items:?}");
    assert!(items[1]["unread"].is_null() && items[1]["version"] == 2, "{items:?}");
}
