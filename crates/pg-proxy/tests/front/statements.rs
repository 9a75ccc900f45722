//! Statements that reach past their tenant are refused, however they are sent
//! and spelt, and everything else of the protocol goes on as PostgreSQL has it.

use bytes::{BufMut, BytesMut};
use insula_domain::Isolation;
use insula_pg_wire::Message;
use insula_pg_wire::backend::{parse_error, tag};
use insula_pg_wire::frontend::{self, Parse};

use crate::raw::{Raw, letters};
use crate::support::{IN_USE, Tenant, World, connect, one, pair, refused, words};

/// A tenant with a table, in a model.
async fn tenant_in(world: &World, isolation: Isolation) -> Tenant {
    let mut tenant = world.tenant("acme").await;
    world.connect(&tenant).await.batch_execute("create table t (id int)").await.unwrap();
    world.change(&mut tenant, |route| route.placement.as_mut().unwrap().isolation = isolation);
    tenant
}

fn message(out: &mut BytesMut, tag: u8, body: &[u8]) {
    out.put_u8(tag);
    out.put_u32(u32::try_from(body.len()).unwrap() + 4);
    out.put_slice(body);
}

/// Parse, Bind and Execute of a statement.
fn execute(out: &mut BytesMut, query: &[u8]) {
    Parse { name: b"", query, parameter_types: &[0, 0] }.put(out).unwrap();
    message(out, frontend::tag::BIND, &[0; 8]);
    message(out, frontend::tag::EXECUTE, &[0; 5]);
}

fn sync(out: &mut BytesMut) {
    message(out, frontend::tag::SYNC, b"");
}

/// The errors among messages, by SQLSTATE and message.
fn errors(messages: &[Message]) -> Vec<(String, String)> {
    let errors = messages.iter().filter(|message| message.tag == tag::ERROR_RESPONSE);
    errors.map(|message| parse_error(&message.body).unwrap()).collect()
}

fn is_lock(error: &(String, String)) -> bool {
    *error == ("42501".to_owned(), "LOCK is not allowed here".to_owned())
}

#[tokio::test]
async fn a_refused_statement_is_an_error_like_any_other() {
    let world = World::start().await;
    let tenant = tenant_in(&world, Isolation::Pool).await;
    let client = world.connect(&tenant).await;
    for sql in ["lock t", "LOCK TABLE t", "/* x */ Lock--\n t", "select 1; lock t", "begin; lock t; commit"] {
        let error = client.simple_query(sql).await.unwrap_err();
        let (sqlstate, message, hint) = words(&error);
        assert_eq!((sqlstate, hint), pair("42501", "statement_refused"), "{sql}");
        assert_eq!(message, "LOCK is not allowed here");
        let error = error.as_db_error().unwrap();
        assert_eq!(error.severity(), "ERROR");
        assert!(error.detail().unwrap().contains("all tenants"));
        let error = client.prepare(sql).await.unwrap_err();
        assert_eq!(words(&error).0, "42501", "{sql}");
    }
    assert_eq!(one(&client, "select 'goes on; lock t'").await, "goes on; lock t");
    // The server's other errors stay what they are.
    let error = client.simple_query("select \"x\"").await.unwrap_err();
    assert_eq!(words(&error).0, "42703");
    // Within a transaction it fails the transaction, and a failed one comes first.
    client.batch_execute("begin").await.unwrap();
    let error = client.simple_query("lock t").await.unwrap_err();
    assert_eq!(words(&error).0, "42501");
    let error = client.simple_query("lock t").await.unwrap_err();
    assert_eq!(words(&error).0, "25P02");
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(one(&client, "show insula.tenant").await, "acme");
}

#[tokio::test]
async fn where_tables_are_a_tenants_own_they_can_be_locked() {
    // The canary: without the rule the statement does what it says.
    let world = World::start().await;
    let tenant = tenant_in(&world, Isolation::Schema).await;
    let (locking, waiting) = (world.connect(&tenant).await, world.connect(&tenant).await);
    locking.batch_execute("begin; lock t").await.unwrap();
    waiting.batch_execute("set lock_timeout = '50ms'").await.unwrap();
    let error = waiting.simple_query("select * from t").await.unwrap_err();
    assert_eq!(words(&error).0, "55P03");
    let error = locking.simple_query("alter role current_user password 'x'").await.unwrap_err();
    assert_eq!(words(&error).0, "42501");
    drop(connect(&world.config(&tenant)).await.unwrap());
}

#[tokio::test]
async fn pipelines_go_on_behind_the_next_sync() {
    let world = World::start().await;
    let tenant = tenant_in(&world, Isolation::Pool).await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.write(|out| {
        execute(out, b"insert into t values (1)");
        sync(out);
        execute(out, b"insert into t values (2)");
        execute(out, b"lock t");
        execute(out, b"insert into t values (3)");
        sync(out);
        execute(out, b"insert into t values (4)");
        sync(out);
        frontend::put_query(out, b"lock t").unwrap();
        frontend::put_query(out, b"select count(*) from t").unwrap();
    })
    .await;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(raw.until_ready().await);
    }
    let seen: Vec<String> = all.iter().map(|messages| letters(messages)).collect();
    assert_eq!(seen, ["12CZ", "12CEZ", "12CZ", "EZ", "TDCZ"]);
    for messages in [&all[1], &all[3]] {
        assert!(errors(messages).iter().all(is_lock));
        assert_eq!(messages.last().unwrap().body[0], b'I');
    }
    assert_eq!(&all[4][1].body[6..], b"2", "the row before the error went with it");
    // In a transaction the state is PostgreSQL's own.
    raw.write(|out| {
        execute(out, b"begin");
        execute(out, b"lock t");
        sync(out);
        execute(out, b"select 1");
        sync(out);
    })
    .await;
    let messages = raw.until_ready().await;
    assert_eq!((letters(&messages).as_str(), messages.last().unwrap().body[0]), ("12CEZ", b'E'));
    assert_eq!(errors(&raw.until_ready().await)[0].0, "25P02");
}

#[tokio::test]
async fn messages_in_any_pieces_are_looked_at() {
    let world = World::start().await;
    let tenant = tenant_in(&world, Isolation::Pool).await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    raw.stream.set_nodelay(true).unwrap();
    let mut out = BytesMut::new();
    frontend::put_query(&mut out, b"select 1; lock t").unwrap();
    for byte in out {
        raw.send(&[byte]).await;
    }
    assert!(errors(&raw.until_ready().await).iter().all(is_lock));
}

/// Bytes of memory that this process has.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a_long_text_is_read_as_it_passes() {
    const MEGABYTE: usize = 1 << 20;
    const MEGABYTES: usize = 100;
    let world = World::start().await;
    let tenant = tenant_in(&world, Isolation::Pool).await;
    for (tail, is_refused) in
        [(&b"'), (1); lock t\0"[..], true), (b"')\0", false), (b"'), 'x; lock t'\0", false)]
    {
        let (mut raw, _) = Raw::session(&world, &tenant).await;
        let head = b"select 1, length('";
        let text_bytes = head.len() + MEGABYTES * MEGABYTE + tail.len();
        let mut start = BytesMut::new();
        start.put_u8(frontend::tag::QUERY);
        start.put_u32(u32::try_from(text_bytes).unwrap() + 4);
        start.put_slice(head);
        raw.send(&start).await;
        let (piece, before) = (vec![b'x'; MEGABYTE], memory());
        for _ in 0..MEGABYTES {
            raw.send(&piece).await;
        }
        let grown = memory().saturating_sub(before);
        assert!(grown < 30 * MEGABYTE, "{grown} bytes are held");
        raw.send(tail).await;
        if is_refused {
            let refusal = raw.refusal().await;
            assert!(is_lock(&refusal), "{refusal:?}");
        } else {
            let messages = raw.until_ready().await;
            assert_eq!(letters(&messages), "TDCZ");
        }
        drop(raw);
        world.until_backends(&tenant, IN_USE, 0).await;
    }
}

/// Texts that are harmless by the settings that the front could think of, and
/// are not by those that the session has set a moment before.
#[tokio::test]
async fn no_setting_hides_a_statement() {
    let world = World::start().await;
    let mut tenant = tenant_in(&world, Isolation::Schema).await;
    let hidden: [(&str, &[u8]); 4] = [
        ("standard_conforming_strings = off", b"select 'a\\''; lock table t; --'"),
        ("standard_conforming_strings = on", b"select 'a\\'; lock table t; --'"),
        ("client_encoding = 'SJIS'", b"select E'\x83\x5c'; lock table t; --'"),
        (
            "client_encoding = 'SHIFT_JIS_2004'; set backslash_quote = on",
            b"select E'\x81\x5f'' ; lock table t; --'",
        ),
    ];
    for isolation in [Isolation::Schema, Isolation::Pool] {
        world.change(&mut tenant, |route| route.placement.as_mut().unwrap().isolation = isolation);
        for (setting, text) in hidden {
            let (mut raw, _) = Raw::session(&world, &tenant).await;
            raw.write(|out| {
                // In one go: nobody has confirmed the setting when the text comes.
                frontend::put_query(out, format!("set {setting}").as_bytes()).unwrap();
                frontend::put_query(out, text).unwrap();
            })
            .await;
            raw.until_ready().await;
            let messages = raw.until_ready().await;
            let locked = messages.iter().any(|message| &message.body[..] == b"LOCK TABLE\0");
            // The first round is the canary: the server does what the text hides.
            assert_eq!(locked, isolation == Isolation::Schema, "{setting}: {:?}", errors(&messages));
            if isolation == Isolation::Pool {
                assert_eq!(errors(&messages)[0].0, "42501", "{setting}");
            }
        }
    }
}

/// Tags of dollar quotes with a second byte that is no letter, or with one of two
/// codes for a character: what is refused is that it cannot be said.
#[tokio::test]
async fn what_cannot_be_read_is_refused_in_every_model() {
    let world = World::start().await;
    let tenant = tenant_in(&world, Isolation::Cluster).await;
    for text in [
        &b"select $\x83\x5c$ ' $\x83\x5c$; lock table t; --'"[..],
        b"select $\x81\xca$ x $\xfa\x54$; lock table t; --$\x81\xca$",
    ] {
        let (mut raw, _) = Raw::session(&world, &tenant).await;
        raw.write(|out| {
            frontend::put_query(out, b"set client_encoding = 'SJIS'").unwrap();
            frontend::put_query(out, text).unwrap();
        })
        .await;
        raw.until_ready().await;
        let errors = errors(&raw.until_ready().await);
        assert_eq!(errors[0].0, "42501");
        assert!(errors[0].1.contains("several ways"), "{errors:?}");
    }
}

/// What the lexer takes for granted of the encodings, asked of the server: no
/// second byte is a quote, a dollar, a semicolon or part of a comment's bounds,
/// and only two characters become ASCII ones.
#[tokio::test]
async fn encodings_are_as_the_lexer_thinks() {
    let world = World::start().await;
    let admin = world.database.connect().await;
    admin
        .batch_execute(
            "create function pg_temp.read(b bytea, e text) returns text language plpgsql as
             $$ begin return convert_from(b, e); exception when others then return null; end $$;
             create temporary table pairs as
             select e, a, b, pg_temp.read(set_byte(set_byte('\\x0000'::bytea, 0, a), 1, b), e) as t
             from unnest(array['SJIS', 'SHIFT_JIS_2004', 'BIG5', 'GBK', 'UHC', 'GB18030', 'JOHAB']) e,
                  generate_series(128, 255) a, generate_series(1, 127) b",
        )
        .await
        .unwrap();
    let pairs = "select count(*)::text from pairs where length(t) = 1";
    assert!(one(&admin, pairs).await.parse::<u32>().unwrap() > 20_000, "the canary");
    assert_eq!(one(&admin, &format!("{pairs} and b not between 64 and 126")).await, "0");
    let ascii =
        "select coalesce(string_agg(e || ' ' || to_hex(a) || to_hex(b) || ' ' || t, ', ' order by b), '')
                 from pairs where length(t) = 1 and ascii(t) < 128 and t <> '~'";
    assert_eq!(one(&admin, ascii).await, "SHIFT_JIS_2004 815f \\");
}

#[tokio::test]
async fn a_role_whose_password_was_changed_is_told_apart_from_a_server_that_is_away() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let role = insula_domain::RoleName::of_tenant(tenant.id);
    let admin = world.database.connect().await;
    admin.batch_execute(&format!("alter role {role} password 'x'")).await.unwrap();
    assert_eq!(refused(&world.config(&tenant)).await, pair("57P03", "placement_unavailable"));
    let error = connect(&world.config(&tenant)).await.map(drop).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(error.message().contains("refuses the tenant's role"), "{error:?}");
    assert!(error.detail().unwrap().contains("insula tenant suspend"), "{error:?}");
}
