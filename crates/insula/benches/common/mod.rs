//! What the benchmarks share: a whole Insula on this machine, and its API.

#![allow(dead_code)] // each benchmark uses its part

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::{Client, NoTls};

/// A running `insula up`.
pub struct Up {
    process: Child,
    /// What the ready file says.
    pub ready: Value,
    /// How long it took to be ready.
    pub took: Duration,
}

impl Up {
    pub fn start(folder: &Path, port_base: u16, demo: &str) -> Self {
        let begun = Instant::now();
        let file = folder.join("ready.json");
        // One may be left of a life that ended by force.
        let _ = std::fs::remove_file(&file);
        let process = Command::new(env!("CARGO_BIN_EXE_insula"))
            .args(["up", "--data-dir", &folder.display().to_string()])
            .args(["--port-base", &port_base.to_string(), "--demo", demo])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !file.exists() {
            assert!(begun.elapsed() < Duration::from_secs(120), "insula up does not get ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        let ready = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        Self { process, ready, took: begun.elapsed() }
    }

    /// The process, which the front is in.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it by force. Its servers see that it is gone, and end too.
    pub fn kill_9(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn stop(&mut self) -> Duration {
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

/// The admin API, as an operator.
pub struct Api {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Api {
    pub fn of(up: &Up) -> Self {
        Self {
            http: reqwest::Client::new(),
            base: up.ready["http"].as_str().unwrap().to_owned(),
            token: up.ready["operator"]["token"].as_str().unwrap().to_owned(),
        }
    }

    pub async fn call(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
        response.json().await.unwrap()
    }

    /// What is at a path, as it is.
    pub async fn text(&self, path: &str) -> String {
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token);
        request.send().await.unwrap().text().await.unwrap()
    }

    pub async fn finish(&self, operation: Value) -> Value {
        let id = operation["id"].as_str().unwrap().to_owned();
        let mut operation = operation;
        while !matches!(operation["status"].as_str(), Some("succeeded" | "undone" | "stuck")) {
            operation = self.call(reqwest::Method::GET, &format!("/v1/operations/{id}?wait=30"), None).await;
        }
        assert_eq!(operation["status"], "succeeded", "{operation}");
        operation
    }
}

/// A number from the environment.
pub fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number in the environment"))
}

/// The time that a part of the times, which are in order, stays below.
pub fn milliseconds(times: &[Duration], part: f64) -> f64 {
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * part) as usize).map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0)
}

/// A connection as an application has one.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
