//! A session whose tenant is held, and goes somewhere else: when its
//! transactions may begin, and what changes with the place.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use insula_pg_wire::{Header, frontend};

use super::{Connection, Event, Pump, Source};
use crate::front::Front;
use crate::gate::Passage;
use crate::guard::Guard;
use crate::show::Answers;

impl Pump {
    /// The plan of its tenant may be another one, and so may its placement.
    pub fn route_changed(&mut self, front: &Front) {
        let snapshot = front.parts.routes.snapshot();
        let way = &self.source.way;
        if let Some(route) = snapshot.route(way.tenant) {
            self.source.destination.terms.set(route);
            self.entry.vital.limit(&route.terms);
        }
        if let Some(target) = way.target(&snapshot) {
            let here = self.source.destination.key;
            self.is_outdated = way.key(&target) != here;
            self.has_moved = target.placement.epoch != here.epoch;
        }
    }

    /// Goes where its tenant is, between two transactions: all that depends on
    /// where it is changes together, so that nothing that was made to fit one
    /// placement gets to another.
    pub(super) fn move_on(&mut self, front: &Front) -> Result<(), Event> {
        match self.connection {
            Connection::With(_) if self.has_moved && self.memory.stays() && self.is_at_rest() => {
                return Err(Event::LeftBehind);
            }
            Connection::With(_) => return Ok(()),
            Connection::Without | Connection::Waiting(_) => {}
        }
        let way = &self.source.way;
        let Some(target) = way.target(&front.parts.routes.snapshot()) else { return Ok(()) };
        let (cluster, destination) = way.reach(front, &target).map_err(Event::NotServed)?;
        let (answers, mut guard) = way.judges(front, &target, &destination, &self.memory.reported);
        self.memory.moves_on(&front.statements, |own| fitted(own, &answers, &mut guard));
        if let Some(fitting) = guard.fitting() {
            fitting.begins_anew();
        }
        let span = self.memory.span();
        tracing::debug!(parent: span, cluster = %target.endpoint.name, epoch = %target.placement.epoch, "moved on");
        (self.answers, self.guard) = (answers, guard);
        (self.source.cluster, self.source.destination) = (cluster, destination);
        self.connection = Connection::Without;
        (self.is_outdated, self.has_moved) = (false, false);
        Ok(())
    }

    /// Nothing is under way, no transaction is open, and of the next message
    /// nothing has gone out.
    pub(super) fn is_at_rest(&self) -> bool {
        self.pipeline.is_idle()
            && !self.pipeline.is_terminated()
            && self.to_server.is_at_a_bound()
            && self.to_client.has_all_cut()
    }

    /// Whether what the client sends next may go to the backend that it has.
    pub(super) fn may_begin(&mut self, context: &Context<'_>) -> bool {
        let Source { way, destination, .. } = &mut self.source;
        if way.passer.is_through() {
            return true;
        }
        match self.to_server.next_tag() {
            None => false,
            Some(frontend::tag::TERMINATE) => true,
            Some(_) => {
                let passage = way.passer.poll(context, destination.key.epoch, None);
                let is_through = passage == Poll::Ready(Passage::Through);
                if is_through {
                    way.passer.is_served();
                }
                is_through
            }
        }
    }
}

/// A client's own `Parse` as it goes out now.
fn fitted(own: &[u8], answers: &Answers, guard: &mut Guard) -> Bytes {
    let (mut out, body) = (BytesMut::new(), own.get(Header::BYTES..).unwrap_or_default());
    let is_changed = answers.rewrite(frontend::tag::PARSE, body, &mut out)
        || guard.rewrite(frontend::tag::PARSE, body, &mut out);
    if is_changed { out.freeze() } else { Bytes::copy_from_slice(own) }
}
