//! The front as its operator meets it: what it shows, what it logs and counts,
//! settings that are read again, and a restart under load.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::World;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_what_the_front_is_at() {
    let world = World::start().await;
    world.create("acme", "free", "us-east-1");
    world.create("globex", "standard", "us-east-1");
    let (acme, globex) = (world.connect("acme").await, world.connect("globex").await);
    acme.batch_execute("begin").await.unwrap();
    globex.batch_execute("select 1").await.unwrap();

    let show = |arguments: &[&str]| world.run(&[&["pg", "show"], arguments].concat());
    let clients = show(&["clients", "-o", "json"]).json();
    assert_eq!(clients["total"], 2);
    let of_acme = show(&["clients", "--tenant", "acme", "-o", "json"]).json();
    let [client] = &of_acme["items"].as_array().unwrap()[..] else { panic!("{of_acme}") };
    assert_eq!((&client["tenant"], &client["login"]), (&Value::from("acme"), &Value::from("acme")));
    assert_eq!((&client["pool_mode"], &client["tls"]), (&Value::from("transaction"), &Value::from(false)));

    // Tab-separated where it is no terminal, with one line more than there are.
    let table = show(&["backends"]);
    assert!(table.ok, "{}", table.err);
    let lines: Vec<Vec<&str>> = table.out.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0][..5], ["cluster", "tenant", "role", "pid", "state"]);
    assert!(lines.len() > 1 && lines[1..].iter().all(|line| line.len() == lines[0].len()));
    assert!(lines.iter().any(|line| line[..2] == ["us-east-1-a", "acme"] && line[4] == "in_use"));

    let one = show(&["tenants", "--limit", "1"]);
    assert_eq!(one.out.lines().count(), 2);
    assert!(one.err.contains("1 of 2 tenants"), "{}", one.err);
    let tenants = show(&["tenants", "-o", "json"]);
    let secret = world.url("acme").split([':', '@']).nth(2).unwrap().to_owned();
    assert!(secret.len() > 20 && !tenants.out.contains(&secret), "no secret");
    let tenants = tenants.json();
    let globex = tenants["items"].as_array().unwrap().iter().find(|one| one["tenant"] == "globex").unwrap();
    assert_eq!(globex["clients"], 1);

    show(&["clients", "--tenant", "nobody"]).failed_with("tenant_not_found");
    show(&["clients", "--tenant", "no'body"]).failed_with("tenant_not_found");
    for wrong in ["0", "1001", "x"] {
        assert_eq!(show(&["clients", "--limit", wrong]).code, Some(2), "{wrong}");
    }
    assert_eq!(show(&["nothing"]).code, Some(2));
    let query = world.http("GET", "/v1/pg/clients?limit=x", Some(world.token()), None).unwrap();
    assert!(query.0 == 400 && query.1.contains("invalid_request"), "{query:?}");
}
