//! The catalog audit, against what it must find: each break is made by hand,
//! and must show as exactly the findings named beside it.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod schema_support;
#[allow(clippy::wildcard_imports)]
use schema_support::*;

use insula_domain::SchemaName;
use insula_tenant_cluster::schema;
use insula_testkit::{TestDatabase, TestServer};

const TABLES: &str = "
    CREATE TABLE p (id int PRIMARY KEY, a int UNIQUE);
    CREATE TABLE t (id int PRIMARY KEY, x int REFERENCES p ON DELETE SET NULL, y int);
    CREATE INDEX t_y ON t (y);
    CREATE VIEW v AS SELECT id FROM t;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.y := 1; RETURN NEW; END $$;
    CREATE TABLE log (id int PRIMARY KEY, x int REFERENCES p) PARTITION BY RANGE (id);
    CREATE TABLE log1 PARTITION OF log FOR VALUES FROM (0) TO (10);
    CREATE TRIGGER touch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE FUNCTION plain(a int) RETURNS int LANGUAGE sql AS 'SELECT a';
    CREATE TYPE e AS ENUM ('x');
    CREATE SEQUENCE s";

/// Breaks, and what each must be found as. `OWNER` stands for the owner's role.
const BREAKS: &[(&str, &[&str])] = &[
    // The tenant's column.
    (
        "CREATE TABLE app.open (a int); ALTER TABLE app.open OWNER TO OWNER",
        &[
            "table open: It has no column tenant_id.",
            "table open: Row-level security is off.",
            "table open: Row-level security is not forced.",
            "table open: It has no policy that keeps tenants apart.",
            "table open: It is not part of the app schema.",
            "table open: The tenants of the pool do not have their rights on it.",
        ],
    ),
    (
        "ALTER TABLE app.t DROP CONSTRAINT t_pkey; ALTER TABLE app.t ALTER tenant_id DROP NOT NULL",
        &["table t: Its column tenant_id may be null."],
    ),
    (
        "ALTER TABLE app.t ALTER tenant_id DROP DEFAULT",
        &["table t: Its column tenant_id has another default."],
    ),
    (
        "ALTER TABLE app.t ALTER tenant_id SET DEFAULT gen_random_uuid()",
        &["table t: Its column tenant_id has another default."],
    ),
    ("ALTER TABLE app.t DISABLE ROW LEVEL SECURITY", &["table t: Row-level security is off."]),
    ("ALTER TABLE app.t NO FORCE ROW LEVEL SECURITY", &["table t: Row-level security is not forced."]),
    (
        "ALTER TABLE app.t DROP CONSTRAINT t_x_fkey; ALTER TABLE app.t SET UNLOGGED",
        &["table t: It is not logged."],
    ),
    ("CREATE TABLE app.child () INHERITS (app.t)", &["table t: It inherits or is inherited from."]),
    // Policies.
    ("DROP POLICY insula_tenant ON app.t", &["table t: It has no policy that keeps tenants apart."]),
    (
        "ALTER POLICY insula_tenant ON app.t USING (true)",
        &["policy t.insula_tenant: It is not the policy of a shared table."],
    ),
    (
        "ALTER POLICY insula_tenant ON app.t WITH CHECK (true)",
        &["policy t.insula_tenant: It is not the policy of a shared table."],
    ),
    (
        "ALTER POLICY insula_tenant ON app.t TO insula_pool_rw",
        &["policy t.insula_tenant: It is not the policy of a shared table."],
    ),
    ("CREATE POLICY more ON app.t USING (true)", &["policy t.more: It is not the policy of a shared table."]),
    (
        "DROP POLICY insula_tenant ON app.t; CREATE POLICY insula_tenant ON app.t FOR SELECT USING (tenant_id = insula.current_tenant())",
        &["policy t.insula_tenant: It is not the policy of a shared table."],
    ),
    // Keys.
    (
        "CREATE UNIQUE INDEX bad ON app.t (y)",
        &["index app.bad: It is unique, and the tenant's column is not the first of it."],
    ),
    (
        "CREATE UNIQUE INDEX bad ON app.t (y, tenant_id)",
        &["index app.bad: It is unique, and the tenant's column is not the first of it."],
    ),
    (
        "CREATE UNIQUE INDEX bad ON app.t ((tenant_id::text), y)",
        &["index app.bad: It is unique, and the tenant's column is not the first of it."],
    ),
    (
        "ALTER TABLE app.t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id)",
        &["index app.t_pkey: It is unique, and the tenant's column is not the first of it."],
    ),
    (
        "ALTER TABLE app.t ADD EXCLUDE USING btree (y WITH =)",
        &["index app.t_y_excl: It is an exclusion constraint, which holds between tenants."],
    ),
    (
        "CREATE UNIQUE INDEX p_id ON app.p (id); ALTER TABLE app.t ADD CONSTRAINT k FOREIGN KEY (y) REFERENCES app.p (id)",
        &[
            "index app.p_id: It is unique, and the tenant's column is not the first of it.",
            "foreign key t.k: The tenant's column is not the first of it.",
        ],
    ),
    (
        "ALTER TABLE app.t ADD z uuid; ALTER TABLE app.t ADD CONSTRAINT k FOREIGN KEY (z, y) REFERENCES app.p (tenant_id, id)",
        &["foreign key t.k: The tenant's column is not the first of it."],
    ),
    (
        "ALTER TABLE app.p ADD u uuid; CREATE UNIQUE INDEX p_u ON app.p (tenant_id, u); ALTER TABLE app.t ADD CONSTRAINT k FOREIGN KEY (tenant_id, tenant_id) REFERENCES app.p (u, tenant_id)",
        &["foreign key t.k: It does not point at the tenant's column first."],
    ),
    (
        "ALTER TABLE app.t DROP CONSTRAINT t_x_fkey, ADD CONSTRAINT k FOREIGN KEY (tenant_id, x) REFERENCES app.p (tenant_id, id) ON DELETE SET NULL",
        &["foreign key t.k: A change of the other row would change the tenant's column."],
    ),
    (
        "ALTER TABLE app.t ADD CONSTRAINT k FOREIGN KEY (tenant_id, x) REFERENCES app.p (tenant_id, id) ON UPDATE SET DEFAULT",
        &["foreign key t.k: A change of the other row would change the tenant's column."],
    ),
    (
        "CREATE TABLE public.other (tenant_id uuid, id int, PRIMARY KEY (tenant_id, id)); ALTER TABLE app.t ADD CONSTRAINT k FOREIGN KEY (tenant_id, x) REFERENCES public.other",
        &[
            "foreign key t.k: It points at a table outside of the shared ones.",
            "relation public.other: It is not part of a pool.",
        ],
    ),
    (
        "ALTER TABLE app.t DISABLE TRIGGER ALL; ALTER TABLE app.t ENABLE TRIGGER touch",
        &["foreign key t.t_x_fkey: A trigger that holds it is switched off."],
    ),
    // Other relations.
    ("ALTER VIEW app.v RESET (security_invoker)", &["view v: It reads with the rights of its owner."]),
    ("ALTER VIEW app.v SET (security_invoker = false)", &["view v: It reads with the rights of its owner."]),
    (
        "CREATE MATERIALIZED VIEW app.m AS SELECT * FROM app.t; ALTER MATERIALIZED VIEW app.m OWNER TO OWNER; REVOKE ALL ON app.m FROM insula_pool_rw, insula_pool_ro",
        &["relation m: A materialized view has no row-level security."],
    ),
    (
        "CREATE RULE r AS ON INSERT TO app.t DO ALSO NOTHING",
        &["rule t.r: A rule rewrites statements with the rights of its owner."],
    ),
    (
        "CREATE TABLE app.parts (a int) PARTITION BY RANGE (a); ALTER TABLE app.parts OWNER TO OWNER; REVOKE ALL ON app.parts FROM insula_pool_rw, insula_pool_ro",
        &[
            "table parts: It has no column tenant_id.",
            "table parts: Row-level security is off.",
            "table parts: Row-level security is not forced.",
            "table parts: It has no policy that keeps tenants apart.",
            "table parts: It is not part of the app schema.",
            "table parts: The tenants of the pool do not have their rights on it.",
        ],
    ),
    // Partitions, which can be named in a query as their table can.
    ("ALTER TABLE app.log DISABLE ROW LEVEL SECURITY", &["table log: Row-level security is off."]),
    ("ALTER TABLE app.log1 DISABLE ROW LEVEL SECURITY", &["table log1: Row-level security is off."]),
    ("ALTER TABLE app.log1 NO FORCE ROW LEVEL SECURITY", &["table log1: Row-level security is not forced."]),
    ("DROP POLICY insula_tenant ON app.log1", &["table log1: It has no policy that keeps tenants apart."]),
    (
        "ALTER POLICY insula_tenant ON app.log1 USING (true)",
        &["policy log1.insula_tenant: It is not the policy of a shared table."],
    ),
    (
        "CREATE TABLE app.log2 PARTITION OF app.log FOR VALUES FROM (10) TO (20); ALTER TABLE app.log2 OWNER TO OWNER",
        &[
            "table log2: Row-level security is off.",
            "table log2: Row-level security is not forced.",
            "table log2: It has no policy that keeps tenants apart.",
            "table log2: It is not part of the app schema.",
            "table log2: The tenants of the pool do not have their rights on it.",
        ],
    ),
    (
        "ALTER TABLE app.log DETACH PARTITION app.log1; ALTER TABLE app.log1 SET SCHEMA public; ALTER TABLE app.log ATTACH PARTITION public.log1 FOR VALUES FROM (0) TO (10)",
        &[
            "relation public.log1: It is not part of a pool.",
            "table log1: It is missing.",
            "table log: It is a partition of, or has one in, another schema.",
        ],
    ),
    (
        "CREATE UNIQUE INDEX bad ON app.log1 (id)",
        &["index app.bad: It is unique, and the tenant's column is not the first of it."],
    ),
    (
        "ALTER TABLE app.log DROP CONSTRAINT log_pkey, ADD PRIMARY KEY (id)",
        &[
            "index app.log1_pkey: It is unique, and the tenant's column is not the first of it.",
            "index app.log_pkey: It is unique, and the tenant's column is not the first of it.",
        ],
    ),
    (
        "ALTER TABLE app.log1 ALTER tenant_id SET DEFAULT gen_random_uuid()",
        &["table log1: Its column tenant_id has another default."],
    ),
    (
        "GRANT TRUNCATE ON app.log1 TO insula_pool_rw",
        &["relation log1: insula_pool_rw has the right TRUNCATE on it."],
    ),
    (
        "REVOKE SELECT ON app.log1 FROM insula_pool_rw",
        &["table log1: The tenants of the pool do not have their rights on it."],
    ),
    // PostgreSQL 15 carries the columns to set over to a partition by their numbers.
    (
        "ALTER TABLE app.log DROP x CASCADE; ALTER TABLE app.log ADD x int; ALTER TABLE app.log ADD CONSTRAINT k FOREIGN KEY (tenant_id, x) REFERENCES app.p (tenant_id, id) ON DELETE SET NULL (x); CREATE TABLE app.log2 PARTITION OF app.log FOR VALUES FROM (10) TO (20); ALTER TABLE app.log2 OWNER TO OWNER",
        &[
            "foreign key log2.k: It sets a column that is not one of its own.",
            "table log2: Row-level security is off.",
            "table log2: Row-level security is not forced.",
            "table log2: It has no policy that keeps tenants apart.",
            "table log2: It is not part of the app schema.",
            "table log2: The tenants of the pool do not have their rights on it.",
        ],
    ),
    // Functions.
    (
        "ALTER FUNCTION app.plain(int) SECURITY DEFINER",
        &["function app.plain(integer): It runs with the rights of its owner (SECURITY DEFINER)."],
    ),
    (
        "ALTER FUNCTION app.plain(int) LEAKPROOF",
        &["function app.plain(integer): It is LEAKPROOF and so sees rows before row-level security does."],
    ),
    (
        "ALTER FUNCTION app.touch() RESET search_path",
        &["function app.touch(): It may run as the owner of the tables, and its search path is not fixed."],
    ),
    (
        "ALTER FUNCTION app.touch() SET search_path = pg_temp, app",
        &["function app.touch(): It may run as the owner of the tables, and its search path is not fixed."],
    ),
    (
        "ALTER TABLE app.t ADD CHECK (app.plain(y) > 0)",
        &[
            "function app.plain(integer): It may run as the owner of the tables, and its search path is not fixed.",
        ],
    ),
    (
        "CREATE INDEX ON app.t (app.plain(y))",
        &[
            "function app.plain(integer): It may run as the owner of the tables, and its search path is not fixed.",
        ],
    ),
    (
        "CREATE DOMAIN app.d AS int CHECK (app.plain(VALUE) > 0)",
        &[
            "function app.plain(integer): It may run as the owner of the tables, and its search path is not fixed.",
            "type d: It is not part of the app schema.",
        ],
    ),
    (
        "CREATE FUNCTION app.raw() RETURNS int LANGUAGE internal AS 'pg_backend_pid'; ALTER FUNCTION app.raw() OWNER TO OWNER",
        &[
            "function app.raw(): It is written in internal.",
            "function raw: It is not part of the app schema.",
        ],
    ),
    // What does not belong there.
    ("CREATE SCHEMA mine", &["schema mine: It is not part of a pool."]),
    ("CREATE VIEW public.peek AS SELECT 1", &["relation public.peek: It is not part of a pool."]),
    (
        "CREATE FUNCTION public.peek() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        &["function public.peek(): It is not part of a pool."],
    ),
    (
        "CREATE OPERATOR app.=== (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)",
        &["operator app.===(integer,integer): It is not part of a pool."],
    ),
    ("CREATE CAST (app.e AS int) WITH INOUT", &["cast app.e to integer: It is not part of a pool."]),
    (
        "CREATE FUNCTION insula.event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; REVOKE ALL ON FUNCTION insula.event() FROM PUBLIC; CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION insula.event()",
        &["event trigger watch: It is not part of a pool."],
    ),
    ("CREATE EXTENSION citext SCHEMA app", &["extension citext: It is in the schema of the shared tables."]),
    (
        "CREATE TYPE app.other AS (a int); ALTER TYPE app.other OWNER TO OWNER",
        &["type other: It is not part of the app schema."],
    ),
    // Owners and rights.
    (
        "ALTER TABLE app.t OWNER TO CURRENT_USER",
        &["relation t: It belongs to insula instead of insula_pool_owner."],
    ),
    (
        "ALTER FUNCTION app.plain(int) OWNER TO CURRENT_USER",
        &["function app.plain(integer): It belongs to insula instead of insula_pool_owner."],
    ),
    (
        "GRANT TRUNCATE ON app.t TO insula_pool_rw",
        &["relation t: insula_pool_rw has the right TRUNCATE on it."],
    ),
    (
        "GRANT REFERENCES, TRIGGER ON app.t TO insula_pool_rw",
        &[
            "relation t: insula_pool_rw has the right REFERENCES on it.",
            "relation t: insula_pool_rw has the right TRIGGER on it.",
        ],
    ),
    ("GRANT USAGE ON LANGUAGE plpgsql TO PUBLIC", &["language plpgsql: PUBLIC has the right USAGE on it."]),
    (
        "GRANT USAGE ON LANGUAGE plpgsql TO insula_pool_rw",
        &["language plpgsql: insula_pool_rw has the right USAGE on it."],
    ),
    ("GRANT SELECT ON app.t TO PUBLIC", &["relation t: PUBLIC has the right SELECT on it."]),
    (
        "GRANT UPDATE (y) ON app.t TO insula_pool_ro",
        &["column t.y: insula_pool_ro has the right UPDATE on it."],
    ),
    ("GRANT UPDATE ON app.s TO insula_pool_rw", &["relation s: insula_pool_rw has the right UPDATE on it."]),
    (
        "GRANT CREATE ON SCHEMA app TO insula_pool_rw",
        &["schema app: insula_pool_rw has the right CREATE on it."],
    ),
    (
        "REVOKE DELETE ON app.t FROM insula_pool_rw",
        &["table t: The tenants of the pool do not have their rights on it."],
    ),
    (
        "GRANT SELECT ON insula.pool_tenants TO insula_pool_rw",
        &["relation pool_tenants: insula_pool_rw has the right SELECT on it."],
    ),
    // What PostgreSQL knows tenants by.
    (
        "CREATE OR REPLACE FUNCTION insula.pg_notify(channel text, payload text) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'SELECT pg_notify(channel, payload)'",
        &["function insula.pg_notify(text,text): It is not the one that Insula has made."],
    ),
    (
        "CREATE OR REPLACE FUNCTION insula.current_tenant() RETURNS uuid LANGUAGE sql STABLE AS 'SELECT current_setting(''x'')::uuid'",
        &["function insula.current_tenant(): It is not the one that Insula has made."],
    ),
];

/// What the audit finds after a break, which is undone.
async fn findings_after(pool: &Pool, sql: &str) -> Vec<String> {
    pool.admin
        .batch_execute(&format!("BEGIN; {sql}"))
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let found = pool.findings().await;
    pool.admin.batch_execute("ROLLBACK").await.unwrap();
    found
}

#[tokio::test]
async fn each_break_of_the_pool_form_is_found() {
    let pool = Pool::of("breaks", TABLES).await;
    assert_eq!(pool.findings().await, Vec::<String>::new());
    for (sql, expected) in BREAKS {
        let sql = sql.replace("OWNER TO OWNER", "OWNER TO insula_pool_owner");
        let mut found = findings_after(&pool, &sql).await;
        // Tables made or changed by hand have no target of COPY that fits.
        found.retain(|finding| !finding.starts_with("copy target "));
        if sql.contains("INHERITS") {
            found.retain(|finding| finding.starts_with("table t:"));
        }
        if sql.contains("EXTENSION") {
            found.retain(|finding| finding.starts_with("extension "));
        }
        let mut expected: Vec<_> = expected.to_vec();
        expected.sort_unstable();
        found.sort();
        assert_eq!(found, expected, "{sql}");
    }
}

#[tokio::test]
async fn roles_above_their_place_are_found() {
    // Roles belong to the server, and other tests use those of the pool.
    let server = TestServer::start().await;
    let mut admin = server.connect("postgres").await;
    schema::create_group_roles(&admin).await.unwrap();
    schema::install_support(&admin).await.unwrap();
    schema::install_pool(&admin).await.unwrap();
    let migrations = pool_form(&versions(&[TABLES]));
    schema::apply_pool(&mut admin, &migrations[0]).await.unwrap();
    assert_eq!(schema::audit_pool(&admin, &migrations).await.unwrap(), []);
    admin.batch_execute("CREATE ROLE stranger").await.unwrap();
    for (sql, undo, expected) in [
        (
            "ALTER ROLE insula_pool_rw BYPASSRLS",
            "ALTER ROLE insula_pool_rw NOBYPASSRLS",
            "role insula_pool_rw",
        ),
        (
            "ALTER ROLE insula_pool_owner SUPERUSER",
            "ALTER ROLE insula_pool_owner NOSUPERUSER",
            "role insula_pool_owner",
        ),
        (
            "ALTER ROLE insula_pool_template LOGIN",
            "ALTER ROLE insula_pool_template NOLOGIN",
            "role insula_pool_template",
        ),
        (
            "GRANT insula_pool_owner TO stranger",
            "REVOKE insula_pool_owner FROM stranger",
            "role insula_pool_owner",
        ),
        ("GRANT insula_pool_rw TO stranger", "REVOKE insula_pool_rw FROM stranger", "role insula_pool_rw"),
        ("GRANT stranger TO insula_pool_rw", "REVOKE stranger FROM insula_pool_rw", "role insula_pool_rw"),
    ] {
        admin.batch_execute(sql).await.unwrap();
        let found = schema::audit_pool(&admin, &migrations).await.unwrap();
        let objects: Vec<_> = found.iter().map(|finding| finding.object.as_str()).collect();
        assert_eq!(objects, [expected], "{sql}");
        admin.batch_execute(undo).await.unwrap();
    }
    assert_eq!(schema::audit_pool(&admin, &migrations).await.unwrap(), []);
}

#[tokio::test]
async fn a_version_that_the_pool_does_not_have_is_found() {
    let plain = versions(&["CREATE TABLE t (a int)", "CREATE TABLE u (a int); DROP TABLE t"]);
    let mut pool = Pool::empty("behind", &plain).await;
    schema::apply_pool(&mut pool.admin, &pool.migrations[0]).await.unwrap();
    assert_eq!(
        pool.findings().await,
        ["table t: It is not part of the app schema.", "table u: It is missing."]
    );
}

#[tokio::test]
async fn each_break_of_a_silo_is_found() {
    let plain = versions(&[TABLES]);
    let database = TestDatabase::create("silo_breaks").await;
    let (silo, other) = (schema_silo(&database, &plain).await, schema_silo(&database, &plain).await);
    let admin = database.connect().await;
    let expected = schema::fingerprint(&admin, &other.schema).await.unwrap();
    assert_eq!(schema::audit_silo(&admin, &silo.schema, &expected).await.unwrap(), []);
    let (name, role) = (&silo.schema, &silo.role);
    let breaks = [
        ("ALTER TABLE t ADD z int", "ALTER TABLE t DROP z", vec!["column t.z"]),
        ("ALTER TABLE t ALTER y SET NOT NULL", "ALTER TABLE t ALTER y DROP NOT NULL", vec!["column t.y"]),
        ("ALTER TABLE t ALTER y SET DEFAULT 1", "ALTER TABLE t ALTER y DROP DEFAULT", vec!["column t.y"]),
        (
            "ALTER TABLE t DISABLE TRIGGER touch",
            "ALTER TABLE t ENABLE TRIGGER touch",
            vec!["trigger t.touch"],
        ),
        ("ALTER INDEX t_y RENAME TO i", "ALTER INDEX i RENAME TO t_y", vec!["index t_y", "index i"]),
        ("ALTER SEQUENCE s INCREMENT 2", "ALTER SEQUENCE s INCREMENT 1", vec!["sequence s"]),
        (
            "ALTER TABLE t ADD CONSTRAINT k CHECK (y > 0)",
            "ALTER TABLE t DROP CONSTRAINT k",
            vec!["constraint t.k"],
        ),
        (
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
            vec!["table t"],
        ),
        (
            "ALTER FUNCTION plain(int) IMMUTABLE",
            "ALTER FUNCTION plain(int) VOLATILE",
            vec!["function plain(a integer)"],
        ),
        ("CREATE TYPE other AS ENUM ('x')", "DROP TYPE other", vec!["type other"]),
        ("ALTER TABLE t OWNER TO CURRENT_USER", "ALTER TABLE t OWNER TO OWNER", vec!["relation t"]),
        ("GRANT REFERENCES ON t TO TENANT", "REVOKE REFERENCES ON t FROM TENANT", vec!["relation t"]),
        (
            "GRANT CREATE ON SCHEMA {schema} TO TENANT",
            "REVOKE CREATE ON SCHEMA {schema} FROM TENANT",
            vec!["schema {schema}"],
        ),
        ("GRANT OWNER TO TENANT", "REVOKE OWNER FROM TENANT", vec!["role OWNER"]),
    ];
    let owner = schema::owner_of(name);
    let fill = |text: &str| {
        let text = text.replace("TENANT", role.as_str()).replace("{schema}", name.as_str());
        text.replace("OWNER TO OWNER", &format!("OWNER TO {owner}"))
            .replace("GRANT OWNER", &format!("GRANT {owner}"))
            .replace("REVOKE OWNER", &format!("REVOKE {owner}"))
            .replace("role OWNER", &format!("role {owner}"))
    };
    for (sql, undo, objects) in breaks {
        admin.batch_execute(&format!("SET search_path = {name}; {}", fill(sql))).await.unwrap();
        let found = schema::audit_silo(&admin, name, &expected).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|finding| finding.object).collect();
        let objects: Vec<_> = objects.into_iter().map(fill).collect();
        assert_eq!(found, objects, "{sql}");
        admin.batch_execute(&format!("SET search_path = {name}; {}", fill(undo))).await.unwrap();
    }
    assert_eq!(schema::audit_silo(&admin, name, &expected).await.unwrap(), []);
    assert_eq!(
        schema::audit_silo(&admin, &SchemaName::of_silo(), &expected).await.unwrap().len(),
        expected.objects.len()
    );
}
