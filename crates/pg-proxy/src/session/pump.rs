//! Moves bytes both ways between a client and its backend, message by message,
//! as long as there are any, and says what ended that. A session that may change
//! its backend has one only as long as its transaction lasts.

mod cancels;
mod moving;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use insula_domain::ClusterName;
use insula_pg_wire::{WireError, frontend};
use insula_problem::Code;
use tokio::time::timeout;

use self::cancels::Cancels;
use super::from_client::FromClient;
use super::from_server::FromServer;
use super::lane::{Lane, Stopped};
use super::memory::Memory;
use super::turn::{Ending, Turn};
use super::way::Way;
use crate::account::Account;
use crate::cancel::Slot;
use crate::front::Front;
use crate::gate::Passage;
use crate::guard::{Guard, Rule};
use crate::link::Link;
use crate::pipeline::{Passed, Pipeline};
use crate::pool::{Answer, Cluster, Destination, Lease, Patience, Wait};
use crate::refusal::Refusal;
use crate::show::Answers;
use crate::vital::{Doing, Entry, Overdue, Vital};

/// How long a statement may go on after it was cancelled before its session
/// ends.
const CANCEL_GRACE_TICKS: u32 = 20;

/// What a backend may still send after its client has left. One that sends more
/// is hung up on: PostgreSQL ends a query whose rows nobody takes.
pub(super) const LEFTOVER_BYTES_MAX: usize = 1024 * 1024;

/// A session's backend.
#[derive(Debug)]
pub(super) enum Connection {
    /// It has none, and needs none now.
    Without,
    /// It waits for one.
    Waiting(Box<Wait>),
    With(Lease),
}

/// Where a session's backends come from.
#[derive(Debug)]
pub(super) struct Source {
    pub way: Way,
    pub cluster: Arc<Cluster>,
    pub destination: Arc<Destination>,
    /// Where cancels of the session go.
    pub slot: Arc<Slot>,
}

/// A client and its backend, and what is on its way between them.
pub(super) struct Pump {
    /// `None` once it has left.
    pub client: Option<Link>,
    /// What the server has said since then.
    leftover_bytes: usize,
    pub connection: Connection,
    pub to_server: Lane,
    pub to_client: Lane,
    pub pipeline: Pipeline,
    pub source: Source,
    memory: Box<Memory>,
    answers: Answers,
    guard: Guard,
    /// The server takes nothing more; what it has said still reaches the client.
    pub server_deaf: bool,
    pub server_gone: bool,
    /// The last message of the server was an error.
    pub last_was_error: bool,
    patience: Patience,
    /// Since when it wants a backend, where it has lost its place in the queue.
    came: Option<Instant>,
    entry: Entry,
    noted: Noted,
    cancels: Cancels,
    /// When a statement was cancelled that took too long, and how long it might.
    timed_out: Option<(u32, Duration)>,
    /// Its tenant is to be reached otherwise by now.
    is_outdated: bool,
    /// It is somewhere else.
    has_moved: bool,
}

/// What was noted last of what the session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Noted {
    doing: Doing,
    done: u32,
    is_pinned: bool,
}

/// What ends a relay, or may.
#[derive(Debug)]
pub(super) enum Event {
    /// The client has closed the connection, or it failed.
    ClientLeft,
    /// The server has, and everything that it said has reached the client.
    ServerLeft,
    /// What the client sent is no message.
    ClientBroke(WireError),
    /// What the client sends reaches past its tenant, and its end must not
    /// reach the server.
    ClientRefused(&'static Rule),
    /// What the server sent is no message.
    ServerBroke(WireError),
    /// There is no backend for the session.
    NotServed(Refusal),
    /// Its tenant has moved, and it keeps a backend that cannot move along.
    LeftBehind,
    /// Nothing is under way and no transaction is open.
    Idle,
}

impl Pump {
    /// A pump of a session that has been let in, with a backend where it keeps
    /// one.
    pub fn new(
        mut client: Link,
        lease: Option<Lease>,
        source: Source,
        memory: Box<Memory>,
        ((answers, guard), entry): ((Answers, Guard), Entry),
    ) -> Self {
        let to_server = Lane::new(client.take_inbox());
        let mut pump = Self {
            client: Some(client),
            leftover_bytes: 0,
            connection: Connection::Without,
            to_server,
            to_client: Lane::default(),
            pipeline: Pipeline::new(),
            source,
            memory,
            answers,
            guard,
            server_deaf: false,
            server_gone: false,
            last_was_error: false,
            patience: Patience::default(),
            came: None,
            entry,
            noted: Noted { doing: Doing::Idle, done: 0, is_pinned: false },
            cancels: Cancels::default(),
            timed_out: None,
            is_outdated: false,
            has_moved: false,
        };
        if let Some(mut lease) = lease {
            lease.keep();
            pump.attach(lease);
        }
        pump
    }

    /// The cluster of its backends.
    pub fn cluster(&self) -> &ClusterName {
        &self.source.destination.endpoint.name
    }

    /// What is to be seen of the session.
    pub fn vital(&self) -> &Arc<Vital> {
        &self.entry.vital
    }

    /// Notes what the session does, where that is something new.
    fn note(&mut self, front: &Front) {
        self.count();
        let doing = match self.connection {
            _ if self.source.way.passer.is_waiting() => Doing::Waiting,
            Connection::Without => Doing::Idle,
            Connection::Waiting(_) => Doing::Waiting,
            Connection::With(_) if self.pipeline.is_busy() => Doing::Active,
            Connection::With(_) if self.pipeline.is_idle() => Doing::Idle,
            Connection::With(_) => Doing::InTransaction,
        };
        if let Connection::With(lease) = &mut self.connection {
            lease.is_at_work(doing == Doing::Active);
        }
        let pinned = self.memory.pinned();
        let noted = Noted { doing, done: self.pipeline.done(), is_pinned: pinned.is_some() };
        if noted != self.noted {
            if let Some(reason) = pinned.filter(|_| !self.noted.is_pinned) {
                if let Connection::With(lease) = &mut self.connection {
                    lease.keep();
                }
                self.entry.vital.is_pinned(reason);
                self.account().pinned(reason);
            }
            self.noted = noted;
            self.timed_out = None;
            self.entry.vital.does(doing, front.vitals.tick());
        }
    }

    /// What is counted of its tenant.
    pub fn account(&self) -> &Account {
        &self.source.destination.account
    }

    /// Counts what has passed.
    fn count(&mut self) {
        let passed = self.pipeline.take_passed();
        if passed == Passed::default() {
            return;
        }
        if let Connection::With(lease) = &self.connection {
            lease.backend.badge.transactions(passed.transactions);
        }
        self.entry.vital.did(passed.transactions);
        self.account().transactions(passed.transactions);
        if passed.errors > 0 {
            self.account().errors(passed.errors);
        }
    }

    /// The session has reached a limit of its plan, as of when it was looked at.
    /// A statement is cancelled; why the session is to end, where it is.
    pub fn overdue(&mut self, front: &Front) -> Option<Refusal> {
        let tick = front.vitals.tick();
        match self.entry.vital.overdue(tick)? {
            Overdue::IdleInTransaction(limit) => {
                front.measures.timed_out(Code::IdleInTransaction);
                Some(Refusal::idle_in_transaction(limit))
            }
            Overdue::Statement(limit) => match self.timed_out {
                None => {
                    front.measures.timed_out(Code::StatementTimeout);
                    tracing::info!(parent: self.memory.span(), ?limit, "a statement takes too long");
                    self.timed_out = Some((tick, limit));
                    self.cancel(front);
                    None
                }
                Some((at, limit)) => {
                    let is_over = tick.saturating_sub(at) >= CANCEL_GRACE_TICKS;
                    is_over.then(|| Refusal::endless_statement(limit))
                }
            },
        }
    }

    /// The client has left. True where it has said so before: then the server
    /// does what was asked until then, as without a front and within the same
    /// limits, and is heard out, though nobody takes what it says.
    pub async fn lets_client_go(&mut self, within: Duration) -> bool {
        self.client = None;
        let Connection::With(lease) = &mut self.connection else { return false };
        if !self.pipeline.is_terminated() {
            return false;
        }
        if !self.server_deaf {
            let waiting = self.to_server.take_outgoing();
            let link = &mut lease.backend.link;
            link.put(|out| out.extend_from_slice(&waiting));
            // Where this fails the server is gone or soon will be.
            let _ = timeout(within, link.shutdown()).await;
            self.server_deaf = true;
        }
        true
    }

    /// Moves bytes until something ends that. Only with `stop_when_idle` is
    /// being idle such a thing.
    pub fn poll(&mut self, context: &mut Context<'_>, front: &Front, stop_when_idle: bool) -> Poll<Event> {
        loop {
            let progress = match self.step(context, front) {
                Ok(progress) => progress,
                Err(event) => {
                    self.note(front);
                    return Poll::Ready(event);
                }
            };
            let is_idle = self.pipeline.is_idle() && self.to_server.awaits_message();
            if stop_when_idle && is_idle && self.client.is_some() {
                self.note(front);
                return Poll::Ready(Event::Idle);
            }
            if !progress {
                self.note(front);
                return Poll::Pending;
            }
        }
    }

    /// One read and one write in each direction; whether anything moved.
    fn step(&mut self, context: &mut Context<'_>, front: &Front) -> Result<bool, Event> {
        let is_cancelling = self.is_cancelling(context, front);
        if self.is_outdated {
            self.move_on(front)?;
        }
        let mut progress = !is_cancelling && self.read_client(context, front)?;
        progress |= self.connect(context)?;
        if let Connection::With(_) = self.connection {
            let may_cut = !is_cancelling && self.may_begin(context);
            if may_cut && !self.turn().holds().map_err(Event::ClientBroke)? {
                self.cut_client(front)?;
            }
            progress |= self.leads_cancels(front);
            progress |= self.write_server(context);
            progress |= self.read_server(context)?;
            progress |= !is_cancelling && self.settle();
        }
        progress |= self.leads_cancels(front);
        progress |= self.write_client(context, front)?;
        if self.server_gone && self.to_client.is_drained() {
            return Err(Event::ServerLeft);
        }
        Ok(progress)
    }

    fn read_client(&mut self, context: &mut Context<'_>, front: &Front) -> Result<bool, Event> {
        let takes_more = match self.connection {
            Connection::With(_) => {
                let is_cut = self.memory.held.is_none() && !self.source.way.passer.is_held();
                let has_room = is_cut || self.to_server.has_little_to_cut();
                has_room && self.to_server.has_room() && !self.pipeline.is_full()
            }
            // Who leaves meanwhile is not to be waited for.
            Connection::Without if self.source.way.passer.is_waiting() => self.to_server.has_little_to_cut(),
            Connection::Waiting(_) => self.to_server.has_little_to_cut(),
            // Until what has come is enough to want a backend for.
            Connection::Without => self.to_server.awaits_message(),
        };
        let Some(client) = &mut self.client else { return Ok(false) };
        if !takes_more || self.server_deaf || self.server_gone {
            return Ok(false);
        }
        match self.to_server.poll_read(context, client.wire()) {
            Poll::Ready(Ok(0) | Err(_)) => Err(Event::ClientLeft),
            Poll::Ready(Ok(count)) => {
                front.measures.bytes_from_clients.increment(count as u64);
                self.account().bytes_from_clients(count);
                Ok(true)
            }
            Poll::Pending => Ok(false),
        }
    }

    /// Gets a backend where one is needed.
    fn connect(&mut self, context: &mut Context<'_>) -> Result<bool, Event> {
        if let Connection::Without = self.connection {
            match self.to_server.next_tag() {
                None => return Ok(false),
                Some(frontend::tag::TERMINATE) => return Err(Event::ClientLeft),
                Some(_) => {}
            }
            let Source { way, cluster, destination, .. } = &mut self.source;
            if way.passer.poll(context, destination.key.epoch, self.came) != Poll::Ready(Passage::Through) {
                let has_left = self.to_server.has_goodbye();
                return if has_left { Err(Event::ClientLeft) } else { Ok(false) };
            }
            self.came = None;
            let patience = (&mut self.patience, way.passer.has_waited());
            match cluster.acquire(destination, &self.memory.settings, patience) {
                Answer::Now(lease) => {
                    self.attach(lease);
                    return Ok(true);
                }
                Answer::Later(wait) => {
                    // Nothing of it is under way while it waits.
                    way.passer.end();
                    self.connection = Connection::Waiting(Box::new(wait));
                }
                Answer::Refused(refusal) => return Err(Event::NotServed(refusal)),
            }
        }
        let Connection::Waiting(wait) = &mut self.connection else { return Ok(false) };
        if self.to_server.has_goodbye() {
            return Err(Event::ClientLeft);
        }
        match Pin::new(wait.as_mut()).poll(context) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(refusal)) => Err(Event::NotServed(refusal)),
            Poll::Ready(Ok(lease)) => {
                self.patience = wait.take_patience();
                if self.source.way.passer.passes_now(self.source.destination.key.epoch) {
                    self.attach(lease);
                } else {
                    // Its tenant is held, or gone from there: it keeps its turn.
                    self.came = Some(wait.since());
                    self.connection = Connection::Without;
                    lease.give_back();
                }
                Ok(true)
            }
        }
    }

    /// Begins with a backend, which is made to be as the session has left its
    /// last one.
    fn attach(&mut self, mut lease: Lease) {
        self.source.way.passer.is_served();
        let backend = &mut lease.backend;
        if self.memory.wanders() {
            let definitions = self.source.destination.definitions.load(Ordering::Relaxed);
            self.turn().begin(&mut backend.contents, definitions);
        }
        self.connection = Connection::With(lease);
    }

    fn turn(&mut self) -> Turn<'_> {
        let Self { memory, pipeline, to_server, to_client, .. } = self;
        Turn { memory, pipeline, to_server, to_client }
    }

    /// Gives the backend back between two transactions, or asks before what is
    /// set by then.
    fn settle(&mut self) -> bool {
        if self.server_deaf || self.server_gone {
            return false;
        }
        match self.turn().end() {
            Ending::No => {
                if self.memory.stays() && self.is_at_rest() {
                    self.source.way.passer.end();
                }
                return false;
            }
            Ending::Asked => return true,
            Ending::Over => {}
        }
        if std::mem::take(&mut self.memory.changed_definitions) {
            self.source.destination.definitions.fetch_add(1, Ordering::Relaxed);
        }
        self.detach();
        true
    }

    fn detach(&mut self) {
        self.count();
        let Connection::With(lease) = std::mem::replace(&mut self.connection, Connection::Without) else {
            return;
        };
        self.source.way.passer.end();
        match self.leave_cancels() {
            None => lease.give_back(),
            // The cancel was meant for this session, and may still come.
            Some(passage) => drop(tokio::spawn(async move {
                if passage.all_through().await { lease.give_back() } else { lease.end() }
            })),
        }
    }

    fn write_server(&mut self, context: &mut Context<'_>) -> bool {
        let Connection::With(lease) = &mut self.connection else { return false };
        if self.server_deaf {
            return false;
        }
        match self.to_server.poll_write(context, lease.backend.link.wire()) {
            Poll::Ready(Ok(_)) => {
                if self.to_server.is_empty()
                    && let Some(fitting) = self.guard.fitting()
                {
                    fitting.all_is_out();
                }
                true
            }
            // It may have said why before it left, and is heard out.
            Poll::Ready(Err(_)) => {
                self.server_deaf = true;
                true
            }
            Poll::Pending => false,
        }
    }

    fn read_server(&mut self, context: &mut Context<'_>) -> Result<bool, Event> {
        let Connection::With(lease) = &mut self.connection else { return Ok(false) };
        if self.server_gone || !self.to_client.has_room() {
            return Ok(false);
        }
        match self.to_client.poll_read(context, lease.backend.link.wire()) {
            Poll::Ready(Ok(0) | Err(_)) => {
                self.server_gone = true;
                Ok(true)
            }
            Poll::Ready(Ok(_)) => {
                self.cut_server()?;
                Ok(true)
            }
            Poll::Pending => Ok(false),
        }
    }

    fn write_client(&mut self, context: &mut Context<'_>, front: &Front) -> Result<bool, Event> {
        let Some(client) = &mut self.client else {
            let count = self.to_client.discard();
            self.leftover_bytes += count;
            self.server_gone |= self.leftover_bytes >= LEFTOVER_BYTES_MAX;
            return Ok(count > 0);
        };
        match self.to_client.poll_write(context, client.wire()) {
            Poll::Ready(Ok(count)) => {
                front.measures.bytes_to_clients.increment(count as u64);
                self.account().bytes_to_clients(count);
                Ok(true)
            }
            Poll::Ready(Err(_)) => Err(Event::ClientLeft),
            Poll::Pending => Ok(false),
        }
    }

    fn cut_client(&mut self, front: &Front) -> Result<(), Event> {
        let Connection::With(lease) = &mut self.connection else { return Ok(()) };
        let mut watcher = FromClient {
            pipeline: &mut self.pipeline,
            answers: &self.answers,
            guard: &mut self.guard,
            memory: &mut self.memory,
            contents: &mut lease.backend.contents,
            statements: &front.statements,
            is_held: self.source.way.passer.is_held(),
        };
        self.to_server.cut(&mut watcher).map_err(|stopped| match stopped {
            Stopped::Broken(error) => Event::ClientBroke(error),
            Stopped::Refused(rule) => Event::ClientRefused(rule),
        })
    }

    fn cut_server(&mut self) -> Result<(), Event> {
        let Connection::With(lease) = &mut self.connection else { return Ok(()) };
        let mut watcher = FromServer {
            pipeline: &mut self.pipeline,
            guard: &mut self.guard,
            memory: &mut self.memory,
            contents: &mut lease.backend.contents,
            last_was_error: &mut self.last_was_error,
            vital: &self.entry.vital,
            timed_out: self.timed_out.map(|(_, limit)| limit),
            is_moving: self.has_moved || self.source.way.passer.is_held(),
        };
        self.to_client.cut(&mut watcher).map_err(|stopped| match stopped {
            Stopped::Broken(error) => Event::ServerBroke(error),
            Stopped::Refused(rule) => Event::ClientRefused(rule),
        })
    }
}
