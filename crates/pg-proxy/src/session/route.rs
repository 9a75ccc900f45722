//! Where the session goes: the tenant that the database name asks for, whether
//! it may be served, a place among its connections, and a backend as its role.

use std::sync::Arc;

use insula_domain::{LoginId, PoolMode, TenantId, TenantStatus};
use insula_pg_wire::backend::{put_backend_key_data, put_ready_for_query};
use insula_pg_wire::{TransactionStatus, backend};
use insula_route_map::{Follower, Route, Snapshot};
use tokio::time::timeout;

use super::End;
use super::authenticate::{Authenticated, Identity};
use super::memory::Memory;
use super::pump::Source;
use super::relay::Opened;
use super::way::{Target, Way};
use crate::backend::BackendError;
use crate::cancel::GivenKey;
use crate::counter::Place;
use crate::front::Front;
use crate::gate::{Passage, Passer};
use crate::host::Host;
use crate::link::Link;
use crate::parameters::{Setting, settings};
use crate::pool::{Answer, Cluster, Destination, Lease, Patience};
use crate::refusal::Refusal;
use crate::scope::Scope;
use crate::settings::{APPLICATION_NAME, Reported, SessionSettings};
use crate::standing::{Standing, Verdict};
use crate::vital::{Caller, Doing};

/// How often a route is looked up again because it changed meanwhile.
const LOOKUPS_MAX: usize = 5;

/// What the session holds until its backend is gone.
#[derive(Debug)]
pub(super) struct Held {
    _cancel_key: GivenKey,
    _places: Places,
}

/// The places that the session takes.
#[derive(Debug)]
struct Places {
    _tenant: Place<TenantId>,
    _login: Option<Place<LoginId>>,
}

/// A session that knows where it goes.
#[derive(Debug)]
pub(super) struct Routed {
    /// Of the protocol, as it is spoken with the client.
    minor_version: u16,
    settings: Vec<Setting>,
    pool_mode: PoolMode,
    target: Target,
    follower: Follower,
    standing: Standing,
    caller: Caller,
    places: Places,
}

impl Authenticated {
    /// Finds the tenant and takes a place among its connections.
    pub fn route(self, front: &Front) -> Result<Routed, End> {
        let settings = settings(&self.start)?;
        let (target, follower) = self.followed_target(front)?;
        let places = self.take_places(front, &target)?;
        let standing = Standing {
            login: self.identity.login(),
            credential_tenant: self.identity.tenant(),
            tenant: target.route.tenant,
            read_only: self.identity.read_only(),
        };
        let pool_mode = match &self.identity {
            Identity::Login(login) => login.pool_mode.unwrap_or(front.config.get().pool_mode),
            Identity::Token(_) => front.config.get().pool_mode,
        };
        let minor_version = self.start.spoken_version();
        let caller = Caller {
            tenant: target.route.tenant,
            login: String::from_utf8_lossy(self.identity.user()).into(),
            address: self.channel.peer,
            is_encrypted: self.channel.tls.is_some(),
            pool_mode,
        };
        Ok(Routed { minor_version, settings, pool_mode, target, follower, standing, caller, places })
    }

    /// The target as it is after it is being followed, so that no change of it
    /// can be missed.
    fn followed_target(&self, front: &Front) -> Result<(Target, Follower), Refusal> {
        let routes = &front.parts.routes;
        for _ in 0..LOOKUPS_MAX {
            let snapshot = routes.snapshot();
            let target = self.target(&snapshot)?;
            let lineage = snapshot.lineage(target.route.tenant).map(|route| route.tenant);
            let follower = routes.follow(lineage.chain([self.identity.tenant()]));
            if self.target(&routes.snapshot())? == target {
                return Ok((target, follower));
            }
        }
        Err(Refusal::placement_unavailable())
    }

    fn target(&self, snapshot: &Snapshot) -> Result<Target, Refusal> {
        let database = self.start.parameter("database");
        let unknown = || Refusal::unknown_scope(database.unwrap_or_default());
        let own = self.identity.tenant();
        // A token may outlive the tenant that it names, and so may a login.
        let own_route = snapshot.route(own).ok_or_else(|| Refusal::login(self.identity.user()))?;
        check_status(own_route)?;
        let scope = Scope::parse(database).ok_or_else(unknown)?;
        if !scope.is_own() && !self.identity.descendants() {
            return Err(unknown());
        }
        let route = snapshot.descendant(own, scope.path()).ok_or_else(unknown)?;
        let route = self.by_host(snapshot, &scope, route)?;
        check_status(route)?;
        Target::of(route, snapshot).ok_or_else(Refusal::placement_unavailable)
    }

    /// The tenant that database and host name ask for together. A host name of
    /// a tenant is for those alone who reach that tenant; with the database
    /// `app` it is what they get.
    fn by_host<'map>(
        &self,
        snapshot: &'map Snapshot,
        scope: &Scope,
        by_database: &'map Arc<Route>,
    ) -> Result<&'map Arc<Route>, Refusal> {
        let Host::OfTenant { name, slug } = &self.host else { return Ok(by_database) };
        // The same words for a tenant that does not exist.
        let refused = || Refusal::host(self.identity.user(), name);
        let own = self.identity.tenant();
        let slug = slug.as_ref().ok_or_else(refused)?;
        let named = snapshot.route_by_slug(slug.as_str()).ok_or_else(refused)?;
        let is_reached =
            named.tenant == own || self.identity.descendants() && snapshot.is_within(named.tenant, own);
        if !is_reached {
            return Err(refused());
        }
        if scope.is_own() {
            return Ok(named);
        }
        if snapshot.is_within(by_database.tenant, named.tenant) { Ok(by_database) } else { Err(refused()) }
    }

    fn take_places(&self, front: &Front, target: &Target) -> Result<Places, Refusal> {
        let route = &target.route;
        let tenant = front
            .tenants
            .take(&route.tenant, route.max_connections)
            .map_err(|limit| Refusal::too_many_for_tenant(&route.slug, limit))?;
        let login = match &self.identity {
            Identity::Token(_) => None,
            Identity::Login(login) => Some(
                front
                    .logins
                    .take(&login.id, login.max_sessions)
                    .map_err(|limit| Refusal::too_many_for_login(login.name.as_str(), limit))?,
            ),
        };
        tracing::Span::current().record("tenant", route.slug.as_str());
        tracing::debug!("a client was let in");
        Ok(Places { _tenant: tenant, _login: login })
    }
}

fn check_status(route: &Route) -> Result<(), Refusal> {
    match route.status {
        TenantStatus::Active => Ok(()),
        status => Err(Refusal::status(&route.slug, status)),
    }
}

impl Routed {
    /// Finds a backend that takes the session's settings, and greets the client.
    pub async fn open(self, front: &Front, link: &mut Link) -> Result<Opened, End> {
        let cancel_key = front
            .cancel_keys
            .give(front.parts.entropy.as_ref(), self.minor_version)
            .ok_or_else(Refusal::overloaded)?;
        let entry = front.vitals.enter(&self.target.route.terms, self.caller.clone());
        let mut way = Way {
            tenant: self.standing.tenant,
            read_only: self.standing.read_only,
            mode: self.pool_mode,
            account: front.accounts.of(self.standing.tenant),
            passer: Passer::new(front.gates.of(self.standing.tenant)),
        };
        let settings = Arc::new(SessionSettings::from_startup(&self.settings));
        let Found { target, cluster, destination, mut lease } =
            self.backend(front, link, &mut way, &settings).await?;
        let backend = &mut lease.backend;
        if !SessionSettings::are_same(&backend.contents.settings, &settings) {
            // A server that stands still keeps neither the session nor a move waiting for its end.
            let within = front.config.get().connect_timeout;
            let taken = timeout(within, backend.run(&settings.restore())).await;
            if let Err(error) = taken.unwrap_or(Err(BackendError::TimedOut)) {
                lease.end();
                return Err(not_taken(link, &target, error).await);
            }
            backend.contents.settings = Arc::clone(&settings);
        }
        let reported = Arc::clone(&backend.contents.reported);
        if let Some(name) = reported.get(APPLICATION_NAME) {
            entry.vital.is_called(name);
        }
        entry.vital.does(Doing::Idle, front.vitals.tick());
        link.put(|out| {
            reported.put_news(&Reported::default(), out);
            put_backend_key_data(out, &cancel_key.key);
            put_ready_for_query(out, TransactionStatus::Idle);
        });
        let judges = way.judges(front, &target, &destination, &reported);
        let wanders = way.mode == PoolMode::Transaction;
        let memory = Memory::new(wanders, settings, reported, Arc::clone(&destination.account));
        let lease = if wanders {
            lease.give_back();
            None
        } else {
            Some(lease)
        };
        way.passer.end();
        timeout(front.config.get().connect_timeout, link.flush())
            .await
            .map_err(|_| End::Gone("the client does not take its greeting"))??;
        let source = Source { way, cluster, destination, slot: Arc::clone(&cancel_key.slot) };
        Ok(Opened {
            lease,
            source,
            memory: Box::new(memory),
            judges,
            follower: self.follower,
            standing: self.standing,
            entry,
            held: Held { _cancel_key: cancel_key, _places: self.places },
        })
    }

    /// A backend where the tenant is, and who may be held or moved meanwhile.
    async fn backend(
        &self,
        front: &Front,
        link: &mut Link,
        way: &mut Way,
        settings: &Arc<SessionSettings>,
    ) -> Result<Found, End> {
        let mut target = self.target.clone();
        loop {
            let (cluster, destination) = way.reach(front, &target)?;
            let found = async {
                let epoch = target.placement.epoch;
                if way.passer.passes(epoch).await == Passage::Elsewhere {
                    return Ok(None);
                }
                let mut patience = Patience::default();
                match cluster.acquire(&destination, settings, (&mut patience, way.passer.has_waited())) {
                    Answer::Now(lease) => Ok(Some(lease)),
                    Answer::Refused(refusal) => Err(refusal),
                    Answer::Later(wait) => {
                        way.passer.end();
                        let lease = wait.await?;
                        if way.passer.passes_now(epoch) {
                            Ok(Some(lease))
                        } else {
                            lease.give_back();
                            Ok(None)
                        }
                    }
                }
            };
            let found = tokio::select! {
                biased;
                found = found => found?,
                () = link.left() => return Err(End::Gone("the client left while it waited for a backend")),
                () = self.follower.changed() => None,
            };
            if let Some(lease) = found {
                way.passer.is_served();
                return Ok(Found { target, cluster, destination, lease });
            }
            let snapshot = front.parts.routes.snapshot();
            if let Verdict::EndsNow(refusal) | Verdict::EndsWhenIdle(refusal) = self.standing.judge(&snapshot)
            {
                return Err(refusal.into());
            }
            target = way.target(&snapshot).ok_or_else(Refusal::placement_unavailable)?;
        }
    }
}

/// A backend, and where it is.
struct Found {
    target: Target,
    cluster: Arc<Cluster>,
    destination: Arc<Destination>,
    lease: Lease,
}

/// The settings that a client wants to begin with are not taken.
async fn not_taken(link: &mut Link, target: &Target, error: BackendError) -> End {
    if let Some(body) = error.refused_setting() {
        link.put(|out| backend::put_error_body(out, body));
        link.close().await;
        return End::Gone("the server refused a setting of the client");
    }
    tracing::warn!(cluster = %target.endpoint.name, %error, "a backend could not be made ready");
    Refusal::placement_unavailable().into()
}
