//! The PostgreSQL front of this process, by its settings.

use std::sync::Arc;

use insula_control::{FrontView, Look};
use insula_credentials::MasterKeys;
use insula_domain::{Entropy, OsEntropy, SystemClock};
use insula_pg_proxy::{Ask, Parts, PgProxy, PgProxyConfig};
use insula_route_map::{HoldReport, RouteMap};
use insula_settings::{Pg, Settings};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::tls::Certificates;

/// What a front may have to say of holds before it has been passed on.
const HOLD_REPORTS: usize = 1_024;

/// The front, which serves nobody yet, and what it says of tenants that are held.
pub fn build(
    settings: &Settings,
    routes: &Arc<RouteMap>,
    keys: &Arc<MasterKeys>,
    certificates: &mut Certificates,
) -> anyhow::Result<(PgProxy, mpsc::Receiver<HoldReport>)> {
    let (hold_reports, said) = mpsc::channel(HOLD_REPORTS);
    let parts = Parts {
        routes: routes.clone(),
        master_keys: keys.clone(),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
        tls: certificates.front(settings.pg.tls.as_ref())?,
        hold_reports,
    };
    Ok((PgProxy::new(config(settings), parts)?, said))
}

/// A number for this front, by which it is told apart from others.
pub fn number() -> Uuid {
    let mut bytes = [0; 16];
    OsEntropy.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// The front as the admin API shows it.
pub fn view(proxy: &PgProxy) -> FrontView {
    fn look<T>(
        proxy: &PgProxy,
        list: impl Fn(&PgProxy, &Ask) -> insula_api::PgList<T> + Send + Sync + 'static,
    ) -> Look<T> {
        let proxy = proxy.clone();
        Arc::new(move |tenant, limit| list(&proxy, &Ask { tenant, limit }))
    }
    FrontView {
        clients: look(proxy, PgProxy::clients),
        backends: look(proxy, PgProxy::backends),
        tenants: look(proxy, PgProxy::tenants),
    }
}

/// The bounds of a front that was started with one thing and has read another:
/// only what a running front takes over is new.
pub fn taken_over(started: &Settings, read: &Settings) -> PgProxyConfig {
    let Pg { require_tls, tenant_domain, .. } = started.pg.clone();
    PgProxyConfig { require_tls, tenant_domain, ..config(read) }
}

fn config(settings: &Settings) -> PgProxyConfig {
    PgProxyConfig {
        startup_timeout: settings.pg.startup_timeout.get(),
        connect_timeout: settings.pg.connect_timeout.get(),
        drain_timeout: settings.server.shutdown_grace.get(),
        sessions_max: settings.pg.max_sessions as usize,
        require_tls: settings.pg.require_tls,
        tenant_domain: settings.pg.tenant_domain.clone(),
        pool_mode: settings.pg.pool_mode,
        backends_per_cluster_max: settings.pg.max_backends_per_cluster,
        backends_per_tenant_max: settings.pg.max_backends_per_tenant,
        active_per_cluster_max: settings.pg.max_active_per_cluster,
        backend_wait_max: settings.pg.backend_wait.get(),
        backend_idle_max: settings.pg.backend_idle.get(),
        ..PgProxyConfig::default()
    }
}
