//! Values of a tag that real etcd keeps: what is written there and to the log,
//! what others write, and what ends between the two.

use std::time::Duration;

use bytes::Bytes;
use insula_config_model::{
    AUTHOR_EXTERNAL, ConfigKey, ConfigValue, NewVersion, OWN_BACKEND, Room, Scope, Stored, TagMoveState,
    TagTable, Transaction, Write, WriteOp, Written, marked,
};
use insula_config_proto::v1;
use insula_config_service::{Asked, Caller, NewOp, NewWrite, TagPlace, To, Which};
use insula_config_store::{ConfigStore, Plan};
use insula_domain::{Clock, SystemClock, TenantStatus};
use insula_problem::{Code, Problem};
use insula_testkit::etcdctl;

use crate::rollouts::{key_of, operator};
use crate::support::{PATIENCE, Watch, World, etcd, tenant};

/// No comparison comes in between.
pub const NEVER: Duration = Duration::from_secs(3_600);
/// Comparisons that a test waits for.
const SOON: Duration = Duration::from_millis(100);
pub const TAG: &str = "tenant_config_";
const KEY: &str = "tenant_config_theme";

pub fn scope() -> Scope {
    Scope::Tenant(tenant(1))
}

fn key(name: &str) -> ConfigKey {
    name.parse().unwrap()
}

/// Waits until something is so.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

pub async fn place(world: &World, tag: &str) -> TagPlace {
    let places = world.service.tag_places(&operator()).await.unwrap();
    places.into_iter().find(|place| place.tag == tag).unwrap()
}

/// Moves a tag, and waits until this process knows where it is.
pub async fn moved(world: &World, tag: &str, to: &str) {
    world.service.move_tag(&operator(), tag, to).await.unwrap();
    arrived(world, tag, to).await;
}

pub async fn arrived(world: &World, tag: &str, to: &str) {
    until("the tag is moved", async || {
        let place = place(world, tag).await;
        let failed = place.moving.as_ref().filter(|moving| moving.state == TagMoveState::Failed);
        assert!(failed.is_none(), "{failed:?}");
        let known = world.service.tags();
        let is_known = known.iter().any(|(known, known_tag)| known == tag && known_tag.backend == to);
        (place.moving.is_none() && place.backend == to && is_known).then_some(())
    })
    .await;
}

fn write(name: &str, op: NewOp, if_version: Option<i64>) -> NewWrite {
    NewWrite { scope: String::new(), key: name.to_owned(), op, if_version, note: "why".to_owned() }
}

pub fn json(text: &str) -> NewOp {
    NewOp::Put(Bytes::copy_from_slice(text.as_bytes()))
}

pub async fn done(world: &World, name: &str, op: NewOp, if_version: Option<i64>) -> Result<Written, Problem> {
    let done = world.service.transact(&key_of(1), vec![write(name, op, if_version)], None).await;
    done.map(|written| written[0])
}

async fn put(world: &World, name: &str, text: &str) -> i64 {
    done(world, name, json(text), None).await.unwrap().version
}

async fn seen(world: &World, name: &str) -> String {
    let asked = Asked { key: name.to_owned(), ..Asked::default() };
    shown(&world.service.get(&key_of(1), &asked).await.unwrap())
}

fn shown(stored: &Stored) -> String {
    match &stored.value {
        Some(ConfigValue::Json(text)) => String::from_utf8(text.to_vec()).unwrap(),
        Some(ConfigValue::Secret(_)) => "clear".to_owned(),
        Some(ConfigValue::Sealed(_)) => "sealed".to_owned(),
        other => format!("{other:?}"),
    }
}

/// The versions that the log has, the oldest first: number, author, value.
async fn versions(store: &ConfigStore, name: &str) -> Vec<(i64, String, String)> {
    let page = store.history(&scope(), &key(name), None, 1_000).await.unwrap();
    page.versions.iter().rev().map(|one| (one.version, one.author.clone(), shown(one))).collect()
}

fn name_in(root: &str, name: &str) -> String {
    format!("{root}/values/{}/{name}", scope())
}

#[tokio::test]
async fn a_tags_values_are_where_others_find_them() {
    let world = World::with_etcd("/found", NEVER).await;
    put(&world, KEY, "1").await;
    moved(&world, TAG, "etcd").await;
    let plain = || etcdctl(&["get", "--print-value-only", &name_in("/found", KEY)]);
    assert_eq!(plain(), "1", "it was brought");
    let mut client = world.admin(1).await;
    let (mut watch, _) = Watch::all(&mut client).await;
    assert_eq!(put(&world, KEY, "{\"a\": 2}").await, 2);
    assert_eq!(watch.delta().await, [format!("{KEY}={{\"a\":2}}")]);
    assert_eq!((plain().as_str(), seen(&world, KEY).await.as_str()), ("{\"a\":2}", "{\"a\":2}"));
    let conflict = done(&world, KEY, json("3"), Some(1)).await.unwrap_err();
    assert_eq!(conflict.code(), Code::ConfigVersionConflict);
    assert_eq!(done(&world, KEY, json("3"), Some(2)).await.unwrap().version, 3);
    let label = NewOp::Label { label: "stable".to_owned(), version: Some(2) };
    done(&world, KEY, label, None).await.unwrap();
    let back = NewOp::Rollback(To::Label("stable".to_owned()));
    assert_eq!(done(&world, KEY, back, None).await.unwrap().version, 4);
    assert_eq!(plain(), "{\"a\":2}");
    assert_eq!(done(&world, KEY, NewOp::Remove, None).await.unwrap().version, 5);
    assert_eq!(plain(), "");
    assert_eq!(done(&world, KEY, NewOp::Remove, None).await.unwrap_err().code(), Code::ConfigKeyNotFound);
    let there = etcd("/found");
    let kept = there.history(&scope(), &key(KEY), None, 10).await.unwrap();
    assert_eq!(kept.iter().map(|stored| stored.version).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
    assert_eq!(kept[3].labels.len(), 1, "{kept:?}");
    let many = vec![write(KEY, json("1"), None), write("param_config_a", json("1"), None)];
    let refused = world.service.transact(&key_of(1), many, None).await.unwrap_err();
    assert!(refused.detail().contains("one at a time"), "{refused}");
    assert_eq!(put(&world, "param_config_a", "1").await, 1, "the others are where they were");
    assert_eq!(etcdctl(&["get", "--print-value-only", &name_in("/found", "param_config_a")]), "");
}

/// How many names of a tenant etcd has below a root, whatever they are of.
fn names_of(root: &str, number: u128) -> usize {
    let of = format!("/{}/", Scope::Tenant(tenant(number)));
    etcdctl(&["get", "--prefix", "--keys-only", &format!("{root}/")])
        .lines()
        .filter(|name| name.contains(&of))
        .count()
}

#[tokio::test]
async fn what_a_deleted_tenant_had_goes_from_backends_too() {
    let world = World::with_etcd("/reaped", SOON).await;
    put(&world, KEY, "1").await;
    let of_two = vec![write(KEY, json("2"), None)];
    world.service.transact(&key_of(2), of_two, None).await.unwrap();
    // A tag has been in the second one and left its values there.
    moved(&world, TAG, "second").await;
    moved(&world, TAG, "etcd").await;
    let stray = |number| NewVersion {
        scope: Scope::Tenant(tenant(number)),
        key: key(KEY),
        version: 1,
        value: Some(b"1".to_vec()),
        author: "key:x".to_owned(),
        at: SystemClock.now(),
        note: String::new(),
    };
    for number in [8, 9] {
        etcd("/reaped").write(&stray(number), 0).await.unwrap();
    }
    let counts = |number| (names_of("/reaped", number), names_of("/reaped.second", number));
    let all = [1, 2, 8, 9].map(counts);
    assert!(all[..2].iter().all(|(one, other)| *one > 0 && *other > 0) && all[3].0 > 0, "{all:?}");

    // One that may be taken back keeps what it has, and one that the catalog never had.
    world.deleted(2, TenantStatus::Deleting).await;
    world.deleted(9, TenantStatus::Deleted).await;
    until("a tombstone's values go", async || (counts(9).0 == 0).then_some(())).await;
    assert_eq!([counts(1), counts(2), counts(8)], [all[0], all[1], all[2]]);

    world.deleted(2, TenantStatus::Deleted).await;
    until("all that it had goes", async || (counts(2) == (0, 0)).then_some(())).await;
    assert_eq!([counts(1), counts(8)], [all[0], all[2]]);
    // What comes there late goes too.
    etcd("/reaped").write(&stray(2), 0).await.unwrap();
    until("it goes again", async || (counts(2).0 == 0).then_some(())).await;
    assert_eq!(put(&world, KEY, "3").await, 2);
}

#[tokio::test]
async fn secrets_are_sealed_before_they_go_anywhere() {
    let world = World::with_etcd("/sealed", SOON).await;
    let name = "secret_config_smtp";
    put(&world, name, "\"hunter1\"").await;
    moved(&world, "secret_config_", "etcd").await;
    put(&world, name, "\"hunter2\"").await;
    let all = etcdctl(&["get", "--prefix", "/sealed/"]);
    assert!(all.contains("sealed:") && !all.contains("hunter"), "{all}");
    let revealed = async || {
        let asked = Asked { key: name.to_owned(), reveal: true, ..Asked::default() };
        let stored = world.service.get(&key_of(1), &asked).await.unwrap();
        match stored.value {
            Some(ConfigValue::Secret(plain)) => (stored.version, String::from_utf8(plain.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(revealed().await, (2, "\"hunter2\"".to_owned()));
    // Others have no keys: what they write in clear is sealed where we keep it.
    etcdctl(&["put", &name_in("/sealed", name), "hunter3"]);
    until("the secret is taken over", async || (revealed().await.0 == 3).then_some(())).await;
    assert_eq!(revealed().await.1, "\"hunter3\"");
    let asked = Asked { key: name.to_owned(), ..Asked::default() };
    assert_eq!(shown(&world.service.get(&key_of(1), &asked).await.unwrap()), "sealed");
    moved(&world, "secret_config_", OWN_BACKEND).await;
    assert_eq!(revealed().await, (3, "\"hunter3\"".to_owned()));
    moved(&world, "secret_config_", "etcd").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_secret_that_is_sent_twice_at_once_is_one_version() {
    let world = World::with_etcd("/twice", NEVER).await;
    moved(&world, "secret_config_", "etcd").await;
    for round in 1..=20 {
        // Each is sealed with a key of its own, and so is another text in etcd.
        let send = || {
            let (service, token) = (world.service.clone(), Some(format!("token-{round}")));
            let secret = write("secret_config_smtp", json("\"hunter2\""), None);
            tokio::spawn(async move { service.transact(&key_of(1), vec![secret], token).await })
        };
        for sent in [send(), send(), send()] {
            assert_eq!(sent.await.unwrap().unwrap()[0].version, round);
        }
    }
}

#[tokio::test]
async fn what_others_write_becomes_the_next_version() {
    let world = World::with_etcd("/others", SOON).await;
    moved(&world, TAG, "etcd").await;
    put(&world, KEY, "1").await;
    let mut client = world.admin(1).await;
    let (mut watch, _) = Watch::all(&mut client).await;
    etcdctl(&["put", &name_in("/others", KEY), "{ \"b\": 2 }"]);
    assert_eq!(watch.delta().await, [format!("{KEY}={{\"b\":2}}")]);
    etcdctl(&["put", &name_in("/others", KEY), "plain word"]);
    assert_eq!(watch.delta().await, [format!("{KEY}=\"plain word\"")]);
    etcdctl(&["del", &name_in("/others", KEY)]);
    assert_eq!(watch.delta().await, [KEY]);
    etcdctl(&["put", &name_in("/others", "tenant_config_new"), "3"]);
    assert_eq!(watch.delta().await, ["tenant_config_new=3"]);
    let external = AUTHOR_EXTERNAL.to_owned();
    let kept = versions(&world.values(), KEY).await;
    let authors: Vec<&String> = kept.iter().map(|(_, author, _)| author).collect();
    assert_eq!(authors[1..], [&external, &external, &external]);
    assert_ne!(authors[0], &external);
    assert_eq!(put(&world, KEY, "4").await, 5);
    // What is under no tag of the backend, or of no tenant, is left alone.
    etcdctl(&["put", &name_in("/others", "param_config_a"), "1"]);
    let nobody = format!("/others/values/{}/{KEY}", Scope::Tenant(tenant(77)));
    etcdctl(&["put", &nobody, "1"]);
    etcdctl(&["put", &name_in("/others", "tenant_config_last"), "1"]);
    assert_eq!(watch.delta().await, [format!("{KEY}=4")]);
    assert_eq!(watch.delta().await, ["tenant_config_last=1"]);
    assert!(versions(&world.values(), "param_config_a").await.is_empty());
}

#[tokio::test]
async fn a_change_that_is_told_of_is_looked_at_at_once() {
    let world = World::with_etcd("/told", NEVER).await;
    moved(&world, TAG, "etcd").await;
    put(&world, KEY, "1").await;
    let name = name_in("/told", KEY);
    etcdctl(&["put", &name, "2"]);
    assert_eq!(seen(&world, KEY).await, "1", "nobody has looked");
    let event = |name: &str| {
        let source = "\"source\": \"aws.ssm\", \"detail-type\": \"Parameter Store Change\"";
        format!("[{{{source}, \"detail\": {{\"operation\": \"Update\", \"name\": \"{name}\"}}}}]")
    };
    let told = async |name: &str| {
        world.service.take_events(&operator(), event(name).as_bytes()).await.map_err(|problem| problem.code())
    };
    assert_eq!(told(&name).await, Ok((1, 0)));
    assert_eq!(seen(&world, KEY).await, "2");
    for other in ["/elsewhere", "/told/values/platform/x y", &name_in("/told", "param_config_a")] {
        assert_eq!(told(other).await, Ok((0, 1)), "{other}");
    }
    let by_tenant = world.service.take_events(&key_of(1), event(&name).as_bytes()).await;
    assert_eq!(by_tenant.unwrap_err().code(), Code::Forbidden);
    let no_event = world.service.take_events(&operator(), b"[{}]").await;
    assert_eq!(no_event.unwrap_err().code(), Code::InvalidRequest);
    // A write that has not heard of it sees it in the conflict.
    etcdctl(&["put", &name, "3"]);
    let conflict = done(&world, KEY, json("4"), Some(2)).await.unwrap_err();
    assert_eq!(conflict.code(), Code::ConfigVersionConflict);
    assert_eq!(seen(&world, KEY).await, "3");
    etcdctl(&["put", &name, "5"]);
    assert_eq!(put(&world, KEY, "6").await, 5, "without a condition it is the next one");
}

/// Puts a table past the rules, as one that was there before.
pub async fn put_table(world: &World, table: &TagTable) {
    let written = put_table_unseen(world, table).await;
    until("the table is known", async || {
        let known = world.values().newest(&[Scope::Platform], &TagTable::KEY.parse().unwrap()).await.unwrap();
        let known = known.layers.into_iter().find_map(|layer| layer.stored).map_or(0, |known| known.version);
        (known >= written.version && *world.service.tags() == *table).then_some(())
    })
    .await;
}

/// The same, which nobody may look at.
pub async fn put_table_unseen(world: &World, table: &TagTable) -> Written {
    let key: ConfigKey = TagTable::KEY.parse().unwrap();
    let op = WriteOp::Put(ConfigValue::Json(serde_json::to_vec(table).unwrap().into()));
    let write = Write {
        scope: Scope::Platform,
        key,
        op,
        if_version: None,
        note: String::new(),
        history: 100,
        is_secret: false,
        room: Room::Usual,
        made: None,
    };
    let transaction = Transaction {
        writes: vec![write],
        token: None,
        author: "test".to_owned(),
        tags: None,
        schemas: Vec::new(),
    };
    world.provided().writer().write(transaction).await.unwrap()[0]
}

#[tokio::test]
async fn a_backend_that_is_away_holds_up_its_own_writes_alone() {
    let world = World::with_etcd("/away", SOON).await;
    put(&world, KEY, "1").await;
    put(&world, "param_config_a", "1").await;
    let table = serde_json::to_string(&*world.service.tags()).unwrap();
    let away = |backend: &str| {
        let place = format!("{{\"kind\":\"key-value\",\"backend\":\"{backend}\"");
        TagTable::parse(
            table.replacen("{\"kind\":\"key-value\",\"backend\":\"postgres\"", &place, 2).as_bytes(),
        )
        .unwrap()
    };
    put_table(&world, &away("nowhere")).await;
    let refused = done(&world, KEY, json("2"), None).await.unwrap_err();
    assert_eq!(refused.code(), Code::ConfigBackendUnavailable, "{refused}");
    assert_eq!(seen(&world, KEY).await, "1", "it is read");
    let mut client = world.admin(1).await;
    let (mut watch, _) = Watch::all(&mut client).await;
    assert_eq!(put(&world, "param_config_a", "2").await, 2);
    assert_eq!(watch.delta().await, ["param_config_a=2"]);
    assert!(!place(&world, TAG).await.is_reached);
    assert!(place(&world, "param_config_").await.is_reached);
    put_table(&world, &away("unheard")).await;
    let refused = done(&world, KEY, json("2"), None).await.unwrap_err();
    assert_eq!(refused.code(), Code::ConfigBackendUnavailable);
    assert!(refused.detail().contains("no backend unheard"), "{refused}");
}

/// A write that has reached etcd, and whose process has ended then.
async fn ended_between(world: &World, root: &str, text: &'static str, token: Option<&str>) {
    let author = key_of(1).name();
    let write = Write {
        scope: scope(),
        key: key(KEY),
        op: WriteOp::Put(ConfigValue::Json(text.into())),
        if_version: None,
        note: "why".to_owned(),
        history: 100,
        is_secret: false,
        room: Room::Usual,
        made: None,
    };
    let token = token.map(str::to_owned);
    let transaction =
        Transaction { writes: vec![write], token, author: author.clone(), tags: None, schemas: Vec::new() };
    let mark = world.values().mark(&transaction);
    let Plan::Next(next) = world.values().writer().plan(transaction).await.unwrap() else {
        panic!("no plan")
    };
    let new = NewVersion {
        scope: scope(),
        key: key(KEY),
        version: next.made.version,
        value: Some(text.as_bytes().to_vec()),
        author: marked(&author, &mark),
        at: SystemClock.now(),
        note: "why".to_owned(),
    };
    etcd(root).write(&new, next.expected).await.unwrap();
}

async fn under_token(world: &World, caller: &Caller, text: &str, token: &str) -> Result<i64, Code> {
    let writes = vec![write(KEY, json(text), None)];
    let done = world.service.transact(caller, writes, Some(token.to_owned())).await;
    done.map(|written| written[0].version).map_err(|problem| problem.code())
}

#[tokio::test]
async fn a_write_that_ended_between_is_found_and_done_once() {
    let world = World::with_etcd("/between", SOON).await;
    moved(&world, TAG, "etcd").await;
    put(&world, KEY, "1").await;
    ended_between(&world, "/between", "2", None).await;
    until("it is found", async || (seen(&world, KEY).await == "2").then_some(())).await;
    let kept = versions(&world.values(), KEY).await;
    assert_eq!(kept[1], (2, key_of(1).name(), "2".to_owned()), "its author is who wrote it");
    assert_eq!(under_token(&world, &key_of(1), "3", "t1").await, Ok(3));
    assert_eq!(under_token(&world, &key_of(1), "3", "t1").await, Ok(3), "once");
    assert_eq!(under_token(&world, &key_of(1), "4", "t1").await, Err(Code::IdempotencyKeyReused));
    ended_between(&world, "/between", "5", Some("t2")).await;
    assert_eq!(under_token(&world, &key_of(1), "5", "t2").await, Ok(4), "it was done already");
    assert_eq!(under_token(&world, &key_of(1), "5", "t2").await, Ok(4));
    assert_eq!(versions(&world.values(), KEY).await.len(), 4);
    // The same after the tag has gone elsewhere in between.
    ended_between(&world, "/between", "6", Some("t3")).await;
    moved(&world, TAG, OWN_BACKEND).await;
    assert_eq!(under_token(&world, &key_of(1), "6", "t3").await, Ok(5));
    assert_eq!(under_token(&world, &key_of(1), "7", "t4").await, Ok(6), "canary: another one is");
    assert_eq!(versions(&world.values(), KEY).await.len(), 6);
}

#[tokio::test]
async fn a_backend_that_was_set_back_gets_what_it_lacks() {
    let world = World::with_etcd("/lost", NEVER).await;
    moved(&world, TAG, "etcd").await;
    for text in ["1", "2", "3"] {
        put(&world, KEY, text).await;
    }
    etcd("/lost").forget(&scope()).await.unwrap();
    assert_eq!(put(&world, KEY, "4").await, 4);
    let kept = etcd("/lost").history(&scope(), &key(KEY), None, 10).await.unwrap();
    assert_eq!(kept.iter().map(|stored| stored.version).collect::<Vec<_>>(), [4, 3, 2, 1]);
}

#[tokio::test]
async fn versions_are_read_as_ever() {
    let world = World::with_etcd("/read", NEVER).await;
    moved(&world, TAG, "etcd").await;
    for text in ["1", "2"] {
        put(&world, KEY, text).await;
    }
    let asked = |which| Asked { key: KEY.to_owned(), which, ..Asked::default() };
    let first = world.service.get(&key_of(1), &asked(Some(Which::Version(1)))).await.unwrap();
    assert_eq!(shown(&first), "1");
    let explained = world.service.explain(&key_of(1), "", KEY).await.unwrap();
    assert_eq!(explained.value().map(shown).as_deref(), Some("2"));
    let mut operator = world.operator().await;
    let platform = v1::PutRequest { scope: "platform".to_owned(), ..crate::support::put(KEY, "9") };
    operator.put(platform).await.unwrap();
    let mut globex = world.admin(2).await;
    let (_, snapshot) = Watch::all(&mut globex).await;
    if crate::support::texts(&snapshot).is_empty() {
        let (mut watch, _) = Watch::all(&mut globex).await;
        assert_eq!(watch.delta().await, [format!("{KEY}=9")]);
    }
    assert_eq!(etcdctl(&["get", "--print-value-only", &format!("/read/values/platform/{KEY}")]), "9");
}
