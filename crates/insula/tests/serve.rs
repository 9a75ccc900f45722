//! `insula serve` with different roles in two processes on one catalog, tokens
//! for the front, key rotation, and a stop in order.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::programs::psql;
use common::{INSULA, World};

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_different_roles_share_one_catalog() {
    let world = World::start().await;
    world.apply_shop();
    world.create("acme", "free", "us-east-1");
    let (http, front) = (insula_testkit::unused_port(), insula_testkit::unused_port());
    let mut second = Command::new(INSULA)
        .args(["serve", "--config", &world.folder.join("insula.toml").display().to_string()])
        .args(["--roles", "pg-proxy"])
        .env("INSULA_HTTP__LISTEN", format!("127.0.0.1:{http}"))
        .env("INSULA_PG__LISTEN", format!("127.0.0.1:{front}"))
        .env("INSULA_PROVISIONER__KIND", "none")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let url = world.url("acme").replace(&world.pg_port.to_string(), &front.to_string());
    let begun = Instant::now();
    let client = loop {
        match tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                break client;
            }
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
        }
    };
    client.query("select * from products", &[]).await.unwrap();
    // What one process changes reaches the other.
    world.create("late", "standard", "us-east-1");
    let late = world.url("late").replace(&world.pg_port.to_string(), &front.to_string());
    insula_testkit::connect(&late).await.query("select * from products", &[]).await.unwrap();
    assert!(world.run(&["tenant", "suspend", "acme"]).ok);
    assert!(client.simple_query("select 1").await.is_err());
    // Without the role control there is no admin API, but for what the front is at.
    let api = |path: &str, head: &str| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", http)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: l\r\nConnection: close\r\n{head}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let token = format!("Authorization: Bearer {}\r\n", world.token());
    assert!(api("/v1/tenants", &token).starts_with("HTTP/1.1 404"));
    assert!(api("/v1/pg/tenants", "").starts_with("HTTP/1.1 401"));
    let shown = api("/v1/pg/tenants", &token);
    assert!(shown.starts_with("HTTP/1.1 200") && shown.contains("\"late\""), "{shown}");
    // A stop in order: at once, since nothing is under way, and with 0.
    Command::new("kill").args(["-TERM", &second.id().to_string()]).status().unwrap();
    let begun = Instant::now();
    assert!(second.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_the_front_for_its_tenant_alone() {
    let world = World::start().await;
    world.apply_shop();
    world.create("acme", "free", "us-east-1");
    world.create("globex", "standard", "us-east-1");
    let said = world.run(&["tenant", "token", "acme"]);
    assert!(said.ok, "{}", said.err);
    let client = insula_testkit::connect(said.out.trim()).await;
    let tenant = client.query_one("show insula.tenant", &[]).await.unwrap();
    assert_eq!(tenant.get::<_, String>(0), "acme");
    client.batch_execute("insert into customers (email, name) values ('a@example.com', 'a')").await.unwrap();
    let said = world.run(&["tenant", "token", "acme", "--read-only"]);
    let client = insula_testkit::connect(said.out.trim()).await;
    assert_eq!(client.query("select * from customers", &[]).await.unwrap().len(), 1);
    let refused = client.batch_execute("delete from customers").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501");
    let forged = said.out.trim().replace("eyJ", "eyK");
    assert!(tokio_postgres::connect(&forged, tokio_postgres::NoTls).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_can_be_rotated() {
    let mut world = World::start().await;
    world.apply_shop();
    world.create("acme", "free", "us-east-1");
    world.create("initech", "business", "us-east-1");
    let url = world.url("acme");
    let blueprint = world.run(&["schema", "blueprint-url"]).out.trim().to_owned();
    let key = world.folder.join("master.key").display().to_string();
    let said = world.run(&["master-key", "rotate", &key]);
    assert!(said.ok, "{}", said.err);
    world.kill_9();
    world.serve(&[]);
    world.wait_ready();
    let config = world.folder.join("insula.toml").display().to_string();
    let said = world.run(&["master-key", "rekey", "--config", &config]);
    assert!(said.ok, "{}", said.err);
    assert!(said.out.starts_with("2 clusters and 2 tenants"), "{}", said.out);
    let again = world.run(&["master-key", "rekey", "--config", &config]);
    assert!(again.out.starts_with("0 clusters and 0 tenants"), "{}", again.out);
    // The login keeps its secret; the roles have passwords of the new generation.
    assert_eq!(world.url("acme"), url);
    insula_testkit::connect(&url).await.query("select 1", &[]).await.unwrap();
    assert!(tokio_postgres::connect(&blueprint, tokio_postgres::NoTls).await.is_err(), "the old password");
    world.run(&["schema", "capture"]).failed_with("nothing_to_capture");
    let renewed = world.run(&["schema", "blueprint-url"]).out.trim().to_owned();
    insula_testkit::connect(&renewed).await.query("select 1 from customers", &[]).await.unwrap();
    world.create("late", "standard", "us-east-1");
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_insula_is_refused_and_left_alone() {
    let mut world = World::start().await;
    let catalog = world.catalog.connect("insula_catalog").await;
    catalog
        .batch_execute("insert into insula_store_version (version, name) values (999, 'future')")
        .await
        .unwrap();
    world.kill_9();
    world.serve(&[]);
    assert!(world.ended(Duration::from_secs(20)));
    assert!(world.log().contains("newer"), "{}", world.log());
}

/// The way to a front with a certificate that a file trusts, by psql.
fn by_tls(url: &str, port: u16, trusted: &std::path::Path) -> Result<String, String> {
    let (login, rest) = url.split_once('@').unwrap();
    let path = rest.split_once('/').unwrap().1;
    let url = format!(
        "{login}@localhost:{port}/{path}?hostaddr=127.0.0.1&sslmode=verify-full&channel_binding=require&sslrootcert={}",
        trusted.display()
    );
    let said = psql(&url).args(["-A", "-t", "-c", "show insula.tenant"]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    if said.status.success() { Ok(text(said.stdout)) } else { Err(text(said.stderr)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_without_a_restart() {
    let world = World::start().await;
    world.apply_shop();
    world.create("acme", "free", "us-east-1");
    let (http, front) = (insula_testkit::unused_port(), insula_testkit::unused_port());
    let file = |name: &str| world.folder.join(name);
    let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let put = |name: &str, content: String| {
        std::fs::write(file("beside"), content).unwrap();
        std::fs::rename(file("beside"), file(name)).unwrap();
    };
    let pairs = [pair(), pair(), pair()];
    for (number, pair) in pairs.iter().enumerate() {
        put(&format!("trusted-{number}"), pair.cert.pem());
    }
    put("pg.crt", pairs[0].cert.pem());
    put("pg.key", pairs[0].signing_key.serialize_pem());
    let mut process = Command::new(INSULA)
        .args(["serve", "--config", &file("insula.toml").display().to_string()])
        .args(["--roles", "pg-proxy"])
        .env("INSULA_HTTP__LISTEN", format!("127.0.0.1:{http}"))
        .env("INSULA_PG__LISTEN", format!("127.0.0.1:{front}"))
        .env("INSULA_PG__TLS__CERT_FILE", file("pg.crt"))
        .env("INSULA_PG__TLS__KEY_FILE", file("pg.key"))
        .env("INSULA_PROVISIONER__KIND", "none")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let url = world.url("acme");
    let shows = |number: usize| by_tls(&url, front, &file(&format!("trusted-{number}")));
    let until_it_shows = |number: usize| {
        let begun = Instant::now();
        while let Err(error) = shows(number) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{error}");
        }
    };
    until_it_shows(0);
    // A certificate without its key is not taken, whoever asks.
    put("pg.crt", pairs[1].cert.pem());
    Command::new("kill").args(["-HUP", &process.id().to_string()]).status().unwrap();
    assert!(shows(1).is_err());
    assert_eq!(shows(0).as_deref(), Ok("acme"));
    // By the files alone, and at once when it is asked to.
    put("pg.key", pairs[1].signing_key.serialize_pem());
    until_it_shows(1);
    assert!(shows(0).unwrap_err().contains("certificate verify failed"), "the canary");
    put("pg.key", pairs[2].signing_key.serialize_pem());
    put("pg.crt", pairs[2].cert.pem());
    Command::new("kill").args(["-HUP", &process.id().to_string()]).status().unwrap();
    until_it_shows(2);
    process.kill().unwrap();
    process.wait().unwrap();
}
