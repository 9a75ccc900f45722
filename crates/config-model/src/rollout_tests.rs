//! Rollouts at random: whatever happens in whatever order, whom a step reaches
//! the next one does, nothing that has ended begins again, and who is held back
//! is decided by the newest version and the step alone.

use proptest::prelude::*;
use time::Duration;
use uuid::Uuid;

use super::*;

const CANDIDATE: Version = 7;

fn tenant(number: u128) -> TenantId {
    TenantId::from(Uuid::from_u128(number))
}

fn shares(percents: &[f64]) -> Vec<Share> {
    percents.iter().map(|percent| Share::of_percent(*percent).unwrap()).collect()
}

fn plan(percents: &[f64]) -> Plan {
    Plan {
        steps: shares(percents),
        tenants: vec![tenant(3)],
        bake_seconds: 60,
        rejections: 1,
        confirmations: 2,
    }
}

fn begun(plan: Plan) -> Rollout {
    let key = "tenant_config_theme".parse().unwrap();
    Rollout::begin(plan, (&Scope::Platform, &key), CANDIDATE, OffsetDateTime::UNIX_EPOCH)
}

fn after(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds)
}

fn health(confirmed: u64, rejecting: u64) -> Health {
    Health { confirmed, rejecting, rejection: (rejecting > 0).then(|| "cannot be read".to_owned()) }
}

fn on(moved: Option<Move>) -> Rollout {
    match moved {
        Some(Move::On(rollout)) => rollout,
        other => panic!("{other:?}"),
    }
}

#[test]
fn plans_that_cannot_be_followed_are_refused() {
    let checked = |change: fn(&mut Plan)| {
        let mut plan = plan(&[5.0, 25.0, 100.0]);
        change(&mut plan);
        plan.check().map_err(|invalid| invalid.member)
    };
    assert_eq!(checked(|_| ()), Ok(()));
    assert_eq!(checked(|plan| plan.steps.clear()), Err("steps"));
    assert_eq!(checked(|plan| plan.steps = shares(&[25.0, 5.0, 100.0])), Err("steps"));
    assert_eq!(checked(|plan| plan.steps = shares(&[5.0, 5.0, 100.0])), Err("steps"));
    assert_eq!(checked(|plan| plan.steps = shares(&[5.0, 99.99])), Err("steps"));
    assert_eq!(checked(|plan| plan.steps = (1..=100).map(Share).collect()), Err("steps"));
    assert_eq!(checked(|plan| plan.bake_seconds = BAKE_MAX + 1), Err("bake_seconds"));
    assert_eq!(checked(|plan| plan.tenants = (0..101).map(tenant).collect()), Err("tenants"));
    for percent in [0.0, -1.0, 0.001, 100.01, f64::NAN, f64::INFINITY] {
        assert_eq!(Share::of_percent(percent), None, "{percent}");
    }
    assert_eq!(Share::of_percent(0.5).map(Share::percent), Some(0.5));
}

#[test]
fn a_step_needs_its_time_and_its_clients() {
    let first = begun(plan(&[5.0, 100.0]));
    let next = |rollout: &Rollout, seconds, confirmed| {
        rollout.next(after(seconds), CANDIDATE, &health(confirmed, 0))
    };
    assert_eq!(next(&first, 59, 2), None);
    assert_eq!(next(&first, 60, 1), None);
    assert_eq!(next(&first, -3_600, 2), None, "a clock that went back");
    let second = on(next(&first, 60, 2));
    assert_eq!((second.step, second.share()), (1, Share::ALL));
    assert_eq!(next(&second, 119, 9), None, "the last step is looked at as well");
    assert_eq!(on(next(&second, 120, 2)).state, RolloutState::Completed);
    // What was looked at before a pause counts.
    let paused = first.paused(after(40), String::new()).unwrap();
    assert_eq!(next(&paused, 1_000, 9), None);
    let resumed = paused.resumed(after(1_000)).unwrap();
    assert_eq!(next(&resumed, 1_019, 9), None);
    assert_eq!(on(next(&resumed, 1_020, 9)).step, 1);
}

#[test]
fn clients_that_refuse_take_it_back_also_while_it_is_paused() {
    let running = begun(plan(&[5.0, 100.0]));
    let paused = running.paused(after(1), String::new()).unwrap();
    for rollout in [&running, &paused] {
        assert_eq!(rollout.next(after(2), CANDIDATE, &health(0, 1)), None, "one is let pass");
        let Some(Move::Back(back)) = rollout.next(after(2), CANDIDATE, &health(9, 2)) else { panic!() };
        assert_eq!(back.state, RolloutState::RolledBack);
        assert!(back.cause.contains("cannot be read"), "{}", back.cause);
        assert_eq!(back.next(after(3), CANDIDATE, &health(9, 9)), None, "it has ended");
        // Canary: a newer version is not theirs to refuse.
        let passed = on(rollout.next(after(2), CANDIDATE + 1, &health(9, 9)));
        assert_eq!(passed.state, RolloutState::Superseded);
    }
}

#[test]
fn shares_of_many_tenants_are_what_they_say_and_differ_by_rollout() {
    let many: Vec<TenantId> = (1_000..21_000).map(tenant).collect();
    let reached = |rollout: &Rollout| many.iter().filter(|one| rollout.reaches(**one)).count();
    for percent in [1.0, 5.0, 25.0, 50.0] {
        let rollout = begun(plan(&[percent, 100.0]));
        let wanted = percent * 200.0;
        let spread = 5.0 * (wanted * (1.0 - percent / 100.0)).sqrt();
        let reached = reached(&rollout) as f64;
        assert!((reached - wanted).abs() < spread, "{percent} %: {reached} and not {wanted}");
    }
    let one = begun(plan(&[5.0, 100.0]));
    let key = "tenant_config_theme".parse().unwrap();
    let other = Rollout::begin(plan(&[5.0, 100.0]), (&Scope::Platform, &key), CANDIDATE + 1, one.began);
    let both = many.iter().filter(|tenant| one.reaches(**tenant) && other.reaches(**tenant)).count();
    assert!(both < 100, "{both} of 20,000 are among the first 5 % both times");
}

#[test]
fn a_rollout_is_kept_under_a_key_of_its_own() {
    let key: ConfigKey = "tenant_config_a/b".parse().unwrap();
    let kept = Rollout::key_of(&key).unwrap();
    assert_eq!(kept.as_str(), "insula_rollout/tenant_config_a/b");
    assert_eq!(Rollout::subject(&kept), Some(key.clone()));
    assert_eq!(Rollout::subject(&key), None);
    let long: ConfigKey = "k".repeat(500).parse().unwrap();
    assert_eq!(Rollout::key_of(&long), None);
    let rollout = begun(plan(&[5.0, 100.0]));
    let text = serde_json::to_string(&rollout).unwrap();
    assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
}

#[derive(Debug, Clone)]
enum Happens {
    Looked { seconds: i64, confirmed: u64, rejecting: u64 },
    Written,
    Paused,
    Resumed,
    Aborted,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        6 => (-100_i64..200, 0_u64..4, 0_u64..3)
            .prop_map(|(seconds, confirmed, rejecting)| Happens::Looked { seconds, confirmed, rejecting }),
        1 => Just(Happens::Written),
        2 => Just(Happens::Paused),
        2 => Just(Happens::Resumed),
        1 => Just(Happens::Aborted),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_rollout_goes_one_way(
        percents in proptest::collection::btree_set(1_u16..ALL, 0..5),
        course in proptest::collection::vec(happens(), 0..40),
    ) {
        let steps = percents.into_iter().chain([ALL]).map(Share).collect();
        let mut rollout = begun(Plan { steps, ..plan(&[100.0]) });
        let (mut now, mut newest) = (OffsetDateTime::UNIX_EPOCH, CANDIDATE);
        for event in course {
            let before = rollout.clone();
            let was_about = before.is_about(newest);
            let next = match event {
                Happens::Looked { seconds, confirmed, rejecting } => {
                    now += Duration::seconds(seconds);
                    match rollout.next(now, newest, &health(confirmed, rejecting)) {
                        Some(Move::Back(next)) => {
                            prop_assert!(rejecting > 1 && next.state == RolloutState::RolledBack);
                            newest += 1;
                            Some(next)
                        }
                        Some(Move::On(next)) => {
                            prop_assert!(next.step <= before.step || (rejecting < 2 && confirmed >= 2));
                            Some(next)
                        }
                        None => None,
                    }
                }
                Happens::Written => {
                    newest += 1;
                    None
                }
                Happens::Paused => rollout.paused(now, String::new()),
                Happens::Resumed => rollout.resumed(now),
                Happens::Aborted => {
                    let next = rollout.aborted(now, String::new());
                    newest += i64::from(next.is_some());
                    next
                }
            };
            if let Some(next) = next {
                prop_assert!(before.state.is_under_way(), "{:?} became {:?}", before, next);
                prop_assert!(next.step == before.step || next.step == before.step + 1);
                rollout = next;
            }
            for number in 0..50 {
                let one = tenant(number);
                prop_assert!(!before.reaches(one) || rollout.reaches(one), "{one} saw it and does not");
                let held = rollout.holds_back(newest, one);
                prop_assert!(!held || !before.reaches(one));
                prop_assert!(!held || (newest == CANDIDATE && was_about), "nobody is held back later");
            }
            prop_assert!(!rollout.holds_back(newest, tenant(3)), "the one who was named");
            prop_assert!(rollout.state != RolloutState::Completed || rollout.share() == Share::ALL);
        }
    }
}
