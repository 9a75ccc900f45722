//! One tenant of a pool against another: what was tried, and what was seen.
//! Where a measure of ours stops an attack, the same attack is shown to work
//! once the measure is taken away.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod schema_support;
#[allow(clippy::wildcard_imports)]
use schema_support::*;

use insula_app_schema::TABLE_FREE;
use insula_domain::{DatabaseName, RoleName};
use insula_tenant_cluster::{drop_schemas, schema};
use insula_testkit::TestDatabase;
use tokio_postgres::error::SqlState;

const TABLES: &str = "
    CREATE TABLE parents (id int PRIMARY KEY, word text UNIQUE);
    CREATE TABLE children (
        id int PRIMARY KEY,
        parent int REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE,
        note text,
        touched text);
    CREATE TABLE log (id bigserial PRIMARY KEY, what text, seen bigint);
    CREATE VIEW words AS SELECT word FROM parents;
    CREATE FUNCTION count_parents() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM parents';
    CREATE FUNCTION run(sql text) RETURNS text LANGUAGE plpgsql AS $$
        DECLARE result text; BEGIN EXECUTE sql INTO result; RETURN result; END $$;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' THEN PERFORM OLD.note::text; RETURN OLD; END IF;
            NEW.touched := 'yes'::text;
            RETURN NEW;
        END $$;
    CREATE TRIGGER touch BEFORE UPDATE OR DELETE ON children FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO log (what, seen) VALUES (TG_OP || ' as ' || current_user, (SELECT count(*) FROM children));
            RETURN NULL;
        END $$;
    CREATE TRIGGER note AFTER UPDATE OR DELETE ON children FOR EACH ROW EXECUTE FUNCTION note()";

/// A pool with an attacker, who has no rows, and a victim, who has.
async fn attacker_and_victim(label: &str) -> (Pool, PoolTenant, PoolTenant) {
    let mut pool = Pool::of(label, TABLES).await;
    let (attacker, victim) = (pool.tenant().await, pool.tenant().await);
    victim.run("INSERT INTO parents VALUES (1, 'secret'), (2, 'other'); INSERT INTO children VALUES (1, 1, 'n'), (2, 2, 'n')").await;
    (pool, attacker, victim)
}

async fn give_the_attacker_rows(attacker: &PoolTenant) {
    attacker.run("INSERT INTO parents VALUES (1, 'mine'); INSERT INTO children VALUES (7, 1, 'n')").await;
}

#[tokio::test]
async fn no_way_of_reading_shows_another_tenants_rows() {
    let (_pool, attacker, victim) = attacker_and_victim("attack_read").await;
    for query in [
        "SELECT count(*) FROM parents",
        "SELECT count(*) FROM app.parents WHERE true OR tenant_id IS NOT NULL",
        "SELECT count(*) FROM ONLY parents",
        "SELECT count(*) FROM words",
        "SELECT count_parents()",
        "SELECT run('SELECT count(*) FROM parents')",
        "WITH w AS (UPDATE parents SET word = word RETURNING 1) SELECT count(*) FROM w",
        "WITH w AS (DELETE FROM parents RETURNING 1) SELECT count(*) FROM w",
        "SELECT count(*) FROM parents TABLESAMPLE SYSTEM (100)",
        "SELECT count(*) FROM children LEFT JOIN parents ON true",
        "SELECT count(*) FROM (SELECT FROM parents FOR UPDATE) x",
        "SELECT query_to_xml('SELECT * FROM parents', true, true, '')::text LIKE '%secret%'",
        "SELECT table_to_xml('parents', true, true, '')::text LIKE '%secret%'",
        "SELECT coalesce(max(tenant_id::text), '0') FROM parents",
    ] {
        let seen = attacker.one(query).await;
        assert!(seen == "0" || seen == "f", "{query}: {seen}");
    }
    let by_id = format!("SELECT count(*) FROM parents WHERE tenant_id = '{}'", victim.id);
    assert_eq!(attacker.one(&by_id).await, "0");
    attacker.run("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM parents; COMMIT").await;
    assert!(
        attacker
            .client
            .simple_query("FETCH ALL FROM c")
            .await
            .unwrap()
            .iter()
            .all(|message| !matches!(message, tokio_postgres::SimpleQueryMessage::Row(_)))
    );
    // Switching row-level security off does not show rows: it makes an error.
    attacker.run("SET row_security = off").await;
    let error = attacker.refused("SELECT * FROM parents").await;
    assert_eq!(error.code(), &SqlState::INSUFFICIENT_PRIVILEGE);
    assert_eq!(victim.one("SELECT count(*) FROM parents").await, "2");
}

#[tokio::test]
async fn copy_shows_and_takes_nothing() {
    use futures_util::TryStreamExt;
    let (_pool, attacker, _victim) = attacker_and_victim("attack_copy").await;
    for copy in ["COPY parents TO STDOUT", "COPY (SELECT * FROM parents) TO STDOUT"] {
        let rows: Vec<_> = attacker.client.copy_out(copy).await.unwrap().try_collect().await.unwrap();
        assert_eq!(rows.len(), 0, "{copy}");
    }
    // PostgreSQL does not check rows that COPY brings, and so refuses it.
    let error = attacker.refused("COPY parents FROM STDIN").await;
    assert_eq!(error.code(), &SqlState::FEATURE_NOT_SUPPORTED);
    for copy in
        ["COPY parents TO '/tmp/x'", "COPY parents FROM '/etc/passwd'", "COPY parents TO PROGRAM 'cat'"]
    {
        assert!(is_denied(&attacker.refused(copy).await), "{copy}");
    }
}

#[tokio::test]
async fn no_way_of_writing_reaches_another_tenants_rows() {
    let (_pool, attacker, victim) = attacker_and_victim("attack_write").await;
    give_the_attacker_rows(&attacker).await;
    let theirs = victim.id;
    for write in [
        format!("INSERT INTO parents VALUES (3, 'x', '{theirs}')"),
        format!("UPDATE parents SET tenant_id = '{theirs}'"),
        format!(
            "INSERT INTO parents VALUES (1, 'x') ON CONFLICT (tenant_id, id) DO UPDATE SET tenant_id = '{theirs}'"
        ),
        format!(
            "INSERT INTO parents VALUES (1, 'x', '{theirs}') ON CONFLICT (tenant_id, id) DO UPDATE SET word = 'x'"
        ),
        format!("INSERT INTO parents VALUES (1, 'x', '{theirs}') ON CONFLICT DO NOTHING"),
        format!(
            "MERGE INTO parents p USING (SELECT 1) s ON false WHEN NOT MATCHED THEN INSERT VALUES (9, 'x', '{theirs}')"
        ),
        format!("SELECT run('INSERT INTO parents VALUES (9, ''x'', ''{theirs}'')')"),
        "INSERT INTO parents VALUES (9, 'x', NULL)".to_owned(),
    ] {
        let error = attacker.refused(&write).await;
        assert!(is_denied(&error) || error.code() == &SqlState::NOT_NULL_VIOLATION, "{write}: {error:?}");
    }
    for write in [
        format!("UPDATE parents SET word = 'x' WHERE tenant_id = '{theirs}'"),
        format!("DELETE FROM parents WHERE tenant_id = '{theirs}'"),
        "DELETE FROM parents WHERE id = 2".to_owned(),
    ] {
        assert_eq!(attacker.client.execute(&write, &[]).await.unwrap(), 0, "{write}");
    }
    assert!(is_denied(&attacker.refused("TRUNCATE parents CASCADE").await));
    assert_eq!(victim.one("SELECT string_agg(word, ',' ORDER BY id) FROM parents").await, "secret,other");
}

#[tokio::test]
async fn keys_do_not_tell_of_another_tenants_rows() {
    let (_pool, attacker, victim) = attacker_and_victim("attack_keys").await;
    // The same keys are free, and a reference to the other's row finds none.
    attacker.run("INSERT INTO parents VALUES (2, 'secret')").await;
    let theirs = attacker.refused("INSERT INTO children VALUES (1, 1)").await;
    let nobodys = attacker.refused("INSERT INTO children VALUES (1, 99)").await;
    assert_eq!(theirs.code(), &SqlState::FOREIGN_KEY_VIOLATION);
    assert_eq!(theirs.message(), nobodys.message());
    assert_eq!(theirs.detail(), nobodys.detail());
    // Under the other's id the answer is the same whether the row is there or not.
    let taken = attacker.refused(&format!("INSERT INTO parents VALUES (1, 'x', '{}')", victim.id)).await;
    let free = attacker.refused(&format!("INSERT INTO parents VALUES (99, 'x', '{}')", victim.id)).await;
    assert_eq!((taken.code(), taken.message()), (free.code(), free.message()));
    let referring =
        attacker.refused(&format!("INSERT INTO children VALUES (1, 1, 'n', 'n', '{}')", victim.id)).await;
    assert!(is_denied(&referring));
    // Changes follow the attacker's own rows alone.
    attacker.run("INSERT INTO children VALUES (5, 2); UPDATE parents SET id = 1; DELETE FROM parents").await;
    assert_eq!(victim.one("SELECT string_agg(parent::text, ',' ORDER BY id) FROM children").await, "1,2");
}

#[tokio::test]
async fn nobody_becomes_somebody_else() {
    let (pool, attacker, victim) = attacker_and_victim("attack_role").await;
    let superuser = one(&pool.admin, "SELECT current_user").await;
    let others = [victim.role.as_str(), schema::POOL_OWNER, schema::POOL_TEMPLATE, &superuser];
    for role in others {
        for sql in [
            format!("SET ROLE {role}"),
            format!("SET SESSION AUTHORIZATION {role}"),
            format!("SELECT set_config('role', '{role}', false)"),
            format!("SELECT set_config('session_authorization', '{role}', false)"),
            format!("DO $$ BEGIN EXECUTE 'SET ROLE {role}'; END $$"),
            format!("SELECT run('SELECT set_config(''role'', ''{role}'', false)')"),
            format!("GRANT {role} TO {}", attacker.role),
        ] {
            assert!(is_denied(&attacker.refused(&sql).await), "{sql}");
        }
    }
    // The group may be put on, and shows no more than before.
    for sql in
        ["SET ROLE insula_pool_rw", "RESET ROLE", "RESET SESSION AUTHORIZATION", "DISCARD ALL", "RESET ALL"]
    {
        attacker.run(sql).await;
        assert_eq!(attacker.one("SELECT count(*) FROM parents").await, "0", "{sql}");
        assert_eq!(attacker.one("SELECT insula.current_tenant()").await, attacker.id.to_string(), "{sql}");
    }
    // Nothing that a session can set is what it is known by.
    for setting in [
        "search_path = pg_temp, app, pg_catalog",
        "application_name = 'x'",
        "insula.tenant = 'x'",
        "row_security = on",
    ] {
        attacker.run(&format!("SET {setting}")).await;
        assert_eq!(attacker.one("SELECT count(*) FROM app.parents").await, "0", "{setting}");
    }
}

#[tokio::test]
async fn definitions_are_out_of_reach() {
    let (_pool, attacker, _victim) = attacker_and_victim("attack_define").await;
    for sql in [
        "ALTER TABLE parents DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE parents NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY insula_tenant ON parents",
        "CREATE POLICY all_rows ON parents USING (true)",
        "ALTER TABLE parents DROP CONSTRAINT parents_pkey CASCADE",
        "CREATE INDEX ON parents (word)",
        "CREATE TRIGGER t BEFORE INSERT ON parents FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE RULE r AS ON INSERT TO parents DO NOTHING",
        "CREATE TABLE app.mine (a int)",
        "CREATE TABLE public.mine (a int)",
        "CREATE TABLE insula.mine (a int)",
        "CREATE TEMP TABLE mine (a int)",
        "CREATE VIEW app.mine AS SELECT 1",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION app.count_parents() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
        "CREATE OR REPLACE FUNCTION insula.current_tenant() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
        "ALTER FUNCTION count_parents() SECURITY DEFINER",
        "ALTER VIEW words RESET (security_invoker)",
        "COMMENT ON SCHEMA app IS 'app schema version 99, sha256 x'",
        "CREATE EXTENSION dblink",
        "CREATE EXTENSION postgres_fdw",
        "CREATE EXTENSION citext",
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION touch()",
        "CREATE PUBLICATION p FOR ALL TABLES",
        "ALTER DEFAULT PRIVILEGES FOR ROLE insula_pool_owner GRANT ALL ON TABLES TO PUBLIC",
        "SELECT * FROM insula.pool_tenants",
        "SELECT insula.enrol(gen_random_uuid(), gen_random_uuid(), 0, 1)",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_create_logical_replication_slot('x', 'pgoutput')",
        "SET session_replication_role = replica",
    ] {
        let error = attacker.refused(sql).await;
        assert!(is_denied(&error), "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn what_knows_no_tenant_is_taken_away() {
    let (pool, attacker, victim) = attacker_and_victim("attack_shared").await;
    let denied = [
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT lo_get(1)",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_xact_lock(1, 2)",
        "SELECT pg_notify('channel', 'x')",
        "SELECT pg_logical_emit_message(true, 'insula', 'x')",
        "SELECT pg_export_snapshot()",
    ];
    for sql in denied {
        assert!(is_denied(&attacker.refused(sql).await), "{sql}");
    }
    // Sequences are shared: numbers may be drawn, and neither set nor read.
    attacker.run("SELECT nextval('log_id_seq'), currval('log_id_seq')").await;
    for sql in [
        "SELECT setval('log_id_seq', 1)",
        "SELECT last_value FROM log_id_seq",
        "ALTER SEQUENCE log_id_seq RESTART",
    ] {
        assert!(is_denied(&attacker.refused(sql).await), "{sql}");
    }
    let not_drawn = victim.refused("SELECT currval('log_id_seq')").await;
    assert_eq!(not_drawn.code(), &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    // Other sessions.
    let pid = victim.one("SELECT pg_backend_pid()").await;
    for function in ["pg_cancel_backend", "pg_terminate_backend"] {
        assert!(is_denied(&attacker.refused(&format!("SELECT {function}({pid})")).await));
    }
    let query = format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}");
    assert!(is_denied(&attacker.refused(&query).await));

    // Canary: in a database that is not hardened, all of it works.
    let open = TestDatabase::create("attack_open").await;
    pool.admin
        .batch_execute(&format!("GRANT CONNECT ON DATABASE {} TO {}", open.name(), attacker.role))
        .await
        .unwrap();
    let session = session(&open, &attacker.role).await;
    for sql in denied.iter().filter(|sql| !sql.contains("lo_get")) {
        session
            .batch_execute(&format!("BEGIN; {sql}; COMMIT"))
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// These cannot be taken away inside PostgreSQL: whoever stands before it has
/// to refuse them. The test keeps the list true.
#[tokio::test]
async fn what_postgresql_cannot_refuse_is_known() {
    let (_pool, attacker, victim) = attacker_and_victim("attack_known").await;
    // Notifications go to whoever listens in the database.
    victim.run("LISTEN orders").await;
    attacker.run("NOTIFY orders, 'x'; LISTEN orders").await;
    // A lock on a shared table holds up everybody; UPDATE or DELETE is right enough for it.
    attacker.run("BEGIN; LOCK TABLE parents IN ACCESS EXCLUSIVE MODE").await;
    victim.run("SET lock_timeout = '100ms'").await;
    assert_eq!(victim.refused("SELECT * FROM parents").await.code(), &SqlState::LOCK_NOT_AVAILABLE);
    attacker.run("ROLLBACK").await;
    // How many rows a table has altogether, and which tenants there are on the server.
    attacker.run("SELECT reltuples, pg_relation_size(oid) FROM pg_class WHERE relname = 'parents'").await;
    let known = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{}'", victim.role);
    assert_eq!(attacker.one(&known).await, "1");
    // Where a sequence stands.
    attacker.run("SELECT nextval('log_id_seq')").await;
    assert_ne!(
        attacker.one("SELECT last_value FROM pg_sequences WHERE sequencename = 'log_id_seq'").await,
        "null"
    );
}

#[tokio::test]
async fn statistics_show_no_values() {
    let (pool, attacker, victim) = attacker_and_victim("attack_stats").await;
    victim.run("INSERT INTO parents SELECT g, 'secret' || g FROM generate_series(10, 3000) g").await;
    victim.run("INSERT INTO children SELECT g, 1, 'common secret' FROM generate_series(10, 3000) g").await;
    pool.admin.batch_execute("ANALYZE app.parents, app.children").await.unwrap();
    assert_eq!(one(&pool.admin, "SELECT count(*) > 0 FROM pg_stats WHERE schemaname = 'app'").await, "t");
    assert_eq!(attacker.one("SELECT count(*) FROM pg_stats WHERE schemaname = 'app'").await, "0");
    assert_eq!(attacker.one("SELECT count(*) FROM pg_stats_ext").await, "0");
    assert!(is_denied(&attacker.refused("SELECT * FROM pg_statistic").await));
    // The planner's estimates are those for the attacker, who has no rows.
    let estimate = |filter: &str| format!("EXPLAIN (FORMAT JSON) SELECT * FROM children WHERE {filter}");
    let common = attacker.one(&estimate("note = 'common secret'")).await;
    let rare = attacker.one(&estimate("note = 'nobody has this'")).await;
    let rows =
        |plan: &str| plan.split("\"Plan Rows\": ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    assert_eq!((rows(&common), rows(&rare)), ("1".to_owned(), "1".to_owned()), "{common}");
}

#[tokio::test]
async fn functions_of_an_attacker_see_no_rows_before_the_policy_does() {
    let (pool, attacker, _victim) = attacker_and_victim("attack_leaky").await;
    let temporary = format!(
        "GRANT TEMPORARY ON DATABASE {} TO {role}; GRANT USAGE ON LANGUAGE sql, plpgsql TO {role}",
        pool.database.name(),
        role = attacker.role
    );
    pool.admin.batch_execute(&temporary).await.unwrap();
    attacker
        .run(
            "CREATE TEMP TABLE seen (word text);
             CREATE FUNCTION pg_temp.leak(word text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
                 BEGIN INSERT INTO seen VALUES (word); RETURN true; END $$;
             SELECT * FROM app.parents WHERE pg_temp.leak(word);
             SELECT * FROM app.words WHERE pg_temp.leak(word);
             SELECT * FROM app.parents p JOIN app.children c ON pg_temp.leak(p.word)",
        )
        .await;
    assert_eq!(attacker.one("SELECT count(*) FROM seen").await, "0");
    // Errors of operators tell no values either.
    for query in [
        "SELECT 1 / (id - 1) FROM app.parents",
        "SELECT word::int FROM app.parents",
        "SELECT * FROM app.parents WHERE word::int = 1",
    ] {
        attacker.run(query).await;
    }
    // A table of the same name is the attacker's own affair.
    attacker.run("CREATE TEMP TABLE parents (id int); INSERT INTO parents VALUES (1)").await;
    assert_eq!(attacker.one("SELECT count_parents()").await, "1");
    assert_eq!(attacker.one("SELECT count(*) FROM app.parents").await, "0");
}

/// A domain of the attacker's own, called `text`, with a check that looks around.
const LURE: &str = "
    CREATE TEMP TABLE seen (who text, rows bigint);
    CREATE FUNCTION pg_temp.look(value pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            RAISE NOTICE 'looked';
            INSERT INTO pg_temp.seen SELECT current_user, count(*) FROM app.parents;
            RETURN true;
        END $$;
    CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.look(VALUE::pg_catalog.text));
    GRANT ALL ON pg_temp.seen TO PUBLIC;
    SET search_path = pg_temp, pg_catalog, app";

#[tokio::test]
async fn a_type_of_the_attackers_own_is_not_taken_for_ours_in_a_cascade() {
    let (pool, attacker, _victim) = attacker_and_victim("attack_lure").await;
    give_the_attacker_rows(&attacker).await;
    let temporary = format!(
        "GRANT TEMPORARY ON DATABASE {} TO {role}; GRANT USAGE ON LANGUAGE sql, plpgsql TO {role}",
        pool.database.name(),
        role = attacker.role
    );
    pool.admin.batch_execute(&temporary).await.unwrap();
    attacker.run(LURE).await;
    attacker.run("DELETE FROM app.parents").await;
    assert_eq!(attacker.one("SELECT count(*) FROM pg_temp.seen").await, "0");

    // Canary: without the fixed search path, the check runs as the owner of the
    // tables and sees every tenant's rows.
    pool.admin.batch_execute("ALTER FUNCTION app.touch() RESET search_path").await.unwrap();
    attacker.run("SET search_path = app; INSERT INTO parents VALUES (1, 'mine'); INSERT INTO children VALUES (7, 1, 'n')").await;
    attacker.run("SET search_path = pg_temp, pg_catalog, app; DELETE FROM app.parents").await;
    let seen = attacker.one("SELECT who::pg_catalog.name || ' ' || rows FROM pg_temp.seen").await;
    assert_eq!(seen, "insula_pool_owner 2");
    assert!(pool.findings().await.iter().any(|finding| finding.contains("its search path is not fixed")));
}

#[tokio::test]
async fn triggers_in_a_cascade_run_as_we_believe() {
    let (pool, attacker, victim) = attacker_and_victim("attack_cascade").await;
    give_the_attacker_rows(&attacker).await;
    // AFTER triggers run as the tenant (until PostgreSQL 17), or see its rows alone.
    attacker.run("UPDATE parents SET id = 3; DELETE FROM parents").await;
    let rows = attacker.one("SELECT string_agg(seen::text, ',' ORDER BY id) FROM log").await;
    assert_eq!(rows, "1,0");
    assert_eq!(victim.one("SELECT count(*) FROM log").await, "0");
    let version = one(&pool.admin, "SELECT current_setting('server_version_num')::int < 180000").await;
    if version == "t" {
        let who = format!("SELECT bool_and(what LIKE '% as {}') FROM log", attacker.role);
        assert_eq!(attacker.one(&who).await, "t");
    }

    // Why BEFORE triggers that touch tables are refused: by hand, one is made.
    pool.admin
        .batch_execute(
            "SET ROLE insula_pool_owner;
             CREATE FUNCTION app.look() RETURNS trigger LANGUAGE plpgsql SET search_path = app, public, pg_temp AS $$
                 BEGIN RAISE EXCEPTION '% sees %', current_user, (SELECT count(*) FROM children); END $$;
             CREATE TRIGGER look BEFORE DELETE ON app.children FOR EACH STATEMENT EXECUTE FUNCTION app.look();
             RESET ROLE",
        )
        .await
        .unwrap();
    give_the_attacker_rows(&attacker).await;
    let error = attacker.refused("DELETE FROM parents").await;
    assert_eq!(error.message(), "insula_pool_owner sees 3");
}

#[tokio::test]
async fn the_owner_of_one_schema_is_nobody_in_another() {
    let plain = versions(&[TABLES]);
    let database = TestDatabase::create("attack_schemas").await;
    let (attacker, victim) = (schema_silo(&database, &plain).await, schema_silo(&database, &plain).await);
    let admin = database.connect().await;
    let schema = &victim.schema;
    for sql in [
        format!("SELECT * FROM {schema}.parents"),
        format!("SELECT {schema}.count_parents()"),
        format!("CREATE TABLE {schema}.mine (a int)"),
        format!("CREATE TABLE {}.mine (a int)", attacker.schema),
        format!("ALTER TABLE {}.parents ADD COLUMN mine int", attacker.schema),
        format!("SET ROLE {}", schema::owner_of(&attacker.schema)),
        format!("SET ROLE {}", schema::owner_of(schema)),
        format!("SET ROLE {}", victim.role),
    ] {
        assert!(is_denied(&refused(&attacker.client, &sql).await), "{sql}");
    }
    // The plain form is unchanged, so that in a cascade an attacker can run code
    // as the owner of its own tables. That owner owns nothing else.
    let temporary = format!("GRANT TEMPORARY ON DATABASE {} TO {}", database.name(), attacker.role);
    admin.batch_execute(&temporary).await.unwrap();
    let own = &attacker.schema;
    let lure = LURE.replace("app.parents", &format!("{own}.parents")).replace("app", own.as_str());
    attacker
        .client
        .batch_execute(&format!(
            "INSERT INTO parents VALUES (1); INSERT INTO children VALUES (1, 1, 'n'); {lure}"
        ))
        .await
        .unwrap();
    attacker.client.batch_execute(&format!("DELETE FROM {own}.parents")).await.unwrap();
    let who = one(&attacker.client, "SELECT who::pg_catalog.name FROM pg_temp.seen").await;
    assert_eq!(who, schema::owner_of(own).as_str());
    let look = format!("CREATE OR REPLACE FUNCTION pg_temp.look(value pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$ \
        BEGIN PERFORM count(*) FROM {schema}.parents; RETURN true; END $$;
        INSERT INTO {own}.parents VALUES (1); INSERT INTO {own}.children VALUES (1, 1, 'n')");
    attacker.client.batch_execute(&look).await.unwrap();
    assert!(is_denied(&refused(&attacker.client, &format!("DELETE FROM {own}.parents")).await));
    schema_is_removed_with_its_owner(&database, &attacker).await;
}

async fn schema_is_removed_with_its_owner(database: &TestDatabase, silo: &Silo) {
    let admin = database.connect().await;
    let access = access(database);
    let name = DatabaseName::from_stored(database.name().to_owned());
    for _ in 0..2 {
        drop_schemas(&access, &name, &silo.schema, None).await.unwrap();
    }
    let left = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{}'", schema::owner_of(&silo.schema));
    assert_eq!(one(&admin, &left).await, "0");
}

#[tokio::test]
async fn a_plan_made_for_one_tenant_is_not_used_for_another() {
    let (pool, attacker, victim) = attacker_and_victim("attack_plans").await;
    let admin = &pool.admin;
    admin.batch_execute(&format!("SET plan_cache_mode = force_generic_plan; SET SESSION AUTHORIZATION {}; PREPARE p AS SELECT count(*) FROM app.parents", victim.role)).await.unwrap();
    assert_eq!(one(admin, "EXECUTE p").await, "2");
    admin.batch_execute(&format!("SET SESSION AUTHORIZATION {}", attacker.role)).await.unwrap();
    assert_eq!(one(admin, "EXECUTE p").await, "0");
    admin.batch_execute("RESET SESSION AUTHORIZATION; RESET ALL").await.unwrap();
}

#[tokio::test]
async fn who_may_only_read_does_no_more() {
    let (pool, _attacker, victim) = attacker_and_victim("attack_read_only").await;
    let role = RoleName::read_only_of_tenant(victim.id);
    create_role(&pool.admin, &role).await;
    pool.admin.batch_execute(&format!("GRANT {} TO {role}", schema::POOL_READ_ONLY)).await.unwrap();
    let client = session(&pool.database, &role).await;
    assert_eq!(one(&client, "SELECT count(*) FROM words").await, "2");
    for sql in [
        "INSERT INTO parents VALUES (5)",
        "UPDATE parents SET word = 'x'",
        "DELETE FROM parents",
        "SELECT nextval('log_id_seq')",
    ] {
        assert!(is_denied(&refused(&client, sql).await), "{sql}");
    }
}

#[tokio::test]
async fn the_functions_that_proofs_trust_are_the_servers_own() {
    let database = TestDatabase::create("trusted").await;
    let admin = database.connect().await;
    for extension in insula_app_schema::EXTENSIONS {
        admin.batch_execute(&format!("CREATE EXTENSION \"{extension}\"")).await.unwrap();
    }
    let names =
        format!("array[{}]", TABLE_FREE.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(","));
    // What a name stands for is written in C, in every form that it has, or is
    // SQL over such functions, without a table.
    let other = format!(
        "SELECT coalesce(string_agg(p.oid::regprocedure::text, ', '), '') FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
         WHERE p.proname = ANY ({names}) AND NOT (l.lanname IN ('internal', 'c')
             OR (l.lanname = 'sql' AND coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) !~* '\\mfrom\\M'))"
    );
    assert_eq!(one(&admin, &other).await, "");
    let missing = format!(
        "SELECT coalesce(string_agg(n, ', '), '') FROM unnest({names}) n
         WHERE NOT EXISTS (SELECT FROM pg_proc WHERE proname = n)"
    );
    let missing = one(&admin, &missing).await;
    // Newer than PostgreSQL 15.
    for name in missing.split(", ").filter(|name| !name.is_empty()) {
        assert!(["any_value", "daitch_mokotoff", "uuidv4", "uuidv7"].contains(&name), "{name}");
    }
}

#[tokio::test]
async fn what_newer_versions_brought_reaches_nothing() {
    let (pool, attacker, _victim) = attacker_and_victim("attack_newer").await;
    let version: u32 = one(&pool.admin, "SHOW server_version_num").await.parse().unwrap();
    // Since which version there is what is tried.
    for (since, sql) in [
        (170_000, "REINDEX TABLE app.parents"),
        (170_000, "CREATE EVENT TRIGGER t ON login EXECUTE FUNCTION insula.current_tenant()"),
        (170_000, "SELECT pg_sync_replication_slots()"),
        (180_000, "SELECT pg_clear_relation_stats('app', 'parents')"),
        (180_000, "SELECT pg_clear_attribute_stats('app', 'parents', 'word', false)"),
        (
            180_000,
            "SELECT pg_restore_relation_stats('schemaname', 'app', 'relname', 'parents', 'reltuples', 1e9::real)",
        ),
        (180_000, "SELECT pg_stat_reset_backend_stats(1)"),
    ] {
        if version >= since {
            let refusal = refused(&attacker.client, sql).await;
            assert!(is_denied(&refusal), "{sql}: {refusal:?}");
        }
    }
    if version >= 170_000 {
        // Nobody was given the right to maintain, with which one may lock and rewrite.
        let maintains = "SELECT count(*) FROM pg_class c WHERE relnamespace = 'app'::regnamespace
            AND has_table_privilege(oid, 'MAINTAIN')";
        assert_eq!(attacker.one(maintains).await, "0");
        assert_ne!(one(&pool.admin, maintains).await, "0", "canary: the question finds it");
    }
}

/// What the front refuses by its first words cannot be said in other words.
#[tokio::test]
async fn no_other_words_lock_a_table_or_change_a_role() {
    let (pool, attacker, victim) = attacker_and_victim("attack_dynamic").await;
    let lock = "lock table parents in access exclusive mode";
    let alter = format!("alter role {} connection limit 0", attacker.role);
    let dynamic = |sql: &str| {
        [
            format!("DO $$ BEGIN EXECUTE '{sql}'; END $$"),
            format!("DO LANGUAGE plpgsql $$ BEGIN EXECUTE '{sql}'; END $$"),
            format!("SELECT query_to_xml('{sql}', true, true, '')"),
            format!("SELECT query_to_xmlschema('{sql}', true, true, '')"),
            format!("SELECT query_to_xml('select 1; {sql}', true, true, '')"),
            format!("SELECT * FROM ts_stat('{sql}')"),
            format!("SELECT ts_rewrite('a'::tsquery, '{sql}')"),
            format!("DECLARE c CURSOR FOR {sql}"),
            format!("PREPARE p AS {sql}"),
            format!("EXPLAIN ANALYZE {sql}"),
            format!("COPY ({sql}) TO STDOUT"),
            format!("CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql AS '{sql}'"),
            format!("CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE plpgsql AS 'begin {sql}; end'"),
        ]
    };
    for sql in dynamic(lock).into_iter().chain(dynamic(&alter)) {
        attacker.run("BEGIN").await;
        attacker.refused(&sql).await;
        attacker.run("ROLLBACK").await;
    }
    // The same statement straight to the server is what it all is about.
    attacker.run(&format!("BEGIN; {lock}")).await;
    victim.run("SET lock_timeout = '50ms'").await;
    let error = victim.refused("SELECT * FROM parents").await;
    assert_eq!(error.code(), &SqlState::LOCK_NOT_AVAILABLE);
    attacker.run("ROLLBACK").await;
    // The app schema's own functions and triggers run as before.
    victim.run("UPDATE children SET note = 'x'").await;
    assert_eq!(victim.one("SELECT count(*) FROM children WHERE touched = 'yes'").await, "2");
    assert_eq!(victim.one("SELECT run('SELECT count_parents()::text')").await, "2");
    // The canary: with the right to the language a block locks, and the audit sees it.
    assert_eq!(pool.findings().await, [""; 0]);
    pool.admin.batch_execute("GRANT USAGE ON LANGUAGE plpgsql TO PUBLIC").await.unwrap();
    assert_eq!(pool.findings().await, ["language plpgsql: PUBLIC has the right USAGE on it."]);
    attacker.run(&format!("BEGIN; DO $$ BEGIN EXECUTE '{lock}'; END $$")).await;
    let error = victim.refused("SELECT * FROM parents").await;
    assert_eq!(error.code(), &SqlState::LOCK_NOT_AVAILABLE);
    attacker.run("ROLLBACK").await;
}

/// Statements that PostgreSQL refuses only when it has a lock: while they wait
/// behind a transaction, everybody waits behind them. The front refuses these
/// in pools; this finds out if a version of PostgreSQL has more of them.
#[tokio::test]
async fn refusals_that_wait_for_a_lock_are_those_that_the_front_knows() {
    let (pool, attacker, _victim) = attacker_and_victim("attack_waiting").await;
    pool.admin
        .batch_execute("BEGIN; SELECT * FROM app.parents, app.children, app.words; LOCK TABLE app.parents IN ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    attacker.run("SET lock_timeout = '50ms'").await;
    let mut waited = Vec::new();
    for sql in [
        "CREATE TRIGGER t BEFORE INSERT ON parents FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE RULE r AS ON INSERT TO parents DO NOTHING",
        "CREATE POLICY p ON parents USING (true)",
        "ALTER POLICY insula_tenant ON parents USING (true)",
        "DROP POLICY insula_tenant ON parents",
        "CREATE INDEX ON parents (word)",
        "CREATE STATISTICS s (dependencies) ON id, word FROM parents",
        "ALTER INDEX parents_pkey DEPENDS ON EXTENSION plpgsql",
        "ALTER INDEX parents_pkey RENAME TO x",
        "ALTER INDEX parents_pkey SET (fillfactor = 50)",
        "DROP INDEX parents_pkey",
        "DROP TRIGGER touch ON children",
        "ALTER TRIGGER touch ON children RENAME TO x",
        "ALTER TRIGGER touch ON children DEPENDS ON EXTENSION plpgsql",
        "ALTER TABLE parents ADD x int",
        "ALTER TABLE parents RENAME TO x",
        "ALTER TABLE parents SET SCHEMA public",
        "ALTER TABLE parents OWNER TO insula_pool_rw",
        "ALTER TABLE parents DISABLE TRIGGER ALL",
        "ALTER VIEW words RENAME TO x",
        "CREATE OR REPLACE VIEW words AS SELECT 'x' AS word",
        "DROP TABLE parents",
        "DROP VIEW words",
        "DROP SCHEMA app",
        "DROP FUNCTION count_parents()",
        "ALTER SEQUENCE log_id_seq OWNED BY parents.id",
        "COMMENT ON TABLE parents IS 'x'",
        "COMMENT ON COLUMN parents.word IS 'x'",
        "CLUSTER parents USING parents_pkey",
        "VACUUM FULL parents",
        "REINDEX TABLE parents",
        "TRUNCATE parents",
        "CREATE TABLE app.x (LIKE parents)",
        "CREATE TABLE app.x () INHERITS (parents)",
        "CREATE TABLE app.x (a int REFERENCES parents)",
        "CREATE PUBLICATION p FOR TABLE parents",
        "ALTER EXTENSION plpgsql ADD TABLE parents",
    ] {
        if let Err(error) = attacker.client.batch_execute(sql).await
            && error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
        {
            waited.push(sql.split(' ').take(2).collect::<Vec<_>>().join(" "));
        }
    }
    for known in ["CREATE TRIGGER", "CREATE RULE"] {
        assert!(waited.iter().any(|waited| waited == known), "the canary: {waited:?}");
    }
    waited.retain(|waited| !["CREATE TRIGGER", "CREATE RULE", "ALTER INDEX"].contains(&waited.as_str()));
    assert_eq!(waited, [""; 0]);
}

#[tokio::test]
async fn the_numbers_of_an_identity_column_are_nobodys_to_use_up() {
    let mut pool = Pool::of(
        "identities",
        "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int);
         CREATE TABLE b (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n int);
         CREATE TABLE c (id serial PRIMARY KEY, n int)",
    )
    .await;
    let tenant = pool.tenant().await;
    for table in ["a", "b", "c"] {
        tenant.run(&format!("INSERT INTO {table} (n) VALUES (1)")).await;
        assert_eq!(tenant.one(&format!("SELECT id FROM {table}")).await, "1");
    }
    for table in ["a", "b"] {
        let draw = format!("SELECT nextval('app.{table}_id_seq') FROM generate_series(1, 1000)");
        assert!(is_denied(&tenant.refused(&draw).await), "{table}");
    }
    // Canary: the default of a serial column is taken with the tenant's own right.
    assert_eq!(tenant.one("SELECT nextval('app.c_id_seq')").await, "2");
    assert_eq!(pool.findings().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_statistics_of_all_are_not_shown_to_one() {
    let mut pool = Pool::of("statistics", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let tenant = pool.tenant().await;
    for view in [
        "pg_stat_user_tables",
        "pg_stat_all_tables",
        "pg_stat_user_indexes",
        "pg_stat_activity",
        "pg_stat_database",
    ] {
        let denied = tenant.refused(&format!("SELECT * FROM {view}")).await;
        assert!(is_denied(&denied), "{view}: {denied:?}");
    }
    // What psql shows with \\dt+ stays: the size of the table, which is of all tenants.
    assert!(
        tenant
            .one("SELECT pg_table_size('app.t') + pg_total_relation_size('app.t')")
            .await
            .parse::<i64>()
            .unwrap()
            >= 0
    );
    // Canary: the administrator reads them.
    pool.admin.batch_execute("SELECT * FROM pg_stat_user_tables, pg_stat_activity").await.unwrap();
}
