//! To what RESET leads: what a session has begun with, as in PostgreSQL, also
//! where it keeps its backend.

use bytes::BytesMut;
use insula_domain::PoolMode;
use insula_pg_proxy::PgProxyConfig;
use insula_pg_wire::backend::tag;
use insula_pg_wire::frontend::Parse;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::cancel::{HELD_UP, SETTINGS, ask, holds_up};
use crate::raw::{Raw, letters};
use crate::sharing::{setting, world_of};
use crate::support::{PATIENCE, Tenant, World, connect};

/// What the sessions begin with.
const BEGAN: [(&str, &str); 4] =
    [("application_name", "mine"), ("TimeZone", "Asia/Tokyo"), ("work_mem", "7MB"), ("app.actor", "me")];

async fn begins(world: &World, tenant: &Tenant) -> Client {
    let mut config = world.config(tenant);
    config.application_name("mine").options("-c TimeZone=Asia/Tokyo -c work_mem=7MB -c app.actor=me");
    connect(&config).await.unwrap()
}

async fn world_in(pool_mode: PoolMode) -> World {
    World::start_with(PgProxyConfig { pool_mode, ..PgProxyConfig::default() }, None).await
}

/// How a client has a statement run.
#[derive(Debug, Clone, Copy)]
enum Way {
    Simple,
    Extended,
    /// Prepared before what it resets is set.
    Named,
}

/// Statements that reset settings, and whether they reset all of them.
const RESETTING: [(&str, bool); 6] = [
    ("reset all", true),
    ("discard all", true),
    ("reset timezone", false),
    ("set timezone to default", false),
    ("set time zone local", false),
    ("do $$ begin reset timezone; end $$", false),
];

#[tokio::test]
async fn settings_are_reset_to_what_the_session_has_begun_with() {
    for (pool_mode, pin) in
        [(PoolMode::Transaction, ""), (PoolMode::Transaction, "listen x"), (PoolMode::Session, "")]
    {
        let world = world_in(pool_mode).await;
        let tenant = world.tenant("acme").await;
        let plain = world.connect(&tenant).await;
        for (name, value) in BEGAN {
            assert_ne!(setting(&plain, name).await, value, "the canary: the server has something else");
        }
        for way in [Way::Simple, Way::Extended, Way::Named] {
            let client = begins(&world, &tenant).await;
            client.batch_execute(pin).await.unwrap();
            for (text, resets_all) in RESETTING {
                let prepared = client.prepare(text).await.unwrap();
                for (name, _) in BEGAN {
                    let other = if name == "work_mem" { "5MB" } else { "Africa/Cairo" };
                    client.batch_execute(&format!("set {name} = '{other}'")).await.unwrap();
                }
                match way {
                    Way::Simple => client.batch_execute(text).await.unwrap(),
                    Way::Extended => drop(client.execute(text, &[]).await.unwrap()),
                    Way::Named => drop(client.execute(&prepared, &[]).await.unwrap()),
                }
                for (name, value) in BEGAN {
                    let is_reset = resets_all || name == "TimeZone";
                    let found = setting(&client, name).await;
                    assert_eq!(
                        found == value,
                        is_reset,
                        "{pool_mode:?} {pin} {way:?} {text}: {name} is {found}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn what_was_not_reset_stays_as_it_is() {
    for pool_mode in [PoolMode::Transaction, PoolMode::Session] {
        let world = world_in(pool_mode).await;
        let tenant = world.tenant("acme").await;
        let client = begins(&world, &tenant).await;
        client.batch_execute("listen x; set timezone = 'Africa/Cairo'; set app.actor = 'you'").await.unwrap();
        for text in [
            "begin; reset all; rollback",
            "begin; reset timezone; set timezone = 'Africa/Cairo'; commit",
            "begin; set local timezone = 'UTC'; commit",
            "set datestyle = 'German'",
        ] {
            client.batch_execute(text).await.unwrap();
            assert_eq!(setting(&client, "timezone").await, "Africa/Cairo", "{text}");
            assert_eq!(setting(&client, "app.actor").await, "you", "{text}");
        }
    }
}

#[tokio::test]
async fn who_only_sets_costs_the_server_no_question() {
    let world = world_in(PoolMode::Session).await;
    let tenant = world.tenant("acme").await;
    let client = begins(&world, &tenant).await;
    let admin = holds_up(&world, SETTINGS).await;
    for text in ["set timezone = 'Africa/Cairo'", "set work_mem = '5MB'"] {
        client.batch_execute(text).await.unwrap();
        client.execute(text, &[]).await.unwrap();
    }
    assert_eq!(setting(&client, "timezone").await, "Africa/Cairo");
    // The canary: where something may have been reset it is asked for.
    client.batch_execute("set time zone local").await.unwrap();
    world.until_backends(&tenant, HELD_UP, 1).await;
    admin.batch_execute("rollback").await.unwrap();
    assert_eq!(setting(&client, "timezone").await, "Asia/Tokyo");
    assert_eq!(setting(&client, "work_mem").await, "5MB");
}

/// Its own question does not cost a session what comes meanwhile, and is not to
/// be cancelled.
#[tokio::test]
async fn notifications_that_come_while_settings_are_put_back_are_heard() {
    let world = world_in(PoolMode::Transaction).await;
    let tenant = world.tenant("acme").await;
    let mut raw = Raw::connect(&world).await;
    let login = tenant.login.name.as_str();
    raw.start(&[("user", login), ("database", "app"), ("TimeZone", "Asia/Tokyo")]).await;
    let key = raw.come_in(&tenant.secret).await;
    raw.query("listen x").await;
    raw.until_ready().await;
    let admin = holds_up(&world, SETTINGS).await;
    raw.query("reset timezone").await;
    raw.until_ready().await;
    world.until_backends(&tenant, HELD_UP, 1).await;
    ask(&world, &key).await;
    world.connect(&tenant).await.batch_execute("notify x, 'heard'").await.unwrap();
    admin.batch_execute("rollback").await.unwrap();
    let heard = async { while raw.next().await.expect("it goes on").tag != tag::NOTIFICATION_RESPONSE {} };
    timeout(PATIENCE, heard).await.expect("it is heard");
    raw.query("select current_setting('timezone')").await;
    let messages = raw.until_ready().await;
    assert!(messages.iter().any(|message| message.body.ends_with(b"Asia/Tokyo")), "{messages:?}");
}

/// A driver may prepare the unnamed statement at one time, and run it at another.
#[tokio::test]
async fn what_the_unnamed_statement_sets_later_stays_with_its_session() {
    let world = world_of(1).await;
    let tenant = world.tenant("acme").await;
    let (mut raw, _) = Raw::session(&world, &tenant).await;
    let other = world.connect(&tenant).await;
    raw.write(|out| {
        Parse { name: b"", query: b"set work_mem = '5MB'", parameter_types: &[0, 0] }.put(out).unwrap();
        put_sync(out);
    })
    .await;
    assert_eq!(letters(&raw.until_ready().await), "1Z");
    assert_eq!(setting(&other, "work_mem").await, "4MB");
    // `Bind` and `Execute`, with nothing and of everything.
    raw.write(|out| {
        out.extend_from_slice(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0");
        out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
        put_sync(out);
    })
    .await;
    assert_eq!(letters(&raw.until_ready().await), "2CZ");
    assert_eq!(setting(&other, "work_mem").await, "4MB");
    raw.query("select current_setting('work_mem')").await;
    assert!(raw.until_ready().await[1].body.ends_with(b"5MB"));
}

fn put_sync(out: &mut BytesMut) {
    out.extend_from_slice(b"S\0\0\0\x04");
}
