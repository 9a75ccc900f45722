//! The shop in every form: the same program works in each, sees its own rows
//! alone, and the catalogs are those of one app schema.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod schema_support;
#[allow(clippy::wildcard_imports)]
use schema_support::*;

use std::collections::BTreeMap;

use insula_domain::{SchemaName, SchemaVersion};
use insula_problem::Code;
use insula_tenant_cluster::schema::{self, RowsDoNotFit, SchemaFingerprint};
use insula_testkit::TestDatabase;
use tokio_postgres::Client;

/// What a shop's program does; it mentions no tenant.
const PROGRAM: &str = "
    INSERT INTO categories (id, slug, name) VALUES (1, 'tea', 'Tea');
    INSERT INTO categories (id, parent_id, slug, name) VALUES (2, 1, 'green', 'Green tea');
    INSERT INTO products (id, category_id, sku, name) VALUES (1, 2, 'SENCHA', 'Sencha'), (2, 2, 'MATCHA', 'Matcha');
    INSERT INTO prices (product_id, currency, cents) VALUES (1, 'EUR', 900), (2, 'EUR', 2900);
    INSERT INTO stock (product_id, quantity) VALUES (1, 10), (2, 10);
    INSERT INTO customers (id, email, name) VALUES (1, 'ada@example.test', 'Ada');
    INSERT INTO carts (customer_id) VALUES (1);
    INSERT INTO cart_lines (cart_id, product_id) SELECT id, 1 FROM carts;
    INSERT INTO orders (id, number, customer_id, currency) VALUES (1, 'A-1', 1, 'EUR');
    INSERT INTO order_lines VALUES (1, 1, 1, 3, 900), (1, 2, 2, 1, 2900);
    INSERT INTO payments (order_id, provider_reference, cents) VALUES (1, 'ref-1', 5600);
    INSERT INTO reviews (product_id, customer_id, stars) VALUES (1, 1, 5);
    UPDATE orders SET status = 'paid' WHERE number = 'A-1';
    DELETE FROM order_lines WHERE line = 2;
    INSERT INTO customers (id, email, name) VALUES (2, 'grace@example.test', 'Grace')";

async fn assert_a_shop_of_its_own(client: &Client) {
    client.batch_execute(PROGRAM).await.unwrap_or_else(|error| panic!("{error:?}"));
    for (query, expected) in [
        ("SELECT count(*) FROM customers", "2"),
        ("SELECT string_agg(code, ',' ORDER BY code) FROM currencies", "EUR,USD"),
        ("SELECT cents FROM order_totals WHERE number = 'A-1'", "2700"),
        ("SELECT string_agg(quantity::text, ',' ORDER BY product_id) FROM stock", "7,10"),
        ("SELECT updated_at > created_at FROM products WHERE id = 1", "f"),
        ("SELECT greeting FROM customers WHERE id = 1", ""),
        ("SELECT count(*) FROM products WHERE search @@ to_tsquery('simple', 'sencha')", "1"),
    ] {
        assert_eq!(one(client, query).await, expected, "{query}");
    }
    let double =
        refused(client, "INSERT INTO customers (id, email, name) VALUES (3, 'ADA@example.test', 'x')").await;
    assert_eq!(double.constraint(), Some("customers_email_key"));
    // The rules of the foreign keys.
    client
        .batch_execute("DELETE FROM customers WHERE id = 1; DELETE FROM categories WHERE id = 1")
        .await
        .unwrap();
    for (query, expected) in [
        ("SELECT customer_id FROM orders", "null"),
        ("SELECT customer_id FROM reviews", "null"),
        ("SELECT count(*) FROM carts", "0"),
        ("SELECT count(*) FROM cart_lines", "0"),
        ("SELECT parent_id FROM categories", "null"),
        ("SELECT category_id FROM products WHERE id = 1", "2"),
    ] {
        assert_eq!(one(client, query).await, expected, "{query}");
    }
    let kept = refused(client, "DELETE FROM products WHERE id = 1").await;
    assert_eq!(kept.constraint(), Some("order_lines_product_id_fkey"));
}

#[tokio::test]
async fn the_same_program_works_in_every_form() {
    let plain = shop();
    let mut pool = Pool::with("shop_pool", &plain).await;
    let schemas = TestDatabase::create("shop_schemas").await;
    let (own, cluster) = (TestDatabase::create("shop_own").await, TestDatabase::create("shop_cluster").await);
    let sessions = [
        pool.tenant().await.client,
        pool.tenant().await.client,
        schema_silo(&schemas, &plain).await.client,
        schema_silo(&schemas, &plain).await.client,
        database_silo(&own, &plain).await.client,
        database_silo(&cluster, &plain).await.client,
    ];
    for client in &sessions {
        assert_a_shop_of_its_own(client).await;
    }
    assert_eq!(pool.findings().await, Vec::<String>::new());
}

#[tokio::test]
async fn silos_have_the_same_fingerprint_and_nothing_of_ours() {
    let plain = shop();
    let (schemas, own) =
        (TestDatabase::create("prints_schemas").await, TestDatabase::create("prints_own").await);
    let in_schema = schema_silo(&schemas, &plain).await;
    let in_database = database_silo(&own, &plain).await;
    let expected = schema::fingerprint(&own.connect().await, &in_database.schema).await.unwrap();
    assert!(expected.objects.len() > 100, "{}", expected.objects.len());
    for (database, silo) in [(&schemas, &in_schema), (&own, &in_database)] {
        let admin = database.connect().await;
        assert_eq!(schema::audit_silo(&admin, &silo.schema, &expected).await.unwrap(), []);
        let columns = "SELECT count(*) FROM information_schema.columns WHERE column_name = 'tenant_id'";
        assert_eq!(one(&admin, columns).await, "0");
        let schemas = format!(
            "SELECT string_agg(nspname, ',' ORDER BY nspname) FROM pg_namespace \
             WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public', '{}')",
            silo.schema
        );
        assert_eq!(one(&admin, &schemas).await, "null");
    }
}

/// A definition of the pool form as it would be in the plain form.
fn without_tenant(object: &str, definition: &str) -> Option<(String, String)> {
    let is_ours = object.starts_with("policy ")
        || object.ends_with(".tenant_id")
        || object.ends_with("_tenant_id_idx")
        || definition.ends_with("pg_temp'");
    if is_ours {
        return None;
    }
    let definition = if object.starts_with("column ") {
        // Its position is another where the column was added later.
        definition.split_once(' ').unwrap().1.to_owned()
    } else if object.starts_with("constraint ") {
        // ON DELETE SET NULL (customer_id)
        match definition.split_once(" SET NULL (") {
            Some((before, _)) => format!("{before} SET NULL"),
            None => definition.to_owned(),
        }
    } else {
        definition.to_owned()
    };
    let definition = definition
        .replace("tenant_id, ", "")
        .replace(" row security t t ", " row security f f ")
        .replace(" {security_invoker=true}", "")
        .replace("\n SET search_path TO 'app', 'public', 'pg_temp'", "");
    Some((object.to_owned(), definition))
}

#[tokio::test]
async fn the_pool_form_differs_by_the_tenant_alone() {
    let plain = shop();
    let pool = Pool::with("prints_pool", &plain).await;
    let own = TestDatabase::create("prints_plain").await;
    let silo = database_silo(&own, &plain).await;
    let in_pool = schema::fingerprint(&pool.admin, &SchemaName::pool()).await.unwrap();
    let in_silo = schema::fingerprint(&own.connect().await, &silo.schema).await.unwrap();
    let comparable = |print: SchemaFingerprint| -> BTreeMap<String, String> {
        print.objects.iter().filter_map(|(object, definition)| without_tenant(object, definition)).collect()
    };
    let (expected, found) = (comparable(in_silo), comparable(in_pool));
    for (object, definition) in &expected {
        assert_eq!(found.get(object), Some(definition), "{object}");
    }
    assert_eq!(found.len(), expected.len());
}

#[tokio::test]
async fn versions_are_applied_once_and_all_or_nothing() {
    let database = TestDatabase::create("once").await;
    let mut admin = database.connect().await;
    let silo = SchemaName::of_silo();
    let good = versions(&[
        "CREATE TABLE t (a int)",
        "CREATE TABLE u (a int);\n\nINSERT INTO u VALUES (1), (1);\nCREATE UNIQUE INDEX ON u (a)",
    ]);
    schema::apply_plain(&mut admin, &silo, &good[0]).await.unwrap();
    schema::apply_plain(&mut admin, &silo, &good[0]).await.unwrap();
    let version =
        || async { schema::applied_version(&database.connect().await, &silo).await.unwrap().unwrap() };
    assert_eq!(version().await, good[0].applied());

    let problem = schema::apply_plain(&mut admin, &silo, &good[1]).await.unwrap_err();
    assert_eq!(problem.code(), Code::MigrationFailed);
    assert!(
        problem.detail().starts_with(
            "0002_test.sql:4: unique_violation on schema public, table u, constraint u_a_idx (23505). In: CREATE \
             UNIQUE INDEX"
        ),
        "{}",
        problem.detail()
    );
    let said = RowsDoNotFit::behind(&problem).unwrap().said();
    assert!(said.contains("Key (a)=(1) is duplicated (23505)"), "{said}");
    assert_eq!(RowsDoNotFit::behind(&problem).unwrap().version(), Some(SchemaVersion(2)));
    assert_eq!(version().await.version, SchemaVersion(1));
    assert_eq!(one(&admin, "SELECT to_regclass('public.u')").await, "null");

    let changed = versions(&["CREATE TABLE t (b int)"]);
    let problem = schema::apply_plain(&mut admin, &silo, &changed[0]).await.unwrap_err();
    assert_eq!(problem.code(), Code::MigrationChanged);
    let skipped = versions(&["SELECT 1", "SELECT 2", "SELECT 3"]);
    assert_eq!(schema::apply_plain(&mut admin, &silo, &skipped[2]).await.unwrap_err().code(), Code::Internal);
}

#[tokio::test]
async fn errors_name_the_line_of_the_file() {
    let database = TestDatabase::create("lines").await;
    let mut admin = database.connect().await;
    let cases = [
        ("CREATE EXTENSION IF NOT EXISTS citext;\n\nCREATE TABLE t (\n  a int,\n  b unknown_type\n);", 5),
        ("SELECT 'ä';\nSELECT\n  missing\nFROM (SELECT 1) x;", 3),
        ("SELECT 1;\n\nSELECT 1 / 0;", 3),
        ("CREATE TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO t VALUES (1), (1);", 0),
    ];
    for (sql, line) in cases {
        let migration = versions(&[sql]).remove(0);
        let problem = schema::apply_plain(&mut admin, &SchemaName::of_silo(), &migration).await.unwrap_err();
        let place = if line == 0 {
            "0001_test.sql, at its end: ".to_owned()
        } else {
            format!("0001_test.sql:{line}: ")
        };
        assert!(problem.detail().starts_with(&place), "{sql}: {}", problem.detail());
    }
    let mut pool = Pool::empty(
        "pool_lines",
        &versions(&["CREATE TABLE t (a int);\n\nCREATE VIEW v AS\n SELECT b FROM t"]),
    )
    .await;
    let problem = schema::apply_pool(&mut pool.admin, &pool.migrations[0]).await.unwrap_err();
    assert!(
        problem.detail().starts_with("0001_test.sql:3: column \"b\" does not exist (42703)"),
        "{}",
        problem.detail()
    );
}

#[tokio::test]
async fn group_by_a_key_is_explained() {
    let sql = "CREATE TABLE t (a int PRIMARY KEY, b int);\nCREATE VIEW v AS SELECT a, b, count(*) FROM t GROUP BY a";
    let mut pool = Pool::empty("group_by", &versions(&[sql])).await;
    let problem = schema::apply_pool(&mut pool.admin, &pool.migrations[0]).await.unwrap_err();
    assert!(problem.detail().contains("begins with tenant_id"), "{}", problem.detail());
}

#[tokio::test]
async fn a_version_that_has_to_wait_gives_up_and_may_be_tried_again() {
    let database = TestDatabase::create("waits").await;
    let silo = SchemaName::of_silo();
    let both = versions(&["CREATE TABLE t (a int)", "ALTER TABLE t ADD COLUMN b int"]);
    let (mut admin, user) = (database.connect().await, database.connect().await);
    schema::apply_plain(&mut admin, &silo, &both[0]).await.unwrap();
    user.batch_execute("BEGIN; SELECT * FROM t").await.unwrap();
    let problem = schema::apply_plain(&mut admin, &silo, &both[1]).await.unwrap_err();
    assert_eq!(problem.code(), Code::Unavailable);
    user.batch_execute("COMMIT").await.unwrap();
    schema::apply_plain(&mut admin, &silo, &both[1]).await.unwrap();
}

#[tokio::test]
async fn two_at_once_apply_a_version_once() {
    let database = TestDatabase::create("at_once").await;
    let plain = shop();
    let apply = || async {
        let mut admin = database.connect().await;
        for migration in &plain {
            schema::apply_plain(&mut admin, &SchemaName::of_silo(), migration).await.unwrap();
        }
    };
    tokio::join!(apply(), apply(), apply());
    let version = schema::applied_version(&database.connect().await, &SchemaName::of_silo()).await.unwrap();
    assert_eq!(version.unwrap().version, SchemaVersion(3));
}

#[tokio::test]
async fn extensions_are_found_by_every_placement_of_a_database() {
    let plain = versions(&[
        "CREATE EXTENSION IF NOT EXISTS citext;\nCREATE TABLE t (a citext PRIMARY KEY);\nINSERT INTO t VALUES ('A')",
    ]);
    let schemas = TestDatabase::create("extensions").await;
    let silos = [schema_silo(&schemas, &plain).await, schema_silo(&schemas, &plain).await];
    let own = TestDatabase::create("extensions_own").await;
    let single = database_silo(&own, &plain).await;
    for silo in silos.iter().chain([&single]) {
        assert_eq!(one(&silo.client, "SELECT count(*) FROM t WHERE a = 'a'").await, "1");
    }
    let expected = schema::fingerprint(&own.connect().await, &single.schema).await.unwrap();
    let admin = schemas.connect().await;
    assert_eq!(schema::audit_silo(&admin, &silos[1].schema, &expected).await.unwrap(), []);
    let mut pool = Pool::with("extensions_pool", &plain).await;
    let tenant = pool.tenant().await;
    assert_eq!(tenant.one("SELECT count(*) FROM t WHERE a = 'a'").await, "1");
    assert_eq!(pool.findings().await, Vec::<String>::new());
}

#[tokio::test]
async fn data_between_definitions_reaches_every_tenant() {
    let plain = shop();
    let mut pool = Pool::empty("backfill", &plain).await;
    let all = std::mem::take(&mut pool.migrations);
    pool.migrations = all[..2].to_vec();
    pool.apply_all().await;
    let tenants = [pool.tenant().await, pool.tenant().await];
    for (tenant, name) in tenants.iter().zip(["Ada Lovelace", "Grace Hopper"]) {
        tenant
            .run(&format!("INSERT INTO customers (id, email, name) VALUES (1, 'x@example.test', '{name}')"))
            .await;
    }
    pool.migrations = all;
    pool.apply_all().await;
    assert_eq!(tenants[0].one("SELECT greeting FROM customers").await, "Ada");
    assert_eq!(tenants[1].one("SELECT greeting FROM customers").await, "Grace");
    let brought = schema::apply_pool_data(&mut pool.admin, &tenants[0].role).await.unwrap();
    assert_eq!(brought, SchemaVersion(3));
    assert_eq!(tenants[0].one("SELECT count(*) FROM currencies").await, "2");
}

#[tokio::test]
async fn a_new_tenant_begins_with_what_the_versions_have_left() {
    // The first version's data does not fit the tables of the last any more.
    let plain = versions(&[
        "CREATE TABLE kinds (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, word text UNIQUE, old text NOT NULL);\n\
         CREATE TABLE things (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, kind int REFERENCES kinds, size int GENERATED ALWAYS AS (kind * 2) STORED);\n\
         INSERT INTO kinds (word, old) VALUES ('a', 'x'), ('b', 'x') ON CONFLICT (word) DO NOTHING;\n\
         INSERT INTO things (kind) SELECT id FROM kinds",
        "ALTER TABLE kinds DROP COLUMN old; UPDATE kinds SET word = word || '!'; DELETE FROM things WHERE kind = (SELECT max(id) FROM kinds)",
    ]);
    let mut pool = Pool::with("begins", &plain).await;
    let (one, two) = (pool.tenant().await, pool.tenant().await);
    for tenant in [&one, &two] {
        assert_eq!(tenant.one("SELECT string_agg(word, ',' ORDER BY id) FROM kinds").await, "a!,b!");
        assert_eq!(tenant.one("SELECT size = kind * 2 FROM things").await, "t");
        // Ids go on behind those of the rows that were there.
        tenant
            .run("INSERT INTO kinds (word) VALUES ('c'); INSERT INTO things (kind) SELECT max(id) FROM kinds")
            .await;
    }
    // Brought in again, a tenant keeps what it has.
    two.run("DELETE FROM things").await;
    schema::apply_pool_data(&mut pool.admin, &two.role).await.unwrap();
    assert_eq!(two.one("SELECT count(*) FROM things").await, "0");
    // A role that was dropped and made again is another tenant to PostgreSQL.
    let role = two.role.clone();
    drop(two);
    pool.admin
        .batch_execute(&format!(
            "DELETE FROM app.kinds WHERE tenant_id = '{}'; DROP ROLE {role}; CREATE ROLE {role}",
            role.tenant().unwrap()
        ))
        .await
        .unwrap();
    schema::apply_pool_data(&mut pool.admin, &role).await.unwrap();
    let count = format!("SELECT count(*) FROM app.things WHERE tenant_id = '{}'", role.tenant().unwrap());
    assert_eq!(schema_support::one(&pool.admin, &count).await, "1");
    // After a restore from a dump roles have other oids, and tenants their rows.
    let restored = format!(
        "DELETE FROM app.things WHERE tenant_id = '{}'; UPDATE insula.pool_tenants SET role_oid = 1",
        role.tenant().unwrap()
    );
    pool.admin.batch_execute(&restored).await.unwrap();
    schema::apply_pool_data(&mut pool.admin, &role).await.unwrap();
    assert_eq!(schema_support::one(&pool.admin, &count).await, "0");
}

#[tokio::test]
async fn a_failure_in_a_tenants_data_names_the_tenant() {
    let plain =
        versions(&["CREATE TABLE t (a int)", "ALTER TABLE t ADD COLUMN b int;\nUPDATE t SET b = 1 / a"]);
    let mut pool = Pool::empty("fails", &plain).await;
    let second = pool.migrations.pop().unwrap();
    pool.apply_all().await;
    let tenant = pool.tenant().await;
    tenant.run("INSERT INTO t VALUES (0)").await;
    let problem = schema::apply_pool(&mut pool.admin, &second).await.unwrap_err();
    let place = format!("0002_test.sql:2, for {}: division_by_zero", tenant.role);
    assert!(problem.detail().starts_with(&place), "{}", problem.detail());
    assert_eq!(
        tenant.one("SELECT count(*) FROM information_schema.columns WHERE column_name = 'b'").await,
        "0"
    );
    tenant.run("UPDATE t SET a = 1").await;
    schema::apply_pool(&mut pool.admin, &second).await.unwrap();
    assert_eq!(tenant.one("SELECT b FROM t").await, "1");
}

/// A row's value, which may be in what PostgreSQL says and in nothing else.
const VALUE: &str = "ada@example.test";
/// As much of it as PostgreSQL says when it reads the value as a name.
const PART: &str = "ada@example";

#[tokio::test]
async fn no_value_of_a_row_is_in_the_words_for_everybody() {
    let first = "CREATE TABLE t (id int, a text, b text, n int);
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'not %', NEW.a USING DETAIL = NEW.a, HINT = NEW.a, TABLE = NEW.a, ERRCODE = '23505';
        END $$";
    let cases = [
        ("ALTER TABLE t ADD UNIQUE (a)", "unique_violation on schema public, table t, constraint t_a_key (23505)"),
        ("CREATE UNIQUE INDEX one ON t (a)", "unique_violation on schema public, table t, constraint one (23505)"),
        ("ALTER TABLE t ADD CHECK (a < 'a')", "check_violation on schema public, table t, constraint t_a_check (23514)"),
        ("INSERT INTO t (id) VALUES (9); ALTER TABLE t ALTER id SET NOT NULL; ALTER TABLE t ALTER n SET NOT NULL",
            "not_null_violation on schema public, table t, column n (23502)"),
        ("ALTER TABLE t ALTER a TYPE int USING a::int", "invalid_text_representation (22P02)"),
        ("UPDATE t SET n = a::regclass::oid::int", "invalid_schema_name (3F000)"),
        ("UPDATE t SET b = current_setting(a)", "(42"),
        ("UPDATE t SET b = a::timestamptz", "invalid_datetime_format (22007)"),
        ("CREATE TABLE p (a text PRIMARY KEY); ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES p",
            "foreign_key_violation on schema public, table t, constraint t_a_fkey (23503)"),
        ("CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f(); UPDATE t SET n = 1",
            "unique_violation (23505)"),
        ("CREATE FUNCTION g(x text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SELECT \"' || x || '\"'; END $$;
          SELECT g(a) FROM t", "undefined_column (42703)"),
    ];
    for (number, (sql, words)) in cases.iter().enumerate() {
        let database = TestDatabase::create(&format!("words_{number}")).await;
        let mut admin = database.connect().await;
        let silo = SchemaName::of_silo();
        let both = versions(&[first, sql]);
        schema::apply_plain(&mut admin, &silo, &both[0]).await.unwrap();
        admin.batch_execute(&format!("INSERT INTO t VALUES (1, '{VALUE}'), (2, '{VALUE}')")).await.unwrap();
        let problem = schema::apply_plain(&mut admin, &silo, &both[1]).await.unwrap_err();
        assert_eq!(problem.code(), Code::MigrationFailed, "{sql}");
        assert!(problem.detail().contains(words), "{sql}: {}", problem.detail());
        let body = format!("{:?}", problem.to_body(None));
        for told in [problem.chain(), format!("{problem} {problem:?}"), body] {
            assert!(!told.contains(PART), "{sql}: {told}");
        }
        // The value was there to be told, except where PostgreSQL itself is silent.
        let behind = RowsDoNotFit::behind(&problem).unwrap();
        let silent = ["23514", "23502"].iter().any(|code| problem.detail().contains(code));
        assert_eq!(behind.said().contains(PART), !silent, "{sql}: {}", behind.said());
        assert!(!format!("{behind:?} {behind}").contains(PART));
        // Where the rows are the developer's own he is told everything.
        let full = RowsDoNotFit::in_full(problem);
        assert_eq!(full.detail().contains(PART), !silent);
    }
}

#[tokio::test]
async fn a_new_foreign_key_is_checked_against_all_rows() {
    let plain = versions(&[
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int, p int)",
        "ALTER TABLE c ADD FOREIGN KEY (p) REFERENCES p",
    ]);
    let mut pool = Pool::empty("validates", &plain).await;
    let second = pool.migrations.pop().unwrap();
    pool.apply_all().await;
    let tenant = pool.tenant().await;
    tenant.run("INSERT INTO c VALUES (1, 999)").await;
    let problem = schema::apply_pool(&mut pool.admin, &second).await.unwrap_err();
    assert!(problem.detail().contains("foreign key (p) to p of c"), "{}", problem.detail());
    tenant.run("INSERT INTO p VALUES (999)").await;
    schema::apply_pool(&mut pool.admin, &second).await.unwrap();
}

#[tokio::test]
async fn what_a_version_means_is_not_up_to_the_server() {
    let plain = versions(&[
        "CREATE TABLE t (a text, d date, at timestamptz)",
        "INSERT INTO t VALUES ('a\\b', '03/04/2024', '2024-03-04 12:00')",
    ]);
    let mut pool = Pool::empty("forms_meaning", &plain).await;
    let odd =
        "set datestyle = 'SQL, DMY'; set timezone = 'Asia/Tokyo'; set standard_conforming_strings = off";
    pool.admin.batch_execute(odd).await.unwrap();
    pool.apply_all().await;
    let tenant = pool.tenant().await;
    let told = tenant
        .one("select a || ' ' || (d = date '2024-03-04') || ' ' || (at = '2024-03-04 12:00+00') from t")
        .await;
    assert_eq!(told, "a\\b true true");
}
