//! The step log on a real PostgreSQL: what it refuses, what it tells, and that
//! a run is started by its transaction or not at all.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod workflow_support;

use std::sync::Arc;
use std::time::Instant;

use insula_catalog::workflow_log::{
    OPERATIONS_CHANNEL, OperationFilter, ResumeError, WORKFLOW_CHANNEL, WorkflowLog,
};
use insula_domain::Clock;
use insula_workflow::{
    Hold, LeaseRequest, LeasedRun, LogError, NewRun, Registry, RunStatus, StartError, Started, Step, StepLog,
    Workflow, WorkflowKey, Write,
};
use workflow_support::{House, LEASE, Site, Working, create_tenant, new_run, registry};

fn key() -> WorkflowKey {
    WorkflowKey { name: "tenant.create".into(), version: 1 }
}

async fn lease(house: &House, log: &WorkflowLog, limit: usize) -> Vec<LeasedRun> {
    let (now, workflows) = (house.clock.now(), [key()]);
    let request = LeaseRequest { owner: "test", workflows: &workflows, now, until: now + LEASE, limit };
    log.lease(request).await.unwrap()
}

async fn lease_one(house: &House) -> LeasedRun {
    lease(house, &house.log, 1).await.pop().expect("a run is due")
}

async fn save(house: &House, run: &LeasedRun, revision: i64, hold: Hold) -> Result<(), LogError> {
    let write = Write { state: &run.state, revision, hold, now: house.clock.now() };
    house.log.save(&run.lease, write).await
}

async fn start(house: &House, run: NewRun) -> Result<Started, StartError> {
    let mut client = house.pool().get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let started = house.log.start(&transaction, run).await;
    transaction.commit().await.unwrap();
    started
}

#[tokio::test]
async fn a_run_is_there_when_its_transaction_commits_and_only_then() {
    let house = House::new("start").await;
    let run = new_run(&house, "acme");
    let mut client = house.pool().get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    house.log.start(&transaction, run.clone()).await.unwrap();
    assert_eq!(house.log.operation(run.id).await.unwrap(), None);
    transaction.rollback().await.unwrap();
    assert!(lease(&house, &house.log, 1).await.is_empty());

    house.start(run.clone()).await;
    let operation = house.log.operation(run.id).await.unwrap().unwrap();
    assert_eq!((operation.status, operation.steps.len()), (RunStatus::Pending, 5));
    assert_eq!(start(&house, run.clone()).await.unwrap(), Started::Already);
    let other = NewRun { input: "other".into(), ..run };
    assert!(matches!(start(&house, other).await, Err(StartError::IdTaken)));
}

#[tokio::test]
async fn one_exclusive_run_a_subject_is_under_way_and_a_refusal_harms_nothing() {
    let house = House::new("busy").await;
    let first = house.start(new_run(&house, "acme")).await;
    let mut client = house.pool().get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let refused = house.log.start(&transaction, new_run(&house, "acme")).await.unwrap_err();
    assert!(matches!(&refused, StartError::Busy { operation, .. } if *operation == first), "{refused}");
    // The transaction goes on.
    let shared = NewRun { exclusive: false, ..new_run(&house, "acme") };
    house.log.start(&transaction, shared).await.unwrap();
    house.log.start(&transaction, new_run(&house, "globex")).await.unwrap();
    transaction.commit().await.unwrap();

    // A stuck run is under way; one that has ended is not.
    let mut run = lease_one(&house).await;
    assert_eq!(run.lease.run, first);
    run.state.status = RunStatus::Stuck;
    save(&house, &run, 1, Hold::Rest).await.unwrap();
    assert!(matches!(start(&house, new_run(&house, "acme")).await, Err(StartError::Busy { .. })));
    run.state.status = RunStatus::Undone;
    save(&house, &run, 2, Hold::Rest).await.unwrap();
    assert_eq!(start(&house, new_run(&house, "acme")).await.unwrap(), Started::New);
}

#[tokio::test]
async fn of_two_starts_at_once_the_second_waits_and_is_refused() {
    let house = Arc::new(House::new("race").await);
    let mut client = house.pool().get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let first = new_run(&house, "acme");
    house.log.start(&transaction, first.clone()).await.unwrap();
    let second = {
        let house = Arc::clone(&house);
        tokio::spawn(async move { start(&house, new_run(&house, "acme")).await })
    };
    let blocked = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    let watcher = house.pool().get().await.unwrap();
    while watcher.query_one(blocked, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    transaction.commit().await.unwrap();
    let refused = second.await.unwrap();
    assert!(matches!(refused, Err(StartError::Busy { operation, .. }) if operation == first.id));
}

#[tokio::test]
async fn a_write_with_an_old_token_is_refused() {
    let house = House::new("token").await;
    house.start(new_run(&house, "acme")).await;
    let stale = lease_one(&house).await;
    assert!(lease(&house, &house.log, 1).await.is_empty(), "a lease keeps others away");
    house.clock.advance(LEASE);
    let newest = lease_one(&house).await;
    assert!(newest.lease.token > stale.lease.token);
    let until = house.clock.now() + LEASE;
    let lost = |result: Result<(), LogError>| matches!(result, Err(LogError::LeaseLost));
    for hold in [Hold::Until(until), Hold::ReleaseAt(until), Hold::Rest] {
        assert!(lost(save(&house, &stale, 1, hold).await), "{hold:?}");
    }
    assert!(lost(house.log.renew(&stale.lease, until).await));
    house.log.renew(&newest.lease, until).await.unwrap();

    // The canary: without the condition on the token the same write would pass.
    let mut client = house.pool().get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let (id, token) = (stale.lease.run.as_uuid(), stale.lease.token.as_i64());
    let unfenced = "update workflow_runs set revision = 1 where id = $1 and revision between 0 and 1";
    assert_eq!(transaction.execute(unfenced, &[&id]).await.unwrap(), 1);
    let fenced = format!("{unfenced} and token = $2");
    assert_eq!(transaction.execute(&fenced, &[&id, &token]).await.unwrap(), 0);
    transaction.rollback().await.unwrap();
    save(&house, &newest, 1, Hold::Until(until)).await.unwrap();
}

#[tokio::test]
async fn a_write_that_was_slow_on_its_way_is_refused() {
    let house = House::new("revision").await;
    house.start(new_run(&house, "acme")).await;
    let run = lease_one(&house).await;
    let hold = Hold::Until(house.clock.now() + LEASE);
    save(&house, &run, 1, hold).await.unwrap();
    save(&house, &run, 1, hold).await.expect("the same write, sent again");
    save(&house, &run, 2, hold).await.unwrap();
    assert!(matches!(save(&house, &run, 1, hold).await, Err(LogError::LeaseLost)));
    assert!(matches!(save(&house, &run, 4, hold).await, Err(LogError::LeaseLost)), "a gap");
}

#[tokio::test]
async fn a_late_renewal_does_not_take_back_a_released_run() {
    let house = House::new("renewal").await;
    house.start(new_run(&house, "acme")).await;
    let run = lease_one(&house).await;
    save(&house, &run, 1, Hold::ReleaseAt(house.clock.now())).await.unwrap();
    let renewed = house.log.renew(&run.lease, house.clock.now() + LEASE).await;
    assert!(matches!(renewed, Err(LogError::LeaseLost)));
    assert_eq!(lease_one(&house).await.lease.run, run.lease.run);
}

#[tokio::test]
async fn workers_at_once_take_each_run_once_and_leave_what_they_do_not_know() {
    let house = Arc::new(House::new("contention").await);
    for number in 0..60 {
        house.start(new_run(&house, &format!("t{number}"))).await;
    }
    let unknown = create_tenant().kind();
    let mut unknown =
        unknown.new_run(house.new_id(), "unknown", &"acme".to_owned(), house.clock.now()).unwrap();
    unknown.workflow.version = 2;
    house.start(unknown).await;
    let takers: Vec<_> = (0..6)
        .map(|_| {
            let house = Arc::clone(&house);
            tokio::spawn(async move {
                let mut taken = Vec::new();
                loop {
                    let leased = lease(&house, &house.log, 3).await;
                    if leased.is_empty() {
                        return taken;
                    }
                    taken.extend(leased);
                }
            })
        })
        .collect();
    let mut taken = Vec::new();
    for taker in takers {
        taken.extend(taker.await.unwrap());
    }
    assert!(taken.iter().all(|run| run.lease.token.as_i64() == 1));
    let mut ids: Vec<_> = taken.iter().map(|run| run.lease.run).collect();
    ids.sort_unstable();
    ids.dedup();
    // A taker may find all that is due locked and stop early; nothing is taken twice.
    taken.extend(lease(&house, &house.log, 100).await);
    assert_eq!((ids.len(), taken.len()), (taken.len().min(60), 60));
    let due = house.log.next_due(&[key()]).await.unwrap();
    assert_eq!(due, Some(house.clock.now() + LEASE));
}

#[tokio::test]
async fn a_stuck_operation_is_resumed_in_a_transaction() {
    let mut house = House::new("resume").await;
    let id = house.start(new_run(&house, "acme")).await;
    let mut run = lease_one(&house).await;
    let hold = Hold::Until(house.clock.now() + LEASE);
    save(&house, &run, 1, hold).await.unwrap();
    let mut client = house.pool().get().await.unwrap();
    let now = house.clock.now();
    {
        let transaction = client.transaction().await.unwrap();
        let refused = house.log.resume(&transaction, id, now).await;
        assert!(matches!(refused, Err(ResumeError::NotStuck(_))));
        let missing = house.log.resume(&transaction, house.new_id(), now).await;
        assert!(matches!(missing, Err(ResumeError::NotFound)));
    }
    run.state.status = RunStatus::Stuck;
    save(&house, &run, 2, Hold::Rest).await.unwrap();
    assert!(lease(&house, &house.log, 1).await.is_empty(), "nobody takes a stuck run");
    let transaction = client.transaction().await.unwrap();
    house.log.resume(&transaction, id, now).await.unwrap();
    transaction.commit().await.unwrap();
    // The answer to the last write was lost, and it is sent again: too late.
    assert!(matches!(save(&house, &run, 2, Hold::Rest).await, Err(LogError::LeaseLost)));
    let site = Arc::new(Site::default());
    let worker = Working::without_crashes(&house, "w", registry(&site));
    assert_eq!(house.until_it_rests(id).await.status, RunStatus::Succeeded);
    worker.stop().await;
}

#[tokio::test]
async fn whoever_listens_is_told() {
    let mut house = House::new("notify").await;
    let id = house.start(new_run(&house, "acme")).await;
    let told = async |house: &mut House| {
        let notice = house.listener.next().await.unwrap();
        (notice.channel, notice.payload)
    };
    let of_the_operation = (OPERATIONS_CHANNEL.to_owned(), id.to_string());
    assert_eq!(told(&mut house).await, of_the_operation);
    assert_eq!(told(&mut house).await, (WORKFLOW_CHANNEL.to_owned(), String::new()));
    let run = lease_one(&house).await;
    let now = house.clock.now();
    save(&house, &run, 1, Hold::Until(now + LEASE)).await.unwrap();
    assert_eq!(told(&mut house).await, of_the_operation);
    save(&house, &run, 2, Hold::ReleaseAt(now)).await.unwrap();
    assert_eq!(told(&mut house).await, of_the_operation);
    assert_eq!(told(&mut house).await, (WORKFLOW_CHANNEL.to_owned(), String::new()));
}

#[tokio::test]
async fn operations_are_listed_by_page_and_filter_and_forgotten_in_time() {
    let mut house = House::new("list").await;
    let site = Arc::new(Site::default());
    let mut ids = Vec::new();
    for number in 0..5 {
        house.clock.advance(std::time::Duration::from_secs(1));
        ids.push(house.start(new_run(&house, &format!("t{number}"))).await);
    }
    ids.reverse();
    let all = OperationFilter::default();
    let page = |operations: Vec<insula_workflow::Operation>| -> Vec<_> {
        operations.into_iter().map(|operation| operation.id).collect()
    };
    assert_eq!(page(house.log.list(&all, None, 2).await.unwrap()), ids[..2]);
    assert_eq!(page(house.log.list(&all, Some(ids[1]), 10).await.unwrap()), ids[2..]);
    let about = OperationFilter { subject: Some("t4".into()), ..OperationFilter::default() };
    assert_eq!(page(house.log.list(&about, None, 10).await.unwrap()), ids[..1]);
    let other = OperationFilter { kind: Some("tenant.delete".into()), ..OperationFilter::default() };
    assert_eq!(page(house.log.list(&other, None, 10).await.unwrap()), []);
    let worker = Working::without_crashes(&house, "w", registry(&site));
    for id in &ids {
        house.until_it_rests(*id).await;
    }
    worker.stop().await;
    let ended = OperationFilter { statuses: vec![RunStatus::Succeeded], ..OperationFilter::default() };
    let operations = house.log.list(&ended, None, 10).await.unwrap();
    assert_eq!(operations.len(), 5);
    assert_eq!(operations[0].output, Some("publish of acme".into()));

    let now = house.clock.now();
    assert_eq!(house.log.forget_ended(now, 10).await.unwrap(), 0);
    house.clock.advance(LEASE);
    assert_eq!(house.log.forget_ended(house.clock.now(), 3).await.unwrap(), 3);
    assert_eq!(house.log.list(&all, None, 10).await.unwrap().len(), 2);
}

/// A workflow of so many steps that do nothing.
fn idle(steps: usize) -> Workflow<(), ()> {
    const NAMES: [&str; 21] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t",
        "u",
    ];
    let step = |name| Step::new(name, "measured", move |_| async move { Ok(name) }, |_| async { Ok(()) });
    let workflow = Workflow::new("idle", i32::try_from(steps).unwrap());
    NAMES.into_iter().take(steps).fold(workflow, |workflow, name| workflow.step(step(name)))
}

/// Prints what the engine itself costs. On a server that syncs its commits,
/// which `INSULA_TEST_PG_URL` names:
/// `cargo test -p insula-catalog --test workflow_log cost -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn the_cost_of_a_run() {
    let mut house = House::new("cost").await;
    let mut registry = Registry::new();
    for steps in [1, 6, 21] {
        registry.add(idle(steps), &Arc::new(())).unwrap();
    }
    let worker = Working::without_crashes(&house, "w", registry);
    for steps in [1, 6, 21] {
        let mut times = Vec::new();
        for number in 0..200 {
            let kind = idle(steps).kind();
            let run = kind.new_run(house.new_id(), format!("t{number}"), &(), house.clock.now()).unwrap();
            let begin = Instant::now();
            let id = house.start(run).await;
            worker.waker.wake();
            let started = begin.elapsed();
            house.until_it_rests(id).await;
            times.push((begin.elapsed(), started));
        }
        times.sort_unstable();
        let (median, slow) = (times[100], times[190]);
        println!("{steps} steps: median {:?}, of it the start {:?}; p95 {:?}", median.0, median.1, slow.0);
    }
    worker.stop().await;
}
