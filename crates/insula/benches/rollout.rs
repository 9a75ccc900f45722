//! How long a version takes to reach a fleet of 1,000 tenants (900 in a pool,
//! 80 with schemas, 20 with databases): one added column and one backfill; next
//! to a loop of psql over the same placements in the same run; and how long a
//! rollout takes that has nothing to do, and the audit of the fleet. Durable
//! servers, the release binary. `make bench` prints tables for
//! docs/BENCHMARKS.md.
//!
//! Then it shows at the same size, and fails where it is not so, that a rollout
//! survives `kill -9`, and that rows which do not fit keep nobody back but
//! their own tenants.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a program for its reader

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Api, Up};
use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};

const FLEET: [(&str, usize); 3] = [("free", 900), ("standard", 80), ("business", 20)];
const ROWS: usize = 20;
const PORTS: u16 = 27_600;

const FIRST: &str = "create table customers (id bigint generated always as identity primary key, email text not null unique, name text not null);
     create table orders (id bigint generated always as identity primary key, customer_id bigint not null references customers, cents bigint not null);
     create index orders_customer on orders (customer_id);";
const NAMED: &str = "alter table customers add column note text; alter table customers add constraint named check (name <> '');";

/// Tenants whose rows will not fit: three in the pool, three silos.
const MISFITS: [&str; 6] = ["free-7", "free-450", "free-899", "standard-3", "standard-77", "business-11"];

fn version(column: &str) -> String {
    format!("alter table customers add column {column} text; update customers set {column} = lower(email);")
}

/// The versions so far, and where they go.
struct Fleet {
    up: Up,
    api: Api,
    files: Vec<(String, String)>,
}

impl Fleet {
    fn start(folder: &Path) -> Self {
        let up = Up::start(folder, PORTS, "none");
        let api = Api::of(&up);
        Self { up, api, files: Vec::new() }
    }

    fn add(&mut self, name: &str, sql: String) {
        self.files.push((format!("{:04}_{name}.sql", self.files.len() + 1), sql));
    }

    /// Begins a rollout; its operation.
    async fn begin(&self) -> Value {
        let files: Vec<Value> =
            self.files.iter().map(|(name, sql)| json!({"name": name, "sql": sql})).collect();
        self.api.call(Method::POST, "/v1/schema/rollouts", Some(json!({"files": files}))).await
    }

    async fn apply(&self) -> Duration {
        let begun = Instant::now();
        let operation = self.begin().await;
        let operation = self.api.finish(operation).await;
        assert_eq!(operation["output"], json!([]), "placements failed");
        begun.elapsed()
    }

    async fn post(&self, path: &str) -> Value {
        self.api.call(Method::POST, path, None).await
    }

    async fn get(&self, path: &str) -> Value {
        self.api.call(Method::GET, path, None).await
    }

    async fn create(&self, slug: String, tier: &str) {
        let body = json!({"slug": slug, "tier": tier, "region": "us-east-1"});
        let operation = self.api.call(Method::POST, "/v1/tenants", Some(body)).await;
        self.api.finish(operation).await;
        let rows = format!(
            "insert into customers (email, name) select 'C' || n || '@example.com', 'C' from generate_series(1, {ROWS}) n"
        );
        self.run_as(&slug, &rows).await;
    }

    /// Statements of a tenant, through the front.
    async fn run_as(&self, slug: &str, sql: &str) {
        let url = self.post(&format!("/v1/tenants/{slug}/url")).await;
        run(url["url"].as_str().unwrap(), sql).await;
    }

    async fn tenants(&self) -> Vec<Value> {
        self.get("/v1/tenants?limit=1000").await["items"].as_array().unwrap().clone()
    }

    /// The tenants that do not have a version.
    async fn without(&self, version: usize) -> BTreeSet<String> {
        let tenants = self.tenants().await.into_iter();
        let without = tenants.filter(|tenant| tenant["schema_version"] != version);
        without.map(|tenant| tenant["slug"].as_str().unwrap().to_owned()).collect()
    }

    /// Database and schema of every placement.
    async fn placements(&self) -> Vec<(String, String)> {
        let tenants = self.tenants().await.into_iter();
        let mut placements: Vec<(String, String)> = tenants
            .map(|tenant| {
                ["database", "schema"]
                    .map(|field| tenant["placement"][field].as_str().unwrap().to_owned())
                    .into()
            })
            .collect();
        placements.sort();
        placements.dedup();
        placements
    }

    /// The server of the fleet, as its superuser; the database is left out.
    fn server(&self) -> String {
        let clusters = self.up.ready["clusters"].as_array().unwrap();
        let server = clusters.iter().find(|cluster| cluster["region"] == "us-east-1").unwrap();
        server["superuser_url"].as_str().unwrap().rsplit_once('/').unwrap().0.to_owned()
    }

    /// Everything is proved and as the catalog has it; how long that took.
    async fn prove(&self) -> [Duration; 2] {
        let begun = Instant::now();
        let audit = self.post("/v1/schema/audit").await;
        assert_eq!((&audit["findings"], &audit["placements"]), (&json!([]), &json!(102)));
        let audited = begun.elapsed();
        let doctor = self.post("/v1/doctor").await;
        assert_eq!(doctor["findings"], json!([]));
        [audited, begun.elapsed() - audited]
    }
}

async fn run(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

/// One psql after the other, each for one placement.
fn loop_of_psql(server: &str, placements: &[(String, String)], sql: &str) -> Duration {
    let begun = Instant::now();
    for (database, schema) in placements {
        let sql = format!("set search_path = {schema}; begin; {sql} commit");
        let said = Command::new("psql")
            .args([&format!("{server}/{database}"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", &sql])
            .output()
            .unwrap();
        assert!(said.status.success(), "{database} {schema}: {}", String::from_utf8_lossy(&said.stderr));
    }
    begun.elapsed()
}

async fn measure(fleet: &mut Fleet) {
    fleet.add("folded", version("folded"));
    let rollout = fleet.apply().await;
    let nothing = fleet.apply().await;
    assert_eq!(fleet.without(2).await, BTreeSet::new());
    let (server, placements) = (fleet.server(), fleet.placements().await);
    let psql = loop_of_psql(&server, &placements, &version("again"));
    loop_of_psql(&server, &placements, "alter table customers drop column again;");
    let [audited, examined] = fleet.prove().await;
    println!("\n| {} placements of 1,000 tenants | s |\n| --- | --- |", placements.len());
    for (what, took) in [
        ("`insula schema apply`: rehearsal, one column, one backfill, audit of what was brought", rollout),
        ("a loop of psql over the same placements", psql),
        ("`insula schema apply` with nothing to do", nothing),
        ("`insula schema audit` of the whole fleet", audited),
        ("`insula doctor`, which audits too", examined),
    ] {
        println!("| {what} | {:.2} |", took.as_secs_f64());
    }
}

/// Kills everything twice during a rollout, the servers with it: while the shared
/// tables are brought, and between the silos.
async fn survive_kill_9(mut fleet: Fleet, folder: &Path) -> Fleet {
    fleet.add("shouted", version("shouted"));
    let operation = fleet.begin().await;
    let path = format!("/v1/schema/rollouts/{}", operation["id"].as_str().unwrap());
    let files = fleet.files.clone();
    println!("\n| `kill -9` | done before it | ready again, s |\n| --- | --- | --- |");
    for (when, done_before) in [("while the shared tables are brought", 0), ("between the silos", 40)] {
        let done = loop {
            let counts = fleet.get(&path).await["placements"].clone();
            let (running, done) = (counts["running"].as_u64().unwrap(), counts["done"].as_u64().unwrap());
            if running > 0 && done >= done_before {
                break done;
            }
            assert!(counts["waiting"] != 0 || done < 100, "canary: it was over before it was killed");
        };
        fleet.up.kill_9();
        fleet = Fleet::start(folder);
        println!("| {when} | {done} of 102 placements | {:.1} |", fleet.up.took.as_secs_f64());
    }
    fleet.files = files;
    let begun = Instant::now();
    let operation = fleet.api.finish(operation).await;
    assert_eq!(operation["output"], json!([]), "placements failed");
    println!("\nThe rest after the second took {:.1} s.", begun.elapsed().as_secs_f64());
    assert_eq!(fleet.without(3).await, BTreeSet::new());
    // Every row of every tenant was filled, by its own tenant's statement.
    let check = format!(
        "do $$ begin
             if exists (select from customers where shouted is distinct from lower(email))
                 or (select count(*) from customers) not in ({ROWS}, 900 * {ROWS})
             then raise 'not all rows are filled'; end if;
         end $$;"
    );
    loop_of_psql(&fleet.server(), &fleet.placements().await, &check);
    fleet.prove().await;
    fleet
}

/// Rows of three silos and of three tenants of the pool do not fit a version.
async fn keep_misfits_apart(fleet: &mut Fleet) {
    for slug in MISFITS {
        fleet.run_as(slug, "update customers set name = '' where id = (select min(id) from customers)").await;
    }
    fleet.add("named", NAMED.to_owned());
    let operation = fleet.begin().await;
    let failed = fleet.api.finish(operation.clone()).await["output"].as_array().unwrap().len();
    let silos = BTreeSet::from_iter(MISFITS[3..].iter().map(|slug| (*slug).to_owned()));
    // The pool's version is there, and holds for new rows of all its tenants.
    assert_eq!((fleet.without(4).await, failed), (silos.clone(), 4), "three silos and the pool's old rows");
    let failures = fleet.get("/v1/schema/failures").await;
    let failures = failures["items"].as_array().unwrap();
    let row = |failure: &Value| failure["row"].as_str().unwrap().to_owned();
    let (pools, of_silos): (Vec<_>, Vec<_>) =
        failures.iter().partition(|failure| failure["tenant"].is_null());
    for failure in &of_silos {
        assert!(silos.contains(failure["tenant"].as_str().unwrap()), "{failure}");
        assert!(row(failure).contains("1 rows, as id="), "{failure}");
    }
    let [pool] = pools[..] else { panic!("the pool is not told of: {failures:?}") };
    let tenants = fleet.tenants().await;
    for slug in &MISFITS[..3] {
        let tenant = tenants.iter().find(|tenant| tenant["slug"] == **slug).unwrap();
        let told = format!("{} 1 rows, as id=", tenant["id"].as_str().unwrap());
        assert!(row(pool).contains(&told), "{slug}: {pool}");
    }
    println!("\nOf 1,000 tenants the rows of 6 do not fit. {} failures; one silo's:\n", failures.len());
    println!("    {}\n    {}\n\nThe pool's:\n", of_silos[0]["detail"].as_str().unwrap(), row(of_silos[0]));
    println!("    {}", row(pool).replace('\n', "\n    "));

    for slug in MISFITS {
        fleet.run_as(slug, "update customers set name = 'mended' where name = ''").await;
    }
    let begun = Instant::now();
    let retried =
        fleet.post(&format!("/v1/schema/rollouts/{}/retry", operation["id"].as_str().unwrap())).await;
    let retried = fleet.api.finish(retried).await;
    assert_eq!(retried["output"], json!([]), "placements failed again");
    println!("\nAfter the repair `insula schema rollout retry` took {:.2} s.", begun.elapsed().as_secs_f64());
    assert_eq!(fleet.without(4).await, BTreeSet::new());
    fleet.prove().await;
}

#[tokio::main]
async fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let temporary = insula_testkit::passable_folder();
    let folder = temporary.path().join("insula");
    let mut fleet = Fleet::start(&folder);
    fleet.add("customers", FIRST.to_owned());
    fleet.apply().await;
    let begun = Instant::now();
    for (tier, count) in FLEET {
        stream::iter(0..count)
            .for_each_concurrent(4, |number| fleet.create(format!("{tier}-{number}"), tier))
            .await;
    }
    println!("1,000 tenants created, {ROWS} rows written for each: {:.1} s", begun.elapsed().as_secs_f64());
    measure(&mut fleet).await;
    fleet = survive_kill_9(fleet, &folder).await;
    keep_misfits_apart(&mut fleet).await;
    fleet.up.stop();
}
