//! Moves bytes both ways between a client and its backend, message by message,
//! as long as there are any, and says what ended that. A session that may change
//! its backend has one only as long as its transaction lasts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use insula_domain::{ClusterName, TenantId};
use insula_pg_wire::WireError;
use insula_pg_wire::frontend;
use insula_problem::Code;
use tokio::time::timeout;

use super::lane::{Lane, Stopped};
use super::memory::Memory;
use super::turn::{Ending, Turn};
use super::watch::{FromClient, FromServer};
use crate::account::Account;
use crate::cancel::Slot;
use crate::front::Front;
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
    entry: Entry,
    noted: Noted,
    /// A cancel of the front's own, on its way: meanwhile nothing more is asked.
    cancelling: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// When a statement was cancelled that took too long, and how long it might.
    timed_out: Option<(u32, Duration)>,
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
            entry,
            noted: Noted { doing: Doing::Idle, done: 0, is_pinned: false },
            cancelling: None,
            timed_out: None,
        };
        if let Some(lease) = lease {
            pump.attach(lease);
        }
        pump
    }

    /// The cluster of its backends.
    pub fn cluster(&self) -> &ClusterName {
        &self.source.destination.endpoint.name
    }

    /// The plan of its tenant may be another one.
    pub fn plan_changed(&self, front: &Front, tenant: TenantId) {
        if let Some(route) = front.parts.routes.snapshot().route(tenant) {
            self.source.destination.terms.set(route.terms);
            self.entry.vital.limit(&route.terms);
        }
    }

    /// What is to be seen of the session.
    pub fn vital(&self) -> &Arc<Vital> {
        &self.entry.vital
    }

    /// Notes what the session does, where that is something new.
    fn note(&mut self, front: &Front) {
        self.count();
        let doing = match self.connection {
            Connection::Without => Doing::Idle,
            Connection::Waiting(_) => Doing::Waiting,
            Connection::With(_) if self.pipeline.is_busy() => Doing::Active,
            Connection::With(_) if self.pipeline.is_idle() => Doing::Idle,
            Connection::With(_) => Doing::InTransaction,
        };
        let pinned = self.memory.pinned();
        let noted = Noted { doing, done: self.pipeline.done(), is_pinned: pinned.is_some() };
        if noted != self.noted {
            if let Some(reason) = pinned.filter(|_| !self.noted.is_pinned) {
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

    /// Cancels what the backend does, as the client would: one that may come
    /// too late must not find another session there either.
    fn cancel(&mut self, front: &Front) {
        let Some(under_way) = self.source.slot.begin() else { return };
        let (endpoint, tls) = (Arc::clone(&under_way.target.endpoint), front.backend_tls.clone());
        let within = front.config.get().connect_timeout;
        self.cancelling = Some(Box::pin(async move {
            if let Err(error) = under_way.send(&tls, within).await {
                let cluster = &endpoint.name;
                tracing::warn!(%error, %cluster, "a statement that takes too long could not be cancelled");
            }
        }));
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

    /// Whether a cancel of the front's own is on its way.
    fn is_cancelling(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(cancelling) = &mut self.cancelling
            && cancelling.as_mut().poll(context).is_ready()
        {
            self.cancelling = None;
        }
        self.cancelling.is_some()
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
        let is_cancelling = self.is_cancelling(context);
        let mut progress = !is_cancelling && self.read_client(context, front)?;
        progress |= self.connect(context)?;
        if let Connection::With(_) = self.connection {
            if !is_cancelling && !self.turn().holds().map_err(Event::ClientBroke)? {
                self.cut_client(front)?;
            }
            progress |= self.write_server(context);
            progress |= self.read_server(context)?;
            progress |= !is_cancelling && self.settle();
        }
        progress |= self.write_client(context, front)?;
        if self.server_gone && self.to_client.is_drained() {
            return Err(Event::ServerLeft);
        }
        Ok(progress)
    }

    fn read_client(&mut self, context: &mut Context<'_>, front: &Front) -> Result<bool, Event> {
        let takes_more = match self.connection {
            Connection::With(_) => {
                let has_room = self.memory.held.is_none() || self.to_server.has_little_to_cut();
                has_room && self.to_server.has_room() && !self.pipeline.is_full()
            }
            // Until what has come is enough to want a backend for.
            Connection::Without => self.to_server.awaits_message(),
            // Who leaves meanwhile is not to be waited for.
            Connection::Waiting(_) => self.to_server.has_little_to_cut(),
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
            let Source { cluster, destination, .. } = &self.source;
            match cluster.acquire(destination, &self.memory.settings, &mut self.patience) {
                Answer::Now(lease) => {
                    self.attach(lease);
                    return Ok(true);
                }
                Answer::Later(wait) => self.connection = Connection::Waiting(Box::new(wait)),
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
                self.attach(lease);
                Ok(true)
            }
        }
    }

    /// Begins with a backend, which is made to be as the session has left its
    /// last one.
    fn attach(&mut self, mut lease: Lease) {
        let backend = &mut lease.backend;
        self.source.slot.lead_to(backend.target.clone());
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
            Ending::No => return false,
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
        match self.source.slot.lead_nowhere() {
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
        };
        self.to_client.cut(&mut watcher).map_err(|stopped| match stopped {
            Stopped::Broken(error) => Event::ServerBroke(error),
            Stopped::Refused(rule) => Event::ClientRefused(rule),
        })
    }
}
