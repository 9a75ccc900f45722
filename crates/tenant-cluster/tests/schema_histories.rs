//! Random histories of definitions: what they make in a plain database, applied
//! by hand, is what Insula makes of them in a silo, and in a pool but for the
//! tenant's column; and the audits find nothing. `INSULA_DDL_HISTORIES` asks for
//! more of them, `INSULA_DDL_SEED` for others.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod schema_support;
#[allow(clippy::wildcard_imports)]
use schema_support::*;

use std::collections::BTreeMap;

use insula_app_schema::{Migration, PoolForm, PoolMigration, check};
use insula_domain::{SchemaName, SchemaVersion};
use insula_tenant_cluster::schema::{self, SchemaFingerprint};
use insula_testkit::{Author, Definitions, TestDatabase};
use tokio_postgres::Client;

/// A definition of the pool form as it would be in the plain form.
fn without_tenant(object: &str, definition: &str) -> Option<(String, String)> {
    let is_ours = object.starts_with("policy ")
        || object.ends_with(".tenant_id")
        || (object.starts_with("index ") && definition.contains(" (tenant_id)"));
    if is_ours {
        return None;
    }
    let mut text = definition
        .replace("(tenant_id, ", "(")
        .replace(" row security t t ", " row security f f ")
        .replace(" {security_invoker=true}", "")
        .replace("\n SET search_path TO 'app', 'public', 'pg_temp'", "");
    if object.starts_with("column ") {
        // Its position is another where the column was added later.
        text = text.split_once(' ').map_or(String::new(), |(_, rest)| rest.to_owned());
    }
    for action in [" SET NULL (", " SET DEFAULT ("] {
        if let Some((before, rest)) = text.clone().split_once(action) {
            let behind = rest.split_once(')').map_or("", |(_, behind)| behind);
            text = format!("{before}{}{behind}", action.trim_end_matches(" ("));
        }
    }
    Some((object.to_owned(), text))
}

fn comparable(print: SchemaFingerprint) -> BTreeMap<String, String> {
    print.objects.iter().filter_map(|(object, definition)| without_tenant(object, definition)).collect()
}

fn differences(plain: SchemaFingerprint, pool: SchemaFingerprint) -> Vec<String> {
    let (expected, found) = (comparable(plain), comparable(pool));
    let changed = expected.iter().filter(|(object, text)| found.get(*object) != Some(text));
    let changed = changed.map(|(object, text)| format!("{object}: {text} <> {:?}", found.get(object)));
    let more = found.keys().filter(|object| !expected.contains_key(*object));
    changed.chain(more.map(|object| format!("{object} is in the pool alone"))).collect()
}

/// A history, applied in three ways.
struct History {
    seed: u64,
    author: Author,
    plain: TestDatabase,
    client: Client,
    schemas: TestDatabase,
    silo: SchemaName,
    pool: Pool,
    form: PoolForm,
    versions: Vec<String>,
    migrations: Vec<PoolMigration>,
}

impl History {
    async fn new(seed: u64) -> Self {
        let plain = TestDatabase::create("history_plain").await;
        let client = plain.connect().await;
        let schemas = TestDatabase::create("history_silo").await;
        let silo = SchemaName::of_tenant(new_tenant());
        schemas.connect().await.batch_execute(&format!("create schema {silo}")).await.unwrap();
        let pool = Pool::empty("history_pool", &[]).await;
        let author = Author::new(seed);
        let (form, versions, migrations) = (PoolForm::new(), Vec::new(), Vec::new());
        Self { seed, author, plain, client, schemas, silo, pool, form, versions, migrations }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}: {what}\n{}", self.seed, self.versions.join(";\n-- next version\n"))
    }

    /// One version more; none where PostgreSQL or the pool form refuses it.
    async fn step(&mut self) {
        let there = Definitions::read(&self.client).await;
        let sql = self.author.version(&there);
        let number = i32::try_from(self.versions.len()).unwrap() + 1;
        if sql.trim().is_empty() {
            return;
        }
        let Ok(plain) = check(&Migration::new(SchemaVersion(number), "random", &sql)) else { return };
        let mut form = self.form.clone();
        let Ok(pool) = form.rewrite(&plain) else { return };
        if self.client.batch_execute(&format!("BEGIN;\n{sql};\nCOMMIT")).await.is_err() {
            self.client.batch_execute("ROLLBACK").await.unwrap();
            return;
        }
        self.versions.push(sql);
        let mut admin = self.schemas.connect().await;
        if let Err(problem) = schema::apply_plain(&mut admin, &self.silo, &plain).await {
            self.fail(problem.detail());
        }
        if let Err(problem) = schema::apply_pool(&mut self.pool.admin, &pool).await {
            self.fail(problem.detail());
        }
        self.form = form;
        self.migrations.push(pool);
    }

    async fn compare(&self) {
        let expected = schema::fingerprint(&self.client, &SchemaName::of_silo()).await;
        let expected = expected.unwrap_or_else(|problem| self.fail(&format!("{problem:?}")));
        let admin = self.schemas.connect().await;
        let in_silo = schema::audit_silo(&admin, &self.silo, &expected).await.unwrap();
        if !in_silo.is_empty() {
            self.fail(&format!("{in_silo:#?}"));
        }
        let in_pool = schema::fingerprint(&self.pool.admin, &SchemaName::pool()).await;
        let in_pool = in_pool.unwrap_or_else(|problem| self.fail(&format!("{problem:?}")));
        let different = differences(expected, in_pool);
        if !different.is_empty() {
            self.fail(&different.join("\n"));
        }
        let found = schema::audit_pool(&self.pool.admin, &self.migrations).await.unwrap();
        if !found.is_empty() {
            self.fail(&format!("{found:#?}"));
        }
        for (table, _) in Definitions::read(&self.client).await.tables {
            let count = one(&self.client, &format!("select count(*) from {table}")).await;
            let shared = one(&self.pool.admin, &format!("select count(*) from app.{table}")).await;
            if count != shared {
                self.fail(&format!("{table} has {count} rows, and {shared} in the pool"));
            }
        }
    }
}

#[tokio::test]
async fn histories_make_the_same_in_every_form() {
    let wanted = std::env::var("INSULA_DDL_HISTORIES").ok().and_then(|text| text.parse().ok());
    let first = std::env::var("INSULA_DDL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1_u64);
    let mut applied = 0;
    let histories = wanted.unwrap_or(6);
    for seed in first..first + histories {
        let mut history = History::new(seed).await;
        for step in 0..40 {
            history.step().await;
            if step % 8 == 7 {
                history.compare().await;
            }
        }
        applied += history.versions.len();
        drop(history.plain);
    }
    // Of what is written at random enough must be taken for this to say anything.
    assert!(applied as u64 >= histories * 12, "{applied} versions in {histories} histories");
}

#[tokio::test]
async fn a_difference_between_the_forms_shows() {
    let mut history = History::new(7).await;
    for _ in 0..20 {
        history.step().await;
    }
    let plain = || async { schema::fingerprint(&history.client, &SchemaName::of_silo()).await.unwrap() };
    let pool = || async { schema::fingerprint(&history.pool.admin, &SchemaName::pool()).await.unwrap() };
    assert_eq!(differences(plain().await, pool().await), Vec::<String>::new());
    let (table, column, _) = Definitions::read(&history.client).await.columns.pop().unwrap();
    history.client.batch_execute(&format!("ALTER TABLE {table} RENAME {column} TO other")).await.unwrap();
    assert!(!differences(plain().await, pool().await).is_empty());
}
