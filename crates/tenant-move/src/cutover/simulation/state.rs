//! Everything there is in the simulated world, what messages do to it, and
//! what must never be seen.

use std::collections::{BTreeMap, BTreeSet};

use super::chance::Chance;
use super::fronts::{Front, View};
use super::servers::{End, Record, Server, Stream};

/// How long a front holds the tenant.
pub const HOLD_MS: u64 = 300;

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// The commit does not ask for the number of its try.
    CommitWithoutNumber,
    /// The hold does not ask for the number of its try.
    HoldWithoutNumber,
    /// The hold does not ask whether the move has committed.
    HoldAfterCommit,
    /// Entries are changed by whoever wants to.
    EntriesWithoutSeat,
    /// An act that finds its seat taken takes it again.
    SeatTakenAgain,
    /// A try gets its number before it has the seats.
    NumberBeforeSeats,
    /// A commit without an answer is taken for one that has failed.
    AmbiguousCommitIsFailure,
    /// Draining waits for what has been received.
    ReceivedIsApplied,
    /// Closing ends those whom it sees, and does not wait for who is coming in.
    ClosedToTheSeen,
    /// Fronts hold until they are told.
    FrontWithoutClock,
}

/// The catalog's rows of the tenant and its move.
#[derive(Debug)]
pub struct Catalog {
    pub at: End,
    pub epoch: u64,
    pub hold: Option<i32>,
    pub number: i32,
    pub cancel: bool,
}

impl Catalog {
    pub fn view(&self) -> View {
        View { at: self.at, epoch: self.epoch, hold: self.hold }
    }
}

/// A request on its way. Its effect is when it is delivered, whether its
/// sender still waits or not.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    NextTry,
    Hold { number: i32 },
    LetGo { number: i32 },
    Commit { number: i32, epoch: u64 },
    ListFronts,
    Acknowledge { hold: i32, front: usize },
    TakeSeat(End, u64),
    Close(End, u64),
    EndSessions(End, u64),
    Open(End, u64),
    Mark,
    ReadSequence,
    RaiseSequence(u64, u64),
}

impl Op {
    /// Whether it is one of those that more goes wrong with, so that schedules
    /// are about them.
    fn decides(self) -> bool {
        matches!(self, Self::Hold { .. } | Self::Commit { .. })
    }

    /// The server that it is for; none is the catalog.
    fn server(self) -> Option<End> {
        match self {
            Self::TakeSeat(end, _) | Self::Close(end, _) | Self::EndSessions(end, _) | Self::Open(end, _) => {
                Some(end)
            }
            Self::Mark | Self::ReadSequence => Some(End::Source),
            Self::RaiseSequence(..) => Some(End::Target),
            _ => None,
        }
    }

    fn seat(self) -> Option<u64> {
        match self {
            Self::Close(_, seat)
            | Self::EndSessions(_, seat)
            | Self::Open(_, seat)
            | Self::RaiseSequence(seat, _) => Some(seat),
            _ => None,
        }
    }
}

/// What a request is answered with.
#[derive(Debug, Clone)]
pub enum Answer {
    Done,
    Try { number: i32, epoch: u64, at: End, cancel: bool },
    Fronts(Vec<usize>),
    Number(u64),
}

/// What a schedule went through.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    /// Requests that came from a try which was not the last one, and were refused.
    pub fenced: u64,
    /// Transactions that were ended while they were under way.
    pub cut_short: u64,
    /// Connections that were not let in.
    pub refused: u64,
    /// Tries at the cutover.
    pub tries: i32,
    /// Whether a commit had its effect and was answered with an error, or not.
    pub ambiguous: bool,
    /// Writes at the target.
    pub at_target: u64,
}

#[derive(Debug)]
pub struct State {
    pub chance: Chance,
    pub broken: Broken,
    /// Nothing goes wrong from now on.
    pub calm: bool,
    /// How much goes wrong until then, from 0 to 4.
    trouble: u64,
    pub now_ms: u64,
    pub catalog: Catalog,
    servers: [Server; 2],
    pub stream: Stream,
    pub fronts: Vec<Front>,
    /// The holds that fronts have acknowledged, as far as the catalog knows.
    pub acks: BTreeSet<(i32, usize)>,
    /// What is on its way, with the number that the answer is found by, and
    /// whether it is slow.
    pub wire: Vec<(u64, Op, bool)>,
    pub answers: BTreeMap<u64, Result<Answer, ()>>,
    /// Writes that clients were told of.
    pub acknowledged: BTreeSet<u64>,
    /// Values of the sequence that clients have got.
    given: BTreeSet<u64>,
    last_id: u64,
    pub seen: Seen,
    pub violation: Option<String>,
    /// What happened, when one wants to read it.
    pub story: Option<Vec<String>>,
}

impl State {
    pub fn new(seed: u64, broken: Broken, calm: bool, told: bool) -> Self {
        let mut chance = Chance::new(seed);
        let trouble = chance.below(5);
        let catalog = Catalog { at: End::Source, epoch: 1, hold: None, number: 0, cancel: false };
        let fronts = (0..1 + chance.index(3)).map(|_| Front::new(catalog.view(), &mut chance)).collect();
        Self {
            chance,
            broken,
            calm,
            trouble,
            now_ms: 0,
            catalog,
            servers: [Server::new(true), Server::new(false)],
            stream: Stream::default(),
            fronts,
            acks: BTreeSet::new(),
            wire: Vec::new(),
            answers: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            given: BTreeSet::new(),
            last_id: 0,
            seen: Seen::default(),
            violation: None,
            story: told.then(Vec::new),
        }
    }

    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        let now_ms = self.now_ms;
        if let Some(story) = &mut self.story {
            story.push(format!("{now_ms:>6} ms  {}", what()));
        }
    }

    pub fn server(&mut self, end: End) -> &mut Server {
        &mut self.servers[end as usize]
    }

    /// In so many of a thousand cases in a schedule of middling trouble, as long
    /// as it is not calm.
    pub fn goes_wrong(&mut self, permille: u64) -> bool {
        !self.calm && self.chance.below(1_000) < permille * self.trouble / 2
    }

    /// A number that nothing else has.
    pub fn fresh(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Sends a request; the answer will be found by the number.
    pub fn post(&mut self, op: Op) -> u64 {
        let (id, slow) = (self.fresh(), self.goes_wrong(if op.decides() { 250 } else { 60 }));
        self.wire.push((id, op, slow));
        id
    }

    /// Delivers one of the requests that are on their way.
    pub fn deliver(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let chosen = self.chance.index(self.wire.len());
        let (id, op, slow) = self.wire[chosen];
        if slow && self.chance.percent(95) {
            return;
        }
        self.wire.swap_remove(chosen);
        if self.goes_wrong(8) {
            self.tell(|| format!("{op:?} is lost"));
            self.answers.insert(id, Err(()));
            return;
        }
        // Somebody sent it again on another connection. On a seat's own
        // connection there is one request at a time.
        if op.server().is_none() && self.goes_wrong(40) {
            self.wire.push((id, op, true));
        }
        let answer = self.take_effect(op);
        self.tell(|| format!("{op:?} is answered {answer:?}"));
        if self.goes_wrong(if op.decides() { 150 } else { 15 }) {
            self.seen.ambiguous |= matches!(op, Op::Commit { .. }) && answer.is_ok();
            // With an error, or never at all.
            if self.chance.percent(60) {
                self.answers.insert(id, Err(()));
            }
            return;
        }
        self.answers.insert(id, answer);
    }

    fn take_effect(&mut self, op: Op) -> Result<Answer, ()> {
        let Some(end) = op.server() else { return self.at_catalog(op) };
        if !self.server(end).up {
            return Err(());
        }
        if let Some(seat) = op.seat().filter(|seat| self.server(end).seat != Some(*seat)) {
            match (self.broken, op) {
                (Broken::EntriesWithoutSeat, Op::Close(..) | Op::EndSessions(..) | Op::Open(..)) => {}
                (Broken::SeatTakenAgain, _) => self.server(end).seat = Some(seat),
                _ => {
                    self.seen.fenced += 1;
                    return Err(());
                }
            }
        }
        Ok(self.at_server(end, op))
    }

    fn at_server(&mut self, end: End, op: Op) -> Answer {
        let broken = self.broken;
        let server = self.server(end);
        match op {
            Op::TakeSeat(_, seat) => server.seat = Some(seat),
            Op::Close(..) => server.entry = false,
            Op::Open(..) => server.entry = true,
            Op::EndSessions(..) => {
                let coming = server.end_sessions();
                return Answer::Number(if broken == Broken::ClosedToTheSeen { 0 } else { coming as u64 });
            }
            Op::Mark => {
                server.log.push(Record::Marker);
                return Answer::Number(server.log.len() as u64);
            }
            Op::ReadSequence => return Answer::Number(server.next_value),
            Op::RaiseSequence(_, to) => server.next_value = server.next_value.max(to),
            _ => {}
        }
        Answer::Done
    }

    fn at_catalog(&mut self, op: Op) -> Result<Answer, ()> {
        let (broken, catalog) = (self.broken, &mut self.catalog);
        let current = |asked: i32, ignoring: Broken| asked == catalog.number || broken == ignoring;
        let admitted = match op {
            Op::Hold { number } => {
                current(number, Broken::HoldWithoutNumber)
                    && (catalog.at == End::Source || broken == Broken::HoldAfterCommit)
            }
            Op::LetGo { number } => current(number, Broken::HoldWithoutNumber),
            Op::Commit { number, epoch } => {
                current(number, Broken::CommitWithoutNumber) && catalog.epoch == epoch
            }
            _ => true,
        };
        if !admitted {
            self.seen.fenced += 1;
            return Err(());
        }
        match op {
            Op::NextTry => {
                catalog.number += 1;
                let (number, epoch) = (catalog.number, catalog.epoch);
                return Ok(Answer::Try { number, epoch, at: catalog.at, cancel: catalog.cancel });
            }
            Op::Hold { number } => catalog.hold = Some(number),
            Op::LetGo { .. } => catalog.hold = None,
            Op::Commit { .. } => {
                (catalog.at, catalog.hold) = (End::Target, None);
                catalog.epoch += 1;
                self.stream.ended = true;
            }
            Op::ListFronts => {
                let listed = (0..self.fronts.len()).filter(|index| self.fronts[*index].listed);
                return Ok(Answer::Fronts(listed.collect()));
            }
            Op::Acknowledge { hold, front } => {
                self.acks.insert((hold, front));
            }
            _ => {}
        }
        Ok(Answer::Done)
    }

    /// A client's transaction commits.
    pub fn write(&mut self, end: End, number: u64) {
        self.server(end).log.push(Record::Write(number));
        self.seen.at_target += u64::from(end == End::Target);
        if self.catalog.at != end {
            self.violate(format!("write {number} at the {end:?}, and the tenant is at the other end"));
        }
    }

    /// A client is given the next value of the sequence.
    pub fn give_value(&mut self, end: End) {
        let server = self.server(end);
        let value = server.next_value;
        server.next_value += 1;
        if !self.given.insert(value) {
            self.violate(format!("the sequence gives {value} again at the {end:?}"));
        }
    }

    pub fn violate(&mut self, what: String) {
        self.tell(|| format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    /// The stream goes on, a session comes in or ends, or a front that is gone
    /// is noticed.
    pub fn housekeeping(&mut self) {
        match self.chance.below(4) {
            0 | 1 => {
                let [source, target] = &mut self.servers;
                self.stream.step(source, target, &mut self.chance);
            }
            2 => {
                let front = self.chance.index(self.fronts.len());
                self.fronts[front].listed = self.fronts[front].connected;
            }
            _ => {
                let end = if self.chance.percent(50) { End::Source } else { End::Target };
                if let Some(write) = self.servers[end as usize].housekeeping(&mut self.chance) {
                    self.write(end, write);
                }
            }
        }
    }

    /// What must hold at every moment.
    pub fn check(&mut self) {
        if self.servers.iter().all(Server::can_be_written_to) {
            self.violate("both ends can be written to".into());
        }
        if self.fronts.iter().any(|front| front.is_held_too_long(self.now_ms)) {
            self.violate("a front holds the tenant past the deadline".into());
        }
    }

    /// What must hold where a try has ended and nobody has begun another one.
    pub fn check_served(&mut self) {
        let (at, hold) = (self.catalog.at, self.catalog.hold);
        if hold.is_some() {
            self.violate("the hold is left behind".into());
        }
        if !self.server(at).entry || self.server(at.other()).can_be_written_to() {
            self.violate(format!("the tenant is at the {at:?}, and that is not the end that is open"));
        }
    }

    /// What must hold when all is over.
    pub fn check_end(&mut self) {
        self.check_served();
        let at = self.catalog.at;
        let (there, source) = (self.server(at).distinct_writes(), self.server(End::Source).distinct_writes());
        match (there, source) {
            (Ok(there), Ok(source)) => {
                if let Some(lost) = self.acknowledged.union(&source).find(|write| !there.contains(write)) {
                    self.violate(format!("write {lost} is lost"));
                }
            }
            (Err(twice), _) | (_, Err(twice)) => self.violate(format!("write {twice} is there twice")),
        }
    }
}
