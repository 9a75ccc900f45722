//! Where the session goes: the tenant that the database name asks for, whether
//! it may be served, a place among its connections, and a backend as its role.

use std::sync::Arc;
use std::time::Instant;

use insula_domain::{ClusterName, Isolation, LoginId, Placement, RoleName, TenantId, TenantStatus};
use insula_pg_wire::backend::{put_backend_key_data, put_ready_for_query};
use insula_pg_wire::{Message, TransactionStatus, backend};
use insula_route_map::{ClusterEndpoint, Follower, Route, Snapshot};
use tokio::time::timeout;

use super::End;
use super::authenticate::{Authenticated, Identity};
use super::relay::Opened;
use crate::backend::{BackendError, Opening, open};
use crate::cancel::GivenKey;
use crate::counter::Place;
use crate::fitting::Fitting;
use crate::front::Front;
use crate::guard::Guard;
use crate::link::Link;
use crate::parameters::{Setting, settings};
use crate::refusal::Refusal;
use crate::scope::Scope;
use crate::show::Answers;
use crate::standing::Standing;

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
    _cluster: Place<ClusterName>,
}

/// A session that knows where it goes.
#[derive(Debug)]
pub(super) struct Routed {
    settings: Vec<Setting>,
    target: Target,
    follower: Follower,
    standing: Standing,
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
        Ok(Routed { settings, target, follower, standing, places })
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
        check_status(route)?;
        let placement = route.placement.as_ref().ok_or_else(Refusal::placement_unavailable)?;
        let endpoint = snapshot.endpoint(&placement.cluster).ok_or_else(Refusal::placement_unavailable)?;
        Ok(Target { route: Arc::clone(route), placement: placement.clone(), endpoint: Arc::clone(endpoint) })
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
        let cluster = front
            .clusters
            .take(&target.endpoint.name, target.endpoint.max_connections)
            .map_err(|_| Refusal::too_many_for_cluster(&target.endpoint.name))?;
        tracing::Span::current().record("tenant", route.slug.as_str());
        tracing::debug!("a client was let in");
        Ok(Places { _tenant: tenant, _login: login, _cluster: cluster })
    }
}

fn check_status(route: &Route) -> Result<(), Refusal> {
    match route.status {
        TenantStatus::Active => Ok(()),
        status => Err(Refusal::status(&route.slug, status)),
    }
}

impl Routed {
    /// Opens the backend and greets the client.
    pub async fn open(self, front: &Front, link: &mut Link) -> Result<Opened, End> {
        let placement = &self.target.placement;
        let role = if self.standing.read_only {
            RoleName::read_only_of_tenant(self.standing.tenant)
        } else {
            placement.role.clone()
        };
        let password = front
            .parts
            .master_keys
            .role_password(
                self.standing.tenant,
                self.standing.read_only,
                self.target.route.role_key_generation,
            )
            .map_err(|error| {
                tracing::error!(%error, "the password of a role cannot be derived");
                Refusal::placement_unavailable()
            })?;
        let opening = Opening {
            endpoint: &self.target.endpoint,
            role: &role,
            database: &placement.database,
            password,
            settings: &self.settings,
        };
        let began = Instant::now();
        let opened =
            open(opening, &front.backend_tls, front.parts.entropy.as_ref(), front.config.connect_timeout)
                .await;
        let mut backend = match opened {
            Ok(backend) => backend,
            Err(error) => return Err(self.not_opened(link, error).await),
        };
        front.measures.backend_opened(began.elapsed());
        let cancel_key = front
            .cancel_keys
            .give(backend.target.clone(), front.parts.entropy.as_ref())
            .ok_or_else(Refusal::overloaded)?;
        let guard = self.guard(front, &backend.greeting);
        link.put(|out| {
            for message in backend.greeting.drain(..) {
                message.put(out);
            }
            put_backend_key_data(out, cancel_key.key);
            put_ready_for_query(out, TransactionStatus::Idle);
        });
        timeout(front.config.connect_timeout, link.flush())
            .await
            .map_err(|_| End::Gone("the client does not take its greeting"))??;
        let answers = Answers::new(&self.target.route.slug, placement);
        Ok(Opened {
            backend,
            answers,
            isolation: placement.isolation,
            guard,
            follower: self.follower,
            standing: self.standing,
            held: Held { _cancel_key: cancel_key, _places: self.places },
        })
    }

    /// What looks at the session's statements, given what the server has said.
    fn guard(&self, front: &Front, greeting: &[Message]) -> Guard {
        let guard = Guard::new(self.target.placement.isolation);
        if self.target.placement.isolation != Isolation::Pool {
            return guard;
        }
        let mut fitting =
            Fitting::new(self.standing.tenant, front.long_texts.clone(), Arc::clone(&front.parts.routes));
        let settings = greeting.iter().filter(|message| message.tag == backend::tag::PARAMETER_STATUS);
        settings.for_each(|message| fitting.setting(&message.body));
        guard.with_fitting(fitting)
    }

    async fn not_opened(&self, link: &mut Link, error: BackendError) -> End {
        if let Some(body) = error.refused_setting() {
            link.put(|out| backend::put_error_body(out, body));
            link.close().await;
            return End::Gone("the server refused a setting of the client");
        }
        let cluster = &self.target.endpoint.name;
        if matches!(&error, BackendError::Refused { sqlstate, .. } if sqlstate == "28P01") {
            let tenant = &self.target.route.slug;
            tracing::error!(%cluster, %tenant, %error, "a server refuses the password of a tenant's role");
            return Refusal::role_refused().into();
        }
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(%cluster, %error, cause, "a backend could not be opened");
        let refusal = if error.is_full() {
            Refusal::too_many_for_cluster(cluster)
        } else {
            Refusal::placement_unavailable()
        };
        refusal.into()
    }
}
