//! The applier: brings the changes of a tenant's rows from one placement to
//! another as they are committed. What is applied and how far it is are
//! committed in the same transaction of the target, by a replication origin, so
//! that an applier may end at any moment and another goes on: nothing is lost,
//! nothing is applied twice. The source's log is kept up to what is safe at the
//! target, and no further. An applier holds no transaction in its memory,
//! however large; large ones it applies while they run.

mod chunks;
mod entry;
mod falls;
mod fault;
mod layout;
mod link;
mod markers;
mod measure;
mod messages;
mod rows;
mod run;
mod source;
mod statements;
mod target;
mod witness;

use std::sync::Arc;
use std::time::Duration;

use insula_domain::Clock;
use insula_problem::Problem;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Lsn, MovedTable, Place, StreamName};
use markers::Markers;
use run::Runner;

pub use fault::StreamFault;
pub use measure::{FALLEN_BACK, STREAMED};

/// How long an applier may take to end in order.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What [`StreamSpec::chunks_above_kb`] is where nobody says otherwise. The less it
/// is, the less is left to apply behind a commit, where a hold may be waiting; and
/// the more is applied of what is rolled back in the end. It was not measured which
/// is best.
pub const CHUNKS_ABOVE_KB: u32 = 8 * 1024;

/// What is applied, from where to where.
#[derive(Debug, Clone)]
pub struct StreamSpec {
    /// Where the changes come from; the publication and the slot are there.
    pub source: Place,
    /// Where they go; the origin is there.
    pub target: Place,
    /// What publication, slot and origin are called.
    pub name: StreamName,
    /// The tables as they were when they were copied.
    pub tables: Vec<MovedTable>,
    /// What a stream under one of these names has applied at the source is left
    /// out: it has come from the target.
    pub skip_origins: Vec<StreamName>,
    /// Where the source's decoder has more changes than this in its memory, in
    /// kilobytes, the largest transaction is sent and applied while it runs. The
    /// least that PostgreSQL takes is 64.
    pub chunks_above_kb: u32,
    /// For how long a server may be away before the stream ends with an error.
    pub patience: Duration,
    /// By which it is forgotten that large transactions could not be applied while
    /// they ran.
    pub clock: Arc<dyn Clock>,
}

/// How far a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamProgress {
    /// All that was committed at the source before this is safe at the target.
    pub applied: Lsn,
    /// The end of what has been received.
    pub received: Lsn,
    /// Where the source's log ended, as far as it has said.
    pub source_end: Lsn,
    /// Transactions that were applied, since this applier began.
    pub transactions: u64,
    /// Rows that were added, changed or removed, since this applier began.
    pub rows: u64,
    /// Those of the transactions that were applied while they ran.
    pub streamed: u64,
    /// How often transactions that ran were rolled back at the target, because
    /// they could not be applied before their commit.
    pub fallen_back: u64,
    /// When the last transaction that was applied was committed at the source,
    /// in microseconds since 1970.
    pub last_commit: Option<i64>,
    /// Why a server is away, while it is; the applier goes on trying.
    pub away: Option<String>,
    /// Why the applier has ended.
    pub fault: Option<StreamFault>,
    /// Where the commit of the last transaction begins that was received whole.
    last: Lsn,
    /// The number of the gate at which the applier stands.
    standing: u64,
}

/// Which transactions must not begin.
#[derive(Debug, Clone, Copy)]
struct Gate {
    /// Every gate has another.
    number: u64,
    /// Those whose commit is at this place of the log, or behind it.
    at: Option<Lsn>,
    /// How many want none to be applied before it is committed at the source.
    wholes: u32,
}

impl Default for StreamProgress {
    fn default() -> Self {
        let zero = Lsn::from(0);
        Self {
            applied: zero,
            received: zero,
            source_end: zero,
            transactions: 0,
            rows: 0,
            streamed: 0,
            fallen_back: 0,
            last_commit: None,
            away: None,
            fault: None,
            last: zero,
            standing: 0,
        }
    }
}

impl StreamProgress {
    /// Bytes of the source's log that are not applied yet, those of others
    /// among them.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        u64::from(self.source_end).saturating_sub(u64::from(self.applied))
    }
}

/// A running applier. It ends when this is dropped, wherever it is; another one
/// goes on from there.
#[derive(Debug)]
pub struct Stream {
    progress: watch::Receiver<StreamProgress>,
    gate: watch::Sender<Gate>,
    holding: Arc<Mutex<()>>,
    markers: Markers,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Stream {
    /// Begins to apply where the stream was left. Another applier of the same
    /// stream is ended first.
    ///
    /// # Errors
    /// Where a server is away or refuses, the tables are no longer what they
    /// were, or the slot is lost.
    pub async fn start(spec: StreamSpec) -> Result<Self, Problem> {
        if let Some(table) = spec.tables.iter().find(|table| table.key.is_empty()) {
            return Err(StreamFault::Refused(format!("the table {} has no key", table.name)).into());
        }
        let (gate, gated) = watch::channel(Gate { number: 0, at: None, wholes: 0 });
        let (markers, stop) = (Markers::default(), CancellationToken::new());
        let (runner, link, progress) = Runner::start(spec, gated, markers.clone(), stop.clone()).await?;
        let task = AbortOnDropHandle::new(tokio::spawn(runner.run(link)));
        Ok(Self { progress, gate, holding: Arc::default(), markers, stop, task })
    }

    /// How far it is, as it goes on.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<StreamProgress> {
        self.progress.clone()
    }

    /// Begins to wait for a marker. Call this first, and then write it at the
    /// source: `select pg_logical_emit_message(true, 'insula', <id>)`.
    #[must_use]
    pub fn marker(&self, id: &str) -> Marker {
        Marker {
            id: id.to_owned(),
            reached: self.markers.expect(id),
            markers: self.markers.clone(),
            progress: self.progress.clone(),
        }
    }

    /// Has the applier stand still behind the transaction that it is at, until
    /// the hold is dropped. Only one hold is at a time; another waits.
    ///
    /// # Errors
    /// Why the stream has ended.
    pub async fn hold(&self) -> Result<Hold, StreamFault> {
        let alone = self.holding.clone().lock_owned().await;
        let hold = Hold { gate: self.gate.clone(), progress: self.progress.clone(), _alone: alone };
        hold.stand(Lsn::from(0)).await?;
        Ok(hold)
    }

    /// Has large transactions come after their commit, until what is returned is
    /// dropped: for who waits meanwhile for the transactions of the target's server.
    #[must_use]
    pub fn in_whole(&self) -> InWhole {
        self.gate.send_modify(|gate| gate.wholes += 1);
        InWhole { gate: self.gate.clone() }
    }

    /// Ends the applier in order: between two transactions where that is soon,
    /// and the source knows how far it is.
    ///
    /// # Errors
    /// Why the stream had ended before.
    pub async fn stop(self) -> Result<(), StreamFault> {
        self.stop.cancel();
        // A task that does not end in time is aborted.
        let _ = tokio::time::timeout(STOP_WITHIN, self.task).await;
        match self.progress.borrow().fault.clone() {
            None | Some(StreamFault::Stopped) => Ok(()),
            Some(fault) => Err(fault),
        }
    }
}

/// Waits for a state, or the end of the applier.
async fn progress_that(
    progress: &mut watch::Receiver<StreamProgress>,
    is: impl Fn(&StreamProgress) -> bool,
) -> Result<(), StreamFault> {
    let seen = progress.wait_for(|progress| is(progress) || progress.fault.is_some()).await;
    match seen {
        Ok(progress) if is(&progress) => Ok(()),
        Ok(progress) => Err(progress.fault.clone().unwrap_or(StreamFault::Stopped)),
        Err(_) => Err(StreamFault::Stopped),
    }
}

/// The wait for a marker.
#[derive(Debug)]
pub struct Marker {
    id: String,
    reached: watch::Receiver<bool>,
    markers: Markers,
    progress: watch::Receiver<StreamProgress>,
}

impl Marker {
    /// Waits until all that was committed at the source before the marker, and
    /// the marker's own transaction, is safe at the target.
    ///
    /// # Errors
    /// Why the stream has ended.
    pub async fn reached(mut self) -> Result<(), StreamFault> {
        let (mut reached, mut progress) = (self.reached.clone(), self.progress.clone());
        tokio::select! {
            biased;
            Ok(_) = reached.wait_for(|reached| *reached) => Ok(()),
            ended = progress_that(&mut progress, |_| false) => {
                if *self.reached.borrow_and_update() { Ok(()) } else { ended }
            }
        }
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        self.markers.forget(&self.id);
    }
}

/// While this is there, nothing is applied before its commit.
#[derive(Debug)]
pub struct InWhole {
    gate: watch::Sender<Gate>,
}

impl Drop for InWhole {
    fn drop(&mut self) {
        self.gate.send_modify(|gate| gate.wholes = gate.wholes.saturating_sub(1));
    }
}

/// While this is there, the applier stands still.
#[derive(Debug)]
pub struct Hold {
    gate: watch::Sender<Gate>,
    progress: watch::Receiver<StreamProgress>,
    _alone: OwnedMutexGuard<()>,
}

impl Hold {
    /// Goes on to where exactly those transactions are applied that a snapshot
    /// of the source at this place in its log shows: the `consistent_point` of a
    /// slot that was made during the hold.
    ///
    /// # Errors
    /// Why the stream has ended; or a later transaction is applied already,
    /// because the place is older than the hold.
    pub async fn at(&self, lsn: Lsn) -> Result<(), StreamFault> {
        if self.progress.borrow().last >= lsn {
            return Err(StreamFault::Refused("the place is older than the hold".to_owned()));
        }
        self.stand(lsn).await
    }

    /// Waits until the applier stands at a new gate.
    async fn stand(&self, lsn: Lsn) -> Result<(), StreamFault> {
        let mut number = 0;
        self.gate.send_modify(|gate| {
            (gate.number, gate.at) = (gate.number + 1, Some(lsn));
            number = gate.number;
        });
        progress_that(&mut self.progress.clone(), |progress| progress.standing == number).await
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.gate.send_modify(|gate| (gate.number, gate.at) = (gate.number + 1, None));
    }
}
