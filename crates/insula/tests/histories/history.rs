//! A history: what is done on the blueprint, step by step, and what is then
//! the same for every tenant.

use std::collections::BTreeSet;

use futures_util::SinkExt;
use insula_app_schema::{Migration, PoolForm, check};
use insula_domain::SchemaVersion;
use insula_testkit::{Author, Definitions, connect};
use tokio_postgres::Client;

use super::common::World;
use super::dump::{differences, dump, without_the_tenant};

/// Tenants of every model, by tier.
const TIERS: [&str; 3] = ["free", "standard", "business"];

/// A tenant, and where its tables are.
pub struct Tenant {
    pub slug: String,
    is_pooled: bool,
    database: String,
    pub schema: String,
}

/// A blueprint on which things are done, and tenants who get them.
pub struct History<'a> {
    pub world: &'a World,
    seed: u64,
    author: Author,
    tool: Client,
    url: String,
    /// What a pool would take, so that nothing is done that it refuses.
    form: PoolForm,
    /// Table and number of columns whose values each tenant draws for itself.
    drawn: BTreeSet<(u32, i16)>,
    pub tenants: Vec<Tenant>,
    /// What was done.
    pub steps: Vec<String>,
    captures: usize,
}

impl<'a> History<'a> {
    pub async fn new(world: &'a World, seed: u64) -> Self {
        let said = world.run(&["schema", "blueprint-url", "--cluster", "us-east-1-a"]);
        assert!(said.ok, "{}", said.err);
        Self {
            world,
            seed,
            author: Author::new(seed),
            tool: connect(said.out.trim()).await,
            url: said.out.trim().to_owned(),
            form: PoolForm::new(),
            drawn: BTreeSet::new(),
            tenants: Vec::new(),
            steps: Vec::new(),
            captures: 0,
        }
    }

    /// Creates a tenant of each model.
    pub fn create_tenants(&mut self) {
        for tier in TIERS {
            let slug = format!("{tier}-{}", self.tenants.len());
            let made = self.world.create(&slug, tier, "us-east-1");
            let of = |name: &str| made["placement"][name].as_str().unwrap().to_owned();
            let (database, schema) = (of("database"), of("schema"));
            self.tenants.push(Tenant { slug, is_pooled: tier == "free", database, schema });
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}: {what}\n{}", self.seed, self.steps.join(";\n-- next step\n"))
    }

    /// Does something on the blueprint, in one of the ways in which tools do.
    pub async fn step(&mut self) {
        let there = Definitions::read(&self.tool).await;
        let sql = match self.author.below(10) {
            0..=4 => self.author.version(&there),
            kind => {
                let count = if kind < 9 { 1 } else { 3 };
                (0..count).filter_map(|_| self.author.rows(&there)).collect::<Vec<_>>().join(";\n")
            }
        };
        let Some(form) = self.taken_by_a_pool(&sql) else { return };
        let noise = self.author.version(&there);
        if self.send(&sql, &noise).await.is_ok() {
            self.form = form;
            self.steps.push(sql);
            self.remember_what_is_drawn().await;
        } else {
            // A COPY that failed leaves the driver's session unusable.
            self.tool = connect(&self.url).await;
        }
    }

    /// The pool form after these statements; none where it does not take them.
    fn taken_by_a_pool(&self, sql: &str) -> Option<PoolForm> {
        if sql.trim().is_empty() {
            return None;
        }
        let version = SchemaVersion(i32::try_from(self.steps.len()).unwrap() + 1);
        let plain = check(&Migration::new(version, "random", sql)).ok()?;
        let mut form = self.form.clone();
        form.rewrite(&plain).ok().map(|_| form)
    }

    async fn send(&mut self, sql: &str, noise: &str) -> Result<(), tokio_postgres::Error> {
        let tool = &self.tool;
        let rows = ["INSERT", "UPDATE", "DELETE", "TRUNCATE", "MERGE"];
        match self.author.below(8) {
            0 => tool.batch_execute(&format!("BEGIN;\n/* ; */ {sql};\nCOMMIT")).await,
            1 => {
                let broken_off =
                    format!("BEGIN; SAVEPOINT s; {noise}; ROLLBACK TO s; {sql}; RELEASE s; COMMIT");
                tool.batch_execute(&broken_off).await
            }
            2 => {
                tool.batch_execute("BEGIN").await?;
                for statement in sql.split(";\n") {
                    tool.execute(statement, &[]).await?;
                }
                tool.batch_execute("COMMIT").await
            }
            3 if !rows.iter().any(|word| sql.contains(word)) => {
                tool.batch_execute(&format!("DO $do$ BEGIN {sql}; END $do$")).await
            }
            4 if sql.starts_with("CREATE INDEX ") && !sql.contains(";\n") => {
                tool.batch_execute(&sql.replacen("INDEX", "INDEX CONCURRENTLY", 1)).await
            }
            5 if sql.starts_with("INSERT INTO t") && sql.contains(" (c0, c1) ") => {
                let table = sql.split(' ').nth(2).unwrap().to_owned();
                self.copy(&table).await
            }
            _ => tool.batch_execute(sql).await,
        }
    }

    /// Two rows by COPY instead, and one with parameters.
    async fn copy(&mut self, table: &str) -> Result<(), tokio_postgres::Error> {
        let n = i32::try_from(600 + self.author.below(300)).unwrap();
        self.tool.batch_execute("BEGIN").await?;
        let copy = self.tool.copy_in(&format!("COPY {table} (c0, c1) FROM STDIN")).await?;
        let mut copy = std::pin::pin!(copy);
        copy.send(bytes::Bytes::from(format!("{n}\t5\n{}\t\\N\n", n + 1))).await?;
        copy.finish().await?;
        let insert = format!(
            "INSERT INTO {table} (c0, c1) OVERRIDING SYSTEM VALUE VALUES ($1::int8::int, $2::int8::int)"
        );
        self.tool.execute(&insert, &[&i64::from(n + 2), &6_i64]).await?;
        self.tool.batch_execute("COMMIT").await
    }

    /// The first three columns of a table are always given.
    async fn remember_what_is_drawn(&mut self) {
        let drawn = "select a.attrelid, a.attnum from pg_attribute a
            join pg_class c on c.oid = a.attrelid and c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
            left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
            where a.attnum > 3 and (a.attidentity <> '' or pg_get_expr(d.adbin, d.adrelid) ~ 'nextval|now')";
        let rows = self.tool.query(drawn, &[]).await.unwrap();
        self.drawn.extend(rows.iter().map(|row| (row.get::<_, u32>(0), row.get::<_, i16>(1))));
    }

    /// Captures what was done and rolls it out.
    pub fn roll_out(&mut self) {
        let dir = self.world.folder.join("schema").display().to_string();
        let name = format!("capture_{}", self.captures);
        let said = self.world.run(&["schema", "capture", "--name", &name, "--dir", &dir]);
        if said.err.contains("nothing_to_capture") {
            return;
        }
        let version = self.captures + 1;
        let forced = || self.world.run(&["schema", "capture", "--name", &name, "--dir", &dir, "--force"]);
        if !said.ok {
            forced();
        }
        let file = self.world.folder.join(format!("schema/{version:04}_{name}.sql"));
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if !said.ok || said.err.contains("differs") {
            self.fail(&format!("{}\n-- captured\n{text}\n-- done", said.err));
        }
        self.captures = version;
        let said = self.world.run(&["schema", "apply", &dir]);
        if !said.ok {
            let failures = self.world.run(&["schema", "failures"]).out;
            self.fail(&format!("{}\n{failures}\n-- captured\n{text}\n-- done", said.err));
        }
    }

    /// Every placement has what the blueprint has.
    pub async fn compare(&self) {
        let found = self.differences().await;
        if !found.is_empty() {
            self.fail(&found.join("\n"));
        }
        let said = self.world.run(&["doctor"]);
        if !said.ok {
            self.fail(&said.out);
        }
    }

    /// What differs between the blueprint and the tenants.
    pub async fn differences(&self) -> Vec<String> {
        let url = |database: &str| self.world.us.url(database);
        let expected = dump(&url("insula_blueprint"), "public");
        let mut found = Vec::new();
        let mut pool_is_compared = false;
        for tenant in &self.tenants {
            if !tenant.is_pooled || !pool_is_compared {
                let made = dump(&url(&tenant.database), &tenant.schema);
                let made = if tenant.is_pooled { without_the_tenant(made) } else { made };
                let differing = differences(&expected, &made, !tenant.is_pooled);
                found.extend(differing.iter().map(|what| format!("{}: {what}", tenant.slug)));
                pool_is_compared |= tenant.is_pooled;
            }
            found.extend(self.row_differences(tenant).await);
        }
        found
    }

    async fn row_differences(&self, tenant: &Tenant) -> Vec<String> {
        let client = self.world.connect(&tenant.slug).await;
        let mut found = Vec::new();
        for (table, drawn) in self.tables().await {
            let query = format!(
                "select coalesce(string_agg(r, ' ' order by r collate \"C\"), '') from
                 (select (to_jsonb(t) - 'tenant_id' - '{{{drawn}}}'::text[])::text as r from {table} t) x"
            );
            let expected: String = self.tool.query_one(&query, &[]).await.unwrap().get(0);
            match client.query_one(&query, &[]).await.map(|row| row.get::<_, String>(0)) {
                Ok(there) if there == expected => {}
                other => found.push(format!("{}: {table} has {other:?} <> {expected}", tenant.slug)),
            }
        }
        found
    }

    /// Tables with the names of their columns that are drawn.
    async fn tables(&self) -> Vec<(String, String)> {
        let columns =
            "select quote_ident(c.relname), a.attrelid, a.attnum, quote_ident(a.attname) from pg_class c
            left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') order by 1";
        let mut tables: Vec<(String, String)> = Vec::new();
        for row in self.tool.query(columns, &[]).await.unwrap() {
            let table: String = row.get(0);
            if tables.last().is_none_or(|(last, _)| *last != table) {
                tables.push((table, String::new()));
            }
            let place = row.get::<_, Option<u32>>(1).zip(row.get::<_, Option<i16>>(2));
            if place.is_some_and(|place| self.drawn.contains(&place)) {
                let (_, drawn) = tables.last_mut().unwrap();
                *drawn = [drawn.as_str(), row.get(3)].join(if drawn.is_empty() { "" } else { "," });
            }
        }
        tables
    }

    /// Rows of all tables of the blueprint.
    pub async fn count_rows(&self) -> i64 {
        let mut rows = 0;
        for (table, _) in self.tables().await {
            let count = format!("select count(*) from only {table}");
            rows += self.tool.query_one(&count, &[]).await.unwrap().get::<_, i64>(0);
        }
        rows
    }

    /// A table that has rows.
    pub async fn table_with_rows(&self) -> String {
        for (table, _) in self.tables().await {
            let any = format!("select exists (select from only {table})");
            if self.tool.query_one(&any, &[]).await.unwrap().get(0) {
                return table;
            }
        }
        self.fail("no table has rows")
    }

    /// The doctor's findings, as text.
    pub fn doctor(&self) -> String {
        self.world.run(&["doctor"]).out
    }
}
