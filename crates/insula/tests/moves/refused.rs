//! Moves that are not begun, each with its reason; and a suspended tenant's,
//! which is.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::World;
use crate::place::{apply, banker, is_settled, left_over, moved, moving, order, ordered, world};

/// An id that is nobody's.
const NOBODY: &str = "0199a1c2-7d5e-7000-8000-5b1c0e3f9a21";

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_cannot_be_is_refused_and_changes_nothing() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    for (arguments, code) in [
        (vec!["--isolation", "pool"], "move_to_same_place"),
        (vec!["--tier", "free"], "move_to_same_place"),
        (vec!["--cluster", "us-east-1-a"], "move_to_same_place"),
        (vec!["--region", "us-east-1"], "move_to_same_place"),
        (vec!["--cluster", "nowhere"], "unknown_cluster"),
        (vec!["--tier", "nothing"], "unknown_tier"),
        (vec!["--region", "nowhere"], "unknown_region"),
        (vec!["--region", "eu-west-1"], "residency_violation"),
        (vec!["--cluster", "eu-west-1-a"], "residency_violation"),
    ] {
        let said = moving(&world, "acme", &arguments);
        assert_eq!(said.code, Some(1), "{arguments:?}: {}{}", said.out, said.err);
        said.failed_with(code);
        let planned = moving(&world, "acme", &[&arguments[..], &["--dry-run"]].concat());
        assert_eq!(planned.code, Some(1), "{arguments:?}: {}{}", planned.out, planned.err);
    }
    world.run(&["tenant", "move", "nobody", "--tier", "standard"]).failed_with("tenant_not_found");
    for verb in ["show", "rollback", "complete", "cancel"] {
        world.run(&["move", verb, NOBODY]).failed_with("move_not_found");
    }
    assert_eq!(world.run(&["tenant", "move", "acme"]).code, Some(2));
    assert_eq!(world.run(&["move", "list", "-o", "json"]).json()["items"], serde_json::json!([]));
    is_settled(&world, "acme", "pool", "us-east-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_names_all_that_is_in_the_way_and_changes_nothing() {
    let world = world().await;
    banker(&world, "acme", "standard").await;
    let plan = moving(&world, "acme", &["--tier", "business", "--dry-run"]).json();
    assert_eq!(
        (&plan["from"]["isolation"], &plan["to"]["isolation"]),
        (&"schema".into(), &"database".into())
    );
    assert_eq!((&plan["tables"], &plan["obstacles"]), (&2.into(), &serde_json::json!([])));
    let steps: Vec<&str> =
        plan["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert!(steps.contains(&"copy") && steps.contains(&"cutover"), "{steps:?}");
    assert!(plan["steps"].as_array().unwrap().iter().all(|step| !step["why"].as_str().unwrap().is_empty()));

    apply(&world, "0002_notes.sql", "create table notes (at timestamptz not null, note text);");
    let planned = moving(&world, "acme", &["--tier", "business", "--dry-run"]);
    assert_eq!(planned.code, Some(1), "{}{}", planned.out, planned.err);
    let plan: Value = serde_json::from_str(&planned.out).unwrap();
    let obstacle = &plan["obstacles"][0];
    assert_eq!((&obstacle["stops"], &obstacle["kind"]), (&true.into(), &"no_identity".into()), "{plan}");
    assert!(obstacle["object"].as_str().unwrap().contains("notes"), "{plan}");
    let refused = moving(&world, "acme", &["--tier", "business"]);
    refused.failed_with("move_blocked");
    assert!(refused.err.contains("notes"), "{}", refused.err);
    assert_eq!(left_over(&world.us).await, Vec::<String>::new());
    is_settled(&world, "acme", "schema", "us-east-1").await;

    // With a key it goes.
    apply(
        &world,
        "0003_key.sql",
        "alter table notes add column id bigint generated always as identity primary key;",
    );
    let found = moved(&world, "acme", &["--tier", "business"]);
    ordered(&world, "complete", &found, "completed");
    is_settled(&world, "acme", "database", "us-east-1").await;
}

/// A full cluster, another region group and a table without a key are in one plan,
/// with what is only slow, and the room on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_goes_on_where_the_target_is_full_or_outside_and_says_what_the_disk_has() {
    let mut world = world().await;
    banker(&world, "acme", "free").await;
    let plan = moving(&world, "acme", &["--tier", "standard", "--dry-run"]).json();
    assert_eq!(plan["possible"], true, "{plan}");
    let disk = &plan["disk"];
    assert_eq!(disk["cluster"], "us-east-1-a");
    assert!(disk["needed_bytes"].as_u64() > Some(0) && disk["detail"].is_string(), "{disk}");
    if let Some(free) = disk["free_bytes"].as_u64() {
        assert!(free > 0, "{disk}");
    } else {
        assert!(disk["detail"].as_str().unwrap().contains("not known"), "{disk}");
    }
    assert!(plan["bytes_per_second"].as_u64() > Some(0));

    apply(&world, "0002_notes.sql", "create table notes (at timestamptz not null, note text);");
    room_for_schemas(&world, 0).await;
    let standard = ["--tier", "standard"];
    assert_eq!(planned_obstacles(&world, "acme", &standard), ["no_capacity", "no_identity"]);
    let outside = ["--tier", "standard", "--region", "eu-west-1"];
    let expected = ["residency_violation", "no_capacity", "no_identity"];
    assert_eq!(planned_obstacles(&world, "acme", &outside), expected);
    let named = ["--tier", "standard", "--cluster", "eu-west-1-a"];
    assert_eq!(planned_obstacles(&world, "acme", &named), expected);
    let shown = world.run(&["tenant", "move", "acme", "--tier", "standard", "--dry-run"]);
    assert!(shown.out.contains("schema none in us-east-1"), "{}", shown.out);
    // The move itself is refused by the first that it meets, and nothing is changed.
    moving(&world, "acme", &outside).failed_with("residency_violation");
    is_settled(&world, "acme", "pool", "us-east-1").await;
    // A server that is away hides nothing of what the other one has.
    world.eu.kill_9().await;
    let away = ["residency_violation", "no_capacity", "placement_unavailable", "no_identity"];
    assert_eq!(planned_obstacles(&world, "acme", &named), away);
}

/// The kinds of what would stop a move by its plan, which exits with 1 then.
fn planned_obstacles(world: &World, slug: &str, arguments: &[&str]) -> Vec<String> {
    let planned = moving(world, slug, &[arguments, &["--dry-run"]].concat());
    let plan: Value = serde_json::from_str(&planned.out).unwrap();
    let obstacles = plan["obstacles"].as_array().unwrap();
    assert!(obstacles.iter().all(|obstacle| obstacle["stops"] == true), "{plan}");
    let kinds: Vec<_> = obstacles.iter().map(|found| found["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(planned.code, Some(i32::from(!kinds.is_empty())), "{}{}", planned.out, planned.err);
    kinds
}

/// How many schemas the cluster may have from now on.
async fn room_for_schemas(world: &World, schemas: i32) {
    let catalog = world.catalog.connect("insula_catalog").await;
    catalog.execute("update clusters set capacity_schema = $1", &[&schemas]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_move_begins_while_a_version_is_rolled_out_where_it_has_failed_or_without_a_provisioner() {
    let mut world = world().await;
    for (slug, tier) in [("acme", "free"), ("globex", "standard")] {
        banker(&world, slug, tier).await;
    }
    // Whoever reads a table holds up the version there, and so the rollout.
    let reader = world.connect("globex").await;
    reader.batch_execute("begin; select from accounts").await.unwrap();
    let folder = world.folder.join("schema");
    let version = "alter table accounts add constraint unlike check (about <> 'alike');";
    std::fs::write(folder.join("0002_unlike.sql"), version).unwrap();
    let folder = folder.display().to_string();
    assert!(world.run(&["schema", "apply", &folder, "--no-wait"]).ok);
    for slug in ["acme", "globex"] {
        moving(&world, slug, &["--tier", "business"]).failed_with("schema_busy");
        let kinds = planned_obstacles(&world, slug, &["--tier", "business"]);
        assert!(kinds.contains(&"schema_busy".to_owned()), "{kinds:?}");
    }
    // It fails there.
    reader.batch_execute("update accounts set about = 'alike' where id = 1; commit").await.unwrap();
    let begun = Instant::now();
    while world.run(&["schema", "rollout", "show", "-o", "json"]).json()["rollout"]["ended_at"].is_null() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", world.log());
        std::thread::sleep(Duration::from_millis(50)); // between two looks, not for an effect
    }
    moving(&world, "globex", &["--tier", "business"]).failed_with("schema_behind");
    assert_eq!(planned_obstacles(&world, "globex", &["--tier", "business"]), ["schema_behind"]);

    // Nor does one where nobody starts servers.
    world.kill_9();
    let settings = world.folder.join("insula.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text.split_once("[provisioner]").unwrap().0).unwrap();
    world.serve(&[]);
    world.wait_ready();
    moving(&world, "acme", &["--tier", "enterprise"]).failed_with("provisioner_missing");
    assert_eq!(planned_obstacles(&world, "acme", &["--tier", "enterprise"]), ["provisioner_missing"]);
    assert_eq!(world.run(&["move", "list", "-o", "json"]).json()["items"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_in_one_move_at_a_time_and_may_be_suspended_in_it() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    assert!(world.run(&["tenant", "suspend", "acme"]).ok);
    // A full cluster takes nobody, and with room for one it takes one.
    banker(&world, "globex", "free").await;
    room_for_schemas(&world, 0).await;
    moving(&world, "acme", &["--tier", "standard"]).failed_with("no_capacity");
    assert_eq!(planned_obstacles(&world, "acme", &["--tier", "standard"]), ["no_capacity"]);
    assert_eq!(world.run(&["move", "list", "-o", "json"]).json()["items"], serde_json::json!([]));
    room_for_schemas(&world, 1).await;
    for slug in ["acme", "globex"] {
        assert_eq!(planned_obstacles(&world, slug, &["--tier", "standard"]), Vec::<String>::new());
    }
    let found = moved(&world, "acme", &["--tier", "standard", "--idempotency-key", "once"]);
    moving(&world, "globex", &["--tier", "standard"]).failed_with("no_capacity");
    assert_eq!(world.tenant("acme")["status"], "suspended");
    // The same call again is the same move.
    let again = moving(&world, "acme", &["--tier", "standard", "--idempotency-key", "once", "--no-wait"]);
    assert_eq!(again.json()["id"], found["id"]);
    moving(&world, "acme", &["--tier", "business"]).failed_with("move_open");
    assert_eq!(planned_obstacles(&world, "acme", &["--tier", "business"]), ["move_open"]);
    assert!(world.run(&["tenant", "resume", "acme"]).ok);
    let rows = world.connect("acme").await.query_one("select count(*) from accounts", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 20);
    // Words of the command line for people.
    let listed = world.run(&["move", "list", "acme"]);
    let line = listed.out.lines().nth(1).unwrap().split('\t').collect::<Vec<_>>();
    assert_eq!(&line[1..6], ["acme", "pool us-east-1-a", "schema us-east-1-a", "moved", "done"]);
    ordered(&world, "complete", &found, "completed");
    order(&world, "complete", &found).failed_with("move_status_conflict");
    is_settled(&world, "acme", "schema", "us-east-1").await;
}
