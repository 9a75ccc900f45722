//! The front's bounds.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use arc_swap::ArcSwap;
use insula_domain::PoolMode;

/// The front's bounds. Everything has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgProxyConfig {
    /// From the first byte until the client is authenticated; a client that
    /// takes longer is hung up on.
    pub startup_timeout: Duration,
    /// For opening a backend: connection, TLS, authentication.
    pub connect_timeout: Duration,
    /// How long sessions in a transaction may go on after a stop was asked for.
    pub drain_timeout: Duration,
    /// Threads of [`crate::PgProxy::serve_apart`].
    pub threads: usize,
    /// Sessions at once, those being authenticated among them.
    pub sessions_max: usize,
    /// Sessions being authenticated at once. One address has as many places of
    /// these as it leaves free at the most, so half of them.
    pub authenticating_max: usize,
    /// Whether clients that are not on this machine must use TLS. The user
    /// `token`, whose password travels as it is, must in any case.
    pub require_tls: bool,
    /// Under which domain tenants have host names: `acme.db.example.com` with
    /// `db.example.com`. A client that names one in its TLS handshake must
    /// reach that tenant.
    pub tenant_domain: Option<String>,
    /// How long sessions keep a backend whose login does not say.
    pub pool_mode: PoolMode,
    /// Backends of one cluster, where the catalog has no bound for it.
    pub backends_per_cluster_max: u32,
    /// Backends of one tenant on a cluster; `None` is three quarters of what the
    /// cluster has.
    pub backends_per_tenant_max: Option<u32>,
    /// Sessions at work on a cluster at once while several tenants are; 0 is no
    /// bound, `None` is by the size of the cluster.
    pub active_per_cluster_max: Option<u32>,
    /// Sessions of one tenant that wait for a backend at once.
    pub waiting_per_tenant_max: usize,
    /// Bytes of prepared statements that the sessions of one tenant may have
    /// together: by itself what 32 of them may have at the most each, and what a
    /// thousand have with two hundred statements of a kilobyte.
    pub statement_bytes_per_tenant_max: u64,
    /// How long a session waits for a backend before it is refused.
    pub backend_wait_max: Duration,
    /// How long a backend that nobody uses is kept.
    pub backend_idle_max: Duration,
    /// How long after its last transaction a tenant keeps the backends that its
    /// plan keeps open for it.
    pub backend_warm_for: Duration,
}

/// The bounds as they are now, shared by all who keep to them.
#[derive(Debug, Clone)]
pub(crate) struct LiveConfig(Arc<ArcSwap<PgProxyConfig>>);

impl LiveConfig {
    pub fn new(config: PgProxyConfig) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    pub fn get(&self) -> Arc<PgProxyConfig> {
        self.0.load_full()
    }

    /// Others, but for those that were used up in the beginning.
    pub fn set(&self, config: PgProxyConfig) {
        self.0.rcu(|before| PgProxyConfig {
            drain_timeout: before.drain_timeout,
            threads: before.threads,
            sessions_max: before.sessions_max,
            authenticating_max: before.authenticating_max,
            ..config.clone()
        });
    }
}

impl Default for PgProxyConfig {
    fn default() -> Self {
        Self {
            startup_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
            threads: threads_for(available_parallelism().map_or(1, usize::from)),
            sessions_max: 10_000,
            authenticating_max: 500,
            require_tls: false,
            tenant_domain: None,
            pool_mode: PoolMode::Transaction,
            backends_per_cluster_max: 100,
            backends_per_tenant_max: None,
            active_per_cluster_max: None,
            waiting_per_tenant_max: 1_000,
            statement_bytes_per_tenant_max: 256 * 1024 * 1024,
            backend_wait_max: Duration::from_secs(15),
            backend_idle_max: Duration::from_secs(60),
            backend_warm_for: Duration::from_secs(10 * 60),
        }
    }
}

/// For a machine with so many processors. One thread serves more than the
/// PostgreSQL of one other processor can answer, and more threads than there is
/// work for cost: they wake each other.
fn threads_for(processors: usize) -> usize {
    processors.div_ceil(2).max(1)
}
