//! Writes and reads against real PostgreSQL: versions, labels, conditions,
//! tokens, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use common::{here, json, key, one, scope, transaction, write};
use insula_config_model::{ConfigValue, Made, Scope, Write, WriteOp};
use insula_config_store::LogChange;
use insula_problem::Code;

#[tokio::test]
async fn a_value_has_versions_labels_and_a_place_in_the_log() {
    let here = here("config_versions").await;
    let (store, writer) = (&here.store, here.store.writer());
    let mut heard = writer.committed();
    let a = |op| one(scope(1), "tenant_config_a", op);
    let first = writer.write(a(json("1"))).await.unwrap()[0];
    assert_eq!((first.version, first.revision), (1, 1));
    writer.write(a(json("2"))).await.unwrap();
    let stable = || "stable".parse().unwrap();
    let labelled = writer.write(a(WriteOp::Label(stable(), Some(1)))).await.unwrap()[0];
    assert_eq!((labelled.version, labelled.revision), (1, 3));
    let again = writer.write(a(WriteOp::Label(stable(), Some(1)))).await.unwrap()[0];
    assert_eq!((again.version, again.revision), (1, 2), "nothing was to be done");
    writer.write(a(WriteOp::Remove)).await.unwrap();
    let back = writer.write(a(WriteOp::Rollback(2))).await.unwrap()[0];
    assert_eq!((back.version, back.revision), (4, 5));
    for number in 3..=9 {
        writer.write(a(json(&number.to_string()))).await.unwrap();
    }

    let k = key("tenant_config_a");
    let newest = store.newest(&[Scope::Platform, scope(1)], &k).await.unwrap();
    assert!(newest.layers[0].stored.is_none());
    let stored = newest.layers[1].stored.clone().unwrap();
    assert_eq!((stored.version, newest.revision), (11, 12));
    assert_eq!(stored.value, Some(ConfigValue::Json("9".into())));
    let history = store.history(&scope(1), &k, None, 100).await.unwrap().versions;
    let versions: Vec<i64> = history.iter().map(|stored| stored.version).collect();
    assert_eq!(versions, [11, 10, 9, 8, 7, 1], "five, and the one with a label");
    assert_eq!(store.labelled(&scope(1), &k, "stable").await.unwrap().unwrap().version, 1);
    assert_eq!(store.labelled(&scope(1), &k, "previous").await.unwrap().unwrap().version, 10);
    assert!(history[5].labels.contains(&stable()));

    let log = store.log_after(0, 1_000).await.unwrap();
    let revisions: Vec<i64> = log.rows.iter().map(|row| row.revision).collect();
    assert_eq!(revisions, (1..=12).collect::<Vec<_>>());
    assert_eq!(log.revision, 12);
    assert!(matches!(&log.rows[2].change, LogChange::Label { version: Some(1), .. }));
    let part = store.log_after(3, 2).await.unwrap();
    assert_eq!((part.rows.len(), part.revision), (2, 5));
    let mut told = Vec::new();
    while let Ok(rows) = heard.try_recv() {
        told.extend(rows.iter().map(|row| row.revision));
    }
    assert_eq!(told, revisions);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let here = here("config_refused").await;
    let (store, writer) = (&here.store, here.store.writer());
    writer.write(one(scope(1), "a", json("1"))).await.unwrap();
    let refused = async |writes| writer.write(transaction(writes, None)).await.unwrap_err().code();
    let w = |name: &str, op, if_version| write(scope(1), name, op, if_version);
    assert_eq!(refused(vec![w("a", json("2"), Some(0))]).await, Code::ConfigVersionConflict);
    assert_eq!(refused(vec![w("a", json("2"), Some(2))]).await, Code::ConfigVersionConflict);
    assert_eq!(refused(vec![w("b", WriteOp::Remove, None)]).await, Code::ConfigKeyNotFound);
    assert_eq!(refused(vec![w("a", WriteOp::Rollback(9), None)]).await, Code::ConfigVersionNotFound);
    let label = |version| WriteOp::Label("l".parse().unwrap(), Some(version));
    assert_eq!(refused(vec![w("a", label(2), None)]).await, Code::ConfigVersionNotFound);
    assert_eq!(refused(vec![w("b", label(1), None)]).await, Code::ConfigKeyNotFound);
    assert_eq!(refused(vec![]).await, Code::InvalidRequest);
    assert_eq!(refused(vec![write(scope(9), "a", json("1"), None)]).await, Code::ConfigMoving);
    assert_eq!(refused(vec![write(Scope::Platform, "a", json("1"), None)]).await, Code::Internal);
    // The last one refuses, and so the first is not done either.
    let both = vec![w("c", json("1"), None), w("a", json("2"), Some(7))];
    assert_eq!(refused(both).await, Code::ConfigVersionConflict);
    let page = store.list(&[scope(1)], &"".parse().unwrap(), None, 10).await.unwrap();
    assert_eq!((page.revision, page.keys.len(), page.next), (1, 1, None));
    assert_eq!(store.newest(&[scope(9)], &key("a")).await.unwrap_err().code(), Code::ConfigMoving);
    // Without what is set above, what is below would look as if it counted.
    let below = store.newest(&[scope(9), scope(1)], &key("a")).await;
    assert_eq!(below.unwrap_err().code(), Code::ConfigMoving);
}

#[tokio::test]
async fn a_token_is_for_one_request() {
    let here = here("config_tokens").await;
    let writer = here.store.writer();
    let put = |text: &str| transaction(vec![write(scope(1), "a", json(text), None)], Some("t"));
    // The two in one batch, or one behind the other: it must not matter.
    let (first, second) = tokio::join!(writer.write(put("1")), writer.write(put("1")));
    let first = first.unwrap();
    assert_eq!(first, second.unwrap());
    assert_eq!(writer.write(put("1")).await.unwrap(), first);
    assert_eq!(writer.write(put("2")).await.unwrap_err().code(), Code::IdempotencyKeyReused);
    let other = transaction(vec![write(scope(2), "a", json("2"), None)], Some("t"));
    assert_eq!(writer.write(other).await.unwrap()[0].revision, 2, "each scope has its own tokens");
    assert_eq!(here.store.clocks().await.unwrap().revision, 2);
}

#[tokio::test]
async fn pages_and_snapshots_see_layers_under_prefixes() {
    let here = here("config_pages").await;
    let (store, writer) = (&here.store, here.store.writer());
    for name in ["p/a", "p/b", "p/\u{10ffff}", "q", "p/c"] {
        writer.write(one(scope(1), name, json("1"))).await.unwrap();
    }
    writer.write(one(scope(2), "p/b", json("2"))).await.unwrap();
    writer.write(one(scope(2), "p/bb", json("2"))).await.unwrap();
    writer.write(one(scope(1), "p/c", WriteOp::Remove)).await.unwrap();
    let (scopes, prefix) = ([scope(1), scope(2)], "p/".parse().unwrap());
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(&scopes, &prefix, after.as_ref(), 2).await.unwrap();
        seen.extend(page.keys.iter().map(|key| (key.key.to_string(), key.layers.len())));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let wanted = [("p/a", 1), ("p/b", 2), ("p/bb", 1), ("p/c", 1), ("p/\u{10ffff}", 1)];
    assert_eq!(seen, wanted.map(|(name, layers)| (name.to_owned(), layers)));
    let snapshot = store.snapshot(&scopes, &["p/b".parse().unwrap(), prefix.clone()], 100).await.unwrap();
    let keys: Vec<&str> = snapshot.entries.iter().map(|stored| stored.key.as_str()).collect();
    assert_eq!(keys, ["p/a", "p/b", "p/b", "p/bb", "p/\u{10ffff}"]);
    assert_eq!(snapshot.entries[2].scope, scope(2), "the strongest is the last");
    assert_eq!(snapshot.revision, 8);
    assert_eq!(store.snapshot(&scopes, &[], 5).await.unwrap_err().code(), Code::QuotaExceeded);
}

#[tokio::test]
async fn a_secret_is_kept_sealed_and_goes_with_its_versions() {
    let here = here("config_secret").await;
    let (store, writer) = (&here.store, here.store.writer());
    let secret = |text: &str| WriteOp::Put(ConfigValue::Secret(text.as_bytes().to_vec().into()));
    writer.write(one(scope(1), "s", secret("\"hunter2\""))).await.unwrap();
    writer.write(one(scope(1), "s", secret("\"other\""))).await.unwrap();
    writer.write(one(scope(1), "s", WriteOp::Rollback(1))).await.unwrap();
    let log = store.log_after(0, 10).await.unwrap();
    assert!(!format!("{log:?}").contains("hunter2"));
    let client = here.database.connect().await;
    let sql = "select count(*) from config_versions where position('hunter'::bytea in value) > 0";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
    let newest = store.newest(&[scope(1)], &key("s")).await.unwrap().layers.remove(0).stored.unwrap();
    assert!(matches!(newest.value, Some(ConfigValue::Sealed(_))));
    assert_eq!(newest.version, 3);
}

#[tokio::test]
async fn a_rollback_by_a_label_is_decided_when_it_is_done_and_once_under_a_token() {
    let here = here("config_rollback").await;
    let (store, writer) = (&here.store, here.store.writer());
    let value = async |version| {
        let found = store.version(&scope(1), &key("a"), version).await.unwrap();
        found.unwrap().value.unwrap()
    };
    let to = |label: &str| WriteOp::RollbackTo(label.to_owned());
    for text in ["1", "2"] {
        writer.write(one(scope(1), "a", json(text))).await.unwrap();
    }
    let back = || transaction(vec![write(scope(1), "a", to("previous"), None)], Some("t"));
    let first = writer.write(back()).await.unwrap();
    assert_eq!((first[0].version, value(3).await), (3, ConfigValue::Json("1".into())));
    assert_eq!(writer.write(back()).await.unwrap(), first, "asked again it is the same answer");
    // What another write of the same transaction makes counts.
    let both = vec![write(scope(1), "a", json("4"), None), write(scope(1), "a", to("previous"), None)];
    let done = writer.write(transaction(both, None)).await.unwrap();
    assert_eq!((done[1].version, value(5).await), (5, ConfigValue::Json("1".into())));
    let stable = |version| WriteOp::Label("stable".parse().unwrap(), Some(version));
    writer.write(one(scope(1), "a", stable(2))).await.unwrap();
    writer.write(one(scope(1), "a", to("stable"))).await.unwrap();
    assert_eq!(value(6).await, ConfigValue::Json("2".into()));
    let moved = vec![write(scope(1), "a", stable(4), None), write(scope(1), "a", to("stable"), None)];
    writer.write(transaction(moved, None)).await.unwrap();
    assert_eq!(value(7).await, ConfigValue::Json("4".into()));
    for (name, label) in [("a", "other"), ("b", "previous"), ("b", "current")] {
        let refused = writer.write(one(scope(1), name, to(label))).await.unwrap_err();
        assert_eq!(refused.code(), Code::ConfigVersionNotFound, "{name} {label}");
    }
    writer.write(one(scope(1), "b", json("1"))).await.unwrap();
    let refused = writer.write(one(scope(1), "b", to("previous"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ConfigVersionNotFound, "there is one alone");
}

#[tokio::test]
async fn pages_end_where_their_values_are_long() {
    let here = here("config_long").await;
    let (store, writer) = (&here.store, here.store.writer());
    let long = format!("\"{}\"", "x".repeat(250_000));
    for number in 0..30 {
        let both = [1, 2].map(|tenant| write(scope(tenant), &format!("k{number:02}"), json(&long), None));
        writer.write(transaction(both.to_vec(), None)).await.unwrap();
        let again = Write { history: 30, ..write(scope(3), "h", json(&long), None) };
        writer.write(transaction(vec![again], None)).await.unwrap();
    }
    let (scopes, prefix) = ([scope(1), scope(2)], "".parse().unwrap());
    let (mut names, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = store.list(&scopes, &prefix, after.as_ref(), 100).await.unwrap();
        assert!(page.keys.len() <= 5, "{} keys of 500 kB", page.keys.len());
        assert!(page.keys.iter().all(|key| key.layers.len() == 2));
        names.extend(page.keys.into_iter().map(|key| key.key.to_string()));
        (after, pages) = (page.next, pages + 1);
        if after.is_none() {
            break;
        }
    }
    assert_eq!(names, (0..30).map(|number| format!("k{number:02}")).collect::<Vec<_>>());
    assert_eq!(pages, 6);
    let (mut versions, mut before) = (Vec::new(), None);
    loop {
        let page = store.history(&scope(3), &key("h"), before, 100).await.unwrap();
        assert!(page.versions.len() <= 9, "{} versions of 250 kB", page.versions.len());
        versions.extend(page.versions.into_iter().map(|one| one.version));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(versions, (1..=30).rev().collect::<Vec<_>>());
    let two = store.history(&scope(3), &key("h"), None, 2).await.unwrap();
    assert_eq!((two.versions.len(), two.next), (2, Some(29)));
}

#[tokio::test]
async fn what_a_backend_has_made_is_taken_over_once() {
    let here = here("config_made").await;
    let writer = here.store.writer();
    let made = |version, behind| {
        let value = Some(ConfigValue::Json("1".into()));
        let made = Some(Made { version, value, at: None, behind });
        transaction(vec![Write { made, ..write(scope(1), "a", json("1"), None) }], None)
    };
    let first = writer.write(made(1, Some(0))).await.unwrap()[0];
    assert_eq!((first.version, first.revision), (1, 1));
    let faster = writer.write(made(1, Some(0))).await.unwrap_err();
    assert_eq!(faster.code(), Code::ConfigVersionConflict, "somebody has it taken over");
    assert_eq!(writer.write(made(1, None)).await.unwrap()[0], first);
    let later = writer.write(made(5, None)).await.unwrap()[0];
    assert_eq!((later.version, later.revision), (5, 2));
    let older = writer.write(made(3, None)).await.unwrap()[0];
    assert_eq!((older.version, older.revision), (3, 2), "a version never goes back");
    let there = here.store.history(&scope(1), &key("a"), None, 9).await.unwrap().versions;
    assert_eq!(there.iter().map(|stored| stored.version).collect::<Vec<_>>(), [5, 1]);
    let (author, revision) = here.store.made((&scope(1), &key("a"), 5)).await.unwrap().unwrap();
    assert_eq!((author.as_str(), revision), ("test", 2));
}
