//! The blueprint from the command line: a tool works on it, its work is
//! captured, applied, and served to tenants of every kind.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::World;
use insula_testkit::connect;

fn folder(world: &World) -> String {
    world.folder.join("schema").display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tool_does_on_the_blueprint_reaches_every_tenant() {
    let world = World::start().await;
    let dir = folder(&world);
    world.run(&["schema", "capture", "--dir", &dir]).failed_with("blueprint_missing");
    let said = world.run(&["schema", "blueprint-url"]);
    assert!(said.ok, "{}{}", said.err, world.log());
    let url = said.out.trim().to_owned();
    assert_eq!(world.run(&["schema", "blueprint-url"]).out.trim(), url, "it stays the same");
    world.run(&["schema", "capture", "--dir", &dir]).failed_with("nothing_to_capture");

    let tool = connect(&url).await;
    tool.batch_execute(
        "-- everything that is read
         CREATE TABLE public.books (id bigserial PRIMARY KEY, title text NOT NULL, pages int);
         CREATE INDEX books_title ON books (title);
         INSERT INTO books (title) VALUES ('Notes'), ('Letters')",
    )
    .await
    .unwrap();
    let said = world.run(&["schema", "capture", "--name", "books", "--dir", &dir]);
    assert!(said.ok, "{}{}", said.err, world.log());
    assert!(said.out.trim().ends_with("/0001_books.sql"), "{}", said.out);
    assert!(said.err.contains("without the schema public"), "{}", said.err);
    assert!(!said.err.contains("differs"), "{}", said.err);
    let applied = world.run(&["schema", "apply", &dir]);
    assert!(applied.ok, "{}{}", applied.err, world.log());
    for (slug, tier) in [("acme", "free"), ("globex", "standard"), ("initech", "business")] {
        world.create(slug, tier, "us-east-1");
    }

    // A second round meets tenants with rows of their own.
    world.connect("acme").await.batch_execute("insert into books (title) values ('Own')").await.unwrap();
    tool.batch_execute(
        "ALTER TABLE books ADD COLUMN size text; UPDATE books SET size = 'long' WHERE title = 'Own'",
    )
    .await
    .unwrap();
    tool.batch_execute("ALTER TABLE books ALTER COLUMN title TYPE varchar(80)").await.unwrap();
    // A version that was written by hand would come after what was not captured.
    let by_hand = world.folder.join("schema/0002_by_hand.sql");
    std::fs::write(&by_hand, "CREATE TABLE by_hand (a int PRIMARY KEY);").unwrap();
    let refused = world.run(&["schema", "apply", &dir]);
    refused.failed_with("blueprint_ahead");
    assert!(refused.err.contains("ALTER TABLE books ADD COLUMN size"), "{}", refused.err);
    std::fs::remove_file(&by_hand).unwrap();
    let said = world.run(&["schema", "capture", "--name", "sizes", "--dir", &dir]);
    assert!(said.ok, "{}", said.err);
    assert!(said.err.contains("warning: 0002_sizes.sql:7: books.title has another type"), "{}", said.err);
    assert!(world.run(&["schema", "apply", &dir]).ok);
    for (slug, expected) in
        [("acme", "Letters,Notes,Own=long"), ("globex", "Letters,Notes"), ("initech", "Letters,Notes")]
    {
        let query = "select string_agg(concat_ws('=', title, size), ',' order by title) from books";
        let row = world.connect(slug).await.query_one(query, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), expected, "{slug}");
        let id = "insert into books (title) values ('New') returning id > 2";
        assert!(
            world.connect(slug).await.query_one(id, &[]).await.unwrap().get::<_, bool>(0),
            "{slug}: ids go on"
        );
    }

    // By hand, now that nothing is open: the blueprint gets it, and stays in step.
    std::fs::write(world.folder.join("schema/0003_by_hand.sql"), "CREATE TABLE by_hand (a int PRIMARY KEY);")
        .unwrap();
    assert!(world.run(&["schema", "apply", &dir]).ok);
    tool.query("select from by_hand", &[]).await.unwrap();
    let status = world.run(&["schema", "status", "-o", "json"]).json();
    assert_eq!(status["blueprint"]["drift"], serde_json::json!([]), "{status}");
    assert_eq!(status["blueprint"]["cluster"], "us-east-1-a");
    world.run(&["schema", "capture", "--dir", &dir]).failed_with("nothing_to_capture");
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_captured_is_told_and_a_lost_blueprint_is_built_again() {
    let world = World::start().await;
    let dir = folder(&world);
    let said = world.run(&["schema", "blueprint-url", "--cluster", "eu-west-1-a"]);
    let url = said.out.trim().to_owned();
    world.run(&["schema", "blueprint-url", "--cluster", "us-east-1-a"]).failed_with("invalid_request");
    let tool = connect(&url).await;
    tool.batch_execute("CREATE TABLE t (a int PRIMARY KEY, b text)").await.unwrap();
    tool.batch_execute("CREATE MATERIALIZED VIEW m AS SELECT * FROM t").await.unwrap();
    tool.batch_execute("DO $$ BEGIN UPDATE t SET a = 1; END $$").await.unwrap();
    let refused = world.run(&["schema", "capture", "--dir", &dir]);
    refused.failed_with("capture_refused");
    assert!(refused.err.contains("write its statements out"), "{}", refused.err);
    assert!(!world.folder.join("schema/0001_captured.sql").exists());
    let forced = world.run(&["schema", "capture", "--dir", &dir, "--force"]);
    assert!(forced.ok, "{}", forced.err);
    let file = world.folder.join("schema/0001_captured.sql");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("-- Not captured: a DO block"), "{text}");
    // Taken back and captured again, it does not write over the file.
    let again = world.run(&["schema", "capture", "--dir", &dir, "--force", "--again"]);
    again.failed_with("file_not_written");

    // Edited, it is applied, and the blueprint differs from it.
    std::fs::write(&file, "CREATE TABLE t (a int PRIMARY KEY, b text);").unwrap();
    let applied = world.run(&["schema", "apply", &dir]);
    assert!(applied.ok, "{}{}", applied.err, world.log());
    let status = world.run(&["schema", "status"]);
    assert!(status.err.contains("the blueprint has drifted: view m"), "{}{}", status.err, world.log());

    tool.batch_execute("CREATE TABLE lost (a int)").await.unwrap();
    world.run(&["schema", "blueprint-rebuild"]).failed_with("blueprint_ahead");
    drop(tool);
    let admin = world.eu.connect("postgres").await;
    admin.batch_execute("drop database insula_blueprint with (force)").await.unwrap();
    world.run(&["schema", "capture", "--dir", &dir]).failed_with("blueprint_missing");
    world.run(&["schema", "blueprint-url"]).failed_with("blueprint_missing");
    let rebuilt = world.run(&["schema", "blueprint-rebuild"]);
    assert!(rebuilt.ok, "{}", rebuilt.err);
    assert_eq!(rebuilt.out.trim(), url);
    connect(&url).await.query("select b from t", &[]).await.unwrap();
    assert!(!world.run(&["schema", "status"]).err.contains("drifted"));
    world.run(&["schema", "capture", "--dir", &dir]).failed_with("nothing_to_capture");
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_captures_at_once_make_one_version() {
    let world = World::start().await;
    let url = world.run(&["schema", "blueprint-url"]).out.trim().to_owned();
    connect(&url).await.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").await.unwrap();
    let dirs: Vec<_> =
        (0..2).map(|number| world.folder.join(format!("schema{number}")).display().to_string()).collect();
    let said: Vec<_> = std::thread::scope(|scope| {
        let capture = |dir| world.run(&["schema", "capture", "--dir", dir]);
        let running: Vec<_> = dirs.iter().map(|dir| scope.spawn(move || capture(dir))).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (done, others): (Vec<_>, Vec<_>) = said.iter().partition(|said| said.ok);
    assert_eq!(done.len(), 1, "{:?}", said.iter().map(|said| &said.err).collect::<Vec<_>>());
    let refused = ["insula: blueprint_busy: ", "insula: nothing_to_capture: "];
    assert!(refused.iter().any(|start| others[0].err.starts_with(start)), "{}", others[0].err);
}
