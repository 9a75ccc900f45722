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
use super::super::pgoutput::Change;
use super::chunks::Chunked;
use super::entry::Entry;
use super::falls::Falls;
use super::fault::StreamFault;
use super::link::{Gated, Link, Pending, Transaction};
use super::markers::{Markers, PREFIX};
use super::rows::apply;
use super::source::{Chunks, Incoming, Opened, Source};
use super::statements::TargetTable;
use super::target::Target;
use super::{Gate, StreamProgress, StreamSpec, measure};

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
    pub(super) spec: StreamSpec,
    pub(super) tables: Arc<[TargetTable]>,
    skipped: Vec<String>,
    gate: watch::Receiver<Gate>,
    pub(super) progress: watch::Sender<StreamProgress>,
    markers: Markers,
    stop: CancellationToken,
    at_source: Entry,
    pub(super) at_target: Entry,
    /// Why what was received in chunks is to come again, whole.
    pub(super) falls_back: Option<&'static str>,
    /// No chunks come until all before this is applied.
    no_chunks_before: Lsn,
    falls: Falls,
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
            falls_back: None,
            no_chunks_before: Lsn::from(0),
            falls: Falls::new(spec.clock.clone()),
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
                    let ended = self.serve(link).await;
                    if began.elapsed() > STEADY {
                        (away_since, pause) = (None, BACK_OFF.0);
                    }
                    match ended {
                        Ended::Again => continue,
                        Ended::By(fault) => fault,
                    }
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
        let is_held = self.is_all_whole();
        let spec = &self.spec;
        let both = async {
            let (target, applied) =
                Target::open(&spec.target, spec.name, self.tables.clone(), &mut self.at_target).await?;
            let applied = (applied, self.progress.borrow().applied);
            let chunks = Chunks {
                above_kb: spec.chunks_above_kb,
                is_held,
                not_before: self.no_chunks_before,
                left_out: &spec.skip_origins,
            };
            let opened =
                Source::open(&spec.source, spec.name, &spec.tables, applied, &mut self.at_source, chunks)
                    .await?;
            Ok::<_, StreamFault>((target, opened))
        };
        let opened = timeout(OPENED_WITHIN, both).await;
        let (target, Opened { source, layout, from, whole_until }) =
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
            from,
            whole_until,
            target,
            chunked: Chunked::default(),
            layout,
            relations: HashMap::new(),
            under_way: None,
            gated: None,
            pending: Pending::default(),
            complete: Lsn::from(0),
            ticks,
        })
    }

    /// One life of the connections, and why it ended.
    async fn serve(&mut self, mut link: Link) -> Ended {
        loop {
            match self.step(&mut link).await {
                Ok(()) if self.is_to_change(&link) => return Ended::Again,
                Ok(()) => {}
                Err(StreamFault::Stopped) => {
                    // What was received in part comes again; whoever goes on knows from where.
                    let _ = self.report(&mut link.source, false).await;
                    link.source.end().await;
                    link.target.end().await;
                    link.chunked.end().await;
                    return Ended::By(StreamFault::Stopped);
                }
                Err(fault) => {
                    let was_at_work = link.chunked.is_at_work();
                    let why = match self.falls_back.take() {
                        Some(why) => why.to_owned(),
                        None if was_at_work && fault.may_be_of_chunks() => fault.to_string(),
                        None => return Ended::By(fault),
                    };
                    self.fall_back(&link, &why);
                    return Ended::Again;
                }
            }
        }
    }

    /// Whether nothing is to come in chunks that does, or the other way round.
    fn is_to_change(&self, link: &Link) -> bool {
        let is_all_whole = self.is_all_whole();
        match link.whole_until {
            None => is_all_whole,
            Some(until) => {
                let is_behind = self.progress.borrow().applied >= until;
                is_behind && !is_all_whole && link.is_between() && link.gated.is_none()
            }
        }
    }

    /// Whether nothing is to come in chunks for now.
    fn is_all_whole(&self) -> bool {
        self.is_held() || self.falls.are_many()
    }

    /// Whether no transaction is to be at the target that is not committed at the
    /// source. Who makes a slot waits for all transactions of its server to end: on
    /// the target's server for those of this applier, and where it stands still
    /// meanwhile they would never end; nor where two streams go both ways between
    /// two servers, and somebody waits at each of them.
    fn is_held(&self) -> bool {
        let gate = *self.gate.borrow();
        gate.at.is_some() || gate.wholes > 0
    }

    /// Has the source send again, whole, what has come in chunks.
    fn fall_back(&mut self, link: &Link, why: &str) {
        tracing::info!(why, stream = %self.spec.name, "large transactions are applied after their commit");
        self.progress.send_modify(|progress| progress.fallen_back += 1);
        measure::fallen_back();
        self.falls.note();
        // What was sent in part may be committed long behind this: then it comes in
        // chunks again.
        self.no_chunks_before = link.source.end;
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
        link.ask();
        self.stand(link);
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(StreamFault::Stopped),
            Ok(()) = self.gate.changed() => self.gate_has_changed(link).await,
            answered = link.target.answer() => answered,
            answered = link.chunked.answer() => answered,
            incoming = link.source.next(), if link.may_take() => self.take(link, incoming?).await,
            _ = link.ticks.tick() => {
                let listening = link.may_take();
                link.source.is_there(listening)?;
                link.target.is_there(self.spec.patience / 2).await?;
                for session in link.chunked.sessions() {
                    session.is_there(self.spec.patience / 2).await?;
                }
                let ask = self.gate.borrow().at.is_some();
                self.report(&mut link.source, ask).await
            }
        }
    }

    async fn take(&mut self, link: &mut Link, incoming: Incoming) -> Result<(), StreamFault> {
        match incoming {
            Incoming::Change(Some(part), change) => self.take_part(link, part, change).await,
            Incoming::Change(None, change) => self.take_change(link, change).await,
            Incoming::Sent { end, reply } => {
                if link.is_between() && link.gated.is_none() {
                    // Nothing of ours is committed in the log before this: a slot
                    // that is quiet must not keep the log of others. What has come
                    // in chunks and is committed behind it comes again, whole, to
                    // who goes on from here.
                    link.complete = end;
                    self.advance(link, |progress| progress.applied = progress.applied.max(end));
                }
                if reply { self.report(&mut link.source, false).await } else { Ok(()) }
            }
        }
    }

    async fn take_change(&mut self, link: &mut Link, change: Change) -> Result<(), StreamFault> {
        let gate = self.gate.borrow().at;
        let is_gated = |final_lsn| gate.is_some_and(|gate| final_lsn >= gate);
        let is_one_of_many = matches!(
            change,
            Change::Begin { .. } | Change::ChunkStart | Change::ChunksCommit(_) | Change::ChunksAbort { .. }
        );
        if is_one_of_many && link.under_way.is_some() {
            return Err(StreamFault::Refused("the source has sent two transactions in one".to_owned()));
        }
        match change {
            Change::Begin { final_lsn, .. } => {
                let transaction = Transaction { final_lsn, is_skipped: false };
                if is_gated(final_lsn) {
                    link.gated = Some(Gated::Whole(transaction));
                } else {
                    link.under_way = Some(transaction);
                }
            }
            Change::Commit { end_lsn, committed } => {
                let Some(transaction) = link.under_way.take() else {
                    return Err(StreamFault::Refused(
                        "the source has ended what it had not begun".to_owned(),
                    ));
                };
                link.pending.transactions += u64::from(!transaction.is_skipped);
                self.ended(link, transaction.final_lsn, (end_lsn, committed)).await?;
            }
            Change::Relation(message) => {
                link.relations.insert(message.id, link.layout.relation(&message));
            }
            Change::Origin(name) => {
                if let Some(transaction) = &mut link.under_way {
                    transaction.is_skipped = self.is_skipped(&name);
                }
            }
            Change::Logical { transactional: true, prefix, content } => {
                link.pending.markers.extend(self.marker(&prefix, &content));
            }
            Change::ChunksCommit(commit) if is_gated(commit.final_lsn) => {
                link.gated = Some(Gated::Commit(commit));
            }
            Change::ChunksCommit(commit) => self.chunks_commit(link, commit).await?,
            Change::ChunksAbort { xid, inner } => self.chunks_abort(link, xid, inner).await?,
            Change::Type | Change::Logical { .. } | Change::ChunkStart | Change::ChunkEnd => {}
            row => {
                let Some(transaction) = link.under_way else {
                    let outside = "the source has sent a row outside a transaction";
                    return Err(StreamFault::Refused(outside.to_owned()));
                };
                if !transaction.is_skipped {
                    apply(&mut link.target, &link.relations, row)?;
                }
            }
        }
        Ok(())
    }

    /// Whether what was applied at the source under this name is left out.
    pub(super) fn is_skipped(&self, name: &String) -> bool {
        self.skipped.contains(name)
    }

    /// The marker that a message is, where somebody waits for it.
    pub(super) fn marker(&self, prefix: &str, content: &[u8]) -> Option<String> {
        let id = std::str::from_utf8(content).ok().filter(|id| id.len() <= MARKER_BYTES_MAX)?;
        (prefix == PREFIX && self.markers.is_expected(id)).then(|| id.to_owned())
    }

    /// The end of a transaction of the source is here, of which all that is to be
    /// applied is in the stream's own session.
    pub(super) async fn ended(
        &mut self,
        link: &mut Link,
        final_lsn: Lsn,
        end: (Lsn, i64),
    ) -> Result<(), StreamFault> {
        link.pending.end = Some(end);
        self.noted(final_lsn);
        if link.target.is_open() { Ok(()) } else { self.committed(link, 0).await }
    }

    /// Notes where the commit begins of what was received last.
    pub(super) fn noted(&self, final_lsn: Lsn) {
        self.progress.send_if_modified(|progress| {
            progress.last = final_lsn;
            false
        });
    }

    /// Commits at the target what was received whole.
    pub(super) async fn commit(&mut self, link: &mut Link) -> Result<(), StreamFault> {
        let Some((end, committed)) = link.pending.end else {
            return Err(StreamFault::Refused("there is nothing to commit".to_owned()));
        };
        let rows = link.target.rows;
        link.target.ask();
        self.answered(&mut link.source, &mut link.ticks, &mut link.target).await?;
        link.target.commit(end, committed);
        self.answered(&mut link.source, &mut link.ticks, &mut link.target).await?;
        self.committed(link, rows).await
    }

    /// Waits for all answers of a session. The source hears meanwhile that
    /// somebody is there.
    pub(super) async fn answered(
        &self,
        source: &mut Source,
        ticks: &mut Interval,
        session: &mut Target,
    ) -> Result<(), StreamFault> {
        while session.is_waiting() {
            tokio::select! {
                biased;
                answered = session.answer() => answered?,
                _ = ticks.tick() => {
                    source.is_there(false)?;
                    session.is_there(self.spec.patience / 2).await?;
                    self.report(source, false).await?;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn committed(&mut self, link: &mut Link, rows: u64) -> Result<(), StreamFault> {
        let pending = std::mem::take(&mut link.pending);
        let Some((end, committed)) = pending.end else { return Ok(()) };
        self.advance(link, |progress| {
            progress.applied = progress.applied.max(end);
            progress.transactions += pending.transactions;
            progress.rows += rows;
            progress.last_commit = Some(committed.saturating_add(EPOCH_US));
        });
        pending.markers.iter().for_each(|id| self.markers.announce(id));
        if link.source.unreported() >= REPORT_PAUSE {
            self.report(&mut link.source, false).await
        } else {
            Ok(())
        }
    }

    fn advance(&self, link: &Link, how: impl FnOnce(&mut StreamProgress)) {
        self.progress.send_modify(|progress| {
            progress.received = link.source.received;
            progress.source_end = link.source.end;
            how(progress);
        });
    }

    async fn report(&self, source: &mut Source, ask: bool) -> Result<(), StreamFault> {
        let safe = self.progress.borrow().applied;
        source.report(safe, ask).await
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

    /// Lets begin what waits, where it may now; asks how far the source is, where
    /// that decides.
    async fn gate_has_changed(&mut self, link: &mut Link) -> Result<(), StreamFault> {
        let at = self.gate.borrow().at;
        let passes = |waits: &mut Gated| at.is_none_or(|at| waits.final_lsn() < at);
        match link.gated.take_if(passes) {
            Some(Gated::Whole(transaction)) => link.under_way = Some(transaction),
            Some(Gated::Commit(commit)) => self.chunks_commit(link, commit).await?,
            None => {}
        }
        self.report(&mut link.source, at.is_some()).await
    }
}

/// How a life of the connections ends.
enum Ended {
    /// Another one begins at once.
    Again,
    By(StreamFault),
}
