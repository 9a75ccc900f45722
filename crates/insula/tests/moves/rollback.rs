//! A move that is taken back keeps what was written at its target; one that is
//! cancelled leaves nothing there.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::{Client, Transaction};

use crate::common::World;
use crate::load::Load;
use crate::place::{apply, banker, is_settled, left_over, moved, moving, order, ordered, until, world};

const WRITES: i64 = 1_000;

/// One entry after the other, each told to be committed before the next.
async fn write(world: &World, client: i64) {
    let session = world.connect("acme").await;
    let entry = "insert into journal (client, number, debit, credit, amount) values ($1, $2, 1, 1, 0)";
    let entry = session.prepare(entry).await.unwrap();
    for number in 0..WRITES {
        session.execute(&entry, &[&client, &number]).await.unwrap();
    }
}

/// How many different ones of a client are there, and how many in all.
async fn written(world: &World, client: i64) -> (i64, i64) {
    let count = "select count(distinct number), count(*) from journal where client = $1";
    let row = world.connect("acme").await.query_one(count, &[&client]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_keeps_what_was_written_at_the_target() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    let load = Load::begins(&world, "acme", 4, Duration::from_millis(3)).await;
    let since = load.open_for();
    let found = moved(&world, "acme", &["--isolation", "database", "--tier", "business"]);
    load.goes_on(&world).await;
    let (_, longest) = load.ends(&world, since).await;
    assert!(longest < Duration::from_secs(10), "{longest:?}");

    write(&world, 900).await;
    let changed =
        "update accounts set about = 'changed at the target' where id = 7; delete from accounts where id = 8";
    world.connect("acme").await.batch_execute(changed).await.unwrap();
    let back = ordered(&world, "rollback", &found, "rolled_back");
    assert!(back["ended_at"].is_string(), "{back}");
    assert_eq!(written(&world, 900).await, (WRITES, WRITES));
    let accounts = "select count(*), count(*) filter (where about = 'changed at the target') from accounts";
    let row = world.connect("acme").await.query_one(accounts, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (19, 1));
    // The source goes on as if nothing had been: its numbers too.
    write(&world, 901).await;
    assert_eq!(written(&world, 901).await, (WRITES, WRITES));
    is_settled(&world, "acme", "pool", "us-east-1").await;
    order(&world, "rollback", &found).failed_with("move_status_conflict");
    order(&world, "complete", &found).failed_with("move_status_conflict");

    // And it can be moved again, to the same place.
    let again = moved(&world, "acme", &["--tier", "business"]);
    assert_ne!(again["id"], found["id"]);
    order(&world, "cancel", &again).failed_with("move_status_conflict");
    ordered(&world, "complete", &again, "completed");
    assert_eq!(written(&world, 901).await, (WRITES, WRITES));
    is_settled(&world, "acme", "database", "us-east-1").await;
}

/// A table that came since is in no stream back: who went back would lose its rows.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_way_back_behind_a_version_that_came_since() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    let found = moved(&world, "acme", &["--tier", "standard"]);
    let id = found["id"].as_str().unwrap();
    until(&world, id, |found| found["way_back"] == "kept");
    assert!(has_slot(&world).await, "nothing would be seen to go");
    apply(&world, "0002_notes.sql", "create table notes (id bigint primary key, note text not null);");
    world
        .connect("acme")
        .await
        .batch_execute("insert into notes (id, note) values (1, 'kept')")
        .await
        .unwrap();
    // Refused without an operation, and the server keeps no log for it.
    let operations =
        || world.run(&["operation", "list", "-o", "json"]).json()["items"].as_array().unwrap().len();
    let before = operations();
    order(&world, "rollback", &found).failed_with("schema_behind");
    assert_eq!(operations(), before);
    until(&world, id, |found| found["way_back"] == "closed");
    let shown = world.run(&["move", "show", id, "-o", "json"]).json();
    let code = shown["error"]["code"].as_str().unwrap();
    assert!(["schema_behind", "schema_changed"].contains(&code), "{shown}");
    assert_eq!(shown["status"], "moved");
    until_no_slot(&world).await;
    let notes = world.connect("acme").await.query("select note from notes", &[]).await.unwrap();
    assert_eq!(notes.len(), 1, "what was written at the target is lost");
    ordered(&world, "complete", &found, "completed");
    is_settled(&world, "acme", "schema", "us-east-1").await;
}

async fn has_slot(world: &World) -> bool {
    left_over(&world.us).await.iter().any(|left| left.starts_with("slot "))
}

async fn until_no_slot(world: &World) {
    let begun = std::time::Instant::now();
    while has_slot(world).await {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", world.log());
        tokio::time::sleep(Duration::from_millis(50)).await; // between two looks, not for an effect
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_cancelled_leaves_the_tenant_where_it_is() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    // An open transaction keeps the move from its cutover for as long as the test wants.
    let mut open = world.connect("acme").await;
    let transaction = begun_by_reading(&mut open).await;
    let begun = moving(&world, "acme", &["--tier", "standard", "--hold", "100ms", "--no-wait"]).json();
    let found = |field: &str| {
        world.run(&["move", "show", begun["id"].as_str().unwrap(), "-o", "json"]).json()[field].clone()
    };
    assert_eq!(found("status"), "running");
    moving(&world, "acme", &["--tier", "business"]).failed_with("move_open");

    ordered(&world, "cancel", &begun, "cancelled");
    transaction.commit().await.unwrap();
    is_settled(&world, "acme", "pool", "us-east-1").await;
    assert_eq!(left_over(&world.us).await, Vec::<String>::new());
    let listed = world.run(&["move", "list", "acme", "-o", "json"]).json();
    let statuses: Vec<&Value> =
        listed["items"].as_array().unwrap().iter().map(|item| &item["status"]).collect();
    assert_eq!(statuses, ["cancelled"]);
    order(&world, "rollback", &begun).failed_with("move_status_conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_is_waited_for_or_ended_as_was_said() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    let change = "update accounts set balance = balance + 0 where id = 1";

    // Waited for: the move comes to its cutover after the transaction, which commits.
    let mut patient = world.connect("acme").await;
    let transaction = begun_by_reading(&mut patient).await;
    let begun = moving(&world, "acme", &["--tier", "standard", "--hold", "100ms", "--no-wait"]).json();
    let id = begun["id"].as_str().unwrap();
    until(&world, id, |found| {
        found["progress"]["cutovers"].as_u64() > Some(0) && found["progress"]["held_up_by"].is_string()
    });
    transaction.execute(change, &[]).await.unwrap();
    transaction.commit().await.unwrap();
    until(&world, id, |found| found["status"] == "moved");
    ordered(&world, "complete", &begun, "completed");

    // Ended: the session is told so, with a hint, and the move goes on.
    let mut impatient = world.connect("acme").await;
    let transaction = begun_by_reading(&mut impatient).await;
    let found =
        moved(&world, "acme", &["--tier", "business", "--hold", "200ms", "--long-transactions", "end"]);
    let error = transaction.execute(change, &[]).await.unwrap_err();
    assert!(error.is_closed() || error.code().is_some_and(|code| code.code() == "57P01"), "{error:?}");
    ordered(&world, "complete", &found, "completed");
    is_settled(&world, "acme", "database", "us-east-1").await;
}

/// A transaction that has read and not written: the making of a replication slot
/// waits for those that have, so that the move would not come to its cutover.
async fn begun_by_reading(client: &mut Client) -> Transaction<'_> {
    let transaction = client.transaction().await.unwrap();
    transaction.query("select from accounts", &[]).await.unwrap();
    transaction
}
