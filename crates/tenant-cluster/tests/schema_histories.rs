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
use insula_testkit::TestDatabase;
use tokio_postgres::Client;

/// Random numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % u64::try_from(end.max(1)).unwrap()) as usize
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get(self.below(all.len())) }
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

/// What there is in the plain database.
struct World {
    /// Names, and how they are partitioned (`r`, `l`, `h`), if they are.
    tables: Vec<(String, Option<String>)>,
    /// Table, column, type.
    columns: Vec<(String, String, String)>,
    /// Table, constraint, kind.
    constraints: Vec<(String, String, String)>,
    /// Table and the single integer column of a key.
    keys: Vec<(String, String)>,
    indexes: Vec<String>,
    partitions: Vec<(String, String)>,
    views: Vec<String>,
    enums: Vec<String>,
    sequences: Vec<String>,
    functions: Vec<String>,
}

impl World {
    async fn read(client: &Client) -> Self {
        let rows = async |query: &str| -> Vec<Vec<String>> {
            let rows = client.query(query, &[]).await.unwrap();
            rows.iter()
                .map(|row| {
                    (0..row.len()).map(|n| row.get::<_, Option<String>>(n).unwrap_or_default()).collect()
                })
                .collect()
        };
        let two = |all: Vec<Vec<String>>| -> Vec<(String, String)> {
            all.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
        };
        let three = |all: Vec<Vec<String>>| -> Vec<(String, String, String)> {
            all.into_iter().map(|row| (row[0].clone(), row[1].clone(), row[2].clone())).collect()
        };
        let one =
            |all: Vec<Vec<String>>| -> Vec<String> { all.into_iter().map(|row| row[0].clone()).collect() };
        let relations = |kinds: &str| {
            format!(
                "select quote_ident(relname) from pg_class where relnamespace = 'public'::regnamespace and relkind in ({kinds}) order by 1"
            )
        };
        let tables = rows(
            "select quote_ident(c.relname), p.partstrat::text from pg_class c left join pg_partitioned_table p on p.partrelid = c.oid
             where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') order by 1",
        )
        .await;
        Self {
            tables: tables.into_iter().map(|row| (row[0].clone(), Some(row[1].clone()).filter(|s| !s.is_empty()))).collect(),
            columns: three(rows(
                "select quote_ident(c.relname), quote_ident(a.attname), format_type(a.atttypid, a.atttypmod)
                 from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') order by 1, a.attnum").await),
            constraints: three(rows(
                "select quote_ident(c.relname), quote_ident(x.conname), x.contype::text from pg_constraint x join pg_class c on c.oid = x.conrelid
                 where c.relnamespace = 'public'::regnamespace and x.conparentid = 0 and x.coninhcount = 0 order by 1, 2").await),
            keys: two(rows(
                "select quote_ident(c.relname), quote_ident(a.attname) from pg_constraint x join pg_class c on c.oid = x.conrelid
                 join pg_attribute a on a.attrelid = c.oid and a.attnum = x.conkey[1] and a.atttypid = 'int'::regtype
                 where c.relnamespace = 'public'::regnamespace and x.contype in ('p', 'u') and cardinality(x.conkey) = 1
                   and not x.condeferrable order by 1, 2").await),
            indexes: one(rows(
                "select quote_ident(c.relname) from pg_class c join pg_index i on i.indexrelid = c.oid
                 where c.relnamespace = 'public'::regnamespace and not c.relispartition
                   and not exists (select from pg_constraint x where x.conindid = c.oid and x.contype in ('p', 'u')) order by 1").await),
            partitions: two(rows("select i.inhparent::regclass::text, i.inhrelid::regclass::text from pg_inherits i join pg_class c on c.oid = i.inhrelid where c.relkind in ('r', 'p') order by 1, 2").await),
            views: one(rows(&relations("'v'")).await),
            enums: one(rows("select quote_ident(typname) from pg_type where typnamespace = 'public'::regnamespace and typtype = 'e' order by 1").await),
            sequences: one(rows(&relations("'S'")).await),
            functions: one(rows("select quote_ident(proname) from pg_proc where pronamespace = 'public'::regnamespace and prorettype = 'trigger'::regtype order by 1").await),
        }
    }
}

/// Makes statements that mostly fit a world.
struct Author {
    dice: Dice,
    made: usize,
}

impl Author {
    fn name(&mut self, word: &str) -> String {
        self.made += 1;
        if self.made.is_multiple_of(7) {
            format!("\"{word} X{}\"", self.made)
        } else {
            format!("{word}{}", self.made)
        }
    }

    fn column(&mut self, world: &World, index: usize) -> String {
        let enums = world.enums.first().cloned().unwrap_or_else(|| "text".to_owned());
        let kind = match index {
            0 | 1 => "int".to_owned(),
            2 => self.dice.one_of(&["text", "varchar(20)", "text COLLATE \"C\""]).to_owned(),
            _ => match self.dice.below(9) {
                0 => "bigserial".to_owned(),
                1 => "bigint GENERATED BY DEFAULT AS IDENTITY".to_owned(),
                2 => enums,
                3 => "int GENERATED ALWAYS AS (c0 * 2) STORED".to_owned(),
                4 => "timestamptz DEFAULT now()".to_owned(),
                5 => "numeric(10,2) DEFAULT 0 CHECK (true)".to_owned(),
                6 => "text[]".to_owned(),
                _ => "int".to_owned(),
            },
        };
        let tail = match self.dice.below(10) {
            0 => " UNIQUE",
            1 => " NOT NULL",
            2 if index < 2 => " CHECK (c0 > 0)",
            3 if index < 2 => " UNIQUE DEFERRABLE",
            _ => "",
        };
        format!("c{index} {kind}{tail}")
    }

    fn reference(&mut self, world: &World) -> String {
        let Some((table, column)) = self.dice.pick(&world.keys).cloned() else { return String::new() };
        let action = self.dice.one_of(&[
            "",
            " ON DELETE CASCADE",
            " ON DELETE SET NULL",
            " ON UPDATE CASCADE",
            " ON DELETE SET DEFAULT DEFERRABLE INITIALLY DEFERRED",
            " ON DELETE RESTRICT",
        ]);
        format!(" REFERENCES {table} ({column}){action}")
    }

    fn table(&mut self, world: &World) -> String {
        let name = self.name("t");
        let count = 3 + self.dice.below(4);
        let mut columns: Vec<_> = (0..count).map(|index| self.column(world, index)).collect();
        if self.dice.below(2) == 0 {
            columns[1] = format!("c1 int{}", self.reference(world));
        }
        match self.dice.below(6) {
            0 => columns.push("PRIMARY KEY (c0, c1)".to_owned()),
            1 => {}
            2 => columns[0] = "c0 int GENERATED ALWAYS AS IDENTITY PRIMARY KEY".to_owned(),
            3 => columns[0] = "c0 serial PRIMARY KEY".to_owned(),
            4 => columns.push(
                "CONSTRAINT \"My Key\" PRIMARY KEY (c0) INCLUDE (c2)".replace("My", &name.replace('"', "")),
            ),
            _ => columns.push("PRIMARY KEY (c0), UNIQUE (c0), UNIQUE (c1, c2), UNIQUE (c1, c2)".to_owned()),
        }
        let exists = self.dice.one_of(&["", "", "IF NOT EXISTS "]);
        let options = self.dice.one_of(&["", "", " WITH (fillfactor=70)"]);
        format!("CREATE TABLE {exists}{name} ({}){options}", columns.join(", "))
    }

    fn partitioned(&mut self, world: &World) -> String {
        let name = self.name("m");
        let key = self.dice.one_of(&["", ", PRIMARY KEY (c0)", ", PRIMARY KEY (c0, c1), UNIQUE (c1, c0)"]);
        let by = self.dice.one_of(&["RANGE (c0)", "LIST (c0)", "HASH (c0)"]);
        let reference = self.reference(world);
        format!("CREATE TABLE {name} (c0 int, c1 int{reference}, c2 text{key}) PARTITION BY {by}")
    }

    fn partition(&mut self, world: &World) -> Option<String> {
        let parents: Vec<_> = world.tables.iter().filter(|(_, by)| by.is_some()).collect();
        let (parent, by) = self.dice.pick(&parents)?;
        let n = self.dice.below(4);
        let bound = match by.as_deref() {
            _ if n == 3 && by.as_deref() != Some("h") => "DEFAULT".to_owned(),
            Some("r") => format!("FOR VALUES FROM ({}) TO ({})", n * 10, n * 10 + 10),
            Some("l") => format!("FOR VALUES IN ({n}, {})", n + 10),
            _ => format!("FOR VALUES WITH (MODULUS 4, REMAINDER {n})"),
        };
        let name = self.name("part");
        if self.dice.below(3) == 0 {
            let columns: Vec<_> = world
                .columns
                .iter()
                .filter(|(table, ..)| table == parent)
                .map(|(_, column, kind)| format!("{column} {kind}"))
                .collect();
            let index = self
                .dice
                .one_of(&[
                    "",
                    "CREATE INDEX ON {name} (c1);\n",
                    "ALTER TABLE {name} ALTER c0 SET NOT NULL;\n",
                ])
                .replace("{name}", &name);
            return Some(format!(
                "CREATE TABLE {name} ({});\n{index}ALTER TABLE {parent} ATTACH PARTITION {name} {bound}",
                columns.join(", ")
            ));
        }
        let own = self.dice.one_of(&["", "", " (c2 DEFAULT 'x')", " (UNIQUE (c1))", " (CHECK (c1 < 99))"]);
        let below = self.dice.one_of(&["", "", "", " PARTITION BY LIST (c0)"]);
        Some(format!("CREATE TABLE {name} PARTITION OF {parent}{own} {bound}{below}"))
    }

    fn index(&mut self, world: &World) -> Option<String> {
        let (table, _) = self.dice.pick(&world.tables)?.clone();
        let name = if self.dice.below(3) == 0 { self.name("i") } else { String::new() };
        let what = self.dice.one_of(&[
            "(c1)",
            "(c1 DESC NULLS LAST, c0)",
            "(lower(c2))",
            "(lower(c2), c1)",
            "(c2 varchar_pattern_ops)",
            "(c2 text_pattern_ops)",
            "(c1) INCLUDE (c2)",
            "(c1) WHERE c2 IS NOT NULL",
            "(c0) WITH (fillfactor=50)",
            "((c0 + c1))",
            "(c1, c1)",
            "USING hash (c1)",
            "USING brin (c0)",
            "USING gin (to_tsvector('english', c2))",
        ]);
        let unique = if what.starts_with("USING") { "" } else { self.dice.one_of(&["", "", "UNIQUE "]) };
        let distinct =
            if unique.is_empty() || self.dice.below(3) > 0 || what.contains("WHERE") || what.contains("WITH")
            {
                ""
            } else {
                " NULLS NOT DISTINCT"
            };
        let only = self.dice.one_of(&["", "", "", "ONLY "]);
        Some(format!("CREATE {unique}INDEX {name} ON {only}{table} {what}{distinct}"))
    }

    fn alter(&mut self, world: &World) -> Option<String> {
        let (table, column, _) = self.dice.pick(&world.columns)?.clone();
        let reference = self.reference(world);
        let cascade = self.dice.one_of(&["", " CASCADE"]);
        let added = 7 + self.dice.below(5);
        let action = match self.dice.below(20) {
            0 => format!("ADD COLUMN {}", self.column(world, added)),
            1 => format!("ADD COLUMN IF NOT EXISTS c{added} int{reference}"),
            2 => format!("DROP COLUMN {column}{cascade}"),
            3 => format!("DROP COLUMN IF EXISTS {column}{cascade}, ADD COLUMN c{added} text UNIQUE"),
            4 => format!("RENAME {column} TO c{added}"),
            5 => format!("RENAME TO {}", self.name("r")),
            6 => format!("ALTER {column} TYPE text USING {column}::text"),
            7 => "ALTER c0 TYPE bigint".to_owned(),
            8 => format!("ALTER {column} SET DEFAULT NULL, ALTER {column} SET STATISTICS 50"),
            9 => format!("ALTER {column} DROP DEFAULT"),
            10 => format!("ALTER {column} SET NOT NULL"),
            11 => format!("ALTER {column} DROP NOT NULL"),
            12 => format!("ADD UNIQUE ({column})"),
            13 => format!("ADD CONSTRAINT k{added} CHECK (c0 > {added}) NOT VALID"),
            14 => "ADD CHECK (c0 + c1 < 1000)".to_owned(),
            15 if !reference.is_empty() => {
                format!("ADD FOREIGN KEY ({}){reference}", self.dice.one_of(&["c0", "c1"]))
            }
            16 => "ADD PRIMARY KEY (c0)".to_owned(),
            17 => "ALTER c1 ADD GENERATED BY DEFAULT AS IDENTITY".to_owned(),
            18 => "SET (autovacuum_enabled = false), REPLICA IDENTITY FULL".to_owned(),
            _ => {
                let (table, name, _) = self.dice.pick(&world.constraints)?.clone();
                let action = match self.dice.below(3) {
                    0 => format!("RENAME CONSTRAINT {name} TO {}", self.name("k")),
                    _ => format!("DROP CONSTRAINT {name}{cascade}"),
                };
                return Some(format!("ALTER TABLE {table} {action}"));
            }
        };
        Some(format!("ALTER TABLE {table} {action}"))
    }

    fn other(&mut self, world: &World) -> Option<String> {
        let (table, _) = self.dice.pick(&world.tables)?.clone();
        let cascade = self.dice.one_of(&["", " CASCADE"]);
        Some(match self.dice.below(20) {
            0 => format!("DROP TABLE {table}{cascade}"),
            1 => format!("DROP INDEX {}", self.dice.pick(&world.indexes)?),
            2 => format!(
                "ALTER INDEX {} RENAME TO {}",
                self.dice.pick(&world.indexes)?.clone(),
                self.name("i")
            ),
            3 | 4 => format!("CREATE VIEW {} AS SELECT c0, c1 FROM {table}", self.name("v")),
            5 => format!(
                "CREATE VIEW {} AS SELECT c0 FROM {}",
                self.name("v"),
                self.dice.pick(&world.views)?.clone()
            ),
            6 => format!("DROP VIEW {}{cascade}", self.dice.pick(&world.views)?),
            7 => format!("ALTER VIEW {} RENAME TO {}", self.dice.pick(&world.views)?.clone(), self.name("v")),
            8 => format!("CREATE TYPE {} AS ENUM ('a', 'b')", self.name("e")),
            9 => format!("ALTER TYPE {} ADD VALUE 'v{}'", self.dice.pick(&world.enums)?.clone(), self.made),
            10 => {
                format!("ALTER TYPE {} RENAME TO {}", self.dice.pick(&world.enums)?.clone(), self.name("e"))
            }
            11 => format!("DROP TYPE {}{cascade}", self.dice.pick(&world.enums)?),
            12 => format!("CREATE SEQUENCE {} START 5", self.name("s")),
            13 => format!(
                "ALTER SEQUENCE {} RENAME TO {}",
                self.dice.pick(&world.sequences)?.clone(),
                self.name("s")
            ),
            14 => {
                let name = self.name("f");
                format!(
                    "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;\nCREATE TRIGGER g{} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()",
                    self.made
                )
            }
            15 => format!("DROP FUNCTION {}(){cascade}", self.dice.pick(&world.functions)?),
            16 => format!("COMMENT ON TABLE {table} IS 'x'"),
            17 => format!("CREATE STATISTICS {} ON c0, c1 FROM {table}", self.name("st")),
            18 => {
                let (parent, partition) = self.dice.pick(&world.partitions)?;
                format!("ALTER TABLE {parent} DETACH PARTITION {partition}")
            }
            _ => format!(
                "INSERT INTO {table} (c0, c1) VALUES ({}, 1) ON CONFLICT DO NOTHING",
                self.dice.below(40)
            ),
        })
    }

    fn version(&mut self, world: &World) -> String {
        let count = 1 + self.dice.below(3);
        let statements: Vec<_> = (0..count)
            .filter_map(|_| match self.dice.below(20) {
                0..=2 => Some(self.table(world)),
                3 => Some(self.partitioned(world)),
                4..=6 => self.partition(world),
                7..=9 => self.index(world),
                10..=15 => self.alter(world),
                _ => self.other(world),
            })
            .collect();
        statements.join(";\n")
    }
}

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
        let author = Author { dice: Dice(seed), made: 0 };
        let (form, versions, migrations) = (PoolForm::new(), Vec::new(), Vec::new());
        Self { seed, author, plain, client, schemas, silo, pool, form, versions, migrations }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}: {what}\n{}", self.seed, self.versions.join(";\n-- next version\n"))
    }

    /// One version more; none where PostgreSQL or the pool form refuses it.
    async fn step(&mut self) {
        let world = World::read(&self.client).await;
        let sql = self.author.version(&world);
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
        for (table, _) in World::read(&self.client).await.tables {
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
    let (table, column, _) = World::read(&history.client).await.columns.pop().unwrap();
    history.client.batch_execute(&format!("ALTER TABLE {table} RENAME {column} TO other")).await.unwrap();
    assert!(!differences(plain().await, pool().await).is_empty());
}
