//! Cancel requests reach the asker's query and nobody else's.

use insula_pg_wire::backend::{parse_error, tag};
use insula_pg_wire::startup::{CancelKey, CancelSecret, put_cancel_request};
use tokio_postgres::NoTls;

use crate::raw::Raw;
use crate::support::World;

const SLEEP: &str = "select pg_sleep(600)";

pub async fn ask(world: &World, key: &CancelKey) {
    let mut raw = Raw::connect(world).await;
    raw.write(|out| put_cancel_request(out, key)).await;
    assert!(raw.rest().await.is_empty(), "a cancel request is answered by closing");
}

pub const ASLEEP: &str = "wait_event = 'PgSleep'";

#[tokio::test]
async fn a_driver_cancels_its_own_query() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = world.connect(&tenant).await;
    let cancel = client.cancel_token();
    let (slept, ()) = tokio::join!(client.batch_execute(SLEEP), async {
        world.until_backends(&tenant, ASLEEP, 1).await;
        cancel.cancel_query(NoTls).await.unwrap();
    });
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
    assert_eq!(crate::support::one(&client, "select 'still here'").await, "still here");
}

#[tokio::test]
async fn a_wrong_key_cancels_nothing_and_a_right_one_its_own_query_alone() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (mut first, key) = Raw::session(&world, &tenant).await;
    let (mut second, second_key) = Raw::session(&world, &tenant).await;
    first.query(SLEEP).await;
    second.query(SLEEP).await;
    world.until_backends(&tenant, ASLEEP, 2).await;

    // Neither guessed keys nor the server's own process numbers lead anywhere.
    let admin = world.database.connect().await;
    let role = insula_domain::RoleName::of_tenant(tenant.id);
    let pids = admin.query("select pid from pg_stat_activity where usename = $1", &[&role.as_str()]).await;
    for row in pids.unwrap() {
        let process_id = u32::try_from(row.get::<_, i32>(0)).unwrap();
        ask(&world, &CancelKey { process_id, secret: key.secret.clone() }).await;
    }
    let mut near = key.secret.as_bytes().to_vec();
    near[3] ^= 1;
    for secret in [CancelSecret::new(&near).unwrap(), second_key.secret.clone()] {
        ask(&world, &CancelKey { secret, ..key.clone() }).await;
    }
    ask(&world, &CancelKey { process_id: 0, secret: [0; 4].into() }).await;
    world.until_backends(&tenant, ASLEEP, 2).await;

    ask(&world, &key).await;
    let messages = first.until_ready().await;
    let error = messages.iter().find(|message| message.tag == tag::ERROR_RESPONSE).expect("an error");
    assert_eq!(parse_error(&error.body).unwrap().0, "57014");
    world.until_backends(&tenant, ASLEEP, 1).await;
    ask(&world, &second_key).await;
    second.until_ready().await;

    // The key of a session that is over leads nowhere.
    drop(first);
    world.until_backends(&tenant, crate::support::IN_USE, 0).await;
    ask(&world, &key).await;
}
