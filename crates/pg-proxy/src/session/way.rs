//! The way of a session to its tenant's placement, whichever that is by now:
//! where its backends lead, and what its statements have to be there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use insula_domain::{Isolation, Placement, PoolMode, RoleName, TenantId};
use insula_route_map::{ClusterEndpoint, Route, Snapshot};

use crate::account::Account;
use crate::channels::Channels;
use crate::fitting::{Fitting, SharedTables};
use crate::front::Front;
use crate::gate::Passer;
use crate::guard::Guard;
use crate::pool::{Cluster, Destination, LiveTerms, PoolKey, channel_key};
use crate::refusal::Refusal;
use crate::settings::Reported;
use crate::show::Answers;

/// Where a session goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub route: Arc<Route>,
    pub placement: Placement,
    pub endpoint: Arc<ClusterEndpoint>,
}

impl Target {
    /// Where a tenant is.
    pub fn of(route: &Arc<Route>, snapshot: &Snapshot) -> Option<Self> {
        let placement = route.placement.as_ref()?;
        let endpoint = snapshot.endpoint(&placement.cluster)?;
        let (route, placement, endpoint) = (Arc::clone(route), placement.clone(), Arc::clone(endpoint));
        Some(Self { route, placement, endpoint })
    }
}

/// What of a session decides where it goes, beside its tenant's placement.
#[derive(Debug)]
pub(super) struct Way {
    pub tenant: TenantId,
    pub read_only: bool,
    pub mode: PoolMode,
    pub account: Arc<Account>,
    /// The session at its tenant's gate.
    pub passer: Passer,
}

impl Way {
    /// Where the tenant is now.
    pub fn target(&self, snapshot: &Snapshot) -> Option<Target> {
        Target::of(snapshot.route(self.tenant)?, snapshot)
    }

    /// What its backends have in common there.
    pub fn key(&self, to: &Target) -> PoolKey {
        PoolKey {
            tenant: self.tenant,
            read_only: self.read_only,
            epoch: to.placement.epoch,
            key_generation: to.route.role_key_generation,
            endpoint_revision: to.endpoint.revision,
            for_one_session: self.mode == PoolMode::Session,
        }
    }

    /// The pools from which its backends come.
    pub fn reach(&self, front: &Front, to: &Target) -> Result<(Arc<Cluster>, Arc<Destination>), Refusal> {
        let Target { route, placement, endpoint } = to;
        let role =
            if self.read_only { RoleName::read_only_of_tenant(self.tenant) } else { placement.role.clone() };
        let (keys, generation) = (&front.parts.master_keys, route.role_key_generation);
        let channel_key =
            channel_key(keys, self.tenant, generation, placement.isolation).map_err(|error| {
                tracing::error!(%error, "the key of a tenant's channels cannot be derived");
                Refusal::placement_unavailable()
            })?;
        let destination = Destination {
            key: self.key(to),
            slug: route.slug.clone(),
            account: Arc::clone(&self.account),
            endpoint: Arc::clone(endpoint),
            role,
            database: placement.database.clone(),
            terms: LiveTerms::new(route),
            definitions: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            channel_key,
        };
        Ok(front.pools.reach(destination, route))
    }

    /// What answers and looks at its statements there, given what the server has
    /// said.
    pub fn judges(
        &self,
        front: &Front,
        to: &Target,
        destination: &Destination,
        reported: &Reported,
    ) -> (Answers, Guard) {
        let isolation = to.placement.isolation;
        let answers = Answers::new(&to.route.slug, &to.placement);
        let guard = Guard::new(isolation);
        let Some(channel_key) = destination.channel_key.clone() else { return (answers, guard) };
        let tables = (isolation == Isolation::Pool).then(|| {
            SharedTables::new(self.tenant, front.long_texts.clone(), Arc::clone(&front.parts.routes))
        });
        let mut fitting = Fitting::new(Channels::new(channel_key), tables);
        reported.all().for_each(|(name, value)| fitting.setting(name, value));
        (answers, guard.with_fitting(fitting))
    }
}
