//! Thousands of seeded schedules of the real driver of the cutover, in a world
//! where every request may come late, twice or not at all, where workers die
//! or are wrongly believed dead, and clients write all the while. The seed is in
//! every message; `INSULA_SIMULATION_SEED` repeats one schedule and tells what
//! happened, `INSULA_SIMULATION_SCHEDULES` sets how many are run.
//!
//! Modelled: both ends with entry, seat, sessions (also those that are let in
//! and not listed yet, and those whose front is gone with a commit on its way),
//! log and sequence; the stream, its restarts, and crashes of the servers; the
//! catalog's row and its compare-and-swap; fronts with old views, their own
//! clocks, cut off or dying; up to three workers at once; an operator's cancel.
//!
//! Not modelled: the copy and the reverse stream, rollback, what a write says
//! (rows, transactions of several), two appliers at once, the loss of what a
//! server or the catalog has committed, the catalog's failover, the engine that
//! runs the step (it has a simulation of its own), and how long things really
//! take.

mod chance;
mod fronts;
mod servers;
mod state;
mod world;

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use insula_problem::Problem;

use self::servers::End;
use self::state::{Broken, HOLD_MS, Seen, State};
use self::world::WorldOfWorker;
use super::{Act, Outcome, cut_over};

const WORKERS: usize = 3;
const TURNS: u32 = 600;
/// How many of them there are at most after the commit.
const TURNS_AFTER: u32 = 150;
const SCHEDULES: u64 = 5_000;

/// Which act is carried out in the place of one of the plan.
type Reordered = fn(Act) -> Option<Act>;

/// What is simulated: the cutover as it is, or with something wrong.
#[derive(Clone, Copy)]
struct Setup {
    reordered: Reordered,
    broken: Broken,
    /// Whether nothing goes wrong from the beginning.
    calm: bool,
}

const SOUND: Setup = Setup { reordered: Some, broken: Broken::Nothing, calm: false };

/// How a schedule ended, and what it went through.
#[derive(Clone, Copy)]
struct Ended {
    committed: bool,
    cancelled: bool,
    zombies: bool,
    seen: Seen,
}

type Turn = Pin<Box<dyn Future<Output = Result<Outcome, Problem>>>>;

struct Worker {
    world: Arc<WorldOfWorker>,
    turn: Turn,
}

struct Simulation {
    setup: Setup,
    state: Arc<Mutex<State>>,
    workers: [Option<Worker>; WORKERS],
    /// The worker that has the run, as far as anybody knows.
    leader: usize,
    /// The step has ended, and nobody begins it again.
    over: bool,
    zombies: bool,
}

impl Simulation {
    fn new(seed: u64, setup: Setup, told: bool) -> Self {
        let state = State::new(seed, setup.broken, setup.calm, told);
        let workers = [const { None }; WORKERS];
        Self { setup, state: Arc::new(Mutex::new(state)), workers, leader: 0, over: false, zombies: false }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls a worker once; the one that has the run begins where it has not.
    fn worker_step(&mut self, index: usize) {
        if self.workers[index].is_none() && (self.over || index != self.leader) {
            return;
        }
        let (state, setup) = (&self.state, self.setup);
        let worker = self.workers[index].get_or_insert_with(|| {
            let world = Arc::new(WorldOfWorker::new(state, setup));
            let own = Arc::clone(&world);
            let turn = async move { cut_over(&*own, Duration::from_millis(HOLD_MS)).await };
            Worker { world, turn: Box::pin(turn) }
        });
        if let Poll::Ready(outcome) = worker.turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            let number = worker.world.standing().number;
            self.workers[index] = None;
            self.ended(index, number, &outcome);
        }
        let running = self.workers.iter().flatten().count();
        self.zombies |= running > 1;
    }

    fn ended(&mut self, index: usize, number: i32, outcome: &Result<Outcome, Problem>) {
        let mut state = self.state();
        state.tell(|| format!("worker {index} ends try {number}: {outcome:?}"));
        let last = state.catalog.number == number;
        match outcome {
            Ok(Outcome::Committed) if state.catalog.at == End::Source => {
                state.violate("the tenant is said to be at the target, and is not".into());
            }
            Ok(Outcome::Cancelled) if last && !state.catalog.cancel => {
                state.violate("cancelled, and nobody wanted it".into());
            }
            Ok(Outcome::TakenBack(_) | Outcome::Cancelled) if last && state.catalog.at == End::Target => {
                state.violate("taken back, and the tenant is at the target".into());
            }
            Ok(_) if last => state.check_served(),
            _ => {}
        }
        // Whoever wants to note the end may die of it.
        let noted = !matches!(outcome, Ok(Outcome::TakenBack(_)) | Err(_)) && !state.goes_wrong(300);
        drop(state);
        self.over |= noted;
    }

    async fn advance(&self, by_ms: u64) {
        {
            let mut state = self.state();
            state.now_ms += by_ms;
            state.time_passes_at_fronts();
        }
        tokio::time::advance(Duration::from_millis(by_ms)).await;
    }

    /// Something that is no fault.
    async fn something_happens(&mut self) {
        let (what, which, client) = {
            let mut state = self.state();
            let fronts = state.fronts.len();
            (state.chance.below(100), state.chance.index(fronts), state.chance.index(2))
        };
        match what {
            0..32 => {
                let worker = if what < 26 { self.leader } else { (self.leader + 1 + client) % WORKERS };
                self.worker_step(worker);
                let mut state = self.state();
                if state.chance.percent(60) {
                    state.deliver();
                }
            }
            32..54 => self.state().deliver(),
            54..66 => self.state().front_step(which),
            66..86 => self.state().client_step(which, client),
            86..98 => self.state().housekeeping(),
            _ => {
                let by_ms = self.state().chance.below(6);
                self.advance(by_ms).await;
            }
        }
        self.state().check();
    }

    async fn something_goes_wrong(&mut self) {
        let (what, which, worker) = {
            let mut state = self.state();
            let fronts = state.fronts.len();
            (state.chance.below(100), state.chance.index(fronts), state.chance.index(WORKERS))
        };
        let end = if which == 0 { End::Source } else { End::Target };
        self.state().tell(|| format!("fault {what}: front {which}, worker {worker}"));
        match what {
            // A worker dies.
            0..10 => self.workers[worker] = None,
            // The run is given to another one, whether the one before is dead or not.
            10..30 => self.leader = worker,
            30..40 => self.advance(100).await,
            40..44 => self.advance(super::TIDY_WITHIN.as_millis() as u64).await,
            44..52 => self.state().fronts[which].connected = false,
            52..60 => self.state().front_dies(which),
            60..78 => self.state().front_comes_back(which),
            78..82 => self.state().server(end).crash(),
            82..92 => self.state().server(end).up = true,
            92..98 => self.state().stream.restart(),
            _ => {
                let mut state = self.state();
                state.catalog.cancel |= state.catalog.at == End::Source && state.chance.percent(40);
            }
        }
        self.state().check();
    }

    /// All goes well from now on; gives back whether the move came to its end.
    async fn calm_end(&mut self) -> bool {
        let fronts = self.state().fronts.len();
        {
            let mut state = self.state();
            state.tell(|| "all is calm".into());
            state.calm = true;
            state.server(End::Source).up = true;
            state.server(End::Target).up = true;
            (0..fronts).for_each(|front| state.front_comes_back(front));
        }
        for turn in 0..20_000 {
            self.something_happens().await;
            // What was never answered is given up some time.
            if turn % 2_000 == 1_999 {
                self.advance(super::TIDY_WITHIN.as_millis() as u64).await;
            }
            let over = self.over && self.workers.iter().all(Option::is_none);
            let mut state = self.state();
            let view = state.catalog.view();
            if over && state.wire.is_empty() && state.fronts.iter().all(|front| front.is_current(view)) {
                state.check_end();
                return true;
            }
        }
        false
    }

    async fn run(&mut self) -> Result<Ended, String> {
        let mut turns = if self.setup.calm { 0 } else { TURNS };
        while turns > 0 {
            let wrong = self.state().goes_wrong(20);
            if wrong {
                self.something_goes_wrong().await
            } else {
                self.something_happens().await
            }
            let state = self.state();
            turns = match state.violation {
                Some(_) => 0,
                None if state.catalog.at == End::Target => turns.min(TURNS_AFTER) - 1,
                None => turns - 1,
            };
        }
        let violated = self.state().violation.is_some();
        let ends = violated || self.calm_end().await;
        // Clients go on for a while where the tenant is now.
        for _ in 0..if ends { 60 } else { 0 } {
            self.something_happens().await;
        }
        let mut state = self.state();
        if !ends {
            state.violate("the move does not end".into());
        }
        if state.violation.is_none() {
            state.check_end();
        }
        if let Some(violation) = &state.violation {
            return Err(violation.clone());
        }
        state.seen.tries = state.catalog.number;
        let committed = state.catalog.at == End::Target;
        Ok(Ended { committed, cancelled: state.catalog.cancel, zombies: self.zombies, seen: state.seen })
    }
}

async fn simulate(seed: u64, setup: Setup, told: bool) -> Result<Ended, String> {
    let mut simulation = Simulation::new(seed, setup, told);
    let ended = simulation.run().await;
    for line in simulation.state().story.iter().flatten() {
        println!("{line}");
    }
    ended.map_err(|violation| format!("seed {seed}: {violation}"))
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// The seeds that are run: one of them alone where it is to be repeated.
fn seeds() -> Range<u64> {
    match setting("INSULA_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("INSULA_SIMULATION_SCHEDULES").unwrap_or(SCHEDULES),
    }
}

/// Runs schedules until `enough` says so, on a runtime whose timers stand still.
fn simulate_until(seeds: Range<u64>, setup: Setup, mut enough: impl FnMut(Result<Ended, String>) -> bool) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let told = seeds.end - seeds.start == 1;
    let all = async {
        for seed in seeds {
            if enough(simulate(seed, setup, told).await) {
                break;
            }
        }
    };
    runtime.block_on(tokio::task::coop::unconstrained(all));
}

/// Runs all schedules, none of which may fail.
fn all_end_well(seeds: Range<u64>, setup: Setup) -> Vec<Ended> {
    let (mut well, mut failures) = (Vec::new(), Vec::new());
    simulate_until(seeds, setup, |ended| {
        match ended {
            Ok(ended) => well.push(ended),
            Err(failure) => failures.push(failure),
        }
        false
    });
    assert!(failures.is_empty(), "{} schedules failed, the first: {}", failures.len(), failures[0]);
    well
}

#[test]
fn every_schedule_ends_well() {
    let ended = all_end_well(seeds(), SOUND);
    let count = |holds: fn(&Ended) -> bool| ended.iter().filter(|it| holds(it)).count();
    let seen = [
        ("committed", count(|it| it.committed)),
        ("cancelled", count(|it| it.cancelled && !it.committed)),
        ("several tries", count(|it| it.seen.tries > 3)),
        ("two workers at once", count(|it| it.zombies)),
        ("refused requests", count(|it| it.seen.fenced > 0)),
        ("ambiguous commits", count(|it| it.seen.ambiguous)),
        ("transactions cut short", count(|it| it.seen.cut_short > 0)),
        ("writes at the target", count(|it| it.seen.at_target > 3)),
    ];
    println!("{seen:?}");
    // The schedules must have been through what they are for.
    for (what, schedules) in seen {
        assert!(ended.len() < 1_000 || schedules > ended.len() / 100, "{what}: {schedules}");
    }
}

/// After how many schedules something that is wrong is noticed, and as what.
fn caught(setup: Setup) -> Option<String> {
    let mut caught = None;
    simulate_until(0..SCHEDULES, setup, |ended| {
        caught = ended.err();
        caught.is_some()
    });
    caught
}

fn assert_caught(what: &str, setup: Setup) {
    let caught = caught(setup);
    println!("{what}: {caught:?}");
    assert!(caught.is_some(), "{what}");
}

fn marks_before_it_closes(act: Act) -> Option<Act> {
    Some(match act {
        Act::CloseSource => Act::Drain,
        Act::Drain => Act::CloseSource,
        act => act,
    })
}

fn opens_before_it_closes(act: Act) -> Option<Act> {
    Some(match act {
        Act::CloseSource => Act::OpenTarget,
        Act::Drain => Act::CloseSource,
        Act::Sequences => Act::Drain,
        Act::OpenTarget => Act::Sequences,
        act => act,
    })
}

fn opens_the_target_before_it_drains(act: Act) -> Option<Act> {
    Some(match act {
        Act::Drain => Act::Commit,
        Act::Commit => Act::Drain,
        act => act,
    })
}

fn sets_sequences_before_it_closes(act: Act) -> Option<Act> {
    Some(match act {
        Act::CloseSource => Act::Sequences,
        Act::Drain => Act::CloseSource,
        Act::Sequences => Act::Drain,
        act => act,
    })
}

fn reopens_the_source_first(act: Act) -> Option<Act> {
    Some(match act {
        Act::CloseTarget => Act::OpenSource,
        Act::OpenSource => Act::CloseTarget,
        act => act,
    })
}

fn does_not_wait_for_quiet(act: Act) -> Option<Act> {
    Some(act).filter(|act| *act != Act::Quiet)
}

fn does_not_let_go(act: Act) -> Option<Act> {
    Some(act).filter(|act| *act != Act::LetGo)
}

#[test]
fn canary_a_wrong_order_is_caught() {
    let wrong: [(&str, Reordered); 6] = [
        ("marked before it is closed", marks_before_it_closes),
        ("opened before it is closed", opens_before_it_closes),
        ("committed before it is drained", opens_the_target_before_it_drains),
        ("sequences before it is closed", sets_sequences_before_it_closes),
        ("source opened before the target is closed", reopens_the_source_first),
        ("hold not let go", does_not_let_go),
    ];
    for (what, reordered) in wrong {
        assert_caught(what, Setup { reordered, ..SOUND });
    }
}

#[test]
fn canary_a_world_that_does_not_keep_its_word_is_caught() {
    for broken in [
        Broken::CommitWithoutNumber,
        Broken::HoldWithoutNumber,
        Broken::HoldAfterCommit,
        Broken::EntriesWithoutSeat,
        Broken::SeatTakenAgain,
        Broken::NumberBeforeSeats,
        Broken::AmbiguousCommitIsFailure,
        Broken::ReceivedIsApplied,
        Broken::ClosedToTheSeen,
        Broken::FrontWithoutClock,
    ] {
        assert_caught(&format!("{broken:?}"), Setup { broken, ..SOUND });
    }
}

#[test]
fn nothing_is_lost_where_nobody_waits_for_quiet_but_transactions_are_cut_short() {
    let hasty = Setup { reordered: does_not_wait_for_quiet, ..SOUND };
    all_end_well(0..1_000, hasty);
    let cut_short = |setup| -> u64 {
        let calm = Setup { calm: true, ..setup };
        all_end_well(0..200, calm).iter().map(|ended| ended.seen.cut_short).sum()
    };
    assert_eq!(cut_short(SOUND), 0);
    assert!(cut_short(hasty) > 20, "{}", cut_short(hasty));
}
