//! The process is killed before, inside and after every step of the creation
//! and of the purge of a tenant, forward and backward, and started again: the
//! operation ends done or undone, and the doctor finds nothing.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::time::Duration;

use common::World;

/// How long until a process that shall kill itself has done so.
const UNTIL_KILLED: Duration = Duration::from_secs(30);

const MOMENTS: [&str; 3] = ["before", "inside", "after"];

/// Kills the process at the point while it carries out the command, and starts
/// it again.
fn crash(world: &mut World, point: &str, arguments: &[&str]) {
    world.kill_9();
    world.serve(&[("INSULA_CRASH_AT", point)]);
    world.wait_ready();
    // The command is cut off together with the server.
    let _ = world.run(arguments);
    assert!(world.ended(UNTIL_KILLED), "{point} was never reached: {}", world.log());
    world.serve(&[]);
    world.wait_ready();
    world.doctor_is_content();
}

fn status(world: &World, slug: &str) -> Option<String> {
    let said = world.run(&["tenant", "show", slug, "-o", "json"]);
    said.ok.then(|| said.json()["status"].as_str().unwrap_or_default().to_owned())
}

async fn crash_everywhere(tier: &str, region: &str, steps: &[&str], purge: &[&str]) {
    let mut world = World::start().await;
    world.apply_shop();
    for step in steps {
        for moment in MOMENTS {
            let point = format!("tenant.create:{step}:{moment}");
            let slug = format!("{}-{moment}", step.replace('_', "-"));
            crash(&mut world, &point, &["tenant", "create", &slug, "--tier", tier, "--region", region]);
            // Nothing is wrong with the tenant itself, so whoever takes over makes it.
            assert_eq!(status(&world, &slug).as_deref(), Some("active"), "{point}");
            let client = world.connect(&slug).await;
            client.query("select * from products", &[]).await.unwrap();
        }
    }
    for (index, step) in purge.iter().enumerate() {
        for (other, moment) in MOMENTS.iter().enumerate() {
            let created = steps[index % steps.len()].replace('_', "-");
            let slug = format!("{created}-{}", MOMENTS[(index + other) % 3]);
            if status(&world, &slug).is_none() {
                world.create(&slug, tier, region);
            }
            let point = format!("tenant.purge:{step}:{moment}");
            crash(&mut world, &point, &["tenant", "delete", &slug]);
            assert_eq!(status(&world, &slug), None, "{point}");
        }
    }
}

const STEPS: [&str; 6] = ["reserve", "roles", "space", "tables", "home", "open"];
const PURGE: [&str; 5] = ["fence", "rows", "roles", "home", "bury"];

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_tenant_survives_a_crash_at_every_step() {
    crash_everywhere("free", "us-east-1", &STEPS, &PURGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_tenant_survives_a_crash_at_every_step() {
    crash_everywhere("standard", "us-east-1", &STEPS, &PURGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_tenant_survives_a_crash_at_every_step() {
    crash_everywhere("business", "eu-west-1", &STEPS, &PURGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_its_own_server_survives_a_crash_at_every_step() {
    crash_everywhere("enterprise", "eu-west-1", &["cluster", "space", "open"], &["rows", "cluster", "bury"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_survives_a_crash_at_every_step() {
    let mut world = World::start().await;
    world.apply_shop();
    world.create("squatter", "free", "us-east-1");
    // Somebody else has the login's name: the last step fails for good, and
    // everything before it is taken back.
    let squat = |slug: &str| {
        format!(
            "insert into logins (id, tenant_id, name, verifier, read_only, descendants, is_default,
                 key_generation, secret_generation, created_at)
             select gen_random_uuid(), id, '{slug}', '', false, false, false, 1, 1, now()
             from tenants where slug = 'squatter'"
        )
    };
    for tier in ["free", "standard", "business"] {
        for step in ["home", "tables", "space", "roles", "cluster", "reserve"] {
            for moment in MOMENTS {
                let slug = format!("{tier}-{step}-{moment}");
                let point = format!("tenant.create:{step}:undo_{moment}");
                let catalog = world.catalog.connect("insula_catalog").await;
                catalog.batch_execute(&squat(&slug)).await.unwrap();
                let create = ["tenant", "create", &slug, "--tier", tier, "--region", "us-east-1"];
                crash(&mut world, &point, &create);
                assert_eq!(status(&world, &slug), None, "{point}");
                // The slug is free again.
                catalog.batch_execute(&format!("delete from logins where name = '{slug}'")).await.unwrap();
                world.create(&slug, tier, "us-east-1");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_taking_over_the_doctor_would_not_be_content() {
    // The canary: with nobody to take over, what a crash left is found.
    let mut world = World::start().await;
    world.apply_shop();
    world.kill_9();
    world.serve(&[("INSULA_CRASH_AT", "tenant.create:tables:inside")]);
    world.wait_ready();
    let _ = world.run(&["tenant", "create", "half", "--tier", "standard", "--region", "us-east-1"]);
    assert!(world.ended(UNTIL_KILLED));
    let catalog = world.catalog.connect("insula_catalog").await;
    // The run is forgotten, as if it had never been a durable one.
    catalog.batch_execute("delete from workflow_runs where ended_at is null").await.unwrap();
    world.serve(&[]);
    world.wait_ready();
    let said = world.run(&["doctor", "-o", "json"]);
    assert_eq!(said.code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let findings = report["findings"].to_string();
    assert!(findings.contains("schema of") && findings.contains("role tenant_"), "{findings}");
}
