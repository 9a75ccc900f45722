//! The process is killed before, inside and after every step of the creation
//! and of the purge of a tenant, forward and backward, and started again: the
//! operation ends done or undone, the doctor finds nothing, and no server and
//! no folder is left that nobody owns.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::World;

/// How long until a process that shall kill itself has done so.
const UNTIL_KILLED: Duration = Duration::from_secs(30);

const MOMENTS: [&str; 3] = ["before", "inside", "after"];

/// All steps of `tenant.create`, and of `tenant.purge`.
const CREATE: [&str; 7] = ["reserve", "cluster", "roles", "space", "tables", "home", "open"];
const PURGE: [&str; 6] = ["fence", "rows", "roles", "cluster", "home", "bury"];

/// Starts a process that ends itself at the point.
fn ready_to_crash(world: &mut World, point: Option<&str>) {
    world.serve(&point.map(|point| ("INSULA_CRASH_AT", point)).into_iter().collect::<Vec<_>>());
    world.wait_ready();
}

/// Has the process carry out the command, at which it ends itself, and starts
/// one that takes over and, where it is told so, ends at another point.
fn crash_then(world: &mut World, point: &str, arguments: &[&str], next: Option<&str>) {
    // The command is cut off together with the server.
    let _ = world.run(arguments);
    assert!(world.ended(UNTIL_KILLED), "{point} was never reached: {}", world.log());
    ready_to_crash(world, next);
    world.doctor_is_content();
}

fn status(world: &World, slug: &str) -> Option<String> {
    let said = world.run(&["tenant", "show", slug, "-o", "json"]);
    said.ok.then(|| said.json()["status"].as_str().unwrap_or_default().to_owned())
}

/// The points of a workflow at which a process can end.
fn points(workflow: &str, steps: &[&str]) -> Vec<String> {
    let moments = |step| MOMENTS.map(|moment| format!("{workflow}:{step}:{moment}"));
    steps.iter().flat_map(moments).collect()
}

/// A tenant is created over a crash and purged over another, for all crashes.
async fn crash_everywhere(tier: &str, region: &str) {
    let mut world = World::start().await;
    world.apply_shop();
    let mut purges = points("tenant.purge", &PURGE).into_iter();
    let creates = points("tenant.create", &CREATE);
    world.kill_9();
    ready_to_crash(&mut world, creates.first().map(String::as_str));
    for (number, create) in creates.iter().enumerate() {
        let slug = create.replace("tenant.", "").replace(':', "-");
        // Who takes over is the one to crash next, at a step of the other workflow.
        let purge = purges.next();
        let arguments = ["tenant", "create", &slug, "--tier", tier, "--region", region];
        crash_then(&mut world, create, &arguments, purge.as_deref());
        // Nothing is wrong with the tenant itself, so whoever takes over makes it.
        assert_eq!(status(&world, &slug).as_deref(), Some("active"), "{create}");
        let client = world.connect(&slug).await;
        client.query("select * from products", &[]).await.unwrap();
        drop(client);
        let own_server = usize::from(tier == "enterprise");
        assert_eq!(servers(&world).len(), own_server, "{create}: {:?}", left(&world));
        let next = creates.get(number + 1).map(String::as_str);
        match purge {
            Some(purge) => crash_then(&mut world, &purge, &["tenant", "delete", &slug], next),
            None => {
                assert!(world.run(&["tenant", "delete", &slug]).ok);
                world.kill_9();
                ready_to_crash(&mut world, next);
                world.doctor_is_content();
            }
        }
        assert_eq!(status(&world, &slug), None, "{create}");
        assert_eq!(left(&world), BTreeSet::new(), "{create}");
    }
    assert_eq!(purges.next(), None, "every crash of the purge had its tenant");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_tenant_survives_a_crash_at_every_step() {
    crash_everywhere("free", "us-east-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_tenant_survives_a_crash_at_every_step() {
    crash_everywhere("standard", "us-east-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_tenant_survives_a_crash_at_every_step() {
    crash_everywhere("business", "eu-west-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_its_own_server_survives_a_crash_at_every_step() {
    crash_everywhere("enterprise", "eu-west-1").await;
}

/// Somebody else has the login's name: the last step fails for good, and
/// everything before it is taken back, over a crash at each step.
async fn crash_every_undo(tier: &str) {
    let mut world = World::start().await;
    world.apply_shop();
    world.create("squatter", "free", "us-east-1");
    let squat = |slug: &str| {
        format!(
            "insert into logins (id, tenant_id, name, verifier, read_only, descendants, is_default,
                 key_generation, secret_generation, created_at)
             select gen_random_uuid(), id, '{slug}', '', false, false, false, 1, 1, now()
             from tenants where slug = 'squatter'"
        )
    };
    let catalog = world.catalog.connect("insula_catalog").await;
    let undone = &CREATE[..CREATE.len() - 1];
    for moment in MOMENTS {
        world.kill_9();
        let points: Vec<_> =
            undone.iter().map(|step| format!("tenant.create:{step}:undo_{moment}")).collect();
        ready_to_crash(&mut world, points.first().map(String::as_str));
        for (number, point) in points.iter().enumerate() {
            let slug = point.replace("tenant.create:", "").replace([':', '_'], "-");
            catalog.batch_execute(&squat(&slug)).await.unwrap();
            let create = ["tenant", "create", &slug, "--tier", tier, "--region", "us-east-1"];
            // Who takes over undoes this step and those before it, and is the
            // one to crash next, at the step behind it.
            crash_then(&mut world, point, &create, points.get(number + 1).map(String::as_str));
            assert_eq!(status(&world, &slug), None, "{point}");
            assert_eq!(left(&world), BTreeSet::new(), "{point}");
            // The slug is free again.
            catalog.batch_execute(&format!("delete from logins where name = '{slug}'")).await.unwrap();
            world.create(&slug, tier, "us-east-1");
            assert!(world.run(&["tenant", "delete", &slug]).ok);
            world.doctor_is_content();
            assert_eq!(left(&world), BTreeSet::new(), "{point}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_pool_tenant_survives_a_crash_at_every_step() {
    crash_every_undo("free").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_schema_tenant_survives_a_crash_at_every_step() {
    crash_every_undo("standard").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_database_tenant_survives_a_crash_at_every_step() {
    crash_every_undo("business").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_tenant_with_its_own_server_survives_a_crash_at_every_step() {
    crash_every_undo("enterprise").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_taking_over_the_doctor_would_not_be_content() {
    // The canary: with nobody to take over, what a crash left is found.
    let mut world = World::start().await;
    world.apply_shop();
    leave_half(&mut world, "half", "standard", "tables").await;
    let said = world.run(&["doctor", "-o", "json"]);
    assert_eq!(said.code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let findings = report["findings"].to_string();
    assert!(findings.contains("no operation is at work on it"), "{findings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_taking_over_a_server_would_be_left() {
    // The canary of what is looked for after each crash.
    let mut world = World::start().await;
    world.apply_shop();
    assert_eq!(left(&world), BTreeSet::new());
    leave_half(&mut world, "half", "enterprise", "cluster").await;
    let left = left(&world);
    assert!(left.iter().any(|what| what.starts_with("server in ")), "{left:?}");
    assert!(left.iter().any(|what| what.ends_with(".json")), "{left:?}");
}

/// Crashes inside a step of a creation, and forgets the run as if it had never
/// been a durable one.
async fn leave_half(world: &mut World, slug: &str, tier: &str, step: &str) {
    world.kill_9();
    world.serve(&[("INSULA_CRASH_AT", &format!("tenant.create:{step}:inside"))]);
    world.wait_ready();
    let _ = world.run(&["tenant", "create", slug, "--tier", tier, "--region", "us-east-1"]);
    assert!(world.ended(UNTIL_KILLED));
    let catalog = world.catalog.connect("insula_catalog").await;
    catalog.batch_execute("delete from workflow_runs where ended_at is null").await.unwrap();
    world.serve(&[]);
    world.wait_ready();
}

/// Where the servers of tenants are.
fn clusters(world: &World) -> PathBuf {
    world.folder.join("clusters")
}

/// The data folders in which a server of a tenant works. Each process of a
/// server stands in its data folder.
fn servers(world: &World) -> BTreeSet<PathBuf> {
    let of_tenants = |folder: &PathBuf| folder.starts_with(clusters(world));
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok())
        .filter(of_tenants)
        .collect()
}

/// All that there is of servers of tenants: processes, folders, files.
fn left(world: &World) -> BTreeSet<String> {
    let named = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = std::fs::read_dir(clusters(world)).into_iter().flatten().flatten();
    let files = entries.map(|entry| named(&entry.path()));
    files.chain(servers(world).iter().map(|folder| format!("server in {}", named(folder)))).collect()
}
