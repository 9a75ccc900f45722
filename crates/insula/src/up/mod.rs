//! `insula up`: everything on this machine, from an empty folder. PostgreSQL
//! servers for the catalog and for each region, all roles in this process, the
//! shop as a demo; and all of it stopped together.

mod folder;
mod ready;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use insula_api::{AddCluster, ApplySchema, OperationStatus, SchemaFile};
use insula_catalog::Author;
use insula_control::{Control, percent, registration, schema};
use insula_credentials::MasterKeys;
use insula_domain::{Clock, ClusterName, OperationId, SystemClock};
use insula_local_postgres::{Installation, SUPERUSER, ServerSpec, Servers, socket_folder};
use insula_settings::{HumanDuration, Region, SecretText, Settings};
use insula_sql_store::{Connector, ensure_database};
use rust_embed::RustEmbed;

use crate::args::{Demo, Up};
use crate::output;
use crate::provisioner::{LocalProvisioner, pg_bin};
use crate::serve::{Insula, Listeners, telemetry};
use folder::Folder;

/// The regions of a local Insula, with the groups that enclose them.
const REGIONS: [(&str, [&str; 2]); 2] = [("us-east-1", ["us", "global"]), ("eu-west-1", ["eu", "global"])];

/// Above the port base: the configuration service, the front, the catalog's
/// server, the first region's server, the first and the last server of a
/// tenant's own.
const CONFIG: u16 = 1;
const FRONT: u16 = 32;
const CATALOG: u16 = 40;
const FIRST_REGION: u16 = 41;
const DEDICATED: (u16, u16) = (43, 139);

/// How long the demo's schema may take on a slow machine.
const DEMO_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(RustEmbed)]
#[folder = "../../examples/shop/schema"]
#[include = "*.sql"]
struct Shop;

/// Runs until it is told to stop.
pub async fn up(arguments: &Up) -> anyhow::Result<()> {
    let started = Instant::now();
    let stop = crate::signals::stop_on_signal()?;
    let folder = Folder::open(&arguments.data_dir, arguments.fresh).await?;
    let mut settings = listening(arguments);
    let listeners = Listeners::bind(&settings).inspect_err(|_| folder.leave_if_new())?;
    let keys = Arc::new(folder.master_keys()?);
    add_stores(&mut settings, arguments, &keys)?;
    let (_telemetry, metrics) = telemetry(&settings)?;

    let installation = Installation::find(pg_bin().as_deref())?;
    let step = Progress { started };
    step.say(&format!(
        "PostgreSQL {} in {}",
        installation.version().as_str(),
        installation.bin_dir().display()
    ));
    let servers = Arc::new(Servers::new(installation));
    let ports = (arguments.port_base + DEDICATED.0, arguments.port_base + DEDICATED.1);
    let provisioner =
        Arc::new(LocalProvisioner::new(folder.path("clusters"), ports, keys.clone(), servers.clone()));
    let trying = tokio::spawn(provisioner.clone().keep_trying(stop.clone()));
    let ran = tokio::select! {
        // A signal while it starts: what was started is stopped below.
        () = stop.cancelled() => Ok(()),
        ready = start(arguments, &folder, &mut settings, &keys, &servers, &provisioner, &step) => match ready {
            Err(error) => Err(error),
            Ok(Started { insula, demo }) => {
                let control = insula.control().clone();
                let tell = async {
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        told = tell_ready(arguments, &folder, &servers, &control, demo, &step) => told?,
                    }
                    stop.cancelled().await;
                    Ok(())
                };
                let (ran, told) = tokio::join!(insula.run(listeners, metrics, stop.clone()), async {
                    let told: anyhow::Result<()> = tell.await;
                    // Half up is not up.
                    stop.cancel();
                    told
                });
                ran.and(told)
            }
        },
    };
    folder.remove_ready(arguments.ready_file.as_deref());
    trying.abort();
    servers.stop_all().await;
    output::note("stopped");
    ran
}

struct Progress {
    started: Instant,
}

impl Progress {
    fn say(&self, what: &str) {
        output::note(&format!("{:>6.1} s  {what}", self.started.elapsed().as_secs_f64()));
    }
}

async fn start(
    arguments: &Up,
    folder: &Folder,
    settings: &mut Settings,
    keys: &Arc<MasterKeys>,
    servers: &Arc<Servers>,
    provisioner: &Arc<LocalProvisioner>,
    step: &Progress,
) -> anyhow::Result<Started> {
    servers.start_all(specs(arguments, folder, keys)?).await?;
    let down = provisioner.start_all().await?;
    step.say(&format!("{} PostgreSQL servers run", servers.statuses().len()));
    for (name, why) in down {
        step.say(&format!("{name} does not start and is tried again; its tenant is refused. {why}"));
    }
    stores(arguments, settings, keys).await?;
    let insula = Insula::open(settings.clone(), keys.clone(), Some(provisioner.clone())).await?;
    insula.bootstrap(Some(folder.operator()?.0)).await?;
    step.say("catalog and region stores are ready");
    register(arguments, folder, keys, insula.control()).await?;
    step.say("clusters are registered");
    let demo = match arguments.demo {
        Demo::Shop => begin_demo(insula.control()).await?,
        Demo::None => None,
    };
    Ok(Started { insula, demo })
}

/// Everything but the roles, which run from here on.
struct Started {
    insula: Insula,
    /// The rollout of the demo's schema.
    demo: Option<OperationId>,
}

/// Waits for the demo's schema, then says that all is up.
async fn tell_ready(
    arguments: &Up,
    folder: &Folder,
    servers: &Servers,
    control: &Control,
    demo: Option<OperationId>,
    step: &Progress,
) -> anyhow::Result<()> {
    if let Some(demo) = demo {
        let operation = control.operations.wait(demo, DEMO_TIMEOUT, None).await?;
        if operation.status != OperationStatus::Succeeded {
            let why = operation.error.map(|error| error.detail).unwrap_or_default();
            anyhow::bail!("the shop's schema is {}: {why}", operation.status.as_str());
        }
        step.say("the shop's schema is there");
    }
    let (_, credentials) = folder.operator()?;
    ready::write(arguments, folder, &credentials, superuser_urls(servers).await)?;
    output::note(&ready::summary(arguments, step.started.elapsed()));
    Ok(())
}

/// The name of a region's shared server.
fn shared_cluster(region: &str) -> anyhow::Result<ClusterName> {
    Ok(format!("{region}-a").parse()?)
}

fn password(keys: &MasterKeys, server: &str) -> anyhow::Result<String> {
    // The first generation: a server that is there keeps its password.
    Ok(keys.cluster_admin_password(&server.parse()?, 1)?.expose().to_owned())
}

fn url(keys: &MasterKeys, server: &str, port: u16, database: &str) -> anyhow::Result<String> {
    Ok(format!("postgres://{SUPERUSER}:{}@127.0.0.1:{port}/{database}", password(keys, server)?))
}

fn data_dir(folder: &Folder, server: &str) -> PathBuf {
    folder.path("postgres").join(server)
}

fn specs(arguments: &Up, folder: &Folder, keys: &MasterKeys) -> anyhow::Result<Vec<ServerSpec>> {
    let spec = |name: &str, port: u16| -> anyhow::Result<ServerSpec> {
        Ok(ServerSpec::new(name, data_dir(folder, name), port, password(keys, name)?))
    };
    let mut specs = vec![spec("catalog", arguments.port_base + CATALOG)?];
    for (port, (region, _)) in (arguments.port_base + FIRST_REGION..).zip(REGIONS) {
        specs.push(spec(shared_cluster(region)?.as_str(), port)?);
    }
    Ok(specs)
}

/// The settings that `serve` would have to be given for the same, but for the
/// stores.
fn listening(arguments: &Up) -> Settings {
    let base = arguments.port_base;
    let loopback = |port| -> Vec<SocketAddr> {
        [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].map(|ip| (ip, port).into()).into()
    };
    let mut settings = Settings::default();
    settings.server.data_dir.clone_from(&arguments.data_dir);
    settings.server.shutdown_grace = HumanDuration::from_secs(5);
    settings.http.listen = loopback(base);
    settings.http.public_url = format!("http://localhost:{base}");
    settings.config.listen = loopback(base + CONFIG);
    settings.pg.listen = loopback(base + FRONT);
    settings.pg.public_address = Some(format!("127.0.0.1:{}", base + FRONT));
    settings.tenants.delete_retention = HumanDuration::from_secs(0);
    // One process: a run that a killed one has left is taken over soon.
    settings.workflow.lease = HumanDuration::from_secs(5);
    settings.workflow.poll = HumanDuration::from_secs(1);
    settings.log.filter = std::env::var("INSULA_LOG__FILTER").unwrap_or_else(|_| "warn".to_owned());
    settings
}

/// The stores, which need the keys.
fn add_stores(settings: &mut Settings, arguments: &Up, keys: &MasterKeys) -> anyhow::Result<()> {
    let base = arguments.port_base;
    settings.catalog.url = SecretText::new(url(keys, "catalog", base + CATALOG, "insula_catalog")?);
    for (port, (region, groups)) in (base + FIRST_REGION..).zip(REGIONS) {
        let server = shared_cluster(region)?;
        settings.regions.push(Region {
            name: region.parse()?,
            groups: groups.iter().map(|group| group.parse()).collect::<Result<_, _>>()?,
            store_url: SecretText::new(url(keys, server.as_str(), port, "insula_region")?),
            store_url_file: None,
            ca_file: None,
            pool_size: 8,
        });
    }
    Ok(())
}

/// Makes the databases of the stores.
async fn stores(arguments: &Up, settings: &Settings, keys: &MasterKeys) -> anyhow::Result<()> {
    let server = |name: &str, port: u16| -> anyhow::Result<Connector> {
        Ok(Connector::new(&url(keys, name, port, "postgres")?, None)?)
    };
    let base = arguments.port_base;
    ensure_database(&server("catalog", base + CATALOG)?, "insula_catalog").await?;
    for (port, region) in (base + FIRST_REGION..).zip(&settings.regions) {
        let name = shared_cluster(region.name.as_str())?;
        ensure_database(&server(name.as_str(), port)?, "insula_region").await?;
    }
    Ok(())
}

fn author() -> Author {
    Author::new("up", SystemClock.now())
}

/// Registers the regions' shared servers by their sockets, since tenants' roles
/// have no other way in. One whose folder or port is another now is found there
/// again.
async fn register(
    arguments: &Up,
    folder: &Folder,
    keys: &MasterKeys,
    control: &Control,
) -> anyhow::Result<()> {
    for (port, (region, _)) in (arguments.port_base + FIRST_REGION..).zip(REGIONS) {
        let name = shared_cluster(region)?;
        let sockets = socket_folder(&data_dir(folder, name.as_str()))?.display().to_string();
        let password = password(keys, name.as_str())?;
        let url = format!("postgres://{SUPERUSER}:{password}@{}:{port}/postgres", percent(&sockets));
        let request = AddCluster { name: name.to_string(), region: region.to_owned(), url, capacity: None };
        let registered = async {
            let cluster = registration::add(control, author(), &request).await?;
            registration::find_again(control, author(), &cluster, &sockets, port).await
        };
        registered.await.with_context(|| format!("cluster {name}"))?;
    }
    Ok(())
}

/// Takes the shop's schema where no schema was ever taken. The worker brings
/// it as soon as it runs.
async fn begin_demo(control: &Control) -> anyhow::Result<Option<OperationId>> {
    let taken = control.catalog.client().await?.schema_versions(true).await?;
    if !taken.is_empty() {
        return Ok(None);
    }
    let mut files: Vec<SchemaFile> = Shop::iter()
        .filter_map(|name| {
            let sql = String::from_utf8(Shop::get(&name)?.data.into_owned()).ok()?;
            Some(SchemaFile { name: name.into_owned(), sql })
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let operation =
        schema::apply::apply(control, author(), ApplySchema { files, wave_size: None, canaries: Vec::new() })
            .await;
    Ok(Some(operation.context("the shop's schema")?))
}

async fn superuser_urls(servers: &Servers) -> Vec<(String, String)> {
    let mut urls = Vec::new();
    for (region, _) in REGIONS {
        let name = format!("{region}-a");
        if let Some(url) = servers.superuser_url(&name, "postgres").await {
            urls.push((name, url));
        }
    }
    urls
}
