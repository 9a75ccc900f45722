//! A tenant against another, through the front, in all four isolation models:
//! every known way out of one's own rows is tried, and nothing of the other's
//! is seen, changed or disturbed. Each attempt is a statement list of the
//! attacker's; what it says does not matter, what it sees does.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::World;
use serde_json::Value;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// What only the victim has.
const SECRET: &str = "SECRET-OF-THE-VICTIM";

const MODELS: [(&str, &str); 4] =
    [("pool", "free"), ("schema", "standard"), ("database", "business"), ("cluster", "enterprise")];

/// Attempts by what they try. `{role}`, `{id}`, `{schema}` and `{database}` are
/// the victim's.
const ATTEMPTS: &[(&str, &str)] = &[
    ("set role", "set role {role}; select * from customers; reset role"),
    ("set session authorization", "set session authorization {role}; select * from customers"),
    ("role by set_config", "select set_config('role', '{role}', false); select * from customers"),
    ("role in a DO block", "do $$ begin execute 'set role {role}'; end $$; select * from customers"),
    ("role of the owner", "set role insula_pool_owner; select * from customers"),
    ("role of the group", "set role insula_pool_rw; select * from customers"),
    ("role of the schema's owner", "set role {schema}_owner; select * from customers"),
    ("reset and discard", "reset all; reset role; discard all; select * from customers"),
    ("row security off", "set row_security = off; select * from customers"),
    ("replication role", "set session_replication_role = replica; delete from customers where id = 777"),
    ("the victim's schema by name", "select * from {schema}.customers where email like 'victim%'"),
    (
        "the victim's schema by path",
        "set search_path = {schema}, app, public; select * from customers where id = 777",
    ),
    (
        "another tenant function",
        "create or replace function insula.current_tenant() returns uuid language sql return '{id}'::uuid",
    ),
    (
        "a temporary tenant function",
        "create function pg_temp.current_tenant() returns uuid language sql return '{id}'::uuid; set search_path = pg_temp, app; select * from customers",
    ),
    (
        "a definer function",
        "create function pg_temp.steal() returns setof text language sql security definer as 'select name from app.customers'; select * from pg_temp.steal()",
    ),
    (
        "a leaky filter",
        "create function pg_temp.leak(text) returns bool language plpgsql cost 0.0000001 as $$ begin raise notice 'leak %', $1; return true; end $$; select * from customers where pg_temp.leak(name)",
    ),
    ("a view", "create temporary view v as select * from customers; select * from v"),
    (
        "a foreign tenant id",
        "insert into customers (id, email, name, tenant_id) values (900, 'x@example.com', 'x', '{id}')",
    ),
    ("giving a row away", "update customers set tenant_id = '{id}'"),
    ("taking rows over", "update customers set tenant_id = insula.current_tenant() where tenant_id = '{id}'"),
    ("deleting by tenant id", "delete from customers where tenant_id = '{id}'"),
    (
        "deleting everything",
        "delete from cart_lines; delete from carts; delete from customers where id = 777",
    ),
    ("truncate", "truncate customers cascade"),
    ("copy out", "copy customers to stdout"),
    ("copy a query out", "copy (select * from customers) to stdout"),
    ("copy to a program", "copy customers to program 'cat'"),
    ("copy from a file", "create temporary table f (l text); copy f from '/etc/passwd'"),
    ("server files", "select pg_read_file('postgresql.conf')"),
    ("statistics", "select * from pg_stats where tablename = 'customers'"),
    ("raw statistics", "select * from pg_statistic"),
    ("estimates", "explain (analyze, verbose) select * from customers where name like 'SECRET-OF-THE-V%'"),
    ("activity", "select usename, query from pg_stat_activity where usename = '{role}'"),
    ("cancel", "select pg_cancel_backend(pid) from pg_stat_activity where usename = '{role}'"),
    ("terminate", "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'"),
    ("locks", "select * from pg_locks where locktype = 'advisory'"),
    ("sequence values", "select last_value from customers_id_seq"),
    ("set a sequence", "select setval('customers_id_seq', 1, false)"),
    ("passwords", "select rolname, rolpassword from pg_authid"),
    ("the victim's password", "alter role {role} password 'x'"),
    ("the victim's settings", "alter role {role} set search_path = pg_temp"),
    ("being superuser", "alter role current_user superuser"),
    ("bypassing row security", "alter role current_user bypassrls"),
    ("membership", "grant {role} to current_user; set role {role}; select * from customers"),
    ("no row security", "alter table customers disable row level security; select * from customers"),
    ("no forced row security", "alter table customers no force row level security"),
    ("a policy", "create policy mine on customers using (true); select * from customers"),
    ("dropping the policy", "drop policy insula_tenant on customers; select * from customers"),
    ("dropping a table", "drop table customers cascade"),
    ("a table in the app schema", "create table app.mine (id int)"),
    (
        "a trigger",
        "create function pg_temp.t() returns trigger language plpgsql as 'begin return new; end'; create trigger t before insert on customers for each row execute function pg_temp.t()",
    ),
    ("a rule", "create rule r as on insert to customers do also select 1"),
    ("rights for all", "grant all on customers to public"),
    ("the database", "alter database {database} set search_path = pg_temp"),
    ("the system", "alter system set log_statement = 'all'"),
    ("extensions", "create extension dblink"),
    ("foreign data", "create extension postgres_fdw"),
    ("who is in the pool", "select * from insula.pool_tenants"),
    ("enrolling", "select insula.enrol('{id}', '{id}', 0::oid, 0)"),
    ("large objects", "select lo_get(oid) from pg_largeobject_metadata"),
    ("listening", "listen victims"),
    ("prepared statements", "select * from pg_prepared_statements"),
    ("replication", "select pg_create_logical_replication_slot('s', 'pgoutput')"),
    ("the log", "select pg_logical_emit_message(false, 'p', 'x')"),
    ("comments and encodings", "/* x */ sEt/**/rOlE {role}; select * from customers"),
    (
        "the views of COPY",
        "select * from insula_copy.customers; copy insula_copy.customers to stdout; delete from insula_copy.customers",
    ),
    (
        "an upsert of the victim's key",
        "insert into customers (id, email, name) values (777, 'victim@example.com', 'x') on conflict (id) do update set name = customers.name || 'x' returning name; insert into customers (id, email, name, tenant_id) values (777, 'y', 'x', '{id}') on conflict (id) do update set name = 'x' returning *",
    ),
    (
        "an upsert with the victim's tenant",
        "insert into customers (id, email, name) values (777, 'victim@example.com', 'x') on conflict (/* ( */ id, tenant_id) where tenant_id = '{id}' do update set name = 'x', tenant_id = '{id}' returning *",
    ),
    (
        "a grouping with crafted names",
        "select c.* from customers \"c\"\".x\" group by id; select \"c;select\".* from customers as \"c;select\" group by \"c;select\".id; select * from customers as U&\"\\0063\" group by id; select é.* from customers é group by é.id; with insula_copy as (select 1 as id) select * from insula_copy group by insula_copy.id",
    ),
    (
        "several at once",
        "begin; savepoint a; set local role {role}; rollback to a; select * from customers; commit",
    ),
];

/// Attempts of a tenant that may make objects of its own, in its schema
/// `{own}`; `{their_own}` is the victim's.
const OWN_ATTEMPTS: &[(&str, &str)] = &[
    ("a table", "create table {own}.t (a int); insert into {own}.t values (1)"),
    (
        "a view over the victim's",
        "create view {own}.v as select * from {schema}.customers; select * from {own}.v",
    ),
    (
        "a definer function",
        "create function {own}.steal() returns setof text language sql security definer as 'select name from {schema}.customers'; select * from {own}.steal()",
    ),
    (
        "a role in a function",
        "create function {own}.role() returns setof text language plpgsql as $$ begin execute 'set role {role}'; return query select name::text from customers; end $$; select * from {own}.role()",
    ),
    (
        "a leaky operator",
        "create function {own}.eq(text, text) returns bool language plpgsql cost 0.0000001 as $$ begin raise notice '% %', $1, $2; return true; end $$; create operator {own}.= (leftarg = text, rightarg = text, function = {own}.eq); set search_path = {own}, {schema}, pg_catalog; select * from {schema}.customers where name = 'x'",
    ),
    ("the victim's own", "select * from {their_own}.secrets"),
    ("into the victim's own", "create table {their_own}.mine (a int)"),
    ("the victim's own dropped", "drop schema {their_own} cascade; drop table {their_own}.secrets"),
    ("an extension", "create extension dblink schema {own}; create extension pg_trgm schema {own}"),
    (
        "an event trigger",
        "create function {own}.e() returns event_trigger language plpgsql as 'begin end'; create event trigger e on ddl_command_start execute function {own}.e()",
    ),
    (
        "locks in a function",
        "create function {own}.l() returns void language plpgsql as $$ begin lock table {their_own}.secrets; end $$; select {own}.l()",
    ),
    ("rights for the victim", "do $$ begin execute 'grant all on {own}.t to {role}'; end $$"),
    (
        "default rights for the victim",
        "do $$ begin execute 'alter default privileges in schema {own} grant all on tables to {role}'; end $$",
    ),
];

struct Attacker {
    client: Client,
    heard: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Attacker {
    async fn connect(url: &str) -> Self {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let (sender, heard) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
                let _ = sender.send(format!("{message:?}"));
            }
        });
        Self { client, heard }
    }

    /// Everything that the attacker sees of an attempt.
    async fn attempt(&mut self, sql: &str) -> String {
        let mut seen = String::new();
        // One by one, so that a refusal does not hide what comes after it.
        for statement in split(sql) {
            if statement.trim_start().to_lowercase().starts_with("copy") && statement.contains("stdout") {
                match self.client.copy_out(&statement).await {
                    Ok(rows) => {
                        let rows: Vec<_> = futures_util::StreamExt::collect(Box::pin(rows)).await;
                        seen.push_str(&rows.iter().map(|row| format!("{row:?}")).collect::<String>());
                    }
                    Err(error) => seen.push_str(&format!("{error:?}")),
                }
                continue;
            }
            match self.client.simple_query(&statement).await {
                Ok(messages) => messages.iter().for_each(|message| {
                    if let SimpleQueryMessage::Row(row) = message {
                        (0..row.len()).for_each(|column| seen.push_str(row.get(column).unwrap_or("")));
                    }
                }),
                Err(error) => seen.push_str(&format!("{error:?}")),
            }
        }
        while let Ok(message) = self.heard.try_recv() {
            seen.push_str(&message);
        }
        let _ = self.client.simple_query("rollback; reset all; reset role").await;
        seen
    }
}

/// Statements apart, where a semicolon is outside of `$$`.
fn split(sql: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    for (index, part) in sql.split("$$").enumerate() {
        let inside = index % 2 == 1;
        let last = statements.last_mut().unwrap();
        if index > 0 {
            last.push_str("$$");
        }
        if inside {
            last.push_str(part);
            continue;
        }
        let mut pieces = part.split(';');
        last.push_str(pieces.next().unwrap());
        statements.extend(pieces.map(str::to_owned));
    }
    statements.retain(|statement| !statement.trim().is_empty());
    statements
}

async fn rows(client: &Client) -> Vec<(i64, String)> {
    let rows = client.query("select id, name from customers order by id", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn fill(template: &str, victim: &Value) -> String {
    let placement = &victim["placement"];
    template
        .replace("{role}", placement["role"].as_str().unwrap())
        .replace("{id}", victim["id"].as_str().unwrap())
        .replace("{schema}", placement["schema"].as_str().unwrap())
        .replace("{database}", placement["database"].as_str().unwrap())
}

/// Sets up a pair in a model: the victim with its secret, in a session that
/// stays open.
async fn pair(world: &World, model: &str, tier: &str) -> (Value, Client, Attacker) {
    let victim = world.create(&format!("victim-{model}"), tier, "us-east-1");
    world.create(&format!("attacker-{model}"), tier, "us-east-1");
    let session = world.connect(&format!("victim-{model}")).await;
    session
        .batch_execute(&format!(
            "insert into customers (id, email, name) values (777, 'victim@example.com', '{SECRET}')"
        ))
        .await
        .unwrap();
    let attacker = Attacker::connect(&world.url(&format!("attacker-{model}"))).await;
    // The same key and the same e-mail address: no collision that would tell.
    attacker
        .client
        .batch_execute("insert into customers (id, email, name) values (777, 'victim@example.com', 'mine')")
        .await
        .unwrap();
    (victim, session, attacker)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_of_any_tenant_reaches_another() {
    let world = World::start().await;
    world.apply_shop();
    for (model, tier) in MODELS.into_iter().skip(1) {
        let set = ["tier", "set", tier, "--isolation", model, "--plan", tier, "--own-objects"];
        assert!(world.run(&set).ok);
    }
    for (model, tier) in MODELS {
        let (victim, session, mut attacker) = pair(&world, model, tier).await;
        // What the catalogs of the shared tables know of their values.
        let admin = world.us.connect("insula_pool").await;
        admin.batch_execute("analyze").await.unwrap();
        for (what, template) in ATTEMPTS {
            let seen = attacker.attempt(&fill(template, &victim)).await;
            assert!(!seen.contains(SECRET), "{model}: {what} saw the victim's row: {seen}");
            let there = rows(&session).await;
            assert_eq!(there, [(777, SECRET.to_owned())], "{model}: {what} changed the victim's rows");
        }
        own_attempts(&world, model, &victim, &session, &mut attacker).await;
        // A key of the victim's that the attacker has not is no key to refer to.
        session
            .batch_execute("insert into customers (id, email, name) values (778, 'b@example.com', 'b')")
            .await
            .unwrap();
        let order = "insert into orders (id, number, customer_id, currency) values (1, 'A', {}, 'EUR')";
        for missing in ["778", "999999"] {
            let refused = attacker.client.batch_execute(&order.replace("{}", missing)).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "23503", "{model}");
        }
        // The victim's channel is not the attacker's, and its locks are its own.
        let _ = attacker.client.batch_execute("listen victims").await;
        session.batch_execute("notify victims, 'SECRET-OF-THE-VICTIM'").await.unwrap();
        attacker.client.batch_execute("select 1").await.unwrap();
        while let Ok(heard) = attacker.heard.try_recv() {
            assert!(!heard.contains(SECRET), "{model}: {heard}");
        }
        if matches!(model, "pool" | "schema") {
            let locked = attacker.client.simple_query("select pg_advisory_lock(1)").await;
            assert!(locked.is_err(), "{model}: advisory locks reach other tenants");
            // What drivers call when they put a connection back works.
            attacker.client.simple_query("select pg_advisory_unlock_all()").await.unwrap();
        }
        // The victim's session has gone through all of it.
        session.batch_execute("select 1").await.unwrap();
    }
    // The rights that the attacker gave the victim do not stop its purge.
    for model in ["schema", "database", "cluster"] {
        let said = world.run(&["tenant", "delete", &format!("victim-{model}")]);
        assert!(said.ok, "{model}: {}", said.err);
    }
    world.doctor_is_content();
}

/// What objects of its own open to the attacker.
async fn own_attempts(world: &World, model: &str, victim: &Value, session: &Client, attacker: &mut Attacker) {
    if model == "pool" {
        return;
    }
    let own_of = |tenant: &Value| match model {
        "schema" => format!("{}_own", tenant["placement"]["schema"].as_str().unwrap()),
        _ => "own".to_owned(),
    };
    let theirs = own_of(victim);
    let mine = own_of(&world.run(&["tenant", "show", &format!("attacker-{model}"), "-o", "json"]).json());
    session
        .batch_execute(&format!(
            "create table {theirs}.secrets (word text); insert into {theirs}.secrets values ('{SECRET}')"
        ))
        .await
        .unwrap();
    for (what, template) in OWN_ATTEMPTS {
        let sql = fill(&template.replace("{own}", &mine).replace("{their_own}", &theirs), victim);
        let seen = attacker.attempt(&sql).await;
        assert!(!seen.contains(SECRET), "{model}: {what} saw the victim's row: {seen}");
        let kept = session.query("select word from secrets", &[]).await.unwrap();
        assert_eq!(kept.len(), 1, "{model}: {what} changed the victim's own");
        assert_eq!(rows(session).await, [(777, SECRET.to_owned())], "{model}: {what}");
    }
    // What the attacker made is there, so the attempts were made.
    attacker.client.query("select * from t", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_attempts_would_be_caught() {
    // The canary: with row security switched off by the test, the plainest of
    // the attempts sees the victim's row, and the doctor finds the hole.
    let world = World::start().await;
    world.apply_shop();
    let (victim, session, mut attacker) = pair(&world, "pool", "free").await;
    let admin = world.us.connect("insula_pool").await;
    admin.batch_execute("alter table app.customers disable row level security").await.unwrap();
    let seen = attacker.attempt(&fill("copy customers to stdout", &victim)).await;
    assert!(seen.contains(SECRET), "{seen}");
    attacker.attempt(&fill("delete from customers where tenant_id = '{id}'", &victim)).await;
    assert!(rows(&session).await.iter().all(|(_, name)| name != SECRET));
    let said = world.run(&["doctor"]);
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.out.contains("customers"), "{}", said.out);
}

/// The SQLSTATE and Insula's code of a statement's refusal.
async fn refusal(client: &Client, sql: &str) -> (String, String) {
    let Err(error) = client.batch_execute(sql).await else { panic!("{sql} was let through") };
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
    (error.code().code().to_owned(), error.hint().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_of_a_tenant_stops_another_or_locks_itself_out() {
    let world = World::start().await;
    world.apply_shop();
    let ours = || ("42501".to_owned(), "insula: statement_refused".to_owned());
    for (model, tier) in MODELS {
        let (_, session, attacker) = pair(&world, model, tier).await;
        for sql in [
            "alter role current_user password 'x'",
            "/* -- */ ALTER\n\tuser current_user valid until '2000-01-01'",
            "select 1; alter role current_user set search_path = pg_temp",
            "drop owned by current_user",
            "grant insula_pool_rw to current_user",
        ] {
            assert_eq!(refusal(&attacker.client, sql).await, ours(), "{model}: {sql}");
        }
        let again = world.connect(&format!("attacker-{model}")).await;
        assert_eq!(rows(&again).await, [(777, "mine".to_owned())], "{model}: a new session works");
        if model != "pool" {
            continue;
        }
        session.batch_execute("set lock_timeout = '5s'").await.unwrap();
        for (sql, by_the_front) in [
            ("lock table customers", true),
            ("LOCK/**/customers in share mode", true),
            ("select $$; $$; lock customers", true),
            ("create trigger t before insert on customers for each row execute function f()", true),
            ("create rule r as on insert to customers do nothing", true),
            ("do $$ begin lock table customers; end $$", false),
            ("do $$ begin execute 'lock table customers'; end $$", false),
        ] {
            attacker.client.batch_execute("begin; update customers set name = name").await.unwrap();
            let refused = refusal(&attacker.client, sql).await;
            if by_the_front {
                assert_eq!(refused, ours(), "{sql}");
            } else {
                assert_eq!(refused.0, "42501", "{sql}");
            }
            session.batch_execute("update customers set name = name").await.unwrap();
            attacker.client.batch_execute("rollback").await.unwrap();
        }
        // The canary: past the front the same statement stops the other tenant.
        let role = attacker.client.query_one("select session_user::text", &[]).await.unwrap();
        let admin = world.us.connect("insula_pool").await;
        let role: &str = role.get(0);
        let lock = format!("set session authorization {role}; begin; lock table app.customers");
        admin.batch_execute(&lock).await.unwrap();
        session.batch_execute("set lock_timeout = '100ms'").await.unwrap();
        assert_eq!(refusal(&session, "update customers set name = name").await.0, "55P03");
        admin.batch_execute("rollback").await.unwrap();
    }
    world.doctor_is_content();
}

/// Ways to listen and to notify; `{word}` is what is said. The channel is the
/// same for everybody.
const LISTENS: [&str; 2] = ["listen news", "do $$ begin execute 'listen news'; end $$"];
const NOTIFIES: [&str; 5] = [
    "notify news, '{word}'",
    "select pg_notify('news', '{word}')",
    "do $$ begin perform pg_notify('news', '{word}'); end $$",
    "do $$ begin execute 'notify news, ''{word}'''; end $$",
    "do $$ begin perform insula.pg_notify('news', '{word}'); end $$",
];

/// Tries each statement; whether it was let through.
async fn tried(client: &Client, statements: &[&str], word: &str) -> Vec<bool> {
    let mut done = Vec::new();
    for statement in statements {
        done.push(client.simple_query(&statement.replace("{word}", word)).await.is_ok());
    }
    done
}

/// Everything that a session has heard up to now.
async fn heard(session: &mut Attacker) -> String {
    // What waits for the session comes at the latest with its next answer.
    for _ in 0..2 {
        session.client.simple_query("select 1").await.unwrap();
    }
    std::iter::from_fn(|| session.heard.try_recv().ok())
        .filter(|told| told.contains("Notification"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_notification_reaches_another_tenant() {
    let world = World::start().await;
    world.apply_shop();
    for (model, tier) in MODELS {
        let (victim, session, mut attacker) = pair(&world, model, tier).await;
        drop(session);
        let mut session = Attacker::connect(&world.url(&format!("victim-{model}"))).await;
        // What each model lets through, and how much of it its own tenant hears: a
        // pool has no DO, and in one a channel of a shared database gets no name,
        // nor has a tenant the right to PostgreSQL's own function there.
        let (listens, notifies, own) = match model {
            "pool" => ([true, false], [true, true, false, false, false], 2),
            "schema" => ([true; 2], [true, true, false, true, true], 3),
            _ => ([true; 2], [true, true, true, true, false], 4),
        };
        let mut beside = Attacker::connect(&world.url(&format!("victim-{model}"))).await;
        beside.client.batch_execute("begin; LISTEN News; commit").await.unwrap();
        for client in [&attacker.client, &session.client] {
            assert_eq!(tried(client, &LISTENS, "").await, listens, "{model}");
        }
        // The canary, past the front: it is the front that keeps from the
        // attacker what PostgreSQL tells everybody in the database.
        let database = victim["placement"]["database"].as_str().unwrap();
        let mut past =
            Attacker::connect(&world.us.url(if model == "schema" { database } else { "postgres" })).await;
        past.client.batch_execute("listen news").await.unwrap();

        assert_eq!(tried(&session.client, &NOTIFIES, SECRET).await, notifies, "{model}");
        assert_eq!(tried(&attacker.client, &NOTIFIES, "FROM-THE-ATTACKER").await, notifies, "{model}");
        let all = heard(&mut past).await;
        for word in [SECRET, "FROM-THE-ATTACKER"] {
            assert_eq!(all.contains(word), model == "schema", "{model}: {all}");
        }
        let (of_attacker, of_victim) = (heard(&mut attacker).await, heard(&mut session).await);
        assert!(!of_attacker.contains(SECRET), "{model}: {of_attacker}");
        assert!(!of_victim.contains("FROM-THE-ATTACKER"), "{model}: {of_victim}");
        assert_eq!(of_victim.matches("payload: ").count(), own, "{model}: {of_victim}");
        assert_eq!(of_attacker.matches("payload: ").count(), own, "{model}: {of_attacker}");
        let channels = attacker.client.simple_query("select pg_listening_channels()").await;
        assert_eq!(channels.is_ok(), matches!(model, "database" | "cluster"), "{model}");
        // The tenant's other session hears the same, under the name that it gave,
        // also what is said with parameters, and nothing of what is not said.
        session.client.execute("select pg_notify($1, $2)", &[&"news", &"BY-PARAMETER"]).await.unwrap();
        session.client.batch_execute("begin; notify news, 'NEVER'; rollback").await.unwrap();
        let of_other = heard(&mut beside).await;
        assert_eq!(of_other.matches("channel: \"news\"").count(), own + 1, "{model}: {of_other}");
        assert!(of_other.contains("BY-PARAMETER") && !of_other.contains("NEVER"), "{model}: {of_other}");
        beside.client.batch_execute("unlisten news").await.unwrap();
        session.client.batch_execute("notify news, 'LATER'").await.unwrap();
        assert_eq!(heard(&mut beside).await, "", "{model}");
        for (channel, payload, code) in
            [("", "", "22023"), (&"x".repeat(64), "", "22023"), ("a", &"x".repeat(8000), "22023")]
        {
            let error =
                session.client.execute("select pg_notify($1, $2)", &[&channel, &payload]).await.unwrap_err();
            assert_eq!(error.code().unwrap().code(), code, "{model}");
        }
    }
}
