//! The service: its parts, and what it keeps running.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insula_access::{Access, Arrival};
use insula_catalog::Catalog;
use insula_config_model::Lineage;
use insula_config_store::{ConfigStore, Writer};
use insula_domain::{Clock, Entropy, RegionName, TenantId};
use insula_problem::{Code, Problem};
use insula_route_map::RouteMap;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Bounds;
use crate::backends::Backends;
use crate::directory::{Directory, Named};
use crate::followed;
use crate::hub::{Feed, Hub};
use crate::keeping::Acknowledged;
use crate::large::Readers;
use crate::sending::{Sending, Sent, Share};
use crate::tags::Tags;
use crate::validate::Validator;

/// How long changes of tenants are gathered before watched ones are looked at.
const GATHER: Duration = Duration::from_millis(50);

/// How often the number of watched tenants is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// What the service is made of.
#[derive(Debug)]
pub struct Parts {
    /// Who calls.
    pub access: Arc<Access>,
    /// Which tenants are gone.
    pub catalog: Catalog,
    /// Where tenants are; fed by somebody else.
    pub routes: Arc<RouteMap>,
    /// The stores of the regions that this process serves.
    pub regions: BTreeMap<RegionName, ConfigStore>,
    /// What the provider has.
    pub provider: ConfigStore,
    /// The backends outside of the stores.
    pub backends: Backends,
    /// Who has a say on values before they are written.
    pub validators: Vec<Arc<dyn Validator>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// What is bounded.
    pub bounds: Bounds,
}

/// What there is for a region.
#[derive(Debug)]
pub struct RegionParts {
    /// Its values.
    pub store: ConfigStore,
    /// Writes them.
    pub writer: Writer,
    /// Tells of changes.
    pub hub: Arc<Hub>,
    /// Keeps what clients say.
    pub(crate) acknowledged: Acknowledged,
}

impl RegionParts {
    /// How long ago its changes were read; none before the first time.
    fn read_ago(&self) -> Option<Duration> {
        self.hub.known().map(|(_, read_at)| read_at.elapsed())
    }
}

/// The configuration service of a process.
#[derive(Debug)]
pub struct Service {
    pub(crate) access: Arc<Access>,
    pub(crate) catalog: Catalog,
    pub(crate) directory: Directory,
    pub(crate) regions: BTreeMap<RegionName, RegionParts>,
    pub(crate) provider: (ConfigStore, Writer),
    pub(crate) tags: Arc<Tags>,
    pub(crate) backends: Backends,
    pub(crate) validators: Vec<Arc<dyn Validator>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) bounds: Bounds,
    /// A client has refused a version.
    pub(crate) refused: Notify,
    /// Those who are being sent large values.
    pub(crate) readers: Arc<Readers>,
    /// What is on its way to watchers.
    pub(crate) sending: Sending,
    /// Watchers by tenant, and what may be on its way to them.
    pub(crate) watchers: Mutex<HashMap<TenantId, (usize, Share)>>,
    /// Cancelled when the process stops: watchers go elsewhere.
    pub(crate) stop: CancellationToken,
}

impl Service {
    /// Puts the parts together. Nothing follows anything before
    /// [`Service::run`]; the writers' tasks begin here.
    #[must_use]
    pub fn new(parts: Parts, stop: CancellationToken) -> Arc<Self> {
        let tags = Arc::new(Tags::default());
        let directory = Directory::new(parts.routes);
        let regions = parts.regions.into_iter().map(|(region, store)| {
            let hub = Hub::new(region.clone(), store.clone(), tags.clone(), directory.clone(), parts.bounds);
            let acknowledged = Acknowledged::new(store.clone(), parts.clock.clone());
            (region, RegionParts { writer: store.writer_heard(hub.clone()), store, hub, acknowledged })
        });
        let writer = parts.provider.writer();
        Arc::new(Self {
            access: parts.access,
            catalog: parts.catalog,
            regions: regions.collect(),
            directory,
            provider: (parts.provider, writer),
            tags,
            backends: parts.backends,
            validators: parts.validators,
            clock: parts.clock,
            entropy: parts.entropy,
            bounds: parts.bounds,
            refused: Notify::new(),
            readers: Arc::default(),
            sending: Sending::new(parts.bounds.sending_bytes),
            watchers: Mutex::default(),
            stop,
        })
    }

    /// Who calls.
    #[must_use]
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// Where tenants are.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What is bounded.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> time::OffsetDateTime {
        self.clock.now()
    }

    /// The table of tags that holds now.
    #[must_use]
    pub fn tags(&self) -> Arc<insula_config_model::TagTable> {
        self.tags.table()
    }

    /// The parts of a region.
    ///
    /// # Errors
    /// `unavailable` where this process does not serve it.
    pub fn region(&self, region: &RegionName) -> Result<&RegionParts, Problem> {
        self.regions.get(region).ok_or_else(|| {
            Problem::new(Code::Unavailable, format!("This process does not serve the region {region}."))
        })
    }

    /// What a tenant sees, and by what it is seen now: where that changes
    /// meanwhile, by what it is then.
    pub(crate) async fn feed(
        &self,
        lineage: impl Fn() -> Result<Lineage, Problem>,
    ) -> Result<(Lineage, Feed), Problem> {
        loop {
            let now = lineage()?;
            match self.region(&now.region)?.hub.subscribe(&now).await {
                Err(_) if lineage()? != now => {}
                ended => return ended.map(|feed| (now, feed)),
            }
        }
    }

    /// The store that has what is set in a scope.
    pub(crate) fn store_of(&self, named: &Named) -> Result<&ConfigStore, Problem> {
        match named {
            Named::Tenant(lineage) => self.region(&lineage.region).map(|region| &region.store),
            Named::Provider(_) => Ok(&self.provider.0),
        }
    }

    /// Whether there is something to be served: the changes of every region were
    /// read, and those of one at least not too long ago.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let read_ago: Vec<_> = self.regions.values().map(RegionParts::read_ago).collect();
        self.directory.routes().is_ready() && followed::is_ready(&read_ago, self.bounds.followed_within)
    }

    /// The regions whose changes have not been read for too long, and since when.
    #[must_use]
    pub fn unfollowed(&self) -> Vec<(&RegionName, Duration)> {
        let read = self.regions.iter().filter_map(|(name, region)| Some((name, region.read_ago()?)));
        read.filter(|(_, ago)| *ago > self.bounds.followed_within).collect()
    }

    /// Follows what changes, until it is told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        for region in self.regions.values() {
            tasks.spawn(region.hub.clone().run(stop.clone()));
            tasks.spawn(self.clone().replicate(region.store.clone(), stop.clone()));
        }
        let (access, ended) = (self.access.clone(), stop.clone());
        tasks.spawn(async move { access.follow(ended).await });
        tasks.spawn(self.clone().follow_tenants(stop.clone()));
        tasks.spawn(self.clone().tidy(stop.clone()));
        tasks.spawn(self.clone().roll_out(stop.clone()));
        tasks.spawn(self.clone().reconcile(self.bounds.reconcile, stop.clone()));
        tasks.spawn(self.clone().move_tags(stop.clone()));
        while tasks.join_next().await.is_some() {}
    }

    async fn follow_tenants(self: Arc<Self>, stop: CancellationToken) {
        let mut changed = self.directory.routes().changed();
        let mut measure = tokio::time::interval(MEASURE_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(GATHER).await;
                    self.regions.values().for_each(|region| region.hub.look_at_tenants());
                }
                _ = measure.tick() => self.measure(),
            }
        }
    }

    fn measure(&self) {
        #[allow(clippy::cast_precision_loss)] // bytes in memory are far fewer than 2^52
        metrics::gauge!(crate::measure::SENDING_BYTES).set(self.sending.under_way() as f64);
        for (name, region) in &self.regions {
            let (topics, queued) = (region.hub.topics(), region.hub.queued_bytes());
            for (gauge, number) in [(crate::measure::TOPICS, topics), (crate::measure::QUEUED_BYTES, queued)]
            {
                #[allow(clippy::cast_precision_loss)] // a count of tenants, or of bytes, is far below 2^52
                metrics::gauge!(gauge, "region" => name.to_string()).set(number as f64);
            }
        }
    }

    /// How many bytes are on their way to watchers that have not taken them yet;
    /// what is short does not count.
    #[must_use]
    pub fn sending_bytes(&self) -> usize {
        self.sending.under_way()
    }

    /// How many watchers a tenant has here now.
    pub(crate) fn watchers_of(&self, tenant: TenantId) -> usize {
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.get(&tenant).map_or(0, |(own, _)| *own)
    }

    /// Counts a watcher in.
    pub(crate) fn seat(
        self: &Arc<Self>,
        tenant: TenantId,
        arrival: Option<Arrival>,
    ) -> Result<Counted, Problem> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = watchers.values().map(|(own, _)| own).sum();
        let own = watchers.get(&tenant).map_or(0, |(own, _)| *own);
        if all >= self.bounds.watchers || own >= self.bounds.watchers_per_tenant {
            let detail = "As many watchers as may be are connected already.";
            return Err(Problem::new(Code::Overloaded, detail).retry_after(5));
        }
        let (own, share) = watchers.entry(tenant).or_insert_with(|| (0, self.sending.share()));
        *own += 1;
        metrics::gauge!(crate::measure::WATCHERS).increment(1.0);
        Ok(Counted { service: self.clone(), tenant, share: Share::clone(share), arrival })
    }
}

/// A watcher that is counted.
#[derive(Debug)]
pub(crate) struct Counted {
    service: Arc<Service>,
    tenant: TenantId,
    share: Share,
    /// The connection on which it is.
    arrival: Option<Arrival>,
}

impl Counted {
    /// Waits for room for what the watcher is sent next.
    ///
    /// # Errors
    /// `overloaded` where others do not take what they were sent.
    pub async fn room(&self, bytes: usize) -> Result<Option<Sent>, Problem> {
        self.service.sending.room(&self.share, self.arrival.as_ref(), bytes).await
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut watchers = self.service.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((own, _)) = watchers.get_mut(&self.tenant) {
            *own -= 1;
            if *own == 0 {
                watchers.remove(&self.tenant);
            }
        }
        metrics::gauge!(crate::measure::WATCHERS).decrement(1.0);
    }
}
