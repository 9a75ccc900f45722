//! What clients say of what is rolled out: whose words count, for how many, and
//! that none does that was said before there was anything to speak of.

use std::sync::Arc;
use std::time::Duration;

use insula_config_model::RolloutState;
use insula_config_proto::v1;
use insula_config_service::{NewRollout, NewWrite, Progress};
use insula_config_store::{OneVersion, Says};
use insula_problem::Code;
use insula_testkit::ManualClock;

use crate::rollouts::{KEY, MINUTE, a_step, copied, operator, put, rollout};
use crate::support::{Client, World, code, put as put_request, remove, tenant};

/// What one client says of a version of the key.
fn says(client_id: &str, set_in: &str, version: i64, rejection: &str) -> v1::AcknowledgeRequest {
    v1::AcknowledgeRequest {
        client_id: client_id.to_owned(),
        revision: 1,
        states: vec![v1::acknowledge_request::State {
            key: KEY.to_owned(),
            version,
            rejection: rejection.to_owned(),
            set_in: set_in.to_owned(),
        }],
        scope: String::new(),
    }
}

async fn run(client: &mut Client, ids: &[&str], set_in: &str, version: i64) {
    for id in ids {
        client.acknowledge(says(id, set_in, version, "")).await.unwrap();
    }
}

fn confirmed_by(asked: NewRollout, confirmations: u32) -> NewRollout {
    NewRollout { plan: insula_config_model::Plan { confirmations, ..asked.plan }, ..asked }
}

fn far(progress: &Progress) -> (usize, u64) {
    (progress.rollout.step, progress.health.confirmed)
}

/// How many clients run with a version, whether they count or not.
async fn claimed(world: &World, set_in: &str, version: i64) -> u64 {
    let of = OneVersion { key: KEY.parse().unwrap(), set_in: set_in.parse().unwrap(), version };
    let all = world.values().saying((Says::Runs, &of), None, 100).await.unwrap();
    all.iter().map(|saying| saying.clients).sum()
}

#[tokio::test]
async fn a_tenant_confirms_once_and_only_what_it_sees() {
    let clock = ManualClock::default();
    let world = World::with_clock(Arc::new(clock.clone()), 0).await;
    put(&world, "1").await;
    let asked = rollout("platform", "2", &[0.01, 100.0], &["acme", "branch"]);
    let begun = world.service.start_rollout(&operator(), confirmed_by(asked, 2)).await.unwrap();
    assert!(!begun.rollout.reaches(tenant(2)));
    copied(&world).await;
    let (mut acme, mut globex, mut branch) =
        (world.admin(1).await, world.admin(2).await, world.admin(3).await);
    // Globex does not see it, and branch sees what it has set itself.
    branch.put(put_request(KEY, "7")).await.unwrap();
    run(&mut globex, &["a", "b", "c"], "platform", 2).await;
    run(&mut branch, &["a", "b", "c"], "platform", 2).await;
    run(&mut acme, &["a", "b", "c"], "platform", 2).await;
    assert_eq!(claimed(&world, "platform", 2).await, 9, "canary: these would be enough");
    assert_eq!(far(&a_step(&world, &clock).await), (0, 1));
    // It sees what is rolled out again.
    branch.remove(remove(KEY)).await.unwrap();
    let next = a_step(&world, &clock).await;
    assert_eq!(next.rollout.step, 1);
    copied(&world).await;
    let last = a_step(&world, &clock).await;
    assert_eq!((last.rollout.state, last.health.confirmed), (RolloutState::Completed, 3));
}

#[tokio::test]
async fn in_its_own_scope_each_of_a_tenants_clients_confirms() {
    let clock = ManualClock::default();
    let world = World::with_clock(Arc::new(clock.clone()), 0).await;
    let own = format!("tenant/{}", tenant(1));
    let asked = rollout(&own, "1", &[0.01, 100.0], &["acme"]);
    let begun = world.service.start_rollout(&operator(), confirmed_by(asked, 3)).await.unwrap();
    assert!(!begun.rollout.reaches(tenant(3)));
    let step = async || {
        clock.advance(MINUTE);
        world.service.look_at_rollouts().await.unwrap();
        far(&world.service.rollout(&operator(), "tenant/acme", KEY).await.unwrap())
    };
    let (mut acme, mut branch) = (world.admin(1).await, world.admin(3).await);
    run(&mut branch, &["a", "b", "c"], &own, 1).await;
    run(&mut acme, &["a", "b"], &own, 1).await;
    assert_eq!(claimed(&world, &own, 1).await, 5, "canary: these would be enough");
    assert_eq!(step().await, (0, 2), "whom it does not reach confirms nothing");
    run(&mut acme, &["c"], &own, 1).await;
    assert_eq!(step().await, (1, 4), "those below count once each");
}

#[tokio::test]
async fn a_plan_that_nobody_could_confirm_is_refused() {
    let world = World::new().await;
    put(&world, "1").await;
    let begin = async |scope: &str, percents: &[f64], first: &[&str], confirmations| {
        let asked = confirmed_by(rollout(scope, "2", percents, first), confirmations);
        world.service.start_rollout(&operator(), asked).await
    };
    let few = begin("platform", &[0.01, 100.0], &["acme"], 2).await.unwrap_err();
    assert_eq!(few.code(), Code::InvalidRequest);
    assert!(few.detail().contains("reaches 1 who count"), "{}", few.detail());
    for (scope, percents, first, confirmations) in [
        ("platform", &[100.0][..], &[][..], 4),
        ("tier/business", &[100.0][..], &[][..], 1),
        ("tenant/acme", &[0.01, 100.0][..], &["branch"][..], 2),
        ("tenant/acme", &[0.01, 100.0][..], &["globex"][..], 1),
    ] {
        let few = begin(scope, percents, first, confirmations).await.unwrap_err();
        assert_eq!(few.code(), Code::InvalidRequest, "{scope}");
    }
    for (scope, confirmations) in [("tenant/acme", 1_000), ("tier/free", 3)] {
        begin(scope, &[100.0], &[], confirmations).await.unwrap();
    }
    begin("platform", &[0.01, 100.0], &["acme", "branch"], 2).await.unwrap();
}

#[tokio::test]
async fn nothing_is_kept_of_a_version_before_it_is_there() {
    let clock = ManualClock::default();
    let world = World::with_clock(Arc::new(clock.clone()), 0).await;
    put(&world, "1").await;
    let mut globex = world.admin(2).await;
    world.service.start_rollout(&operator(), rollout("platform", "2", &[100.0], &[])).await.unwrap();
    copied(&world).await;
    for version in [3, 1 << 62, i64::MAX, -1] {
        let ahead = says("a", "platform", version, "never");
        assert_eq!(code(globex.acknowledge(ahead).await), "config_version_not_found", "{version}");
    }
    // What there is beside it is kept.
    let mut two = says("b", "platform", 3, "never");
    two.states.push(v1::acknowledge_request::State {
        key: "tenant_config_nothing".to_owned(),
        ..Default::default()
    });
    assert_eq!(code(globex.acknowledge(two).await), "config_version_not_found");
    let nothing = world.values().client_runs(&"tenant_config_nothing".parse().unwrap(), None, 9).await;
    assert_eq!(nothing.unwrap().len(), 1);
    assert_eq!(a_step(&world, &clock).await.rollout.state, RolloutState::Completed);
    let next = rollout("platform", "3", &[100.0], &[]);
    world.service.start_rollout(&operator(), next).await.unwrap();
    copied(&world).await;
    let now = a_step(&world, &clock).await;
    assert_eq!((now.rollout.candidate, now.rollout.state), (3, RolloutState::Completed));
    // Canary: what is said of the next one, once it is there, takes it back.
    world.service.start_rollout(&operator(), rollout("platform", "4", &[100.0], &[])).await.unwrap();
    copied(&world).await;
    globex.acknowledge(says("a", "platform", 4, "never")).await.unwrap();
    world.service.look_at_rollouts().await.unwrap();
    let back = world.service.rollout(&operator(), "platform", KEY).await.unwrap();
    assert_eq!(back.rollout.state, RolloutState::RolledBack);
}

#[tokio::test]
async fn what_a_tenant_has_in_confidence_is_not_spoken_of_below_it() {
    let world = World::new().await;
    let (mut acme, mut branch) = (world.admin(1).await, world.admin(3).await);
    let own = format!("tenant/{}", tenant(1));
    let of = |key: &str, version| {
        let mut word = says("a", &own, version, "");
        key.clone_into(&mut word.states[0].key);
        word
    };
    acme.put(put_request(KEY, "1")).await.unwrap();
    // Whether there is such a version is not told either.
    acme.put(put_request("secret_config_mail", "1")).await.unwrap();
    for version in [1, 2] {
        assert_eq!(code(branch.acknowledge(of("secret_config_mail", version)).await), "invalid_request");
    }
    acme.acknowledge(of("secret_config_mail", 1)).await.unwrap();
    // Canary: what is not in confidence is.
    branch.acknowledge(of(KEY, 1)).await.unwrap();
}

#[tokio::test]
async fn what_another_process_has_just_written_may_be_spoken_of() {
    let world = World::new().await;
    let mut acme = world.admin(1).await;
    for wanted in 1..=30 {
        // Nothing tells this process of it, and it is not asked before.
        let written = world.provide("platform", KEY, Some("1")).await;
        assert_eq!(written.version, wanted);
        acme.acknowledge(says("a", "platform", wanted, "")).await.unwrap();
        let ahead = acme.acknowledge(says("a", "platform", wanted + 1, "")).await;
        assert_eq!(code(ahead), "config_version_not_found");
    }
}

#[tokio::test]
async fn many_whom_it_does_not_reach_hide_nobody_who_refuses_it() {
    let world = World::with_clock(Arc::new(ManualClock::default()), 1).await;
    put(&world, "1").await;
    let asked = rollout("platform", "2", &[0.01, 100.0], &["more-1000"]);
    world.service.start_rollout(&operator(), asked).await.unwrap();
    copied(&world).await;
    // They stand before the one that counts, and more of them than are read at once.
    let unreached = "with t as (
            select 'tenant/00000000-0000-0000-0000-' || lpad(to_hex(n), 12, '0') as scope
            from generate_series(4, 999) n
        ), c as (
            insert into config_clients select scope, 'c', 1, now() from t
        )
        insert into config_client_runs select scope, 'c', $1, 'platform', 2, 'not reached', now() from t";
    let database = world.region.connect().await;
    let put = database.execute(unreached, &[&KEY]);
    assert_eq!(put.await.unwrap(), 996);
    world.service.look_at_rollouts().await.unwrap();
    let now = world.service.rollout(&operator(), "platform", KEY).await.unwrap();
    assert_eq!((now.rollout.state, now.health.rejecting), (RolloutState::Running, 0));
    let of = OneVersion { key: KEY.parse().unwrap(), set_in: "platform".parse().unwrap(), version: 2 };
    let first = world.values().saying((Says::Refuses, &of), None, 500).await.unwrap();
    assert!(first.iter().all(|saying| saying.tenant < tenant(1_000)), "canary: they are in its way");
    let mut more = world.admin(1_000).await;
    more.acknowledge(says("a", "platform", 2, "no such colour")).await.unwrap();
    world.service.look_at_rollouts().await.unwrap();
    let ended = world.service.rollout(&operator(), "platform", KEY).await.unwrap();
    assert_eq!(ended.rollout.state, RolloutState::RolledBack);
    assert!(ended.rollout.cause.contains("one tenant refuse it: no such colour"), "{}", ended.rollout.cause);
}

#[tokio::test]
async fn what_a_tenants_clients_say_has_a_bound_and_is_not_another_tenants() {
    let clock = ManualClock::default();
    let world = World::with_clock(Arc::new(clock.clone()), 0).await;
    let write = NewWrite { scope: "tenant/acme".to_owned(), ..rollout("", "1", &[100.0], &[]).write };
    world.service.transact(&operator(), vec![write], None).await.unwrap();
    let (mut acme, mut globex) = (world.admin(1).await, world.admin(2).await);
    let own = format!("tenant/{}", tenant(1));
    let fill = "with c as (
            insert into config_clients select $1, 'c' || n, 1, $2 from generate_series(1, 1000) n
        )
        insert into config_client_runs
            select $1, 'c' || n, 'tenant_config_' || k, $1, 0, null, $2
            from generate_series(1, 1000) n, generate_series(1, 200) k";
    let database = world.region.connect().await;
    let now = insula_domain::Clock::now(&clock);
    assert_eq!(database.execute(fill, &[&own, &now]).await.unwrap(), 200_000);
    let state = |key: &str, version| v1::acknowledge_request::State {
        key: key.to_owned(),
        version,
        set_in: own.clone(),
        ..Default::default()
    };
    let word = |id: &str, states| v1::AcknowledgeRequest { states, ..says(id, &own, 1, "") };
    let new = || word("new", vec![state(KEY, 1)]);
    assert_eq!(code(acme.acknowledge(new()).await), "overloaded");
    // What it has said before it may say anew.
    database
        .execute("update config_client_runs set key = $1 where key = 'tenant_config_7'", &[&KEY])
        .await
        .unwrap();
    let both = word("c7", vec![state(KEY, 1), state("tenant_config_more", 0)]);
    assert_eq!(code(acme.acknowledge(both).await), "overloaded");
    assert_eq!(claimed(&world, &own, 1).await, 1);
    let count = "select count(*) from config_client_runs where scope = $1";
    let counted = database.query_one(count, &[&own]).await.unwrap().get::<_, i64>(0);
    assert_eq!(counted, 200_000);
    // Canary: another tenant's clients are heard.
    globex.acknowledge(word_of("new")).await.unwrap();
    // Those that are silent for an hour make room.
    clock.advance(Duration::from_secs(2 * 3_600));
    assert_eq!(code(acme.acknowledge(new()).await), "overloaded");
    clock.advance(Duration::from_secs(10));
    acme.acknowledge(new()).await.unwrap();
}

/// A word on a key that nobody has set.
fn word_of(client_id: &str) -> v1::AcknowledgeRequest {
    let nothing = v1::acknowledge_request::State { key: KEY.to_owned(), ..Default::default() };
    v1::AcknowledgeRequest { states: vec![nothing], ..says(client_id, "", 0, "") }
}
