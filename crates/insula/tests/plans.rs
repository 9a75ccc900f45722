//! The limits of a plan that the front keeps, from the command line to a
//! running session.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_plans_limit_of_statements_holds_for_sessions_that_run() {
    let world = World::start().await;
    world.create("acme", "free", "us-east-1");
    let session = world.connect("acme").await;
    let slow = "select pg_sleep(1.5)";
    session.batch_execute(slow).await.unwrap();
    assert!(world.run(&["plan", "set", "free", "--statement-timeout-ms", "200"]).ok);
    let refused = loop {
        // The plan is pushed to the front a moment after it is set.
        if let Err(error) = session.batch_execute(slow).await {
            break error;
        }
    };
    let refused = refused.as_db_error().unwrap();
    assert_eq!((refused.code().code(), refused.hint()), ("57014", Some("insula: statement_timeout")));
    session.batch_execute("select 1").await.unwrap();
    let refused = world.run(&["plan", "set", "free", "--database-weight", "0"]);
    assert!(!refused.ok, "nobody weighs nothing");
}
