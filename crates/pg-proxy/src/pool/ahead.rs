//! Connections to where a tenant is about to go, begun before it is held. Each
//! stands at the server's question for the role's proof
//! ([`Dialled`]), so that its first transactions there wait for the smaller half
//! of what opening a backend takes. Whoever opens a backend takes one that leads
//! to the same database of the same server as the same role; nothing is known
//! of it that was not looked at, and it may be dropped at any time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use insula_credentials::{ChannelKey, MasterKeys, UnknownKeyGeneration};
use insula_domain::{ClusterName, DatabaseName, Isolation, RoleName, TenantId};
use insula_route_map::{ClusterEndpoint, NextPlace, Route, Snapshot};
use thiserror::Error;
use tokio::time::timeout;

use super::{Destination, Opener, Pools, lock, terms_of};
use crate::backend::{BackendError, Dialled, Dialling, dial};
use crate::measure::DialledOutcome;

/// How long a connection is kept that nobody takes: longer than a hold most often
/// lasts, and far from the minute after which PostgreSQL gives up waiting for a
/// proof (`authentication_timeout`).
const KEPT: Duration = Duration::from_secs(10);

/// Connections that are kept at once, for all tenants.
const KEPT_MAX: usize = 64;

/// What tells where a backend leads, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeadsTo {
    cluster: ClusterName,
    /// The revision of the cluster's address.
    endpoint_revision: i64,
    database: DatabaseName,
    role: RoleName,
    /// Of the key from which the role's password is made.
    key_generation: u32,
}

impl LeadsTo {
    pub fn of(destination: &Destination) -> Self {
        Self {
            cluster: destination.endpoint.name.clone(),
            endpoint_revision: destination.endpoint.revision,
            database: destination.database.clone(),
            role: destination.role.clone(),
            key_generation: destination.key.key_generation,
        }
    }
}

/// What is kept of a tenant that is about to go somewhere.
#[derive(Debug)]
struct Kept {
    to: LeadsTo,
    /// Tells it from what was kept for an earlier try.
    number: u64,
    until: Instant,
    dialled: Vec<Dialled>,
}

/// All that is kept.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<TenantId, Kept>,
    next: u64,
    /// Those that are being dialled, or kept.
    count: usize,
}

impl State {
    /// Forgets what is kept of a tenant.
    fn forget(&mut self, tenant: TenantId, opener: &Opener) {
        let Some(kept) = self.tenants.remove(&tenant) else { return };
        self.count = self.count.saturating_sub(kept.dialled.len());
        kept.dialled.iter().for_each(|_| opener.measures.dialled(DialledOutcome::Unused));
    }
}

impl Ahead {
    /// One that leads there, if there is one.
    pub fn take(&self, tenant: TenantId, to: &LeadsTo) -> Option<Dialled> {
        let mut state = lock(&self.0);
        let kept = state.tenants.get_mut(&tenant).filter(|kept| kept.to == *to)?;
        let dialled = kept.dialled.pop()?;
        state.count = state.count.saturating_sub(1);
        Some(dialled)
    }
}

impl Pools {
    /// Begins connections to where tenants are about to go, as many as they have
    /// backends by then, and drops those of tenants that are not any more. To be
    /// called when the routes have changed, and now and then.
    pub fn dial_ahead(&self, snapshot: &Snapshot, now: Instant) {
        let opener = &self.opener;
        let mut state = lock(&opener.ahead.0);
        let over: Vec<TenantId> = state
            .tenants
            .iter()
            .filter(|(tenant, kept)| {
                let goes = snapshot.route(**tenant).is_some_and(|route| route.goes_to.is_some());
                !goes || kept.until <= now
            })
            .map(|(tenant, _)| *tenant)
            .collect();
        over.into_iter().for_each(|tenant| state.forget(tenant, opener));
        for route in snapshot.leaving() {
            let Some(next) = Next::of(route, snapshot) else { continue };
            if state.tenants.get(&route.tenant).is_some_and(|kept| kept.to == next.to) {
                continue;
            }
            let count = self.ahead_of(route, &next.endpoint).min(KEPT_MAX.saturating_sub(state.count));
            state.forget(route.tenant, opener);
            state.next += 1;
            let number = state.next;
            state.count += count;
            let kept = Kept { to: next.to.clone(), number, until: now + KEPT, dialled: Vec::new() };
            state.tenants.insert(route.tenant, kept);
            let next = Arc::new(next);
            for _ in 0..count {
                tokio::spawn(keep_one(Arc::clone(opener), Arc::clone(&next), number));
            }
        }
    }

    /// How many to dial: what the tenant will want at once, where the cluster has
    /// room for them.
    fn ahead_of(&self, route: &Route, endpoint: &ClusterEndpoint) -> usize {
        let limits = self.limits(endpoint);
        let mine = self.holdings().into_iter().filter(|held| held.tenant == route.tenant);
        let wanted = mine.map(|held| held.tally.open + held.tally.waiting).sum::<u32>();
        let wanted = wanted.min(limits.of(terms_of(route), 0)).min(limits.opening);
        let there = lock(&self.clusters).get(&endpoint.name).map(Arc::clone);
        let open = there.map_or(0, |cluster| cluster.share().tally().open);
        wanted.min(limits.backends.saturating_sub(open)) as usize
    }
}

/// Where a tenant is about to go.
struct Next {
    tenant: TenantId,
    endpoint: Arc<ClusterEndpoint>,
    isolation: Isolation,
    to: LeadsTo,
}

impl Next {
    /// None where it is there already.
    fn of(route: &Route, snapshot: &Snapshot) -> Option<Self> {
        let (next, placement) = (route.goes_to.as_ref()?, route.placement.as_ref()?);
        let NextPlace { cluster, database, isolation } = next;
        let endpoint = snapshot.endpoint(cluster).filter(|_| !next.is_at(placement))?;
        let to = LeadsTo {
            cluster: cluster.clone(),
            endpoint_revision: endpoint.revision,
            database: database.clone(),
            role: placement.role.clone(),
            key_generation: route.role_key_generation,
        };
        Some(Self { tenant: route.tenant, endpoint: Arc::clone(endpoint), isolation: *isolation, to })
    }
}

/// Why there is no connection ahead.
#[derive(Debug, Error)]
enum NotDialled {
    #[error("the role's keys cannot be derived")]
    Key(#[from] UnknownKeyGeneration),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Dials one, and keeps it for as long as it may be wanted. That it cannot be had
/// stops nothing: a backend is opened without it.
async fn keep_one(opener: Arc<Opener>, next: Arc<Next>, number: u64) {
    let dialled = dial_one(&opener, &next).await;
    let mut state = lock(&opener.ahead.0);
    let wanted = state.tenants.get_mut(&next.tenant).filter(|kept| kept.number == number);
    let outcome = match (dialled, wanted) {
        (Ok(dialled), Some(kept)) => return kept.dialled.push(dialled),
        (Ok(_), None) => DialledOutcome::Unused,
        (Err(error), _) => {
            tracing::debug!(cluster = %next.to.cluster, %error, "a connection could not be begun ahead");
            DialledOutcome::Failed
        }
    };
    state.count = state.count.saturating_sub(1);
    drop(state);
    opener.measures.dialled(outcome);
}

async fn dial_one(opener: &Opener, next: &Next) -> Result<Dialled, NotDialled> {
    let Next { tenant, endpoint, isolation, to } = next;
    let keys = &opener.master_keys;
    let password = keys.role_password(*tenant, false, to.key_generation)?;
    let channel_key = channel_key(keys, *tenant, to.key_generation, *isolation)?;
    let dialling = Dialling { endpoint, role: &to.role, database: &to.database, password, channel_key };
    let dialled = dial(dialling, &opener.tls, opener.entropy.as_ref());
    let dialled = timeout(opener.config.get().connect_timeout, dialled).await;
    Ok(dialled.unwrap_or(Err(BackendError::TimedOut))?)
}

/// By what a tenant's notification channels are named; none in a database of its
/// own.
pub(crate) fn channel_key(
    keys: &MasterKeys,
    tenant: TenantId,
    generation: u32,
    isolation: Isolation,
) -> Result<Option<ChannelKey>, UnknownKeyGeneration> {
    let shares_database = matches!(isolation, Isolation::Pool | Isolation::Schema);
    shares_database.then(|| keys.channel_key(tenant, generation)).transpose()
}
