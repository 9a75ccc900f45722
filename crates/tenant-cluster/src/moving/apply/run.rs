//! The loop of an applier: what comes from the source goes to the target,
//! transactions are committed when nothing more is at hand, and servers that go
//! away are waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::Lsn;
use super::super::pgoutput::{Cell, Change};
use super::fault::StreamFault;
use super::layout::{Layout, Relation};
use super::markers::{Markers, PREFIX};
use super::source::{Incoming, Source};
use super::statements::TargetTable;
use super::target::{Entry, Target};
use super::{Gate, StreamProgress, StreamSpec};

/// How often the source hears how far the stream is, where nothing happens.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// How often it does, at most, where much happens.
const REPORT_PAUSE: Duration = Duration::from_millis(20);

/// Transactions of the source are merged up to so many rows.
const MERGED_ROWS_MAX: u64 = 2_000;

/// The first pause before another try, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long the opening of both connections may take, those who had the stream
/// before ended.
const OPENED_WITHIN: Duration = Duration::from_secs(60);

/// Connections that have lasted for so long were good ones.
const STEADY: Duration = Duration::from_secs(10);

/// Microseconds from 1970 to 2000, from where PostgreSQL counts.
const EPOCH_US: i64 = 946_684_800_000_000;

/// The longest marker, in bytes.
const MARKER_BYTES_MAX: usize = 64;

/// What outlives connections.
#[derive(Debug)]
pub(super) struct Runner {
    spec: StreamSpec,
    tables: Arc<[TargetTable]>,
    skipped: Vec<String>,
    gate: watch::Receiver<Gate>,
    progress: watch::Sender<StreamProgress>,
    markers: Markers,
    stop: CancellationToken,
    at_source: Entry,
    at_target: Entry,
}

/// The connections, and what is under way on them.
#[derive(Debug)]
pub(super) struct Link {
    source: Source,
    target: Target,
    layout: Layout,
    /// What the source has said of tables. One that cannot be applied ends the
    /// stream with its first row.
    relations: HashMap<u32, Result<Relation, StreamFault>>,
    /// The source's transaction that is being received.
    under_way: Option<Transaction>,
    /// One that must not begin yet.
    gated: Option<Transaction>,
    /// What the open transaction of the target will have applied.
    pending: Pending,
    /// Up to here everything has come, at a moment when nothing was under way.
    complete: Lsn,
    reported: Instant,
    ticks: Interval,
}

#[derive(Debug)]
struct Transaction {
    /// Where the record of its commit begins.
    final_lsn: Lsn,
    is_skipped: bool,
}

#[derive(Debug, Default)]
struct Pending {
    /// The end of the last transaction, and when it was committed.
    end: Option<(Lsn, i64)>,
    transactions: u64,
    markers: Vec<String>,
}

impl Link {
    fn may_take(&self) -> bool {
        self.gated.is_none() && !self.target.is_full()
    }

    /// Whether nothing is applied in part.
    fn is_between(&self) -> bool {
        self.under_way.is_none() && !self.target.is_open()
    }
}

impl Runner {
    /// Opens both connections for the first time.
    pub async fn start(
        spec: StreamSpec,
        gate: watch::Receiver<Gate>,
        markers: Markers,
        stop: CancellationToken,
    ) -> Result<(Self, Link, watch::Receiver<StreamProgress>), StreamFault> {
        let (progress, seen) = watch::channel(StreamProgress::default());
        let mut runner = Self {
            skipped: spec.skip_origins.iter().map(ToString::to_string).collect(),
            tables: spec.tables.iter().map(|table| TargetTable::new(&spec.target, table)).collect(),
            at_source: Entry::new(),
            at_target: Entry::new(),
            spec,
            gate,
            progress,
            markers,
            stop,
        };
        let link = runner.connect().await?;
        Ok((runner, link, seen))
    }

    /// Applies until it is stopped, or must end.
    pub async fn run(mut self, first: Link) {
        let mut link = Some(first);
        let mut away_since: Option<Instant> = None;
        let mut pause = BACK_OFF.0;
        let stop = self.stop.clone();
        let fault = loop {
            let opened = match link.take() {
                Some(link) => Ok(link),
                None => self.connect().await,
            };
            let fault = match opened {
                Ok(link) => {
                    let began = Instant::now();
                    let fault = self.serve(link).await;
                    if began.elapsed() > STEADY {
                        (away_since, pause) = (None, BACK_OFF.0);
                    }
                    fault
                }
                Err(fault) => fault,
            };
            let since = *away_since.get_or_insert_with(Instant::now);
            if !fault.is_away() || since.elapsed() > self.spec.patience {
                break fault;
            }
            tracing::debug!(%fault, stream = %self.spec.name, "a stream of changes is interrupted");
            self.progress.send_modify(|progress| progress.away = Some(fault.to_string()));
            tokio::select! {
                () = stop.cancelled() => break StreamFault::Stopped,
                () = sleep(pause) => pause = (pause * 2).min(BACK_OFF.1),
            }
        };
        self.progress.send_modify(|progress| progress.fault = Some(fault));
    }

    async fn connect(&mut self) -> Result<Link, StreamFault> {
        let spec = &self.spec;
        let both = async {
            let (target, applied) =
                Target::open(&spec.target, spec.name, self.tables.clone(), &mut self.at_target).await?;
            let applied = (applied, self.progress.borrow().applied);
            let (source, layout, from) =
                Source::open(&spec.source, spec.name, &spec.tables, applied, &mut self.at_source).await?;
            Ok::<_, StreamFault>((target, source, layout, from))
        };
        let opened = timeout(OPENED_WITHIN, both).await;
        let (target, source, layout, from) =
            opened.map_err(|_| StreamFault::Away("a server does not answer".to_owned()))??;
        (self.at_source.takes_over, self.at_target.takes_over) = (false, false);
        self.progress.send_modify(|progress| {
            progress.applied = progress.applied.max(from);
            // Everything before is applied, and nothing behind.
            progress.last = progress.last.max(Lsn::from(u64::from(from).saturating_sub(1)));
            progress.away = None;
        });
        let mut ticks = interval(REPORT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Link {
            source,
            target,
            layout,
            relations: HashMap::new(),
            under_way: None,
            gated: None,
            pending: Pending::default(),
            complete: Lsn::from(0),
            reported: Instant::now(),
            ticks,
        })
    }

    /// One life of the connections, and why it ended.
    async fn serve(&mut self, mut link: Link) -> StreamFault {
        loop {
            match self.step(&mut link).await {
                Ok(()) => {}
                Err(StreamFault::Stopped) => {
                    // What was received in part comes again; whoever goes on knows from where.
                    let _ = self.report(&mut link, false).await;
                    link.source.end().await;
                    link.target.end().await;
                    return StreamFault::Stopped;
                }
                Err(fault) => return fault,
            }
        }
    }

    /// Takes what is at hand, commits where nothing more is, or waits.
    async fn step(&mut self, link: &mut Link) -> Result<(), StreamFault> {
        while link.may_take() && link.source.has_message() {
            let incoming = link.source.next().await?;
            self.take(link, incoming).await?;
            if link.under_way.is_none() && link.target.rows >= MERGED_ROWS_MAX {
                break;
            }
        }
        if link.under_way.is_none() && link.target.is_open() {
            return self.commit(link).await;
        }
        link.target.ask();
        self.stand(link);
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(StreamFault::Stopped),
            Ok(()) = self.gate.changed() => self.gate_has_changed(link).await,
            answered = link.target.answer() => answered,
            incoming = link.source.next(), if link.may_take() => self.take(link, incoming?).await,
            _ = link.ticks.tick() => {
                let listening = link.may_take();
                link.source.is_there(listening)?;
                link.target.is_there(self.spec.patience / 2).await?;
                let ask = self.gate.borrow().at.is_some();
                self.report(link, ask).await
            }
        }
    }

    async fn take(&mut self, link: &mut Link, incoming: Incoming) -> Result<(), StreamFault> {
        let change = match incoming {
            Incoming::Change(change) => change,
            Incoming::Sent { end, reply } => {
                if link.is_between() && link.gated.is_none() {
                    // Nothing of ours is in the log before this: a slot that is
                    // quiet must not keep the log of others.
                    link.complete = end;
                    self.advance(link, |progress| progress.applied = progress.applied.max(end));
                }
                return if reply { self.report(link, false).await } else { Ok(()) };
            }
        };
        match change {
            Change::Begin { final_lsn, .. } => {
                let transaction = Transaction { final_lsn, is_skipped: false };
                let gate = self.gate.borrow().at;
                let place = if gate.is_some_and(|gate| final_lsn >= gate) {
                    &mut link.gated
                } else {
                    &mut link.under_way
                };
                *place = Some(transaction);
            }
            Change::Commit { end_lsn, committed } => self.received_whole(link, end_lsn, committed).await?,
            Change::Relation(message) => {
                link.relations.insert(message.id, link.layout.relation(&message));
            }
            Change::Origin(name) => {
                if let Some(transaction) = &mut link.under_way {
                    transaction.is_skipped = self.skipped.contains(&name);
                }
            }
            Change::Logical { transactional: true, prefix, content } if prefix == PREFIX => {
                let id = std::str::from_utf8(&content).ok().filter(|id| id.len() <= MARKER_BYTES_MAX);
                let expected = id.filter(|id| self.markers.is_expected(id));
                link.pending.markers.extend(expected.map(str::to_owned));
            }
            Change::Type | Change::Logical { .. } => {}
            row => apply(link, row)?,
        }
        Ok(())
    }

    /// The end of a transaction of the source is here.
    async fn received_whole(&mut self, link: &mut Link, end: Lsn, committed: i64) -> Result<(), StreamFault> {
        let Some(transaction) = link.under_way.take() else {
            return Err(StreamFault::Refused("the source has ended what it had not begun".to_owned()));
        };
        link.pending.end = Some((end, committed));
        link.pending.transactions += u64::from(!transaction.is_skipped);
        self.progress.send_if_modified(|progress| {
            progress.last = transaction.final_lsn;
            false
        });
        if link.target.is_open() { Ok(()) } else { self.committed(link, 0).await }
    }

    /// Commits at the target what was received whole.
    async fn commit(&mut self, link: &mut Link) -> Result<(), StreamFault> {
        let Some((end, committed)) = link.pending.end else {
            return Err(StreamFault::Refused("there is nothing to commit".to_owned()));
        };
        let rows = link.target.rows;
        link.target.ask();
        self.answered(link).await?;
        link.target.commit(end, committed);
        self.answered(link).await?;
        self.committed(link, rows).await
    }

    /// Waits for all answers of the target. The source hears meanwhile that
    /// somebody is there.
    async fn answered(&mut self, link: &mut Link) -> Result<(), StreamFault> {
        while link.target.is_waiting() {
            tokio::select! {
                biased;
                answered = link.target.answer() => answered?,
                _ = link.ticks.tick() => {
                    link.source.is_there(false)?;
                    link.target.is_there(self.spec.patience / 2).await?;
                    self.report(link, false).await?;
                }
            }
        }
        Ok(())
    }

    async fn committed(&mut self, link: &mut Link, rows: u64) -> Result<(), StreamFault> {
        let pending = std::mem::take(&mut link.pending);
        let Some((end, committed)) = pending.end else { return Ok(()) };
        self.advance(link, |progress| {
            progress.applied = progress.applied.max(end);
            progress.transactions += pending.transactions;
            progress.rows += rows;
            progress.last_commit = Some(committed.saturating_add(EPOCH_US));
        });
        pending.markers.iter().for_each(|id| self.markers.announce(id));
        if link.reported.elapsed() >= REPORT_PAUSE { self.report(link, false).await } else { Ok(()) }
    }

    fn advance(&self, link: &Link, how: impl FnOnce(&mut StreamProgress)) {
        self.progress.send_modify(|progress| {
            progress.received = link.source.received;
            progress.source_end = link.source.end;
            how(progress);
        });
    }

    async fn report(&self, link: &mut Link, ask: bool) -> Result<(), StreamFault> {
        link.reported = Instant::now();
        let safe = self.progress.borrow().applied;
        link.source.report(safe, ask).await
    }

    /// Says so where the applier stands at the gate.
    fn stand(&self, link: &Link) {
        let gate = *self.gate.borrow();
        let Some(at) = gate.at else { return };
        let has_all = at == Lsn::from(0) || link.gated.is_some() || link.complete >= at;
        if has_all && link.is_between() && self.progress.borrow().standing != gate.number {
            self.progress.send_modify(|progress| progress.standing = gate.number);
        }
    }

    /// Lets the transaction begin that waits, where it may now; asks how far
    /// the source is, where that decides.
    async fn gate_has_changed(&self, link: &mut Link) -> Result<(), StreamFault> {
        let at = self.gate.borrow().at;
        if link.gated.as_ref().is_some_and(|waits| at.is_none_or(|at| waits.final_lsn < at)) {
            link.under_way = link.gated.take();
        }
        self.report(link, at.is_some()).await
    }
}

/// Gives a change of rows to the target.
fn apply(link: &mut Link, change: Change) -> Result<(), StreamFault> {
    let Some(transaction) = &link.under_way else {
        return Err(StreamFault::Refused("the source has sent a row outside a transaction".to_owned()));
    };
    if transaction.is_skipped {
        return Ok(());
    }
    let relation = |id: u32| {
        let unknown = || StreamFault::Refused("the source has sent a row of an unknown table".to_owned());
        link.relations.get(&id).cloned().unwrap_or_else(|| Err(unknown()))
    };
    match change {
        Change::Insert { relation: id, new } => {
            let relation = relation(id)?;
            let new = fitted(&relation, new, &link.target)?;
            link.target.insert(relation.table, &new);
        }
        Change::Update { relation: id, old, new } => {
            let relation = relation(id)?;
            let new = fitted(&relation, new, &link.target)?;
            let old = old.map(|old| fitted(&relation, old, &link.target)).transpose()?;
            link.target.update(relation.table, old.as_deref(), &new);
        }
        Change::Delete { relation: id, old } => {
            let relation = relation(id)?;
            let old = fitted(&relation, old, &link.target)?;
            link.target.delete(relation.table, &old);
        }
        Change::Truncate(ids) => {
            let tables = ids.into_iter().map(|id| Ok(relation(id)?.table));
            let tables: Vec<usize> = tables.collect::<Result<_, StreamFault>>()?;
            link.target.truncate(&tables);
        }
        _ => {}
    }
    Ok(())
}

/// A row without the tenant's column, as wide as the table.
fn fitted(relation: &Relation, mut row: Vec<Cell>, target: &Target) -> Result<Vec<Cell>, StreamFault> {
    if let Some(position) = relation.tenant.filter(|position| *position < row.len()) {
        row.remove(position);
    }
    if row.len() == target.width(relation.table) {
        return Ok(row);
    }
    Err(StreamFault::Refused("the source has sent a row of another width".to_owned()))
}
