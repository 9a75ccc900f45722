//! What becomes of sessions that are open while their tenant moves.

use crate::place::{banker, is_settled, moved, ordered, world};

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_prepared_statements_come_along_and_what_keeps_a_backend_is_told() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    let session = world.connect("acme").await;
    session.batch_execute("set statement_timeout = '7s'; set application_name = 'teller'").await.unwrap();
    let balance = session.prepare("select balance from accounts where id = $1").await.unwrap();
    let login = ["login", "create", "acme", "worker", "--pool-mode", "session", "-o", "json"];
    let login = world.run(&login).json();
    let keeper = insula_testkit::connect(login["url"].as_str().unwrap()).await;
    keeper.query("select from accounts", &[]).await.unwrap();

    for (tier, model, schema) in [("standard", "schema", "t_"), ("free", "pool", "app")] {
        let found = moved(&world, "acme", &["--tier", tier]);
        let row = session.query_one(&balance, &[&7_i64]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 1_000);
        for (setting, value) in [("statement_timeout", "7s"), ("application_name", "teller")] {
            let shown = session.query_one(&format!("show {setting}"), &[]).await.unwrap();
            assert_eq!(shown.get::<_, String>(0), value);
        }
        // It is another place, and not the old one that still answers.
        let row = session.query_one("select current_schema()::text", &[]).await.unwrap();
        assert!(row.get::<_, String>(0).starts_with(schema), "{model}: {row:?}");
        ordered(&world, "complete", &found, "completed");
        is_settled(&world, "acme", model, "us-east-1").await;
    }

    // What is kept in a session on a backend cannot come along.
    let error = keeper.query("select from accounts", &[]).await.unwrap_err();
    assert!(error.is_closed() || error.code().is_some_and(|code| code.code() == "57P01"), "{error:?}");
    let again = insula_testkit::connect(login["url"].as_str().unwrap()).await;
    assert_eq!(again.query("select from accounts", &[]).await.unwrap().len(), 20);
}
