//! The front as its operator meets it: what it shows, what it logs and counts,
//! settings that are read again, and a restart under load.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{INSULA, World};
use serde_json::{Value, json};

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

/// The most backends that acme may have, as the front has it now.
fn most(world: &World) -> Value {
    let shown = world.run(&["pg", "show", "tenants", "--tenant", "acme", "-o", "json"]).json();
    shown["items"][0]["backends_max"].clone()
}

fn whole_log(world: &World) -> String {
    std::fs::read_to_string(world.folder.join("insula.log")).unwrap()
}

/// Looks until it is so.
fn until(world: &World, what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {}", world.log());
        std::thread::sleep(Duration::from_millis(10)); // between two looks, not for an effect
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_read_again_and_broken_ones_change_nothing() {
    let world = World::start().await;
    world.create("acme", "free", "us-east-1");
    let file = world.folder.join("insula.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let put = |text: &str| {
        let beside = world.folder.join("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &file).unwrap();
        world.signal("HUP");
    };
    let session = world.connect("acme").await;
    assert_eq!(most(&world), 75);
    let reads = |count: usize| {
        until(&world, "it is read", || {
            whole_log(&world).matches("the settings were read again").count() == count
        });
    };
    let changed = before
        .replace("[http]\n", "[http]\nmax_in_flight = 99\n")
        .replace("[pg]\n", "[pg]\nmax_backends_per_cluster = 10\nbackend_wait = \"1s\"\n")
        + "[log]\nfilter = \"info,insula_pg_proxy=debug\"\n[metrics]\ntop_tenants = 0\n";
    let metrics = || world.http("GET", "/metrics", None, None).unwrap().1;
    assert!(metrics().contains("insula_pg_tenant_sessions{tenant=\"acme\"} 1"));
    put(&changed);
    reads(1);
    until(&world, "the bound is taken over", || most(&world) == 9);
    let log = whole_log(&world);
    let taken = "log.filter, metrics.top_tenants, pg.backend_wait, pg.max_backends_per_cluster";
    assert!(log.contains(taken), "{log}");
    let left = log.lines().find(|line| line.contains("hold from a restart on")).unwrap();
    assert!(left.contains("\"http.max_in_flight\""), "{left}");
    assert!(!metrics().contains("tenant=\"acme\""));
    assert!(!log.contains("a client was let in"), "it is a line of the level debug");
    world.connect("acme").await.batch_execute("select 1").await.unwrap();
    until(&world, "the level is taken over", || whole_log(&world).contains("a client was let in"));

    for broken in [
        changed.replace("max_backends_per_cluster = 10", "max_backends_per_cluster = \"many\""),
        changed.replace("max_backends_per_cluster = 10", "max_backends_per_cluster = 0"),
        changed.replace("info,insula_pg_proxy=debug", "insula=loud"),
        changed.replace("[catalog]\nurl = \"", "[catalog]\nurl = \"\"\"s3cret"),
    ] {
        let told = || whole_log(&world).matches("those before them stay").count();
        let before = told();
        put(&broken.replace("= 10", "= 20"));
        until(&world, "it is told", || told() == before + 1);
        assert_eq!(most(&world), 9);
    }
    let log = whole_log(&world);
    assert!(log.contains("pg.max_backends_per_cluster") && log.contains("insula=loud"), "{log}");
    assert!(!log.contains("s3cret"));

    // Who asks by the command line is told what is wrong, and nothing is sent.
    let config = file.display().to_string();
    world.run(&["reload", "--config", &config]).failed_with("invalid_settings");

    // The session has seen nothing of it all; and what is mended is taken again.
    session.batch_execute("select 1").await.unwrap();
    put(&changed.replace("= 10\n", "= 20\n"));
    reads(2);
    until(&world, "the mended one is taken over", || most(&world) == 15);
    std::fs::write(&file, changed.replace("= 10\n", "= 40\n")).unwrap();
    let said = world.run(&["reload", "--config", &config]);
    assert!(said.ok && said.out.starts_with("process "), "{} {}", said.out, said.err);
    reads(3);
    until(&world, "it is taken over by the command", || most(&world) == 30);
    assert!(!whole_log(&world).contains("did not take over"), "nobody was to");
    session.batch_execute("select 1").await.unwrap();
    let data = |folder: &std::path::Path| format!("data_dir = {:?}", folder.display().to_string());
    let nobody = before.replace(&data(&world.folder), &data(&world.folder.join("elsewhere")));
    let elsewhere = world.folder.join("elsewhere.toml");
    std::fs::write(&elsewhere, nobody).unwrap();
    world.run(&["reload", "--config", &elsewhere.display().to_string()]).failed_with("not_running");
}

/// A front on ports of its own, beside that of the world.
struct Front {
    http: u16,
    pg: u16,
}

/// A process that does not outlive its test, however that ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Front {
    fn start(&self, world: &World) -> Process {
        self.start_with(world, &[])
    }

    /// The same with other settings.
    fn start_with(&self, world: &World, settings: &[(&str, &String)]) -> Process {
        let log = std::fs::File::options().append(true).open(world.folder.join("insula.log")).unwrap();
        let started = Command::new(INSULA)
            .args(["serve", "--config", &world.folder.join("insula.toml").display().to_string()])
            .args(["--roles", "pg-proxy", "--take-over"])
            .env("INSULA_HTTP__LISTEN", format!("127.0.0.1:{}", self.http))
            .env("INSULA_PG__LISTEN", format!("127.0.0.1:{}", self.pg))
            .env("INSULA_PROVISIONER__KIND", "none")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Process(started.unwrap())
    }
}

/// What a crowd of clients has met.
#[derive(Default)]
struct Met {
    over: AtomicBool,
    committed: AtomicU64,
    /// Sessions that ended where no transaction was open.
    sent_away: AtomicU64,
    /// Transactions that had begun and did not end.
    broken: Mutex<Vec<String>>,
    /// Connections that were not taken.
    refused: AtomicU64,
}

impl Met {
    fn count(&self, count: &AtomicU64) -> u64 {
        count.load(Ordering::Relaxed)
    }

    fn broken(&self) -> Vec<String> {
        self.broken.lock().unwrap().clone()
    }

    /// One client: a transaction after the other, and another connection where
    /// it has none any more.
    async fn work(&self, url: String, number: usize) {
        let more = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
        let mut row = 0;
        while !self.over.load(Ordering::Relaxed) {
            let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await else {
                more(&self.refused);
                continue;
            };
            let connection = tokio::spawn(connection);
            while !self.over.load(Ordering::Relaxed) {
                if client.batch_execute("begin").await.is_err() {
                    more(&self.sent_away);
                    break;
                }
                row += 1;
                let insert =
                    format!("insert into customers (email, name) values ('{number}-{row}@example.com', 'x')");
                let ended = async {
                    client.batch_execute(&insert).await?;
                    client.batch_execute("commit").await
                };
                if let Err(error) = ended.await {
                    self.broken.lock().unwrap().push(error.to_string());
                    break;
                }
                more(&self.committed);
            }
            drop(client);
            let _ = connection.await;
        }
    }
}

/// Waits until the process has ended by itself, in order.
fn ends_well(world: &World, mut process: Process) {
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = process.0.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not end: {}", world.log());
        std::thread::sleep(Duration::from_millis(10)); // between two looks, not for an effect
    };
    assert!(status.success(), "{status}: {}", world.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_load_breaks_no_transaction_and_refuses_nobody() {
    let world = World::start().await;
    world.apply_shop();
    world.create("acme", "standard", "us-east-1");
    let front = Front { http: insula_testkit::unused_port(), pg: insula_testkit::unused_port() };
    let url = world.url("acme").replace(&world.pg_port.to_string(), &front.pg.to_string());
    let mut running = front.start(&world);
    let comes_up = Instant::now();
    while tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err() {
        assert!(comes_up.elapsed() < Duration::from_secs(20), "{}", world.log());
    }

    let met = Arc::new(Met::default());
    let crowd: Vec<_> = (0..6)
        .map(|number| {
            let (met, url) = (met.clone(), url.clone());
            tokio::spawn(async move { met.work(url, number).await })
        })
        .collect();
    let goes_on = |transactions: u64| {
        let before = met.count(&met.committed);
        until(&world, "the crowd goes on", || met.count(&met.committed) >= before + transactions);
    };
    for _ in 0..3 {
        goes_on(100);
        // One that has its transaction open all the while.
        let open = insula_testkit::connect(&url).await;
        open.batch_execute("begin").await.unwrap();
        let took_over = || whole_log(&world).matches("took over from the process before").count();
        let before = took_over();
        let next = front.start(&world);
        until(&world, "the new process takes over", || took_over() == before + 1);
        goes_on(50);
        open.batch_execute("insert into customers (email, name) values (gen_random_uuid()::text, 'open')")
            .await
            .unwrap();
        assert!(running.0.try_wait().unwrap().is_none(), "it waits for the transaction");
        // The new one tells of itself, and of whom the old one still serves.
        let (pid, ask) = (next.0.id(), format!("http://127.0.0.1:{}", front.http));
        let show = ["--url", &ask, "--token", world.token(), "pg", "show", "clients", "--limit", "1"];
        let one = format!("process {pid}; 1 client of a process before it is not shown");
        until(&world, "only the open one is left", || world.run(&show).err.contains(&one));
        let shown = world.run(&[&show[..], &["-o", "json"]].concat()).json();
        assert_eq!((&shown["process_id"], &shown["draining_clients"]), (&json!(pid), &json!(1)));
        open.batch_execute("commit").await.unwrap();
        ends_well(&world, std::mem::replace(&mut running, next));
        assert!(open.batch_execute("select 1").await.is_err(), "and then it is over");
        until(&world, "nobody is left", || !world.run(&show).err.contains("before it"));
    }
    goes_on(100);
    assert_eq!((met.broken(), met.count(&met.refused)), (vec![], 0), "{}", world.log());
    assert!(met.count(&met.sent_away) >= 6, "the canary: they have had to come again");

    // Without a process that takes over there is a time in which nobody is let in.
    Command::new("kill").args(["-TERM", &running.0.id().to_string()]).status().unwrap();
    until(&world, "somebody is refused", || met.count(&met.refused) > 0);
    met.over.store(true, Ordering::Relaxed);
    for client in crowd {
        client.await.unwrap();
    }
    ends_well(&world, running);
    assert_eq!(met.broken(), [""; 0], "{}", world.log());
    let rows = world.connect("acme").await.query_one("select count(*) from customers", &[]).await.unwrap();
    assert_eq!(u64::try_from(rows.get::<_, i64>(0)).unwrap(), met.count(&met.committed) + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_become_ready_takes_nothing_over() {
    let world = World::start().await;
    world.create("acme", "free", "us-east-1");
    let front = Front { http: insula_testkit::unused_port(), pg: insula_testkit::unused_port() };
    let url = world.url("acme").replace(&world.pg_port.to_string(), &front.pg.to_string());
    let running = front.start(&world);
    let comes_up = Instant::now();
    let session = loop {
        match tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                break client;
            }
            Err(error) => assert!(comes_up.elapsed() < Duration::from_secs(20), "{error}"),
        }
    };
    // The one has no catalog; the other finds only late that it has no certificate.
    let (nothing, no_file) = (world.catalog.url("nothing"), "/nothing/there.pem".to_owned());
    let no_catalog = [("INSULA_CATALOG__URL", &nothing)];
    let no_certificate =
        [("INSULA_HTTP__TLS__CERT_FILE", &no_file), ("INSULA_HTTP__TLS__KEY_FILE", &no_file)];
    let went_on = || whole_log(&world).matches("did not take over").count();
    for (number, lacks) in [&no_catalog[..], &no_certificate[..]].into_iter().enumerate() {
        let mut broken = front.start_with(&world, lacks);
        assert!(!broken.0.wait().unwrap().success());
        until(&world, "the old one goes on", || went_on() == number + 1);
    }
    session.batch_execute("select 1").await.unwrap();
    insula_testkit::connect(&url).await.batch_execute("select 1").await.unwrap();
    // One that starts servers itself is refused with the reason.
    let config = world.folder.join("insula.toml").display().to_string();
    let said = world.run(&["serve", "--config", &config, "--take-over"]);
    assert!(!said.ok && said.err.contains("cannot take over"), "{}", said.err);
    drop(session);
    // Neither is in the way of the next one.
    let next = front.start(&world);
    ends_well(&world, running);
    insula_testkit::connect(&url).await.batch_execute("select 1").await.unwrap();

    // One that is told to stop does not wait for who has asked and is not ready.
    let door = world.folder.join(format!("handover-{}.sock", front.http));
    let mut asking = std::os::unix::net::UnixStream::connect(door).unwrap();
    let mut said = [0];
    asking.read_exact(&mut said).unwrap();
    assert_eq!(said, *b"L");
    Command::new("kill").args(["-TERM", &next.0.id().to_string()]).status().unwrap();
    ends_well(&world, next);
    asking.read_exact(&mut said).unwrap();
    assert_eq!(said, *b"S", "it is told");
}
