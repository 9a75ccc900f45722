//! How long from "create this tenant" to its first row, for the four isolation
//! models with the shop's schema, and how long `insula up` takes on an empty
//! folder. Durable servers, the release binary, the API and the front as a
//! client has them. `make bench` prints a table for docs/BENCHMARKS.md.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a program for its reader

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const RUNS: usize = 20;

struct Up {
    process: Child,
    ready: Value,
    took: Duration,
}

impl Up {
    fn start(folder: &Path, port_base: u16) -> Self {
        let begun = Instant::now();
        let process = Command::new(env!("CARGO_BIN_EXE_insula"))
            .args(["up", "--data-dir", &folder.display().to_string(), "--port-base", &port_base.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let file = folder.join("ready.json");
        while !file.exists() {
            assert!(begun.elapsed() < Duration::from_secs(120), "insula up does not get ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        let ready = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        Self { process, ready, took: begun.elapsed() }
    }

    fn stop(&mut self) -> Duration {
        let begun = Instant::now();
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        self.process.wait().unwrap();
        begun.elapsed()
    }
}

impl Drop for Up {
    /// A benchmark that breaks off leaves nothing running.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Api {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Api {
    async fn call(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
        response.json().await.unwrap()
    }

    async fn finish(&self, operation: Value) -> Value {
        let id = operation["id"].as_str().unwrap().to_owned();
        let mut operation = operation;
        while !matches!(operation["status"].as_str(), Some("succeeded" | "undone" | "stuck")) {
            operation = self.call(reqwest::Method::GET, &format!("/v1/operations/{id}?wait=30"), None).await;
        }
        assert_eq!(operation["status"], "succeeded", "{operation}");
        operation
    }

    /// Creates a tenant and writes its first row; how long that took, and how
    /// long until it was there.
    async fn create_to_first_row(&self, slug: &str, tier: &str) -> (Duration, Duration) {
        let begun = Instant::now();
        let body = json!({"slug": slug, "tier": tier, "region": "us-east-1"});
        let operation = self.call(reqwest::Method::POST, "/v1/tenants", Some(body)).await;
        self.finish(operation).await;
        let created = begun.elapsed();
        let url = self.call(reqwest::Method::POST, &format!("/v1/tenants/{slug}/url"), None).await;
        let (client, connection) =
            tokio_postgres::connect(url["url"].as_str().unwrap(), tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let rows = client
            .simple_query(
                "insert into customers (email, name) values ('ada@example.com', 'Ada') returning id",
            )
            .await
            .unwrap();
        assert!(!rows.is_empty());
        let first_row = begun.elapsed();
        drop(client);
        connection.await.unwrap().unwrap();
        (first_row, created)
    }

    async fn delete(&self, slug: &str) {
        let operation = self.call(reqwest::Method::DELETE, &format!("/v1/tenants/{slug}"), None).await;
        self.finish(operation).await;
    }
}

fn milliseconds(mut times: Vec<Duration>) -> [f64; 3] {
    times.sort_unstable();
    [times[0], times[times.len() / 2], times[times.len() - 1]].map(|time| time.as_secs_f64() * 1_000.0)
}

#[tokio::main]
async fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let temporary = insula_testkit::passable_folder();
    let folder = temporary.path().join("insula");
    let mut up = Up::start(&folder, 27_400);
    println!("insula up, empty folder, shop demo: ready in {:.2} s", up.took.as_secs_f64());
    let api = Api {
        http: reqwest::Client::new(),
        base: up.ready["http"].as_str().unwrap().to_owned(),
        token: up.ready["operator"]["token"].as_str().unwrap().to_owned(),
    };
    println!(
        "\n| model | to first row, median ms | min | max | of which create, median ms |\n| --- | --- | --- | --- | --- |"
    );
    for (tier, model) in
        [("free", "pool"), ("standard", "schema"), ("business", "database"), ("enterprise", "cluster")]
    {
        let (mut rows, mut creates) = (Vec::new(), Vec::new());
        for run in 0..RUNS {
            let slug = format!("{model}-{run}");
            let (row, create) = api.create_to_first_row(&slug, tier).await;
            rows.push(row);
            creates.push(create);
            api.delete(&slug).await;
        }
        let [least, median, most] = milliseconds(rows);
        let create = milliseconds(creates)[1];
        println!("| {model} | {median:.0} | {least:.0} | {most:.0} | {create:.0} |");
    }
    println!("\nstopped in {:.2} s", up.stop().as_secs_f64());
    let mut again = Up::start(&folder, 27_400);
    println!("insula up, folder of before: ready in {:.2} s", again.took.as_secs_f64());
    again.stop();
}
