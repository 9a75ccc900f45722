//! What a client may give with its startup packet.

use crate::raw::Raw;
use crate::support::{World, connect, one, pair, refused, words};

#[tokio::test]
async fn settings_reach_the_backend() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let mut config = world.config(&tenant);
    config.application_name("shop").options("-c statement_timeout=7s --work-mem=5MB -c geqo=off");
    let client = connect(&config).await.unwrap();
    let read = "select concat_ws(' ', current_setting('application_name'), \
                current_setting('statement_timeout'), current_setting('work_mem'), current_setting('geqo'))";
    assert_eq!(one(&client, read).await, "shop 7s 5MB off");
}

#[tokio::test]
async fn what_acts_before_the_session_or_names_a_role_is_refused() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for options in [
        "-c post_auth_delay=1000",
        "-W 1000",
        "--post-auth-delay=1000",
        "-c role=postgres",
        "-c session_authorization=insula",
        "-P",
        "-c ignore_system_indexes=on",
    ] {
        let mut config = world.config(&tenant);
        config.options(options);
        assert_eq!(refused(&config).await, pair("22023", "invalid_request"), "{options}");
    }
}

/// Every setting that acts only at the start of a backend is refused, by the
/// front or by the server: the list is the server's own.
#[tokio::test]
async fn no_setting_of_the_start_of_a_backend_gets_through() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let admin = world.database.connect().await;
    let query = "select name, context, reset_val from pg_settings \
                 where context in ('backend', 'superuser-backend') order by name";
    let rows = admin.query(query, &[]).await.unwrap();
    assert!(rows.iter().any(|row| row.get::<_, &str>(0) == "post_auth_delay"), "the canary");
    for row in rows {
        let (name, value): (&str, &str) = (row.get(0), row.get(2));
        let mut raw = Raw::connect(&world).await;
        raw.start(&[("user", "acme"), ("database", "app"), (name, value)]).await;
        raw.scram(&tenant.secret).await;
        let mut answer = raw.next().await.unwrap();
        if answer.tag == insula_pg_wire::backend::tag::AUTHENTICATION {
            answer = raw.next().await.unwrap();
        }
        assert_eq!(answer.tag, insula_pg_wire::backend::tag::ERROR_RESPONSE, "{name} got through");
    }
}

#[tokio::test]
async fn the_servers_refusal_of_a_setting_is_shown_as_it_is() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for (options, sqlstate, part) in [
        ("-c TimeZone=Nowhere/Atall", "22023", "TimeZone"),
        ("-c no_such_setting=1", "42704", "no_such_setting"),
        ("-c log_statement=all", "42501", "log_statement"),
    ] {
        let mut config = world.config(&tenant);
        config.options(options);
        let (found, message, _) = words(&connect(&config).await.map(drop).unwrap_err());
        assert_eq!(found, sqlstate, "{options}: {message}");
        assert!(message.contains(part), "{message}");
    }
}
