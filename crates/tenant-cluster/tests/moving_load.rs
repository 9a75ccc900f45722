//! What a move sees of the load of its source's server.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod moving_support;

use std::time::Duration;

use insula_domain::Isolation;
use insula_tenant_cluster::moving::{Looks, Pace, tables};
use moving_support::End;
use moving_support::schema_support::{new_tenant, one, versions};

#[tokio::test]
async fn who_is_at_work_and_what_it_takes_to_read_is_seen() {
    let plain = versions(&["create table t (a int primary key)"]);
    let end = End::new(Isolation::Database, new_tenant(), &plain).await;
    end.run("insert into t select generate_series(1, 5000)").await;
    let found = tables(&end.place.connect().await.unwrap(), &end.place).await.unwrap();
    let mut looks = Looks::new(&end.place, &found);
    looks.look().await.unwrap();
    // Somebody works.
    end.admin
        .batch_execute(&format!("grant connect on database {} to public", end.database.name()))
        .await
        .unwrap();
    let session = end.session().await;
    let cancel = session.cancel_token();
    let working = tokio::spawn(async move { session.batch_execute("select pg_sleep(600)").await });
    while looks.look().await.unwrap().others == 0 {
        tokio::task::yield_now().await;
    }
    cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    assert!(working.await.unwrap().is_err());

    // Somebody is in the way: a look ends all the same, and the next one is as before.
    let holder = end.database.connect().await;
    holder.batch_execute("begin; lock table t in access exclusive mode").await.unwrap();
    let mut pace = Pace::default();
    let second = Duration::from_secs(1);
    pace.take(insula_tenant_cluster::moving::Look { took: Duration::from_millis(1), others: 0 });
    let held_up = looks.look().await.unwrap();
    assert!(held_up.took >= Duration::from_millis(900) && held_up.others > 0, "{held_up:?}");
    pace.take(held_up);
    assert_eq!(pace.rest(second), second / 2);
    holder.batch_execute("rollback").await.unwrap();
    looks.look().await.unwrap();
    assert_eq!(one(&end.admin, "select count(*) from t").await, "5000");
}
