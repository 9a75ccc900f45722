//! Where the session goes: the tenant that the database name asks for, whether
//! it may be served, a place among its connections, and a backend as its role.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use insula_credentials::ChannelKey;
use insula_domain::{Isolation, LoginId, Placement, PoolMode, RoleName, TenantId, TenantStatus};
use insula_pg_wire::backend::{put_backend_key_data, put_ready_for_query};
use insula_pg_wire::{TransactionStatus, backend};
use insula_route_map::{ClusterEndpoint, Follower, Route, Snapshot};
use tokio::time::timeout;

use super::End;
use super::authenticate::{Authenticated, Identity};
use super::memory::Memory;
use super::pump::Source;
use super::relay::Opened;
use crate::account::Account;
use crate::backend::BackendError;
use crate::cancel::GivenKey;
use crate::channels::Channels;
use crate::counter::Place;
use crate::fitting::{Fitting, SharedTables};
use crate::front::Front;
use crate::guard::Guard;
use crate::host::Host;
use crate::link::Link;
use crate::parameters::{Setting, settings};
use crate::pool::{Answer, Destination, LiveTerms, Patience, PoolKey};
use crate::refusal::Refusal;
use crate::scope::Scope;
use crate::settings::{APPLICATION_NAME, Reported, SessionSettings};
use crate::show::Answers;
use crate::standing::Standing;
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

/// Where a session goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    route: Arc<Route>,
    placement: Placement,
    endpoint: Arc<ClusterEndpoint>,
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
            epoch: target.placement.epoch,
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
        let placement = route.placement.as_ref().ok_or_else(Refusal::placement_unavailable)?;
        let endpoint = snapshot.endpoint(&placement.cluster).ok_or_else(Refusal::placement_unavailable)?;
        Ok(Target { route: Arc::clone(route), placement: placement.clone(), endpoint: Arc::clone(endpoint) })
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
        let mode = self.pool_mode;
        let entry = front.vitals.enter(&self.target.route.terms, self.caller.clone());
        let account = front.accounts.of(self.standing.tenant);
        let (cluster, destination) =
            front.pools.reach(self.destination(front, mode, account)?, self.target.route.terms);
        let settings = Arc::new(SessionSettings::from_startup(&self.settings));
        let mut lease = match cluster.acquire(&destination, &settings, &mut Patience::default()) {
            Answer::Now(lease) => lease,
            Answer::Later(wait) => tokio::select! {
                biased;
                granted = wait => granted?,
                () = link.left() => return Err(End::Gone("the client left while it waited for a backend")),
            },
            Answer::Refused(refusal) => return Err(refusal.into()),
        };
        let backend = &mut lease.backend;
        if !SessionSettings::are_same(&backend.contents.settings, &settings) {
            if let Err(error) = backend.run(&settings.restore()).await {
                lease.end();
                return Err(self.not_taken(link, error).await);
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
        let guard = self.guard(front, &reported, destination.channel_key.clone());
        let wanders = mode == PoolMode::Transaction;
        let memory = Memory::new(wanders, settings, reported);
        let lease = if wanders {
            lease.give_back();
            None
        } else {
            Some(lease)
        };
        timeout(front.config.get().connect_timeout, link.flush())
            .await
            .map_err(|_| End::Gone("the client does not take its greeting"))??;
        let placement = &self.target.placement;
        let answers = Answers::new(&self.target.route.slug, placement);
        let source = Source { cluster, destination, slot: Arc::clone(&cancel_key.slot) };
        Ok(Opened {
            lease,
            source,
            memory: Box::new(memory),
            judged: (answers, guard),
            follower: self.follower,
            standing: self.standing,
            entry,
            held: Held { _cancel_key: cancel_key, _places: self.places },
        })
    }

    /// Where its backends lead.
    fn destination(
        &self,
        front: &Front,
        mode: PoolMode,
        account: Arc<Account>,
    ) -> Result<Destination, Refusal> {
        let Target { route, placement, endpoint } = &self.target;
        let read_only = self.standing.read_only;
        let role =
            if read_only { RoleName::read_only_of_tenant(route.tenant) } else { placement.role.clone() };
        let key = PoolKey {
            tenant: route.tenant,
            read_only,
            epoch: placement.epoch,
            key_generation: route.role_key_generation,
            endpoint_revision: endpoint.revision,
            for_one_session: mode == PoolMode::Session,
        };
        let shares_database = matches!(placement.isolation, Isolation::Pool | Isolation::Schema);
        let channel_key = shares_database
            .then(|| front.parts.master_keys.channel_key(route.tenant, route.role_key_generation))
            .transpose()
            .map_err(|error| {
                tracing::error!(%error, "the key of a tenant's channels cannot be derived");
                Refusal::placement_unavailable()
            })?;
        Ok(Destination {
            key,
            slug: route.slug.clone(),
            account,
            endpoint: Arc::clone(endpoint),
            role,
            database: placement.database.clone(),
            terms: LiveTerms::new(route.terms),
            definitions: AtomicU64::new(0),
            channel_key,
        })
    }

    /// What looks at the session's statements, given what the server has said.
    fn guard(&self, front: &Front, reported: &Reported, channel_key: Option<ChannelKey>) -> Guard {
        let guard = Guard::new(self.target.placement.isolation);
        let Some(channel_key) = channel_key else { return guard };
        let tables = (self.target.placement.isolation == Isolation::Pool).then(|| {
            SharedTables::new(self.standing.tenant, front.long_texts.clone(), Arc::clone(&front.parts.routes))
        });
        let mut fitting = Fitting::new(Channels::new(channel_key), tables);
        reported.all().for_each(|(name, value)| fitting.setting(name, value));
        guard.with_fitting(fitting)
    }

    /// The settings that a client wants to begin with are not taken.
    async fn not_taken(&self, link: &mut Link, error: BackendError) -> End {
        if let Some(body) = error.refused_setting() {
            link.put(|out| backend::put_error_body(out, body));
            link.close().await;
            return End::Gone("the server refused a setting of the client");
        }
        tracing::warn!(cluster = %self.target.endpoint.name, %error, "a backend could not be made ready");
        Refusal::placement_unavailable().into()
    }
}
