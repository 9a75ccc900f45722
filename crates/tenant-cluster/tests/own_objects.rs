//! Objects of tenants' own, beside the app schema: what a tenant may do with
//! them, what nobody else may, and what nobody can do to others with them.
//! Where a measure of ours stops an attack, the same is shown to work once the
//! measure is taken away.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod schema_support;
#[allow(clippy::wildcard_imports)]
use schema_support::*;

use insula_app_schema::PlainMigration;
use insula_domain::{DatabaseName, Isolation, RoleName, SchemaName, TenantId};
use insula_problem::Code;
use insula_tenant_cluster::schema::{self, fingerprint};
use insula_tenant_cluster::{
    OwnSpace, audit_own, dependents, drop_roles, drop_schemas, explain, own_objects, settle_own,
};
use insula_testkit::TestDatabase;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

const TABLES: &str = "
    CREATE TABLE parents (id int PRIMARY KEY, word text);
    CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE, note text);
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE kept text; BEGIN kept := OLD.note; RETURN OLD; END $$;
    CREATE TRIGGER touch BEFORE DELETE ON children FOR EACH ROW EXECUTE FUNCTION touch()";

/// What a tenant makes for itself; `OWN` is its schema.
const MINE: &str = "
    CREATE TYPE OWN.mood AS ENUM ('good', 'bad');
    CREATE TABLE OWN.leads (id bigserial PRIMARY KEY, name text, mood OWN.mood);
    CREATE INDEX leads_name ON OWN.leads (name);
    INSERT INTO OWN.leads (name) SELECT 'lead ' || n FROM generate_series(1, 40) n;
    CREATE VIEW OWN.words AS SELECT word FROM parents;
    CREATE FUNCTION OWN.score(a int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN a * 2; END $$";

/// A tenant with a schema in a shared database, and both of its roles.
struct Tenant {
    id: TenantId,
    space: OwnSpace,
    silo: Silo,
    reader: Client,
}

impl Tenant {
    async fn in_shared(database: &TestDatabase, plain: &[PlainMigration]) -> Self {
        let silo = schema_silo(database, plain).await;
        Self::of(database, silo, Isolation::Schema).await
    }

    async fn of(database: &TestDatabase, silo: Silo, isolation: Isolation) -> Self {
        let id = silo.role.tenant().unwrap();
        let admin = database.connect().await;
        let read_only = RoleName::read_only_of_tenant(id);
        create_role(&admin, &read_only).await;
        schema::grant_rights(&admin, &silo.schema, &read_only, true).await.unwrap();
        if isolation == Isolation::Schema {
            let usage = format!("grant usage on schema {} to {}, {read_only}", silo.schema, silo.role);
            admin.batch_execute(&usage).await.unwrap();
        }
        let space = OwnSpace {
            tenant: id,
            isolation,
            database: DatabaseName::from_stored(database.name().to_owned()),
            app: silo.schema.clone(),
            own: SchemaName::of_own_objects(id, isolation).unwrap(),
        };
        settle_own(&admin, &space, true).await.unwrap();
        // A session takes the role's settings when it begins.
        let silo = Silo { client: session(database, &silo.role).await, ..silo };
        let reader = session(database, &read_only).await;
        Self { id, space, silo, reader }
    }

    fn text(&self, sql: &str) -> String {
        let owner = sql.replace("OWNER", "owner");
        owner.replace("OWN", self.space.own.as_str())
    }

    async fn run(&self, sql: &str) {
        let sql = self.text(sql);
        self.silo.client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn own_findings(&self, admin: &Client, allowed: bool) -> Vec<String> {
        let found = audit_own(admin, &self.space, allowed).await.unwrap();
        found.into_iter().map(|finding| format!("{}: {}", finding.object, finding.detail)).collect()
    }
}

/// Two tenants in a database that is closed as the shared one is.
async fn two(label: &str, plain: &[PlainMigration]) -> (TestDatabase, Client, Tenant, Tenant) {
    let database = TestDatabase::create(label).await;
    let admin = database.connect().await;
    admin.batch_execute(&format!("revoke all on database {} from public", database.name())).await.unwrap();
    schema::harden_database(&admin).await.unwrap();
    let connect = format!("grant connect on database {} to public", database.name());
    admin.batch_execute(&connect).await.unwrap();
    let one = Tenant::in_shared(&database, plain).await;
    let other = Tenant::in_shared(&database, plain).await;
    (database, admin, one, other)
}

#[tokio::test]
async fn a_tenant_makes_its_own_beside_the_app_schema_and_nobody_else_gets_at_it() {
    let plain = versions(&[TABLES]);
    let (_database, admin, one, other) = two("own_rights", &plain).await;
    let made = fingerprint(&admin, &one.silo.schema).await.unwrap();
    one.run("INSERT INTO parents VALUES (1, 'a')").await;
    one.run(MINE).await;
    // Found without its schema's name, behind the app's tables.
    assert_eq!(one_of(&one.silo.client, "SELECT count(*) FROM leads").await, "40");
    assert_eq!(one_of(&one.silo.client, "SELECT score(21)").await, "42");
    one.run("CREATE TABLE OWN.parents (id int)").await;
    assert_eq!(one_of(&one.silo.client, "SELECT count(*) FROM parents").await, "1");
    // Who reads, reads.
    assert_eq!(one_of(&one.reader, "SELECT count(*) FROM leads").await, "40");
    assert_eq!(one_of(&one.reader, "SELECT word FROM words").await, "a");
    for sql in
        ["INSERT INTO OWN.leads (name) VALUES ('x')", "CREATE TABLE OWN.t (a int)", "DROP TABLE OWN.leads"]
    {
        assert!(is_denied(&refused(&one.reader, &one.text(sql)).await), "{sql}");
    }
    // The app's schema is not the tenant's to change, nor is another's own.
    let app = &one.silo.schema;
    for sql in [
        format!("CREATE TABLE {app}.mine (a int)"),
        format!("CREATE FUNCTION {app}.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
        one.text("ALTER SCHEMA OWN RENAME TO mine"),
        one.text("DROP SCHEMA OWN CASCADE"),
        one.text("CREATE TABLE OWN.r (id int REFERENCES parents)"),
        other.text("SELECT * FROM OWN.leads"),
        other.text("CREATE TABLE OWN.mine (a int)"),
    ] {
        assert!(is_denied(&refused(&one.silo.client, &sql).await), "{sql}");
    }
    for client in [&other.silo.client, &other.reader] {
        for sql in ["SELECT * FROM OWN.leads", "SELECT OWN.score(1)", "CREATE TABLE OWN.t (a int)"] {
            assert!(is_denied(&refused(client, &one.text(sql)).await), "{sql}");
        }
    }
    // The app schema is as it was, and all rights are as they must be.
    let after = schema::audit_silo(&admin, &one.silo.schema, &made).await.unwrap();
    assert_eq!(after, []);
    assert_eq!(one.own_findings(&admin, true).await, Vec::<String>::new());
    // Canaries: rights that must not be there are found.
    let role = &other.silo.role;
    admin.batch_execute(&one.text(&format!("GRANT USAGE ON SCHEMA OWN TO {role}"))).await.unwrap();
    admin.batch_execute(&format!("GRANT CREATE ON SCHEMA {app} TO {}", one.silo.role)).await.unwrap();
    let found = one.own_findings(&admin, true).await;
    assert_eq!(found, [one.text(&format!("schema OWN: {role} has the right USAGE on it."))]);
    assert_eq!(schema::audit_silo(&admin, app, &made).await.unwrap().len(), 1);
}

/// The first column of the first row, as text.
async fn one_of(client: &Client, query: &str) -> String {
    schema_support::one(client, query).await
}

#[tokio::test]
async fn taking_the_right_away_keeps_what_is_there() {
    let (_database, admin, one, other) = two("own_taken", &versions(&[TABLES])).await;
    one.run(MINE).await;
    for tenant in [&one, &other] {
        settle_own(&admin, &tenant.space, false).await.unwrap();
        let sql = tenant.text("CREATE TABLE OWN.more (a int)");
        assert!(is_denied(&refused(&tenant.silo.client, &sql).await));
    }
    one.run("INSERT INTO leads (name) VALUES ('one more')").await;
    assert_eq!(one_of(&one.reader, "SELECT count(*) FROM leads").await, "41");
    let found = one.own_findings(&admin, false).await;
    assert!(found.len() == 1 && found[0].contains("there are"), "{found:?}");
    assert_eq!(other.own_findings(&admin, false).await, Vec::<String>::new(), "an empty schema is nothing");
    assert_eq!(one.own_findings(&admin, true).await.len(), 1, "the right is missing");
    settle_own(&admin, &one.space, true).await.unwrap();
    one.run("CREATE TABLE OWN.more (a int)").await;
    assert_eq!(one.own_findings(&admin, true).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_a_tenant_made_is_listed() {
    let (_database, admin, one, other) = two("own_listed", &versions(&[TABLES])).await;
    one.run(MINE).await;
    one.run("ANALYZE OWN.leads; ALTER DEFAULT PRIVILEGES IN SCHEMA OWN GRANT SELECT ON TABLES TO PUBLIC")
        .await;
    let listed = own_objects(&admin, &one.space.own).await.unwrap();
    assert_eq!(listed.more, 0);
    let names: Vec<_> =
        listed.objects.iter().map(|object| format!("{} {}", object.kind, object.name)).collect();
    let all = ["function score(integer)", "index leads_name", "table leads", "type mood", "view words"];
    assert_eq!(names, all);
    let table = &listed.objects[2];
    assert!(table.rows == Some(40) && table.bytes.unwrap() > 8_000, "{table:?}");
    assert!(own_objects(&admin, &other.space.own).await.unwrap().objects.is_empty());
}

/// What `CREATE` in a schema does not open; `OWN` is the attacker's, `OTHER`
/// the victim's role, `THEIRS` its schema of its own.
const CLOSED: &[(&str, &str)] = &[
    ("a trusted extension", "CREATE EXTENSION pg_trgm SCHEMA OWN"),
    ("an untrusted one", "CREATE EXTENSION dblink SCHEMA OWN"),
    (
        "an event trigger",
        "CREATE FUNCTION OWN.e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION OWN.e()",
    ),
    ("a schema", "CREATE SCHEMA more"),
    ("a publication", "CREATE PUBLICATION p FOR ALL TABLES"),
    ("a foreign data wrapper", "CREATE FOREIGN DATA WRAPPER w"),
    ("a function in C", "CREATE FUNCTION OWN.c() RETURNS int LANGUAGE c AS 'x', 'y'"),
    ("a temporary table", "CREATE TEMP TABLE t (a int)"),
    ("a table in public", "CREATE TABLE public.t (a int)"),
    ("a table in the victim's", "CREATE TABLE THEIRS.t (a int)"),
    (
        "a cast of everybody's types",
        "CREATE FUNCTION OWN.c(text) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE CAST (text AS int) WITH FUNCTION OWN.c(text) AS IMPLICIT",
    ),
    ("an operator class", "CREATE OPERATOR CLASS OWN.o DEFAULT FOR TYPE int USING btree AS OPERATOR 1 <"),
    (
        "advisory locks in a function",
        "CREATE FUNCTION OWN.l() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(1); END $$; SELECT OWN.l()",
    ),
    (
        "notifications in a function",
        "CREATE FUNCTION OWN.n() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('a', 'b'); END $$; SELECT OWN.n()",
    ),
    (
        "large objects in a function",
        "CREATE FUNCTION OWN.b() RETURNS oid LANGUAGE plpgsql AS $$ BEGIN RETURN lo_create(0); END $$; SELECT OWN.b()",
    ),
    (
        "the victim's role in a function",
        "CREATE FUNCTION OWN.s() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SET ROLE OTHER'; END $$; SELECT OWN.s()",
    ),
    (
        "the victim's default rights",
        "CREATE FUNCTION OWN.d() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER DEFAULT PRIVILEGES FOR ROLE OTHER GRANT ALL ON TABLES TO PUBLIC'; END $$; SELECT OWN.d()",
    ),
    ("locking a catalog", "DO $$ BEGIN LOCK TABLE pg_class IN SHARE MODE; END $$"),
    ("locking the victim's tables", "DO $$ BEGIN LOCK TABLE THEIRS.leads; END $$"),
    ("giving a table away", "CREATE TABLE OWN.gift (a int); ALTER TABLE OWN.gift OWNER TO OTHER"),
    ("moving a table over", "CREATE TABLE OWN.gift (a int); ALTER TABLE OWN.gift SET SCHEMA THEIRS"),
    (
        "a trigger on the app's tables",
        "CREATE FUNCTION OWN.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER t BEFORE INSERT ON parents FOR EACH ROW EXECUTE FUNCTION OWN.t()",
    ),
    ("a rule on the app's tables", "CREATE RULE r AS ON INSERT TO parents DO ALSO SELECT 1"),
    ("an index on the app's tables", "CREATE INDEX i ON parents (word)"),
];

#[tokio::test]
async fn the_right_to_make_things_opens_nothing_towards_others() {
    let (database, admin, attacker, victim) = two("own_attacks", &versions(&[TABLES])).await;
    victim.run(MINE).await;
    let filled = |sql: &str| {
        let sql =
            sql.replace("OTHER", victim.silo.role.as_str()).replace("THEIRS", victim.space.own.as_str());
        attacker.text(&sql)
    };
    for (what, sql) in CLOSED {
        let sql = filled(sql);
        // As a whole, so that nothing of it stays.
        let error = refused(&attacker.silo.client, &sql).await;
        let states = [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::INVALID_OBJECT_DEFINITION];
        assert!(states.contains(error.code()), "{what}: {error:?}");
    }
    // What is searched for in the path is not found in the attacker's schema by others.
    attacker
        .run(
            "CREATE FUNCTION OWN.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'mine' $$;
             CREATE FUNCTION OWN.eq(int, int) RETURNS bool LANGUAGE sql AS 'SELECT true';
             CREATE OPERATOR OWN.= (LEFTARG = int, RIGHTARG = int, FUNCTION = OWN.eq);
             GRANT ALL ON FUNCTION OWN.lower(text), OWN.eq(int, int) TO PUBLIC",
        )
        .await;
    let path = attacker.text(&format!("SET search_path = OWN, {}, pg_catalog", victim.silo.schema));
    victim.silo.client.batch_execute(&path).await.unwrap();
    assert_eq!(one_of(&victim.silo.client, "SELECT lower('A') || (1 = 2)").await, "afalse");
    attacker.silo.client.batch_execute(&path).await.unwrap();
    assert_eq!(one_of(&attacker.silo.client, "SELECT lower('A') || (1 = 2)").await, "minetrue");
    victim.run("RESET search_path").await;
    assert_eq!(one_of(&victim.silo.client, "SELECT count(*) FROM leads").await, "40");
    // Canaries: what closes them is what is said to.
    let role = &attacker.silo.role;
    let create = format!("GRANT CREATE ON DATABASE {} TO {role}", database.name());
    admin.batch_execute(&create).await.unwrap();
    attacker
        .run("CREATE EXTENSION pg_trgm SCHEMA OWN; DROP EXTENSION pg_trgm; CREATE SCHEMA more_of_it")
        .await;
    admin.batch_execute("GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC").await.unwrap();
    attacker.run("CREATE FUNCTION OWN.l() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(1); END $$; SELECT OWN.l()").await;
}

#[tokio::test]
async fn rights_that_others_gave_do_not_stand_in_the_way_of_a_purge() {
    let (database, admin, giver, going) = two("own_purge", &versions(&[TABLES])).await;
    let elsewhere = TestDatabase::create("own_purge_elsewhere").await;
    let silo = database_silo(&elsewhere, &versions(&[TABLES])).await;
    let far = Tenant::of(&elsewhere, silo, Isolation::Database).await;
    let owner = schema::owner_of(&going.silo.schema);
    for tenant in [&giver, &far] {
        tenant.run(MINE).await;
        for role in [&going.silo.role, &RoleName::read_only_of_tenant(going.id), &owner] {
            tenant
                .run(&format!(
                    "DO $$ BEGIN
                         GRANT ALL ON OWN.leads TO {role};
                         GRANT EXECUTE ON FUNCTION OWN.score(int) TO {role};
                         ALTER DEFAULT PRIVILEGES IN SCHEMA OWN GRANT SELECT ON TABLES TO {role};
                         ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {role};
                         CREATE POLICY p_{role} ON OWN.leads TO {role} USING (true);
                     END $$"
                ))
                .await;
        }
    }
    going.run(MINE).await;
    // The canary: PostgreSQL refuses to drop such a role.
    let error = refused(&admin, &format!("DROP ROLE {}", RoleName::read_only_of_tenant(going.id))).await;
    assert_eq!(error.code(), &SqlState::DEPENDENT_OBJECTS_STILL_EXIST);

    let access = access(&database);
    for _ in 0..2 {
        drop_schemas(&access, &going.space.database, &going.space.app, Some(&going.space.own)).await.unwrap();
        drop_roles(&access, going.id).await.unwrap();
    }
    let id = going.id.simple();
    for query in [
        format!("SELECT count(*) FROM pg_roles WHERE rolname LIKE '%{id}%'"),
        format!("SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%{id}%'"),
        format!("SELECT count(*) FROM pg_default_acl WHERE defaclacl::text LIKE '%{id}%'"),
    ] {
        assert_eq!(one_of(&admin, &query).await, "0", "{query}");
    }
    for tenant in [&giver, &far] {
        assert_eq!(
            one_of(&tenant.silo.client, "SELECT count(*) FROM leads").await,
            "40",
            "the givers keep theirs"
        );
        tenant.run("CREATE TABLE OWN.later (a int)").await;
    }
}

#[tokio::test]
async fn a_schema_goes_however_much_is_in_it_and_whoever_depends_on_it() {
    let (database, admin, one, other) = two("own_much", &versions(&[TABLES])).await;
    one.run(MINE).await;
    one.run(
        "DO $$ BEGIN
             EXECUTE 'CREATE TABLE OWN.whole (a int) PARTITION BY LIST (a)';
             FOR n IN 1..450 LOOP
                 EXECUTE format('CREATE TABLE OWN.p%s PARTITION OF OWN.whole FOR VALUES IN (%s)', n, n);
             END LOOP;
             EXECUTE 'CREATE MATERIALIZED VIEW OWN.m AS SELECT * FROM OWN.whole';
             EXECUTE 'CREATE VIEW OWN.\"odd \"\"name\"\"\" AS SELECT 1';
         END $$",
    )
    .await;
    drop_schemas(&access(&database), &one.space.database, &one.space.app, Some(&one.space.own))
        .await
        .unwrap();
    let left = format!("SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%{}%'", one.id.simple());
    assert_eq!(one_of(&admin, &left).await, "0");
    other.run("INSERT INTO parents VALUES (1, 'a')").await;
}

#[tokio::test]
async fn a_version_goes_on_beside_a_tenants_own_and_names_what_is_in_its_way() {
    let plain = versions(&[
        TABLES,
        "ALTER TABLE parents ADD COLUMN more int; CREATE TABLE leads (a int)",
        "ALTER TABLE parents DROP COLUMN word",
    ]);
    let (_database, mut admin, one, other) = two("own_versions", &plain[..1]).await;
    one.run(MINE).await;
    one.run("CREATE VIEW OWN.typed AS SELECT id FROM parents; INSERT INTO parents VALUES (1, 'a')").await;
    let app = one.space.app.clone();
    schema::apply_plain(&mut admin, &app, &plain[1]).await.unwrap();
    assert_eq!(one_of(&one.silo.client, "SELECT count(*) FROM leads").await, "0", "the app's comes first");
    for (sql, view) in [
        ("ALTER TABLE parents DROP COLUMN word", "words"),
        ("ALTER TABLE parents ALTER COLUMN id TYPE bigint", "typed"),
    ] {
        let version = versions(&[TABLES, "SELECT 1", sql]).pop().unwrap();
        let problem = schema::apply_plain(&mut admin, &app, &version).await.unwrap_err();
        assert_eq!(problem.code(), Code::MigrationFailed);
        let own = &one.space.own;
        assert!(!problem.detail().contains(own.as_str()), "{problem}");
        let told = explain(&admin, &one.space, problem).await;
        assert!(told.detail().contains(&format!("view {own}.{view} (on column")), "{told}");
        assert!(told.detail().contains("insula schema rollout retry"), "{told}");
        // It is still told where the values of rows belong.
        assert!(schema::RowsDoNotFit::behind(&told).is_some());
        let applied = schema::applied_version(&admin, &app).await.unwrap().unwrap();
        assert_eq!(applied.version.0, 2);
    }
    // Where it fails for another reason nothing is said of them.
    let version = versions(&[TABLES, "SELECT 1", "ALTER TABLE parents ADD CHECK (id > 1)"]).pop().unwrap();
    let problem = schema::apply_plain(&mut admin, &app, &version).await.unwrap_err();
    assert!(!explain(&admin, &one.space, problem).await.detail().contains("own depend"));
    assert_eq!(dependents(&admin, &other.space.app, &other.space.own).await.unwrap(), []);
    // Once the tenant has dropped it the version goes through.
    one.run("DROP VIEW OWN.words").await;
    schema::apply_plain(&mut admin, &app, &plain[2]).await.unwrap();
    assert_eq!(one_of(&one.silo.client, "SELECT count(*) FROM typed").await, "1");
}

/// The tenant makes the owner of its app schema run its code, by a type that is
/// found before PostgreSQL's.
const LURE: &str = "
    CREATE FUNCTION OWN.look(value pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$
        DECLARE said name := 'done';
        BEGIN
            IF current_user NOT LIKE 't\\_%\\_owner' THEN RETURN true; END IF;
            BEGIN EXECUTE $x$ATTEMPT$x$; EXCEPTION WHEN OTHERS THEN said := SQLSTATE; END;
            RAISE EXCEPTION '% was refused: %', current_user, said;
        END $$;
    CREATE DOMAIN OWN.text AS pg_catalog.text CHECK (OWN.look(VALUE::pg_catalog.text));
    SET search_path = OWN, pg_catalog, APP;
    DELETE FROM APP.children WHERE id = 2";

#[tokio::test]
async fn who_gets_to_be_the_owner_of_its_own_app_schema_leaves_nothing_there() {
    let plain = versions(&[TABLES, "UPDATE children SET note = 'touched'"]);
    let (database, mut admin, attacker, _) = two("own_lure", &plain[..1]).await;
    let app = attacker.space.app.clone();
    for attempt in [
        "CREATE FUNCTION APP.format(text, name, name) RETURNS text LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER t BEFORE UPDATE ON APP.children FOR EACH ROW EXECUTE FUNCTION OWN.evil()",
        "CREATE TABLE APP.mine (a int)",
    ] {
        let fresh =
            "INSERT INTO APP.parents VALUES (1); INSERT INTO APP.children VALUES (1, 1, 'n'), (2, 1, 'n')";
        let text = [fresh, LURE].join(";").replace("ATTEMPT", attempt).replace("APP", app.as_str());
        let client = session(&database, &attacker.silo.role).await;
        client.batch_execute(&attacker.text(&text)).await.unwrap();
        // In the cascade it is the owner who runs it: it was reached, and no further.
        let error = refused(&client, &format!("DELETE FROM {app}.parents")).await;
        let expected = format!("{} was refused: 42501", schema::owner_of(&app));
        assert_eq!(error.message(), expected, "{attempt}");
        let clean = format!(
            "DROP DOMAIN OWN.text; DROP FUNCTION OWN.look; DELETE FROM {app}.children; DELETE FROM {app}.parents"
        );
        attacker.run(&clean).await;
    }
    let made = fingerprint(&admin, &app).await.unwrap();
    let planted = |findings: Vec<schema::Finding>| findings.len();
    assert_eq!(planted(schema::audit_silo(&admin, &app, &made).await.unwrap()), 0);
    // The canary: a trigger of that kind, had it been left there, would make the
    // session that applies a version the attacker's.
    attacker
        .run(
            "CREATE FUNCTION OWN.evil() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
                 BEGIN EXECUTE 'RESET ROLE'; NEW.note := current_user; RETURN NEW; END $$;
             INSERT INTO parents VALUES (1); INSERT INTO children VALUES (1, 1, 'n')",
        )
        .await;
    let plant = format!(
        "CREATE TRIGGER t BEFORE UPDATE ON {app}.children FOR EACH ROW EXECUTE FUNCTION {}.evil()",
        attacker.space.own
    );
    admin.batch_execute(&plant).await.unwrap();
    let other = database.connect().await;
    let as_owner =
        format!("BEGIN; SET ROLE {}; UPDATE {app}.children SET note = 'x'", schema::owner_of(&app));
    other.batch_execute(&as_owner).await.unwrap();
    let is_superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
    assert_eq!(one_of(&other, is_superuser).await, "t");
    other.batch_execute("ROLLBACK").await.unwrap();
    // So no version is applied there, and the audit says it.
    let problem = schema::apply_plain(&mut admin, &app, &plain[1]).await.unwrap_err();
    assert_eq!(problem.code(), Code::SchemaAuditFailed);
    assert!(problem.detail().contains("trigger t on table"), "{problem}");
    assert_eq!(planted(schema::audit_silo(&admin, &app, &made).await.unwrap()), 2, "unexpected, and planted");
    admin.batch_execute(&format!("DROP TRIGGER t ON {app}.children")).await.unwrap();
    schema::apply_plain(&mut admin, &app, &plain[1]).await.unwrap();
}
