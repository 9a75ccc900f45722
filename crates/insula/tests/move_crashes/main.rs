//! The process is killed before and inside every step of a move, of its
//! cutover's acts, of its rollback and of its completion, and started again:
//! the move goes on to its end, no acknowledged write is lost or doubled, never
//! are both placements open, and the doctor finds nothing of it afterwards.
//!
//! `docs/TESTING.md` says which of the combinations run when.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

#[path = "../common/mod.rs"]
mod common;

mod checker;
mod clients;
mod narrowed;
mod suspended;

use std::time::{Duration, Instant};

use checker::{Checker, Door};
use clients::{Writer, check_rows, ids, tenant};
use common::World;
use common::worker::process_state;
use serde_json::Value;

/// How long until a process that shall kill itself has done so.
const UNTIL_KILLED: Duration = Duration::from_secs(120);

/// How long until a move that was taken over has come to its end.
const UNTIL_ENDED: Duration = Duration::from_secs(120);

/// What a tenant has before it moves.
const ROWS: i64 = 50;

/// The steps of `tenant.move`.
const STEPS: [&str; 10] = [
    "preflight",
    "target",
    "home",
    "copy",
    "follow",
    "verify",
    "reverse",
    "cutover",
    "configuration",
    "settle",
];

/// The acts of its cutover: at the beginning of each try what an earlier one
/// may have left is tidied up.
const ACTS: [&str; 7] = ["hold", "quiet", "close_source", "drain", "sequences", "open_target", "commit"];
const TIDYING: [&str; 3] = ["close_target", "open_source", "let_go"];

/// Where a tenant is moved to.
#[derive(Debug, Clone, Copy)]
struct Way {
    tier: &'static str,
    isolation: &'static str,
}

const POOL_TO_SCHEMA: Way = Way { tier: "free", isolation: "schema" };
const SCHEMA_TO_POOL: Way = Way { tier: "standard", isolation: "pool" };

/// The doors of a tenant that goes one of these ways, on one server.
fn doors(world: &World) -> [Door; 2] {
    ["insula_pool", "insula_schemas"].map(|database| Door { url: world.us.url("postgres"), database })
}

/// Those of one that goes to the other region.
fn doors_of_regions(world: &World) -> [Door; 2] {
    [&world.us, &world.eu].map(|server| Door { url: server.url("postgres"), database: "insula_schemas" })
}

fn checker(doors: [Door; 2], tenant: &Value) -> Checker {
    Checker::start(doors, tenant["placement"]["role"].as_str().unwrap())
}

/// The tenant's last move.
fn last_move(world: &World, slug: &str) -> Value {
    let moves = world.run(&["move", "list", slug, "-o", "json"]).json();
    moves["items"].get(0).cloned().unwrap_or(Value::Null)
}

/// The tenant's last move, once it is at rest in one of the states.
fn until(world: &World, slug: &str, statuses: &[&str], point: &str) -> Value {
    let begun = Instant::now();
    loop {
        let last = last_move(world, slug);
        // At its target it is before its operation has ended.
        let at_rest = last["status"] != "moved" || last["phase"] == "done";
        if at_rest && statuses.contains(&last["status"].as_str().unwrap_or_default()) {
            return last;
        }
        assert!(begun.elapsed() < UNTIL_ENDED, "{point}: {last:#}\n{}", world.log());
        std::thread::sleep(Duration::from_millis(50)); // between two looks, not for an effect
    }
}

/// Starts the process anew, so that it ends at the point.
fn serve_until(world: &mut World, point: &str) {
    world.kill_9();
    world.serve(&[("INSULA_CRASH_AT", point)]);
    world.wait_ready();
}

/// Waits for the end of the process, and starts it again.
fn serve_again(world: &mut World, point: &str) {
    assert!(world.ended(UNTIL_KILLED), "{point} was never reached: {}", world.log());
    world.serve(&[]);
    world.wait_ready();
}

/// A tenant is moved over a crash at each of the points.
async fn crash_moves(points: &[String], way: Way) {
    let mut world = World::start().await;
    world.apply_shop();
    for (index, point) in points.iter().enumerate() {
        let slug = format!("t{index}");
        let tenant = tenant(&world, &slug, way.tier, ROWS).await;
        let (writer, checker) = (Writer::start(world.url(&slug)), checker(doors(&world), &tenant));
        serve_until(&mut world, point);
        // The command is cut off together with the server.
        let _ = world.run(&["tenant", "move", &slug, "--isolation", way.isolation]);
        serve_again(&mut world, point);
        let moved = until(&world, &slug, &["moved"], point);
        let epoch = world.tenant(&slug)["placement"]["epoch"].as_i64();
        assert_eq!((epoch, &moved["to"]["epoch"]), (Some(2), &Value::from(2)), "{point}");
        let acknowledged = writer.stop().await;
        check_rows(&world, &slug, &acknowledged, point).await;
        world.doctor_is_content();
        let id = moved["id"].as_str().unwrap();
        let completed = world.run(&["move", "complete", id]);
        assert!(completed.ok, "{point}: {}\n{}", completed.err, world.log());
        let seen = checker.stop().await;
        seen.check(point);
        assert!(seen.open.iter().all(|times| *times > 0), "{point}: {seen:?}");
        check_rows(&world, &slug, &acknowledged, point).await;
        world.doctor_is_content();
        assert!(world.run(&["tenant", "delete", &slug]).ok);
        world.doctor_is_content();
    }
}

fn points(workflow: &str, steps: &[&str], moments: &[&str]) -> Vec<String> {
    let of = |step: &&str| moments.iter().map(move |moment| format!("{workflow}:{step}:{moment}")).collect();
    steps.iter().flat_map(|step| -> Vec<String> { of(step) }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_survives_a_crash_inside_every_step() {
    crash_moves(&points("tenant.move", &STEPS, &["inside"]), POOL_TO_SCHEMA).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_survives_a_crash_inside_every_act_of_its_cutover() {
    crash_moves(&points("tenant.move", &ACTS, &["inside"]), SCHEMA_TO_POOL).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make test-moves"]
async fn a_move_survives_a_crash_before_and_after_every_step() {
    crash_moves(&points("tenant.move", &STEPS, &["before", "after"]), SCHEMA_TO_POOL).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make test-moves"]
async fn a_move_survives_a_crash_before_every_act_of_its_cutover() {
    crash_moves(&points("tenant.move", &ACTS, &["before"]), POOL_TO_SCHEMA).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make test-moves"]
async fn a_move_survives_a_crash_around_what_takes_a_try_back() {
    crash_moves(&points("tenant.move", &TIDYING, &["before", "inside"]), SCHEMA_TO_POOL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_move_survives_a_crash() {
    crash_undos(&["reverse", "target"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make test-moves"]
async fn the_undo_of_a_move_survives_a_crash_at_the_other_steps() {
    crash_undos(&["copy", "home", "preflight"]).await;
}

/// An operator ends a move that an open transaction holds up, and the process
/// ends within what takes it back.
async fn crash_undos(steps: &[&str]) {
    let mut world = World::start().await;
    world.apply_shop();
    for (index, step) in steps.iter().enumerate() {
        let (slug, point) = (format!("t{index}"), format!("tenant.move:{step}:undo_inside"));
        let tenant = tenant(&world, &slug, POOL_TO_SCHEMA.tier, ROWS).await;
        let checker = checker(doors(&world), &tenant);
        serve_until(&mut world, &point);
        let open = world.connect(&slug).await;
        open.batch_execute("begin; select * from customers").await.unwrap();
        let begun =
            world.run(&["tenant", "move", &slug, "--isolation", "schema", "--hold", "50ms", "--no-wait"]);
        assert!(begun.ok, "{}", begun.err);
        let held_up = Instant::now();
        let id = loop {
            let last = last_move(&world, &slug);
            if last["progress"]["cutovers"].as_u64() > Some(0) {
                break last["id"].as_str().unwrap().to_owned();
            }
            assert!(held_up.elapsed() < UNTIL_ENDED, "{point}: {last:#}\n{}", world.log());
            std::thread::sleep(Duration::from_millis(20)); // between two looks, not for an effect
        };
        let _ = world.run(&["move", "cancel", &id]);
        serve_again(&mut world, &point);
        let ended = until(&world, &slug, &["cancelled"], &point);
        assert_eq!(ended["committed_at"], Value::Null, "{point}");
        drop(open);
        checker.stop().await.check(&point);
        check_rows(&world, &slug, &(1..=ROWS).collect::<Vec<_>>(), &point).await;
        world.doctor_is_content();
        let placement = &world.tenant(&slug)["placement"];
        assert_eq!((&placement["isolation"], &placement["epoch"]), (&"pool".into(), &1.into()), "{point}");
    }
}

/// What is done to a move once the tenant is at its target.
async fn crash_afterwards(verb: &str, workflow: &str, steps: &[&str], ends: &str, epoch: i64) {
    let mut world = World::start().await;
    world.apply_shop();
    for (index, point) in points(workflow, steps, &["inside"]).iter().enumerate() {
        let slug = format!("t{index}");
        let tenant = tenant(&world, &slug, POOL_TO_SCHEMA.tier, ROWS).await;
        let checker = checker(doors(&world), &tenant);
        assert!(world.run(&["tenant", "move", &slug, "--isolation", "schema"]).ok, "{}", world.log());
        let writer = Writer::start(world.url(&slug));
        let id = last_move(&world, &slug)["id"].as_str().unwrap().to_owned();
        serve_until(&mut world, point);
        let _ = world.run(&["move", verb, &id]);
        serve_again(&mut world, point);
        until(&world, &slug, &[ends], point);
        let acknowledged = writer.stop().await;
        checker.stop().await.check(point);
        check_rows(&world, &slug, &acknowledged, point).await;
        world.doctor_is_content();
        assert_eq!(world.tenant(&slug)["placement"]["epoch"].as_i64(), Some(epoch), "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_survives_a_crash() {
    let steps = ["close_source", "commit", "remove"];
    crash_afterwards("rollback", "tenant.move.rollback", &steps, "rolled_back", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make test-moves"]
async fn a_rollback_survives_a_crash_inside_the_other_steps() {
    let steps = ["follow", "cutover", "drain", "sequences", "open_target", "configuration", "count", "end"];
    crash_afterwards("rollback", "tenant.move.rollback", &steps, "rolled_back", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_survives_a_crash_inside_every_step() {
    let steps = ["streams", "count", "remove", "end"];
    crash_afterwards("complete", "tenant.move.complete", &steps, "completed", 2).await;
}

/// The server of one end ends at each of the points while a tenant moves from
/// one region to another, and comes back.
async fn crash_servers(points: &[(&str, End)]) {
    let mut world = World::start().await;
    world.apply_shop();
    for (index, (step, end)) in points.iter().enumerate() {
        let (slug, point) = (format!("t{index}"), format!("tenant.move:{step}:before"));
        let about = format!("{point} at the {end:?}");
        let tenant = tenant(&world, &slug, "standard", ROWS).await;
        let checker = checker(doors_of_regions(&world), &tenant);
        let server = if *end == End::Source { &world.us } else { &world.eu };
        let pid = server.pid().unwrap();
        world.kill_9();
        world.serve(&[("INSULA_CRASH_AT", &point), ("INSULA_CRASH_PID", &pid.to_string())]);
        world.wait_ready();
        let writer = Writer::start(world.url(&slug));
        let begun = world.run(&["tenant", "move", &slug, "--region", "eu-west-1", "--no-wait"]);
        assert!(begun.ok, "{about}: {}", begun.err);
        until_dead(&world, pid, &about);
        let server = if *end == End::Source { &mut world.us } else { &mut world.eu };
        server.start_again().await;
        // Whichever end it is that it comes to.
        let ended = until(&world, &slug, &["moved", "failed"], &about);
        let acknowledged = writer.stop().await;
        checker.stop().await.check(&about);
        check_rows(&world, &slug, &acknowledged, &about).await;
        world.doctor_is_content();
        if ended["status"] == "moved" {
            assert!(world.run(&["move", "complete", ended["id"].as_str().unwrap()]).ok, "{}", world.log());
        }
        world.doctor_is_content();
        check_rows(&world, &slug, &acknowledged, &about).await;
    }
}

/// An end of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Target,
}

fn until_dead(world: &World, pid: u32, about: &str) {
    let begun = Instant::now();
    // One that is dead and not waited for is there still.
    let alive = || !matches!(process_state(pid), None | Some('Z'));
    while alive() {
        assert!(begun.elapsed() < UNTIL_KILLED, "{about} was never reached: {}", world.log());
        std::thread::sleep(Duration::from_millis(10)); // between two looks, not for an effect
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_survives_the_end_of_a_server() {
    use End::{Source, Target};
    crash_servers(&[("copy", Source), ("verify", Target), ("close_source", Source), ("drain", Target)]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make test-moves"]
async fn a_move_survives_the_end_of_either_server_at_every_step() {
    let both = |step| [(step, End::Source), (step, End::Target)];
    let points: Vec<_> = STEPS.into_iter().chain(ACTS).flat_map(both).collect();
    crash_servers(&points).await;
}

/// What a try leaves whose worker dies between the opening of the target and the
/// commit, the source shut and the target open, with a target that is gone: the
/// tenant is let into its source again, since no front can have a way to the
/// target, and the move can be ended.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "longer than a crash at one point; make test-moves"]
async fn a_target_that_was_opened_and_is_gone_keeps_nobody_from_the_source() {
    let mut world = World::start().await;
    world.apply_shop();
    let tenant = tenant(&world, "acme", "standard", ROWS).await;
    let all: Vec<_> = (1..=ROWS).collect();
    let open = world.connect("acme").await;
    open.batch_execute("begin; select * from customers").await.unwrap();
    assert!(
        world.run(&["tenant", "move", "acme", "--region", "eu-west-1", "--hold", "50ms", "--no-wait"]).ok
    );
    let held_up = Instant::now();
    while last_move(&world, "acme")["progress"]["cutovers"].as_u64().is_none_or(|tries| tries == 0) {
        assert!(held_up.elapsed() < UNTIL_ENDED, "{}", world.log());
        std::thread::sleep(Duration::from_millis(20)); // between two looks, not for an effect
    }
    world.eu.kill_9().await;
    let role = tenant["placement"]["role"].as_str().unwrap();
    let catalog = world.catalog.connect("insula_catalog").await;
    catalog.batch_execute("update moves set target_open = true").await.unwrap();
    let admin = world.us.connect("postgres").await;
    let shut = format!("revoke connect on database insula_schemas from {role}, {role}_ro");
    admin.batch_execute(&shut).await.unwrap();
    let look = format!("select has_database_privilege('{role}', 'insula_schemas', 'connect')");
    let begun = Instant::now();
    while !admin.query_one(&look, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(begun.elapsed() < UNTIL_ENDED, "nobody lets it in again: {}", world.log());
        tokio::time::sleep(Duration::from_millis(50)).await; // between two looks
    }
    assert_eq!(ids(&world, "acme").await, all);
    let id = last_move(&world, "acme")["id"].as_str().unwrap().to_owned();
    assert!(world.run(&["move", "cancel", &id]).ok, "{}", world.log());
    let ended = until(&world, "acme", &["cancelled"], "gone");
    assert_eq!(ended["manifest"]["left"]["cluster"], "eu-west-1-a", "{ended}");
    assert_eq!(ids(&world, "acme").await, all);
    world.eu.start_again().await;
    world.doctor_is_content();
}

/// The canaries: what the tests look for is found where it is so.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_row_and_two_open_placements_would_be_found() {
    let world = World::start().await;
    world.apply_shop();
    let tenant = tenant(&world, "acme", POOL_TO_SCHEMA.tier, ROWS).await;
    let checker = checker(doors(&world), &tenant);
    let role = tenant["placement"]["role"].as_str().unwrap();
    let admin = world.us.connect("postgres").await;
    admin.batch_execute(&format!("grant connect on database insula_schemas to {role}")).await.unwrap();
    checker.looks_again(3).await;
    assert!(checker.stop().await.both > 0, "two open placements go unnoticed");
    let lost = tokio::spawn(async move { check_rows(&world, "acme", &[999], "canary").await });
    assert!(lost.await.is_err(), "a lost row goes unnoticed");
}
