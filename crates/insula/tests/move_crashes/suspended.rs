//! A worker is suspended in the midst of a move, its connections open, and wakes
//! when another process has the move, or has long ended it: what it still does
//! then comes to nothing.

use std::time::{Duration, Instant};

use insula_testkit::TestServer;
use serde_json::Value;

use crate::checker::{Checker, Door};
use crate::clients::{Writer, check_rows, tenant};
use crate::common::World;
use crate::common::worker::Worker;
use crate::{
    ACTS, POOL_TO_SCHEMA, ROWS, SCHEMA_TO_POOL, UNTIL_ENDED, Way, checker, doors, doors_of_regions,
    last_move, points, until,
};

const REGION: [&str; 2] = ["--region", "eu-west-1"];

/// A front and an API, which carry nothing out: that is for workers beside it.
pub async fn world() -> World {
    let mut world = World::start().await;
    world.apply_shop();
    world.kill_9();
    world.serve_as("control,pg-proxy,config");
    world.wait_ready();
    world
}

/// A worker that stands still at a point.
pub fn sleeper(world: &World, name: &str, point: &str) -> Worker {
    world.worker(name, &[("INSULA_CRASH_AT", point), ("INSULA_CRASH_SIGNAL", "STOP")])
}

/// A tenant that moves, with what is at work for it and looks at it.
struct Mover {
    slug: String,
    writer: Writer,
    checker: Checker,
}

impl Mover {
    /// Made and written to; a worker must be there.
    async fn begins(world: &World, slug: &str, tier: &str, rows: i64, doors: [Door; 2]) -> Self {
        let tenant = tenant(world, slug, tier, rows).await;
        let checker = checker(doors, &tenant);
        Self { slug: slug.to_owned(), writer: Writer::start(world.url(slug)), checker }
    }

    fn moves(&self, world: &World, to: &[&str]) {
        // The longest hold: an act of one who wakes is not late by the clock alone.
        let begun = ["tenant", "move", &self.slug, "--hold", "10s", "--no-wait"];
        let begun = world.run(&[&begun[..], to].concat());
        assert!(begun.ok, "{}\n{}", begun.err, world.log());
    }

    /// Waits until it is moved.
    async fn is_moved(&self, world: &World, times: i64, about: &str) -> Value {
        let moved = until(world, &self.slug, &["moved"], about);
        self.was_moved(world, times, about).await;
        moved
    }

    /// It was moved so often, and each time by one worker. What is told of progress
    /// is not looked at: who wakes late may say once more how far it was.
    async fn was_moved(&self, world: &World, times: i64, about: &str) {
        let tenant = world.tenant(&self.slug);
        assert_eq!(tenant["placement"]["epoch"].as_i64(), Some(times + 1), "{about}");
        let catalog = world.catalog.connect("insula_catalog").await;
        let commits = "select count(*) from audit where action = 'tenant.moved' and tenant_id::text = $1";
        let commits = catalog.query_one(commits, &[&tenant["id"].as_str().unwrap()]).await.unwrap();
        assert_eq!(commits.get::<_, i64>(0), times, "{about}");
    }

    fn completes(&self, world: &World, moved: &Value, about: &str) {
        let completed = world.run(&["move", "complete", moved["id"].as_str().unwrap()]);
        assert!(completed.ok, "{about}: {}\n{}", completed.err, world.log());
    }

    async fn ends(self, world: &World, about: &str) {
        let (acknowledged, seen) = (self.writer.stop().await, self.checker.stop().await);
        seen.check(about);
        assert!(seen.open.iter().all(|times| *times > 0), "{about}: {seen:?}");
        check_rows(world, &self.slug, &acknowledged, about).await;
        world.doctor_is_content();
        assert!(world.run(&["tenant", "delete", &self.slug]).ok);
        world.doctor_is_content();
    }
}

/// The tenant moves while one worker stands still at a point of the cutover and
/// another one carries it out; then the first goes on.
async fn is_suspended_at(world: &World, slug: &str, point: &str, way: Way) {
    let first = sleeper(world, &format!("{slug}-first"), point);
    let mover = Mover::begins(world, slug, way.tier, ROWS, doors(world)).await;
    mover.moves(world, &["--isolation", way.isolation]);
    first.until_suspended();
    let heir = world.worker(&format!("{slug}-heir"), &[]);
    let moved = mover.is_moved(world, 1, point).await;
    first.wakes_too_late();
    mover.checker.looks_again(10).await;
    mover.was_moved(world, 1, point).await;
    mover.completes(world, &moved, point);
    mover.ends(world, point).await;
    drop((first, heir));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_suspended_before_the_commit_commits_nothing_when_it_wakes() {
    let world = world().await;
    is_suspended_at(&world, "t0", "tenant.move:commit:before", SCHEMA_TO_POOL).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make test-moves"]
async fn a_worker_may_be_suspended_before_and_after_every_act_of_a_cutover() {
    let world = world().await;
    for (index, point) in points("tenant.move", &ACTS, &["before", "inside"]).iter().enumerate() {
        let way = if index % 3 == 0 { POOL_TO_SCHEMA } else { SCHEMA_TO_POOL };
        is_suspended_at(&world, &format!("t{index}"), point, way).await;
    }
}

/// Waits until rows are being copied to a server.
async fn until_copied_to(server: &TestServer, worker: &Worker) {
    let (begun, admin) = (Instant::now(), server.connect("postgres").await);
    let copies = "select from pg_stat_activity
                  where query ilike 'copy %' and state = 'active' and application_name like 'insula move %'";
    while admin.query(copies, &[]).await.unwrap().is_empty() {
        assert!(begun.elapsed() < UNTIL_ENDED, "{}", worker.log());
        tokio::time::sleep(Duration::from_millis(10)).await; // between two looks, not for an effect
    }
}

/// Its connections stay open, with what it has locked: it is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_suspended_in_the_copy_copies_nothing_when_it_wakes() {
    let world = world().await;
    let first = world.worker("first", &[]);
    let rows = 20_000;
    let mover = Mover::begins(&world, "acme", "standard", rows, doors_of_regions(&world)).await;
    // So slow that it is in the middle.
    mover.moves(&world, &[&REGION[..], &["--copy-rate", "1kB"]].concat());
    until_copied_to(&world.eu, &first).await;
    first.suspend();
    let catalog = world.catalog.connect("insula_catalog").await;
    let fast = "update moves set terms = terms || '{\"copy_bytes_per_second\": null}'";
    catalog.batch_execute(fast).await.unwrap();
    let heir = world.worker("heir", &[]);
    let moved = mover.is_moved(&world, 1, "copy").await;
    mover.completes(&world, &moved, "copy");
    first.wakes_too_late();
    let there: Vec<_> = (1..=rows).collect();
    check_rows(&world, "acme", &there, "copy").await;
    mover.ends(&world, "copy").await;
    drop(heir);
}

/// Names are the same in each of a tenant's moves: what the late one would open
/// or close is where the tenant has been since, and has left again.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_after_the_way_there_and_back_lets_nobody_in() {
    let world = world().await;
    let first = sleeper(&world, "first", "tenant.move:open_target:before");
    let mover = Mover::begins(&world, "acme", "standard", ROWS, doors_of_regions(&world)).await;
    mover.moves(&world, &REGION);
    first.until_suspended();
    let heir = world.worker("heir", &[]);
    let moved = mover.is_moved(&world, 1, "there").await;
    mover.completes(&world, &moved, "there");
    mover.moves(&world, &["--region", "us-east-1"]);
    let back = mover.is_moved(&world, 2, "back").await;
    first.wakes_too_late();
    mover.checker.looks_again(10).await;
    mover.completes(&world, &back, "back");
    mover.ends(&world, "there and back").await;
    drop(heir);
}

/// The second stands still as well, the first wakes and takes the run again, and
/// then it is the second that is late.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "longer than one; make test-moves"]
async fn two_workers_may_be_suspended_in_turn() {
    let world = world().await;
    let first = sleeper(&world, "first", "tenant.move:commit:before");
    let mover = Mover::begins(&world, "acme", "standard", ROWS, doors_of_regions(&world)).await;
    mover.moves(&world, &REGION);
    first.until_suspended();
    let second = sleeper(&world, "second", "tenant.move:open_target:inside");
    second.until_suspended();
    first.wakes_too_late();
    let moved = mover.is_moved(&world, 1, "in turn").await;
    second.wakes_too_late();
    mover.checker.looks_again(10).await;
    assert_eq!(last_move(&world, "acme")["id"], moved["id"]);
    mover.was_moved(&world, 1, "in turn").await;
    mover.completes(&world, &moved, "in turn");
    mover.ends(&world, "in turn").await;
}
