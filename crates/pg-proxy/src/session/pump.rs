//! Moves bytes both ways between a client and its backend, message by message,
//! as long as there are any, and says what ended that.

use std::task::{Context, Poll};

use bytes::BytesMut;
use insula_domain::Isolation;
use insula_pg_wire::backend::{self, parse_ready_for_query, put_error};
use insula_pg_wire::{Handling, Header, WireError};

use super::lane::{Lane, Stopped, Watcher};
use crate::backend::Backend;
use crate::guard::{Guard, Rule};
use crate::link::Link;
use crate::measure::Measures;
use crate::pipeline::Pipeline;
use crate::refusal::Refusal;
use crate::show::{Answers, may_be_show};

/// Longer errors and settings pass as they are.
const LOOKED_AT_BYTES_MAX: u32 = 16 * 1024;

/// A client and its backend, and what is on its way between them.
#[derive(Debug)]
pub(super) struct Pump {
    pub client: Link,
    pub backend: Backend,
    pub to_server: Lane,
    pub to_client: Lane,
    pub pipeline: Pipeline,
    answers: Answers,
    guard: Guard,
    /// PostgreSQL's notifications know databases and no tenants: where tenants
    /// share one, none is passed on, whoever sent it.
    shares_database: bool,
    /// The server takes nothing more; what it has said still reaches the client.
    pub server_deaf: bool,
    pub server_gone: bool,
    /// The last message of the server was an error.
    pub last_was_error: bool,
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
    /// Nothing is under way and no transaction is open.
    Idle,
}

impl Pump {
    /// A pump between two that are both ready.
    pub fn new(
        mut client: Link,
        mut backend: Backend,
        answers: Answers,
        guard: Guard,
        isolation: Isolation,
    ) -> Self {
        let to_server = Lane::new(client.take_inbox());
        let to_client = Lane::new(backend.link.take_inbox());
        Self {
            client,
            backend,
            to_server,
            to_client,
            pipeline: Pipeline::new(),
            answers,
            guard,
            shares_database: matches!(isolation, Isolation::Pool | Isolation::Schema),
            server_deaf: false,
            server_gone: false,
            last_was_error: false,
        }
    }

    /// Looks at what was read before the pump began.
    pub fn begin(&mut self) -> Result<(), Event> {
        self.cut_client()?;
        self.cut_server()
    }

    /// Moves bytes until something ends that. Only with `stop_when_idle` is
    /// being idle such a thing.
    pub fn poll(
        &mut self,
        context: &mut Context<'_>,
        measures: &Measures,
        stop_when_idle: bool,
    ) -> Poll<Event> {
        loop {
            let progress = match self.step(context, measures) {
                Ok(progress) => progress,
                Err(event) => return Poll::Ready(event),
            };
            if stop_when_idle && self.pipeline.is_idle() && self.to_server.is_empty() {
                return Poll::Ready(Event::Idle);
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// One read and one write in each direction; whether anything moved.
    fn step(&mut self, context: &mut Context<'_>, measures: &Measures) -> Result<bool, Event> {
        let mut progress = self.read_client(context, measures)?;
        progress |= self.write_server(context);
        progress |= self.read_server(context)?;
        progress |= self.write_client(context, measures)?;
        if self.server_gone && self.to_client.is_drained() {
            return Err(Event::ServerLeft);
        }
        Ok(progress)
    }

    fn read_client(&mut self, context: &mut Context<'_>, measures: &Measures) -> Result<bool, Event> {
        let takes_more = self.to_server.has_room() && !self.pipeline.is_full();
        if !takes_more || self.server_deaf || self.server_gone {
            return Ok(false);
        }
        match self.to_server.poll_read(context, self.client.wire()) {
            Poll::Ready(Ok(0) | Err(_)) => Err(Event::ClientLeft),
            Poll::Ready(Ok(count)) => {
                measures.bytes_from_clients.increment(count as u64);
                self.cut_client()?;
                Ok(true)
            }
            Poll::Pending => Ok(false),
        }
    }

    fn write_server(&mut self, context: &mut Context<'_>) -> bool {
        if self.server_deaf {
            return false;
        }
        match self.to_server.poll_write(context, self.backend.link.wire()) {
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
        if self.server_gone || !self.to_client.has_room() {
            return Ok(false);
        }
        match self.to_client.poll_read(context, self.backend.link.wire()) {
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

    fn write_client(&mut self, context: &mut Context<'_>, measures: &Measures) -> Result<bool, Event> {
        match self.to_client.poll_write(context, self.client.wire()) {
            Poll::Ready(Ok(count)) => {
                measures.bytes_to_clients.increment(count as u64);
                Ok(true)
            }
            Poll::Ready(Err(_)) => Err(Event::ClientLeft),
            Poll::Pending => Ok(false),
        }
    }

    fn cut_client(&mut self) -> Result<(), Event> {
        let mut watcher =
            FromClient { pipeline: &mut self.pipeline, answers: &self.answers, guard: &mut self.guard };
        self.to_server.cut(&mut watcher).map_err(|stopped| match stopped {
            Stopped::Broken(error) => Event::ClientBroke(error),
            Stopped::Refused(rule) => Event::ClientRefused(rule),
        })
    }

    fn cut_server(&mut self) -> Result<(), Event> {
        let mut watcher = FromServer {
            pipeline: &mut self.pipeline,
            guard: &mut self.guard,
            last_was_error: &mut self.last_was_error,
            drops_notifications: self.shares_database,
        };
        self.to_client.cut(&mut watcher).map_err(|stopped| match stopped {
            Stopped::Broken(error) => Event::ServerBroke(error),
            Stopped::Refused(rule) => Event::ClientRefused(rule),
        })
    }
}

struct FromClient<'a> {
    pipeline: &'a mut Pipeline,
    answers: &'a Answers,
    guard: &'a mut Guard,
}

impl Watcher for FromClient<'_> {
    fn begins(&mut self, header: Header) -> Handling {
        if !self.pipeline.is_busy()
            && let Some(fitting) = self.guard.fitting()
        {
            fitting.begins_anew();
        }
        self.pipeline.client_sent(header.tag);
        self.guard.begins(header)
    }

    fn whole(&mut self, header: Header, message: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        let body = &message[Header::BYTES..];
        let is_answered = may_be_show(header) && self.answers.rewrite(header.tag, body, out);
        if !is_answered && !self.guard.rewrite(header.tag, body, out) {
            out.extend_from_slice(message);
        }
        Ok(())
    }

    fn piece(&mut self, piece: &[u8], is_last: bool) -> Result<(), Stopped> {
        self.guard.piece(piece, is_last).map_err(Stopped::Refused)
    }
}

struct FromServer<'a> {
    pipeline: &'a mut Pipeline,
    guard: &'a mut Guard,
    last_was_error: &'a mut bool,
    drops_notifications: bool,
}

impl Watcher for FromServer<'_> {
    fn begins(&mut self, header: Header) -> Handling {
        *self.last_was_error = header.tag == backend::tag::ERROR_RESPONSE;
        if header.tag == backend::tag::READY_FOR_QUERY && header.body_bytes == 1 {
            return Handling::Hold;
        }
        if self.drops_notifications && header.tag == backend::tag::NOTIFICATION_RESPONSE {
            return Handling::Hold;
        }
        self.pipeline.server_sent(header.tag);
        let is_setting = header.tag == backend::tag::PARAMETER_STATUS && self.guard.fitting().is_some();
        let is_looked_at = is_setting || *self.last_was_error && self.guard.minds_errors();
        if is_looked_at && header.body_bytes <= LOOKED_AT_BYTES_MAX { Handling::Hold } else { Handling::Pass }
    }

    fn whole(&mut self, header: Header, message: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        let body = &message[Header::BYTES..];
        match header.tag {
            backend::tag::NOTIFICATION_RESPONSE => return Ok(()),
            backend::tag::ERROR_RESPONSE => {
                if let Some(rule) = self.guard.refused_by(body) {
                    put_error(out, &Refusal::statement(rule).statement_fields());
                    return Ok(());
                }
                if self.guard.put_error(body, out) {
                    return Ok(());
                }
            }
            backend::tag::PARAMETER_STATUS => {
                if let Some(fitting) = self.guard.fitting() {
                    fitting.setting(body);
                }
            }
            _ => self.pipeline.server_ready(parse_ready_for_query(body)?),
        }
        out.extend_from_slice(message);
        Ok(())
    }

    fn piece(&mut self, _: &[u8], _: bool) -> Result<(), Stopped> {
        Ok(())
    }
}
