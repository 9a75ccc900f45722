//! Moves while clients work: one of each kind of step, up and down.

use std::time::Duration;

use crate::load::{Load, faults_of};
use crate::place::{banker, is_settled, left_over, moved, ordered, tier_of, world};

const TELLERS: i64 = 6;
const THINKS: Duration = Duration::from_millis(3);

/// A hold that is not let go shows as this, far above what a busy machine makes
/// of milliseconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn the_load_finds_nothing_where_nothing_moves_and_finds_what_is_lost() {
    let world = world().await;
    for (slug, tier) in [("pooled", "free"), ("schemed", "standard")] {
        banker(&world, slug, tier).await;
        let load = Load::begins(&world, slug, TELLERS, THINKS).await;
        let since = load.open_for();
        load.goes_on(&world).await;
        let (told, longest) = load.ends(&world, since).await;
        assert!(longest < LONGEST_PAUSE, "{longest:?}");

        let client = world.connect(slug).await;
        for (harm, words) in [
            (
                "delete from journal where id = (select max(id) from journal where client = 2)",
                "acknowledged and lost",
            ),
            ("update accounts set balance = balance + 1 where id = 3", "account 3 has"),
            ("delete from accounts where id = 4", "account 4 has None"),
            ("update accounts set about = left(about, 100) where id = 5", "the text of account 5"),
            (
                "delete from journal where id = (select min(id) from journal where client = -1)",
                "rows from before",
            ),
        ] {
            client.batch_execute(harm).await.unwrap();
            let faults = faults_of(&world, slug, &told).await;
            assert!(faults.iter().any(|fault| fault.contains(words)), "{slug}, {harm}: {faults:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_goes_up_and_down_and_its_clients_notice_nothing() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    banker(&world, "neighbour", "free").await;
    let load = Load::begins(&world, "acme", TELLERS, THINKS).await;
    let neighbour = Load::begins(&world, "neighbour", 2, THINKS).await;
    let since = load.open_for();
    for model in ["schema", "database", "pool"] {
        let found = moved(&world, "acme", &["--tier", tier_of(model)]);
        // The way back is open, and shows that the look for what is left can fail.
        assert_ne!(left_over(&world.us).await, Vec::<String>::new());
        load.goes_on(&world).await;
        ordered(&world, "complete", &found, "completed");
        load.goes_on(&world).await;
        is_settled(&world, "acme", model, "us-east-1").await;
    }
    let (told, longest) = load.ends(&world, since).await;
    assert_eq!(told.len(), usize::try_from(TELLERS).unwrap());
    assert!(longest < LONGEST_PAUSE, "{longest:?}");
    neighbour.goes_on(&world).await;
    neighbour.ends(&world, since).await;
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_gets_a_server_of_its_own_while_it_works() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    let load = Load::begins(&world, "acme", TELLERS, THINKS).await;
    let since = load.open_for();
    let found = moved(&world, "acme", &["--tier", "enterprise"]);
    load.goes_on(&world).await;
    ordered(&world, "complete", &found, "completed");
    load.goes_on(&world).await;
    let (_, longest) = load.ends(&world, since).await;
    assert!(longest < LONGEST_PAUSE, "{longest:?}");
    is_settled(&world, "acme", "cluster", "us-east-1").await;
}
