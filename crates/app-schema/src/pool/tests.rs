//! The pool form of what applications write, and what is refused.

use insula_domain::SchemaVersion;

use super::*;
use crate::folder::Migration;
use crate::plain::check;

pub(super) fn plain(version: i32, sql: &str) -> PlainMigration {
    check(&Migration::new(SchemaVersion(version), "test", sql)).unwrap()
}

/// The pool form of one migration on an empty app schema.
pub(super) fn rewrite(sql: &str) -> Vec<PoolStatement> {
    PoolForm::new().rewrite(&plain(1, sql)).unwrap().statements
}

pub(super) fn sql_of(sql: &str) -> Vec<String> {
    rewrite(sql).into_iter().map(|statement| statement.sql).collect()
}

/// The statements that the last line of a migration becomes.
pub(super) fn last_line(sql: &str) -> Vec<String> {
    let line = sql.trim_end().lines().count();
    let of_line = rewrite(sql).into_iter().filter(|statement| statement.line == line);
    of_line.map(|statement| statement.sql).collect()
}

pub(super) fn refused(sql: &str) -> Vec<(usize, RefusalKind)> {
    match PoolForm::new().rewrite(&plain(1, sql)) {
        Ok(_) => Vec::new(),
        Err(Refusals(refusals)) => refusals.into_iter().map(|refusal| (refusal.line, refusal.kind)).collect(),
    }
}

pub(super) const TABLES: &str = "CREATE TABLE p (id int PRIMARY KEY, a int, b int, UNIQUE (a, b)); \
    CREATE TABLE t (id int PRIMARY KEY, x int, y int);\n";

pub(super) fn on_tables(sql: &str) -> String {
    format!("{TABLES}{sql}")
}

#[test]
fn the_shop_has_this_pool_form() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop/schema");
    let mut form = PoolForm::new();
    let mut text = String::new();
    let files = ["0001_catalogue", "0002_orders", "0003_reviews_and_discounts"];
    for (file, version) in files.into_iter().zip(1..) {
        let sql = std::fs::read_to_string(format!("{folder}/{file}.sql")).unwrap();
        let plain = check(&Migration::new(SchemaVersion(version), &file[5..], &sql)).unwrap();
        let pool = form.rewrite(&plain).unwrap();
        text.push_str(&format!("-- {}\n", pool.file));
        for statement in pool.statements {
            text.push_str(&format!("{:>3} {:?}: {}\n", statement.line, statement.runs, statement.sql));
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_table_gets_the_column_the_keys_and_the_policy() {
    let statements =
        sql_of("CREATE TABLE t (id bigserial PRIMARY KEY, a text UNIQUE DEFERRABLE, b int NOT NULL)");
    assert_eq!(
        statements,
        [
            "CREATE TABLE t (id bigserial, a text, b int NOT NULL, \
             tenant_id uuid NOT NULL DEFAULT insula.current_tenant(), \
             CONSTRAINT t_pkey PRIMARY KEY (tenant_id, id), CONSTRAINT t_a_key UNIQUE (tenant_id, a) DEFERRABLE)",
            "ALTER TABLE \"t\" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "CREATE POLICY insula_tenant ON \"t\" AS PERMISSIVE FOR ALL TO PUBLIC \
             USING (tenant_id = insula.current_tenant()) WITH CHECK (tenant_id = (SELECT insula.current_tenant()))",
        ]
    );
}

#[test]
fn a_table_without_a_key_gets_an_index_for_the_policy() {
    let statements = sql_of("CREATE TABLE t (a int)");
    assert_eq!(statements.last().unwrap(), "CREATE INDEX \"t_tenant_id_idx\" ON \"t\" (tenant_id)");
    let keyed_later = sql_of("CREATE TABLE t (a int); ALTER TABLE ONLY t ADD PRIMARY KEY (a)");
    assert!(!keyed_later.iter().any(|sql| sql.contains("CREATE INDEX")));
    let dropped = sql_of("CREATE TABLE t (a int); DROP TABLE t");
    assert!(!dropped.iter().any(|sql| sql.contains("CREATE INDEX")));
}

#[test]
fn foreign_keys_are_widened_on_both_sides() {
    let cases = [
        ("x int REFERENCES p", "CONSTRAINT c_x_fkey FOREIGN KEY (tenant_id, x) REFERENCES p (tenant_id, id)"),
        (
            "x int, y int, FOREIGN KEY (x, y) REFERENCES p (a, b) ON DELETE CASCADE",
            "CONSTRAINT c_x_y_fkey FOREIGN KEY (tenant_id, x, y) REFERENCES p (tenant_id, a, b) ON DELETE CASCADE",
        ),
        (
            "x int CONSTRAINT k REFERENCES p ON DELETE SET NULL",
            "REFERENCES p (tenant_id, id) ON DELETE SET NULL (x)",
        ),
        ("x int REFERENCES p ON DELETE SET DEFAULT", "ON DELETE SET DEFAULT (x)"),
        (
            "x int, y int, FOREIGN KEY (x, y) REFERENCES p (a, b) ON DELETE SET NULL (y)",
            "REFERENCES p (tenant_id, a, b) ON DELETE SET NULL (y)",
        ),
        ("x int REFERENCES p MATCH FULL ON UPDATE CASCADE", "REFERENCES p (tenant_id, id) ON UPDATE CASCADE"),
        ("x int REFERENCES p DEFERRABLE INITIALLY DEFERRED", "DEFERRABLE INITIALLY DEFERRED"),
        (
            "x int PRIMARY KEY, y int REFERENCES c",
            "CONSTRAINT c_y_fkey FOREIGN KEY (tenant_id, y) REFERENCES c (tenant_id, x)",
        ),
        (
            "x int REFERENCES p, FOREIGN KEY (x) REFERENCES t",
            "CONSTRAINT c_x_fkey1 FOREIGN KEY (tenant_id, x) REFERENCES t (tenant_id, id)",
        ),
    ];
    for (columns, expected) in cases {
        let statements = last_line(&on_tables(&format!("CREATE TABLE c ({columns})")));
        assert!(statements[0].contains(expected), "{columns}: {}", statements[0]);
    }
}

#[test]
fn added_foreign_keys_are_checked_by_the_admin() {
    for sql in
        ["ALTER TABLE t ADD FOREIGN KEY (x) REFERENCES p", "ALTER TABLE t ADD COLUMN z int REFERENCES p"]
    {
        let statements = rewrite(&on_tables(sql));
        assert_eq!(statements.last().unwrap().runs, Runs::Admin, "{sql}");
    }
    let statements = rewrite(&on_tables("ALTER TABLE t ADD UNIQUE (x)"));
    assert_eq!(statements.last().unwrap().runs, Runs::Owner);
}

#[test]
fn altered_tables_stay_in_form() {
    let cases = [
        (
            "ALTER TABLE t ADD COLUMN z text UNIQUE",
            "ALTER TABLE t ADD COLUMN z text, ADD CONSTRAINT t_z_key UNIQUE (tenant_id, z)",
        ),
        (
            "ALTER TABLE t ADD COLUMN z int NOT NULL DEFAULT 1 REFERENCES p ON DELETE CASCADE",
            "ALTER TABLE t ADD COLUMN z int NOT NULL DEFAULT 1, ADD CONSTRAINT t_z_fkey FOREIGN KEY (tenant_id, z) \
             REFERENCES p (tenant_id, id) ON DELETE CASCADE",
        ),
        (
            "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, x)",
            "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (tenant_id, id, x)",
        ),
        (
            "ALTER TABLE t ADD CONSTRAINT k UNIQUE NULLS NOT DISTINCT (x) INCLUDE (y)",
            "ALTER TABLE t ADD CONSTRAINT k UNIQUE NULLS NOT DISTINCT (tenant_id, x) INCLUDE (y)",
        ),
        ("ALTER TABLE t ADD CHECK (x > 0)", "ALTER TABLE t ADD CHECK (x > 0)"),
        (
            "ALTER TABLE t ALTER COLUMN x TYPE bigint USING x + 1",
            "ALTER TABLE t ALTER COLUMN x TYPE bigint USING x + 1",
        ),
        ("ALTER TABLE t RENAME TO u", "ALTER TABLE t RENAME TO u"),
        (
            "ALTER TABLE t ALTER x SET NOT NULL, DROP COLUMN y",
            "ALTER TABLE t ALTER COLUMN x SET NOT NULL, DROP y",
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(last_line(&on_tables(sql))[0], expected);
    }
}

#[test]
fn renames_and_drops_are_followed() {
    let renamed = on_tables(
        "ALTER TABLE p RENAME TO q; ALTER TABLE q RENAME id TO key;\nALTER TABLE t ADD FOREIGN KEY (x) REFERENCES q",
    );
    assert!(last_line(&renamed)[0].ends_with("REFERENCES q (tenant_id, key)"));
    let keyed = on_tables(
        "ALTER TABLE p RENAME CONSTRAINT p_pkey TO k; ALTER TABLE p DROP CONSTRAINT k;\nALTER TABLE p ADD PRIMARY KEY (a)",
    );
    assert_eq!(last_line(&keyed), ["ALTER TABLE p ADD CONSTRAINT p_pkey PRIMARY KEY (tenant_id, a)"]);
    let column = on_tables(
        "CREATE UNIQUE INDEX ON t (x); ALTER TABLE t DROP COLUMN x; ALTER TABLE t ADD x int;\nCREATE UNIQUE INDEX ON t (x)",
    );
    assert!(last_line(&column)[0].contains("INDEX t_x_idx ON"));
    let used =
        on_tables("CREATE UNIQUE INDEX i ON t (x);\nALTER TABLE t ADD CONSTRAINT k UNIQUE USING INDEX i");
    assert_eq!(last_line(&used), ["ALTER TABLE t ADD CONSTRAINT k UNIQUE USING INDEX i"]);
}

#[test]
fn indexes_get_the_tenant_first_where_it_serves() {
    let cases = [
        ("CREATE INDEX ON t (x)", "CREATE INDEX t_x_idx ON t USING btree (tenant_id, x)"),
        (
            "CREATE INDEX i ON t (x DESC NULLS LAST)",
            "CREATE INDEX i ON t USING btree (tenant_id, x DESC NULLS LAST)",
        ),
        (
            "CREATE UNIQUE INDEX ON t (abs(x), y) WHERE y > 0",
            "CREATE UNIQUE INDEX t_abs_y_idx ON t USING btree (tenant_id, abs(x), y) WHERE y > 0",
        ),
        (
            "CREATE INDEX ON t (x) INCLUDE (y)",
            "CREATE INDEX t_x_y_idx ON t USING btree (tenant_id, x) INCLUDE (y)",
        ),
        (
            "CREATE INDEX ON t ((x + y), (x - y))",
            "CREATE INDEX t_expr_expr1_idx ON t USING btree (tenant_id, (x + y), (x - y))",
        ),
        ("CREATE INDEX ON t USING hash (x)", "CREATE INDEX t_x_idx ON t USING hash (x)"),
        ("CREATE INDEX ON t USING brin (x)", "CREATE INDEX t_x_idx ON t USING brin (x)"),
    ];
    for (sql, expected) in cases {
        assert_eq!(last_line(&on_tables(sql)), [expected]);
    }
}

#[test]
fn views_read_with_the_rights_of_who_asks() {
    let view = last_line(&on_tables("CREATE VIEW v AS SELECT x FROM t"));
    assert_eq!(view, ["CREATE VIEW v WITH (security_invoker=true) AS SELECT x FROM t"]);
    let own = last_line(&on_tables(
        "CREATE OR REPLACE VIEW v WITH (security_barrier, security_invoker) AS SELECT x FROM t",
    ));
    assert_eq!(own[0].matches("security_invoker").count(), 1);
    assert!(own[0].contains("security_barrier"));
}

#[test]
fn data_runs_as_each_tenant_and_finds_its_index() {
    let insert = "INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO NOTHING";
    let statements = rewrite(&on_tables(insert));
    let last = statements.last().unwrap();
    assert_eq!(last.runs, Runs::Tenant);
    assert_eq!(last.sql, "INSERT INTO t (id) VALUES (1) ON CONFLICT (tenant_id, id) DO NOTHING");
    let nested = "WITH w AS (INSERT INTO t VALUES (1) ON CONFLICT (id) WHERE x > 1 DO NOTHING RETURNING id) SELECT id FROM w";
    assert!(last_line(&on_tables(nested))[0].contains("ON CONFLICT (tenant_id, id) WHERE"));
}

#[test]
fn data_runs_no_sql_made_of_text() {
    let run = "CREATE FUNCTION run(a text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE a; RETURN a; END $$;\n\
        CREATE FUNCTION via(a text) RETURNS text LANGUAGE sql AS 'SELECT run(a)';\n";
    for (sql, line) in [
        ("SELECT run('x')", 4),
        ("UPDATE t SET x = 1 WHERE via('x') = 'x'", 4),
        ("CREATE VIEW v AS SELECT run('x') AS r;\nINSERT INTO t (id) SELECT 1 FROM v", 5),
        ("ALTER TABLE t ALTER x SET DEFAULT length(run('1'));\nINSERT INTO t (id) VALUES (1)", 5),
    ] {
        assert_eq!(
            refused(&on_tables(&format!("{run}{sql}"))),
            [(line, RefusalKind::DataStatement)],
            "{sql}"
        );
    }
    assert_eq!(refused(&on_tables(&format!("{run}UPDATE t SET x = length('x')"))), []);
}

#[test]
fn conflict_targets_in_functions_are_widened() {
    let function = "CREATE FUNCTION f(a int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN \
        INSERT INTO t (id) VALUES (a) ON CONFLICT (id) DO UPDATE SET x = 1; END $$";
    assert!(last_line(&on_tables(function))[0].contains("ON CONFLICT (tenant_id, id)"));
    let sql = "CREATE FUNCTION f(a int) RETURNS void LANGUAGE sql AS $$ INSERT INTO t (id) VALUES (a) ON CONFLICT (id) DO NOTHING $$";
    assert!(last_line(&on_tables(sql))[0].contains("ON CONFLICT (tenant_id, id)"));
    let text = "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'INSERT INTO t VALUES (1) ON CONFLICT (id) DO NOTHING'; END $$";
    assert_eq!(refused(&on_tables(text)), [(2, RefusalKind::Function)]);
}

pub(super) const TOUCH: &str = "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.x := NEW.x + 1; RETURN NEW; END $$;\n";
pub(super) const LOG: &str = "CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO p (id) VALUES (1); RETURN NEW; END $$;\n";
pub(super) const DYNAMIC: &str = "CREATE FUNCTION dynamic() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SELECT 1'; RETURN NEW; END $$;\n";
pub(super) const CASCADE: &str = "ALTER TABLE t ADD FOREIGN KEY (x) REFERENCES p ON DELETE CASCADE;\n";

#[test]
fn trigger_functions_get_a_fixed_search_path() {
    let statements = sql_of(&on_tables(TOUCH));
    assert_eq!(statements.last().unwrap(), "ALTER ROUTINE touch() SET search_path TO app, public, pg_temp");
    let replaced = sql_of(&on_tables(&format!("{TOUCH}{}", TOUCH.replace("CREATE", "CREATE OR REPLACE"))));
    assert_eq!(replaced.iter().filter(|sql| sql.starts_with("ALTER ROUTINE")).count(), 2);
    // What a check calls, and what that calls in turn, is fixed as well.
    let nested = "CREATE FUNCTION inner_one(a int, VARIADIC b text[]) RETURNS int LANGUAGE sql AS 'SELECT a + abs(a)';\n\
        CREATE FUNCTION outer_one(a int, OUT b int) LANGUAGE sql AS 'SELECT inner_one(a)';\n\
        CREATE FUNCTION free(a int) RETURNS int LANGUAGE sql AS 'SELECT a';\n\
        ALTER TABLE t ADD CHECK (outer_one(x) > 0)";
    let mut pins = last_line(&on_tables(nested)).split_off(1);
    pins.sort();
    assert_eq!(
        pins,
        [
            "ALTER ROUTINE inner_one(int, text[]) SET search_path TO app, public, pg_temp",
            "ALTER ROUTINE outer_one(int) SET search_path TO app, public, pg_temp",
        ]
    );
}

#[test]
fn triggers_that_a_cascade_runs_as_the_owner_must_touch_no_table() {
    let before = |function: &str| {
        format!("CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION {function}();\n")
    };
    let after = |function: &str| {
        format!("CREATE TRIGGER g AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION {function}();\n")
    };
    let fine = [
        format!("{TOUCH}{CASCADE}{}", before("touch")),
        format!("{LOG}{}", before("log")),
        format!("{LOG}{CASCADE}{}", after("log")),
        format!("{LOG}{CASCADE}CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION log();"),
        format!("{LOG}{CASCADE}{}", before("log").replace("ON t", "ON p")),
        format!(
            "{CASCADE}CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();"
        ),
    ];
    for sql in fine {
        assert_eq!(refused(&on_tables(&sql)), [], "{sql}");
    }
    let line = |sql: &str, line: usize| {
        assert_eq!(refused(&on_tables(sql)), [(line, RefusalKind::Trigger)], "{sql}")
    };
    line(&format!("{LOG}{CASCADE}{}", before("log")), 4);
    line(&format!("{LOG}{CASCADE}{}", before("log").replace("EACH ROW", "EACH STATEMENT")), 4);
    for action in ["ON DELETE SET NULL", "ON DELETE SET DEFAULT", "ON UPDATE CASCADE"] {
        line(&format!("{LOG}{}{}", CASCADE.replace("ON DELETE CASCADE", action), before("log")), 4);
    }
    // The foreign key may come after the trigger.
    line(&format!("{LOG}{}{CASCADE}", before("log")), 4);
    line(&format!("{LOG}{}ALTER TABLE t ADD COLUMN z int REFERENCES p ON UPDATE CASCADE;", before("log")), 4);
    // The function may be replaced by another after both.
    let replaced = LOG.replace("CREATE FUNCTION log", "CREATE OR REPLACE FUNCTION touch");
    line(&format!("{TOUCH}{CASCADE}{}{replaced}", before("touch")), 5);
    // And it may reach a table through another function.
    let through = "CREATE FUNCTION count_p() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM p';\n\
        CREATE FUNCTION via() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.x := count_p(); RETURN NEW; END $$;\n";
    line(&format!("{through}{CASCADE}{}", before("via")), 5);
    // SQL made of text is refused in every trigger.
    line(&format!("{DYNAMIC}CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION dynamic()"), 3);
}

#[test]
fn what_definitions_call_must_touch_no_table() {
    let reads = "CREATE FUNCTION reads(a int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT count(*)::int + a FROM p';\n";
    for definition in [
        "ALTER TABLE t ADD CHECK (reads(x) > 0)",
        "ALTER TABLE t ADD COLUMN z int GENERATED ALWAYS AS (reads(x)) STORED",
        "ALTER TABLE t ADD COLUMN z int DEFAULT reads(1)",
        "ALTER TABLE t ALTER COLUMN x TYPE bigint USING reads(x)",
        "CREATE INDEX ON t (reads(x))",
        "CREATE INDEX ON t (x) WHERE reads(x) > 1",
        "CREATE DOMAIN d AS int CHECK (reads(VALUE) > 0)",
        "CREATE TABLE u (a int CHECK (reads(a) > 0))",
        "CREATE TABLE u (a int DEFAULT reads(1) REFERENCES p ON DELETE SET DEFAULT)",
        "CREATE TABLE u (a int CHECK (query_to_xml('SELECT 1', true, true, '') IS NOT NULL))",
    ] {
        let sql = on_tables(&format!("{reads}{definition}"));
        assert_eq!(refused(&sql), [(3, RefusalKind::Expression)], "{definition}");
    }
    // A function of the same name does not stand for PostgreSQL's own.
    for (name, call) in
        [("query_to_xml", "query_to_xml('TABLE p', true, true, '')"), ("pg_ls_dir", "pg_ls_dir('.')")]
    {
        let harmless = format!("CREATE FUNCTION {name}(int) RETURNS int LANGUAGE sql AS 'SELECT 1';\n");
        let sql = on_tables(&format!("{harmless}CREATE TABLE u (a int CHECK ({call} IS NOT NULL))"));
        assert_eq!(refused(&sql), [(3, RefusalKind::Expression)], "{name}");
    }
    let fine = on_tables(&format!("{reads}CREATE TABLE u (a int DEFAULT reads(1) REFERENCES p)"));
    assert_eq!(refused(&fine), []);
    // A function behind a dot.
    let field = "CREATE FUNCTION size(c comp) RETURNS int LANGUAGE sql AS 'SELECT count(*)::int FROM p';\n\
        CREATE TABLE u (a comp CHECK ((a).size > 0));";
    let column = format!("{LOG}CREATE TABLE u (a int, log int);\nALTER TABLE u ADD CHECK (u.log > 0)");
    assert_eq!(refused(&on_tables(&column)), []);
    let sql = format!("{TABLES}CREATE TYPE comp AS (a int);\n{field}");
    assert_eq!(refused(&sql), [(4, RefusalKind::Expression)]);
}

#[test]
fn what_cannot_be_kept_apart_is_refused() {
    use RefusalKind as K;
    let cases = [
        ("CREATE TABLE c (tenant_id int)", K::TenantColumn),
        ("CREATE VIEW w WITH (security_invoker = off) AS SELECT 1 AS a", K::RowSecurity),
        ("ALTER TABLE t ADD COLUMN tenant_id uuid", K::TenantColumn),
        ("ALTER TABLE t RENAME x TO tenant_id", K::TenantColumn),
        ("CREATE TABLE c PARTITION OF t DEFAULT", K::UnknownObject),
        ("CREATE TABLE c () INHERITS (t)", K::TableKind),
        ("ALTER TABLE t INHERIT p", K::TableKind),
        ("CREATE UNLOGGED TABLE c (a int)", K::TableKind),
        ("ALTER TABLE t SET UNLOGGED", K::TableKind),
        ("CREATE TABLE c (LIKE t)", K::TableKind),
        ("CREATE TABLE c OF ty", K::TableKind),
        ("CREATE TABLE c AS SELECT 1", K::TableKind),
        ("SELECT * INTO c FROM t", K::TableKind),
        ("CREATE MATERIALIZED VIEW m AS SELECT 1", K::TableKind),
        ("REFRESH MATERIALIZED VIEW m", K::TableKind),
        ("CREATE TABLE c (a int, EXCLUDE USING gist (a WITH =))", K::Constraint),
        ("CREATE TABLE c (a int, b int, FOREIGN KEY (a, b) REFERENCES p (a, b) MATCH FULL)", K::Constraint),
        ("CREATE TABLE c (a int REFERENCES p ON UPDATE SET NULL)", K::Constraint),
        ("CREATE TABLE c (a int REFERENCES p ON UPDATE SET DEFAULT)", K::Constraint),
        ("CREATE TABLE c (a int REFERENCES p ON DELETE SET NULL) PARTITION BY HASH (a)", K::Constraint),
        ("CREATE TABLE c (a int REFERENCES missing)", K::UnknownObject),
        ("ALTER TABLE missing ADD COLUMN a int", K::UnknownObject),
        ("CREATE INDEX ON missing (a)", K::UnknownObject),
        ("DROP INDEX missing", K::UnknownObject),
        ("CREATE TABLE c (a smallserial)", K::Sequence),
        ("CREATE TABLE c (a smallint GENERATED ALWAYS AS IDENTITY)", K::Sequence),
        ("ALTER TABLE t ALTER id RESTART", K::Sequence),
        ("ALTER SEQUENCE s RESTART", K::Sequence),
        ("SELECT setval('s', 1)", K::UnknownObject),
        ("CREATE POLICY mine ON t USING (true)", K::RowSecurity),
        ("ALTER TABLE t DISABLE ROW LEVEL SECURITY", K::RowSecurity),
        ("ALTER TABLE t NO FORCE ROW LEVEL SECURITY", K::RowSecurity),
        ("CREATE VIEW v WITH (security_invoker=false) AS SELECT 1", K::RowSecurity),
        ("ALTER VIEW v SET (security_invoker=false)", K::RowSecurity),
        ("ALTER TABLE v SET (security_invoker=off)", K::RowSecurity),
        ("ALTER VIEW v RESET (security_invoker)", K::RowSecurity),
        ("CREATE RULE r AS ON INSERT TO t DO NOTHING", K::RowSecurity),
        ("ALTER TABLE t DISABLE TRIGGER ALL", K::Trigger),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", K::Function),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE plperl AS 'x'", K::Function),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETRUN 1; END'", K::Function),
        ("ALTER FUNCTION f() SECURITY DEFINER", K::Function),
        ("ALTER FUNCTION f() RESET search_path", K::Function),
        ("CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION missing()", K::UnknownObject),
        ("CREATE AGGREGATE a (int) (SFUNC = int4pl, STYPE = int)", K::NotSupported),
        ("CREATE OPERATOR + (FUNCTION = f, LEFTARG = int)", K::NotSupported),
        ("CREATE CAST (text AS int) WITH INOUT", K::NotSupported),
        ("CREATE TYPE r AS RANGE (subtype = int)", K::NotSupported),
        ("CREATE STATISTICS st ON (query_to_xml(x::text, true, true, '')::text), y FROM t", K::Expression),
        ("LOCK TABLE t", K::DataStatement),
        ("ALTER TABLE t ADD COLUMN z int; INSERT INTO t VALUES (1, 2, 3, 4)", K::DataStatement),
    ];
    for (sql, kind) in cases {
        assert_eq!(refused(&on_tables(sql)), [(2, kind)], "{sql}");
    }
}

#[test]
fn a_refused_version_changes_nothing() {
    let mut form = PoolForm::new();
    form.rewrite(&plain(1, TABLES)).unwrap();
    let refused = form.rewrite(&plain(
        2,
        "DROP TABLE p;\nCREATE UNLOGGED TABLE a (b int);\nCREATE TABLE tenant (tenant_id int)",
    ));
    assert_eq!(refused.unwrap_err().0.len(), 2);
    assert_eq!(form.version(), SchemaVersion(1));
    let next = form.rewrite(&plain(2, "ALTER TABLE t ADD FOREIGN KEY (x) REFERENCES p")).unwrap();
    assert!(next.statements[0].sql.ends_with("REFERENCES p (tenant_id, id) NOT VALID"));
}

#[test]
fn the_shape_is_what_is_left_by_name() {
    let mut form = PoolForm::new();
    let sql = "CREATE TABLE a (x int); CREATE TABLE b (x int); CREATE VIEW v AS SELECT 1; CREATE TYPE e AS ENUM ('x'); \
        CREATE TYPE c AS (x int); CREATE DOMAIN d AS int; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; \
        ALTER TABLE a RENAME TO z; DROP TABLE b; ALTER TYPE e RENAME TO y; ALTER FUNCTION f() RENAME TO g; DROP DOMAIN d";
    let shape = form.rewrite(&plain(1, sql)).unwrap().shape;
    let names = [shape.tables, shape.views, shape.functions, shape.types]
        .map(|names| names.into_iter().collect::<Vec<_>>());
    assert_eq!(names, [vec!["z"], vec!["v"], vec!["g"], vec!["c", "y"]]);
}

#[test]
fn extensions_are_made_by_the_admin() {
    let statements = rewrite("CREATE EXTENSION \"uuid-ossp\"");
    assert_eq!(statements[0].sql, "CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" SCHEMA public");
    assert_eq!(statements[0].runs, Runs::Admin);
}

#[test]
fn a_sequence_is_brought_forward_as_captures_write_it() {
    let catching_up = "SELECT setval('t_a_seq', GREATEST((SELECT last_value FROM t_a_seq), 57))";
    let sql = format!("CREATE TABLE t (a bigserial PRIMARY KEY);\n{catching_up}");
    assert_eq!(
        last_line(&sql),
        last_line("CREATE TABLE t (a bigserial PRIMARY KEY);\nSELECT setval('t_a_seq', 57)")
    );
    let least = sql.replace("GREATEST", "LEAST");
    assert_eq!(refused(&least), [(2, RefusalKind::Sequence)]);
}
