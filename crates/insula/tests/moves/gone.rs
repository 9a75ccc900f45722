//! Targets that are not what they were: a server that is gone in the middle of
//! a move, or after it, and one whose disk is full.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use insula_testkit::TestServer;
use serde_json::Value;

use crate::common::World;
use crate::place::{banker, is_settled, left_over, moved, moving, order, ordered, until, world};

const TO_EU: [&str; 2] = ["--region", "eu-west-1"];

/// A tenant that may go to the other region.
async fn traveller(world: &World) {
    banker(world, "acme", "free").await;
    assert!(world.run(&["tenant", "set", "acme", "--residency", "global"]).ok);
}

fn shown(world: &World, id: &str) -> Value {
    world.run(&["move", "show", id, "-o", "json"]).json()
}

/// How many accounts it has, which it reads and writes.
async fn accounts(world: &World) -> i64 {
    let client = world.connect("acme").await;
    client.batch_execute("update accounts set balance = balance where id = 1").await.unwrap();
    client.query_one("select count(*) from accounts", &[]).await.unwrap().get(0)
}

/// How many roles a server has of the tenant with this one.
async fn roles(server: &TestServer, role: &str) -> i64 {
    let like = format!("{role}%");
    let count = "select count(*) from pg_roles where rolname like $1";
    server.connect("postgres").await.query_one(count, &[&like]).await.unwrap().get(0)
}

/// Waits until rows are being copied to a server.
async fn until_copied_to(world: &World, server: &TestServer) {
    let begun = Instant::now();
    let admin = server.connect("postgres").await;
    let copies =
        "select from pg_stat_activity where query like 'copy %' and application_name like 'insula move %'";
    while admin.query(copies, &[]).await.unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", world.log());
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks, not for an effect
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_gone_frees_the_tenant_and_is_cleared_when_it_is_back() {
    let mut world = world().await;
    traveller(&world).await;
    let tenant = world.tenant("acme");
    let role = tenant["placement"]["role"].as_str().unwrap();
    // So slow that it is in the middle.
    let slowly = [&TO_EU[..], &["--copy-rate", "1kB", "--no-wait"]].concat();
    let begun = moving(&world, "acme", &slowly).json();
    let id = begun["id"].as_str().unwrap();
    until_copied_to(&world, &world.eu).await;
    world.eu.kill_9().await;
    ordered(&world, "cancel", &begun, "cancelled");

    // The tenant works, and nothing of the move is at its source.
    assert_eq!(accounts(&world).await, 20);
    assert_eq!(left_over(&world.us).await, Vec::<String>::new());
    let found = shown(&world, id);
    assert_eq!(found["manifest"]["left"]["cluster"], "eu-west-1-a", "{found}");
    let report = world.run(&["doctor", "-o", "json"]);
    assert!(!report.ok && report.out.contains(&format!("move {id}")), "{}", report.out);
    // It goes anywhere but there: what is removed there later would be its own.
    let refused = moving(&world, "acme", &TO_EU);
    assert!(!refused.ok && refused.err.contains(id), "{}", refused.err);
    assert!(moving(&world, "acme", &["--tier", "standard", "--dry-run"]).ok);

    // Something was left, and goes when the server is back.
    world.kill_9();
    world.eu.start_again().await;
    assert!(roles(&world.eu, role).await > 0, "nothing would be seen to go");
    world.serve(&[]);
    world.wait_ready();
    until(&world, id, |found| {
        found["manifest"]["left"].is_null() && found["manifest"]["removed_later"].is_object()
    });
    assert_eq!(roles(&world.eu, role).await, 0);
    is_settled(&world, "acme", "pool", "us-east-1").await;
    let found = moved(&world, "acme", &TO_EU);
    ordered(&world, "complete", &found, "completed");
    assert_eq!(accounts(&world).await, 20);
}

/// No file of the server may be larger; a PostgreSQL that is refused more says
/// that the disk is full.
fn limit_files(server: &TestServer, bytes: &str) {
    let pid = server.pid().unwrap().to_string();
    // As the user whose process it is, who needs no right for that.
    let owner = std::fs::metadata(format!("/proc/{pid}")).unwrap();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--fsize={bytes}:")])
        .uid(owner.uid())
        .gid(owner.gid())
        .status();
    assert!(limited.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_target_undoes_the_move_and_one_that_is_away_later_keeps_what_was_written() {
    let mut world = world().await;
    traveller(&world).await;
    let long = "update accounts set about = (select string_agg(md5(random()::text), '') from generate_series(1, 48000))";
    world.connect("acme").await.batch_execute(long).await.unwrap();
    // More than a file of the log has, and no multiple of a page: the write that hits it is cut short.
    limit_files(&world.eu, "17000000");
    let refused = moving(&world, "acme", &TO_EU);
    refused.failed_with("no_capacity");
    assert!(refused.err.contains("disk"), "{}", refused.err);
    let listed = world.run(&["move", "list", "acme", "-o", "json"]).json();
    let failed = &listed["items"][0];
    assert_eq!(
        (&failed["status"], &failed["error"]["code"]),
        (&"failed".into(), &"no_capacity".into()),
        "{failed}"
    );
    assert_eq!(accounts(&world).await, 20);
    is_settled(&world, "acme", "pool", "us-east-1").await;

    // With room it goes.
    limit_files(&world.eu, "unlimited");
    let found = moved(&world, "acme", &TO_EU);
    let id = found["id"].as_str().unwrap();
    until(&world, id, |found| found["way_back"] == "kept");
    let entry = "insert into journal (client, number, debit, credit, amount) values (77, 1, 1, 1, 0)";
    world.connect("acme").await.batch_execute(entry).await.unwrap();
    // Away then, the way back waits, and so does a rollback.
    world.eu.kill_9().await;
    until(&world, id, |found| {
        found["way_back"] == "waiting" && found["error"]["code"] == "placement_unavailable"
    });
    let back = world.run(&["move", "rollback", id, "--no-wait"]);
    assert!(back.ok, "{}", back.err);
    world.eu.start_again().await;
    until(&world, id, |found| found["status"] == "rolled_back");
    assert_eq!(accounts(&world).await, 20);
    let kept = world.connect("acme").await.query("select from journal where client = 77", &[]).await.unwrap();
    assert_eq!(kept.len(), 1, "what was written at the target is lost");
    is_settled(&world, "acme", "pool", "us-east-1").await;
    order(&world, "rollback", &found).failed_with("move_status_conflict");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute of waiting for servers: make test-moves"]
async fn a_rollback_ends_without_the_target_and_a_completion_without_the_source() {
    let mut world = world().await;
    traveller(&world).await;
    let found = moved(&world, "acme", &TO_EU);
    let id = found["id"].as_str().unwrap();
    // The rows are there and nowhere else: without it there is no way back, and the move stays as it was.
    world.eu.kill_9().await;
    order(&world, "rollback", &found).failed_with("placement_unavailable");
    assert_eq!(shown(&world, id)["status"], "moved");
    world.eu.start_again().await;
    until(&world, id, |found| found["way_back"] == "kept");

    // The source is needed for nothing.
    world.us.kill_9().await;
    let ended = ordered(&world, "complete", &found, "completed");
    assert_eq!(ended["manifest"]["left"]["end"], "source", "{ended}");
    assert_eq!(accounts(&world).await, 20);
    world.kill_9();
    world.us.start_again().await;
    world.serve(&[]);
    world.wait_ready();
    until(&world, id, |found| found["manifest"]["left"].is_null());
    let cleared = shown(&world, id);
    assert_eq!(cleared["manifest"]["removed_later"]["counted"]["tables"]["accounts"], 20, "{cleared}");
    assert_eq!(world.tenant("acme")["region"], "eu-west-1");
    world.doctor_is_content();
    for server in [&world.us, &world.eu] {
        assert_eq!(left_over(server).await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute of waiting for a server: make test-moves"]
async fn a_move_is_done_without_a_source_that_goes_away_right_after_the_cutover() {
    let mut world = world().await;
    traveller(&world).await;
    let source = world.us.pid().unwrap().to_string();
    world.kill_9();
    world.serve(&[("INSULA_CRASH_AT", "tenant.move:settle:before"), ("INSULA_CRASH_PID", &source)]);
    world.wait_ready();
    let found = moved(&world, "acme", &TO_EU);
    assert_eq!(accounts(&world).await, 20);

    // What it has not done at the source is done when that is removed.
    world.us.start_again().await;
    assert_ne!(left_over(&world.us).await, Vec::<String>::new(), "nothing would be seen to go");
    ordered(&world, "complete", &found, "completed");
    is_settled(&world, "acme", "pool", "eu-west-1").await;
    assert_eq!(accounts(&world).await, 20);
}
