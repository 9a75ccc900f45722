//! Random histories, the whole way: definitions and rows are changed on the
//! blueprint as tools do, captured several times, and rolled out to tenants of
//! a pool, with schemas and with databases, who were created before, between
//! and afterwards. What `pg_dump` says of every placement is then what it says
//! of the blueprint, the rows are the same, and the doctor finds nothing.
//! `INSULA_ROLLOUT_HISTORIES` asks for more of them, `INSULA_ROLLOUT_SEED` for
//! others.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

#[path = "../common/mod.rs"]
mod common;
mod dump;
mod history;

use common::World;
use history::History;

/// Captures of a history, and what is done before each.
const CAPTURES: usize = 3;
const STEPS: usize = 80;

async fn lived(world: &World, seed: u64) -> History<'_> {
    let mut history = History::new(world, seed).await;
    for capture in 0..CAPTURES {
        if capture > 0 {
            history.create_tenants();
        }
        for _ in 0..STEPS {
            history.step().await;
        }
        history.roll_out();
    }
    history.create_tenants();
    history.compare().await;
    history
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_on_the_blueprint_is_what_every_tenant_has() {
    let (first, count) = (number("INSULA_ROLLOUT_SEED", 1), number("INSULA_ROLLOUT_HISTORIES", 1));
    for seed in first..first + count {
        let world = World::start().await;
        let history = lived(&world, seed).await;
        let (steps, rows) = (history.steps.len(), history.count_rows().await);
        eprintln!("seed {seed}: {steps} steps, {rows} rows");
        assert!(steps > 40 && rows > 5, "seed {seed}: {steps} steps and {rows} rows say little");
        if seed == first {
            what_differs_is_found(&history).await;
        }
    }
}

/// The canaries: each witness finds what is changed by hand.
async fn what_differs_is_found(history: &History<'_>) {
    let table = history.table_with_rows().await;
    let silo = history.tenants.iter().find(|tenant| tenant.schema.starts_with("t_")).unwrap();
    let schemas = history.world.us.connect("insula_schemas").await;
    let pool = history.world.us.connect("insula_pool").await;
    let by_hand = format!("comment on table {}.{table} is 'by hand'", silo.schema);
    schemas.batch_execute(&by_hand).await.unwrap();
    let found = history.differences().await;
    assert!(found.len() == 1 && found[0].contains("by hand"), "{found:?}");
    let by_hand = format!(
        "comment on table {}.{table} is null; set session_replication_role = replica; delete from {0}.{table}",
        silo.schema
    );
    schemas.batch_execute(&by_hand).await.unwrap();
    let found = history.differences().await;
    assert!(found.iter().any(|one| one.starts_with(&silo.slug) && one.contains(&table)), "{found:?}");
    pool.batch_execute(&format!("drop policy insula_tenant on app.{table}")).await.unwrap();
    let told = history.doctor();
    assert!(told.contains("policy"), "{told}");
}
