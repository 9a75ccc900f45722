//! The configuration service of this process, by its settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use insula_config_service::{Bounds, Fitting, Parts, Service, flagd, grpc, http};
use insula_config_store::{Ambient, ConfigStore};
use insula_control::Control;
use insula_control::http::Beside;
use insula_credentials::MasterKeys;
use insula_domain::{OsEntropy, SystemClock};
use insula_route_map::RouteMap;
use insula_settings::Settings;
use insula_sql_store::Store;
use tokio_util::sync::CancellationToken;

use super::{Stores, backends};

/// The service, which follows nothing yet. The token is cancelled when the
/// process stops.
pub fn build(
    settings: &Settings,
    stores: &Stores,
    control: &Control,
    routes: &Arc<RouteMap>,
    keys: &Arc<MasterKeys>,
    stop: CancellationToken,
) -> anyhow::Result<Arc<Service>> {
    let ambient = Ambient { keys: keys.clone(), clock: Arc::new(SystemClock), entropy: Arc::new(OsEntropy) };
    let regions = stores.regions.iter().map(|(region, store)| {
        let of_region = ConfigStore::new(Store::Region, store.connector().clone(), ambient.clone());
        (region.clone(), of_region)
    });
    let regions: BTreeMap<_, _> = regions.collect();
    let provider = ConfigStore::new(Store::Catalog, stores.catalog.connector().clone(), ambient.clone());
    let fitting = Fitting::new(regions.clone(), provider.clone());
    let parts = Parts {
        access: control.access.clone(),
        catalog: stores.catalog.clone(),
        routes: routes.clone(),
        regions,
        provider,
        backends: backends::build(settings)?,
        validators: vec![Arc::new(fitting)],
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
        bounds: bounds(settings),
    };
    Ok(Service::new(parts, stop))
}

/// What is served over gRPC.
pub fn router(service: &Arc<Service>) -> anyhow::Result<axum::Router> {
    grpc::router(service, flagd::routes(service)).context("the description of the gRPC services")
}

/// What is served over HTTP, beside the rest.
pub fn beside(service: &Arc<Service>) -> Beside {
    Beside { routes: http::router(service), openapi: http::openapi() }
}

fn bounds(settings: &Settings) -> Bounds {
    let config = &settings.config;
    Bounds {
        watchers: config.max_watchers as usize,
        watchers_per_tenant: config.max_watchers_per_tenant as usize,
        values_bytes: usize::try_from(config.values_bytes).unwrap_or(usize::MAX),
        heartbeat: config.heartbeat.get(),
        // So that one tenant alone does not take all.
        connections_per_tenant: (config.max_connections as usize / 2).max(1),
        in_flight: config.max_in_flight as usize,
        call_timeout: config.call_timeout.get(),
        message_bytes: config.max_message_bytes as usize,
        reconcile: config.reconcile_every.get(),
        followed_within: config.followed_within.get(),
        ..Bounds::default()
    }
}
