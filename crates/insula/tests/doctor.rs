//! What the doctor finds, each finding made on purpose, and what the janitor
//! forgets.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::time::{Duration, Instant};

use common::World;

/// A copy of a finished run that no worker takes: its version is unknown.
const FAILING: &str = r#"
    insert into workflow_runs (id, workflow, version, subject, exclusive, input, status, undoing, steps,
                               available_at, created_at)
    select gen_random_uuid(), workflow, 99, 'of-nobody', false, input, 'running', false,
           jsonb_set(steps, '{1}', steps -> 1 || '{"status": "running", "attempts": 7,
               "error": {"code": "cluster_unreachable", "detail": "No answer from the server."}}'),
           now() + interval '1 hour', now() - interval '10 minutes'
    from workflow_runs where workflow = 'tenant.create' limit 1"#;

#[tokio::test(flavor = "multi_thread")]
async fn operations_that_keep_failing_are_listed() {
    let world = World::start().await;
    world.create("acme", "free", "us-east-1");
    world.doctor_is_content();
    let catalog = world.catalog.connect("insula_catalog").await;
    catalog.batch_execute(FAILING).await.unwrap();
    let said = world.run(&["doctor", "-o", "json"]);
    assert_eq!(said.code, Some(1), "{}", said.out);
    for part in ["failing", "tenant.create on of-nobody", "7 attempts", "cluster_unreachable", "No answer"] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    // A young one is left to its tries, and a stuck one is told as stuck.
    catalog.batch_execute("update workflow_runs set created_at = now() where version = 99").await.unwrap();
    assert!(world.run(&["doctor"]).ok);
    let stuck = "update workflow_runs set status = 'stuck', available_at = null where version = 99";
    catalog.batch_execute(stuck).await.unwrap();
    let said = world.run(&["doctor", "-o", "json"]);
    assert!(said.code == Some(1) && said.out.contains("is stuck"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_nobody_creates_any_more_is_found_and_can_be_deleted() {
    let world = World::start().await;
    world.create("other", "free", "us-east-1");
    let catalog = world.catalog.connect("insula_catalog").await;
    for (slug, tier, status) in [
        ("acme", "free", "provisioning"),
        ("globex", "standard", "deleting"),
        ("initech", "business", "provisioning"),
    ] {
        world.create(slug, tier, "us-east-1");
        world.doctor_is_content();
        let halve = "update tenants set status = $2 where slug = $1";
        catalog.execute(halve, &[&slug, &status]).await.unwrap();
        let said = world.run(&["doctor", "-o", "json"]);
        assert!(said.code == Some(1) && said.out.contains("no operation is at work on it"), "{}", said.out);
        assert!(!said.out.contains("The catalog has no tenant for it here"), "{}", said.out);
        // With an operation under way it is between two states.
        let run = FAILING
            .replace("'of-nobody'", &format!("(select id::text from tenants where slug = '{slug}')"))
            .replace("false, input", "true, input")
            .replace("interval '10 minutes'", "interval '1 second'");
        catalog.batch_execute(&run).await.unwrap();
        let said = world.run(&["doctor", "-o", "json"]);
        assert!(!said.out.contains("no operation is at work on it"), "{}", said.out);
        world.run(&["tenant", "delete", slug]).failed_with("tenant_busy");
        catalog.batch_execute("delete from workflow_runs where version = 99").await.unwrap();
        assert!(world.run(&["tenant", "delete", slug]).ok, "{}", world.log());
        world.doctor_is_content();
    }
}

/// What fails inside PostgreSQL is told to operators in its words.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_fails_says_why_wherever_it_is_shown() {
    let mut world = World::start().await;
    let id = world.create("globex", "standard", "us-east-1")["id"].as_str().unwrap().replace('-', "");
    world.create("initech", "business", "us-east-1");
    let umbrella = world.create("umbrella", "business", "eu-west-1")["id"].as_str().unwrap().replace('-', "");
    world.doctor_is_content();
    let us = world.us.connect("postgres").await;
    us.batch_execute("create database held").await.unwrap();
    us.batch_execute(&format!("alter database held owner to tenant_{id}")).await.unwrap();
    let deleted = world.run(&["tenant", "delete", "globex", "--no-wait", "-o", "json"]).json();
    let operation = deleted["id"].as_str().unwrap().to_owned();
    let begun = Instant::now();
    let said = loop {
        let said = world.run(&["operation", "show", &operation]);
        if said.out.contains("2BP01") || begun.elapsed() > Duration::from_secs(20) {
            break said;
        }
    };
    for part in ["cannot be dropped", "owner of database held", "(2BP01)"] {
        assert!(said.out.contains(part), "{part}: {}{}", said.out, world.log());
    }
    let listed = world.run(&["operation", "list"]);
    assert!(
        listed.out.lines().any(|line| line.contains("tenant.purge") && line.contains("internal")),
        "{}",
        listed.out
    );
    // An audit leaves out what is between two states, and tells of what is gone or away.
    let said = world.run(&["schema", "audit"]);
    assert!(said.ok, "{}{}", said.out, said.err);
    let eu = world.eu.connect("postgres").await;
    eu.batch_execute(&format!("alter database t_{umbrella} rename to gone")).await.unwrap();
    let said = world.run(&["schema", "audit"]);
    assert!(said.code == Some(1) && said.out.contains("It is not there."), "{}{}", said.out, said.err);
    world.us.kill_9().await;
    let said = world.run(&["schema", "audit"]);
    assert!(
        said.out.contains("It is not there.") && said.out.contains("It could not be read"),
        "{}",
        said.out
    );
    // It goes on until it is done.
    world.us.start_again().await;
    world
        .us
        .connect("postgres")
        .await
        .batch_execute("alter database held owner to current_user")
        .await
        .unwrap();
    let begun = Instant::now();
    while !world.run(&["operation", "show", &operation]).out.contains("succeeded") {
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "{}",
            world.run(&["operation", "show", &operation]).out
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_roles_are_found_and_a_suspension_takes_them_away() {
    let world = World::start().await;
    world.apply_shop();
    for (slug, tier) in [("acme", "free"), ("globex", "standard"), ("initech", "business")] {
        let id = world.create(slug, tier, "us-east-1")["id"].as_str().unwrap().replace('-', "");
        world.doctor_is_content();
        let us = world.us.connect("postgres").await;
        // Anywhere: a role may set for itself in databases that it cannot connect to.
        let anywhere = format!(
            "alter role tenant_{id} set work_mem = '3MB';
             alter role tenant_{id} in database postgres set work_mem = '5MB';
             alter role tenant_{id}_ro in database template1 set work_mem = '7MB'"
        );
        us.batch_execute(&anywhere).await.unwrap();
        let said = world.run(&["doctor", "-o", "json"]);
        for found in ["work_mem=3MB", "postgres: work_mem=5MB", "template1: work_mem=7MB"] {
            assert!(said.code == Some(1) && said.out.contains(found), "{slug}: {}", said.out);
        }
        assert!(world.run(&["tenant", "suspend", slug]).ok && world.run(&["tenant", "resume", slug]).ok);
        world.doctor_is_content();
    }
    // The one setting that must be there is missed.
    let us = world.us.connect("postgres").await;
    let globex = us
        .query_one("select setrole::regrole::text from pg_db_role_setting where setrole <> 0 limit 1", &[])
        .await
        .unwrap()
        .get::<_, String>(0);
    us.batch_execute(&format!("alter role {globex} in database insula_schemas reset all")).await.unwrap();
    let said = world.run(&["doctor", "-o", "json"]);
    assert!(said.out.contains("not insula_schemas: search_path="), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_that_ended_long_ago_are_forgotten() {
    let mut world = World::start().await;
    for slug in ["old", "new"] {
        world.create(slug, "free", "us-east-1");
    }
    let operations = world.run(&["operation", "list", "-o", "json"]).json();
    let id = |index: usize| operations["items"][index]["id"].as_str().unwrap().to_owned();
    let (new, old) = (id(0), id(1));
    let catalog = world.catalog.connect("insula_catalog").await;
    let age = "update workflow_runs set ended_at = ended_at - interval '31 days' where id::text = $1";
    assert_eq!(catalog.execute(age, &[&old]).await.unwrap(), 1);
    // The janitor looks when it starts.
    world.kill_9();
    world.serve(&[]);
    world.wait_ready();
    let begun = Instant::now();
    while world.run(&["operation", "show", &old]).ok {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is still there");
    }
    world.run(&["operation", "show", &old]).failed_with("operation_not_found");
    // The check can fail: a younger one is there.
    assert!(world.run(&["operation", "show", &new]).ok);
    assert!(world.run(&["audit", "list", "old"]).out.contains("tenant.create"), "the audit stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_sequence_that_runs_out_is_found() {
    let world = World::start().await;
    world.apply_shop();
    let pool = world.us.connect("insula_pool").await;
    world.doctor_is_content();
    let sequence = "create sequence app.s as integer; alter sequence app.s owner to insula_pool_owner;
                    select setval('app.s', 1073741825)";
    pool.batch_execute(sequence).await.unwrap();
    let said = world.run(&["doctor", "-o", "json"]);
    assert!(said.code == Some(1) && said.out.contains("1073741825 of 2147483647"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_url_of_the_login_that_reads_is_shown_again() {
    let world = World::start().await;
    world.create("acme", "free", "us-east-1");
    let first = world.run(&["tenant", "url", "acme", "--read-only"]);
    let again = world.run(&["tenant", "url", "acme", "--read-only"]);
    assert!(first.ok && again.ok && first.out == again.out, "{}{}", first.err, again.err);
    let client = insula_testkit::connect(first.out.trim()).await;
    let role: String = client.query_one("select current_user::text", &[]).await.unwrap().get(0);
    assert!(role.ends_with("_ro"), "{role}");
    assert!(world.run(&["audit", "list", "acme"]).out.contains("login.show"));
    // One that was made with a secret of its own cannot be shown.
    world.create("globex", "free", "us-east-1");
    assert!(world.run(&["tenant", "url", "globex", "--login", "read-only", "--read-only"]).ok);
    world.run(&["tenant", "url", "globex", "--read-only"]).failed_with("login_taken");
}
