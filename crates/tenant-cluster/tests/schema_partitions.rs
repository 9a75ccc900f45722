//! Partitioned tables that tenants share, and the statements of a version that
//! mean something else there: each tenant keeps to its rows, by whichever name.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod schema_support;
#[allow(clippy::wildcard_imports)]
use schema_support::*;

use insula_tenant_cluster::{purge_pool_rows, schema, survey_pool_tenants};

const PARTITIONS: &str = "
    CREATE TABLE kinds (id int PRIMARY KEY);
    CREATE TABLE log (id int, day int NOT NULL, kind int REFERENCES kinds ON DELETE CASCADE, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (10);
    CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM (10) TO (20) PARTITION BY LIST (day);
    CREATE TABLE log_2_a PARTITION OF log_2 DEFAULT;
    CREATE TABLE notes (log int, day int, FOREIGN KEY (log, day) REFERENCES log)";

const TABLES: [&str; 4] = ["log", "log_1", "log_2", "log_2_a"];

#[tokio::test]
async fn tenants_see_their_rows_through_every_partition() {
    let mut pool = Pool::of("partitions", PARTITIONS).await;
    let (one, two) = (pool.tenant().await, pool.tenant().await);
    for (tenant, rows) in [(&one, 1), (&two, 3)] {
        tenant.run("INSERT INTO kinds VALUES (1)").await;
        for id in 0..rows {
            tenant
                .run(&format!(
                    "INSERT INTO log VALUES ({id}, 5, 1); INSERT INTO log_2_a VALUES ({id}, 15, 1)"
                ))
                .await;
        }
    }
    for (tenant, rows) in [(&one, [2, 1, 1, 1]), (&two, [6, 3, 3, 3])] {
        for (table, count) in TABLES.iter().zip(rows) {
            assert_eq!(
                tenant.one(&format!("SELECT count(*) FROM {table}")).await,
                count.to_string(),
                "{table}"
            );
        }
    }
    // Nobody writes, changes or removes another's rows, by any name.
    for table in TABLES {
        let day = if table == "log_1" { 5 } else { 15 };
        let stolen = format!("INSERT INTO {table} (id, day, tenant_id) VALUES (9, {day}, '{}')", two.id);
        assert!(is_denied(&one.refused(&stolen).await), "{table}");
        assert!(is_denied(&one.refused(&format!("TRUNCATE {table}")).await), "{table}");
        one.run(&format!("UPDATE {table} SET kind = NULL")).await;
    }
    assert_eq!(two.one("SELECT count(*) FROM log WHERE kind = 1").await, "6");
    // A row moves between partitions, and a cascade stays with its tenant.
    one.run("UPDATE log SET kind = 1; UPDATE log SET day = 16 WHERE day = 5; DELETE FROM kinds").await;
    assert_eq!(one.one("SELECT count(*) FROM log").await, "0");
    assert_eq!(two.one("SELECT count(*) FROM log").await, "6");
    assert_eq!(pool.findings().await, Vec::<String>::new());
    // One that comes later begins with nothing, and can use all.
    let three = pool.tenant().await;
    three.run("INSERT INTO log VALUES (1, 11, NULL)").await;
    assert_eq!(three.one("SELECT count(*) FROM log").await, "1");
}

#[tokio::test]
async fn a_purge_removes_no_row_of_another_tenant_from_any_partition() {
    let mut pool = Pool::of("purge_partitions", PARTITIONS).await;
    let (one, two) = (pool.tenant().await, pool.tenant().await);
    // The same places in different partitions, the tenants crosswise.
    for (first, second) in [(&one, &two), (&two, &one)] {
        let day = if first.id == one.id { 5 } else { 15 };
        first.run(&format!("INSERT INTO log VALUES (1, {day})")).await;
        second.run(&format!("INSERT INTO log VALUES (2, {day})")).await;
    }
    let places = "SELECT count(DISTINCT ctid) FROM app.log";
    let distinct: i64 = pool.admin.query_one(places, &[]).await.unwrap().get(0);
    assert_eq!(distinct, 2, "canary: places repeat");
    assert_eq!(purge_pool_rows(&mut pool.admin, one.id).await.unwrap(), 2);
    assert_eq!(two.one("SELECT string_agg(id || ' ' || day, ', ' ORDER BY day) FROM log").await, "2 5, 1 15");
    assert_eq!(survey_pool_tenants(&pool.admin).await.unwrap(), [two.id].into());
}

#[tokio::test]
async fn a_partition_that_is_referred_to_is_not_detached() {
    let plain = versions(&[PARTITIONS, "ALTER TABLE log DETACH PARTITION log_1"]);
    let mut pool = Pool::empty("detached", &plain).await;
    let second = pool.migrations.pop().unwrap();
    pool.apply_all().await;
    let tenant = pool.tenant().await;
    tenant.run("INSERT INTO log VALUES (1, 5, NULL); INSERT INTO notes VALUES (1, 5)").await;
    // As the owner, PostgreSQL sees no row that refers to it.
    pool.admin
        .batch_execute("BEGIN; SELECT insula.drop_copy_targets(); SET LOCAL ROLE insula_pool_owner; ALTER TABLE app.log DETACH PARTITION app.log_1; ROLLBACK")
        .await
        .unwrap();
    let problem = schema::apply_pool(&mut pool.admin, &second).await.unwrap_err();
    assert!(problem.detail().contains("(23503)"), "{}", problem.detail());
    tenant.run("DELETE FROM notes").await;
    schema::apply_pool(&mut pool.admin, &second).await.unwrap();
    assert_eq!(tenant.one("SELECT count(*) FROM log_1").await, "1");
    pool.migrations.push(second);
    assert_eq!(pool.findings().await, Vec::<String>::new());
}

#[tokio::test]
async fn truncate_and_setval_in_a_version_keep_to_their_tenant() {
    let plain = versions(&[
        "CREATE TABLE p (id bigserial PRIMARY KEY); CREATE TABLE c (p bigint REFERENCES p); INSERT INTO p DEFAULT VALUES",
        "SELECT setval('p_id_seq', 1000)",
        "SELECT setval('p_id_seq', 5)",
        "TRUNCATE p, c; INSERT INTO p (id) VALUES (7)",
    ]);
    let mut pool = Pool::empty("truncates", &plain).await;
    let all = std::mem::take(&mut pool.migrations);
    pool.migrations = all[..1].to_vec();
    pool.apply_all().await;
    let tenants = [pool.tenant().await, pool.tenant().await];
    for tenant in &tenants {
        tenant.run("INSERT INTO c SELECT id FROM p").await;
    }
    pool.migrations = all;
    pool.apply_all().await;
    for tenant in &tenants {
        assert_eq!(tenant.one("SELECT string_agg(id::text, ',') FROM p").await, "7");
        assert_eq!(tenant.one("SELECT count(*) FROM c").await, "0");
    }
    // The number was moved on, and not back.
    assert_eq!(tenants[0].one("INSERT INTO p DEFAULT VALUES RETURNING id").await, "1001");
    assert_eq!(tenants[1].one("INSERT INTO p DEFAULT VALUES RETURNING id").await, "1002");
}
