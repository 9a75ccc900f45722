//! The process with the front in it is killed under a crowd of clients, of a
//! tenant in each model, and started again: nobody gets another's answer, every
//! commit that was told of is there and none twice, and nothing of the killed
//! one is left on the servers.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::time::{Duration, Instant};

use common::{TENANTS, World};
use insula_testkit::{Crowd, LEDGER, Member, Temper, complaints, ledger_rows};

/// More clients than the server has backends for them.
const CLIENTS_OF_A_TENANT: usize = 6;
const FEW_BACKENDS: [(&str, &str); 1] = [("INSULA_PG__MAX_BACKENDS_PER_CLUSTER", "8")];

/// Until all clients are served again.
const RECOVERY: Duration = Duration::from_secs(60);

const KILLS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn the_front_is_killed_under_a_crowd() {
    let mut world = World::start().await;
    let folder = world.folder.join("schema");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("0001_ledger.sql"), LEDGER).unwrap();
    let said = world.run(&["schema", "apply", &folder.display().to_string()]);
    assert!(said.ok, "{}\n{}", said.err, world.log());
    let mut members = Vec::new();
    for (slug, tier, region) in TENANTS {
        let id = world.create(slug, tier, region)["id"].as_str().unwrap().replace('-', "");
        let config: tokio_postgres::Config = world.url(slug).parse().unwrap();
        members.extend((0..CLIENTS_OF_A_TENANT).map(|number| Member {
            config: config.clone(),
            tenant: slug.to_owned(),
            role: format!("tenant_{id}"),
            temper: Temper::nth(number),
        }));
    }

    world.kill_9();
    world.serve(&FEW_BACKENDS);
    world.wait_ready();
    let crowd = Crowd::start(members);
    for _ in 0..KILLS {
        crowd.until_each_commits(2, RECOVERY).await;
        world.kill_9();
        world.serve(&FEW_BACKENDS);
        world.wait_ready();
    }
    crowd.until_each_commits(5, RECOVERY).await;
    let stories = crowd.stop().await;
    let acknowledged: usize = stories.iter().map(|story| story.acknowledged.len()).sum();
    assert!(acknowledged > 200, "{acknowledged}");

    let mut rows = Vec::new();
    for (slug, ..) in TENANTS {
        rows.extend(ledger_rows(&world.connect(slug).await, slug, "ledger").await.unwrap());
    }
    let complaints: Vec<_> = complaints(&stories, &rows).iter().map(ToString::to_string).collect();
    assert!(complaints.is_empty(), "{complaints:#?}\n{}", world.log());
    nothing_is_left_open(&world).await;
    world.doctor_is_content();
}

/// No backend of a tenant's role is at work, or in a transaction, for nobody.
async fn nothing_is_left_open(world: &World) {
    let query = "select count(*) from pg_stat_activity where usename like 'tenant\\_%' and state <> 'idle'";
    for server in [&world.us, &world.eu] {
        let admin = server.connect("postgres").await;
        let begun = Instant::now();
        while admin.query_one(query, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            assert!(begun.elapsed() < RECOVERY, "a backend is at work for nobody");
        }
    }
}
