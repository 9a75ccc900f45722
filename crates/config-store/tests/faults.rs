//! What callers of a writer hear, and what is done, where something holds it up.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::{Here, here, json, key, one, scope};
use insula_config_store::Writer;
use insula_problem::{Code, Problem};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// Waits until a session of the database stands in this kind of queue; its pid.
async fn waiting(client: &Client, kind: &str) -> i32 {
    let sql = "select pid from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and wait_event = $1";
    loop {
        if let Some(row) = client.query_opt(sql, &[&kind]).await.unwrap() {
            return row.get(0);
        }
        tokio::task::yield_now().await;
    }
}

fn begun(writer: &Writer, name: &str) -> JoinHandle<Result<(), Problem>> {
    let (writer, write) = (writer.clone(), one(scope(1), name, json("1")));
    tokio::spawn(async move { writer.write(write).await.map(drop) })
}

async fn names(here: &Here) -> Vec<String> {
    let page = here.store.list(&[scope(1)], &"".parse().unwrap(), None, 99).await.unwrap();
    page.keys.into_iter().map(|key| key.key.to_string()).collect()
}

#[tokio::test]
async fn a_store_that_is_held_up_is_busy_and_nothing_is_wrong() {
    let here = here("config_busy").await;
    let (client, holder, writer) =
        (here.database.connect().await, here.database.connect().await, here.store.writer());
    holder.batch_execute("begin; select from config_clock for update").await.unwrap();
    let write = begun(&writer, "a");
    // As the server does when it has waited for too long.
    let pid = waiting(&client, "transactionid").await;
    client.execute("select pg_cancel_backend($1)", &[&pid]).await.unwrap();
    assert_eq!(write.await.unwrap().unwrap_err().code(), Code::Unavailable);
    holder.batch_execute("rollback").await.unwrap();
    begun(&writer, "b").await.unwrap().unwrap();
    assert_eq!(names(&here).await, ["b"]);
}

#[tokio::test]
async fn who_has_given_up_finds_nothing_done_later() {
    let here = here("config_given_up").await;
    let (client, holder, writer) =
        (here.database.connect().await, here.database.connect().await, here.store.writer());
    let bad = "create function bad() returns trigger language plpgsql as $$
        begin
            if new.key = 'bad' then
                perform pg_advisory_xact_lock(1);
                raise exception 'bad';
            end if;
            return null;
        end $$;
        create trigger bad after insert on config_versions for each row execute function bad()";
    client.batch_execute(bad).await.unwrap();
    holder.batch_execute("begin; select from config_clock for update").await.unwrap();
    holder.execute("select pg_advisory_lock(1)", &[]).await.unwrap();
    let first = begun(&writer, "first");
    waiting(&client, "transactionid").await;
    let others = ["bad", "gone", "good"].map(|name| begun(&writer, name));
    // They are in the queue when a task that comes later has run.
    tokio::task::yield_now().await;
    holder.batch_execute("rollback").await.unwrap();
    first.await.unwrap().unwrap();
    waiting(&client, "advisory").await;
    let [bad, gone, good] = others;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    holder.execute("select pg_advisory_unlock(1)", &[]).await.unwrap();
    assert_eq!(bad.await.unwrap().unwrap_err().code(), Code::Internal);
    good.await.unwrap().unwrap();
    assert_eq!(names(&here).await, ["first", "good"]);
    assert!(here.store.newest(&[scope(1)], &key("gone")).await.unwrap().layers[0].stored.is_none());
}
