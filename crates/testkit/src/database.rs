//! A fresh database for each test, on the server of the test run.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use insula_domain::{Entropy, OsEntropy};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::postgres::{TestPostgres, connect, postgres};

const LABEL_BYTES: usize = 24;

/// How long the end of a test tries to reach the server.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long it then waits for its database to go. A session that this process was
/// just logging in holds up every `drop database` of the server, since nobody
/// answers it any more while we wait; it ends with the process, and the server,
/// which has the statement, goes on by itself.
const DROP_LIMIT: Duration = Duration::from_millis(500);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// An empty database that is the test's alone. Its roles are not: see the
/// crate's documentation.
#[derive(Debug)]
pub struct TestDatabase {
    server: &'static TestPostgres,
    name: String,
    is_there: bool,
}

impl TestDatabase {
    /// A new, empty database; the label shows in its name.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub async fn create(label: &str) -> Self {
        let server = postgres().await;
        let name = unique_name(label);
        // From `template0`, which nobody can be connected to: a session in
        // the template would make this fail. Copying files costs checkpoints,
        // which are cheap without durability: 18 to 50 ms instead of 85.
        let statement = format!("create database {name} template template0 strategy file_copy");
        server.connect("postgres").await.batch_execute(&statement).await.expect("a database can be made");
        Self { server, name, is_there: true }
    }

    /// The database's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The superuser's URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// Another user's URL; as [`TestPostgres::url_as`].
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.server.url_as(user, password, &self.name)
    }

    /// A superuser's session.
    ///
    /// # Panics
    /// Where it cannot connect.
    pub async fn connect(&self) -> Client {
        connect(&self.url()).await
    }

    /// Drops the database now, and ends the sessions in it.
    ///
    /// # Panics
    /// Where it cannot be dropped.
    pub async fn drop(mut self) {
        self.is_there = false;
        let client = self.server.connect("postgres").await;
        client.batch_execute(&removal(&self.name)).await.expect("the database can be dropped");
    }
}

impl Drop for TestDatabase {
    /// Drops the database, where the server outlives this process. On a thread
    /// with a runtime of its own, since the test's may be the current one.
    fn drop(&mut self) {
        if !self.is_there || self.server.ends_with_us() {
            return;
        }
        let (url, name) = (self.server.url("postgres"), self.name.clone());
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let client = timeout(CONNECT_LIMIT, connect(&url)).await.ok()?;
                timeout(DROP_LIMIT, client.batch_execute(&removal(&name))).await.ok()?.ok()
            })
        });
        // Best effort: a database that stays costs space until the server goes.
        let _ = dropped.join();
    }
}

/// The statement that ends the sessions in a database and drops it.
fn removal(name: &str) -> String {
    format!("drop database if exists {name} with (force)")
}

/// A name that no other database of this server has: with the pid and a number
/// of this process, and random digits, since pids come again.
fn unique_name(label: &str) -> String {
    static PROCESS: OnceLock<String> = OnceLock::new();
    let process = PROCESS.get_or_init(|| {
        let mut random = [0; 4];
        OsEntropy.fill(&mut random);
        format!("{}_{:08x}", std::process::id(), u32::from_le_bytes(random))
    });
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let label: String = label.chars().map(plain).take(LABEL_BYTES).collect();
    format!("test_{label}_{process}_{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_short_and_never_the_same() {
        let names = [0, 1].map(|_| unique_name("Grüße; drop table x -- and more than fits"));
        assert_ne!(names[0], names[1]);
        for name in names {
            assert!(name.starts_with("test_gr__e__drop_table_x"), "{name}");
            assert!(name.len() <= 63, "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
        }
    }
}
