//! Tags that go from one backend to another and back, while they are written,
//! while processes end, and where they are not to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use insula_config_model::{
    Backend, ConfigKey, ConfigValue, NewVersion, OWN_BACKEND, Plan, Scope, Share, TagMoveState, TagTable,
    Version, Written, carry, is_carried, marked,
};
use insula_config_service::{NewOp, NewRollout, NewWrite, Service, Steer};
use insula_config_store::Mirror;
use insula_domain::{Clock, SystemClock};
use insula_problem::Code;

use crate::backends::{
    NEVER, TAG, arrived, done, json, moved, place, put_table, put_table_unseen, scope, until,
};
use crate::rollouts::{key_of, operator};
use crate::support::{Watch, World, etcd, second, tenant};

/// The keys that are written, each by two writers.
const KEYS: usize = 3;
/// Writes that must be acknowledged in each place.
const WRITTEN: u64 = 30;

fn name(number: usize) -> String {
    format!("{TAG}counter/{number}")
}

fn key(number: usize) -> ConfigKey {
    name(number).parse().unwrap()
}

fn write(name: &str, op: NewOp, if_version: Option<i64>) -> NewWrite {
    NewWrite { scope: String::new(), key: name.to_owned(), op, if_version, note: String::new() }
}

fn number_of(value: Option<&ConfigValue>) -> u64 {
    match value {
        Some(ConfigValue::Json(text)) => std::str::from_utf8(text).unwrap().parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Counts on condition of the version that was read, until it is told to stop;
/// the numbers that were acknowledged, with their versions and revisions.
async fn counts(
    service: Arc<Service>,
    writer: usize,
    (stopped, total): (Arc<AtomicBool>, Arc<AtomicU64>),
) -> Vec<(u64, i64, i64)> {
    let (mut acknowledged, mut tries) = (Vec::new(), 0_u64);
    let key = name(writer % KEYS);
    let asked = insula_config_service::Asked { key: key.clone(), ..Default::default() };
    while !stopped.load(Ordering::Relaxed) {
        let (version, next) = match service.get(&key_of(1), &asked).await {
            Ok(stored) => (stored.version, number_of(stored.value.as_ref()) + 1),
            Err(problem) if problem.code() == Code::ConfigKeyNotFound => (0, 1),
            Err(problem) => panic!("{}", problem.chain()),
        };
        tries += 1;
        let put = write(&key, NewOp::Put(Bytes::from(next.to_string())), Some(version));
        if let Some(written) = counted(&service, put, &format!("{writer}-{tries}")).await {
            acknowledged.push((next, written.version, written.revision));
            total.fetch_add(1, Ordering::Relaxed);
        }
    }
    acknowledged
}

/// What became of a write; none where nothing was done, because somebody was
/// faster, or a busy machine took long to move the tag. Where that is not known it is
/// asked again.
async fn counted(service: &Service, put: NewWrite, token: &str) -> Option<Written> {
    let mut is_known = true;
    loop {
        let done = service.transact(&key_of(1), vec![put.clone()], Some(token.to_owned())).await;
        let problem = match done {
            Ok(written) => return Some(written[0]),
            Err(problem) => problem,
        };
        match problem.code() {
            Code::ConfigVersionConflict => return None,
            Code::ConfigMoving if is_known => return None,
            Code::ConfigMoving => {}
            Code::Unavailable => is_known = false,
            _ => panic!("{}", problem.chain()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_acknowledged_write_is_lost_there_or_back() {
    let world = World::with_etcd("/stress", Duration::from_millis(50)).await;
    counted_there_and_back(&world, "etcd").await;
}

/// A tag goes to a backend and back, twice, while its values are written.
async fn counted_there_and_back(world: &World, away: &str) {
    let (stopped, total) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..KEYS * 2)
        .map(|writer| {
            let told = (stopped.clone(), total.clone());
            tokio::spawn(counts(world.service.clone(), writer, told))
        })
        .collect();
    let some_written = async || {
        let from = total.load(Ordering::Relaxed);
        until("values are written", async || {
            assert!(!writers.iter().any(tokio::task::JoinHandle::is_finished), "a writer ended early");
            (total.load(Ordering::Relaxed) >= from + WRITTEN).then_some(())
        })
        .await;
    };
    let mut client = world.admin(1).await;
    let (mut watch, _) = Watch::all(&mut client).await;
    some_written().await;
    for to in [away, OWN_BACKEND, away, OWN_BACKEND] {
        moved(world, TAG, to).await;
        some_written().await;
    }
    stopped.store(true, Ordering::Relaxed);
    let mut acknowledged: Vec<Vec<(u64, i64, i64)>> = vec![Vec::new(); KEYS];
    for (writer, counted) in writers.into_iter().enumerate() {
        acknowledged[writer % KEYS].extend(counted.await.unwrap());
    }
    let store = world.values();
    let mut last = BTreeSet::new();
    for (number, mut counted) in acknowledged.into_iter().enumerate() {
        counted.sort_unstable();
        let numbers: Vec<u64> = counted.iter().map(|(number, ..)| *number).collect();
        let most = u64::try_from(numbers.len()).unwrap();
        assert_eq!(numbers, (1..=most).collect::<Vec<_>>(), "each number was acknowledged once");
        assert!(counted.is_sorted_by(|one, next| one.1 < next.1 && one.2 <= next.2), "{counted:?}");
        let newest = store.newest(&[scope()], &key(number)).await.unwrap().layers.remove(0).stored.unwrap();
        assert_eq!(number_of(newest.value.as_ref()), most);
        let kept = store.history(&scope(), &key(number), None, 1_000).await.unwrap().versions;
        for (stored, (count, version, _)) in kept.iter().zip(counted.iter().rev()) {
            assert_eq!((number_of(stored.value.as_ref()), stored.version), (*count, *version));
        }
        last.insert(format!("{}={most}", name(number)));
    }
    let mut seen = BTreeSet::new();
    while !last.is_subset(&seen) {
        seen.extend(watch.delta().await);
    }
}

#[cfg(feature = "aws")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_acknowledged_write_is_lost_on_the_way_to_dynamodb_or_back() {
    let (endpoint, _program) = insula_testkit::emulator(insula_testkit::Emulator::Roto);
    let settings = insula_config_aws::AwsSettings {
        region: "eu-west-1".to_owned(),
        endpoint: Some(endpoint),
        access_key_id: "test".to_owned(),
        secret_access_key: "test".to_owned().into(),
    };
    let clock = Arc::new(SystemClock);
    let dynamo = insula_config_aws::DynamoBackend::new("dynamodb", &settings, "insula-config", clock);
    dynamo.create_table().await.unwrap();
    let world = World::with_backend(Arc::new(dynamo), Duration::from_millis(500)).await;
    counted_there_and_back(&world, "dynamodb").await;
}

/// Which keys are not the same in the log and in etcd.
async fn differing(world: &World, root: &str) -> Vec<ConfigKey> {
    let store = world.values();
    let (mirror, there) = (Mirror::new(store.clone(), store.writer()), etcd(root));
    let mut differing = Vec::new();
    for held in store.held(&TAG.parse().unwrap(), None, 1_000).await.unwrap() {
        if !is_carried(&mirror, &*there, &held.scope, &held.key).await.unwrap() {
            differing.push(held.key);
        }
    }
    differing
}

#[tokio::test]
async fn everything_is_there_when_a_tag_is_there() {
    let world = World::with_etcd("/whole", NEVER).await;
    for number in 0..300 {
        let op = json(&number.to_string());
        done(&world, &name(number), op, None).await.unwrap();
    }
    let label = NewOp::Label { label: "stable".to_owned(), version: Some(1) };
    done(&world, &name(1), label, None).await.unwrap();
    done(&world, &name(1), json("\"new\""), None).await.unwrap();
    done(&world, &name(2), NewOp::Remove, None).await.unwrap();
    moved(&world, TAG, "etcd").await;
    assert!(differing(&world, "/whole").await.is_empty());

    // What would be seen without the last part of a move, in which writes wait.
    moved(&world, TAG, OWN_BACKEND).await;
    let store = world.values();
    let (mirror, there) = (Mirror::new(store.clone(), store.writer()), etcd("/whole"));
    carry(&mirror, &*there, &scope(), &key(5)).await.unwrap();
    done(&world, &name(5), json("\"last\""), None).await.unwrap();
    assert_eq!(differing(&world, "/whole").await, [key(5)], "the last write is missing there");
}

#[tokio::test]
async fn a_move_goes_on_after_a_restart_wherever_it_was() {
    let mut world = World::with_etcd("/restart", NEVER).await;
    for number in 0..20 {
        done(&world, &name(number), json("1"), None).await.unwrap();
    }
    let parts = || BTreeSet::from(["provider".to_owned(), "eu-west-1".to_owned()]);
    let begin = |table: &TagTable, to: &str| {
        table.begin_move(TAG, to, parts(), ("operator:ada@example.com", SystemClock.now())).unwrap()
    };
    let built_in = TagTable::default();
    let carrying = begin(&built_in, "etcd");
    let one_done = carrying.part_done(TAG, "eu-west-1", SystemClock.now()).unwrap();
    let held = one_done.part_done(TAG, "provider", SystemClock.now()).unwrap();
    let half = held.part_done(TAG, "provider", SystemClock.now()).unwrap();
    for table in [carrying, one_done, held, half] {
        world.end().await;
        put_table_unseen(&world, &table).await;
        world.restart().await;
        arrived(&world, TAG, "etcd").await;
        assert!(differing(&world, "/restart").await.is_empty());
        done(&world, &name(3), json("2"), None).await.unwrap();
        assert!(differing(&world, "/restart").await.is_empty());
        moved(&world, TAG, OWN_BACKEND).await;
        done(&world, &name(4), json("3"), None).await.unwrap();
    }
}

#[tokio::test]
async fn writes_wait_for_a_moment_and_are_not_held_for_ever() {
    let world = World::with_etcd("/held", NEVER).await;
    done(&world, &name(1), json("1"), None).await.unwrap();
    // A part that no process serves here, and so nobody brings.
    let parts = BTreeSet::from(["us-east-1".to_owned()]);
    let author = "operator:ada@example.com";
    let begun = TagTable::default().begin_move(TAG, "etcd", parts, (author, SystemClock.now())).unwrap();
    let held = begun.part_done(TAG, "us-east-1", SystemClock.now()).unwrap();
    put_table(&world, &held).await;
    assert_eq!(place(&world, TAG).await.moving.unwrap().state, TagMoveState::Held);
    let waits = done(&world, &name(1), json("2"), None).await.unwrap_err();
    assert_eq!(waits.code(), Code::ConfigMoving, "{waits}");
    let asked = insula_config_service::Asked { key: name(1), ..Default::default() };
    assert_eq!(number_of(world.service.get(&key_of(1), &asked).await.unwrap().value.as_ref()), 1);
    assert!(done(&world, "param_config_a", json("1"), None).await.is_ok(), "the others go on");
    let let_go = until("writes go on", async || {
        place(&world, TAG).await.moving.filter(|moving| moving.state == TagMoveState::Carrying)
    })
    .await;
    assert!(let_go.cause.contains("us-east-1"), "{let_go:?}");
    assert_eq!(done(&world, &name(1), json("2"), None).await.unwrap().version, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_reached_the_old_backend_before_a_long_hold_is_done_once() {
    let (world, gated) = World::with_gated("/long").await;
    done(&world, &name(1), json("1"), None).await.unwrap();
    moved(&world, TAG, "second").await;
    gated.behind.close();
    let under_token = |service: Arc<Service>| async move {
        let writes = vec![write(&name(1), json("2"), None)];
        service.transact(&key_of(1), writes, Some("once".to_owned())).await
    };
    let writing = tokio::spawn(under_token(world.service.clone()));
    until("it is there, and nobody knows", async || (gated.behind.came() == 1).then_some(())).await;

    // A part that no process serves here, and so nobody brings: the hold is a long one.
    let (parts, author) = (BTreeSet::from(["us-east-1".to_owned()]), "operator:ada@example.com");
    let table = world.service.tags();
    let begun = table.begin_move(TAG, "etcd", parts, (author, SystemClock.now())).unwrap();
    put_table(&world, &begun.part_done(TAG, "us-east-1", SystemClock.now()).unwrap()).await;
    gated.behind.open();
    let told = writing.await.unwrap().unwrap_err();
    assert_eq!(told.code(), Code::Unavailable, "{told}");
    assert!(told.detail().contains("may have been made"), "{told}");

    until("writes go on", async || {
        place(&world, TAG).await.moving.filter(|moving| moving.state == TagMoveState::Carrying)
    })
    .await;
    for _ in 0..2 {
        assert_eq!(under_token(world.service.clone()).await.unwrap()[0].version, 2);
    }
    let kept = world.values().history(&scope(), &key(1), None, 10).await.unwrap().versions;
    let kept: Vec<_> = kept.iter().map(|stored| (stored.version, number_of(stored.value.as_ref()))).collect();
    assert_eq!(kept, [(2, 2), (1, 1)], "once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_takes_long_has_no_other_one_wait() {
    let (world, gated) = World::with_gated("/large").await;
    done(&world, &name(1), json("1"), None).await.unwrap();
    done(&world, "param_config_a", json("1"), None).await.unwrap();
    gated.before.close();
    world.service.move_tag(&operator(), TAG, "second").await.unwrap();
    until("it is being brought", async || (gated.before.came() > 0).then_some(())).await;
    for to in ["etcd", OWN_BACKEND] {
        moved(&world, "param_config_", to).await;
        done(&world, "param_config_a", json("2"), None).await.unwrap();
    }
    let still = place(&world, TAG).await.moving.unwrap();
    assert_eq!(still.state, TagMoveState::Carrying, "{still:?}");
    let table = TagTable::KEY.parse().unwrap();
    let steps = world.provided().history(&Scope::Platform, &table, None, 100).await.unwrap().versions;
    let is_let_go = |note: &str| note.contains("in time");
    assert!(!steps.iter().any(|step| is_let_go(&step.note)), "{steps:?}");
    gated.before.open();
    arrived(&world, TAG, "second").await;
    assert_eq!(done(&world, &name(1), json("2"), None).await.unwrap().version, 2);
}

#[tokio::test]
async fn writes_by_an_old_table_are_not_done() {
    let world = World::with_etcd("/old", NEVER).await;
    done(&world, &name(1), json("1"), None).await.unwrap();
    put_table(&world, &TagTable::default()).await;
    let by = |tags| {
        use insula_config_model::{Room, Transaction, Write, WriteOp};
        let op = WriteOp::Put(ConfigValue::Json("2".into()));
        let write = Write {
            scope: scope(),
            key: key(1),
            op,
            if_version: None,
            note: String::new(),
            history: 9,
            is_secret: false,
            room: Room::Usual,
            made: None,
        };
        Transaction { writes: vec![write], token: None, author: "late".to_owned(), tags, schemas: Vec::new() }
    };
    let writer = world.values().writer();
    let refused = writer.write(by(Some(0))).await.unwrap_err();
    assert!(insula_config_store::is_by_old_tags(&refused), "{refused}");
    assert!(writer.plan(by(Some(0))).await.is_err());
    assert_eq!(writer.write(by(Some(1))).await.unwrap()[0].version, 2);
    assert_eq!(writer.write(by(None)).await.unwrap()[0].version, 3, "canary: without it nothing is seen");
}

/// One that lasts.
fn rollout(number: usize) -> NewRollout {
    NewRollout {
        write: NewWrite { scope: format!("tenant/{}", tenant(1)), ..write(&name(number), json("2"), None) },
        plan: Plan {
            steps: [1.0, 100.0].map(|percent| Share::of_percent(percent).unwrap()).to_vec(),
            tenants: Vec::new(),
            bake_seconds: 3_600,
            rejections: 0,
            confirmations: 0,
        },
        tenants: Vec::new(),
    }
}

#[tokio::test]
async fn what_cannot_be_moved_is_refused() {
    let world = World::with_etcd("/refused", NEVER).await;
    let refused = async |tag: &str, to: &str| {
        let problem = world.service.move_tag(&operator(), tag, to).await.unwrap_err();
        (problem.code(), problem.detail().to_owned())
    };
    let (code, detail) = refused(TAG, "etcd2").await;
    assert_eq!(code, Code::InvalidRequest);
    assert!(detail.contains("there are postgres, etcd, nowhere, second"), "{detail}");
    assert_eq!(refused("tenant_", "etcd").await.0, Code::ConfigTagUnknown);
    assert_eq!(refused("", "etcd").await.0, Code::ConfigTagUnknown);
    assert_eq!(refused(TAG, OWN_BACKEND).await.0, Code::InvalidRequest);
    assert_eq!(refused("insula_", "etcd").await.0, Code::InvalidRequest);
    assert_eq!(refused("blob_config_", "etcd").await.0, Code::InvalidRequest);
    let by_tenant = world.service.move_tag(&key_of(1), TAG, "etcd").await.unwrap_err();
    assert_eq!(by_tenant.code(), Code::Forbidden);
    assert_eq!(world.service.tag_places(&key_of(1)).await.unwrap_err().code(), Code::Forbidden);

    done(&world, &name(1), json("1"), None).await.unwrap();
    world.service.start_rollout(&operator(), rollout(1)).await.unwrap();
    assert_eq!(refused(TAG, "etcd").await.0, Code::RolloutStatusConflict);
    let of = format!("tenant/{}", tenant(1));
    let at = (of.as_str(), name(1));
    world.service.steer_rollout(&operator(), (at.0, &at.1), Steer::Abort, String::new()).await.unwrap();

    // One that cannot come to its end: the backend does not answer.
    world.service.move_tag(&operator(), TAG, "nowhere").await.unwrap();
    assert_eq!(refused(TAG, "etcd").await.0, Code::ConfigTagMoving);
    assert_eq!(refused(TAG, "nowhere").await.0, Code::ConfigTagMoving);
    until("the move is known", async || {
        let known = world.service.tags();
        known.iter().any(|(known, tag)| known == TAG && tag.under_way().is_some()).then_some(())
    })
    .await;
    let begun = world.service.start_rollout(&operator(), rollout(2)).await.unwrap_err();
    assert_eq!(begun.code(), Code::ConfigTagMoving, "{begun}");
    assert!(done(&world, &name(1), json("3"), None).await.is_ok(), "it is written meanwhile");
    moved(&world, "param_config_", "etcd").await;
    assert_eq!(place(&world, TAG).await.backend, OWN_BACKEND);

    let called_back = world.service.move_tag(&operator(), TAG, OWN_BACKEND).await.unwrap().moving.unwrap();
    assert_eq!(called_back.state, TagMoveState::Failed);
    assert!(called_back.cause.contains("called back by operator:ada"), "{called_back:?}");
    world.service.move_tag(&operator(), TAG, "etcd").await.unwrap();
    arrived(&world, TAG, "etcd").await;
    assert!(differing(&world, "/refused").await.is_empty());
}

#[tokio::test]
async fn nothing_of_an_earlier_move_counts_as_brought() {
    let world = World::with_etcd("/again", NEVER).await;
    // So that there is always a move under way.
    world.service.move_tag(&operator(), "param_config_", "nowhere").await.unwrap();
    done(&world, &name(1), json("1"), None).await.unwrap();
    moved(&world, TAG, "etcd").await;
    moved(&world, TAG, OWN_BACKEND).await;
    done(&world, &name(2), json("1"), None).await.unwrap();
    etcd("/again").forget(&scope()).await.unwrap();
    moved(&world, TAG, "etcd").await;
    assert!(differing(&world, "/again").await.is_empty());
}

#[tokio::test]
async fn a_tag_goes_from_one_backend_outside_to_another() {
    let world = World::with_etcd("/direct", NEVER).await;
    for number in [1, 2] {
        done(&world, &name(number), json("1"), None).await.unwrap();
    }
    moved(&world, TAG, "etcd").await;
    done(&world, &name(2), json("2"), None).await.unwrap();
    // What was never acknowledged there is passed by with a version of the
    // backend that keeps the tag, which says what the next number is.
    let there = second("/direct");
    there.write(&never_acknowledged(1, 1), 0).await.unwrap();
    there.write(&never_acknowledged(1, 2), 1).await.unwrap();
    moved(&world, TAG, "second").await;
    let newest = async |backend: &dyn Backend, number| {
        let newest = backend.newest(&scope(), &key(number)).await.unwrap().unwrap();
        (newest.version, number_of(newest.value.as_ref()))
    };
    assert_eq!(newest(&*etcd("/direct"), 1).await, (3, 1), "the one before has it too");
    assert_eq!((newest(&*there, 1).await, newest(&*there, 2).await), ((3, 1), (2, 2)));
    assert_eq!(done(&world, &name(1), json("4"), None).await.unwrap().version, 4);
    assert_eq!((newest(&*there, 1).await, newest(&*etcd("/direct"), 1).await), ((4, 4), (3, 1)));
    moved(&world, TAG, "etcd").await;
    assert!(differing(&world, "/direct").await.is_empty());
}

/// A version as a write makes it that nobody was told of.
fn never_acknowledged(number: usize, version: Version) -> NewVersion {
    NewVersion {
        scope: scope(),
        key: key(number),
        version,
        value: Some(b"\"late\"".to_vec()),
        author: marked("key:x", "0a"),
        at: SystemClock.now(),
        note: String::new(),
    }
}

#[tokio::test]
async fn a_rollout_and_a_move_do_not_begin_together() {
    let world = World::with_etcd("/together", NEVER).await;
    let of = format!("tenant/{}", tenant(1));
    for number in 0..8 {
        done(&world, &name(number), json("1"), None).await.unwrap();
        let asked = rollout(number);
        let caller = operator();
        let (rolled, begun) = tokio::join!(
            world.service.start_rollout(&caller, asked),
            world.service.move_tag(&caller, TAG, "etcd")
        );
        let ends = until("the move ends", async || {
            let place = place(&world, TAG).await;
            let is_over = place.moving.as_ref().is_none_or(|moving| !moving.is_under_way());
            is_over.then_some(place)
        })
        .await;
        let is_rolled = rolled.is_ok();
        assert!(!is_rolled || ends.backend == OWN_BACKEND, "{rolled:?} {begun:?} {ends:?}");
        if is_rolled {
            let at = (of.as_str(), name(number));
            world.service.steer_rollout(&caller, (at.0, &at.1), Steer::Abort, String::new()).await.unwrap();
        }
        if ends.backend == "etcd" {
            arrived(&world, TAG, "etcd").await;
            assert!(differing(&world, "/together").await.is_empty());
            moved(&world, TAG, OWN_BACKEND).await;
        }
    }
}

#[tokio::test]
async fn a_backend_with_something_else_ends_the_move() {
    let world = World::with_etcd("/else", NEVER).await;
    done(&world, &name(1), json("1"), None).await.unwrap();
    let author = "operator:bob".to_owned();
    let elsewhere = NewVersion { value: Some(b"7".to_vec()), author, ..never_acknowledged(1, 1) };
    etcd("/else").write(&elsewhere, 0).await.unwrap();
    world.service.move_tag(&operator(), TAG, "etcd").await.unwrap();
    let failed = until("the move ends", async || {
        place(&world, TAG).await.moving.filter(|moving| moving.state == TagMoveState::Failed)
    })
    .await;
    assert!(failed.cause.contains("another version"), "{failed:?}");
    assert_eq!(done(&world, &name(1), json("2"), None).await.unwrap().version, 2);
    etcd("/else").forget(&scope()).await.unwrap();
    moved(&world, TAG, "etcd").await;
    assert!(differing(&world, "/else").await.is_empty());
}

#[tokio::test]
async fn what_was_never_acknowledged_stands_in_no_way() {
    let world = World::with_etcd("/late", NEVER).await;
    for text in ["1", "2"] {
        done(&world, &name(1), json(text), None).await.unwrap();
        done(&world, &name(2), json(text), None).await.unwrap();
    }
    moved(&world, TAG, "etcd").await;
    moved(&world, TAG, OWN_BACKEND).await;
    // Two writes that came to etcd when the tag was gone, and so were not done.
    for number in [1, 2] {
        etcd("/late").write(&never_acknowledged(number, 3), 2).await.unwrap();
    }
    for text in ["3", "4"] {
        done(&world, &name(1), json(text), None).await.unwrap();
    }
    moved(&world, TAG, "etcd").await;
    assert!(differing(&world, "/late").await.is_empty());
    let store = world.values();
    for (number, value) in [(1, 4), (2, 2)] {
        let newest = store.newest(&[scope()], &key(number)).await.unwrap().layers.remove(0).stored.unwrap();
        assert_eq!((number_of(newest.value.as_ref()), newest.version), (value, 4), "key {number}");
    }
}

#[tokio::test]
async fn the_table_of_tags_leaves_values_where_they_are() {
    let world = World::with_etcd("/table", NEVER).await;
    let table =
        |text: String| NewWrite { scope: "platform".to_owned(), ..write(TagTable::KEY, json(&text), None) };
    let put = async |write: NewWrite| {
        let done = world.service.transact(&operator(), vec![write], None).await;
        done.map_err(|problem| (problem.code(), problem.detail().to_owned()))
    };
    let of =
        |backend: &str| format!(r#"{{"{TAG}":{{"kind":"key-value","max_bytes":9,"backend":"{backend}"}}}}"#);
    let (code, detail) = put(table(of("etcd"))).await.unwrap_err();
    assert_eq!(code, Code::ConfigTagsInvalid);
    assert!(detail.contains("move the tag"), "{detail}");
    put(table(of(OWN_BACKEND))).await.unwrap();
    moved(&world, TAG, "etcd").await;
    assert_eq!(put(table(of(OWN_BACKEND))).await.unwrap_err().0, Code::ConfigTagsInvalid);
    put(table(of("etcd").replace('9', "99"))).await.unwrap();
    let remove = NewWrite { scope: "platform".to_owned(), ..write(TagTable::KEY, NewOp::Remove, None) };
    assert_eq!(put(remove).await.unwrap_err().0, Code::ConfigTagsInvalid);
    let back = NewOp::Rollback(insula_config_service::To::Version(1));
    let back = NewWrite { scope: "platform".to_owned(), ..write(TagTable::KEY, back, None) };
    assert_eq!(put(back).await.unwrap_err().0, Code::ConfigTagsInvalid);
}
