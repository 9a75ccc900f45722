//! Random histories on the blueprint: statements sent one by one, as texts of
//! many, with parameters, in blocks, in transactions that are broken off. What
//! is captured of them makes the blueprint again, in a silo as well.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod blueprint_support;

use blueprint_support::World;
use insula_domain::Entropy;
use insula_testkit::SeededEntropy;
use tokio_postgres::Client;

/// Histories, each of [`STEPS`] steps. `INSULA_HISTORIES=100` tries more.
const HISTORIES: u64 = 3;
const STEPS: usize = 300;

struct Dice(SeededEntropy);

impl Dice {
    fn below(&self, sides: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % sides as u64).unwrap()
    }

    fn table(&self) -> String {
        format!("t{}", self.below(4))
    }

    fn column(&self) -> String {
        ["c0", "c1", "\"C 2\"", "c3"][self.below(4)].to_owned()
    }

    /// A statement; whether it works depends on what is there.
    fn statement(&self) -> String {
        let (t, u, c, d) = (self.table(), self.table(), self.column(), self.column());
        let n = self.below(50);
        match self.below(36) {
            0..4 => format!("CREATE TABLE {t} (id int PRIMARY KEY, s serial, c0 text DEFAULT 'x', c1 int)"),
            4 => format!(
                "CREATE TABLE IF NOT EXISTS public.{t} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, c0 text, c1 int)"
            ),
            5 => format!(
                "ALTER TABLE {t} ADD COLUMN {c} {}",
                ["int", "text", "numeric DEFAULT 1.5"][self.below(3)]
            ),
            6 if n < 25 => format!("ALTER TABLE {t} DROP COLUMN {c}"),
            7 => format!("ALTER TABLE {t} RENAME COLUMN {c} TO {d}"),
            8 if n < 10 => format!("ALTER TABLE {t} RENAME TO {u}"),
            9 => format!("CREATE INDEX ON {t} ({c})"),
            10 if n < 15 => format!("DROP TABLE IF EXISTS {t} CASCADE"),
            11 => format!("ALTER TABLE {t} ADD COLUMN {c} int REFERENCES {u} (id) ON DELETE CASCADE"),
            12 => format!("CREATE VIEW v{n} AS SELECT {c} FROM {t}"),
            13 => format!("COMMENT ON COLUMN {t}.{c} IS 'it''s {n}'"),
            14..18 => format!("INSERT INTO {t} (id, c1) VALUES ({n}, {n}), ({}, NULL)", n + 100),
            18 => format!(
                "INSERT INTO {t} (id, c1) SELECT id + 1000, c1 FROM {u} ORDER BY id ON CONFLICT DO NOTHING"
            ),
            19 => format!("INSERT INTO {t} (id) SELECT * FROM unnest('{{{n},200}}'::int[])"),
            20 => format!("UPDATE {t} SET c1 = coalesce(c1, 0) + 1 WHERE c1 > {n}"),
            21 => format!("DELETE FROM {t} WHERE c1 = {n}"),
            22 if n < 20 => format!("TRUNCATE {t} CASCADE"),
            23 => format!(
                "DO $$ BEGIN CREATE TYPE e{} AS ENUM ('a'); EXCEPTION WHEN duplicate_object THEN NULL; END $$",
                self.below(3)
            ),
            24 => format!(
                "CREATE OR REPLACE FUNCTION f{}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 UPDATE {t} SET c1 = c1 + 1 WHERE id = new.id; RETURN NULL; END $$",
                self.below(2)
            ),
            25 => format!(
                "CREATE TRIGGER g{n} AFTER INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION f{}()",
                self.below(2)
            ),
            26 => format!(
                "CREATE OR REPLACE FUNCTION bump() RETURNS void LANGUAGE sql AS 'UPDATE {t} SET c1 = c1 * 2'"
            ),
            27 => "SELECT bump()".to_owned(),
            28 => format!(
                "WITH gone AS (DELETE FROM {t} WHERE c1 = {n} RETURNING id) UPDATE {u} SET c1 = 0 FROM gone WHERE gone.id = {u}.id"
            ),
            29 => "SELECT pg_advisory_xact_lock(1)".to_owned(),
            _ => format!("INSERT INTO {t} (id, {c}) VALUES ({}, DEFAULT)", n * 7),
        }
    }
}

/// Does something, well or badly.
async fn step(dice: &Dice, tool: &Client) {
    let done = match dice.below(8) {
        0 => {
            let texts: Vec<_> = (0..1 + dice.below(5))
                .map(|_| format!("/* {} */ {}", dice.below(9), dice.statement()))
                .collect();
            tool.batch_execute(&texts.join(";\n-- and\n")).await
        }
        1 => {
            let end = ["COMMIT", "ROLLBACK", "ROLLBACK TO s; COMMIT"][dice.below(3)];
            let (one, two, three) = (dice.statement(), dice.statement(), dice.statement());
            let sent = format!("BEGIN; {one}; SAVEPOINT s; {two}; {three}; {end}");
            tool.batch_execute(&sent).await
        }
        2 => {
            let insert = format!("INSERT INTO {} (id, c1) VALUES ($1, $2)", dice.table());
            tool.execute(&insert, &[&i32::try_from(dice.below(400)).unwrap(), &7_i32]).await.map(drop)
        }
        3 => {
            let update = format!("UPDATE {} SET c1 = $1, c0 = $2 WHERE c1 > $3", dice.table());
            tool.execute(&update, &[&3_i32, &"o'p\\q", &20_i32]).await.map(drop)
        }
        4 => tool.execute(&dice.statement(), &[]).await.map(drop),
        _ => tool.batch_execute(&dice.statement()).await,
    };
    if done.is_err() {
        tool.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn what_is_captured_makes_the_blueprint_again() {
    let mut statements = 0;
    let histories = std::env::var("INSULA_HISTORIES").ok().and_then(|text| text.parse().ok());
    for seed in 0..histories.unwrap_or(HISTORIES) {
        let mut world = World::start().await;
        let dice = Dice(SeededEntropy::new(seed));
        for name in ["first", "second", "third"] {
            let tool = world.tool().await;
            for _ in 0..STEPS / 3 {
                step(&dice, &tool).await;
            }
            let draft = world.capture(name).await;
            assert_eq!(draft.refusals, [], "seed {seed}: {}", draft.sql);
            statements += draft.statements;
        }
        let texts: Vec<_> = world.captured.iter().map(|version| version.migration().sql.as_str()).collect();
        let (made, found) = world
            .try_made_and_found()
            .await
            .unwrap_or_else(|problem| panic!("seed {seed}: {}\n{}", problem.chain(), texts.join("\n")));
        let differences = made.fingerprint.differences(&found.fingerprint);
        assert_eq!(differences, [], "seed {seed}: {}", texts.join("\n"));
        assert_eq!(made.rows, found.rows, "seed {seed}: {}", texts.join("\n"));
        world.assert_silo_equals_the_blueprint_but_for(&["s"]).await;
    }
    assert!(statements > 300, "canary: {statements} statements were captured");
}
