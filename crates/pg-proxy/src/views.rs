//! What an operator is shown of the front: its clients, its backends and its
//! tenants, as they are now. Whoever is shown pays nothing for it; it is put
//! together for who looks.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use insula_api::{PgBackend, PgBackendState, PgClient, PgClientState, PgList, PgTenant, PgWaits};
use insula_domain::{Slug, TenantId};
use insula_route_map::Snapshot;
use time::OffsetDateTime;

use crate::account::Account;
use crate::front::PgProxy;
use crate::pool::Tally;
use crate::roster::Seen;
use crate::vital::{Doing, TICK, Vital};

/// What is to be shown.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Of this tenant alone.
    pub tenant: Option<TenantId>,
    /// So many at the most.
    pub limit: usize,
}

impl Ask {
    fn is_about(&self, tenant: TenantId) -> bool {
        self.tenant.is_none_or(|asked| asked == tenant)
    }
}

impl PgProxy {
    /// The first ones by a key.
    fn list<T, K: Ord>(&self, ask: &Ask, mut items: Vec<T>, key: impl Fn(&T) -> K) -> PgList<T> {
        let total = items.len() as u64;
        items.sort_by_cached_key(key);
        items.truncate(ask.limit);
        PgList { items, total, process_id: std::process::id(), draining_clients: self.clients_before() }
    }

    /// The clients: those that wait first, then those that are at work, and of
    /// each who has been so for the longest time.
    #[must_use]
    pub fn clients(&self, ask: &Ask) -> PgList<PgClient> {
        let (snapshot, now) = (self.front.parts.routes.snapshot(), self.front.parts.clock.now());
        let tick = self.front.vitals.tick();
        let vitals = self.front.vitals.all();
        let asked = vitals.iter().filter(|vital| ask.is_about(vital.caller.tenant));
        let clients = asked.map(|vital| client(vital, &snapshot, (now, tick))).collect();
        self.list(ask, clients, |client: &PgClient| (client.state, client.since, client.address.clone()))
    }

    /// The backends, by cluster, tenant and process.
    #[must_use]
    pub fn backends(&self, ask: &Ask) -> PgList<PgBackend> {
        let (snapshot, now) = (self.front.parts.routes.snapshot(), self.front.parts.clock.now());
        let (roster, instant) = (&self.front.roster, Instant::now());
        let at = |ms| now - roster.ago(ms, instant);
        let all = roster.all();
        let asked = all.iter().filter(|seen| ask.is_about(seen.who.tenant));
        let backends = asked.map(|seen| backend(seen, &snapshot, at)).collect();
        self.list(ask, backends, |backend: &PgBackend| {
            (backend.cluster.clone(), backend.tenant.clone(), backend.process_id)
        })
    }

    /// The tenants that have been here: those of which most clients wait first,
    /// then those that had most transactions.
    #[must_use]
    pub fn tenants(&self, ask: &Ask) -> PgList<PgTenant> {
        let snapshot = self.front.parts.routes.snapshot();
        let accounts = self.front.accounts.all();
        let (clients, holdings) = (self.front.tenants.all(), self.holdings());
        let known: BTreeSet<TenantId> =
            accounts.keys().chain(clients.keys()).chain(holdings.keys()).copied().collect();
        let tenants = known.into_iter().filter(|tenant| ask.is_about(*tenant)).map(|id| {
            let holding = holdings.get(&id).copied().unwrap_or_default();
            let now = Now { clients: clients.get(&id).copied().unwrap_or(0), holding };
            self.tenant(id, now, accounts.get(&id).map_or(&Account::default(), |account| account), &snapshot)
        });
        let busiest = |tenant: &PgTenant| {
            let most_first = (u32::MAX - tenant.waiting, u64::MAX - tenant.transactions);
            (most_first, tenant.tenant.clone(), tenant.tenant_id)
        };
        self.list(ask, tenants.collect(), busiest)
    }

    /// What tenants have on all clusters together.
    pub(crate) fn holdings(&self) -> HashMap<TenantId, Tally> {
        let mut holdings: HashMap<TenantId, Tally> = HashMap::new();
        for holding in self.front.pools.holdings() {
            let sum = holdings.entry(holding.tenant).or_default();
            *sum = sum.and(holding.tally);
        }
        holdings
    }

    fn tenant(&self, id: TenantId, now: Now, account: &Account, snapshot: &Snapshot) -> PgTenant {
        let (route, counts) = (snapshot.route(id), account.counts());
        let endpoint = route
            .and_then(|route| route.placement.as_ref())
            .and_then(|placement| snapshot.endpoint(&placement.cluster));
        let most = route.zip(endpoint).map(|(route, endpoint)| self.front.pools.most(endpoint, route));
        PgTenant {
            tenant: slug(id, snapshot),
            tenant_id: id,
            clients: now.clients,
            waiting: now.holding.waiting,
            held: self.front.gates.is_held(id),
            backends: now.holding.open,
            backends_idle: now.holding.idle,
            weight: route.map_or(1, |route| route.terms.weight),
            backends_max: most,
            transactions: counts.transactions,
            waits: PgWaits {
                count: counts.waits,
                total_ms: counts.waited_us / 1_000,
                longest_ms: milliseconds(account.longest_wait()),
            },
            pins: account.pins(),
            bytes_from_clients: counts.bytes_from_clients,
            bytes_to_clients: counts.bytes_to_clients,
            errors: counts.errors,
        }
    }
}

/// What a tenant has at this moment.
#[derive(Debug, Clone, Copy)]
struct Now {
    clients: u32,
    holding: Tally,
}

fn client(vital: &Vital, snapshot: &Snapshot, (now, tick): (OffsetDateTime, u32)) -> PgClient {
    let (doing, since) = vital.look();
    let at = |then: u32| now - TICK * tick.saturating_sub(then);
    let caller = &vital.caller;
    PgClient {
        tenant: slug(caller.tenant, snapshot),
        tenant_id: caller.tenant,
        login: caller.login.clone().into(),
        application_name: vital.application_name(),
        address: caller.address.to_string(),
        tls: caller.is_encrypted,
        state: match doing {
            Doing::Waiting => PgClientState::Waiting,
            Doing::Active => PgClientState::Active,
            Doing::InTransaction => PgClientState::InTransaction,
            Doing::Idle => PgClientState::Idle,
        },
        since: at(since),
        connected_at: at(vital.began),
        pool_mode: caller.pool_mode,
        pinned: vital.pinned().map(str::to_owned),
        transactions: vital.transactions(),
    }
}

fn backend(seen: &Seen, snapshot: &Snapshot, at: impl Fn(u64) -> OffsetDateTime) -> PgBackend {
    PgBackend {
        cluster: seen.who.cluster.clone(),
        tenant: slug(seen.who.tenant, snapshot),
        tenant_id: seen.who.tenant,
        role: seen.who.role.clone(),
        process_id: seen.who.process_id,
        state: if seen.is_in_use() { PgBackendState::InUse } else { PgBackendState::Idle },
        opened_at: at(seen.opened_ms()),
        used_at: at(seen.used_ms()),
        transactions: seen.transactions(),
    }
}

fn slug(tenant: TenantId, snapshot: &Snapshot) -> Option<Slug> {
    snapshot.route(tenant).map(|route| route.slug.clone())
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
