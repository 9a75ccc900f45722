//! What a scope may have is decided on what it has, and that is counted right.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::{here, json, one, scope, transaction, write};
use insula_config_model::{ConfigValue, Room, Transaction, Write, WriteOp};
use insula_config_store::{ConfigStore, Quota, Writer};
use insula_problem::Code;

const QUOTA: Quota = Quota { keys: 3, bytes: 1_000, kept: 2_000, large: 10_000 };

async fn refused(writer: &Writer, transaction: Transaction) {
    assert_eq!(writer.write(transaction).await.unwrap_err().code(), Code::ConfigQuotaExceeded);
}

fn long(bytes: usize) -> WriteOp {
    json(&format!("\"{}\"", "x".repeat(bytes - 2)))
}

/// Whether what is kept of the usage of scopes is what a count comes to.
async fn is_right(here: &common::Here) {
    let sql = "select coalesce(u.scope, c.scope), u.keys, c.keys, u.bytes, c.bytes, u.kept, c.kept
        from config_usage u full join (
            select v.scope, count(*) filter (where n.version = v.version and v.kind <> 0) as keys,
                coalesce(sum(octet_length(v.value)) filter (where n.version = v.version), 0) as bytes,
                sum(coalesce(octet_length(v.value), 0) + octet_length(v.key) + 128) as kept
            from config_versions v join config_values n on n.scope = v.scope and n.key = v.key
            group by v.scope) c on c.scope = u.scope
        where (u.keys, u.bytes, u.kept) is distinct from (c.keys, c.bytes, c.kept)";
    let wrong = here.database.connect().await.query(sql, &[]).await.unwrap();
    assert!(wrong.is_empty(), "{:?}", wrong.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>());
}

fn limited(here: &common::Here) -> ConfigStore {
    here.store.clone().with_quota(QUOTA)
}

#[tokio::test]
async fn keys_and_bytes_have_an_end_for_each_scope_and_removals_make_room() {
    let here = here("config_quota").await;
    let writer = limited(&here).writer();
    for name in ["a", "b", "c"] {
        writer.write(one(scope(1), name, json("1"))).await.unwrap();
    }
    refused(&writer, one(scope(1), "d", json("1"))).await;
    writer.write(one(scope(2), "d", json("1"))).await.unwrap();
    writer.write(one(scope(1), "a", json("2"))).await.unwrap();
    writer.write(one(scope(1), "a", WriteOp::Remove)).await.unwrap();
    // All of a transaction or nothing, and what is before counts for what is behind.
    let two = |op: fn(&str) -> WriteOp| {
        transaction(vec![write(scope(1), "d", op("1"), None), write(scope(1), "e", op("1"), None)], None)
    };
    refused(&writer, two(json)).await;
    writer.write(one(scope(1), "d", json("1"))).await.unwrap();
    refused(&writer, one(scope(1), "a", WriteOp::Rollback(1))).await;

    writer.write(one(scope(1), "b", long(900))).await.unwrap();
    refused(&writer, one(scope(1), "c", long(200))).await;
    writer.write(one(scope(1), "b", long(800))).await.unwrap();
    is_right(&here).await;
}

#[tokio::test]
async fn many_at_once_have_no_more_together() {
    let here = here("config_quota_many").await;
    let writers = [limited(&here).writer(), limited(&here).writer()];
    let puts = (0..20).map(|number| {
        let writer = writers[number % 2].clone();
        async move { writer.write(one(scope(1), &format!("k{number}"), json("1"))).await.is_ok() }
    });
    let done = futures_util::future::join_all(puts).await;
    assert_eq!(done.into_iter().filter(|is_done| *is_done).count(), 3);
    is_right(&here).await;
}

#[tokio::test]
async fn earlier_versions_make_room_and_those_with_a_label_do_not() {
    let here = here("config_quota_kept").await;
    let writer = limited(&here).writer();
    for _ in 0..9 {
        writer.write(one(scope(1), "a", long(600))).await.unwrap();
        is_right(&here).await;
    }
    let versions = here.store.history(&scope(1), &common::key("a"), None, 99).await.unwrap().versions;
    assert!(versions.len() < 5, "{} versions of 600 bytes", versions.len());
    let newest = versions[0].version;
    let label = |name: &str, version| WriteOp::Label(name.parse().unwrap(), Some(version));
    writer.write(one(scope(1), "a", label("one", newest))).await.unwrap();
    writer.write(one(scope(1), "a", long(600))).await.unwrap();
    writer.write(one(scope(1), "a", label("two", newest + 1))).await.unwrap();
    refused(&writer, one(scope(1), "a", long(600))).await;
    writer.write(one(scope(1), "a", WriteOp::Remove)).await.unwrap();
    is_right(&here).await;
}

#[tokio::test]
async fn what_may_be_taken_back_is_there_to_be_taken_back() {
    let here = here("config_quota_back").await;
    let writer = limited(&here).writer();
    let of = |room, op| transaction(vec![Write { room, ..write(scope(1), "a", op, None) }], None);
    writer.write(one(scope(1), "b", long(300))).await.unwrap();
    for _ in 0..2 {
        writer.write(one(scope(1), "a", long(600))).await.unwrap();
    }
    // There is room for two of 600 bytes beside the other, and not for three.
    writer.write(of(Room::BesideBefore, long(600))).await.unwrap();
    let there = here.store.history(&scope(1), &common::key("a"), None, 99).await.unwrap().versions;
    assert_eq!(there.iter().map(|stored| stored.version).collect::<Vec<_>>(), [3, 2]);
    for (name, version) in [("one", 2), ("two", 3)] {
        let label = WriteOp::Label(name.parse().unwrap(), Some(version));
        writer.write(one(scope(1), "a", label)).await.unwrap();
        refused(&writer, of(Room::BesideBefore, long(600))).await;
    }
    refused(&writer, one(scope(1), "a", WriteOp::Rollback(2))).await;
    writer.write(of(Room::Always, WriteOp::Rollback(2))).await.unwrap();
    is_right(&here).await;
}

#[tokio::test]
async fn what_is_counted_is_what_there_is() {
    let here = here("config_usage").await;
    let (client, writer) = (here.database.connect().await, here.store.writer());
    let secret = || WriteOp::Put(ConfigValue::Secret(b"\"hunter2\"".to_vec().into()));
    for number in 0..12_i64 {
        let name = ["a", "b", "c"][number as usize % 3];
        let several = vec![
            write(scope(1), name, json(&"7".repeat(1 + number as usize)), None),
            write(scope(1), name, json("1"), None),
            write(scope(1), "s", secret(), None),
            write(scope(2), name, if number % 4 == 3 { WriteOp::Rollback(1) } else { json("22") }, None),
        ];
        writer.write(transaction(several, None)).await.unwrap();
        if number % 5 == 4 {
            let removal = transaction(vec![write(scope(1), name, WriteOp::Remove, None)], None);
            writer.write(removal).await.unwrap();
        }
    }
    is_right(&here).await;
    client.batch_execute("update config_usage set kept = kept + 1 where scope like '%1'").await.unwrap();
    let canary = std::panic::AssertUnwindSafe(is_right(&here));
    assert!(futures_util::FutureExt::catch_unwind(canary).await.is_err(), "a difference is noticed");
}

#[tokio::test]
async fn large_values_have_an_end_too() {
    let here = here("config_quota_large").await;
    let store = limited(&here);
    let put = async |scope, bytes: &[u8]| store.put_blob(&scope, bytes, "text/plain").await;
    put(scope(1), &[1; 5_000]).await.unwrap();
    assert_eq!(put(scope(1), &[2; 5_000]).await.unwrap_err().code(), Code::ConfigQuotaExceeded);
    put(scope(1), &[1; 5_000]).await.unwrap();
    put(scope(2), &[2; 5_000]).await.unwrap();
}
