//! Captures of recordings that are made by hand, where a real server would be
//! needed only to say what is known already.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;

fn firing(seq: i64, text: &str, tag: &str, context: &str, kind: &str, detail: &str) -> Firing {
    Firing {
        seq,
        message: Arc::from(text),
        text: Arc::from(text),
        tag: tag.to_owned(),
        context: context.to_owned(),
        settings: String::new(),
        what: What::read(kind, detail).unwrap(),
    }
}

fn table(seq: i64, text: &str, schema: &str) -> Firing {
    let detail = format!(r#"[{{"schema": "{schema}", "identity": "{schema}.t", "type": "table"}}]"#);
    firing(seq, text, "CREATE TABLE", "", "ddl", &detail)
}

fn insert(seq: i64, text: &str, table: &str, rows: usize) -> Firing {
    let new = vec![r#"["1"]"#; rows.min(MAX_ROWS + 1)].join(",");
    let detail = format!(
        r#"{{"schema": "public", "table": "{table}", "count": {rows}, "columns": ["a"], "new": [{new}]}}"#
    );
    firing(seq, text, "INSERT", "", "rows", &detail)
}

fn draft(firings: &[Firing], without_data: &[&str], sequences: &[MovedSequence]) -> Draft {
    let without_data: BTreeSet<String> = without_data.iter().map(|name| (*name).to_owned()).collect();
    let header = "Captured.";
    Recording { firings, sequences, without_data: &without_data, role: "tool", file: "f.sql", header }.draft()
}

#[test]
fn texts_that_are_mixed_are_told_apart_by_their_order() {
    let (one, two) = ("CREATE TABLE t (a int); INSERT INTO t VALUES (1)", "CREATE TABLE u (a int)");
    let draft = draft(&[table(1, one, "public"), table(2, two, "public"), insert(3, one, "t", 1)], &[], &[]);
    assert_eq!(
        draft.sql,
        "-- Captured.\n\nCREATE TABLE t (a int);\n\nCREATE TABLE u (a int);\n\nINSERT INTO t (a) VALUES\n    (1);\n"
    );
    assert_eq!((draft.statements, draft.refusals.len(), draft.notes.len()), (3, 0, 0));
}

#[test]
fn what_no_statement_accounts_for_is_refused() {
    let text = "CREATE TABLE t (a int)";
    let draft = draft(&[table(1, text, "public"), insert(2, text, "t", 1)], &[], &[]);
    assert_eq!(draft.refusals.len(), 1);
    assert!(draft.refusals[0].reason.contains("(INSERT) cannot be told from"), "{}", draft.refusals[0]);
    assert_eq!(draft.refusals[0].kind, crate::RefusalKind::NotCaptured);
    let unknown = draft_of_text("CREATE SOMETHING ODD");
    assert!(unknown.refusals[0].reason.contains("cannot be read"), "{}", unknown.refusals[0]);
}

fn draft_of_text(text: &str) -> Draft {
    draft(&[table(1, text, "public")], &[], &[])
}

#[test]
fn other_schemas_are_refused_and_those_of_tools_left_out() {
    let text = "CREATE TABLE x.t (a int)";
    let refused = draft(&[table(1, text, "x")], &[], &[]);
    assert!(refused.refusals[0].reason.contains("the schema x"), "{}", refused.refusals[0]);
    let books = draft(&[table(1, "CREATE TABLE drizzle.t (a int)", "drizzle")], &[], &[]);
    assert_eq!((books.statements, books.refusals.len(), books.notes.len()), (0, 0, 1));
}

#[test]
fn many_rows_are_refused_unless_they_are_left_out() {
    let text = "COPY big FROM STDIN";
    for rows in [MAX_ROWS + 1, 1_000_000] {
        let refused = draft(&[insert(1, text, "big", rows)], &[], &[]);
        assert!(refused.refusals[0].reason.contains("--without-data big"), "{}", refused.refusals[0]);
    }
    let left_out = draft(&[insert(1, text, "big", 1_000_000)], &["big"], &[]);
    assert_eq!((left_out.statements, left_out.refusals.len()), (0, 0));
    // Each statement is small enough, and all together are not.
    let text = "COPY a FROM STDIN";
    let many =
        (0..3).map(|seq| Firing { message: Arc::from(seq.to_string()), ..insert(seq, text, "a", 5_000) });
    let refused = draft(&many.collect::<Vec<_>>(), &[], &[]);
    assert_eq!(refused.refusals.len(), 1);
}

#[test]
fn sequences_follow_rows_and_not_statements() {
    let moved = [MovedSequence { name: "T_id".to_owned(), tables: vec!["t".to_owned()], last_value: 9 }];
    let by_row = draft(&[insert(1, "INSERT INTO t VALUES (1)", "t", 1)], &[], &moved);
    assert!(
        by_row.sql.contains("setval('\"T_id\"', GREATEST((SELECT last_value FROM \"T_id\"), 9))"),
        "{}",
        by_row.sql
    );
    let by_statement = draft(&[insert(1, "INSERT INTO t SELECT a FROM u", "t", 1)], &[], &moved);
    assert!(!by_statement.sql.contains("setval"), "{}", by_statement.sql);
}

#[test]
fn queries_that_read_nothing_are_constants() {
    let by_row =
        |text: &str| draft(&[insert(1, text, "t", 1)], &[], &[]).sql.contains("INSERT INTO t (a) VALUES");
    for text in [
        "INSERT INTO t (a) VALUES (1)",
        "INSERT INTO t DEFAULT VALUES",
        "INSERT INTO t (a) SELECT * FROM UNNEST(('{1}'::int2[])::integer[]) RETURNING t.a",
        "INSERT INTO t SELECT g FROM generate_series(1, 1) g",
        "INSERT INTO t SELECT 1",
    ] {
        assert!(by_row(text), "{text}");
    }
    for text in [
        "INSERT INTO t SELECT a FROM u",
        "INSERT INTO t SELECT own()",
        "INSERT INTO t SELECT public.lower('1')",
        "INSERT INTO t VALUES ((SELECT max(a) FROM u))",
        "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
        "WITH q AS (SELECT 1 AS a) INSERT INTO t SELECT a FROM q",
    ] {
        assert!(!by_row(text), "{text}");
    }
}

#[test]
fn what_a_block_does_is_not_taken_for_a_statements_before_it() {
    let text =
        "INSERT INTO t VALUES (1); DO $$ BEGIN CREATE TYPE e AS ENUM ('a'); END $$; INSERT INTO t VALUES (1)";
    let context = "SQL statement \"CREATE TYPE e AS ENUM ('a')\"\nPL/pgSQL function inline_code_block line 1 at SQL statement";
    let detail = r#"[{"schema": "public", "identity": "public.e"}]"#;
    let made = firing(2, text, "CREATE TYPE", context, "ddl", detail);
    let draft = draft(&[insert(1, text, "t", 1), made, insert(3, text, "t", 1)], &[], &[]);
    assert_eq!((draft.statements, draft.refusals.len()), (3, 0), "{}", draft.sql);
    assert!(draft.sql.contains("\nCREATE TYPE e AS ENUM ('a');\n"), "{}", draft.sql);
}

#[test]
fn what_is_rolled_back_takes_nothing_of_what_stays() {
    let text = "BEGIN; SAVEPOINT s; CREATE TABLE gone (a int); ROLLBACK TO s; CREATE TABLE t (a int); COMMIT";
    let draft = draft(&[table(1, text, "public")], &[], &[]);
    assert_eq!(draft.sql, "-- Captured.\n\nCREATE TABLE t (a int);\n");
}

#[test]
fn rows_that_came_by_a_view_are_not_taken_for_other_statements() {
    let written = "INSERT INTO t (a) VALUES\n    (1);";
    // Behind what could have been its cause, and before another that fits.
    for text in
        ["TRUNCATE u; INSERT INTO v VALUES (1)", "TRUNCATE u; INSERT INTO v VALUES (1); UPDATE w SET a = 1"]
    {
        let truncated = Firing { tag: "TRUNCATE".to_owned(), ..insert(1, text, "u", 0) };
        let draft = draft(&[truncated, insert(2, text, "t", 1)], &[], &[]);
        assert!(draft.sql.contains(written), "{text}: {}", draft.sql);
    }
    let text = "INSERT INTO v VALUES (1); INSERT INTO t SELECT a FROM u";
    let draft = draft(&[insert(1, text, "t", 1), insert(2, text, "t", 1)], &[], &[]);
    assert!(
        draft.sql.contains(written) && draft.sql.contains("INSERT INTO t SELECT a FROM u"),
        "{}",
        draft.sql
    );
}

#[test]
fn settings_that_change_what_a_text_means_are_told() {
    let told = |text: &str, tag: &str, settings: &str| {
        let settings = settings.to_owned();
        let one = match tag {
            "UPDATE" => firing(1, text, tag, "", "rows", r#"{"schema": "public", "table": "t", "count": 0}"#),
            _ => Firing { tag: tag.to_owned(), ..table(1, text, "public") },
        };
        let draft = draft(&[Firing { settings, ..one }], &[], &[]);
        (draft.notes.iter().filter(|note| note.note.contains("ran with")).count(), draft.refusals.len())
    };
    let paris = "TimeZone = Europe/Paris";
    for (text, tag, settings, expected) in [
        ("UPDATE t SET a = '2024-05-01 12:00'", "UPDATE", paris, (1, 0)),
        ("UPDATE t SET a = '03/04/2024'", "UPDATE", "DateStyle = SQL, DMY", (1, 0)),
        ("UPDATE t SET a = '2024-05-01 12:00'", "UPDATE", "", (0, 0)),
        ("UPDATE t SET a = 'v-1', b = 2024 - 5", "UPDATE", paris, (0, 0)),
        ("ALTER TABLE t ALTER a TYPE timestamptz", "ALTER TABLE", paris, (1, 0)),
        ("ALTER TABLE t ALTER a TYPE bigint", "ALTER TABLE", paris, (0, 0)),
        ("UPDATE t SET a = 'x\\'", "UPDATE", "standard_conforming_strings = off", (0, 1)),
        ("UPDATE t SET a = 'x'", "UPDATE", "standard_conforming_strings = off", (0, 0)),
    ] {
        assert_eq!(told(text, tag, settings), expected, "{text} with {settings}");
    }
}
