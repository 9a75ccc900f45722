//! Statements about everything else that belongs to a schema.

use super::{Author, Definitions};

impl Author {
    pub(super) fn other(&mut self, there: &Definitions) -> Option<String> {
        let (table, _) = self.pick(&there.tables)?.clone();
        let cascade = self.one_of(&["", " CASCADE"]);
        Some(match self.below(20) {
            0 => format!("DROP TABLE {table}{cascade}"),
            1 => format!("DROP INDEX {}", self.pick(&there.indexes)?),
            2 => format!("ALTER INDEX {} RENAME TO {}", self.pick(&there.indexes)?.clone(), self.name("i")),
            3 | 4 => format!("CREATE VIEW {} AS SELECT c0, c1 FROM {table}", self.name("v")),
            5 => format!(
                "CREATE VIEW {} AS SELECT c0 FROM {}",
                self.name("v"),
                self.pick(&there.views)?.clone()
            ),
            6 => format!("DROP VIEW {}{cascade}", self.pick(&there.views)?),
            7 => format!("ALTER VIEW {} RENAME TO {}", self.pick(&there.views)?.clone(), self.name("v")),
            8 => format!("CREATE TYPE {} AS ENUM ('a', 'b')", self.name("e")),
            9 => format!("ALTER TYPE {} ADD VALUE 'v{}'", self.pick(&there.enums)?.clone(), self.made),
            10 => {
                format!("ALTER TYPE {} RENAME TO {}", self.pick(&there.enums)?.clone(), self.name("e"))
            }
            11 => format!("DROP TYPE {}{cascade}", self.pick(&there.enums)?),
            12 => format!("CREATE SEQUENCE {} START 5", self.name("s")),
            13 => format!(
                "ALTER SEQUENCE {} RENAME TO {}",
                self.pick(&there.sequences)?.clone(),
                self.name("s")
            ),
            14 => {
                let name = self.name("f");
                format!(
                    "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;\nCREATE TRIGGER g{} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()",
                    self.made
                )
            }
            15 => format!("DROP FUNCTION {}(){cascade}", self.pick(&there.functions)?),
            16 => format!("COMMENT ON TABLE {table} IS 'x'"),
            17 => format!("CREATE STATISTICS {} ON c0, c1 FROM {table}", self.name("st")),
            18 => {
                let (parent, partition) = self.pick(&there.partitions)?;
                format!("ALTER TABLE {parent} DETACH PARTITION {partition}")
            }
            _ => {
                format!("INSERT INTO {table} (c0, c1) VALUES ({}, 1) ON CONFLICT DO NOTHING", self.below(40))
            }
        })
    }

    /// Functions, triggers, domains, composite types, comments, and what else
    /// applications use of `ALTER`.
    pub(super) fn more(&mut self, there: &Definitions) -> Option<String> {
        match self.below(6) {
            0 => self.routine(there),
            1 => self.trigger(there),
            2 => self.domain(there),
            3 => self.comment(there),
            4 => self.view(there),
            _ => self.setting(there),
        }
    }

    fn routine(&mut self, there: &Definitions) -> Option<String> {
        let (table, _) = self.pick(&there.tables)?.clone();
        let name = self.name("fn");
        Some(match self.below(8) {
            0 => format!(
                "CREATE FUNCTION {name}(a int, b int DEFAULT 2) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + b'"
            ),
            1 => format!("CREATE FUNCTION {name}(a int) RETURNS int IMMUTABLE STRICT RETURN a * 2"),
            2 => format!(
                "CREATE FUNCTION {name}() RETURNS bigint LANGUAGE sql STABLE AS $f$ SELECT count(*) FROM {table} $f$"
            ),
            3 => format!(
                "CREATE FUNCTION {name}(n int) RETURNS void LANGUAGE plpgsql AS $f$ BEGIN UPDATE {table} SET c1 = n WHERE c1 = n + 1; END $f$"
            ),
            4 => format!(
                "CREATE FUNCTION {name}() RETURNS SETOF {table} LANGUAGE sql AS 'SELECT * FROM {table}'"
            ),
            5 => format!(
                "CREATE OR REPLACE FUNCTION common(a text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN RETURN a || '{}'; END $f$",
                self.made
            ),
            6 => {
                let routine = self.pick(&there.routines)?.clone();
                format!("DROP FUNCTION {routine}{}", self.one_of(&["", " CASCADE"]))
            }
            _ => {
                let routine = self.pick(&there.routines)?.clone();
                format!(
                    "ALTER FUNCTION {routine} {}",
                    self.one_of(&["STABLE", "COST 7", "RENAME TO renamed", "STRICT"])
                )
            }
        })
    }

    fn trigger(&mut self, there: &Definitions) -> Option<String> {
        let (table, _) = self.pick(&there.tables)?.clone();
        let (function, name) = (self.name("f"), self.name("g"));
        let make = |body: &str, head: &str| {
            format!(
                "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {body} END $f$;\nCREATE TRIGGER {name} {head} EXECUTE FUNCTION {function}()"
            )
        };
        Some(match self.below(8) {
            0 => make(
                "NEW.c2 := rtrim(coalesce(NEW.c2, ''), '!') || '!'; RETURN NEW;",
                &format!("BEFORE INSERT ON {table} FOR EACH ROW"),
            ),
            1 => {
                let (other, _) = self.pick(&there.tables)?.clone();
                let body = format!(
                    "INSERT INTO {other} (c0, c1) VALUES (NEW.c0 + 5000, 5) ON CONFLICT DO NOTHING; RETURN NULL;"
                );
                make(&body, &format!("AFTER INSERT ON {table} FOR EACH ROW WHEN (NEW.c0 < 5000)"))
            }
            2 => {
                let (other, _) = self.pick(&there.tables)?.clone();
                let body = format!("UPDATE {other} SET c1 = c1 + 1 WHERE c1 < 20; RETURN NULL;");
                make(&body, &format!("AFTER DELETE ON {table} FOR EACH STATEMENT"))
            }
            3 => make(
                "IF NEW.c1 > 900 THEN RETURN NULL; END IF; RETURN NEW;",
                &format!("BEFORE UPDATE OF c1 ON {table} FOR EACH ROW"),
            ),
            4 => {
                let (table, trigger) = self.pick(&there.triggers)?.clone();
                format!("ALTER TRIGGER {trigger} ON {table} RENAME TO {name}")
            }
            5 => {
                let (table, trigger) = self.pick(&there.triggers)?.clone();
                format!("DROP TRIGGER {trigger} ON {table}")
            }
            6 => {
                let (table, trigger) = self.pick(&there.triggers)?.clone();
                format!("ALTER TABLE {table} {} TRIGGER {trigger}", self.one_of(&["DISABLE", "ENABLE"]))
            }
            _ => {
                let function = self.pick(&there.functions)?.clone();
                format!(
                    "CREATE CONSTRAINT TRIGGER {name} AFTER UPDATE ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {function}()"
                )
            }
        })
    }

    fn domain(&mut self, there: &Definitions) -> Option<String> {
        let name = self.name("d");
        Some(match self.below(9) {
            0 => format!("CREATE DOMAIN {name} AS text CHECK (length(VALUE) < 50)"),
            1 => format!("CREATE DOMAIN {name} AS int DEFAULT 3 CONSTRAINT small CHECK (VALUE < 9999)"),
            2 => format!(
                "ALTER DOMAIN {} ADD CONSTRAINT c{} CHECK (VALUE IS NOT NULL OR true) NOT VALID",
                self.pick(&there.domains)?.clone(),
                self.made
            ),
            3 => format!("ALTER DOMAIN {} RENAME TO {name}", self.pick(&there.domains)?),
            4 => format!(
                "DROP DOMAIN {}{}",
                self.pick(&there.domains)?.clone(),
                self.one_of(&["", " CASCADE"])
            ),
            5 => format!("CREATE TYPE {name} AS (a int, b text)"),
            6 => format!(
                "ALTER TYPE {} ADD ATTRIBUTE x{} int",
                self.pick(&there.composites)?.clone(),
                self.made
            ),
            7 => format!(
                "ALTER TYPE {} RENAME ATTRIBUTE a TO a{}",
                self.pick(&there.composites)?.clone(),
                self.made
            ),
            _ => format!("ALTER TYPE {} RENAME VALUE 'a' TO 'A'", self.pick(&there.enums)?),
        })
    }

    fn comment(&mut self, there: &Definitions) -> Option<String> {
        let (table, column, _) = self.pick(&there.columns)?.clone();
        let on = match self.below(9) {
            0 => format!("COLUMN {table}.{column}"),
            1 => format!("INDEX {}", self.pick(&there.indexes)?),
            2 => format!("VIEW {}", self.pick(&there.views)?),
            3 => {
                let (table, name, _) = self.pick(&there.constraints)?;
                format!("CONSTRAINT {name} ON {table}")
            }
            4 => format!("FUNCTION {}", self.pick(&there.routines)?),
            5 => format!("DOMAIN {}", self.pick(&there.domains)?),
            6 => format!("TYPE {}", self.pick(&there.enums)?),
            7 => format!("SEQUENCE {}", self.pick(&there.sequences)?),
            _ => {
                let (table, name) = self.pick(&there.triggers)?;
                format!("TRIGGER {name} ON {table}")
            }
        };
        let text = self.one_of(&["'Tom''s; first'", "'second'", "NULL", "E'a\\nb'"]);
        Some(format!("COMMENT ON {on} IS {text}"))
    }

    fn view(&mut self, there: &Definitions) -> Option<String> {
        let ((table, _), (other, _)) = (self.pick(&there.tables)?.clone(), self.pick(&there.tables)?.clone());
        let name = self.name("v");
        Some(match self.below(6) {
            0 => format!(
                "CREATE VIEW {name} AS SELECT a.c0, b.c2 AS label FROM {table} a LEFT JOIN {other} b ON a.c1 = b.c0"
            ),
            1 => format!("CREATE VIEW {name} (n, total) AS SELECT c1, count(*) FROM {table} GROUP BY c1"),
            2 => format!("CREATE VIEW {name} AS SELECT c0, c1 FROM {table} WHERE c1 > 0 WITH CHECK OPTION"),
            3 => format!("CREATE OR REPLACE VIEW {} AS SELECT c0, c1 FROM {table}", self.pick(&there.views)?),
            4 => format!(
                "CREATE VIEW {name} AS WITH q AS (SELECT c0 FROM {table}) SELECT c0 FROM q UNION ALL SELECT c1 FROM {other}"
            ),
            _ => format!("ALTER VIEW {} ALTER COLUMN c0 SET DEFAULT 7", self.pick(&there.views)?),
        })
    }

    fn setting(&mut self, there: &Definitions) -> Option<String> {
        let (table, column, _) = self.pick(&there.columns)?.clone();
        Some(match self.below(10) {
            0 => format!("ALTER TABLE {table} ALTER {column} SET STORAGE EXTERNAL"),
            1 => format!("ALTER TABLE {table} ALTER {column} SET (n_distinct = 5)"),
            2 => {
                let (table, name, _) = self.pick(&there.constraints)?;
                format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
            }
            3 => {
                let (table, name, _) = self.pick(&there.constraints)?;
                format!("ALTER TABLE {table} ALTER CONSTRAINT {name} DEFERRABLE INITIALLY DEFERRED")
            }
            4 => format!("ALTER TABLE {table} ALTER {column} DROP EXPRESSION"),
            5 => format!("ALTER TABLE {table} ALTER {column} DROP IDENTITY"),
            6 => format!(
                "ALTER TABLE {table} ADD CONSTRAINT \"Used {column}\" UNIQUE USING INDEX {}",
                self.pick(&there.indexes)?
            ),
            7 => format!("ALTER SEQUENCE {} INCREMENT BY 3 CACHE 2", self.pick(&there.sequences)?),
            8 => format!("ALTER TABLE {table} ALTER {column} SET DEFAULT 5"),
            _ => format!("ALTER SEQUENCE {} OWNED BY {table}.{column}", self.pick(&there.sequences)?),
        })
    }
}
