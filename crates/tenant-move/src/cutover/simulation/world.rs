//! The world as the real driver acts on it: every act is a number of requests,
//! each of which may come late, twice, or not at all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::try_join;
use insula_problem::{Code, Problem};
use tokio::time::Instant;

use super::chance::pause;
use super::servers::End;
use super::state::{Answer, Broken, Op, State};
use super::{Reordered, Setup};
use crate::cutover::{Act, Begun, World};

/// What a worker has from its last beginning.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    seats: [u64; 2],
    pub number: i32,
    epoch: u64,
}

/// The world as one worker sees it.
pub struct WorldOfWorker {
    state: Arc<Mutex<State>>,
    standing: Mutex<Standing>,
    reordered: Reordered,
    broken: Broken,
}

fn no_answer() -> Problem {
    Problem::new(Code::Unavailable, "An error on purpose.")
}

impl WorldOfWorker {
    pub fn new(state: &Arc<Mutex<State>>, setup: Setup) -> Self {
        let (reordered, broken) = (setup.reordered, setup.broken);
        Self { state: Arc::clone(state), standing: Mutex::default(), reordered, broken }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seat(&self, end: End) -> u64 {
        self.standing().seats[end as usize]
    }

    async fn call(&self, op: Op) -> Result<Answer, Problem> {
        let id = self.state().post(op);
        loop {
            pause().await;
            if let Some(answer) = self.state().answers.remove(&id) {
                return answer.map_err(|()| no_answer());
            }
        }
    }

    async fn number(&self, op: Op) -> Result<u64, Problem> {
        match self.call(op).await? {
            Answer::Number(number) => Ok(number),
            _ => Err(no_answer()),
        }
    }

    async fn take_seats(&self) -> Result<(), Problem> {
        let seats = [(); 2].map(|()| self.state().fresh());
        let [source, target] = seats;
        try_join(self.call(Op::TakeSeat(End::Source, source)), self.call(Op::TakeSeat(End::Target, target)))
            .await?;
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).seats = seats;
        Ok(())
    }

    async fn next_try(&self) -> Result<Begun, Problem> {
        let Answer::Try { number, epoch, at, cancel } = self.call(Op::NextTry).await? else {
            return Err(no_answer());
        };
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        (standing.number, standing.epoch) = (number, epoch);
        Ok(match (at, cancel) {
            (End::Target, _) => Begun::Committed,
            (End::Source, true) => Begun::Cancelled(number),
            (End::Source, false) => Begun::Try(number),
        })
    }

    async fn quiet(&self, number: i32) -> Result<(), Problem> {
        let Answer::Fronts(fronts) = self.call(Op::ListFronts).await? else { return Err(no_answer()) };
        while !fronts.iter().all(|front| self.state().acks.contains(&(number, *front))) {
            pause().await;
        }
        Ok(())
    }

    async fn close(&self, end: End) -> Result<(), Problem> {
        let seat = self.seat(end);
        self.call(Op::Close(end, seat)).await?;
        while self.number(Op::EndSessions(end, seat)).await? > 0 {}
        Ok(())
    }

    async fn open(&self, end: End) -> Result<(), Problem> {
        self.call(Op::Open(end, self.seat(end))).await.map(drop)
    }

    async fn drain(&self) -> Result<(), Problem> {
        let marker = usize::try_from(self.number(Op::Mark).await?).unwrap();
        loop {
            let (received, applied) = {
                let state = self.state();
                (state.stream.received, state.stream.applied)
            };
            if marker <= applied || marker <= received && self.broken == Broken::ReceivedIsApplied {
                return Ok(());
            }
            pause().await;
        }
    }

    async fn raise_sequences(&self) -> Result<(), Problem> {
        let next = self.number(Op::ReadSequence).await?;
        self.call(Op::RaiseSequence(self.seat(End::Target), next)).await.map(drop)
    }

    async fn commit(&self, number: i32) -> Result<(), Problem> {
        let committed = self.call(Op::Commit { number, epoch: self.standing().epoch }).await;
        if committed.is_err() && self.broken == Broken::AmbiguousCommitIsFailure {
            self.close(End::Target).await?;
            self.open(End::Source).await?;
            self.call(Op::LetGo { number }).await?;
        }
        committed.map(drop)
    }
}

impl World for WorldOfWorker {
    /// The seats first: whoever has them has changed nothing yet when the number
    /// decides whether an earlier try has committed.
    async fn begin(&self) -> Result<Begun, Problem> {
        if self.broken == Broken::NumberBeforeSeats {
            let begun = self.next_try().await?;
            self.take_seats().await?;
            return Ok(begun);
        }
        self.take_seats().await?;
        self.next_try().await
    }

    async fn act(&self, act: Act, number: i32, _: Instant) -> Result<(), Problem> {
        let Some(act) = (self.reordered)(act) else { return Ok(()) };
        match act {
            Act::Hold => self.call(Op::Hold { number }).await.map(drop),
            Act::Quiet => self.quiet(number).await,
            Act::CloseSource => self.close(End::Source).await,
            Act::Drain => self.drain().await,
            Act::Sequences => self.raise_sequences().await,
            Act::OpenTarget => self.open(End::Target).await,
            Act::Commit => self.commit(number).await,
            Act::CloseTarget => self.close(End::Target).await,
            Act::OpenSource => self.open(End::Source).await,
            Act::LetGo => self.call(Op::LetGo { number }).await.map(drop),
        }
    }
}
