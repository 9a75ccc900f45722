//! The front alone reaches tenants' roles: `insula up` with its servers closed,
//! clusters that are registered by their sockets, servers of tenants' own, and
//! what the doctor says of a server that is open.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{INSULA, World};
use insula_testkit::{TcpAccess, TestServer, connect, passable_folder, unused_port};
use serde_json::Value;
use tokio_postgres::NoTls;

const PATIENCE: Duration = Duration::from_secs(60);

/// A URL by the socket in a folder.
fn by_socket(server: &TestServer) -> String {
    let folder = server.socket_folder().display().to_string().replace('/', "%2F");
    server.url("postgres").replace("127.0.0.1", &folder)
}

/// Lets a tenant's role have a password of its own, as the tenant could, and
/// tries it on the server's port.
async fn refused_by_tcp(superuser_url: &str, database: &str) -> String {
    let admin = connect(superuser_url).await;
    let role = "select rolname::text from pg_roles where rolname ~ '^tenant_[0-9a-f]{32}$' order by oid desc";
    let role: String = admin.query(role, &[]).await.unwrap()[0].get(0);
    let verifier = "select rolpassword from pg_authid where rolname = $1";
    let before: String = admin.query_one(verifier, &[&role]).await.unwrap().get(0);
    admin.batch_execute(&format!("alter role {role} password 'mine'")).await.unwrap();
    let (_, rest) = superuser_url.split_once('@').unwrap();
    let (host, _) = rest.split_once('/').unwrap();
    let tried = tokio_postgres::connect(&format!("postgres://{role}:mine@{host}/{database}"), NoTls).await;
    admin.batch_execute(&format!("alter role {role} password '{before}'")).await.unwrap();
    match tried {
        Ok(_) => "came in".to_owned(),
        Err(error) => error.as_db_error().unwrap().message().to_owned(),
    }
}

async fn answers(url: &str) {
    connect(url).await.query_one("select current_user::text", &[]).await.unwrap();
}

/// An `insula up` of a test's own.
struct Up {
    process: Child,
    base: u16,
    ready: Value,
}

impl Up {
    fn start(folder: &Path, base: u16) -> Self {
        let file = folder.with_extension("ready.json");
        let _ = std::fs::remove_file(&file);
        let log = std::fs::File::create(folder.with_extension("log")).unwrap();
        let mut process = Command::new(INSULA)
            .args(["up", "--demo", "none", "--data-dir", folder.to_str().unwrap()])
            .args(["--port-base", &base.to_string(), "--ready-file", file.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        loop {
            let read = std::fs::read(&file).ok();
            if let Some(ready) = read.and_then(|text| serde_json::from_slice(&text).ok()) {
                return Self { process, base, ready };
            }
            let log = || std::fs::read_to_string(folder.with_extension("log")).unwrap();
            assert!(process.try_wait().unwrap().is_none(), "insula up ended: {}", log());
            assert!(begun.elapsed() < PATIENCE, "insula up is not ready: {}", log());
            std::thread::sleep(Duration::from_millis(50)); // between two looks, not for an effect
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(INSULA)
            .args(arguments)
            .env("INSULA_URL", format!("http://127.0.0.1:{}", self.base))
            .env("INSULA_TOKEN", self.ready["operator"]["token"].as_str().unwrap())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}{err}");
        out.trim().to_owned()
    }

    fn cluster(&self, name: &str) -> Value {
        serde_json::from_str(&self.said(&["cluster", "show", name, "-o", "json"])).unwrap()
    }

    fn superuser_url(&self, at: usize) -> String {
        self.ready["clusters"][at]["superuser_url"].as_str().unwrap().to_owned()
    }

    fn stop(mut self) {
        Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status().unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ports far from those that the system hands out.
fn bases() -> (u16, u16) {
    let first = 31_000 - u16::try_from(std::process::id() % 10).unwrap() * 300;
    (first, first + 150)
}

#[tokio::test(flavor = "multi_thread")]
async fn insula_up_admits_tenants_from_the_front_alone_also_after_its_folder_has_moved() {
    let root = passable_folder();
    let (here, there): (PathBuf, PathBuf) = (root.path().join("here"), root.path().join("there"));
    let (base, other_base) = bases();
    let up = Up::start(&here, base);
    for (slug, tier) in [("acme", "standard"), ("umbrella", "enterprise")] {
        up.said(&["tenant", "create", slug, "--tier", tier, "--region", "us-east-1"]);
        answers(&up.said(&["tenant", "url", slug])).await;
    }
    let cluster = up.cluster("us-east-1-a");
    assert_eq!(cluster["host"], here.canonicalize().unwrap().join("postgres/us-east-1-a").to_str().unwrap());
    let listed = up.said(&["cluster", "list"]);
    assert!(listed.contains(&format!("us-east-1-a/.s.PGSQL.{}", base + 41)), "{listed}");
    let refused = refused_by_tcp(&up.superuser_url(0), "insula_schemas").await;
    assert!(refused.contains("pg_hba.conf rejects"), "{refused}");
    answers(&up.said(&["tenant", "url", "acme"])).await;
    // Migration tools come in over TCP, to the blueprint alone.
    let blueprint = up.said(&["schema", "blueprint-url"]);
    assert!(blueprint.contains("@127.0.0.1:"), "{blueprint}");
    answers(&blueprint).await;
    let (server, _) = blueprint.rsplit_once('/').unwrap();
    let other = tokio_postgres::connect(&format!("{server}/insula_schemas"), NoTls).await;
    let refused = other.err().unwrap().as_db_error().unwrap().message().to_owned();
    assert!(refused.contains("pg_hba.conf rejects"), "{refused}");
    up.said(&["doctor"]);

    // A folder of before: reached over TCP, roles that are in no group.
    let admin = connect(&up.superuser_url(0)).await;
    admin.batch_execute("drop role insula_tenants").await.unwrap();
    let found = up.run(&["doctor"]);
    assert!(String::from_utf8_lossy(&found.stdout).contains("insula_tenants"), "canary: the doctor sees it");
    drop(admin);
    up.stop();
    std::fs::rename(&here, &there).unwrap();
    let up = Up::start(&there, other_base);
    let cluster = up.cluster("us-east-1-a");
    assert_eq!(cluster["host"], there.canonicalize().unwrap().join("postgres/us-east-1-a").to_str().unwrap());
    assert_eq!(cluster["port"], other_base + 41);
    for slug in ["acme", "umbrella"] {
        answers(&up.said(&["tenant", "url", slug])).await;
    }
    up.said(&["doctor"]);
    up.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_can_be_registered_by_its_socket() {
    let world = World::start().await;
    let server = TestServer::start_with(|spec| spec.tcp = TcpAccess::Superuser).await;
    let url = by_socket(&server);
    let add = |name: &str, url: &str| world.run(&["cluster", "add", name, url, "--region", "us-east-1"]);

    let wrong = add("gone", &url.replace(&server.port().to_string(), &unused_port().to_string()));
    wrong.failed_with("cluster_unreachable");
    assert!(wrong.err.contains("no socket at /") && wrong.err.contains(".s.PGSQL."), "{}", wrong.err);
    let long = url.replace("%2Fpg:", &format!("%2F{}:", "x".repeat(200)));
    let wrong = add("long", &long);
    wrong.failed_with("invalid_request");
    assert!(wrong.err.contains("cannot be the path of a socket"), "{}", wrong.err);
    let wrong = add("stranger", &url.replace("insula:", "insula:not"));
    wrong.failed_with("cluster_unreachable");
    assert!(wrong.err.contains("refuses the user"), "{}", wrong.err);

    // It has no tenants yet, and so takes the next one.
    assert!(add("us-socket", &url).ok);
    world.create("first", "standard", "us-east-1");
    world.create("second", "standard", "us-east-1");
    let placed: i64 = server
        .connect("postgres")
        .await
        .query_one("select count(*) from pg_roles where rolname ~ '^tenant_[0-9a-f]{32}$'", &[])
        .await
        .unwrap()
        .get(0);
    assert!(placed > 0, "canary: the server has tenants");
    for slug in ["first", "second"] {
        answers(&world.url(slug)).await;
    }
    let refused = refused_by_tcp(&server.url("postgres"), "insula_schemas").await;
    assert!(refused.contains("pg_hba.conf rejects"), "{refused}");
    world.doctor_is_content();
    for slug in ["first", "second"] {
        assert!(world.run(&["tenant", "delete", slug]).ok);
    }
    let members = "select count(*) from pg_auth_members m join pg_roles g on g.oid = m.roleid
                   where g.rolname = 'insula_tenants'";
    let left: i64 = server.connect("postgres").await.query_one(members, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_notes_a_server_that_admits_tenants_from_anywhere() {
    let world = World::start().await;
    let notes = || {
        let said = world.run(&["doctor", "-o", "json"]);
        said.json()["notes"].as_array().unwrap().clone()
    };
    assert_eq!(notes(), Vec::<Value>::new(), "canary: ours are open to this machine alone");
    let admin = world.eu.connect("postgres").await;
    let file: String = admin.query_one("show hba_file", &[]).await.unwrap().get(0);
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("host all all 0.0.0.0/0 scram-sha-256\n{before}")).unwrap();
    let found = notes();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["place"], "eu-west-1-a");
    assert!(found[0]["detail"].as_str().unwrap().contains("Line 1 admits"), "{found:?}");
    let said = world.run(&["doctor"]);
    assert!(said.ok && said.out.starts_with("well: "), "{}", said.out);
    assert!(said.err.contains("note: eu-west-1-a, pg_hba.conf"), "{}", said.err);
    std::fs::write(&file, format!("host all +insula_tenants all reject\n{before}")).unwrap();
    assert_eq!(notes(), Vec::<Value>::new());
}
