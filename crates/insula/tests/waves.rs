//! A version's way over the fleet: canaries first, then waves; paused, resumed
//! and tried again; and no placement holds up another.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::time::{Duration, Instant};

use common::{Said, World};
use serde_json::Value;

const FIRST: &str = "create table a (id int primary key, name text);";
const UNIQUE: &str = "alter table a add constraint one_name unique (name);";
const DOUBLE: &str = "insert into a values (1, 'same'), (2, 'same')";

/// Adds files to the app schema; its folder.
fn files(world: &World, files: &[(&str, &str)]) -> String {
    let folder = world.folder.join("schema");
    std::fs::create_dir_all(&folder).unwrap();
    for (file, sql) in files {
        std::fs::write(folder.join(file), sql).unwrap();
    }
    folder.display().to_string()
}

fn apply(world: &World, new: &[(&str, &str)], more: &[&str]) -> Said {
    let folder = files(world, new);
    let mut arguments = vec!["schema", "apply", &folder];
    arguments.extend(more);
    world.run(&arguments)
}

/// The newest rollout, with its placements as `tenant wave status`.
fn rollout(world: &World) -> (Value, Vec<String>) {
    let shown = world.run(&["schema", "rollout", "show", "-o", "json"]).json();
    let placements = shown["placements"].as_array().unwrap().iter().map(|one| {
        let name = one["tenant"].as_str().or(one["cluster"].as_str()).unwrap();
        format!("{name} {} {}", one["wave"], one["status"].as_str().unwrap())
    });
    let mut placements: Vec<String> = placements.collect();
    placements.sort();
    (shown["rollout"].clone(), placements)
}

/// Looks until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(20)); // between two looks, not for an effect
    }
}

fn version(world: &World, slug: &str) -> i64 {
    world.run(&["tenant", "show", slug, "-o", "json"]).json()["schema_version"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_keeps_the_version_from_everybody_else() {
    let world = World::start().await;
    assert!(apply(&world, &[("0001_a.sql", FIRST)], &[]).ok);
    for (slug, tier) in [("pooled", "free"), ("bird", "standard"), ("other", "standard"), ("own", "business")]
    {
        world.create(slug, tier, "us-east-1");
    }
    world.connect("bird").await.batch_execute(DOUBLE).await.unwrap();

    apply(&world, &[("0002_unique.sql", UNIQUE)], &["--canary", "nobody"]).failed_with("tenant_not_found");
    apply(&world, &[], &["--wave-size", "0"]).failed_with("invalid_request");
    let said = apply(&world, &[], &["--canary", "bird", "--canary", "own"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("migration_failed: bird") && said.err.contains("is paused"), "{}", said.err);
    let (shown, placements) = rollout(&world);
    assert_eq!(shown["status"], "paused");
    assert_eq!(shown["canaries"], serde_json::json!(["bird", "own"]));
    let expected = ["bird 0 failed", "other 2 waiting", "own 0 done", "us-east-1-a 1 waiting"];
    assert!(expected.iter().all(|one| placements.contains(&(*one).to_owned())), "{placements:?}");
    assert_eq!(["pooled", "bird", "other", "own"].map(|slug| version(&world, slug)), [1, 1, 1, 2]);

    // Resumed it goes on without the canary, and ends failed.
    let said = world.run(&["schema", "rollout", "resume"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert_eq!(rollout(&world).0["status"], "failed");
    assert_eq!(["pooled", "bird", "other", "own"].map(|slug| version(&world, slug)), [2, 1, 2, 2]);
    world.run(&["schema", "rollout", "resume"]).failed_with("rollout_status_conflict");
    world.run(&["schema", "rollout", "pause"]).failed_with("rollout_status_conflict");

    // Repaired and tried again it is done, and what was done is not done again.
    world.connect("bird").await.batch_execute("delete from a where id = 2").await.unwrap();
    let before = rollout(&world).1;
    let said = world.run(&["schema", "rollout", "retry"]);
    assert!(said.ok, "{}", said.err);
    let (shown, placements) = rollout(&world);
    assert_eq!((shown["status"].as_str(), shown["placements"]["done"].as_u64()), (Some("done"), Some(5)));
    assert_eq!(placements.len(), before.len());
    assert_eq!(version(&world, "bird"), 2);
    world.run(&["schema", "rollout", "retry"]).failed_with("rollout_status_conflict");
    world.run(&["schema", "rollout", "show", "nothing"]).failed_with("rollout_not_found");
    world.doctor_is_content();

    // With nothing new there is nothing to bring.
    assert!(apply(&world, &[], &[]).ok);
    let (shown, placements) = rollout(&world);
    assert_eq!((shown["status"].as_str(), placements.len()), (Some("done"), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_failed_before_a_crash_is_not_forgotten() {
    let mut world = World::start().await;
    assert!(apply(&world, &[("0001_a.sql", FIRST)], &[]).ok);
    for (slug, tier) in [("bird", "standard"), ("own", "business"), ("pooled", "free"), ("other", "standard")]
    {
        world.create(slug, tier, "us-east-1");
    }
    world.connect("bird").await.batch_execute(DOUBLE).await.unwrap();
    // One canary fails while the other waits for its table, and then all stops.
    let shown = world.run(&["tenant", "show", "own", "-o", "json"]).json();
    let holder = world.us.connect(shown["placement"]["database"].as_str().unwrap()).await;
    holder.batch_execute("begin; select * from public.a").await.unwrap();
    let folder = files(&world, &[("0002_unique.sql", UNIQUE)]);
    let canaries = ["--canary", "bird", "--canary", "own", "--no-wait"];
    assert!(world.run(&[&["schema", "apply", &folder], &canaries[..]].concat()).ok);
    until("the canary has failed", || rollout(&world).1.contains(&"bird 0 failed".to_owned()));
    world.kill_9();
    holder.batch_execute("commit").await.unwrap();
    world.serve(&[]);
    world.wait_ready();
    until("it rests", || rollout(&world).0["ended_at"].is_string());
    assert_eq!(rollout(&world).0["status"], "paused");
    assert_eq!(["pooled", "other"].map(|slug| version(&world, slug)), [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_pauses_between_waves_and_survives_kill_9() {
    let mut world = World::start().await;
    assert!(apply(&world, &[("0001_a.sql", FIRST)], &[]).ok);
    let slugs = ["t1", "t2", "t3", "t4"];
    for slug in slugs {
        world.create(slug, "business", "us-east-1");
    }
    // Whoever holds the table of one tenant holds up its wave, and no query of others.
    let shown = world.run(&["tenant", "show", "t1", "-o", "json"]).json();
    let holder = world.us.connect(shown["placement"]["database"].as_str().unwrap()).await;
    holder.batch_execute("begin; select * from public.a").await.unwrap();
    let folder = files(&world, &[("0002_b.sql", "alter table a add column b int;")]);
    let said = world.run(&["schema", "apply", &folder, "--wave-size", "2", "--no-wait"]);
    assert!(said.ok, "{}", said.err);
    until("t2 is done and t1 under way", || {
        let placements = rollout(&world).1;
        placements.contains(&"t2 2 done".to_owned()) && placements.contains(&"t1 2 running".to_owned())
    });
    // Nobody waits behind the version for longer than it waits itself.
    let client = world.connect("t1").await;
    tokio::time::timeout(Duration::from_secs(30), client.query("select id from a", &[]))
        .await
        .unwrap()
        .unwrap();

    world.kill_9();
    world.serve(&[]);
    world.wait_ready();
    let said = world.run(&["schema", "rollout", "pause", "-o", "json"]);
    assert!(said.ok, "{}", said.err);
    holder.batch_execute("commit").await.unwrap();
    until("it is paused", || rollout(&world).0["status"] == "paused");
    let (shown, placements) = rollout(&world);
    assert_eq!(shown["placements"]["failed"], 0);
    assert!(
        placements.contains(&"t3 3 waiting".to_owned()) && placements.contains(&"t4 3 waiting".to_owned())
    );
    assert_eq!(["t3", "t4"].map(|slug| version(&world, slug)), [1, 1]);

    // A tenant that comes meanwhile has the newest version from the beginning.
    world.create("t5", "business", "us-east-1");
    assert_eq!(version(&world, "t5"), 2);
    let said = world.run(&["schema", "rollout", "resume"]);
    assert!(said.ok, "{}", said.err);
    assert_eq!(slugs.map(|slug| version(&world, slug)), [2; 4]);
    assert_eq!(rollout(&world).0["status"], "done");
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_three_tenants_hold_up_no_other_tenant_of_their_pool() {
    let world = World::start().await;
    assert!(apply(&world, &[("0001_a.sql", FIRST)], &[]).ok);
    let slugs: Vec<String> = (1..=8).map(|number| format!("t{number}")).collect();
    for slug in &slugs {
        world.create(slug, "free", "us-east-1");
        let fits = !["t2", "t5", "t7"].contains(&slug.as_str());
        let name = if fits { "fine" } else { "" };
        let row = format!("insert into a values (1, '{name}')");
        world.connect(slug).await.batch_execute(&row).await.unwrap();
    }
    let check = "alter table a add column b int; alter table a add constraint named check (name <> '');";
    let said = apply(&world, &[("0002_check.sql", check)], &[]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("rows of 3 of the tables' tenants do not fit"), "{}", said.err);
    // All have the version, and it holds for every new row.
    for slug in &slugs {
        assert_eq!(version(&world, slug), 2, "{slug}");
        let client = world.connect(slug).await;
        client.batch_execute("insert into a (id, name, b) values (2, 'new', 1)").await.unwrap();
        let refused = client.batch_execute("insert into a (id, name) values (3, '')").await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "23514", "{slug}");
    }
    let failures = world.run(&["schema", "failures", "-o", "json"]).json();
    let row = failures["items"][0]["row"].as_str().unwrap();
    for slug in ["t2", "t5", "t7"] {
        let id = world.run(&["tenant", "show", slug, "-o", "json"]).json()["id"].as_str().unwrap().to_owned();
        assert!(row.contains(&id), "{slug}: {row}");
    }
    // Applying again finds the same; after the repair trying again is enough.
    assert_eq!(apply(&world, &[], &[]).code, Some(1));
    for slug in ["t2", "t5", "t7"] {
        world.connect(slug).await.batch_execute("update a set name = 'mended'").await.unwrap();
    }
    let said = world.run(&["schema", "rollout", "retry"]);
    assert!(said.ok, "{}", said.err);
    let open = "select count(*) from pg_constraint where conname = 'named' and not convalidated";
    let pool = world.us.connect("insula_pool").await;
    assert_eq!(pool.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 0);
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_transaction_of_one_tenant_does_not_hold_up_its_pool() {
    let world = World::start().await;
    assert!(apply(&world, &[("0001_a.sql", FIRST)], &[]).ok);
    for slug in ["forgetful", "other"] {
        world.create(slug, "free", "us-east-1");
    }
    let forgetful = world.connect("forgetful").await;
    forgetful.batch_execute("begin; insert into a values (1, 'x')").await.unwrap();
    let said = apply(&world, &[("0002_b.sql", "alter table a add column b int;")], &[]);
    assert!(said.ok, "{}", said.err);
    assert_eq!(["forgetful", "other"].map(|slug| version(&world, slug)), [2, 2]);
    // Its session is gone, with what it had not committed.
    assert!(forgetful.batch_execute("commit").await.is_err());
    let again = world.connect("forgetful").await;
    assert_eq!(again.query("select b from a", &[]).await.unwrap().len(), 0);
}
