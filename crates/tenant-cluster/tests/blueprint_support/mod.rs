//! What the tests of the blueprint share: a server of their own with a
//! blueprint, and a capture of what was done there.

#![allow(dead_code)] // each test file uses its part
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use insula_app_schema::capture::{Draft, Recording};
use insula_app_schema::{Migration, PlainMigration, check};
use insula_credentials::{ScramVerifier, Secret};
use insula_domain::{OsEntropy, SchemaName, SchemaVersion};
use insula_problem::Problem;
use insula_sql_store::Connector;
use insula_tenant_cluster::blueprint::{self, Blueprint, Contents, Recorded};
use insula_tenant_cluster::{ClusterAccess, schema};
use insula_testkit::{TestServer, connect, installation};
use tokio_postgres::Client;

const PASSWORD: &str = "blueprint-password";

/// A server with a blueprint.
pub struct World {
    pub server: TestServer,
    access: ClusterAccess,
    /// What was captured.
    pub captured: Vec<PlainMigration>,
}

impl World {
    pub async fn start() -> Self {
        let server = TestServer::start().await;
        let connector = Connector::new(&server.url("postgres"), None).unwrap();
        let access = ClusterAccess::new("test".parse().unwrap(), connector);
        let verifier = ScramVerifier::for_login(&Secret::new(PASSWORD.to_owned()), &OsEntropy).to_text();
        for _ in 0..2 {
            blueprint::create(&access, &verifier)
                .await
                .unwrap_or_else(|problem| panic!("{}", problem.chain()));
        }
        Self { server, access, captured: Vec::new() }
    }

    pub fn url(&self) -> String {
        let rest = self.server.url(blueprint::ROLE);
        let (_, host) = rest.split_once('@').unwrap();
        format!("postgres://{}:{PASSWORD}@{host}", blueprint::ROLE)
    }

    /// A session as a tool has it.
    pub async fn tool(&self) -> Client {
        connect(&self.url()).await
    }

    pub async fn admin(&self) -> Client {
        self.server.connect(blueprint::ROLE).await
    }

    /// Runs a script with psql, which sends its statements one by one.
    pub async fn psql(&self, script: &str) {
        let script: String = script.lines().map(|line| format!("{}\n", line.trim_start())).collect();
        let url = self.url();
        let said = tokio::task::spawn_blocking(move || {
            let psql = installation().program("psql");
            let psql = if psql.exists() { psql } else { "psql".into() };
            let mut child = Command::new(psql)
                .arg(url)
                .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        });
        let said = said.await.unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }

    pub async fn opened(&self) -> Blueprint<'_> {
        Blueprint::open(&self.access, PASSWORD).await.unwrap_or_else(|problem| panic!("{}", problem.chain()))
    }

    pub async fn try_recorded(&self) -> Result<Recorded, Problem> {
        Blueprint::open(&self.access, PASSWORD).await?.recorded().await
    }

    pub async fn recorded(&self) -> Recorded {
        self.try_recorded().await.unwrap_or_else(|problem| panic!("{}", problem.chain()))
    }

    pub async fn bring(&self, versions: &[PlainMigration]) -> Result<(), Problem> {
        self.opened().await.bring(versions).await
    }

    /// Captures what was done, as the next version where nothing is refused.
    pub async fn capture(&mut self, name: &str) -> Draft {
        let version = SchemaVersion(i32::try_from(self.captured.len()).unwrap() + 1);
        let mut opened = Blueprint::open(&self.access, PASSWORD).await.unwrap();
        let recorded = opened.recorded().await.unwrap_or_else(|problem| panic!("{}", problem.chain()));
        let draft = Recording {
            firings: &recorded.firings,
            sequences: &recorded.sequences,
            without_data: &BTreeSet::new(),
            role: blueprint::ROLE,
            file: "captured.sql",
            header: "Captured.",
        }
        .draft();
        if draft.refusals.is_empty() {
            let migration = Migration::new(version, name, &draft.sql);
            opened.mark(&recorded, &migration).await.unwrap_or_else(|problem| panic!("{}", problem.chain()));
            self.captured
                .push(check(&migration).unwrap_or_else(|refusals| panic!("{refusals}\n{}", draft.sql)));
        }
        draft
    }

    /// What the captured versions make, and what is in the blueprint.
    pub async fn made_and_found(&self) -> (Contents, Contents) {
        self.try_made_and_found().await.unwrap_or_else(|problem| panic!("{}", problem.chain()))
    }

    pub async fn try_made_and_found(&self) -> Result<(Contents, Contents), Problem> {
        let opened = self.opened().await;
        Ok((opened.try_versions(&self.captured).await?, opened.contents().await?))
    }

    pub async fn assert_makes_the_blueprint(&self) {
        let (made, found) = self.made_and_found().await;
        assert_eq!(made.fingerprint.differences(&found.fingerprint), []);
        assert_eq!(made.rows, found.rows);
        assert!(!found.fingerprint.objects.is_empty(), "canary: there is something to compare");
        let names: Vec<_> = found.fingerprint.objects.keys().filter(|name| name.contains("insula")).collect();
        assert!(names.is_empty(), "{names:?}");
    }

    /// A silo with the captured versions has the blueprint's catalogs and rows.
    pub async fn assert_silo_equals_the_blueprint(&self) {
        self.assert_silo_equals_the_blueprint_but_for(&[]).await;
    }

    /// The same, but for the values of columns that each tenant draws for itself.
    pub async fn assert_silo_equals_the_blueprint_but_for(&self, drawn: &[&str]) {
        self.server.connect("postgres").await.batch_execute("create database silo").await.unwrap();
        let mut silo = self.server.connect("silo").await;
        for migration in &self.captured {
            schema::apply_plain(&mut silo, &SchemaName::of_silo(), migration).await.unwrap();
        }
        let tool = self.tool().await;
        let (expected, found) = (
            schema::fingerprint(&tool, &SchemaName::of_silo()).await.unwrap(),
            schema::fingerprint(&silo, &SchemaName::of_silo()).await.unwrap(),
        );
        assert_eq!(expected.differences(&found), []);
        let tables = expected.objects.iter().filter(|(_, text)| text.starts_with("ordinary"));
        for table in tables.map(|(name, _)| name.trim_start_matches("table ")) {
            let row = format!("to_jsonb(t) - array[{}]::text[]", quoted(drawn));
            let rows = format!(
                "select coalesce(string_agg(({row})::text, E'\\n' order by {row}), '') from {table} t"
            );
            assert_eq!(text(&tool, &rows).await, text(&silo, &rows).await, "{table}");
        }
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap().get(0)
}
