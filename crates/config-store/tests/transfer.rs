//! Moves between two stores, with writes and reads going on: revisions grow,
//! nothing that was acknowledged is lost, nobody reads or writes at two places.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::sync::Arc;

use common::{at, json, key, one, scope, tenant, transaction, write};
use insula_config_model::{ConfigValue, WriteOp};
use insula_config_store::{Ambient, ConfigStore, HomeState, Leaving, LogChange, Run, Word, Writer};
use insula_credentials::MasterKeys;
use insula_domain::{Clock, Epoch, OsEntropy};
use insula_problem::Code;
use insula_sql_store::Store;

/// Two regions' stores; tenants 1 to 4 are at home in the first.
async fn two(label: &str) -> (common::Here, common::Here) {
    let keys = Arc::new(MasterKeys::generate(&OsEntropy));
    let first = at(label, Store::Region, Arc::clone(&keys)).await;
    let second = at(label, Store::Region, keys).await;
    let none = second.database.connect().await;
    none.batch_execute("delete from config_homes").await.unwrap();
    (first, second)
}

/// Removes what is kept of tenant 1, as a region's store does; false where that
/// is refused.
async fn leave(here: &common::Here, leaving: Leaving) -> bool {
    let mut client = here.database.connect().await;
    let transaction = client.transaction().await.unwrap();
    let is_left = insula_config_store::begin_leaving(&transaction, tenant(1), leaving).await.unwrap();
    transaction.commit().await.unwrap();
    if is_left {
        insula_config_store::remove_left(&client, tenant(1)).await.unwrap();
    }
    is_left
}

/// Counts under one key wherever the tenant is, each on condition of the one
/// before; the revisions that it was told.
async fn count(writers: [Writer; 2], until: i64) -> Vec<i64> {
    let (mut revisions, mut at, mut done) = (Vec::new(), 0, 0);
    while done < until {
        let put = write(scope(1), "count", json(&(done + 1).to_string()), Some(done));
        // Those without a token take the usual way, in one journey.
        let token = (done % 2 == 0).then(|| format!("count {done}"));
        match writers[at].write(transaction(vec![put], token.as_deref())).await {
            Ok(written) => {
                assert_eq!(written[0].version, done + 1);
                revisions.push(written[0].revision);
                done += 1;
            }
            // Not here: as a service does that hears of the new home.
            Err(problem) => {
                assert_eq!(problem.code(), Code::ConfigMoving, "{}", problem.chain());
                at = 1 - at;
                tokio::task::yield_now().await;
            }
        }
    }
    revisions
}

async fn there_and_back(first: &ConfigStore, second: &ConfigStore) {
    for round in 0..3 {
        let epoch = Epoch(2 * round + 2);
        second.copy_ahead(first, tenant(1), epoch).await.unwrap();
        // Several at once: of those that do not do it, some are told that it was done.
        let late = second.copy_ahead(first, tenant(1), epoch);
        let (one, other, _) = tokio::join!(
            second.receive(first, tenant(1), epoch),
            second.receive(first, tenant(1), epoch),
            late
        );
        assert!(one.is_ok() || other.is_ok(), "{one:?} {other:?}");
        assert_eq!(first.home(tenant(1)).await.unwrap().unwrap().state, HomeState::Closed);
        // Again, as after a crash of whoever did it.
        second.receive(first, tenant(1), Epoch(2 * round + 2)).await.unwrap();
        first.receive(second, tenant(1), Epoch(2 * round + 3)).await.unwrap();
        // One that was suspended wakes: its time is over.
        second.receive(first, tenant(1), Epoch(2 * round + 2)).await.unwrap();
        assert_eq!(first.home(tenant(1)).await.unwrap().unwrap().state, HomeState::Open);
    }
    second.receive(first, tenant(1), Epoch(20)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_through_moves() {
    let (first, second) = two("config_move").await;
    let counting = tokio::spawn(count([first.store.writer(), second.store.writer()], 300));
    there_and_back(&first.store, &second.store).await;
    let revisions = counting.await.unwrap();
    assert!(revisions.windows(2).all(|two| two[0] < two[1]), "revisions grow: {revisions:?}");
    let newest = second.store.newest(&[scope(1)], &key("count")).await.unwrap();
    let stored = newest.layers[0].stored.clone().unwrap();
    assert_eq!(stored.value, Some(ConfigValue::Json("300".into())));
    assert_eq!(stored.version, 300);
    assert_eq!(first.store.newest(&[scope(1)], &key("count")).await.unwrap_err().code(), Code::ConfigMoving);
    let home = second.store.home(tenant(1)).await.unwrap().unwrap();
    let log = second.store.log_after(home.since - 1, 1_000).await.unwrap();
    assert_eq!(log.rows[0].change, LogChange::Arrived);
    assert_eq!(log.rows[0].revision, home.since);
}

#[tokio::test]
async fn all_of_a_tenant_goes_along_and_nothing_of_another() {
    let (first, second) = two("config_goes").await;
    let writer = first.store.writer();
    let secret = |text: &str| WriteOp::Put(ConfigValue::Secret(text.as_bytes().to_vec().into()));
    for number in 0..9 {
        writer.write(one(scope(1), "a", json(&number.to_string()))).await.unwrap();
    }
    writer.write(one(scope(1), "a", WriteOp::Label("kept".parse().unwrap(), Some(7)))).await.unwrap();
    writer.write(one(scope(1), "s", secret("\"hunter2\""))).await.unwrap();
    writer.write(one(scope(2), "a", json("\"other\""))).await.unwrap();
    let large = vec![7_u8; 600_000];
    let blob = first.store.put_blob(&scope(1), &large, "image/png").await.unwrap();
    writer.write(one(scope(1), "b", WriteOp::Put(ConfigValue::Blob(blob.clone())))).await.unwrap();
    let token = || transaction(vec![write(scope(1), "t", json("1"), None)], Some("token"));
    let answer = writer.write(token()).await.unwrap();
    let mut seen = first.store.history(&scope(1), &key("s"), None, 1).await.unwrap().versions;
    first.store.reveal(&mut seen, "key:1").await.unwrap();

    // What is left of an earlier stay, or of a copy that was interrupted.
    let rest = second.database.connect().await;
    let stale = "insert into config_versions (scope, key, version, revision, kind, value, author, at, note)
        values ('tenant/0190b8a0-0000-7000-8000-000000000001', 'gone', 1, 1, 1, '1', '', now(), '')";
    rest.batch_execute(stale).await.unwrap();
    insula_config_store::expect_home(&rest, tenant(1), time::OffsetDateTime::UNIX_EPOCH).await.unwrap();
    assert_eq!(second.store.newest(&[scope(1)], &key("a")).await.unwrap_err().code(), Code::ConfigMoving);
    second.store.receive(&first.store, tenant(1), Epoch(2)).await.unwrap();

    let all = [scope(1), scope(2)].map(|scope| [scope]);
    let [mine, others] = &all;
    let snapshot = second.store.snapshot(mine, &[], 100).await.unwrap();
    let keys: Vec<&str> = snapshot.entries.iter().map(|stored| stored.key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "s", "t"]);
    assert_eq!(second.store.newest(others, &key("a")).await.unwrap_err().code(), Code::ConfigMoving);
    let versions: Vec<i64> = second
        .store
        .history(&scope(1), &key("a"), None, 9)
        .await
        .unwrap()
        .versions
        .iter()
        .map(|one| one.version)
        .collect();
    assert_eq!(versions, [9, 8, 7, 6, 5]);
    assert_eq!(second.store.labelled(&scope(1), &key("a"), "kept").await.unwrap().unwrap().version, 7);
    let mut secrets = second.store.history(&scope(1), &key("s"), None, 1).await.unwrap().versions;
    second.store.reveal(&mut secrets, "key:2").await.unwrap();
    assert_eq!(secrets[0].value, Some(ConfigValue::Secret(b"\"hunter2\"".to_vec().into())));
    let readers: Vec<String> = second
        .store
        .reads(&scope(1), Some(&key("s")), 9)
        .await
        .unwrap()
        .into_iter()
        .map(|read| read.reader)
        .collect();
    assert_eq!(readers, ["key:2", "key:1"]);
    let mut bytes = Vec::new();
    for number in 0..4 {
        bytes.extend(
            second.store.blob_chunk(&scope(1), &blob.sha256, number).await.unwrap().unwrap_or_default(),
        );
    }
    assert!(bytes == large, "{} bytes", bytes.len());
    assert_eq!(second.store.writer().write(token()).await.unwrap(), answer, "the token counts there too");
    let gone = second.store.version(&scope(1), &key("gone"), 1).await.unwrap();
    assert_eq!(gone, None);

    assert!(leave(&first, Leaving::Left(Epoch(2))).await);
    let left = "select count(*) from config_versions where scope like '%1'";
    assert_eq!(first.database.connect().await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    let refused = writer.write(one(scope(1), "a", json("1"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ConfigMoving, "it does not come back by a late write");
}

#[tokio::test]
async fn one_that_is_late_does_not_bring_it_back() {
    let (first, second) = two("config_late").await;
    second.store.receive(&first.store, tenant(1), Epoch(2)).await.unwrap();
    first.store.receive(&second.store, tenant(1), Epoch(3)).await.unwrap();
    // The rollback has removed what was there, and the late one finds nothing.
    assert!(leave(&second, Leaving::Left(Epoch(3))).await);
    assert!(second.store.receive(&first.store, tenant(1), Epoch(2)).await.is_err());
    assert_eq!(first.store.home(tenant(1)).await.unwrap().unwrap().state, HomeState::Open);
    assert!(second.store.receive(&first.store, tenant(9), Epoch(2)).await.is_err(), "nobody is there");
}

/// Versions, values and labels that were not written by a writer: three versions
/// of each key, the second one labelled.
async fn filled(here: &common::Here, keys: i32) {
    let client = here.database.connect().await;
    let fill = format!(
        "insert into config_versions (scope, key, version, revision, kind, value, author, at, note)
            select '{0}', 'k' || n, v, 1, 1, '1', '', now(), ''
            from generate_series(1, {keys}) n, generate_series(1, 3) v;
         insert into config_values (scope, key, version, history) select '{0}', 'k' || n, 3, 3
            from generate_series(1, {keys}) n;
         insert into config_labels (scope, key, label, version) select '{0}', 'k' || n, 'l', 2
            from generate_series(1, {keys}) n;
         insert into config_requests (scope, token, hash, key_generation, answer, at)
            select '{0}', 't' || n, '', 1, '[]', now() from generate_series(1, 2 * {keys}) n;
         insert into config_reads (at, scope, key, version, reader)
            select now(), '{0}', 'k1', n, 'r' from generate_series(1, 2 * {keys}) n",
        scope(1)
    );
    client.batch_execute(&fill).await.unwrap();
}

async fn number(here: &common::Here, sql: &str) -> i64 {
    here.database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn however_much_there_is_it_comes_in_pages_and_the_clock_is_free() {
    let (first, second) = two("config_pages").await;
    filled(&first, 2_600).await;
    // What is left of an earlier stay.
    filled(&second, 1_100).await;
    let client = second.database.connect().await;
    let watch = "create function is_bounded() returns trigger language plpgsql as $$
        begin
            if (select count(*) from added) > 2000 or exists (select from pg_locks
                where relation = 'config_clock'::regclass and pid = pg_backend_pid() and mode = 'RowShareLock')
            then raise exception 'too much at once in %', tg_table_name; end if;
            return null;
        end $$";
    client.batch_execute(watch).await.unwrap();
    for table in ["versions", "values", "labels", "requests", "reads"] {
        let sql = format!(
            "create trigger bounded after insert on config_{table} referencing new table as added
             for each statement execute function is_bounded()"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    second.store.receive(&first.store, tenant(1), Epoch(2)).await.unwrap();
    for (table, count) in
        [("versions", 7_800), ("values", 2_600), ("labels", 2_600), ("requests", 5_200), ("reads", 5_200)]
    {
        let sql = format!("select count(*) from config_{table} where scope = '{}'", scope(1));
        assert_eq!(number(&second, &sql).await, count, "{table}");
    }
    let reads = second.store.reads(&scope(1), Some(&key("k1")), 10_000).await.unwrap();
    let numbers: Vec<i64> = reads.iter().map(|read| read.version).collect();
    assert_eq!(numbers, (1..=5_200).rev().collect::<Vec<_>>(), "each once, in their order");
    // Again there and back: what is left is not taken for what has come.
    first.store.receive(&second.store, tenant(1), Epoch(3)).await.unwrap();
    assert_eq!(first.store.reads(&scope(1), Some(&key("k1")), 10_000).await.unwrap(), reads);
    let canary = "insert into config_values (scope, key, version, history)
        select 'canary', n::text, 1, 1 from generate_series(1, 2001) n";
    assert!(client.batch_execute(canary).await.is_err(), "more than a page is noticed");
}

#[tokio::test]
async fn it_is_not_opened_where_a_part_of_it_is_missing() {
    let (first, second) = two("config_torn").await;
    filled(&first, 3).await;
    let client = second.database.connect().await;
    // As one that is late would remove it after it was copied.
    for torn in ["key = 'k2' and version = 2", "key = 'k2' and version = 1"] {
        let late = format!(
            "create or replace function late() returns trigger language plpgsql as $$
             begin delete from config_versions where {torn}; return null; end $$;
             drop trigger if exists late on config_labels;
             create trigger late after insert on config_labels for each statement execute function late()"
        );
        client.batch_execute(&late).await.unwrap();
        assert!(second.store.receive(&first.store, tenant(1), Epoch(2)).await.is_err(), "{torn}");
        assert_eq!(second.store.home(tenant(1)).await.unwrap().unwrap().state, HomeState::Arriving);
    }
    client.batch_execute("drop trigger late on config_labels").await.unwrap();
    second.store.receive(&first.store, tenant(1), Epoch(2)).await.unwrap();
    assert_eq!(second.store.history(&scope(1), &key("k2"), None, 9).await.unwrap().versions.len(), 3);
}

#[tokio::test]
async fn one_that_is_late_removes_nothing_of_a_later_move() {
    let (first, second) = two("config_leave").await;
    filled(&first, 3).await;
    let all = "select count(*) from config_versions";
    // A move is undone, and who undoes it is suspended before it has begun.
    second.store.copy_ahead(&first.store, tenant(1), Epoch(2)).await.unwrap();
    // The next one has the same epoch, and comes through.
    second.store.receive(&first.store, tenant(1), Epoch(2)).await.unwrap();
    for leaving in [Leaving::Undone(Epoch(2)), Leaving::Left(Epoch(3))] {
        assert!(!leave(&second, leaving).await, "it is at home there");
    }
    // It goes back, and what is there is what it goes back from.
    first.store.copy_ahead(&second.store, tenant(1), Epoch(3)).await.unwrap();
    second.database.connect().await.batch_execute("update config_homes set state = 'closed'").await.unwrap();
    assert!(!leave(&second, Leaving::Undone(Epoch(2))).await);
    first.store.receive(&second.store, tenant(1), Epoch(3)).await.unwrap();
    assert_eq!((number(&first, all).await, number(&second, all).await), (9, 9));
    assert!(leave(&second, Leaving::Left(Epoch(3))).await);
    assert_eq!((number(&first, all).await, number(&second, all).await), (9, 0));
    assert!(leave(&second, Leaving::Left(Epoch(3))).await, "again changes nothing");
    assert_eq!(second.store.home(tenant(1)).await.unwrap(), None);
    // One that wakes with an old epoch does not bring it there from where it was.
    assert!(second.store.receive(&first.store, tenant(1), Epoch(2)).await.is_err());

    // Suspended in the middle: the next move has begun meanwhile.
    second.store.copy_ahead(&first.store, tenant(1), Epoch(4)).await.unwrap();
    let mut client = second.database.connect().await;
    let transaction = client.transaction().await.unwrap();
    let undone = Leaving::Undone(Epoch(4));
    assert!(insula_config_store::begin_leaving(&transaction, tenant(1), undone).await.unwrap());
    transaction.commit().await.unwrap();
    second.store.copy_ahead(&first.store, tenant(1), Epoch(4)).await.unwrap();
    insula_config_store::remove_left(&client, tenant(1)).await.unwrap();
    assert_eq!(number(&second, all).await, 9);
    second.store.receive(&first.store, tenant(1), Epoch(4)).await.unwrap();
    assert!(leave(&second, Leaving::Gone).await, "with the tenant goes everything");
    assert_eq!(number(&second, all).await, 0);
}

#[tokio::test]
async fn secrets_are_sealed_with_the_newest_key_where_they_come() {
    let (first, second) = two("config_sealed").await;
    let writer = first.store.writer();
    let secret = || WriteOp::Put(ConfigValue::Secret(b"\"hunter2\"".to_vec().into()));
    for name in ["s", "t"] {
        writer.write(one(scope(1), name, secret())).await.unwrap();
    }
    second.store.copy_ahead(&first.store, tenant(1), Epoch(2)).await.unwrap();
    let newer = Arc::new(first.ambient.keys.rotated(&OsEntropy));
    let with_newer = |here: &common::Here| {
        let ambient = Ambient { keys: Arc::clone(&newer), ..here.ambient.clone() };
        ConfigStore::new(Store::Region, here.store.connector().clone(), ambient)
    };
    let (from, to) = (with_newer(&first), with_newer(&second));
    // There it is looked through, and here it was not when the copy came.
    assert_eq!(from.rekey().await.unwrap().versions, 2);
    writer.write(one(scope(1), "u", secret())).await.unwrap();
    to.receive(&from, tenant(1), Epoch(2)).await.unwrap();
    let old = "select count(*) from config_versions where key_generation = 1";
    assert_eq!((number(&first, old).await, number(&second, old).await), (1, 0));
    let mut kept = to.history(&scope(1), &key("s"), None, 1).await.unwrap().versions;
    to.reveal(&mut kept, "key:1").await.unwrap();
    assert_eq!(kept[0].value, Some(ConfigValue::Secret(b"\"hunter2\"".to_vec().into())));
}

#[tokio::test]
async fn what_clients_have_said_goes_along_and_what_is_newer_stays() {
    let (first, second) = two("config_words").await;
    let begun = Clock::now(&first.clock);
    let word = |number: u16, client: &str, version, minutes| Word {
        tenant: tenant(number),
        client_id: client.to_owned(),
        revision: version,
        at: begun + time::Duration::minutes(minutes),
        runs: vec![Run {
            key: key("tenant_config_a"),
            set_in: scope(number),
            version,
            rejection: (version == 9).then(|| "no such colour".to_owned()),
        }],
    };
    let many: Vec<Word> = (0..120).map(|client| word(1, &format!("client-{client:03}"), 3, 0)).collect();
    first.store.say(&many).await.unwrap();
    first.store.say(&[word(2, "other", 4, 0)]).await.unwrap();
    second.store.copy_ahead(&first.store, tenant(1), Epoch(2)).await.unwrap();
    // One is said behind that, and one where it comes to.
    first.store.say(&[word(1, "client-007", 9, 5), word(1, "client-008", 5, 5)]).await.unwrap();
    second.store.say(&[word(1, "client-008", 6, 9)]).await.unwrap();
    second.store.receive(&first.store, tenant(1), Epoch(2)).await.unwrap();
    let runs = second.store.client_runs(&key("tenant_config_a"), None, 1_000).await.unwrap();
    assert_eq!(runs.len(), 120, "and none of another tenant");
    let of = |client: &str| runs.iter().find(|run| run.client_id == client).unwrap();
    assert_eq!((of("client-007").run.version, of("client-007").revision), (9, 9));
    assert_eq!(of("client-007").run.rejection.as_deref(), Some("no such colour"));
    assert_eq!(of("client-008").run.version, 6);
    assert_eq!((of("client-119").run.version, of("client-119").at), (3, begun));
}
