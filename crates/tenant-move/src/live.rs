//! The cutover on real servers: holds through the catalog, entries and markers
//! on the clusters, and the commit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use insula_catalog::{
    Acknowledged, Author, Catalog, CatalogClient, Cutover, HoldOf, HoldWatch, ReleasedHold,
};
use insula_domain::{
    Clock, Entropy, Epoch, LongTransactions, MoveEnd, MoveStatus, OperationId, SchemaVersion, TenantId,
};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::Connection;
use insula_tenant_cluster::moving::{self, Place, Seat, Sequence, SequenceReader, Stream};
use insula_workflow::{CrashPoint, CrashPoints, Direction, Moment};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::cutover::{Act, Begun, World};

/// How long fronts are given to say what they have measured.
const MEASURED_WITHIN: Duration = Duration::from_millis(500);

/// How long the target's server may take to give its seats: one that says
/// nothing at all must not keep the tenant from its source.
const TARGET_WITHIN: Duration = Duration::from_secs(5);

/// What a cutover is to do.
#[derive(Debug, Clone)]
pub struct Task {
    /// The workflow that it is a part of, for the tests that end it.
    pub workflow: &'static str,
    /// The move.
    pub id: OperationId,
    /// Who moves.
    pub tenant: TenantId,
    /// Its slug, for the audit.
    pub slug: String,
    /// Where it is.
    pub source: Place,
    /// The epoch under which it is served there.
    pub epoch: Epoch,
    /// Where it goes.
    pub target: Place,
    /// The same, as the catalog has it.
    pub to: MoveEnd,
    /// The version of the app schema that both ends have.
    pub version: SchemaVersion,
    /// How long it may be held.
    pub hold: Duration,
    /// What is done with open transactions.
    pub long_transactions: LongTransactions,
    /// The move's status once it is committed.
    pub status: MoveStatus,
    /// For how long after the commit it can be taken back; none where it cannot.
    pub window: Option<Duration>,
}

/// The stores and the ambient things that a cutover works with.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The catalog.
    pub catalog: Catalog,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// Where a test may end the process.
    pub crash_points: Arc<dyn CrashPoints>,
}

/// How long the tenant was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// The longest wait that a front has seen.
    pub longest: Duration,
    /// How many clients have waited.
    pub clients: u32,
}

/// The cutover on real servers.
#[derive(Debug)]
pub struct Live {
    tools: Tools,
    task: Task,
    stream: Option<Arc<Stream>>,
    forsakes_target: bool,
    at_work: Mutex<AtWork>,
}

/// What a try has in its hands.
#[derive(Debug, Default)]
struct AtWork {
    seats: Option<Seats>,
    watch: Option<HoldWatch>,
    fronts: BTreeSet<Uuid>,
    ready: Option<Ready>,
    /// Whether an earlier try may have let the tenant into the target.
    target_open: bool,
    /// Since when the fronts are being told to hold the tenant.
    held: Option<Instant>,
}

impl AtWork {
    fn seats(&self) -> Result<&Seats, Problem> {
        self.seats.as_ref().ok_or_else(|| Problem::internal("no seat was taken"))
    }

    fn ready(&mut self) -> Result<(&Seats, &mut Ready), Problem> {
        let seats = self.seats.as_ref().ok_or_else(|| Problem::internal("no seat was taken"))?;
        Ok((seats, self.ready.as_mut().ok_or_else(|| Problem::internal("nobody is held"))?))
    }
}

/// What is made ready before anybody is held.
#[derive(Debug)]
struct Ready {
    /// A connection that has everything prepared.
    catalog: CatalogClient,
    at_source: SequenceReader,
    at_target: SequenceReader,
    /// The sequences of both ends, behind the closed door.
    read: Option<(Vec<Sequence>, Vec<Sequence>)>,
}

/// The seats on both servers, and connections to both databases.
#[derive(Debug)]
struct Seats {
    source: SourceSeat,
    /// None where the target is away, and no try has ever let the tenant in.
    target: Option<TargetSeat>,
}

#[derive(Debug)]
struct SourceSeat {
    server: Seat,
    database: Connection,
}

#[derive(Debug)]
struct TargetSeat {
    /// None where both ends are on one server.
    server: Option<Seat>,
    /// A seat as well: sequences that are set late would be set back.
    database: Seat,
}

impl Seats {
    /// The target's, and the seat on its server.
    fn target(&self) -> Result<(&TargetSeat, &Seat), Problem> {
        let target = self.target.as_ref().ok_or_else(away)?;
        Ok((target, target.server.as_ref().unwrap_or(&self.source.server)))
    }
}

fn away() -> Problem {
    Problem::new(Code::PlacementUnavailable, "The target's cluster cannot be reached right now.")
}

impl Live {
    /// Nothing is begun yet. Without a stream a try can only be taken back.
    #[must_use]
    pub fn new(tools: Tools, task: Task, stream: Option<Arc<Stream>>) -> Self {
        Self { tools, task, stream, forsakes_target: false, at_work: Mutex::default() }
    }

    /// Whether a try may be taken back without a target that is away, where an
    /// earlier one may have let the tenant in there: only where no front can have
    /// a way to it. That it may be open stays noted, and the next try that finds
    /// the target closes it first.
    #[must_use]
    pub fn forsaking_target(self, forsakes_target: bool) -> Self {
        Self { forsakes_target, ..self }
    }

    /// What the fronts have measured of the last hold, once it has come through.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn pause(&self) -> Result<Option<Pause>, Problem> {
        let mut at_work = self.at_work.lock().await;
        let fronts = at_work.fronts.clone();
        let Some(watch) = &mut at_work.watch else { return Ok(None) };
        let measured = watch.released(&fronts, Instant::now() + MEASURED_WITHIN).await?;
        Ok(Some(Pause {
            longest: measured.iter().map(|of| of.longest_wait).max().unwrap_or_default(),
            clients: measured.iter().map(|of: &ReleasedHold| of.clients).sum(),
        }))
    }

    async fn source_seat(&self) -> Result<SourceSeat, Problem> {
        let Task { source, tenant, .. } = &self.task;
        let (server, database) = tokio::try_join!(Seat::take(&source.access, *tenant), source.connect())?;
        Ok(SourceSeat { server, database })
    }

    async fn target_seat(&self) -> Result<TargetSeat, Problem> {
        let Task { source, target, tenant, .. } = &self.task;
        let of_server = async {
            match source.access.name() == target.access.name() {
                true => Ok(None),
                false => Seat::take(&target.access, *tenant).await.map(Some),
            }
        };
        let both = async { tokio::try_join!(of_server, Seat::take_at(target)) };
        let (server, database) = timeout(TARGET_WITHIN, both).await.unwrap_or_else(|_| Err(away()))?;
        Ok(TargetSeat { server, database })
    }

    async fn hold(&self, at_work: &mut AtWork, number: i32, until: Instant) -> Result<(), Problem> {
        let hold = self.new_id();
        let ready = self.make_ready(at_work.seats()?);
        let (watch, ready) = tokio::try_join!(HoldWatch::open(&self.tools.catalog, hold), ready)?;
        at_work.held = Some(Instant::now());
        let within = until.saturating_duration_since(Instant::now());
        if !ready.catalog.set_hold(&self.hold_of(number), hold, within).await? {
            return Err(Problem::internal(
                "the tenant is held already, or somewhere else, or by a later try",
            ));
        }
        at_work.fronts = watch.live_fronts().await?;
        (at_work.watch, at_work.ready) = (Some(watch), Some(ready));
        Ok(())
    }

    /// Nobody is held for a target that is away.
    async fn make_ready(&self, seats: &Seats) -> Result<Ready, Problem> {
        let Task { source, target, .. } = &self.task;
        let catalog = async {
            let client = self.tools.catalog.client().await?;
            client.prepare_cutover().await?;
            Ok::<_, Problem>(client)
        };
        let (catalog, at_source, at_target) = tokio::try_join!(
            catalog,
            SequenceReader::prepare(&seats.source.database, source),
            SequenceReader::prepare(&seats.target()?.0.database, target),
        )?;
        Ok(Ready { catalog, at_source, at_target, read: None })
    }

    fn hold_of(&self, number: i32) -> HoldOf {
        let Task { id, tenant, epoch, .. } = self.task;
        HoldOf { tenant_move: id, number, tenant, epoch }
    }

    fn new_id(&self) -> Uuid {
        let mut random = [0; 16];
        self.tools.entropy.fill(&mut random);
        uuid::Builder::from_random_bytes(random).into_uuid()
    }

    async fn quiet(&self, at_work: &mut AtWork, until: Instant) -> Result<(), Problem> {
        let AtWork { watch, fronts, .. } = at_work;
        let watch = watch.as_mut().ok_or_else(|| Problem::internal("nobody is held"))?;
        // Time is left to end what is still open, and for the rest.
        let left = until.saturating_duration_since(Instant::now());
        let deadline = match self.task.long_transactions {
            LongTransactions::Wait => until,
            LongTransactions::End => Instant::now() + left / 2,
        };
        match watch.acknowledged(fronts, deadline).await? {
            Acknowledged::ByAll => Ok(()),
            Acknowledged::NotBy(_) if self.task.long_transactions == LongTransactions::End => Ok(()),
            Acknowledged::NotBy(missing) => Err(Problem::new(
                Code::Unavailable,
                format!(
                    "Transactions of the tenant were open for longer than it may be held, at {} of {} fronts.",
                    missing.len(),
                    fronts.len()
                ),
            )),
        }
    }

    /// A marker behind everything that the source has ever committed. Nobody draws
    /// from the source's sequences any more, so they are read meanwhile.
    async fn drain(&self, at_work: &mut AtWork) -> Result<(), Problem> {
        let id = self.new_id().to_string();
        let stream = self.stream.as_ref().ok_or_else(|| Problem::internal("a cutover without a stream"))?;
        let (seats, ready) = at_work.ready()?;
        let (source, target) = (&seats.source.database, &seats.target()?.0.database);
        let marker = stream.marker(&id);
        let drained = async {
            moving::write_marker(source, &id).await?;
            marker.reached().await.map_err(Problem::from)
        };
        let (_, at_source, at_target) =
            tokio::try_join!(drained, ready.at_source.read(source), ready.at_target.read(target))?;
        ready.read = Some((at_source, at_target));
        Ok(())
    }

    /// At the same time it is noted that the target may be open from here on.
    async fn sequences(&self, at_work: &mut AtWork, number: i32) -> Result<(), Problem> {
        let (seats, ready) = at_work.ready()?;
        let (from, there) =
            ready.read.as_ref().ok_or_else(|| Problem::internal("the sequences were not read"))?;
        let database = &seats.target()?.0.database;
        let set = moving::move_sequences(database, &self.task.target, there, from);
        tokio::try_join!(set, self.note_open(&ready.catalog, number, true)).map(drop)
    }

    async fn note_open(&self, catalog: &CatalogClient, number: i32, open: bool) -> Result<(), Problem> {
        if catalog.set_target_open(self.task.id, number, open).await? {
            return Ok(());
        }
        Err(Problem::internal("a later try at the cutover has begun"))
    }

    /// Where no try has let the tenant in there is nothing to close.
    async fn close_target(&self, at_work: &mut AtWork, number: i32) -> Result<(), Problem> {
        let seats = at_work.seats()?;
        if seats.target.is_none() && (!at_work.target_open || self.forsakes_target) {
            return Ok(());
        }
        moving::close(seats.target()?.1, &self.task.target).await?;
        if at_work.target_open {
            self.note_open(&self.tools.catalog.client().await?, number, false).await?;
            at_work.target_open = false;
        }
        Ok(())
    }

    async fn commit(&self, at_work: &mut AtWork, number: i32) -> Result<(), Problem> {
        let task = &self.task;
        let client = &mut at_work.ready()?.1.catalog;
        let change = client.change(Author::new("worker", self.tools.clock.now())).await?;
        // Sent along with the question.
        let ((), newest) = tokio::try_join!(change.end_when_silent(), change.hold_newest_schema_version())?;
        if newest != task.version {
            return Err(Problem::new(
                Code::SchemaBehind,
                format!(
                    "Version {newest} of the app schema was published meanwhile, and the target has version {}.",
                    task.version
                ),
            ));
        }
        let window_ends_at = task.window.map(|window| change.at() + window);
        let cutover = Cutover {
            id: task.id,
            tenant: task.tenant,
            number,
            epoch: task.epoch,
            to: &task.to,
            status: task.status,
            window_ends_at,
        };
        // Sent along, as the tenant waits meanwhile: nothing of it is left where the change is dropped.
        let detail = json!({"move": task.id, "to": task.to, "epoch": task.epoch.next()});
        let audit = change.audit("tenant.moved", Some(task.tenant), &task.slug, &detail);
        let (has_moved, ()) = tokio::try_join!(change.cut_over(&cutover), audit)?;
        if !has_moved {
            return Err(Problem::internal("a later try at the cutover has begun"));
        }
        change.commit().await?;
        at_work.ready = None;
        if let Some(held) = at_work.held.take() {
            let held = held.elapsed().as_secs_f64();
            metrics::histogram!("insula_move_held_seconds").record(held);
            tracing::debug!(tenant_move = %task.id, held_ms = held * 1_000.0, "a cutover has come through");
        }
        Ok(())
    }

    async fn let_go(&self, at_work: &mut AtWork, number: i32) -> Result<(), Problem> {
        (at_work.watch, at_work.ready) = (None, None);
        let client = self.tools.catalog.client().await?;
        client.clear_hold(&self.hold_of(number)).await.map(drop)
    }

    async fn carry_out(&self, act: Act, number: i32, until: Instant) -> Result<(), Problem> {
        let mut at_work = self.at_work.lock().await;
        let at_work = &mut *at_work;
        match act {
            Act::Hold => self.hold(at_work, number, until).await,
            Act::Quiet => self.quiet(at_work, until).await,
            Act::LetGo => self.let_go(at_work, number).await,
            Act::Commit => self.commit(at_work, number).await,
            Act::CloseTarget => self.close_target(at_work, number).await,
            Act::CloseSource => {
                let seat = &at_work.seats()?.source.server;
                moving::close(seat, &self.task.source).await.map(drop)
            }
            Act::OpenSource => moving::open(&at_work.seats()?.source.server, &self.task.source).await,
            Act::OpenTarget => moving::open(at_work.seats()?.target()?.1, &self.task.target).await,
            Act::Drain => self.drain(at_work).await,
            Act::Sequences => self.sequences(at_work, number).await,
        }
    }

    fn reach(&self, act: Act, moment: Moment) {
        let point =
            CrashPoint { workflow: self.task.workflow, step: act.as_str(), direction: Direction::Do, moment };
        self.tools.crash_points.reached(&point);
    }
}

impl World for Live {
    /// The seats first: what an earlier worker has still on its way to a server
    /// ends with its session. Then the number, without which nothing commits.
    async fn begin(&self) -> Result<Begun, Problem> {
        let (source, target) = tokio::join!(self.source_seat(), self.target_seat());
        let client = self.tools.catalog.client().await?;
        let begun = client.next_try(self.task.id).await?;
        let begun = begun.ok_or_else(|| Problem::internal("a move that is gone"))?;
        if begun.epoch > self.task.epoch {
            return Ok(Begun::Committed);
        }
        let target = match target {
            Ok(target) => Some(target),
            // The tenant goes on at its source, which needs nobody else.
            Err(problem) if !begun.target_open || self.forsakes_target => {
                tracing::info!(problem = problem.chain(), "the target of a move is away");
                None
            }
            Err(problem) => return Err(problem),
        };
        let mut at_work = self.at_work.lock().await;
        at_work.seats = Some(Seats { source: source?, target });
        at_work.target_open = begun.target_open;
        Ok(if begun.cancel { Begun::Cancelled(begun.number) } else { Begun::Try(begun.number) })
    }

    async fn act(&self, act: Act, number: i32, until: Instant) -> Result<(), Problem> {
        self.reach(act, Moment::Before);
        let begun = Instant::now();
        let result = self.carry_out(act, number, until).await;
        let took = begun.elapsed().as_secs_f64();
        metrics::histogram!("insula_move_act_seconds", "act" => act.as_str()).record(took);
        let tenant_move = self.task.id;
        tracing::debug!(%tenant_move, act = act.as_str(), took_ms = took * 1_000.0, "an act of a cutover");
        self.reach(act, Moment::Inside);
        result
    }
}
