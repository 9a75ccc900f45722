//! Staged rollouts the whole way: to the first tenants, to more, to all, taken
//! back by what clients say, across a restart, and seen by nobody else before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use insula_access::{Holder, Pass};
use insula_config_model::{Plan, RolloutState, Share, Stored};
use insula_config_proto::flagd::evaluation::v1::ResolveBooleanRequest;
use insula_config_proto::flagd::evaluation::v1::service_client::ServiceClient;
use insula_config_proto::v1;
use insula_config_proto::v1::rollouts_client::RolloutsClient;
use insula_config_service::{Asked, Caller, NewOp, NewRollout, NewWrite, Progress, Steer, WatchAsked, page};
use insula_domain::ApiKeyId;
use insula_problem::{Code, Problem};
use insula_testkit::ManualClock;
use uuid::Uuid;

use crate::support::{Bearer, PATIENCE, Watch, World, code, get, put as put_request, tenant, text};

pub const KEY: &str = "tenant_config_theme";
pub const MINUTE: Duration = Duration::from_secs(60);

pub fn operator() -> Caller {
    Caller::new(Arc::new(Pass::unending(Holder::Operator { email: "ada@example.com".to_owned() })))
}

pub fn key_of(number: u128) -> Caller {
    let (id, tenant, role) =
        (ApiKeyId::from(Uuid::from_u128(number)), tenant(number), "tenant_admin".to_owned());
    Caller::new(Arc::new(Pass::unending(Holder::Key { id, tenant, role, path: None })))
}

pub fn rollout(scope: &str, json: &'static str, percents: &[f64], tenants: &[&str]) -> NewRollout {
    let write = NewWrite {
        scope: scope.to_owned(),
        key: KEY.to_owned(),
        op: NewOp::Put(Bytes::from_static(json.as_bytes())),
        if_version: None,
        note: String::new(),
    };
    let plan = Plan {
        steps: percents.iter().map(|percent| Share::of_percent(*percent).unwrap()).collect(),
        tenants: Vec::new(),
        bake_seconds: 60,
        rejections: 0,
        confirmations: 0,
    };
    NewRollout { write, plan, tenants: tenants.iter().map(|name| (*name).to_owned()).collect() }
}

fn json(stored: &Stored) -> String {
    format!("{:?}", stored.value.as_ref().unwrap())
}

/// A tenant's theme by `Get`, by `List` and by `Explain`, which have to agree.
async fn sees(world: &World, number: u128) -> String {
    let caller = key_of(number);
    let asked = Asked { key: KEY.to_owned(), ..Asked::default() };
    let got = world.service.get(&caller, &asked).await.unwrap();
    let asked = Asked { key: "tenant_config_".to_owned(), ..Asked::default() };
    let listed = world.service.list(&caller, &asked, page(0), None).await.unwrap().entries;
    let explained = world.service.explain(&caller, "", KEY).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&got));
    assert_eq!(explained.value(), Some(&got));
    json(&got)
}

/// The same by a watch, which begins now.
async fn watched(world: &World, number: u128) -> String {
    let mut client = world.admin(number).await;
    let (_, snapshot) = Watch::all(&mut client).await;
    snapshot.entries.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// Until the provider's newest changes are in the region.
pub async fn copied(world: &World) {
    let there = async {
        loop {
            let wanted = world.service.rollout(&operator(), "platform", KEY).await.unwrap();
            let asked = Asked {
                key: format!("insula_rollout/{KEY}"),
                scope: "tenant/acme".to_owned(),
                ..Asked::default()
            };
            let found = world.service.get(&operator(), &asked).await;
            if found.is_ok_and(|found| found.at == wanted.at && found.author == wanted.author) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
        }
    };
    tokio::time::timeout(PATIENCE, there).await.unwrap();
}

/// Has the time of a step go by, and the rollout looked at.
pub async fn a_step(world: &World, clock: &ManualClock) -> Progress {
    clock.advance(MINUTE);
    world.service.look_at_rollouts().await.unwrap();
    world.service.rollout(&operator(), "platform", KEY).await.unwrap()
}

pub async fn put(world: &World, json: &'static str) {
    let write = rollout("platform", json, &[100.0], &[]).write;
    world.service.transact(&operator(), vec![write], None).await.unwrap();
}

#[tokio::test]
async fn a_value_reaches_the_first_tenants_then_more_then_all_across_a_restart() {
    let clock = ManualClock::default();
    let mut world = World::with_clock(Arc::new(clock.clone()), 40).await;
    put(&world, "1").await;
    let asked = rollout("platform", "2", &[25.0, 50.0, 100.0], &["globex"]);
    let begun = world.service.start_rollout(&operator(), asked).await.unwrap();
    assert_eq!((begun.rollout.state, begun.rollout.candidate), (RolloutState::Running, 2));
    copied(&world).await;
    let all: Vec<u128> = [1, 2, 3].into_iter().chain(1_000..1_040).collect();
    let mut before = 0;
    for wanted in [25.0, 50.0, 100.0] {
        let now = world.service.rollout(&operator(), "platform", KEY).await.unwrap();
        assert_eq!(now.rollout.share().percent(), wanted);
        let mut reached = 0;
        for number in all.iter().copied() {
            let is_reached = now.rollout.reaches(tenant(number));
            let wanted = if is_reached { "Json(2)" } else { "Json(1)" };
            assert_eq!(sees(&world, number).await, wanted, "{number}");
            reached += usize::from(is_reached);
        }
        assert!(reached > before, "{reached} of {} at {wanted} %", all.len());
        assert!(now.rollout.reaches(tenant(2)), "who was named is among the first");
        before = reached;
        for number in [1, 2, 3] {
            let wanted = if now.rollout.reaches(tenant(number)) { "=2" } else { "=1" };
            assert_eq!(watched(&world, number).await, format!("{KEY}{wanted}"));
        }
        // The next step is another process's, which has nothing but the store.
        world.restart().await;
        world.service.look_at_rollouts().await.unwrap();
        let same = world.service.rollout(&operator(), "platform", KEY).await.unwrap();
        assert_eq!(same.rollout, now.rollout, "its time has not come");
        a_step(&world, &clock).await;
        copied(&world).await;
    }
    let done = world.service.rollout(&operator(), "platform", KEY).await.unwrap();
    assert_eq!((done.rollout.state, done.author.as_str()), (RolloutState::Completed, "insula:rollout"));
    // What comes next is written as ever, and is everybody's at once.
    put(&world, "3").await;
    let mut acme = world.admin(1).await;
    let there = async {
        while acme.get(get(KEY)).await.unwrap().into_inner().entry.unwrap().version != 3 {
            tokio::time::sleep(Duration::from_millis(5)).await; // until it is copied
        }
    };
    tokio::time::timeout(PATIENCE, there).await.unwrap();
    for number in [1, 2, 1_000] {
        assert_eq!(sees(&world, number).await, "Json(3)");
    }
}

#[tokio::test]
async fn a_version_that_clients_refuse_is_taken_back_by_itself() {
    let clock = ManualClock::default();
    let world = World::with_clock(Arc::new(clock.clone()), 0).await;
    put(&world, "1").await;
    let (mut acme, mut globex) = (world.admin(1).await, world.admin(2).await);
    let begun = async {
        while acme.get(get(KEY)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await; // until it is copied
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
    let (mut of_acme, mut of_globex) = (Watch::all(&mut acme).await.0, Watch::all(&mut globex).await.0);
    let asked = rollout("platform", "2", &[0.01, 100.0], &["globex"]);
    world.service.start_rollout(&operator(), asked).await.unwrap();
    assert_eq!(of_globex.delta().await, [format!("{KEY}=2")]);
    // One whom it does not reach yet refuses nothing, whatever it says.
    let refuse = |version| v1::AcknowledgeRequest {
        client_id: "shop-1".to_owned(),
        revision: 1,
        states: vec![v1::acknowledge_request::State {
            key: KEY.to_owned(),
            version,
            rejection: "no such colour".to_owned(),
            set_in: "platform".to_owned(),
        }],
        scope: String::new(),
    };
    acme.acknowledge(refuse(2)).await.unwrap();
    globex.acknowledge(refuse(1)).await.unwrap();
    world.service.look_at_rollouts().await.unwrap();
    let now = world.service.rollout(&operator(), "platform", KEY).await.unwrap();
    assert_eq!((now.rollout.state, now.health.rejecting), (RolloutState::Running, 0));
    globex.acknowledge(refuse(2)).await.unwrap();
    // Nobody has to ask for it.
    assert_eq!(of_globex.delta().await, [format!("{KEY}=1")]);
    let ended = world.service.rollout(&operator(), "platform", KEY).await.unwrap();
    assert_eq!(ended.rollout.state, RolloutState::RolledBack);
    assert!(ended.rollout.cause.contains("no such colour"), "{}", ended.rollout.cause);
    // Acme has heard of the version that set the old value again, and of nothing else.
    let news = of_acme.news().await;
    let v1::watch_event::Event::Delta(delta) = news else { panic!("{news:?}") };
    assert_eq!(
        delta.entries.iter().map(|entry| (entry.version, text(entry))).collect::<Vec<_>>(),
        [(3, format!("{KEY}=1"))]
    );
    a_step(&world, &clock).await;
    assert_eq!(sees(&world, 2).await, "Json(1)", "it stays so");
}

#[tokio::test]
async fn a_rollout_is_paused_resumed_and_aborted() {
    let clock = ManualClock::default();
    let world = World::with_clock(Arc::new(clock.clone()), 0).await;
    let caller = operator();
    let steer = |steer| world.service.steer_rollout(&caller, ("tenant/acme", KEY), steer, "why".to_owned());
    let look = || async {
        clock.advance(10 * MINUTE);
        world.service.look_at_rollouts().await.unwrap();
        world.service.rollout(&operator(), "tenant/acme", KEY).await.unwrap().rollout
    };
    // Below a tenant: nothing is set before, and branch sees acme's.
    let asked = rollout("tenant/acme", "1", &[0.01, 50.0, 100.0], &["acme"]);
    world.service.start_rollout(&operator(), asked).await.unwrap();
    let asked = Asked { key: KEY.to_owned(), ..Asked::default() };
    assert_eq!(sees(&world, 1).await, "Json(1)");
    let nothing = world.service.get(&key_of(3), &asked).await.unwrap_err();
    assert_eq!(nothing.code(), Code::ConfigKeyNotFound);
    assert_eq!(steer(Steer::Resume).await.unwrap_err().code(), Code::RolloutStatusConflict);
    let paused = steer(Steer::Pause).await.unwrap();
    assert_eq!((paused.rollout.state, paused.rollout.cause.as_str()), (RolloutState::Paused, "why"));
    assert_eq!(look().await.step, 0);
    assert_eq!(world.service.rollouts(&operator(), "tenant/acme").await.unwrap().len(), 1);
    steer(Steer::Resume).await.unwrap();
    assert_eq!(look().await.step, 1);
    let aborted = steer(Steer::Abort).await.unwrap();
    assert_eq!(aborted.rollout.state, RolloutState::Aborted);
    for number in [1, 3] {
        let nothing = world.service.get(&key_of(number), &asked).await.unwrap_err();
        assert_eq!(nothing.code(), Code::ConfigKeyNotFound, "{number}");
    }
    for act in [Steer::Pause, Steer::Resume, Steer::Abort] {
        assert_eq!(steer(act).await.unwrap_err().code(), Code::RolloutStatusConflict);
    }
    assert!(world.service.rollouts(&operator(), "tenant/acme").await.unwrap().is_empty());
    // A write ends one: what was written counts for all.
    let asked = rollout("tenant/acme", "5", &[0.01, 100.0], &[]);
    world.service.start_rollout(&operator(), asked).await.unwrap();
    let write = rollout("tenant/acme", "6", &[100.0], &[]).write;
    world.service.transact(&operator(), vec![write], None).await.unwrap();
    assert_eq!(sees(&world, 3).await, "Json(6)");
    assert_eq!(steer(Steer::Abort).await.unwrap_err().code(), Code::RolloutStatusConflict);
    assert_eq!(look().await.state, RolloutState::Superseded);
    assert_eq!(sees(&world, 3).await, "Json(6)");
}

#[tokio::test]
async fn what_was_removed_before_is_removed_again_when_it_is_taken_back() {
    let world = World::with_clock(Arc::new(ManualClock::default()), 0).await;
    let mut globex = world.admin(2).await;
    let write = |json| rollout("tenant/globex", json, &[100.0], &[]).write;
    let removal = NewWrite { op: NewOp::Remove, ..write("") };
    for write in [write("1"), removal] {
        world.service.transact(&operator(), vec![write], None).await.unwrap();
    }
    let mut watch = Watch::all(&mut globex).await.0;
    let asked = rollout("tenant/globex", "2", &[0.01, 100.0], &["globex"]);
    world.service.start_rollout(&operator(), asked).await.unwrap();
    assert_eq!(watch.delta().await, [format!("{KEY}=2")]);
    let place = ("tenant/globex", KEY);
    let back = world.service.steer_rollout(&operator(), place, Steer::Abort, String::new()).await.unwrap();
    assert_eq!(back.rollout.state, RolloutState::Aborted);
    assert_eq!(watch.delta().await, [KEY], "it is gone again");
    assert_eq!(code(globex.get(get(KEY)).await), "config_key_not_found");
    let asked = v1::HistoryRequest { key: KEY.to_owned(), ..Default::default() };
    let versions = globex.history(asked).await.unwrap().into_inner().versions;
    assert_eq!(
        versions.iter().map(text).collect::<Vec<_>>(),
        [KEY, &format!("{KEY}=2"), KEY, &format!("{KEY}=1")]
    );
}

#[tokio::test]
async fn rollouts_are_listed_by_their_scope() {
    let world = World::with_clock(Arc::new(ManualClock::default()), 0).await;
    for scope in ["tenant/acme", "tenant/globex", "platform", "tier/free"] {
        world.service.start_rollout(&operator(), rollout(scope, "1", &[0.01, 100.0], &[])).await.unwrap();
    }
    for scope in ["tenant/acme", "platform", "tier/free"] {
        let listed = world.service.rollouts(&operator(), scope).await.unwrap();
        assert_eq!(listed.len(), 1, "{scope}");
        let wanted = if scope == "tenant/acme" { format!("tenant/{}", tenant(1)) } else { scope.to_owned() };
        assert_eq!(listed[0].scope.to_string(), wanted);
    }
    assert!(world.service.rollouts(&operator(), "tenant/branch").await.unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_rolled_out_is_refused_and_changes_nothing() {
    let world = World::new().await;
    put(&world, "1").await;
    let refused = |asked| async {
        let refused: Problem = world.service.start_rollout(&operator(), asked).await.unwrap_err();
        refused.code()
    };
    let good = || rollout("platform", "2", &[5.0, 100.0], &[]);
    let other = |change: fn(&mut NewRollout)| {
        let mut asked = good();
        change(&mut asked);
        refused(asked)
    };
    assert_eq!(other(|asked| asked.plan.steps.truncate(1)).await, Code::InvalidRequest);
    assert_eq!(other(|asked| asked.plan.bake_seconds = u32::MAX).await, Code::InvalidRequest);
    assert_eq!(other(|asked| asked.tenants = vec!["nobody".to_owned()]).await, Code::TenantNotFound);
    assert_eq!(other(|asked| asked.write.key = "theme".to_owned()).await, Code::ConfigTagUnknown);
    assert_eq!(other(|asked| asked.write.key = "insula_tags".to_owned()).await, Code::InvalidRequest);
    assert_eq!(
        other(|asked| asked.write.key = format!("tenant_config_{}", "k".repeat(490))).await,
        Code::ConfigKeyInvalid
    );
    assert_eq!(
        other(|asked| asked.write.op = NewOp::Put(Bytes::from_static(b"{"))).await,
        Code::ConfigValueInvalid
    );
    assert_eq!(other(|asked| asked.write.if_version = Some(7)).await, Code::ConfigVersionConflict);
    let own = rollout("tenant/nobody", "2", &[100.0], &[]);
    assert_eq!(refused(own).await, Code::TenantNotFound);
    let none = world.service.rollout(&operator(), "platform", KEY).await.unwrap_err();
    assert_eq!(none.code(), Code::RolloutNotFound);
    // Tenants neither begin rollouts nor see whom they reach first.
    let theirs = world.service.start_rollout(&key_of(1), rollout("", "2", &[100.0], &[])).await;
    assert_eq!(theirs.unwrap_err().code(), Code::Forbidden);
    world
        .service
        .start_rollout(&operator(), rollout("platform", "2", &[0.01, 100.0], &["globex"]))
        .await
        .unwrap();
    assert_eq!(refused(good()).await, Code::RolloutStatusConflict);
    copied(&world).await;
    let own = format!("insula_rollout/{KEY}");
    let mut acme = world.admin(1).await;
    assert_eq!(code(acme.get(get(&own)).await), "forbidden");
    let listed =
        acme.list(v1::ListRequest { prefix: "insula_".to_owned(), ..Default::default() }).await.unwrap();
    assert_eq!(listed.into_inner().entries, []);
    let asked = WatchAsked { prefixes: vec!["insula_".to_owned()], ..WatchAsked::default() };
    let mut watch =
        Watch::begin(&mut acme, v1::WatchRequest { prefixes: asked.prefixes.clone(), ..Default::default() })
            .await;
    assert_eq!(watch.snapshot().await.entries, []);
    let by_hand = NewWrite { key: own, ..rollout("platform", "{}", &[100.0], &[]).write };
    let by_hand = world.service.transact(&operator(), vec![by_hand], None).await.unwrap_err();
    assert_eq!(by_hand.code(), Code::Forbidden);
}

const FLAG: &str = "tenant_config_flag/banner";

fn flag(variant: &'static str) -> &'static str {
    match variant {
        "on" => r#"{"state":"ENABLED","variants":{"on":true,"off":false},"defaultVariant":"on"}"#,
        _ => r#"{"state":"ENABLED","variants":{"on":true,"off":false},"defaultVariant":"off"}"#,
    }
}

#[tokio::test]
async fn flags_and_those_who_come_back_are_of_the_same_step() {
    let world = World::with_clock(Arc::new(ManualClock::default()), 0).await;
    let asked = |variant, percents: &[f64]| {
        let mut asked = rollout("tenant/acme", flag(variant), percents, &["acme"]);
        asked.write.key = FLAG.to_owned();
        asked
    };
    world.service.transact(&operator(), vec![asked("off", &[100.0]).write], None).await.unwrap();
    let (mut acme, mut branch) = (world.admin(1).await, world.admin(3).await);
    let (of_acme, of_branch) = (Watch::all(&mut acme).await.1, Watch::all(&mut branch).await.1);
    world.service.start_rollout(&operator(), asked("on", &[0.01, 100.0])).await.unwrap();
    for (number, wanted) in [(1, true), (3, false)] {
        let key = world.credential(number, "reader").await;
        let mut flags = ServiceClient::with_interceptor(world.channel(), Bearer(key));
        let ask = ResolveBooleanRequest { flag_key: "banner".to_owned(), context: None };
        let answer = flags.resolve_boolean(ask).await.unwrap().into_inner();
        assert_eq!(answer.value, wanted, "{number}");
    }
    for (client, seen, wanted) in [(&mut acme, of_acme, 2), (&mut branch, of_branch, 1)] {
        let back = v1::WatchRequest { from_revision: seen.revision, view: seen.view, ..Default::default() };
        let mut watch = Watch::begin(client, back).await;
        let v1::watch_event::Event::Delta(delta) = watch.news().await else { panic!("what was missed") };
        let versions: Vec<_> =
            delta.entries.iter().map(|entry| (entry.key.as_str(), entry.version)).collect();
        assert_eq!(versions, [(FLAG, wanted)]);
    }
}

#[tokio::test]
async fn rollouts_are_offered_over_grpc_to_operators_alone() {
    let world = World::with_clock(Arc::new(ManualClock::default()), 0).await;
    let client = |credential: String| RolloutsClient::with_interceptor(world.channel(), Bearer(credential));
    let mut operator = client(world.operator_token().await);
    let mut tenant = client(world.credential(1, "tenant_admin").await);
    let start = |json: &'static str| v1::StartRolloutRequest {
        op: Some(v1::transact_request::Op {
            op: Some(v1::transact_request::op::Op::Put(v1::PutRequest {
                scope: "tenant/acme".to_owned(),
                ..put_request(KEY, json)
            })),
        }),
        steps: vec![0.01, 100.0],
        bake_seconds: 60,
        tenants: vec!["acme".to_owned()],
        ..Default::default()
    };
    let bare = v1::StartRolloutRequest { op: None, ..start("1") };
    assert_eq!(code(operator.start(bare).await), "invalid_request");
    let beyond = v1::StartRolloutRequest { steps: vec![0.0, 101.0], ..start("1") };
    assert_eq!(code(operator.start(beyond).await), "invalid_request");
    assert_eq!(code(tenant.start(start("1")).await), "forbidden");
    let begun = operator.start(start("1")).await.unwrap().into_inner();
    assert_eq!((begun.state.as_str(), begun.version, begun.step), ("running", 1, 1));
    let show = v1::ShowRolloutRequest { key: KEY.to_owned(), scope: "tenant/acme".to_owned() };
    assert_eq!(operator.show(show.clone()).await.unwrap().into_inner(), begun);
    assert_eq!(code(tenant.show(show).await), "forbidden");
    let list = v1::ListRolloutsRequest { scope: "tenant/acme".to_owned() };
    assert_eq!(operator.list(list.clone()).await.unwrap().into_inner().rollouts, [begun]);
    assert_eq!(code(tenant.list(list).await), "forbidden");
    let explain = v1::ExplainRequest { key: KEY.to_owned(), scope: String::new() };
    let staged = |explained: v1::ExplainResponse| {
        explained.layers.into_iter().find_map(|layer| layer.stage).map(|stage| (stage.version, stage.reached))
    };
    for (number, reached) in [(1, true), (3, false)] {
        let explained = world.admin(number).await.explain(explain.clone()).await.unwrap().into_inner();
        assert_eq!(staged(explained), Some((1, reached)), "{number}");
    }
    let steer = |act| v1::SteerRolloutRequest {
        key: KEY.to_owned(),
        scope: "tenant/acme".to_owned(),
        act,
        cause: "why".to_owned(),
    };
    assert_eq!(code(operator.steer(steer(0)).await), "invalid_request");
    assert_eq!(code(tenant.steer(steer(3)).await), "forbidden");
    assert_eq!(operator.steer(steer(3)).await.unwrap().into_inner().state, "aborted");
    let clients = v1::ClientsRequest { key: KEY.to_owned(), ..Default::default() };
    assert_eq!(tenant.clients(clients).await.unwrap().into_inner(), v1::ClientsResponse::default());
}
