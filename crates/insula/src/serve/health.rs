//! What this process says of itself. Ready means: what its roles are for can
//! be done. A front with routes is ready although the catalog is away: tenants
//! that are known go on.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use insula_config_service::Service;
use insula_control::Control;
use insula_control::http::{Check, Health};
use insula_pg_proxy::PgProxy;
use insula_problem::{Code, Problem};
use insula_route_map::RouteMap;
use insula_settings::{Role, Settings};
use insula_telemetry::{Metrics, names};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long the catalog may take to answer a process that is to be ready:
/// whoever asks has a time-out of a few seconds.
const CATALOG_ANSWERS: Duration = Duration::from_millis(1_500);

/// Whether the configuration is followed. Where that is so of some regions, the
/// others are named.
fn followed(config: &Service) -> Check {
    let ok = config.is_ready();
    let unfollowed: Vec<String> =
        config.unfollowed().iter().map(|(region, ago)| format!("{region} for {} s", ago.as_secs())).collect();
    let detail = match (unfollowed.is_empty(), ok) {
        (true, true) => None,
        (true, false) => Some("Changes of the configuration cannot be followed yet.".to_owned()),
        (false, _) => Some(format!("Changes were not read in {}.", unfollowed.join(", "))),
    };
    Check { name: "config", ok, detail }
}

/// The checks and the metrics.
pub fn health(
    settings: &Settings,
    control: &Arc<Control>,
    routes: &Arc<RouteMap>,
    (metrics, proxy, config): (&Metrics, Option<&PgProxy>, Option<&Arc<Service>>),
    shown: watch::Receiver<insula_settings::Metrics>,
) -> Health {
    let roles = settings.server.roles.clone();
    let (control, ready_routes) = (control.clone(), routes.clone());
    let config = config.cloned();
    let ready = move || {
        let (roles, control, routes) = (roles.clone(), control.clone(), ready_routes.clone());
        let config = config.clone();
        async move {
            let mut checks = Vec::new();
            if roles.contains(&Role::Control) || roles.contains(&Role::Worker) {
                let asked = async { control.catalog.client().await?.newest_schema_version().await };
                let no_answer = || Problem::new(Code::CatalogUnavailable, "The catalog does not answer.");
                let answer = timeout(CATALOG_ANSWERS, asked).await.unwrap_or_else(|_| Err(no_answer()));
                let ok = answer.is_ok();
                metrics::gauge!(names::STORE_UP, "store" => "catalog").set(f64::from(u8::from(ok)));
                let detail = answer.err().map(|problem| problem.detail().to_owned());
                checks.push(Check { name: "catalog", ok, detail });
            }
            if roles.contains(&Role::PgProxy) {
                let ok = routes.is_ready();
                let detail = (!ok).then(|| "The routes have not been read yet.".to_owned());
                checks.push(Check { name: "routes", ok, detail });
            }
            if let Some(config) = config {
                checks.push(followed(&config));
            }
            checks
        }
        .boxed()
    };
    let (metrics, routes, proxy) = (metrics.clone(), routes.clone(), proxy.cloned());
    let render = move || {
        let insula_settings::Metrics { enabled, top_tenants } = *shown.borrow();
        if !enabled {
            return String::new();
        }
        #[allow(clippy::cast_precision_loss)] // a count of tenants is far below 2^52
        metrics::gauge!(names::ROUTES).set(routes.snapshot().routes().count() as f64);
        let mut text = metrics.render();
        if let Some(proxy) = &proxy {
            text.push_str(&proxy.tenant_metrics(top_tenants as usize));
        }
        text
    };
    Health { ready: Arc::new(ready), metrics: Arc::new(render) }
}
