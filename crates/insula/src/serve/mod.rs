//! Running roles of Insula in this process: opening the stores, putting the
//! parts together, listening, and stopping in order. `insula serve` does it by
//! settings; `insula up` makes the settings itself.

mod backends;
mod bootstrap;
mod config;
mod front;
pub mod handover;
mod health;
mod http;
mod listeners;
mod parts;
mod reload;
mod strangers;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use insula_access::Access;
use insula_catalog::{follow_routes, report_holds};
use insula_config_service::Service;
use insula_control::moves::keeper;
use insula_control::{Control, ControlSettings, dedicated, janitor};
use insula_credentials::{MasterKeys, OperatorToken};
use insula_domain::{OsEntropy, SystemClock};
use insula_pg_proxy::PgProxy;
use insula_route_map::{HoldReport, RouteMap};
use insula_settings::{ProvisionerKind, Role, Settings};
use insula_telemetry::{LogFilter, Metrics};
use insula_workflow::{Worker, WorkerSettings};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::Serve;
use crate::crash::CrashAt;
use crate::provisioner::LocalProvisioner;

pub use bootstrap::Operator;
pub use listeners::Listeners;
pub use parts::{Stores, master_keys};

/// How long a process that takes over waits for the routes.
const ROUTES_WITHIN: Duration = Duration::from_secs(60);

/// `insula serve`
pub async fn serve(arguments: &Serve) -> anyhow::Result<()> {
    let source = reload::Source::new(arguments)?;
    let settings = source.read()?;
    let (telemetry, metrics) = telemetry(&settings)?;
    let mut taken = if arguments.take_over {
        anyhow::ensure!(
            settings.provisioner.kind == ProvisionerKind::None,
            "a process that starts PostgreSQL servers itself cannot take over: they end with the old one"
        );
        handover::Taken::ask(&settings)?
    } else {
        None
    };
    let there = taken.as_mut().map(handover::Taken::listeners).unwrap_or_default();
    let listeners = Listeners::bind_or_take(&settings, there)?;
    let keys = Arc::new(master_keys(&settings.keys)?);
    let provisioner = LocalProvisioner::from_settings(&settings.provisioner, &keys)?;
    let stop = crate::signals::stop_on_signal()?;
    if let Some(provisioner) = &provisioner {
        provisioner.start_all().await?;
        tokio::spawn(provisioner.clone().keep_trying(stop.clone()));
    }
    let mut insula = Insula::open(settings, keys, provisioner.clone()).await?;
    insula.reads_again = Some((source, telemetry.filter()));
    insula.taken = taken;
    insula.hands_over = true;
    let operator = insula.first_operator()?;
    insula.bootstrap(operator).await?;
    let ran = insula.run(listeners, metrics, stop).await;
    if let Some(provisioner) = provisioner {
        provisioner.servers().stop_all().await;
    }
    ran
}

/// Begins logs, traces and metrics. The guard sends what is left when it is dropped.
pub fn telemetry(settings: &Settings) -> anyhow::Result<(insula_telemetry::Guard, Metrics)> {
    let version = env!("CARGO_PKG_VERSION");
    let guard = insula_telemetry::init(&settings.log, &settings.otel, version, Arc::new(SystemClock))?;
    Ok((guard, Metrics::install(version)?))
}

/// The parts of this process, opened and ready to run.
pub struct Insula {
    settings: Settings,
    control: Arc<Control>,
    worker: Worker,
    routes: Arc<RouteMap>,
    proxy: Option<PgProxy>,
    config: Option<Arc<Service>>,
    /// What the front says of tenants that are held.
    hold_reports: Option<mpsc::Receiver<HoldReport>>,
    certificates: tls::Certificates,
    /// Where its settings are, where they can change.
    reads_again: Option<(reload::Source, LogFilter)>,
    /// From whom it has its listeners.
    taken: Option<handover::Taken>,
    /// Whether another process may take over from it.
    hands_over: bool,
    operations_changed: watch::Sender<u64>,
}

impl Insula {
    /// Opens the stores, brings them to this program's version and puts the
    /// parts together. Nothing runs yet.
    pub async fn open(
        settings: Settings,
        keys: Arc<MasterKeys>,
        provisioner: Option<Arc<LocalProvisioner>>,
    ) -> anyhow::Result<Self> {
        let stores = Stores::open(&settings)?;
        stores.migrate().await?;
        let (operations_changed, changed) = watch::channel(0);
        let control_settings = ControlSettings {
            delete_retention: settings.tenants.delete_retention.get(),
            pg_address: pg_address(&settings),
            pg_tls: settings.pg.tls.is_some(),
            operation_retention: settings.workflow.keep_ended.get(),
            idempotency_retention: std::time::Duration::from_secs(24 * 3600),
        };
        let routes = Arc::new(RouteMap::new());
        let mut certificates = tls::Certificates::default();
        let (proxy, hold_reports) = if settings.server.roles.contains(&Role::PgProxy) {
            let (proxy, said) = front::build(&settings, &routes, &keys, &mut certificates)?;
            (Some(proxy), Some(said))
        } else {
            (None, None)
        };
        let access = Arc::new(Access::new(
            stores.catalog.clone(),
            settings.http.failed_logins_per_minute,
            Arc::new(SystemClock),
            &OsEntropy,
        ));
        let built = parts::control(
            &stores,
            (&access, &keys),
            provisioner,
            control_settings,
            changed,
            proxy.as_ref().map(|proxy| (routes.clone(), front::view(proxy))),
            &worker_settings(&settings),
        )
        .context("the workflows are not valid")?;
        let stops = built.control.stops.clone();
        let config = settings
            .server
            .roles
            .contains(&Role::Config)
            .then(|| config::build(&settings, &stores, &built.control, &routes, &keys, stops))
            .transpose()?;
        Ok(Self {
            settings,
            control: built.control,
            worker: built.worker,
            routes,
            proxy,
            config,
            hold_reports,
            certificates,
            reads_again: None,
            taken: None,
            hands_over: false,
            operations_changed,
        })
    }

    /// The control plane's parts.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// The operator that the settings name, if they name one.
    fn first_operator(&self) -> anyhow::Result<Option<Operator>> {
        let token = &self.settings.operator.token;
        if !token.is_set() {
            return Ok(None);
        }
        let token = OperatorToken::parse(token.expose())
            .context("operator.token is not an operator's token; `insula operator token` makes one")?;
        Ok(Some(Operator { email: "first-operator".to_owned(), token, password: None }))
    }

    /// Writes what the settings say into the catalog: regions, and in an empty
    /// catalog the default tiers and plans; and where the provisioner has its
    /// servers.
    pub async fn bootstrap(&self, operator: Option<Operator>) -> anyhow::Result<()> {
        if self.settings.server.roles.contains(&Role::Control) {
            bootstrap::bootstrap(&self.control, &self.settings.regions, operator).await?;
        }
        dedicated::find_all_again(&self.control).await?;
        Ok(())
    }

    /// Runs the roles until the token is cancelled, then stops in order: first
    /// what lets clients in, then what works for them.
    pub async fn run(
        self,
        listeners: Listeners,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let has = |role| self.settings.server.roles.contains(&role);
        let grace = self.settings.server.shutdown_grace.get();
        let mut fronts = JoinSet::new();
        let mut behind = JoinSet::new();
        let stop_behind = CancellationToken::new();

        // What can fail comes before anybody is served, and before the process
        // from which this one takes over is left without its door.
        let mut certificates = self.certificates;
        let http_tls = certificates.http(self.settings.http.tls.as_ref())?;
        let config_tls = certificates.config(self.settings.config.tls.as_ref())?;
        if !certificates.is_empty() {
            behind.spawn(certificates.follow(crate::signals::hangups()?, stop_behind.clone()));
        }
        let offer =
            self.hands_over.then(|| handover::Offer::new(&self.settings, &listeners, self.proxy.clone()));
        let offer = offer.transpose()?;
        let catalog = self.control.catalog.clone();
        let seen = (&metrics, self.proxy.as_ref());
        let (metrics_shown, shown) = watch::channel(self.settings.metrics.clone());
        let seen = (seen.0, seen.1, self.config.as_ref());
        let health = health::health(&self.settings, &self.control, &self.routes, seen, shown);
        if let Some((source, filter)) = self.reads_again {
            let reload = reload::Reload {
                source,
                filter,
                started: self.settings.clone(),
                last: self.settings.clone(),
                proxy: self.proxy.clone(),
                metrics: metrics_shown,
            };
            behind.spawn(reload.follow(crate::signals::hangups()?, stop_behind.clone()));
        }
        let front = self.proxy.clone();
        let number = front::number();
        if self.proxy.is_some() || self.config.is_some() {
            // A name that says front is waited for by moves: only a front has it.
            let named = self.proxy.is_some().then_some(number);
            behind.spawn(follow_routes(catalog.clone(), self.routes.clone(), named, stop_behind.clone()));
        }
        let beside = self.config.as_ref().map(config::beside).unwrap_or_default();
        if let Some(service) = self.config {
            behind.spawn(service.clone().run(stop_behind.clone()));
            let server = http::HttpServer::grpc(&self.settings.config, config_tls);
            let (router, listeners) = (config::router(&service)?, listeners.config);
            let stop = stop.clone();
            fronts.spawn(async move { server.serve(listeners, router, stop, grace).await });
        }
        let (stopping, stops) = (stop.clone(), self.control.stops.clone());
        fronts.spawn(async move {
            stopping.cancelled().await;
            // Watches would last as long as their clients.
            stops.cancel();
        });
        if let Some(proxy) = self.proxy {
            if let Some(said) = self.hold_reports {
                behind.spawn(report_holds(catalog.clone(), number, said, stop_behind.clone()));
            }
            if self.taken.is_some() {
                // Until then the old process serves those who come.
                until_ready(&self.routes).await?;
            }
            let (listeners, stop) = (listeners.pg, stop.clone());
            fronts.spawn(async move {
                if let Err(error) = proxy.serve_apart(listeners, stop).await {
                    tracing::error!(%error, "the PostgreSQL front has failed");
                }
            });
        }
        let router = if has(Role::Control) {
            insula_control::http::router(&self.control, health, http::limits(&self.settings.http), beside)
        } else {
            insula_control::http::front_router(
                &self.control,
                health,
                http::limits(&self.settings.http),
                beside,
            )
        };
        let server = http::HttpServer::new(&self.settings.http, http_tls);
        let (http_listeners, http_stop) = (listeners.http, stop.clone());
        fronts.spawn(async move { server.serve(http_listeners, router, http_stop, grace).await });

        behind.spawn(parts::follow_operations(
            catalog,
            self.worker.waker(),
            self.operations_changed,
            stop_behind.clone(),
        ));
        if has(Role::Worker) {
            behind.spawn(janitor::run(self.control.clone(), stop_behind.clone()));
            behind.spawn(keeper::run(
                self.control.clone(),
                worker_settings(&self.settings).owner,
                stop_behind.clone(),
            ));
            let (worker, token) = (self.worker, stop_behind.clone());
            behind.spawn(async move { worker.run(token).await });
        }
        if let Some(taken) = self.taken {
            let before = taken.ready().context("the old process was not told to stop")?;
            if let Some((before, front)) = before.zip(front) {
                behind.spawn(before.follow(front, stop_behind.clone()));
            }
            tracing::info!("took over from the process before");
        }
        if let Some(offer) = offer {
            // Its door takes the place of the old one's.
            behind.spawn(offer.keep(stop.clone()));
        }
        stop.cancelled().await;
        tracing::info!("stopping");
        while fronts.join_next().await.is_some() {}
        stop_behind.cancel();
        while behind.join_next().await.is_some() {}
        tracing::info!("stopped");
        Ok(())
    }
}

/// Waits until the front knows where tenants are.
async fn until_ready(routes: &RouteMap) -> anyhow::Result<()> {
    let in_time = tokio::time::timeout(ROUTES_WITHIN, routes.ready()).await;
    in_time.context("the routes cannot be read; the old process goes on")
}

fn worker_settings(settings: &Settings) -> WorkerSettings {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned());
    WorkerSettings {
        parallel_runs: settings.workflow.workers as usize,
        lease: settings.workflow.lease.get(),
        poll: settings.workflow.poll.get(),
        stop_grace: settings.server.shutdown_grace.get(),
        ..WorkerSettings::new(format!("{host}:{}", std::process::id()))
    }
}

/// Where clients reach the front: as the settings say, else its first listener.
fn pg_address(settings: &Settings) -> String {
    settings.pg.public_address.clone().unwrap_or_else(|| {
        settings.pg.listen.first().map_or_else(|| "127.0.0.1:7432".to_owned(), ToString::to_string)
    })
}

/// Crash points for tests, from the environment.
pub fn crash_points() -> Arc<dyn insula_workflow::CrashPoints> {
    CrashAt::from_environment()
}
