//! Opening the stores and putting the parts of the control plane together.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use insula_access::Access;
use insula_catalog::Catalog;
use insula_catalog::workflow_log::{OPERATIONS_CHANNEL, WORKFLOW_CHANNEL, WorkflowLog};
use insula_control::{ClusterDirectory, Control, ControlSettings, FrontView, Operations, workflows};
use insula_credentials::MasterKeys;
use insula_domain::{Clock, Entropy, OsEntropy, SystemClock};
use insula_region_store::{RegionStore, RegionStores};
use insula_route_map::RouteMap;
use insula_settings::Settings;
use insula_sql_store::{Connector, Listener, PoolSize};
use insula_tenant_move::UnderWay;
use insula_workflow::{Waker, Worker, WorkerSettings};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::provisioner::LocalProvisioner;

/// The master keys that the settings give.
pub fn master_keys(keys: &insula_settings::Keys) -> anyhow::Result<MasterKeys> {
    MasterKeys::parse(keys.master_key.expose()).context("keys.master_key is not valid")
}

/// The stores of this process.
#[derive(Debug, Clone)]
pub struct Stores {
    /// The global catalog.
    pub catalog: Catalog,
    /// The region stores.
    pub regions: RegionStores,
    ca_file: Option<std::path::PathBuf>,
}

impl Stores {
    /// Makes the pools; nothing is opened yet.
    pub fn open(settings: &Settings) -> anyhow::Result<Self> {
        let connector = |url: &str, ca_file: Option<&Path>, what: &str| {
            Connector::new(url, ca_file).with_context(|| what.to_owned())
        };
        let of_catalog = &settings.catalog;
        let catalog = Catalog::new(
            connector(of_catalog.url.expose(), of_catalog.ca_file.as_deref(), "catalog.url")?,
            PoolSize(of_catalog.pool_size as usize),
        );
        let regions = settings
            .regions
            .iter()
            .map(|region| {
                let what = format!("store_url of region {}", region.name);
                let connector = connector(region.store_url.expose(), region.ca_file.as_deref(), &what)?;
                Ok(RegionStore::new(region.name.clone(), connector, PoolSize(region.pool_size as usize)))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self { catalog, regions: RegionStores::new(regions), ca_file: of_catalog.ca_file.clone() })
    }

    /// Brings all stores to this program's version, each under its lock.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        self.catalog.migrate().await.context("the catalog cannot be made ready")?;
        for (region, store) in self.regions.iter() {
            store
                .migrate()
                .await
                .with_context(|| format!("the store of region {region} cannot be made ready"))?;
        }
        Ok(())
    }
}

/// The control plane and the worker that carries its workflows.
pub struct Built {
    /// The control plane's parts.
    pub control: Arc<Control>,
    /// Runs only where the process has that role.
    pub worker: Worker,
}

/// Puts the control plane together. The worker needs the control plane's parts
/// for its steps, and they need its waker: the waker is handed in last.
pub fn control(
    stores: &Stores,
    (access, keys): (&Arc<Access>, &Arc<MasterKeys>),
    provisioner: Option<Arc<LocalProvisioner>>,
    settings: ControlSettings,
    changed: watch::Receiver<u64>,
    front: Option<(Arc<RouteMap>, FrontView)>,
    worker: &WorkerSettings,
) -> anyhow::Result<Built> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    let log = WorkflowLog::new(stores.catalog.pool());
    let (routes, front) = front.unzip();
    let control = Arc::new(Control {
        catalog: stores.catalog.clone(),
        regions: stores.regions.clone(),
        clusters: ClusterDirectory::new(stores.catalog.clone(), keys.clone(), stores.ca_file.clone()),
        keys: keys.clone(),
        provisioner: provisioner.map(|provisioner| provisioner as _),
        operations: Operations::new(log.clone(), changed),
        access: access.clone(),
        routes,
        front,
        moves: UnderWay::default(),
        stops: CancellationToken::new(),
        crash_points: super::crash_points(),
        versions: insula_control::schema::fleet::Versions::default(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        settings,
    });
    let registry = workflows::registry(&control)?;
    let worker = Worker::with_crash_points(
        Arc::new(log),
        registry,
        clock,
        entropy,
        worker.clone(),
        super::crash_points(),
    );
    control.operations.set_waker(worker.waker());
    Ok(Built { control, worker })
}

/// Listens for runs that were started and for operations that went on, in
/// whatever process: wakes the worker and whoever waits.
pub async fn follow_operations(
    catalog: Catalog,
    waker: Waker,
    changed: watch::Sender<u64>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let follow = async {
            let mut listener =
                Listener::open(catalog.connector(), &[WORKFLOW_CHANNEL, OPERATIONS_CHANNEL]).await?;
            while let Some(notice) = listener.next().await {
                if notice.channel == WORKFLOW_CHANNEL {
                    waker.wake();
                }
                changed.send_modify(|count| *count += 1);
            }
            Ok::<_, insula_sql_store::ConnectError>(())
        };
        tokio::select! {
            () = stop.cancelled() => return,
            end = follow => {
                if let Err(error) = end {
                    tracing::warn!(%error, "operations cannot be followed; they are looked at from time to time");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(500)) => waker.wake(),
        }
    }
}
