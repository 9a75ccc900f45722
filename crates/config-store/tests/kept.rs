//! What is kept and for how long: secrets and who was shown them, large values,
//! the log, and the provider's values in a region.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{at, here, json, key, one, scope, transaction, write};
use insula_config_model::{ConfigValue, Scope, WriteOp};
use insula_config_store::{
    Ambient, BOUNDS, ConfigStore, OneVersion, ROLLOUTS_AND_CLIENTS, Replicator, Retention, Run, Says, TABLES,
    WORDS, Word,
};
use insula_credentials::MasterKeys;
use insula_domain::OsEntropy;
use insula_problem::Code;
use insula_sql_store::Store;
use insula_testkit::TestDatabase;

fn secret(text: &str) -> WriteOp {
    WriteOp::Put(ConfigValue::Secret(text.as_bytes().to_vec().into()))
}

#[tokio::test]
async fn secrets_are_shown_once_it_is_written_down_and_outlive_a_master_key() {
    let here = here("config_rekey").await;
    let writer = here.store.writer();
    for number in 0..3 {
        writer.write(one(scope(1), "s", secret(&format!("\"{number}\"")))).await.unwrap();
    }
    writer.write(one(scope(1), "s", WriteOp::Rollback(1))).await.unwrap();
    let newer = Arc::new(here.ambient.keys.rotated(&OsEntropy));
    let ambient = Ambient { keys: Arc::clone(&newer), ..here.ambient.clone() };
    let store = ConfigStore::new(Store::Region, here.store.connector().clone(), ambient);
    // One that was changed behind our back does not open, and hinders nobody.
    let client = here.database.connect().await;
    let broken = "update config_versions set value = set_byte(value, 20, 255 - get_byte(value, 20))
        where version = 2";
    client.batch_execute(broken).await.unwrap();
    let done = store.rekey().await.unwrap();
    assert_eq!((done.versions, done.broken), (3, 1));
    assert_eq!(store.rekey().await.unwrap().versions, 0);
    let mut versions = store.history(&scope(1), &key("s"), None, 9).await.unwrap().versions;
    versions.retain(|stored| stored.version != 2);
    store.reveal(&mut versions, "operator:ada").await.unwrap();
    let plain = |text: &str| Some(ConfigValue::Secret(text.as_bytes().to_vec().into()));
    let shown: Vec<_> = versions.into_iter().map(|stored| stored.value).collect();
    assert_eq!(shown, [plain("\"0\""), plain("\"2\""), plain("\"0\"")]);
    let reads = store.reads(&scope(1), Some(&key("s")), 9).await.unwrap();
    assert_eq!(reads.len(), 3);
    writer.write(one(scope(1), "u", secret("\"u\""))).await.unwrap();
    let mut other = store.history(&scope(1), &key("u"), None, 1).await.unwrap().versions;
    // It is sealed with a generation of before, which still opens it.
    store.reveal(&mut other, "key:7").await.unwrap();
    let all = store.reads(&scope(1), None, 9).await.unwrap();
    assert_eq!((all.len(), all[0].key.as_str(), all[0].reader.as_str()), (4, "u", "key:7"));
    assert_eq!(store.reads(&scope(1), None, 2).await.unwrap(), all[..2]);
    assert_eq!(store.reads(&scope(2), None, 9).await.unwrap(), []);
    assert_eq!(reads[0].reader, "operator:ada");
    // Moved to another place, it does not open.
    client.batch_execute("update config_versions set key = 't' where version = 4").await.unwrap();
    let mut moved = store.history(&scope(1), &key("t"), None, 1).await.unwrap().versions;
    assert_eq!(store.reveal(&mut moved, "key:1").await.unwrap_err().code(), Code::Internal);
}

#[tokio::test]
async fn what_is_old_goes_and_what_is_in_use_stays() {
    let here = here("config_tidy").await;
    let (store, writer) = (&here.store, here.store.writer());
    let put = |bytes: &'static [u8]| async move {
        let blob = store.put_blob(&scope(1), bytes, "text/plain").await.unwrap();
        (WriteOp::Put(ConfigValue::Blob(blob.clone())), blob)
    };
    let (op, used) = put(b"used").await;
    writer.write(one(scope(1), "b", op)).await.unwrap();
    let (_, unused) = put(b"unused").await;
    let token = || transaction(vec![write(scope(1), "t", json("1"), None)], Some("t"));
    writer.write(token()).await.unwrap();
    here.clock.advance(Duration::from_secs(25 * 3_600));
    writer.write(one(scope(1), "t", json("2"))).await.unwrap();
    store.tidy(&Retention::default()).await.unwrap();
    let log = store.log_after(0, 10).await.unwrap();
    assert_eq!((log.compacted, log.rows.len(), log.revision), (2, 1, 3));
    assert_eq!(writer.write(token()).await.unwrap()[0].version, 3, "the token is forgotten");
    assert!(store.blob_chunk(&scope(1), &used.sha256, 0).await.unwrap().is_some());
    assert!(store.blob_chunk(&scope(1), &unused.sha256, 0).await.unwrap().is_none());
    let few = Retention { log_changes: 1, ..Retention::default() };
    store.tidy(&few).await.unwrap();
    assert_eq!(store.clocks().await.unwrap().compacted, 3);
    let gone = WriteOp::Put(ConfigValue::Blob(unused));
    assert_eq!(writer.write(one(scope(1), "b", gone)).await.unwrap_err().code(), Code::Unavailable);
    assert!(store.put_blob(&scope(9), b"x", "text/plain").await.is_err(), "nobody is there");
}

#[tokio::test]
async fn a_regions_copy_is_whole_and_each_change_is_in_it_once() {
    let keys = Arc::new(MasterKeys::generate(&OsEntropy));
    let catalog = at("config_catalog", Store::Catalog, Arc::clone(&keys)).await;
    let region = at("config_region", Store::Region, keys).await;
    let writer = catalog.store.writer();
    let free = || Scope::Tier("free".parse().unwrap());
    let blob = catalog.store.put_blob(&free(), &[1; 300_000], "image/png").await.unwrap();
    for number in 0..7 {
        writer.write(one(Scope::Platform, "a", json(&number.to_string()))).await.unwrap();
    }
    writer.write(one(Scope::Platform, "a", WriteOp::Label("kept".parse().unwrap(), Some(4)))).await.unwrap();
    writer.write(one(free(), "b", WriteOp::Put(ConfigValue::Blob(blob.clone())))).await.unwrap();
    writer.write(one(free(), "s", secret("\"x\""))).await.unwrap();
    // The region has a life of its own in between.
    region.store.writer().write(one(scope(1), "a", json("1"))).await.unwrap();
    let both = || Replicator::new(catalog.store.clone(), region.store.clone());
    let (mut one_copy, mut other_copy) = (both(), both());
    let (first, second) = tokio::join!(one_copy.step(), other_copy.step());
    assert!(!first.unwrap() && !second.unwrap());
    let there = async |store: &ConfigStore| {
        let list = store.list(&[Scope::Platform, free()], &"".parse().unwrap(), None, 99).await.unwrap();
        let plain = |mut stored: insula_config_model::Stored| {
            stored.revision = 0;
            stored
        };
        list.keys
            .into_iter()
            .flat_map(|key| key.layers)
            .filter_map(|layer| layer.stored)
            .map(plain)
            .collect::<Vec<_>>()
    };
    assert_eq!(there(&region.store).await, there(&catalog.store).await);
    assert!(region.store.blob_chunk(&free(), &blob.sha256, 1).await.unwrap().is_some());
    let labelled = region.store.labelled(&Scope::Platform, &key("a"), "kept").await.unwrap();
    assert_eq!(labelled.unwrap().version, 4);
    let mut secrets = region.store.history(&free(), &key("s"), None, 1).await.unwrap().versions;
    region.store.reveal(&mut secrets, "key:1").await.unwrap();
    let before = region.store.clocks().await.unwrap();
    // Two versions had been dropped in the catalog before they were copied.
    assert_eq!((before.revision, before.imported), (9, 10));

    // A region that was cut off for so long that the log has gone.
    writer.write(one(Scope::Platform, "a", WriteOp::Label("kept".parse().unwrap(), None))).await.unwrap();
    writer.write(one(Scope::Platform, "a", json("8"))).await.unwrap();
    writer.write(one(Scope::Platform, "c", json("1"))).await.unwrap();
    writer.write(one(free(), "s", WriteOp::Remove)).await.unwrap();
    catalog.store.tidy(&Retention { log_changes: 1, ..Retention::default() }).await.unwrap();
    while one_copy.step().await.unwrap() {}
    assert_eq!(there(&region.store).await, there(&catalog.store).await);
    assert_eq!(region.store.labelled(&Scope::Platform, &key("a"), "kept").await.unwrap(), None);
    assert!(!other_copy.step().await.unwrap());
    let after = region.store.clocks().await.unwrap();
    assert_eq!((after.revision, after.imported), (13, 14));
    let log = region.store.log_after(0, 100).await.unwrap();
    assert_eq!(log.rows.len(), 13, "one order for all");
}

/// That no statement puts or removes more rows of a table than so many.
async fn bounded(here: &common::Here, table: &str, when: &str, most: i32) {
    let sql = format!(
        "create function bounded_{table}() returns trigger language plpgsql as $$
         begin
            if (select count(*) from touched) > {most} then raise exception 'too much at once'; end if;
            return null;
         end $$;
         create trigger bounded after {when} table as touched
         for each statement execute function bounded_{table}()"
    );
    here.database.connect().await.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn however_much_the_provider_has_a_region_gets_it_in_parts() {
    let keys = Arc::new(MasterKeys::generate(&OsEntropy));
    let catalog = at("config_much", Store::Catalog, Arc::clone(&keys)).await;
    let region = at("config_much_there", Store::Region, keys).await;
    let writer = catalog.store.writer();
    let label = |name: &str, version| WriteOp::Label(name.parse().unwrap(), Some(version));
    for (number, version) in (0..130).zip([1, 1, 2].into_iter().cycle()) {
        let name = format!("k{number:03}");
        let of = |op| write(Scope::Platform, &name, op, None);
        writer
            .write(transaction(vec![of(json("1")), of(json("2")), of(label("l", version))], None))
            .await
            .unwrap();
    }
    // In the region is a label that the catalog has no more.
    let old = "insert into config_labels (scope, key, label, version) values ('platform', 'k001', 'gone', 1)";
    region.database.connect().await.batch_execute(old).await.unwrap();
    catalog.store.tidy(&Retention { log_changes: 1, ..Retention::default() }).await.unwrap();
    bounded(&region, "config_versions", "insert on config_versions referencing new", 60).await;
    let mut copy = Replicator::new(catalog.store.clone(), region.store.clone());
    let mut steps = 0;
    while copy.step().await.unwrap() {
        steps += 1;
        // Of what is written meanwhile nothing is lost.
        if steps == 2 {
            for name in ["k000", "k129", "z"] {
                writer.write(one(Scope::Platform, name, json("3"))).await.unwrap();
            }
        }
    }
    assert!(steps >= 4, "{steps}");
    let all = async |store: &ConfigStore| {
        let page = store.list(&[Scope::Platform], &"".parse().unwrap(), None, 999).await.unwrap();
        let layers = page.keys.into_iter().flat_map(|key| key.layers).filter_map(|layer| layer.stored);
        layers.map(|one| (one.key, one.version, one.value, one.labels)).collect::<Vec<_>>()
    };
    assert_eq!(all(&region.store).await, all(&catalog.store).await);
    let labels = "select count(*) from config_labels";
    let count = region.database.connect().await.query_one(labels, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count, 130);
}

#[tokio::test]
async fn however_many_large_values_there_are_they_go_in_parts() {
    let here = here("config_tidy_large").await;
    let client = here.database.connect().await;
    let fill = format!(
        "insert into config_blobs (scope, sha256, bytes, at)
            select '{0}', encode(sha256(n::text::bytea), 'hex'), 1, '1969-01-01' from generate_series(1, 1800) n;
         insert into config_versions (scope, key, version, revision, kind, value, author, at, note)
            select '{0}', 'k' || n, 1, 1, 3, convert_to('{{\"sha256\":\"' || encode(sha256(n::text::bytea), 'hex')
                || '\",\"bytes\":1,\"media_type\":\"a/b\"}}', 'UTF8'), '', now(), ''
            from generate_series(1, 600) n",
        scope(1)
    );
    client.batch_execute(&fill).await.unwrap();
    bounded(&here, "config_blobs", "delete on config_blobs referencing old", 500).await;
    here.clock.advance(Duration::from_secs(2 * 3_600));
    here.store.tidy(&Retention::default()).await.unwrap();
    let left = "select count(*), count(*) filter (where exists (
            select from config_versions v where v.scope = b.scope and v.sha256 = b.sha256)) from config_blobs b";
    let left = client.query_one(left, &[]).await.unwrap();
    assert_eq!((left.get::<_, i64>(0), left.get::<_, i64>(1)), (600, 600));
}

#[tokio::test]
async fn of_what_clients_say_the_last_is_kept_and_not_too_much() {
    let here = here("config_clients").await;
    let tenant = |number| scope(number).tenant().unwrap();
    let run = |of: &str, version, rejection: Option<&str>| Run {
        key: key(of),
        set_in: Scope::Platform,
        version,
        rejection: rejection.map(str::to_owned),
    };
    let word = |number, client_id: &str, runs| Word {
        tenant: tenant(number),
        client_id: client_id.to_owned(),
        revision: 1,
        at: here.ambient.clock.now(),
        runs,
    };
    // More keys than are kept: those that it refuses, and the newest.
    let many: Vec<Run> = (0..300).map(|n| run(&format!("k{n:03}"), 1, (n == 7).then_some("no"))).collect();
    let refused =
        here.store.say(&[word(1, "a", many), word(2, "b", vec![run("k007", 2, None)])]).await.unwrap();
    assert!(refused.is_empty());
    let client = here.database.connect().await;
    let count = "select count(*), count(*) filter (where rejection is not null) from config_client_runs
        where client_id = 'a'";
    let counted = client.query_one(count, &[]).await.unwrap();
    assert_eq!((counted.get::<_, i64>(0), counted.get::<_, i64>(1)), (200, 1));
    let saying = async |says, version, after| {
        let of = OneVersion { key: key("k007"), set_in: Scope::Platform, version };
        let found = here.store.saying((says, &of), after, 1).await.unwrap();
        found.into_iter().map(|one| (one.tenant, one.clients, one.rejection)).collect::<Vec<_>>()
    };
    assert_eq!(saying(Says::Refuses, 1, None).await, [(tenant(1), 1, Some("no".to_owned()))]);
    assert_eq!(saying(Says::Runs, 1, None).await, []);
    assert_eq!(saying(Says::Runs, 2, None).await, [(tenant(2), 1, None)]);
    // It takes the version over after all.
    here.store.say(&[word(1, "a", vec![run("k007", 2, None)])]).await.unwrap();
    here.store.say(&[word(1, "c", vec![run("k007", 2, None)])]).await.unwrap();
    assert_eq!(saying(Says::Runs, 2, None).await, [(tenant(1), 2, None)]);
    assert_eq!(saying(Says::Runs, 2, Some(tenant(1))).await, [(tenant(2), 1, None)], "one by one");
    assert_eq!(saying(Says::Runs, 2, Some(tenant(2))).await, []);
    assert_eq!(saying(Says::Refuses, 1, None).await, []);
    let runs = here.store.version_runs(&key("k007"), Some(tenant(1)), 9).await.unwrap();
    assert_eq!(
        runs.iter().map(|runs| (runs.version, runs.running, runs.refusing)).collect::<Vec<_>>(),
        [(2, 2, 0)]
    );
    // A tenant that has as many clients as may be gets no more, and another one does.
    let fill = "insert into config_clients select $1, 'c' || n, 1, $2 from generate_series(3, 5000) n";
    let long_ago = here.ambient.clock.now() - Duration::from_secs(25 * 3_600);
    client.execute(fill, &[&scope(1).to_string(), &long_ago]).await.unwrap();
    let words = [word(1, "a", vec![]), word(1, "new", vec![run("k", 1, None)]), word(2, "new", vec![])];
    let refused = here.store.say(&words).await.unwrap();
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), [(tenant(1), "new".to_owned())]);
    // Those that have been silent for a day have made room.
    assert!(here.store.say(&words).await.unwrap().is_empty());
    here.clock.advance(Duration::from_secs(1));
    here.store.tidy(&Retention { clients: Duration::ZERO, ..Retention::default() }).await.unwrap();
    let left = client.query_one("select count(*) from config_client_runs", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn what_was_said_of_versions_that_there_are_not_goes_when_the_store_learns_of_it() {
    let database = TestDatabase::create("config_words_before").await;
    let client = database.connect().await;
    for sql in [TABLES, ROLLOUTS_AND_CLIENTS, BOUNDS] {
        client.batch_execute(sql).await.unwrap();
    }
    let before = "insert into config_values (scope, key, version, history) values ('platform', 'a', 2, 9);
        insert into config_clients select 't', 'c' || n, 1, now() from generate_series(0, 9) n;
        insert into config_client_runs
            select 't', 'c' || n, k, 'platform', n - 1, null, now()
            from generate_series(0, 9) n, unnest(array['a', 'b']) k";
    client.batch_execute(before).await.unwrap();
    client.batch_execute(WORDS).await.unwrap();
    let left = "select key, version from config_client_runs order by key, version";
    let left = client.query(left, &[]).await.unwrap();
    let left: Vec<(String, i64)> = left.iter().map(|row| (row.get(0), row.get(1))).collect();
    let wanted = [("a", 0), ("a", 1), ("a", 2), ("b", 0)];
    assert_eq!(left, wanted.map(|(key, version)| (key.to_owned(), version)));
}
