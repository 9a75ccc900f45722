//! Who is let in: before a message is read its caller is known, has a place
//! among those under way, and its time runs. A stranger's messages are never
//! held in memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use insula_access::{Arrival, Credential, Guests, Peer, refused};
use insula_problem::{Code, Problem};
use tokio::sync::Semaphore;

use super::status::{foreign_problem, settle, status};
use super::taking;
use crate::caller::Caller;
use crate::service::Service;

/// The share of the calls under way that one tenant, or operator, may have.
const SHARE: usize = 4;

/// The share of the calls under way that tenants may have where others are
/// answered too: operators are not to be kept out by them.
const BESIDE_OTHERS: usize = 4;

/// How many messages that are long may be in memory at once: of one tenant or
/// operator, and of all. The next one is not read on until there is a place.
const LONG_OF_ONE: usize = 4;
const LONG_OF_ALL: usize = 32;

/// The services that say nothing of anybody.
const OPEN: [&str; 2] = ["/grpc.health.v1.Health/", "/grpc.reflection."];

/// What is let in.
#[derive(Debug)]
pub struct Door {
    service: Arc<Service>,
    /// For calls of all, or of tenants alone.
    room: Semaphore,
    is_for_tenants: bool,
    /// Calls of one at once.
    share: usize,
    under_way: Mutex<HashMap<String, Own>>,
    /// For long messages of all.
    long: Arc<Semaphore>,
    /// Connections of tenants.
    guests: Arc<Guests>,
}

/// What a holder has under way.
#[derive(Debug)]
struct Own {
    calls: usize,
    /// For its long messages.
    long: Arc<Semaphore>,
}

/// A place among those of a holder.
struct Place<'d> {
    door: &'d Door,
    whose: String,
    long: Arc<Semaphore>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut under_way = self.door.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = under_way.get_mut(&self.whose) {
            own.calls -= 1;
            if own.calls == 0 {
                under_way.remove(&self.whose);
            }
        }
    }
}

fn no_room() -> Problem {
    Problem::new(Code::Overloaded, "As many calls as may be are under way. Try again shortly.").retry_after(1)
}

impl Door {
    /// For a router that is alone on its port.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        let room = service.bounds().in_flight;
        Self::with(service, room, false)
    }

    /// For a router that has its port with others, who bound the calls there.
    #[must_use]
    pub fn beside_others(service: Arc<Service>) -> Self {
        let room = (service.bounds().in_flight / BESIDE_OTHERS).max(1);
        Self::with(service, room, true)
    }

    fn with(service: Arc<Service>, room: usize, is_for_tenants: bool) -> Self {
        let (share, room) = ((room / SHARE).max(1), Semaphore::new(room));
        let guests = Guests::new(service.bounds().connections_per_tenant);
        let long = Arc::new(Semaphore::new(LONG_OF_ALL));
        Self { service, room, is_for_tenants, share, under_way: Mutex::default(), long, guests }
    }

    async fn caller(&self, headers: &HeaderMap, from: IpAddr) -> Result<Caller, Problem> {
        let wanted = || refused("an API key or an operator's token: authorization: Bearer isk_… or iop_…");
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or_else(wanted)?;
        if values.next().is_some() {
            return Err(wanted());
        }
        let value = value.to_str().map_err(|_| wanted())?;
        let credential = Credential::from_authorization(value).ok_or_else(wanted)?;
        Ok(Caller::new(self.service.access().pass(&credential, from).await?))
    }

    fn place(&self, caller: &Caller) -> Result<Place<'_>, Problem> {
        let whose = caller.tenant().map_or_else(|| caller.name(), |tenant| tenant.to_string());
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let none = || Own { calls: 0, long: Arc::new(Semaphore::new(LONG_OF_ONE)) };
        let own = under_way.entry(whose.clone()).or_insert_with(none);
        if own.calls >= self.share {
            return Err(no_room());
        }
        own.calls += 1;
        let long = Arc::clone(&own.long);
        drop(under_way);
        Ok(Place { door: self, whose, long })
    }

    /// The connection may stay. Calls beside others are on a port of theirs.
    fn let_in(&self, arrival: &Arrival, caller: &Caller) -> Result<(), Problem> {
        match caller.tenant().filter(|_| !self.is_for_tenants) {
            Some(tenant) if !arrival.let_in_as(&self.guests, tenant) => {
                let detail = "The tenant has as many connections as may be. Use one for several calls.";
                Err(Problem::new(Code::Overloaded, detail).retry_after(5))
            }
            Some(_) => Ok(()),
            None => {
                arrival.let_in();
                Ok(())
            }
        }
    }

    /// Answers a call, whose caller is known then ([`Caller`] is among its
    /// extensions) and has a place until the answer begins.
    ///
    /// # Errors
    /// `unauthenticated`, `overloaded`.
    pub async fn answer(&self, mut request: Request, next: Next) -> Result<Response, Problem> {
        let room = || self.room.try_acquire().map_err(|_| no_room());
        let _room = if self.is_for_tenants { None } else { Some(room()?) };
        if OPEN.iter().any(|open| request.uri().path().starts_with(open)) {
            return Ok(next.run(request).await);
        }
        let from = request.extensions().get::<Peer>().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0);
        let caller = self.caller(request.headers(), from).await?;
        if let Some(arrival) = request.extensions().get::<Arrival>() {
            self.let_in(arrival, &caller)?;
        }
        let is_bounded = caller.tenant().is_some() || !self.is_for_tenants;
        let place = if is_bounded { Some(self.place(&caller)?) } else { None };
        let _room = if is_bounded && self.is_for_tenants { Some(room()?) } else { None };
        request.extensions_mut().insert(caller);
        let Some(place) = place else { return Ok(next.run(request).await) };
        let (request, _long) = taking::bounded(request, [&place.long, &self.long]);
        Ok(next.run(request).await)
    }
}

/// Lets a call in, or answers it here. The time is that until the answer begins:
/// a watch then goes on.
pub async fn admit(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let within = door.service.bounds().call_timeout;
    let late = |_| Err(Problem::new(Code::RequestTimeout, "The call took longer than it may."));
    let answered = tokio::time::timeout(within, door.answer(request, next)).await.unwrap_or_else(late);
    let told = answered.and_then(|response| foreign_problem(response.headers()).map_or(Ok(response), Err));
    told.unwrap_or_else(|problem| {
        settle("any", None, Some(&problem));
        status(&problem).into_http::<Body>()
    })
}
