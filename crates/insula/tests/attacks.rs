//! The attack suite (`insula attack`) between two tenants of each isolation
//! model, with logins of both pool modes: no attempt may reach the other, and
//! the suite notices where one does.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::sync::Arc;

use common::World;
use insula_attack::{Outcome, Party, Plan, Verdict};
use insula_domain::OsEntropy;
use serde_json::Value;

/// What only the victim has.
const SECRET: &str = "SECRET-OF-THE-VICTIM";

const MODELS: [(&str, &str); 4] =
    [("pool", "free"), ("schema", "standard"), ("database", "business"), ("cluster", "enterprise")];

/// What the victim has, and what the attacker needs for its attempts: rows, keys
/// that are the same, and a row that refers to another.
async fn plant(world: &World, model: &str) {
    let (victim, attacker) = (format!("victim-{model}"), format!("attacker-{model}"));
    let session = world.connect(&victim).await;
    session
        .batch_execute(&format!(
            "insert into customers (id, email, name) values (777, 'victim@example.com', '{SECRET}'),
                                                            (778, 'other@example.com', '{SECRET} too')"
        ))
        .await
        .unwrap();
    let own = world.connect(&attacker).await;
    own.batch_execute(
        "insert into customers (id, email, name) values (777, 'victim@example.com', 'mine');
         insert into orders (id, number, customer_id, currency) values (1, 'A', 777, 'EUR')",
    )
    .await
    .unwrap();
    if model != "pool" {
        let made = format!("create table secrets (word text); insert into secrets values ('{SECRET}')");
        let own_schema = match model {
            "schema" => format!("{}_own", world.tenant(&victim)["placement"]["schema"].as_str().unwrap()),
            _ => "own".to_owned(),
        };
        session.batch_execute(&made.replace("secrets", &format!("{own_schema}.secrets"))).await.unwrap();
    }
}

fn party(tenant: &Value, url: String) -> Party {
    let part = |name: &str| tenant["placement"][name].as_str().unwrap().to_owned();
    Party {
        url: url.into(),
        slug: tenant["slug"].as_str().unwrap().to_owned(),
        id: tenant["id"].as_str().unwrap().to_owned(),
        role: part("role"),
        schema: part("schema"),
        database: part("database"),
    }
}

/// Runs the suite between two tenants with logins of a pool mode.
async fn suite(
    world: &World,
    attacker: &str,
    victim: &str,
    mode: &str,
    after_each: impl FnMut(&Outcome),
) -> Vec<Outcome> {
    let side = |slug: &str| {
        let name = format!("attack-{mode}");
        let made = world.run(&["login", "create", slug, &name, "--pool-mode", mode, "-o", "json"]).json();
        party(&world.tenant(slug), made["url"].as_str().unwrap().to_owned())
    };
    let plan = Plan {
        attacker: side(attacker),
        victim: side(victim),
        only: None,
        table: Some("customers".to_owned()),
    };
    insula_attack::run(&plan, Arc::new(OsEntropy), after_each).await.unwrap()
}

/// Everything that did not hold, for the message of a test.
fn told(of: &str, outcomes: &[Outcome], verdict: Verdict) -> String {
    let fitting = outcomes.iter().filter(|outcome| outcome.verdict == verdict);
    fitting
        .map(|outcome| {
            let why = outcome.why.as_deref().unwrap_or_default();
            format!("{of}: {}: {}\n    {why}\n    saw: {}\n", outcome.name, outcome.tried, outcome.saw)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_of_any_tenant_reaches_another() {
    let world = Arc::new(World::start().await);
    world.apply_shop();
    for (model, tier) in MODELS.into_iter().skip(1) {
        let set = ["tier", "set", tier, "--isolation", model, "--plan", tier, "--own-objects"];
        assert!(world.run(&set).ok);
    }
    for (model, tier) in MODELS {
        for side in ["victim", "attacker"] {
            world.create(&format!("{side}-{model}"), tier, "us-east-1");
        }
        plant(&world, model).await;
    }
    // What the catalogs of the shared tables know of their values.
    world.us.connect("insula_pool").await.batch_execute("analyze").await.unwrap();
    let runs = MODELS.map(|(model, _)| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let (attacker, victim) = (format!("attacker-{model}"), format!("victim-{model}"));
            let mut told_all = (String::new(), String::new());
            for mode in ["transaction", "session"] {
                let outcomes = suite(&world, &attacker, &victim, mode, |_| ()).await;
                let of = format!("{model}, {mode}");
                assert!(outcomes.len() >= 150, "{of}: {}", outcomes.len());
                told_all.0.push_str(&told(&of, &outcomes, Verdict::Breached));
                told_all.1.push_str(&told(&of, &outcomes, Verdict::CouldNotBeTried));
            }
            told_all
        })
    });
    let (mut breaches, mut untried) = (String::new(), String::new());
    for run in runs {
        let (breached, missing) = run.await.unwrap();
        breaches.push_str(&breached);
        untried.push_str(&missing);
    }
    assert!(
        breaches.is_empty() && untried.is_empty(),
        "breaches:\n{breaches}\ncould not be tried:\n{untried}"
    );
}

/// With row security off on one table of the pool, the suite says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_one_table_is_found() {
    let world = World::start().await;
    world.apply_shop();
    for side in ["victim", "attacker"] {
        world.create(&format!("{side}-pool"), "free", "us-east-1");
    }
    plant(&world, "pool").await;
    let superuser = world.us.connect("insula_pool").await;
    // Only when the suite has found out what belongs to whom.
    let mut is_open = false;
    let open = |_: &Outcome| {
        if !std::mem::replace(&mut is_open, true) {
            let opened = superuser.batch_execute("alter table app.customers disable row level security");
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(opened)).unwrap();
        }
    };
    let outcomes = suite(&world, "attacker-pool", "victim-pool", "transaction", open).await;
    let breached: Vec<_> = outcomes
        .iter()
        .filter(|outcome| outcome.verdict == Verdict::Breached)
        .map(|outcome| outcome.name)
        .collect();
    assert!(breached.len() > 10, "{breached:?}");
}
