//! Partitions, drops, truncation and sequences in the pool form.

use super::tests::*;
use super::*;

const PARTS: &str = "CREATE TABLE m (id bigserial, at date NOT NULL, x int REFERENCES p ON DELETE CASCADE, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);\n";

fn on_parts(sql: &str) -> String {
    format!("{}{PARTS}{sql}", TABLES.replace('\n', " "))
}

#[test]
fn partitions_are_protected_one_by_one() {
    let created = last_line(&on_parts(
        "CREATE TABLE m1 PARTITION OF m FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    ));
    assert_eq!(
        created,
        [
            "CREATE TABLE m1 PARTITION OF m FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
            "ALTER TABLE \"m1\" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "CREATE POLICY insula_tenant ON \"m1\" AS PERMISSIVE FOR ALL TO PUBLIC \
             USING (tenant_id = insula.current_tenant()) WITH CHECK (tenant_id = (SELECT insula.current_tenant()))",
        ]
    );
    let own = last_line(&on_parts(
        "CREATE TABLE m1 PARTITION OF m (x DEFAULT 3 CHECK (x > 1), UNIQUE (x, at)) DEFAULT PARTITION BY LIST (x)",
    ));
    assert!(own[0].contains("CONSTRAINT m1_x_at_key UNIQUE (tenant_id, x, at)"), "{}", own[0]);
    assert!(!own[0].contains("insula.current_tenant"), "{}", own[0]);
    let parent = rewrite(&on_parts("SELECT 1"));
    assert!(parent.iter().any(|statement| statement.sql.ends_with("PARTITION BY RANGE (at)")), "{parent:?}");
}

#[test]
fn attaching_and_detaching_look_at_all_rows() {
    let table = "CREATE TABLE m1 (id bigint NOT NULL, at date NOT NULL, x int);\n";
    let attach = "ALTER TABLE m ATTACH PARTITION m1 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')";
    let attached = rewrite(&on_parts(&format!("{table}{attach}")));
    assert_eq!(attached.last().unwrap().runs, Runs::Admin);
    let detached = rewrite(&on_parts(&format!("{table}{attach};\nALTER TABLE m DETACH PARTITION m1")));
    assert_eq!(detached.last().unwrap().runs, Runs::Admin);
    assert_eq!(refused(&on_parts(attach)), [(2, RefusalKind::UnknownObject)]);
}

#[test]
fn copies_of_indexes_are_called_as_in_the_plain_form() {
    let part = "CREATE TABLE m1 PARTITION OF m DEFAULT;\n";
    let before = last_line(&on_parts(&format!(
        "CREATE INDEX ON m (x); CREATE INDEX ON m (x); CREATE INDEX ON m USING brin (at);\n{part}"
    )));
    assert_eq!(
        before[3..],
        [
            "ALTER INDEX IF EXISTS \"m1_tenant_id_x_idx1\" RENAME TO \"m1_x_idx1\"",
            "ALTER INDEX IF EXISTS \"m1_tenant_id_x_idx\" RENAME TO \"m1_x_idx\"",
        ]
    );
    let after = last_line(&on_parts(&format!("{part}CREATE INDEX ON m (x)")));
    assert_eq!(after[1..], ["ALTER INDEX IF EXISTS \"m1_tenant_id_x_idx\" RENAME TO \"m1_x_idx\""]);
    let unique = last_line(&on_parts(&format!("{part}ALTER TABLE m ADD UNIQUE (x, at)")));
    assert_eq!(unique[1..], ["ALTER INDEX IF EXISTS \"m1_tenant_id_x_at_key\" RENAME TO \"m1_x_at_key\""]);
    // A copy without the tenant's column makes room first.
    let hash =
        last_line(&on_parts(&format!("CREATE INDEX ON m (x); CREATE INDEX ON m USING hash (x);\n{part}")));
    assert_eq!(
        hash[3..],
        [
            "ALTER INDEX IF EXISTS \"m1_x_idx\" RENAME TO \"m1_x_idx1\"",
            "ALTER INDEX IF EXISTS \"m1_tenant_id_x_idx\" RENAME TO \"m1_x_idx\"",
        ]
    );
    // What is there is taken, and dropped together with what it belongs to.
    let equal = format!("{part}CREATE INDEX mine ON m1 (x);\nCREATE INDEX ON m (x)");
    assert_eq!(last_line(&on_parts(&equal)).len(), 1);
    let dropped = format!("{part}CREATE INDEX i ON m (x);\nDROP INDEX i;\nCREATE INDEX ON m1 (x)");
    assert!(last_line(&on_parts(&dropped))[0].starts_with("CREATE INDEX m1_x_idx ON"));
}

#[test]
fn triggers_of_a_partitioned_table_are_proved_for_its_partitions() {
    let before = "CREATE TRIGGER g BEFORE DELETE ON m1 FOR EACH ROW EXECUTE FUNCTION log();";
    let sql =
        format!("{}{PARTS}{LOG}CREATE TABLE m1 PARTITION OF m DEFAULT;\n{before}", TABLES.replace('\n', " "));
    assert_eq!(refused(&sql), [(4, RefusalKind::Trigger)]);
    let view = format!(
        "{DYNAMIC}CREATE VIEW v AS SELECT id FROM t;\nCREATE TRIGGER g INSTEAD OF INSERT ON v FOR EACH ROW EXECUTE FUNCTION dynamic()"
    );
    assert_eq!(refused(&on_tables(&view)), [(4, RefusalKind::Trigger)]);
}

#[test]
fn sequences_are_only_moved_forward() {
    for (sql, name, number, flag) in [
        ("SELECT setval('s', 7)", "s", "7", "true"),
        ("SELECT pg_catalog.setval('s'::regclass, 9999999999, false)", "s", "9999999999", "false"),
        ("SELECT setval('\"S x\"', -3, true)", "S x", "-3", "true"),
        ("SELECT setval(pg_get_serial_sequence('\"c\"', 'id'), 5)", "c_id_seq", "5", "true"),
    ] {
        let all = on_tables(&format!(
            "CREATE SEQUENCE s; CREATE SEQUENCE \"S x\"; CREATE TABLE c (id serial);\n{sql}"
        ));
        let statements = rewrite(&all);
        let last = statements.iter().rfind(|statement| statement.sql.contains("setval")).unwrap();
        assert_eq!(last.runs, Runs::Owner);
        let begin = format!("SELECT pg_catalog.setval('\"{name}\"', {number}, {flag}) FROM \"{name}\" s");
        assert!(last.sql.starts_with(&begin), "{}", last.sql);
    }
    for (sql, kind) in [
        ("SELECT setval('s', (SELECT max(id) FROM t))", RefusalKind::Sequence),
        ("SELECT setval('s', max(id)) FROM t", RefusalKind::Sequence),
        ("SELECT setval('missing', 1)", RefusalKind::UnknownObject),
        ("INSERT INTO t (id) SELECT setval('s', 1)", RefusalKind::Sequence),
    ] {
        assert_eq!(refused(&on_tables(&format!("CREATE SEQUENCE s;\n{sql}"))), [(3, kind)], "{sql}");
    }
}

#[test]
fn truncate_becomes_delete_where_that_is_the_same() {
    let deletes = |sql: &str| -> Vec<String> {
        let statements = rewrite(&on_tables(sql));
        statements.into_iter().filter(|s| s.runs == Runs::Tenant).map(|s| s.sql).collect()
    };
    assert_eq!(deletes("TRUNCATE t, ONLY p"), ["DELETE FROM \"t\"", "DELETE FROM ONLY \"p\""]);
    // Whatever refers comes first.
    assert_eq!(deletes(&format!("{CASCADE}TRUNCATE p, t")), ["DELETE FROM \"t\"", "DELETE FROM \"p\""]);
    assert_eq!(
        deletes("ALTER TABLE t ADD FOREIGN KEY (x) REFERENCES t; TRUNCATE t CONTINUE IDENTITY"),
        ["DELETE FROM \"t\""]
    );
    let trigger = "CREATE TRIGGER g AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION touch();\n";
    for (sql, line, kind) in [
        ("TRUNCATE t RESTART IDENTITY".to_owned(), 2, RefusalKind::Sequence),
        ("TRUNCATE t CASCADE".to_owned(), 2, RefusalKind::DataStatement),
        ("TRUNCATE missing".to_owned(), 2, RefusalKind::UnknownObject),
        (format!("{CASCADE}TRUNCATE p"), 3, RefusalKind::DataStatement),
        (
            format!("{CASCADE}ALTER TABLE p ADD FOREIGN KEY (a) REFERENCES t;\nTRUNCATE p, t"),
            4,
            RefusalKind::DataStatement,
        ),
        (format!("{TOUCH}{trigger}TRUNCATE t"), 4, RefusalKind::DataStatement),
    ] {
        assert_eq!(refused(&on_tables(&sql)), [(line, kind)], "{sql}");
    }
}

#[test]
fn what_is_dropped_is_forgotten() {
    let function = "CREATE FUNCTION f(a int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT a';\n";
    for sql in [
        format!(
            "{function}ALTER TABLE t ADD CONSTRAINT c CHECK (f(x) > 0);\nALTER TABLE t DROP CONSTRAINT c;\nDROP FUNCTION f(int);"
        ),
        format!("{function}CREATE INDEX i ON t (f(x));\nDROP FUNCTION f CASCADE;"),
    ] {
        assert_eq!(refused(&on_tables(&sql)), [], "{sql}");
    }
    // A field of the same name takes nothing of the proof away.
    let kept = "CREATE FUNCTION x(a t) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';\nCREATE FUNCTION g(a int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT a';\nALTER TABLE t ADD CHECK (t.x > g(y));\nDROP FUNCTION x(t);\nCREATE OR REPLACE FUNCTION g(a int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT count(*)::int FROM p';";
    assert_eq!(refused(&on_tables(kept)), [(6, RefusalKind::Expression)]);
    // Names are free again.
    for (before, made, name) in [
        (
            "CREATE INDEX ON t (x) WHERE y > 1;\nALTER TABLE t DROP COLUMN y;",
            "CREATE INDEX ON t (x)",
            "t_x_idx",
        ),
        (
            "ALTER TABLE t ADD UNIQUE (x) INCLUDE (y);\nALTER TABLE t DROP COLUMN y;",
            "ALTER TABLE t ADD UNIQUE (x)",
            "t_x_key",
        ),
        (
            "CREATE TABLE c (id serial); ALTER TABLE c RENAME TO d; DROP TABLE d;",
            "CREATE INDEX c_id_seq ON t (x)",
            "c_id_seq",
        ),
        (
            "ALTER TABLE t ADD FOREIGN KEY (x) REFERENCES p;\nALTER TABLE p DROP CONSTRAINT p_pkey CASCADE;",
            "ALTER TABLE t ADD FOREIGN KEY (x) REFERENCES t",
            "t_x_fkey",
        ),
        (
            "CREATE TYPE e AS ENUM ('a'); CREATE TABLE c (a e UNIQUE, b int UNIQUE); DROP TYPE e CASCADE;",
            "CREATE UNIQUE INDEX c_a_key ON c (b)",
            "c_a_key",
        ),
    ] {
        let last = last_line(&on_tables(&format!("{before}\n{made}")));
        assert!(last[0].contains(&format!(" {name} ")), "{}", last[0]);
    }
}

#[test]
fn the_tenants_column_cannot_be_altered() {
    for sql in [
        "ALTER TABLE t DROP COLUMN IF EXISTS tenant_id",
        "ALTER TABLE t ALTER tenant_id DROP NOT NULL",
        "ALTER TABLE t ALTER tenant_id TYPE text",
        "ALTER TABLE t ALTER tenant_id SET DEFAULT gen_random_uuid()",
    ] {
        assert_eq!(refused(&on_tables(sql)), [(2, RefusalKind::TenantColumn)], "{sql}");
    }
}
