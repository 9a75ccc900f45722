//! Every ordered pair of models, and a change of region, under 16 clients:
//! minutes of work, which `make test-moves` asks for.

use std::time::Duration;

use crate::load::Load;
use crate::place::{banker, is_settled, moved, ordered, tier_of, world};

/// A walk from pool to pool that takes each of the twelve ways once.
const WALK: [&str; 12] = [
    "schema", "pool", "database", "pool", "cluster", "schema", "database", "schema", "cluster", "database",
    "cluster", "pool",
];

const TELLERS: i64 = 16;
const THINKS: Duration = Duration::from_millis(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[test]
fn the_walk_takes_every_way_once() {
    let from = std::iter::once("pool").chain(WALK);
    let ways: std::collections::BTreeSet<_> = from.zip(WALK).collect();
    assert_eq!(ways.len(), 12);
    assert!(ways.iter().all(|(from, to)| from != to));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of work: make test-moves"]
async fn all_ways_under_load() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    let load = Load::begins(&world, "acme", TELLERS, THINKS).await;
    let since = load.open_for();
    for model in WALK {
        let found = moved(&world, "acme", &["--tier", tier_of(model)]);
        load.goes_on(&world).await;
        ordered(&world, "complete", &found, "completed");
        is_settled(&world, "acme", model, "us-east-1").await;
    }
    let (_, longest) = load.ends(&world, since).await;
    assert!(longest < LONGEST_PAUSE, "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of work: make test-moves"]
async fn to_another_region_under_load_and_back() {
    let world = world().await;
    for (slug, model) in
        [("pooled", "pool"), ("schemed", "schema"), ("based", "database"), ("served", "cluster")]
    {
        banker(&world, slug, tier_of(model)).await;
        assert!(world.run(&["tenant", "set", slug, "--residency", "global"]).ok);
        let load = Load::begins(&world, slug, TELLERS, THINKS).await;
        let since = load.open_for();
        for region in ["eu-west-1", "us-east-1"] {
            let found = moved(&world, slug, &["--region", region]);
            load.goes_on(&world).await;
            ordered(&world, "complete", &found, "completed");
            is_settled(&world, slug, model, region).await;
        }
        let (_, longest) = load.ends(&world, since).await;
        assert!(longest < LONGEST_PAUSE, "{slug}: {longest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of work: make test-moves"]
async fn ten_tenants_at_once_under_load() {
    let world = world().await;
    let mut loads = Vec::new();
    for number in 0..10 {
        let slug = format!("tenant-{number}");
        banker(&world, &slug, "free").await;
        loads.push(Load::begins(&world, &slug, 3, 4 * THINKS).await);
    }
    let since: Vec<_> = loads.iter().map(Load::open_for).collect();
    std::thread::scope(|scope| {
        for number in 0..10 {
            let world = &world;
            let model = ["schema", "database"][number % 2];
            scope.spawn(move || {
                let slug = format!("tenant-{number}");
                let found = moved(world, &slug, &["--tier", tier_of(model)]);
                ordered(world, "complete", &found, "completed");
            });
        }
    });
    for (number, (load, since)) in loads.into_iter().zip(since).enumerate() {
        load.goes_on(&world).await;
        let (_, longest) = load.ends(&world, since).await;
        assert!(longest < LONGEST_PAUSE, "{longest:?}");
        is_settled(&world, &format!("tenant-{number}"), ["schema", "database"][number % 2], "us-east-1")
            .await;
    }
}
