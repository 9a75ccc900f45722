//! Versions that the rows of some of a pool's tenants do not fit: those are
//! named, the others have the version, and a repair is all that it takes.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod schema_support;
#[allow(clippy::wildcard_imports)]
use schema_support::*;

use insula_domain::SchemaVersion;
use insula_problem::Code;
use insula_tenant_cluster::schema;

/// A pool at version 1 of two, with three tenants; the first and second have
/// run some statements.
async fn pool_with_rows(label: &str, texts: &[&str], rows: &str) -> (Pool, Vec<PoolTenant>) {
    let mut pool = Pool::empty(label, &versions(texts)).await;
    let second = pool.migrations.pop().unwrap();
    pool.apply_all().await;
    let tenants = vec![pool.tenant().await, pool.tenant().await, pool.tenant().await];
    for tenant in &tenants[..2] {
        tenant.run(rows).await;
    }
    pool.migrations.push(second);
    (pool, tenants)
}

fn sorted(tenants: &[PoolTenant]) -> Vec<insula_domain::TenantId> {
    let mut ids: Vec<_> = tenants.iter().map(|tenant| tenant.id).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn rows_of_some_tenants_hold_up_nobody_else() {
    for (label, constraint, wrong, repair, example) in [
        ("rows_fk", "FOREIGN KEY (p) REFERENCES p", "INSERT INTO c VALUES (7, 999)", "DELETE FROM c", "id=7"),
        (
            "rows_check",
            "CONSTRAINT small CHECK (p < 100)",
            "INSERT INTO c VALUES (8, 999)",
            "UPDATE c SET p = 1",
            "id=8",
        ),
    ] {
        let texts = [
            "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int)",
            &format!("ALTER TABLE c ADD {constraint}; ALTER TABLE c ADD COLUMN note text"),
        ];
        let (mut pool, tenants) = pool_with_rows(label, &texts, wrong).await;
        let second = pool.migrations[1].clone();
        let problem = schema::apply_pool(&mut pool.admin, &second).await.unwrap_err();
        assert_eq!(problem.code(), Code::MigrationFailed);
        assert!(problem.detail().contains(&tenants[0].id.to_string()), "{}", problem.detail());
        assert!(problem.detail().starts_with("0002_test.sql:1: rows of 2"), "{}", problem.detail());
        assert!(!problem.detail().contains(example), "{}", problem.detail());
        assert!(
            schema::RowsDoNotFit::behind(&problem).unwrap().said().contains(&format!("1 rows, as {example}"))
        );
        // The version is there for everybody, and new rows must fit.
        let version = schema::applied_version(&pool.admin, &insula_domain::SchemaName::pool()).await.unwrap();
        assert_eq!(version.unwrap().version, SchemaVersion(2));
        tenants[2].run("INSERT INTO p VALUES (1); INSERT INTO c (id, p, note) VALUES (1, 1, 'x')").await;
        tenants[2].refused("INSERT INTO c (id, p) VALUES (2, 999)").await;
        assert_eq!(pool.findings().await, Vec::<String>::new());

        let violations = schema::validate_pool(&mut pool.admin, &second).await.unwrap();
        let [violation] = violations.as_slice() else { panic!("one") };
        let found: Vec<_> = violation.offenders.iter().map(|offender| offender.tenant).collect();
        assert_eq!(found, sorted(&tenants[..2]));
        assert_eq!(violation.offenders[0].rows, Some(1));
        assert_eq!(violation.offenders[0].example.as_deref(), Some(example));

        tenants[0].run("INSERT INTO p VALUES (1)").await;
        for tenant in &tenants[..2] {
            tenant
                .run(&repair.replace("UPDATE c", "INSERT INTO p VALUES (1) ON CONFLICT DO NOTHING; UPDATE c"))
                .await;
        }
        schema::apply_pool(&mut pool.admin, &second).await.unwrap();
        let open = "SELECT count(*) FROM pg_constraint WHERE NOT convalidated";
        assert_eq!(one(&pool.admin, open).await, "0");
    }
}

#[tokio::test]
async fn whose_rows_do_not_fit_is_found() {
    let first = "CREATE TABLE t (id int PRIMARY KEY, a int, b text)";
    let wrong = "INSERT INTO t VALUES (1, 5, 'x'), (2, 5, 'x'), (3, NULL, NULL)";
    for (second, rows, example) in [
        ("ALTER TABLE t ADD UNIQUE (a)", Some(2), Some("\"a\"=5")),
        ("CREATE UNIQUE INDEX ON t (lower(b)) WHERE id > 0", Some(2), None),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (a)", Some(1), None),
        ("ALTER TABLE t ALTER a SET NOT NULL", Some(1), Some("id=3")),
        ("ALTER TABLE t ADD COLUMN c int NOT NULL", Some(3), None),
        ("ALTER TABLE t ALTER b TYPE int USING b::int", None, None),
        ("ALTER TABLE t ADD CHECK (a > 5)", Some(2), Some("id=1")),
    ] {
        let (mut pool, tenants) = pool_with_rows("rows_found", &[first, second], wrong).await;
        tenants[2].run("INSERT INTO t VALUES (1, 6, '7')").await;
        let migration = pool.migrations[1].clone();
        let problem = schema::apply_pool(&mut pool.admin, &migration).await.unwrap_err();
        assert!(problem.detail().contains(&tenants[1].id.to_string()), "{second}: {}", problem.detail());
        let violations = schema::find_offenders(&mut pool.admin, &migration).await.unwrap();
        let all = if second.contains("ADD COLUMN") { 3 } else { 2 };
        let violation = violations.first().unwrap_or_else(|| panic!("{second}"));
        let found: Vec<_> = violation.offenders.iter().map(|offender| offender.tenant).collect();
        assert_eq!(found, sorted(&tenants[..all]), "{second}");
        let of_first = violation.offenders.iter().find(|offender| offender.tenant == tenants[0].id).unwrap();
        assert_eq!(of_first.rows, rows, "{second}");
        if example.is_some() {
            assert_eq!(of_first.example.as_deref(), example, "{second}");
        }
    }
}

#[tokio::test]
async fn indexes_are_built_beside_running_statements() {
    let texts = [
        "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE INDEX old ON t (a)",
        "CREATE UNIQUE INDEX CONCURRENTLY by_a ON t (a);\nDROP INDEX CONCURRENTLY old",
    ];
    let plain = versions(&texts);
    let (mut pool, tenants) =
        pool_with_rows("rows_concurrent", &texts, "INSERT INTO t VALUES (1, 1), (2, 1)").await;
    let database = insula_testkit::TestDatabase::create("rows_silo").await;
    let silo = database_silo(&database, &plain[..1]).await;
    silo.client.batch_execute("INSERT INTO t VALUES (1, 1), (2, 1)").await.unwrap();
    let mut admin = database.connect().await;
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    let second = pool.migrations[1].clone();

    // Rows that do not fit leave nothing half built.
    let problem = schema::apply_pool(&mut pool.admin, &second).await.unwrap_err();
    assert_eq!(problem.code(), Code::MigrationFailed);
    assert!(problem.detail().starts_with("0002_test.sql:1: "), "{}", problem.detail());
    let problem = schema::apply_plain(&mut admin, &silo.schema, &plain[1]).await.unwrap_err();
    assert_eq!(problem.code(), Code::MigrationFailed);
    for client in [&pool.admin, &admin] {
        assert_eq!(one(client, invalid).await, "0");
        assert_eq!(
            one(client, "SELECT current_user || current_setting('search_path')").await,
            one(client, "SELECT session_user || reset_val FROM pg_settings WHERE name = 'search_path'").await
        );
    }
    // What was broken off half way is begun again.
    admin.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY by_a ON public.t (a)").await.unwrap_err();
    assert_eq!(one(&admin, invalid).await, "1");
    for client in tenants[..2].iter().map(|tenant| &tenant.client).chain([&silo.client]) {
        client.batch_execute("DELETE FROM t WHERE id = 2").await.unwrap();
    }
    for _ in 0..2 {
        schema::apply_pool(&mut pool.admin, &second).await.unwrap();
        schema::apply_plain(&mut admin, &silo.schema, &plain[1]).await.unwrap();
    }
    for (client, name) in [(&pool.admin, "app"), (&admin, "public")] {
        assert_eq!(one(client, invalid).await, "0");
        let names = format!(
            "SELECT string_agg(indexname, ',' ORDER BY indexname) FROM pg_indexes WHERE schemaname = '{name}'"
        );
        assert_eq!(one(client, &names).await, "by_a,t_pkey");
        assert_eq!(
            one(
                client,
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            )
            .await,
            "0"
        );
    }
    assert_eq!(pool.findings().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_put_off_is_done_before_definitions_that_follow_rows() {
    let sql = "CREATE TABLE p (id int PRIMARY KEY);
        CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO c VALUES (1, 1), (2, 1);
        INSERT INTO p VALUES (1);
        CREATE INDEX ON c (p);
        UPDATE c SET p = 1;
        ALTER TABLE c ADD COLUMN note text";
    let plain =
        versions(&[sql, "INSERT INTO c VALUES (3, 1);\nDROP TABLE p, c;\nSELECT 1;\nDROP TABLE nothing"]);
    let database = insula_testkit::TestDatabase::create("rows_put_off").await;
    let mut admin = database.connect().await;
    schema::apply_plain(&mut admin, &insula_domain::SchemaName::of_silo(), &plain[0]).await.unwrap();
    let mut pool = Pool::with("rows_put_off_pool", &plain[..1]).await;
    let tenant = pool.tenant().await;
    let rows = "SELECT string_agg(id || '-' || p, ',' ORDER BY id) FROM c";
    assert_eq!(
        (one(&admin, rows).await, tenant.one(rows).await),
        ("1-1,2-1".to_owned(), "1-1,2-1".to_owned())
    );
    // What fails behind it is told with its own line.
    let failed =
        schema::apply_plain(&mut admin, &insula_domain::SchemaName::of_silo(), &plain[1]).await.unwrap_err();
    assert!(failed.detail().contains(":4"), "{}", failed.detail());
    // The canary: PostgreSQL itself takes no such definition.
    let put_off = "BEGIN; INSERT INTO c VALUES (3, 1); CREATE INDEX ON c (id); COMMIT";
    assert_eq!(refused(&admin, put_off).await.code().code(), "55006");
}

#[tokio::test]
async fn rows_with_which_no_tenant_could_begin_are_found_without_one() {
    let first = "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)";
    let mut pool = Pool::with("rows_to_begin_with", &versions(&[first])).await;
    schema::try_new_tenant(&mut pool.admin).await.unwrap();
    assert_eq!(one(&pool.admin, "SELECT count(*) FROM insula.pool_tenants").await, "0");
    let plain = versions(&[first, "ALTER TABLE t ADD CONSTRAINT large CHECK (a > 1) NOT VALID"]);
    let mut pool = Pool::with("rows_to_begin_with", &plain).await;
    let refused = schema::try_new_tenant(&mut pool.admin).await.unwrap_err();
    assert!(refused.detail().contains("a new tenant would begin"), "{}", refused.detail());
}

#[tokio::test]
async fn the_rows_of_a_silo_are_named_where_postgresql_names_none() {
    let first = "CREATE TABLE t (id int PRIMARY KEY, a int, b text)";
    for (second, told) in [
        ("ALTER TABLE t ADD CONSTRAINT large CHECK (a > 5)", Some("check (a > 5) of t: 2 rows, as id=1")),
        ("ALTER TABLE t ALTER b SET NOT NULL", Some("not null (b) of t: 1 rows, as id=3")),
        ("ALTER TABLE t ADD UNIQUE (a)", None),
    ] {
        let versions = versions(&[first, second]);
        let mut form = insula_app_schema::PoolForm::new();
        let shared: Vec<_> = versions.iter().map(|version| form.rewrite(version).unwrap()).collect();
        let database = insula_testkit::TestDatabase::create("rows_of_silo").await;
        let silo = database_silo(&database, &versions[..1]).await;
        silo.client
            .batch_execute("INSERT INTO t VALUES (1, 5, 'x'), (2, 5, 'x'), (3, 7, NULL)")
            .await
            .unwrap();
        let mut admin = database.connect().await;
        let problem = schema::apply_plain(&mut admin, &silo.schema, &versions[1]).await.unwrap_err();
        let before = schema::RowsDoNotFit::behind(&problem).unwrap().said().to_owned();
        assert!(!before.contains("id="), "canary: {before}");
        let problem = schema::with_rows(&mut admin, &silo.schema, &shared[1], problem).await;
        assert!(!problem.detail().contains("id="), "{}", problem.detail());
        let behind = schema::RowsDoNotFit::behind(&problem).unwrap();
        match told {
            Some(told) => assert!(behind.said().ends_with(told), "{}", behind.said()),
            None => assert!(behind.said().contains("Key (a)=(5) is duplicated"), "{}", behind.said()),
        }
        assert!(behind.sqlstate().is_some() && behind.version() == Some(SchemaVersion(2)));
    }
}
