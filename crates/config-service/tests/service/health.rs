//! What clients say of what is rolled out: whose words count, and for how many.

use std::sync::Arc;

use insula_config_model::RolloutState;
use insula_config_proto::v1;
use insula_config_service::{NewRollout, Progress};
use insula_config_store::{OneVersion, Says};
use insula_problem::Code;
use insula_testkit::ManualClock;

use crate::rollouts::{KEY, MINUTE, a_step, copied, operator, put, rollout};
use crate::support::{Client, World, put as put_request, remove, tenant};

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
        ("tier/gold", &[100.0][..], &[][..], 1),
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
