//! The blueprint on a real server: what tools do there is captured, and what
//! the capture makes is the blueprint; its role cannot get at the record.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod blueprint_support;
mod schema_support;
use blueprint_support::World;
#[allow(clippy::wildcard_imports)]
use schema_support::*;

#[tokio::test]
async fn single_statements_of_every_kind_are_captured_and_make_the_blueprint_again() {
    let mut world = World::start().await;
    world
        .psql(
            "CREATE TABLE authors ( -- all
             id serial PRIMARY KEY, name text NOT NULL);
             INSERT INTO authors (name) VALUES ('Ada'), ('Gra''ce');
             CREATE TABLE IF NOT EXISTS authors (nothing int);
             DROP TABLE IF EXISTS nothing;
             CREATE TYPE mood AS ENUM ('glad', 'sad');
             CREATE TABLE public.books (
                 id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                 author_id int REFERENCES public.authors ON DELETE CASCADE, -- who
                 title text, feeling mood DEFAULT 'glad', made timestamptz, tags text[], raw bytea, price numeric,
                 length int GENERATED ALWAYS AS (char_length(title)) STORED);
             INSERT INTO books (author_id, title, made, tags, raw, price)
                 VALUES (1, 'Notes', '2026-01-02 03:04:05.678+02', '{a,\"b c\"}', '\\x00ff', 'NaN'), (2, NULL, NULL, NULL, NULL, 1.50);
             CREATE INDEX CONCURRENTLY books_title ON books (title);
             UPDATE books SET title = 'Untitled' WHERE title IS NULL;
             INSERT INTO books (author_id, title) SELECT id, 'Letters of ' || name FROM authors;
             CREATE VIEW titles AS SELECT title FROM books;
             INSERT INTO titles VALUES ('By way of a view');
             ALTER TABLE books RENAME COLUMN title TO name;
             CREATE FUNCTION rename_all() RETURNS void LANGUAGE sql AS 'UPDATE books SET name = upper(name)';
             SELECT rename_all();
             DELETE FROM authors WHERE name = 'Ada';
             COMMENT ON TABLE books IS 'All of them';
             GRANT SELECT ON books TO insula_blueprint;
             ALTER TABLE books OWNER TO insula_blueprint;
             CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public;
             CREATE TEMP TABLE scratch (a int); INSERT INTO scratch VALUES (1);
             CREATE TABLE copied (a int, b text);
             COPY copied FROM STDIN;\n1\tx\n2\t\\N\n\\.\n\
             ALTER TABLE copied ADD COLUMN c boolean;
             CREATE TABLE gone (a int); DROP TABLE gone;
             SELECT setval('authors_id_seq', 40);",
        )
        .await;
    let draft = world.capture("all").await;
    assert_eq!(draft.refusals, [], "{}", draft.sql);
    for part in [
        "CREATE TABLE authors ( -- all\nid serial PRIMARY KEY",
        "CREATE TABLE books (",
        "REFERENCES authors ON DELETE CASCADE, -- who",
        "INSERT INTO authors (id, name) VALUES\n    (1, 'Ada'),\n    (2, 'Gra''ce');",
        "OVERRIDING SYSTEM VALUE VALUES\n    (1, 1, 'Notes', 'glad', '2026-01-02 01:04:05.678+00', '{a,\"b c\"}', E'\\\\x00ff', 'NaN')",
        "CREATE INDEX books_title ON books (title)",
        "UPDATE books SET title = 'Untitled' WHERE title IS NULL;",
        "INSERT INTO books (author_id, title) SELECT id, 'Letters of ' || name FROM authors;",
        "SELECT rename_all();",
        "DELETE FROM authors WHERE name = 'Ada';",
        "CREATE EXTENSION IF NOT EXISTS citext;",
        "INSERT INTO copied (a, b) VALUES\n    (1, 'x'),\n    (2, NULL);",
        "SELECT setval('authors_id_seq', GREATEST((SELECT last_value FROM authors_id_seq), 40));",
    ] {
        assert!(draft.sql.contains(part), "{part}\nis not in\n{}", draft.sql);
    }
    for part in ["nothing", "scratch", "GRANT", "OWNER TO", "CONCURRENTLY", "public."] {
        assert!(!draft.sql.contains(part), "{part}\nis in\n{}", draft.sql);
    }
    world.assert_makes_the_blueprint().await;
    world.assert_silo_equals_the_blueprint().await;
}

#[tokio::test]
async fn what_was_rolled_back_was_never_there_and_texts_of_many_statements_are_divided() {
    let mut world = World::start().await;
    world
        .psql(
            "BEGIN; CREATE TABLE a (id int PRIMARY KEY); ROLLBACK;
             BEGIN; CREATE TABLE b (id int PRIMARY KEY); SAVEPOINT s; CREATE TABLE c (id int);
             INSERT INTO b VALUES (1); ROLLBACK TO s; INSERT INTO b VALUES (2); COMMIT;",
        )
        .await;
    world
        .tool()
        .await
        .batch_execute(
            "-- the table
             CREATE TABLE d (id int PRIMARY KEY, b int);
             SET statement_timeout = 0; SELECT pg_advisory_lock(7);
             /* two of the same kind */ INSERT INTO d VALUES (1, 1); INSERT INTO d VALUES (2, 2);
             CREATE FUNCTION bump() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE public.d SET b = b + 1; END $$;
             SELECT bump(); SELECT 1; UPDATE d SET b = 0 WHERE id = 2; UPDATE d SET b = 0 WHERE id = 3;
             WITH gone AS (DELETE FROM d WHERE id = 1 RETURNING b) INSERT INTO d SELECT 9, b FROM gone;
             SELECT pg_advisory_unlock(7); DROP TABLE IF EXISTS never; CREATE INDEX ON d (b)",
        )
        .await
        .unwrap();
    // One that fails leaves nothing of its text.
    world.tool().await.batch_execute("CREATE TABLE e (a int); SELECT 1 / 0").await.unwrap_err();
    let draft = world.capture("texts").await;
    assert_eq!(draft.refusals, [], "{}", draft.sql);
    let body = draft.sql.lines().skip(2).collect::<Vec<_>>().join("\n");
    let expected = "CREATE TABLE b (id int PRIMARY KEY);

INSERT INTO b (id) VALUES
    (2);

-- the table
CREATE TABLE d (id int PRIMARY KEY, b int);

INSERT INTO d (id, b) VALUES
    (1, 1);

INSERT INTO d (id, b) VALUES
    (2, 2);

CREATE FUNCTION bump() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE d SET b = b + 1; END $$;

SELECT bump();

UPDATE d SET b = 0 WHERE id = 2;

UPDATE d SET b = 0 WHERE id = 3;

WITH gone AS (DELETE FROM d WHERE id = 1 RETURNING b) INSERT INTO d SELECT 9, b FROM gone;

CREATE INDEX ON d (b);";
    assert_eq!(body, expected);
    world.assert_makes_the_blueprint().await;
}

#[tokio::test]
async fn statements_with_parameters_are_captured_as_the_rows_that_they_changed() {
    let mut world = World::start().await;
    let tool = world.tool().await;
    tool.batch_execute(
        "CREATE TABLE t (id bigserial PRIMARY KEY, n text, k int); CREATE TABLE loose (a int, b text)",
    )
    .await
    .unwrap();
    let insert = tool.prepare("INSERT INTO t (n, k) VALUES ($1, $2) RETURNING id").await.unwrap();
    for (name, number) in [("a", 1_i32), ("b", 2), ("c", 3), ("d", 4)] {
        tool.query(&insert, &[&name, &number]).await.unwrap();
    }
    tool.execute("UPDATE t SET n = $1 WHERE k < $2", &[&"it's", &3_i32]).await.unwrap();
    tool.execute("UPDATE t SET id = id + $1 WHERE n = 'c'", &[&100_i64]).await.unwrap();
    tool.execute("DELETE FROM t WHERE k = $1", &[&4_i32]).await.unwrap();
    tool.execute("INSERT INTO loose SELECT k, $1 FROM t", &[&"x"]).await.unwrap();
    tool.execute("UPDATE loose SET b = NULL WHERE a = $1", &[&1_i32]).await.unwrap();
    tool.execute("DELETE FROM loose WHERE a = $1", &[&1_i32]).await.unwrap();
    tool.batch_execute("PREPARE p AS INSERT INTO t (n) VALUES ($1); EXECUTE p ('prepared')").await.unwrap();
    // What is not told by its rows is told in words.
    tool.execute("UPDATE t SET k = k + $1 WHERE id = $2 AND n <> $3", &[&0_i32, &5_i64, &""]).await.unwrap();
    tool.execute("UPDATE t SET n = $1 WHERE k = $2", &[&"none", &77_i32]).await.unwrap();
    tool.execute("DELETE FROM t WHERE id = $1", &[&77_i64]).await.unwrap();
    tool.execute("INSERT INTO loose SELECT k, n FROM t WHERE n = $1", &[&"none"]).await.unwrap();
    let draft = world.capture("rows").await;
    assert_eq!(draft.refusals, [], "{}", draft.sql);
    let notes: Vec<_> =
        draft.notes.iter().map(|note| (&*note.statement, note.note.starts_with("left out"))).collect();
    assert_eq!(
        notes,
        [
            ("UPDATE t SET n = $1 WHERE k < $2", false),
            ("UPDATE t SET id = id + $1 WHERE n = 'c'", false),
            ("DELETE FROM t WHERE k = $1", false),
            ("INSERT INTO loose SELECT k, $1 FROM t", false),
            ("UPDATE loose SET b = NULL WHERE a = $1", false),
            ("DELETE FROM loose WHERE a = $1", false),
            ("UPDATE t SET n = $1 WHERE k = $2", true),
            ("DELETE FROM t WHERE id = $1", true),
            ("INSERT INTO loose SELECT k, n FROM t WHERE n = $1", true),
        ]
    );
    for part in [
        "UPDATE t SET n = 'it''s' WHERE id = 2;",
        "UPDATE t SET id = 103 WHERE id = 3;",
        "DELETE FROM t WHERE id = 4;",
        "UPDATE loose SET b = NULL WHERE a = 1 AND b = 'x';",
        "DELETE FROM loose WHERE a = 1 AND b IS NULL;",
        "(5, 'prepared', NULL)",
        "SELECT setval('t_id_seq', GREATEST((SELECT last_value FROM t_id_seq), 5));",
    ] {
        assert!(draft.sql.contains(part), "{part}\nis not in\n{}", draft.sql);
    }
    world.assert_makes_the_blueprint().await;
    world.assert_silo_equals_the_blueprint().await;
}

#[tokio::test]
async fn a_tools_settings_do_not_change_what_is_captured_unsaid() {
    let mut world = World::start().await;
    let tool = world.tool().await;
    tool.batch_execute(
        "SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Tokyo'; SET intervalstyle = sql_standard;
         SET bytea_output = escape; CREATE TABLE t (id int PRIMARY KEY, d date, at timestamptz, i interval, b bytea)",
    )
    .await
    .unwrap();
    tool.batch_execute("INSERT INTO t VALUES (1, '03/04/2024', '03/04/2024 12:00', '1-2', '\\001a')")
        .await
        .unwrap();
    tool.batch_execute("UPDATE t SET at = '03/04/2024 12:00'").await.unwrap();
    // The tool's settings are its own again.
    let row = tool.query_one("SELECT at::text || ' ' || i || ' ' || b::text FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "03/04/2024 12:00:00 JST 1-2 \\001a");
    let draft = world.capture("settings").await;
    let row = "(1, '2024-04-03', '2024-04-03 03:00:00+00', '1 year 2 mons', E'\\\\x0161')";
    assert!(draft.sql.contains(row), "{}", draft.sql);
    let notes: Vec<_> = draft.notes.iter().map(|note| (&*note.statement, &note.note[..80])).collect();
    let told = "it ran with DateStyle = SQL, DMY, IntervalStyle = sql_standard, TimeZone = Asia/T";
    assert_eq!(notes, [("UPDATE t SET at = '03/04/2024 12:00'", &told[..80])]);

    // A backslash outside of standard strings is something else in a version.
    tool.batch_execute("SET standard_conforming_strings = off").await.unwrap();
    tool.batch_execute("UPDATE t SET b = 'a\\nb'").await.unwrap();
    let refused = world.capture("odd").await.refusals;
    assert!(refused.len() == 1 && refused[0].reason.contains("standard_conforming_strings"), "{refused:?}");
}

#[tokio::test]
async fn blocks_that_define_are_written_out_and_those_that_decide_are_refused() {
    let mut world = World::start().await;
    world
        .psql(
            "CREATE TABLE t (a int);
             DO $$ BEGIN CREATE TYPE mood AS ENUM ('\"glad\"'); EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             DO $$ BEGIN CREATE TYPE mood AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             DO $$ BEGIN EXECUTE 'ALTER TABLE t ADD COLUMN b int'; DROP TABLE IF EXISTS none; END $$;
             CREATE FUNCTION make() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE made (a int); END $$;
             SELECT make();",
        )
        .await;
    let draft = world.capture("blocks").await;
    assert_eq!(draft.refusals, [], "{}", draft.sql);
    for part in [
        "CREATE TYPE mood AS ENUM ('\"glad\"');",
        "ALTER TABLE t ADD COLUMN b int;",
        "\nCREATE TABLE made (a int);",
    ] {
        assert!(draft.sql.contains(part), "{part}\nis not in\n{}", draft.sql);
    }
    assert!(!draft.sql.contains("DO $$") && !draft.sql.contains("SELECT make()"), "{}", draft.sql);
    world.assert_makes_the_blueprint().await;

    world.psql("DO $$ BEGIN UPDATE t SET a = 1; END $$;").await;
    let draft = world.capture("refused").await;
    assert_eq!(draft.refusals.len(), 1, "{}", draft.sql);
    assert_eq!(draft.refusals[0].line, 4);
    assert!(draft.refusals[0].reason.contains("write its statements out"), "{}", draft.refusals[0]);
    assert!(
        draft.sql.contains("-- Not captured: ") && draft.sql.contains("DO $$ BEGIN UPDATE t"),
        "{}",
        draft.sql
    );
}

#[tokio::test]
async fn a_change_that_is_missing_from_the_record_is_seen() {
    // The canary of the comparison: without it a lost statement would be lost for good.
    let mut world = World::start().await;
    world.psql("CREATE TABLE a (id int); CREATE INDEX a_id ON a (id); INSERT INTO a VALUES (1);").await;
    world
        .admin()
        .await
        .execute("delete from insula_capture.log where tag = 'CREATE INDEX'", &[])
        .await
        .unwrap();
    world.capture("lossy").await;
    let (made, found) = world.made_and_found().await;
    let differences = made.fingerprint.differences(&found.fingerprint);
    assert_eq!(differences[0].object, "index a_id", "{differences:?}");

    world.psql("INSERT INTO a VALUES (2); CREATE TABLE b (id int)").await;
    world
        .admin()
        .await
        .execute("delete from insula_capture.log where tag = 'INSERT' and version is null", &[])
        .await
        .unwrap();
    world.capture("rows").await;
    let (made, found) = world.made_and_found().await;
    assert_ne!(made.rows, found.rows);
}

#[tokio::test]
async fn the_role_cannot_get_at_the_record() {
    let world = World::start().await;
    world.psql("CREATE TABLE a (id int)").await;
    let tool = world.tool().await;
    for attack in [
        "select * from insula_capture.log",
        "insert into insula_capture.log (text_hash, kind, tag, context, detail) values ('', 'ddl', '', '', '[]')",
        "delete from insula_capture.log",
        "truncate insula_capture.log",
        "drop table insula_capture.log",
        "drop schema insula_capture cascade",
        "drop event trigger insula_capture_ddl",
        "alter event trigger insula_capture_ddl disable",
        "alter event trigger insula_capture_drop owner to insula_blueprint",
        "drop trigger insula_capture_insert on a",
        "set session_replication_role = local",
        "set session_replication_role = replica",
        "alter role insula_blueprint set session_replication_role = replica",
        "alter database insula_blueprint set session_replication_role = replica",
        "set role insula_recorder",
        "set session authorization insula_recorder",
        "select insula_capture.write('ddl', 'x', '', '[]')",
        "select insula_capture.adopt('x')",
        "insert into insula_capture.inside values (pg_backend_pid())",
        "insert into insula_capture.versions values (99, 'x', 'x', 'x', 'captured', pg_current_xact_id(), now())",
        "create trigger x after insert on a for each statement execute function insula_capture.on_rows()",
        "create or replace function insula_capture.is_quiet() returns boolean language sql as 'select true'",
        "alter function insula_capture.on_ddl() owner to insula_blueprint",
        "create event trigger e on ddl_command_end execute function insula_capture.on_ddl()",
        "create table insula_capture.x (a int)",
        "create role x",
        "create database x",
        "alter table a owner to insula_recorder",
        "grant insula_recorder to insula_blueprint",
        "reassign owned by insula_recorder to insula_blueprint",
    ] {
        refused(&tool, attack).await;
    }
    // What may be switched off is switched on again, and what may be renamed still records.
    tool.batch_execute("alter table a disable trigger user").await.unwrap();
    tool.batch_execute("alter trigger insula_capture_insert on a rename to x").await.unwrap();
    tool.batch_execute("insert into a values (7)").await.unwrap();
    // A cast of the attacker's own is not run by the recorder.
    tool.batch_execute(
        "create type own as enum ('a');
         create function leak(own) returns text language plpgsql as
             $$ begin raise exception 'run as %', current_user; end $$;
         create cast (own as text) with function leak(own) as implicit;
         create table b (a own);
         create function leak(b) returns text language plpgsql as
             $$ begin raise exception 'run as %', current_user; end $$;
         create cast (b as text) with function leak(b) as implicit;
         insert into b values ('a')",
    )
    .await
    .unwrap();
    // Functions in the way of PostgreSQL's own are not taken.
    tool.batch_execute(
        "create function public.format(text, text) returns text language plpgsql as
             $$ begin raise exception 'run as %', current_user; end $$;
         create schema pg_own; insert into a values (8)",
    )
    .await
    .err();
    tool.batch_execute("insert into a values (9)").await.unwrap();
    let recorded = one(
        &world.admin().await,
        "select string_agg(detail->>'new', ' ' order by seq) from insula_capture.log where kind = 'rows'",
    )
    .await;
    assert!(recorded.contains("[[\"7\"]] [[\"'a'\"]]") && recorded.ends_with("[[\"9\"]]"), "{recorded}");
}

#[tokio::test]
async fn a_version_is_brought_once_and_not_recorded() {
    let world = World::start().await;
    let plain = versions(&[
        "CREATE EXTENSION IF NOT EXISTS citext; CREATE TABLE a (id serial PRIMARY KEY, e citext);
        INSERT INTO a (e) VALUES ('x')",
    ]);
    for _ in 0..2 {
        world.bring(&plain).await.unwrap();
    }
    assert_eq!(world.recorded().await.firings.len(), 0);
    assert_eq!(one(&world.tool().await, "select count(*) from a").await, "1");
    // What comes after it is recorded again, and a version that would come after that waits.
    world.psql("ALTER TABLE a ADD COLUMN b int; INSERT INTO a (e) VALUES ('y')").await;
    let two = versions(&[
        "CREATE EXTENSION IF NOT EXISTS citext; CREATE TABLE a (id serial PRIMARY KEY, e citext);
        INSERT INTO a (e) VALUES ('x')",
        "CREATE TABLE b (a int)",
    ]);
    let ahead = world.bring(&two).await.unwrap_err();
    assert_eq!(ahead.code(), insula_problem::Code::BlueprintAhead);
    assert!(ahead.detail().contains("ALTER TABLE a ADD COLUMN b int"), "{}", ahead.detail());
    let recorded = world.recorded().await;
    assert_eq!(recorded.firings.len(), 2);
    let text = &recorded.firings[0].text;
    assert!(text.contains("ADD COLUMN b"), "{text}");
    assert_eq!(recorded.sequences.len(), 1, "the id that was drawn since");
}

#[tokio::test]
async fn one_capture_at_a_time_and_none_beside_an_open_transaction() {
    let world = World::start().await;
    let first = world.opened().await;
    first.take().await.unwrap();
    let second = world.opened().await;
    let busy = second.take().await.unwrap_err();
    assert_eq!(busy.code(), insula_problem::Code::BlueprintBusy);
    drop(first);
    drop(second);
    let tool = world.tool().await;
    tool.batch_execute("set application_name = 'slow tool'; begin; create table a (a int)").await.unwrap();
    let busy = world.try_recorded().await.unwrap_err();
    assert_eq!(busy.code(), insula_problem::Code::BlueprintBusy);
    assert!(busy.detail().contains("slow tool"), "{}", busy.detail());
    tool.batch_execute("commit").await.unwrap();
    assert_eq!(world.recorded().await.firings.len(), 1);
    world.admin().await.batch_execute("drop event trigger insula_capture_drop").await.unwrap();
    let gone = world.try_recorded().await.unwrap_err();
    assert_eq!(gone.code(), insula_problem::Code::BlueprintMissing);
}
