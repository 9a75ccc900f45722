//! What the tests of the binary share: an `insula serve` on real PostgreSQL
//! servers of its own, that can be killed and started again, and the command
//! line to drive it.

#![allow(dead_code)] // each test binary uses its own part

pub mod config;
pub mod programs;
pub mod worker;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use insula_testkit::{TestServer, passable_folder, unused_port};
use serde_json::Value;

/// The binary under test.
pub const INSULA: &str = env!("CARGO_BIN_EXE_insula");

/// The four models with a tenant each, in two regions: slug, tier, region.
pub const TENANTS: [(&str, &str, &str); 4] = [
    ("acme", "free", "us-east-1"),
    ("globex", "standard", "us-east-1"),
    ("initech", "business", "us-east-1"),
    ("umbrella", "enterprise", "eu-west-1"),
];

/// The longest that anything may take before the test says so.
const PATIENCE: Duration = Duration::from_secs(120);

/// Insula with a catalog server and one server of each of two regions.
pub struct World {
    pub catalog: TestServer,
    pub us: TestServer,
    pub eu: TestServer,
    pub folder: PathBuf,
    /// Removes the folder at the end.
    _folder: tempfile::TempDir,
    pub http_port: u16,
    pub pg_port: u16,
    pub grpc_port: u16,
    token: String,
    process: Option<Child>,
}

/// What a command printed.
#[derive(Debug)]
pub struct Said {
    pub ok: bool,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: Output) -> Self {
        Self {
            ok: output.status.success(),
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The output as JSON, of a command that must have succeeded.
    pub fn json(&self) -> Value {
        assert!(self.ok, "{}\n{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    /// The code with which the command failed.
    pub fn failed_with(&self, code: &str) {
        assert_eq!(self.code, Some(1), "{}\n{}", self.out, self.err);
        // Warnings may come before it.
        let told = self.err.lines().any(|line| line.starts_with(&format!("insula: {code}: ")));
        assert!(told, "wanted {code}: {}", self.err);
    }
}

impl World {
    /// Starts the servers and Insula, registers a cluster in each region.
    pub async fn start() -> Self {
        let (catalog, us, eu) = tokio::join!(TestServer::start(), TestServer::start(), TestServer::start());
        for (server, database) in
            [(&catalog, "insula_catalog"), (&us, "insula_region"), (&eu, "insula_region")]
        {
            let client = server.connect("postgres").await;
            client.batch_execute(&format!("create database {database}")).await.unwrap();
        }
        let temporary = passable_folder();
        let folder = temporary.path().to_owned();
        let mut world = Self {
            catalog,
            us,
            eu,
            folder,
            _folder: temporary,
            http_port: unused_port(),
            pg_port: unused_port(),
            grpc_port: unused_port(),
            token: String::new(),
            process: None,
        };
        let key = world.run_plain(&["master-key", "new"]);
        std::fs::write(world.folder.join("master.key"), key.out).unwrap();
        std::fs::write(world.folder.join("insula.toml"), world.settings()).unwrap();
        let config = world.config();
        let token = world.run_plain(&["operator", "token", "ada@example.com", "--config", &config]);
        assert!(token.ok, "{}", token.err);
        world.token = token.out.trim().to_owned();
        world.serve(&[]);
        world.wait_ready();
        for (name, region, url) in [
            ("us-east-1-a", "us-east-1", world.us.url("postgres")),
            ("eu-west-1-a", "eu-west-1", world.eu.url("postgres")),
        ] {
            let added = world.run(&["cluster", "add", name, &url, "--region", region]);
            assert!(added.ok, "{}", added.err);
        }
        world
    }

    fn config(&self) -> String {
        self.folder.join("insula.toml").display().to_string()
    }

    fn settings(&self) -> String {
        let clusters = self.folder.join("clusters");
        // Far from the ports that the system hands out.
        let first = 10_000 + (std::process::id() % 1_000) * 20;
        format!(
            r#"
[server]
data_dir = "{data}"
shutdown_grace = "5s"
[http]
listen = ["127.0.0.1:{http}"]
public_url = "http://127.0.0.1:{http}"
[pg]
listen = ["127.0.0.1:{pg}"]
public_address = "127.0.0.1:{pg}"
[config]
listen = ["127.0.0.1:{grpc}"]
[catalog]
url = "{catalog}"
[[regions]]
name = "us-east-1"
groups = ["us", "global"]
store_url = "{us}"
[[regions]]
name = "eu-west-1"
groups = ["eu", "global"]
store_url = "{eu}"
[keys]
master_key_file = "{key}"
[tenants]
delete_retention = "0s"
[workflow]
lease = "1s"
poll = "200ms"
[provisioner]
kind = "local"
data_dir = "{clusters}"
first_port = {first}
last_port = {last}
"#,
            data = self.folder.display(),
            http = self.http_port,
            pg = self.pg_port,
            grpc = self.grpc_port,
            catalog = self.catalog.url("insula_catalog"),
            us = self.us.url("insula_region"),
            eu = self.eu.url("insula_region"),
            key = self.folder.join("master.key").display(),
            clusters = clusters.display(),
            last = first + 19,
        )
    }

    /// Starts `insula serve` with further variables of the environment.
    pub fn serve(&mut self, environment: &[(&str, &str)]) {
        self.process = Some(self.command("insula.log", None, environment).spawn().unwrap());
    }

    /// Starts it with these roles and no others.
    pub fn serve_as(&mut self, roles: &str) {
        self.process = Some(self.command("insula.log", Some(roles), &[]).spawn().unwrap());
    }

    /// `insula serve`, with all roles or some, which logs to a file of this name.
    fn command(&self, log: &str, roles: Option<&str>, environment: &[(&str, &str)]) -> Command {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join(log)).unwrap();
        let mut command = Command::new(INSULA);
        command
            .args(["serve", "--config", &self.config()])
            .args(roles.into_iter().flat_map(|roles| ["--roles", roles]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .env_remove("INSULA_CRASH_AT")
            .envs(environment.iter().copied());
        command
    }

    /// Waits until it answers that it is ready.
    pub fn wait_ready(&mut self) {
        let begun = Instant::now();
        loop {
            if self.ready() {
                return;
            }
            if let Some(status) = self.process.as_mut().unwrap().try_wait().unwrap() {
                panic!("insula serve ended with {status}: {}", self.log());
            }
            assert!(begun.elapsed() < PATIENCE, "not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(20)); // between two looks, not for an effect
        }
    }

    fn ready(&self) -> bool {
        let said = self.http("GET", "/readyz", None, None);
        said.is_some_and(|(status, _)| status == 200)
    }

    /// Kills it as `kill -9` does.
    pub fn kill_9(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            process.wait().unwrap();
        }
    }

    /// Sends it a signal, such as `HUP`.
    pub fn signal(&self, name: &str) {
        let process = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &process]).status().unwrap().success());
    }

    /// The most memory that the process has had, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let process = self.process.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits until the process has ended by itself; whether it did in time.
    pub fn ended(&mut self, longest: Duration) -> bool {
        let begun = Instant::now();
        let process = self.process.as_mut().unwrap();
        while process.try_wait().unwrap().is_none() {
            if begun.elapsed() > longest {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10)); // between two looks, not for an effect
        }
        self.process = None;
        true
    }

    /// Runs a command line against it.
    pub fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.to_run(arguments).output().unwrap())
    }

    /// A command line against it, to be run.
    pub fn to_run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(INSULA);
        command
            .args(arguments)
            .env("INSULA_URL", format!("http://127.0.0.1:{}", self.http_port))
            .env("INSULA_TOKEN", &self.token)
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }

    fn run_plain(&self, arguments: &[&str]) -> Said {
        let output = Command::new(INSULA).args(arguments).stdin(Stdio::null()).output().unwrap();
        Said::of(output)
    }

    /// Creates a tenant and waits for it.
    pub fn create(&self, slug: &str, tier: &str, region: &str) -> Value {
        let said = self.run(&["tenant", "create", slug, "--tier", tier, "--region", region, "-o", "json"]);
        assert!(said.ok, "{}\n{}", said.err, self.log());
        said.json()
    }

    /// A tenant, as it is shown.
    pub fn tenant(&self, slug: &str) -> Value {
        self.run(&["tenant", "show", slug, "-o", "json"]).json()
    }

    /// The URL of a tenant's default login.
    pub fn url(&self, slug: &str) -> String {
        let said = self.run(&["tenant", "url", slug]);
        assert!(said.ok, "{}", said.err);
        said.out.trim().to_owned()
    }

    /// A connection through the front as the tenant.
    pub async fn connect(&self, slug: &str) -> tokio_postgres::Client {
        insula_testkit::connect(&self.url(slug)).await
    }

    /// Applies the shop's schema.
    pub fn apply_shop(&self) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop/schema");
        let said = self.run(&["schema", "apply", &folder.display().to_string()]);
        assert!(said.ok, "{}\n{}", said.err, self.log());
    }

    /// Waits until no operation is at work any more, as one may be that was
    /// taken over, and asks the doctor until he finds nothing.
    pub fn doctor_is_content(&self) {
        let begun = Instant::now();
        loop {
            let open = self.unfinished();
            // He asks every server for all that is there: not before he can be content.
            let said = open.is_empty().then(|| self.run(&["doctor", "-o", "json"]));
            if said.as_ref().is_some_and(|said| said.ok) {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "the doctor is not content: {said:?}\nunfinished: {open:?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100)); // between two looks, not for an effect
        }
    }

    fn unfinished(&self) -> Vec<Value> {
        let (_, body) = self.http("GET", "/v1/operations?limit=1000", Some(&self.token), None).unwrap();
        let operations: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(operations["next_cursor"], Value::Null, "there are more");
        let ended =
            |operation: &&Value| !matches!(operation["status"].as_str(), Some("succeeded" | "undone"));
        operations["items"].as_array().unwrap().iter().filter(ended).cloned().collect()
    }

    /// One HTTP request, by hand so that anything can be sent; none where
    /// nothing answers.
    pub fn http(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&str>,
    ) -> Option<(u16, String)> {
        let authorization =
            token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let answer = self.http_with(method, path, &authorization, body)?;
        let status = answer.get(9..12)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Some((status, body))
    }

    /// The same with lines of the head by hand; the answer with its head.
    pub fn http_with(&self, method: &str, path: &str, head: &str, body: Option<&str>) -> Option<String> {
        use std::io::Read;
        let mut stream = ask(self.http_port, (method, path), head, body)?;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        if read.is_err() && answer.is_empty() {
            return None;
        }
        String::from_utf8(answer).ok()
    }

    /// The operator's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// What the process has logged, the end of it.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("insula.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// Sends a request, with lines of the head by hand; the answer is to be read.
pub fn ask(
    port: u16,
    (method, path): (&str, &str),
    head: &str,
    body: Option<&str>,
) -> Option<std::net::TcpStream> {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let body = body.unwrap_or("");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // A server that refuses a body hangs up on the rest of it; it has answered by then.
    let _ = stream.write_all(request.as_bytes());
    Some(stream)
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_9();
    }
}
