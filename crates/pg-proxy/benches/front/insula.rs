//! The front in a process of its own, with one tenant who has a schema, as
//! Insula would make it. The bench's program starts itself again for it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use insula_credentials::{MasterKeys, ScramVerifier};
use insula_domain::{
    ClusterName, DatabaseName, DatabaseTerms, Epoch, Isolation, LoginId, OsEntropy, Placement, SystemClock,
    TenantId, TenantStatus,
};
use insula_pg_proxy::{Parts, PgProxy, PgProxyConfig};
use insula_route_map::{ClusterEndpoint, LoginRoute, Route, RouteMap, Rows, Update};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Target, number};

/// Names the database's URL to a process that is to be the front.
pub const SERVER: &str = "INSULA_BENCH_SERVER";

/// How many backends it may have.
const BACKENDS: &str = "INSULA_BENCH_BACKENDS";

/// How many threads it may have, where that is not what it has by itself.
const THREADS: &str = "INSULA_BENCH_THREADS";

pub const DATABASE: &str = "bench";

const LOGIN: &str = "acme";

/// A front that ends with this.
pub struct Insula {
    process: Child,
    backend: Target,
    target: Target,
}

impl Insula {
    pub fn start(server: &str, backends: u32) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env(SERVER, server)
            .env(BACKENDS, backends.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).expect("the front says where it is");
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        let backend = Target {
            name: "backend",
            host: "127.0.0.1",
            port: 0,
            user: text("role"),
            password: text("role_password"),
            database: DATABASE,
            pid: None,
            knows_prepared: true,
        };
        let target = Target {
            name: "insula",
            port: u16::try_from(told["port"].as_u64().unwrap()).unwrap(),
            user: LOGIN.to_owned(),
            password: text("secret"),
            database: "app",
            pid: Some(process.id()),
            ..backend.clone()
        };
        eprintln!("the front is process {}", process.id());
        Self { process, backend, target }
    }

    /// The front.
    pub fn target(&self) -> Target {
        self.target.clone()
    }

    /// The tenant's role, as it is known to the server.
    pub fn backend(&self) -> Target {
        self.backend.clone()
    }
}

impl Drop for Insula {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Is the front until nobody holds its standard input any more.
pub fn serve(server: &str) {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    runtime.block_on(front(server.to_owned()));
}

async fn front(server: String) {
    let keys = Arc::new(MasterKeys::generate(&OsEntropy));
    let generation = keys.current_generation();
    let tenant = TenantId::generate(&SystemClock, &OsEntropy);
    let cluster: ClusterName = "c".parse().unwrap();
    let mut placement = Placement::new(tenant, Isolation::Schema, cluster.clone(), Epoch::FIRST);
    placement.database = DatabaseName::from_stored(DATABASE.to_owned());
    let role_password = keys.role_password(tenant, false, generation).unwrap();
    let (role, schema) = (placement.role.clone(), placement.schema.clone());
    let verifier = ScramVerifier::for_random_secret(&role_password, &OsEntropy).to_text();
    let admin = insula_testkit::connect(&server).await;
    let sql = format!(
        "create role {role} login password '{verifier}';
         alter role {role} in database {DATABASE} set search_path = {schema};
         create schema {schema} authorization {role};"
    );
    admin.batch_execute(&sql).await.unwrap();
    drop(admin);

    let routes = Arc::new(RouteMap::new());
    let config: tokio_postgres::Config = server.parse().unwrap();
    let endpoint = ClusterEndpoint {
        name: cluster,
        host: "127.0.0.1".to_owned(),
        port: config.get_ports()[0],
        tls: false,
        system_identifier: None,
        max_connections: None,
        revision: 1,
    };
    let login = LoginId::generate(&SystemClock, &OsEntropy);
    let secret = keys.login_secret(login, generation, 1).unwrap();
    let route = Route {
        tenant,
        slug: LOGIN.parse().unwrap(),
        parent: None,
        tier: "free".parse().unwrap(),
        region: "us-east-1".parse().unwrap(),
        status: TenantStatus::Active,
        placement: Some(placement),
        role_key_generation: generation,
        max_connections: None,
        terms: DatabaseTerms::default(),
        hold: None,
        is_narrowed: false,
        goes_to: None,
        revision: 1,
    };
    let login = LoginRoute {
        id: login,
        name: LOGIN.parse().unwrap(),
        tenant,
        verifier: ScramVerifier::for_login(&secret, &OsEntropy).to_text(),
        read_only: false,
        descendants: false,
        max_sessions: None,
        pool_mode: None,
        revision: 1,
    };
    let rows =
        Rows { endpoints: vec![endpoint], tenants: vec![route], logins: vec![login], ..Rows::default() };
    routes.apply(Update::Whole { revision: 1, rows });
    let backends = u32::try_from(number(BACKENDS, 20)).unwrap();
    let config = PgProxyConfig {
        backends_per_cluster_max: backends,
        backends_per_tenant_max: Some(backends),
        waiting_per_tenant_max: 2_000,
        threads: number(THREADS, PgProxyConfig::default().threads as u64) as usize,
        ..PgProxyConfig::default()
    };
    let parts = Parts {
        routes,
        master_keys: keys,
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
        tls: None,
        // Nobody is held.
        hold_reports: tokio::sync::mpsc::channel(1).0,
    };
    let proxy = PgProxy::new(config, parts).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let told = serde_json::json!({
        "port": listener.local_addr().unwrap().port(),
        "role": role.as_str(),
        "role_password": role_password.expose(),
        "secret": secret.expose(),
    });
    println!("{told}");
    proxy.serve_apart(vec![listener], CancellationToken::new()).await.unwrap();
}
