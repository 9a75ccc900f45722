//! `COPY … FROM` of tenants in shared tables: through the views beside them,
//! with the defaults, keys, triggers and bounds that the tables have.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod schema_support;
#[allow(clippy::wildcard_imports)]
use schema_support::*;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

const FIRST: &str = "
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TABLE groups (name text PRIMARY KEY);
    CREATE TABLE items (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        serial_no serial,
        title varchar(5) NOT NULL,
        grp text REFERENCES groups,
        amount positive NOT NULL DEFAULT 7,
        made timestamptz DEFAULT now(),
        twice int GENERATED ALWAYS AS (amount * 2) STORED,
        note text
    );
    CREATE TABLE \"Odd name\" (\"a b\" int DEFAULT 3, \"select\" text);
    CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := upper(NEW.note); RETURN NEW; END $$;
    CREATE TRIGGER shout BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION shout()";

/// Copies text into a target, and how many rows the server says it took.
async fn copy(client: &Client, target: &str, text: &str) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in::<_, Bytes>(&format!("copy insula_copy.{target} from stdin")).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(Bytes::from(text.to_owned())).await?;
    sink.finish().await
}

/// The SQLSTATE with which a COPY must end.
async fn refused_copy(client: &Client, target: &str, text: &str) -> SqlState {
    match copy(client, target, text).await {
        Ok(rows) => panic!("it was let through: {rows} rows into {target}"),
        Err(error) => error.code().unwrap_or_else(|| panic!("{target}: {error:?}")).clone(),
    }
}

#[tokio::test]
async fn copied_rows_are_the_tenants_own_and_complete() {
    let mut pool = Pool::of("copy", FIRST).await;
    let (acme, globex) = (pool.tenant().await, pool.tenant().await);
    for tenant in [&acme, &globex] {
        tenant.run("insert into groups values ('g')").await;
        assert_eq!(
            copy(&tenant.client, "items (id, title, grp, note)", "101\ta\tg\tx\n102\tb\t\\N\ty\n")
                .await
                .unwrap(),
            2
        );
        assert_eq!(copy(&tenant.client, "items (title)", "c\n").await.unwrap(), 1);
        assert_eq!(copy(&tenant.client, "\"Odd name\"", "1\tx\n").await.unwrap(), 1);
        assert_eq!(copy(&tenant.client, "\"Odd name\" (\"select\")", "y\n").await.unwrap(), 1);
    }
    for tenant in [&acme, &globex] {
        let rows = "select string_agg(title || amount || twice || coalesce(note, '-') || (made is not null)
                           || (serial_no is not null) || (tenant_id = insula.current_tenant()), ' ' order by title) from items";
        assert_eq!(tenant.one(rows).await, "a714Xtruetruetrue b714Ytruetruetrue c714-truetruetrue");
        assert_eq!(
            tenant.one("select string_agg(\"a b\" || \"select\", ' ' order by 1) from \"Odd name\"").await,
            "1x 3y"
        );
    }
}

#[tokio::test]
async fn the_tables_own_rules_hold_for_copied_rows() {
    let mut pool = Pool::of("copy_rules", FIRST).await;
    let (acme, globex) = (pool.tenant().await, pool.tenant().await);
    globex.run("insert into groups values ('theirs')").await;
    let refused = async |target: &str, text: &str| refused_copy(&acme.client, target, text).await;
    assert_eq!(refused("items (title, grp)", "a\ttheirs\n").await, SqlState::FOREIGN_KEY_VIOLATION);
    assert_eq!(refused("items (id, title)", "1\ta\n1\tb\n").await, SqlState::UNIQUE_VIOLATION);
    assert_eq!(refused("items (title)", "toolong\n").await, SqlState::STRING_DATA_RIGHT_TRUNCATION);
    assert_eq!(refused("items (title)", "\\N\n").await, SqlState::NOT_NULL_VIOLATION);
    assert_eq!(refused("items (title, amount)", "a\t-1\n").await, SqlState::CHECK_VIOLATION);
    assert_eq!(refused("items (title, amount)", "a\t\\N\n").await, SqlState::NOT_NULL_VIOLATION);
    for column in ["twice", "tenant_id"] {
        let error = acme.refused(&format!("copy insula_copy.items (title, {column}) from stdin")).await;
        assert_eq!(*error.code(), SqlState::UNDEFINED_COLUMN, "{column}");
    }
    assert_eq!(acme.one("select count(*) from items").await, "0", "nothing of a refused COPY stays");
    // Rows that were there in a transaction go with it.
    acme.run("begin").await;
    assert_eq!(copy(&acme.client, "items (title)", "a\n").await.unwrap(), 1);
    acme.run("rollback").await;
    assert_eq!(acme.one("select count(*) from items").await, "0");
}

#[tokio::test]
async fn a_target_gives_nothing_but_the_way_in() {
    let mut pool = Pool::of("copy_rights", FIRST).await;
    let acme = pool.tenant().await;
    acme.run("insert into groups values ('g')").await;
    for sql in [
        "select * from insula_copy.groups",
        "update insula_copy.groups set name = 'x'",
        "delete from insula_copy.groups",
        "copy insula_copy.groups to stdout",
        "insert into insula_copy.groups values ('x') returning name",
        "create table insula_copy.mine (a int)",
        "select insula.make_copy_targets()",
        "select insula.drop_copy_targets()",
    ] {
        assert!(is_denied(&acme.refused(sql).await), "{sql}");
    }
}

#[tokio::test]
async fn later_versions_change_what_is_copied_into() {
    let mut pool = Pool::with(
        "copy_versions",
        &versions(&[
            FIRST,
            "ALTER TABLE items DROP COLUMN note CASCADE; DROP TRIGGER shout ON items; ALTER TABLE items ALTER title TYPE text;
             ALTER TABLE items RENAME TO things; ALTER TABLE things ADD colour text DEFAULT 'red'; DROP TABLE \"Odd name\"",
        ]),
    )
    .await;
    assert_eq!(pool.findings().await, Vec::<String>::new());
    let acme = pool.tenant().await;
    assert_eq!(copy(&acme.client, "things (title)", "a longer title\n").await.unwrap(), 1);
    assert_eq!(acme.one("select title || colour from things").await, "a longer titlered");
    assert_eq!(refused_copy(&acme.client, "items (title)", "a\n").await, SqlState::UNDEFINED_TABLE);
}

#[tokio::test]
async fn a_target_that_was_changed_by_hand_is_found() {
    let pool = Pool::of("copy_audit", FIRST).await;
    assert_eq!(pool.findings().await, Vec::<String>::new());
    for (sql, expected) in [
        ("DROP VIEW insula_copy.groups", "copy target groups: It is missing."),
        (
            "ALTER VIEW insula_copy.groups RESET (security_invoker)",
            "copy target groups: It is not the one that Insula has made.",
        ),
        (
            "ALTER FUNCTION insula_copy.groups() SECURITY DEFINER",
            "copy target groups: It is not the one that Insula has made.",
        ),
        (
            "CREATE OR REPLACE FUNCTION insula_copy.groups() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "copy target groups: It is not the one that Insula has made.",
        ),
        (
            "DROP TRIGGER copy ON insula_copy.groups",
            "copy target groups: Its trigger is not the one that Insula has made.",
        ),
        ("ALTER TABLE app.groups ADD more int", "copy target groups: It has other columns than the table."),
        ("CREATE VIEW insula_copy.peek AS SELECT 1 AS a", "copy target peek: It belongs to no table."),
        (
            "GRANT SELECT ON insula_copy.groups TO insula_pool_rw",
            "copy target groups: insula_pool_rw has the right SELECT on it.",
        ),
        (
            "GRANT USAGE ON SCHEMA insula_copy TO PUBLIC",
            "schema insula_copy: PUBLIC has the right USAGE on it.",
        ),
    ] {
        pool.admin.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
        let found = pool.findings().await;
        pool.admin.batch_execute("ROLLBACK").await.unwrap();
        assert!(found.contains(&expected.to_owned()), "{sql}: {found:?}");
    }
}
