//! The relay: both directions at once until one side leaves, the session's
//! right to go on ends, or the front stops. Then the backend is ended too, and
//! what the session held is given back only when the backend is gone: a tenant
//! cannot have more of them than it has connections.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use insula_pg_wire::backend::put_error;
use insula_pg_wire::frontend::put_terminate;
use insula_problem::Code;
use insula_route_map::Follower;
use tokio::time::timeout;
use tracing::{Instrument, Span};

use super::bell::Bell;
use super::memory::Memory;
use super::pump::{Connection, Event, LEFTOVER_BYTES_MAX, Pump, Source};
use super::route::Held;
use crate::backend::Backend;
use crate::front::{Front, Stops};
use crate::guard::Guard;
use crate::link::Link;
use crate::measure::Counted;
use crate::pool::Lease;
use crate::refusal::Refusal;
use crate::show::Answers;
use crate::standing::{Standing, Verdict};
use crate::vital::{Entry, Vital};

/// How often a query whose client has left is cancelled before the backend is
/// left to itself.
const CANCELS_MAX: usize = 30;

/// After so many the backend is terminated, by another one of its role.
const CANCELS_CAUGHT_MAX: usize = 3;

/// Pause between two such cancels, in which the backend should end.
const CANCEL_PAUSE: Duration = Duration::from_secs(1);

/// A session that was let in.
#[derive(Debug)]
pub(super) struct Opened {
    /// Its backend, where it keeps one.
    pub lease: Option<Lease>,
    pub source: Source,
    pub memory: Box<Memory>,
    /// What answers its statements, and looks at what they could reach.
    pub judges: (Answers, Guard),
    pub follower: Follower,
    pub standing: Standing,
    /// Where it is to be seen.
    pub entry: Entry,
    pub held: Held,
}

impl Opened {
    /// Relays until the session is over and its backend is gone.
    pub async fn relay(self, client: Link, front: &Front, stops: &Stops, span: Span) {
        let Self { lease, source, memory, judges, follower, standing, entry, held } = self;
        let counted = Counted::new(&front.measures.relaying);
        let mut pump = Box::new(Pump::new(client, lease, source, memory, (judges, entry)));
        let (last, ends_when_idle) = loop {
            let over = until_over(&mut pump, &follower, &standing, front, stops).await;
            let has_left = matches!(over.0, Last::Moved(Event::ClientLeft));
            let within = front.config.get().connect_timeout;
            if !has_left || !Box::pin(pump.lets_client_go(within)).await {
                break over;
            }
        };
        drop((counted, follower));
        let ending = async {
            let ended = match last {
                Last::Ended(refusal) => Some(refusal),
                Last::Moved(event) => after(event, &pump, ends_when_idle),
            };
            if let Some(refusal) = ended {
                front.measures.ended(refusal.code);
                pump.account().errors(1);
                tracing::info!(code = %refusal.code, %refusal, "a session was ended");
                tell_client(&mut pump, &refusal).await;
            }
            end_backend(*pump, front, stops).await;
        };
        Box::pin(ending).instrument(span).await;
        drop(held);
    }
}

/// What a relay ended with.
enum Last {
    Ended(Refusal),
    Moved(Event),
}

/// Relays until the session is over; with what, and why it was to end when it
/// is idle.
async fn until_over(
    pump: &mut Pump,
    follower: &Follower,
    standing: &Standing,
    front: &Front,
    stops: &Stops,
) -> (Last, Option<Refusal>) {
    let mut ends_when_idle: Option<Refusal> = None;
    loop {
        let stopping = ends_when_idle.is_some();
        let vital = Arc::clone(pump.vital());
        let mut called = pin!(called(follower, &vital, stops, stopping));
        let mut bell = Bell::default();
        let happened = poll_fn(|context| {
            if let Poll::Ready(call) = bell.poll(called.as_mut(), context) {
                return Poll::Ready(Happened::Called(call));
            }
            pump.poll(context, front, stopping).map(Happened::Moved)
        });
        match happened.await {
            Happened::Moved(event) => return (Last::Moved(event), ends_when_idle),
            Happened::Called(Call::Stop) => return (Last::Ended(shutting_down()), None),
            Happened::Called(Call::Drain) => ends_when_idle = Some(shutting_down()),
            Happened::Called(Call::Overdue) => {
                if let Some(refusal) = pump.overdue(front) {
                    return (Last::Ended(refusal), None);
                }
            }
            Happened::Called(Call::Changed) => match standing.judge(&front.parts.routes.snapshot()) {
                Verdict::GoesOn => pump.route_changed(front),
                Verdict::EndsWhenIdle(refusal) => ends_when_idle = Some(refusal),
                Verdict::EndsNow(refusal) => return (Last::Ended(refusal), None),
            },
        }
    }
}

/// What happens in a relay.
enum Happened {
    Called(Call),
    Moved(Event),
}

/// What comes from outside.
enum Call {
    Stop,
    Drain,
    Changed,
    Overdue,
}

/// Waits for a call from outside.
async fn called(follower: &Follower, vital: &Vital, stops: &Stops, is_draining: bool) -> Call {
    tokio::select! {
        biased;
        () = stops.now.cancelled() => Call::Stop,
        () = stops.draining.cancelled(), if !is_draining => Call::Drain,
        () = follower.changed() => Call::Changed,
        () = vital.overdue.notified() => Call::Overdue,
    }
}

/// What the client is told after an event.
fn after(event: Event, pump: &Pump, ends_when_idle: Option<Refusal>) -> Option<Refusal> {
    match event {
        Event::Idle => ends_when_idle,
        Event::ClientLeft => None,
        // It was asked to, or has said why itself.
        Event::ServerLeft if pump.pipeline.is_terminated() || pump.last_was_error => None,
        Event::ServerLeft => Some(Refusal::backend_lost()),
        Event::ClientBroke(error) => Some(Refusal::protocol(error)),
        Event::ClientRefused(rule) => Some(Refusal::statement(rule)),
        Event::ServerBroke(error) => {
            tracing::error!(cluster = %pump.cluster(), %error, "a server broke the protocol");
            Some(Refusal::backend_lost())
        }
        Event::NotServed(refusal) => Some(refusal),
        Event::LeftBehind => Some(Refusal::moved()),
    }
}

fn shutting_down() -> Refusal {
    Refusal::ended(Code::Unavailable, "the front is shutting down")
}

/// The last message, where the stream to the client stands between two.
async fn tell_client(pump: &mut Pump, refusal: &Refusal) {
    let Some(client) = &mut pump.client else { return };
    let waiting = pump.to_client.take_outgoing();
    client.put(|out| {
        out.extend_from_slice(&waiting);
        if pump.to_client.is_between_messages() {
            put_error(out, &refusal.fields());
        }
    });
    client.close().await;
}

/// Ends the backend and waits until it is gone, so far as it can be known.
async fn end_backend(pump: Pump, front: &Front, stops: &Stops) {
    let Pump { client, connection, to_server, pipeline, server_deaf, server_gone, source, .. } = pump;
    drop(client);
    let Connection::With(mut lease) = connection else { return };
    if server_gone {
        return;
    }
    let backend = &mut lease.backend;
    if !server_deaf {
        if !pipeline.is_busy() && to_server.is_empty() {
            backend.link.put(put_terminate);
        }
        // Where this fails the server is gone or soon will be.
        let _ = timeout(front.config.get().connect_timeout, backend.link.shutdown()).await;
    }
    tokio::select! {
        () = cancel_until_gone(backend, pipeline.is_busy(), &source, front) => {}
        () = stops.now.cancelled() => {}
    }
}

/// Cancels what the backend is doing for a client that has vanished, or has
/// been ended, until the backend has noticed that nobody is there.
async fn cancel_until_gone(backend: &mut Backend, busy: bool, source: &Source, front: &Front) {
    for cancels in 0..CANCELS_MAX {
        if busy && cancels == CANCELS_CAUGHT_MAX {
            // It catches them.
            source.cluster.terminate(&source.destination, &backend.target).await;
        }
        if busy
            && let Err(error) =
                backend.target.cancel(&front.backend_tls, front.config.get().connect_timeout).await
        {
            let cluster = &backend.target.endpoint.name;
            tracing::warn!(%cluster, %error, "a query whose client has left could not be cancelled");
        }
        if timeout(CANCEL_PAUSE, backend.link.drain(LEFTOVER_BYTES_MAX)).await.is_ok() {
            return;
        }
    }
}
