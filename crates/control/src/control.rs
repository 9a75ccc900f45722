//! What the control plane works with: the stores, the clusters, the keys, and
//! the three ambient things that are handed in. Made once, shared by all.

use std::sync::Arc;
use std::time::Duration;

use insula_access::Access;
use insula_catalog::{Author, Catalog};
use insula_config_store::{Ambient, ConfigStore};
use insula_credentials::MasterKeys;
use insula_domain::{Clock, Entropy, RegionName};
use insula_problem::Problem;
use insula_region_store::RegionStores;
use insula_route_map::{RouteMap, Snapshot};
use insula_sql_store::Store;
use insula_tenant_move::{Tools, UnderWay};
use insula_workflow::CrashPoints;
use tokio_util::sync::CancellationToken;

use crate::clusters::ClusterDirectory;
use crate::front::FrontView;
use crate::operations::Operations;
use crate::provisioner::ClusterProvisioner;
use crate::schema::fleet::Versions;

/// How long to wait for the front of this process to know what was committed.
const FRONT_KNOWS: Duration = Duration::from_secs(2);

/// What the operator's settings decide.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// How long the data of a deleted tenant is kept, unless the call says otherwise.
    pub delete_retention: Duration,
    /// Host and port of the PostgreSQL front, as clients reach it, for the URLs of logins.
    pub pg_address: String,
    /// Whether clients must use TLS with the front.
    pub pg_tls: bool,
    /// How long an operation that ended is remembered.
    pub operation_retention: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_retention: Duration,
}

/// The control plane's parts.
#[derive(Debug)]
pub struct Control {
    /// The global catalog.
    pub catalog: Catalog,
    /// The region stores.
    pub regions: RegionStores,
    /// The tenant clusters.
    pub clusters: ClusterDirectory,
    /// The master keys.
    pub keys: Arc<MasterKeys>,
    /// Who starts a cluster for a tenant of its own.
    pub provisioner: Option<Arc<dyn ClusterProvisioner>>,
    /// The runs of workflows.
    pub operations: Operations,
    /// Who calls.
    pub access: Arc<Access>,
    /// The map of the front in this process, where it has one.
    pub routes: Option<Arc<RouteMap>>,
    /// That front, to be looked at.
    pub front: Option<FrontView>,
    /// The moves that are under way in this process.
    pub moves: UnderWay,
    /// Cancelled when the process stops: what would last as long as its client ends.
    pub stops: CancellationToken,
    /// Where a test may end the process.
    pub crash_points: Arc<dyn CrashPoints>,
    /// The versions of the app schema, read once.
    pub versions: Versions,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// What the operator's settings decide.
    pub settings: ControlSettings,
}

impl Control {
    /// The configuration of the tenants of a region.
    ///
    /// # Errors
    /// `unavailable` where this process was not given the region's store.
    pub fn configuration(&self, region: &RegionName) -> Result<ConfigStore, Problem> {
        let connector = self.regions.of(region)?.connector().clone();
        Ok(ConfigStore::new(Store::Region, connector, self.ambient()))
    }

    /// What the provider has configured.
    #[must_use]
    pub fn providers_configuration(&self) -> ConfigStore {
        ConfigStore::new(Store::Catalog, self.catalog.connector().clone(), self.ambient())
    }

    fn ambient(&self) -> Ambient {
        Ambient {
            keys: Arc::clone(&self.keys),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
        }
    }

    /// Waits until the front of this process knows what was committed, so that
    /// who is told that a tenant is open finds it open. Best effort: fronts of
    /// other processes are pushed to at the same time and are not waited for,
    /// and a map that does not catch up in time holds nothing up.
    pub async fn front_knows(&self, what: impl Fn(&Snapshot) -> bool) {
        let Some(routes) = &self.routes else { return };
        let mut changed = routes.changed();
        let known = async {
            while !what(&routes.snapshot()) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(FRONT_KNOWS, known).await.is_err() {
            tracing::warn!("the front of this process does not know yet what was committed");
        }
    }

    /// What cutovers work with.
    #[must_use]
    pub fn move_tools(&self) -> Tools {
        Tools {
            catalog: self.catalog.clone(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            crash_points: self.crash_points.clone(),
        }
    }

    /// The author of a change that a workflow makes.
    #[must_use]
    pub fn worker(&self) -> Author {
        Author::new("worker", self.clock.now())
    }
}
