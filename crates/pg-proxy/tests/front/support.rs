//! A front with tenants: roles, schemas and routes as Insula would make them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use insula_credentials::{ContextTokens, MasterKeys, NewContext, ScramVerifier, Secret};
use insula_domain::{
    ClusterName, DatabaseTerms, Epoch, Isolation, LoginId, OsEntropy, Placement, PoolMode, RoleName,
    SystemClock, TenantId, TenantStatus,
};
use insula_pg_proxy::{FrontTls, Parts, PgProxy, PgProxyConfig};
use insula_route_map::{ClusterEndpoint, HoldReport, LoginRoute, Route, RouteMap, Rows, Update};
use insula_testkit::{TestDatabase, postgres};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_util::sync::CancellationToken;

/// Nothing in these tests takes longer unless it hangs, on a machine with much
/// else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const CLUSTER: &str = "c";

/// A backend that is at work, or in a transaction.
pub const IN_USE: &str = "state <> 'idle'";

/// A front, its map, and a database on the shared server.
pub struct World {
    pub proxy: PgProxy,
    pub routes: Arc<RouteMap>,
    pub keys: Arc<MasterKeys>,
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<()>,
    pub database: TestDatabase,
    /// What the front says of tenants that are held.
    pub reports: Mutex<mpsc::Receiver<HoldReport>>,
    revision: AtomicI64,
}

/// A tenant with a schema of its own and its default login.
#[derive(Clone)]
pub struct Tenant {
    pub id: TenantId,
    pub route: Route,
    pub login: LoginRoute,
    pub secret: String,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(PgProxyConfig::default(), None).await
    }

    /// One whose sessions keep their backends.
    pub async fn start_in_session_mode() -> Self {
        let config = PgProxyConfig { pool_mode: PoolMode::Session, ..PgProxyConfig::default() };
        Self::start_with(config, None).await
    }

    pub async fn start_with(config: PgProxyConfig, tls: Option<FrontTls>) -> Self {
        let world = Self::build(config, tls).await;
        let server: Config = postgres().await.url("postgres").parse().unwrap();
        let endpoint = world.endpoint("127.0.0.1", server.get_ports()[0], false);
        let rows = Rows { endpoints: vec![endpoint], ..Rows::default() };
        world.routes.apply(Update::Whole { revision: 1, rows });
        world
    }

    /// A front to which nobody has told anything yet.
    pub async fn with_an_empty_map() -> Self {
        Self::build(PgProxyConfig::default(), None).await
    }

    async fn build(config: PgProxyConfig, tls: Option<FrontTls>) -> Self {
        let database = TestDatabase::create("front").await;
        let routes = Arc::new(RouteMap::new());
        let keys = Arc::new(MasterKeys::generate(&OsEntropy).rotated(&OsEntropy));
        let (hold_reports, reports) = mpsc::channel(1_000);
        let parts = Parts {
            routes: Arc::clone(&routes),
            master_keys: Arc::clone(&keys),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            tls,
            hold_reports,
        };
        let proxy = PgProxy::new(config, parts).unwrap();
        let serving = proxy.clone();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let served = tokio::spawn(async move { serving.serve(vec![listener], stop).await });
        let (reports, revision) = (Mutex::new(reports), AtomicI64::new(1));
        Self { proxy, routes, keys, address, shutdown, served, database, reports, revision }
    }

    pub fn next_revision(&self) -> i64 {
        self.revision.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn endpoint(&self, host: &str, port: u16, tls: bool) -> ClusterEndpoint {
        ClusterEndpoint {
            name: CLUSTER.parse().unwrap(),
            host: host.to_owned(),
            port,
            tls,
            system_identifier: None,
            max_connections: None,
            revision: self.next_revision(),
        }
    }

    pub fn push(&self, rows: Rows) {
        let revision = self.next_revision();
        self.routes.apply(Update::Delta { revision, rows, removed_logins: vec![] });
    }

    /// Pushes a changed route of the tenant.
    pub fn change(&self, tenant: &mut Tenant, change: impl FnOnce(&mut Route)) {
        change(&mut tenant.route);
        tenant.route.revision = self.next_revision();
        self.push(Rows { tenants: vec![tenant.route.clone()], ..Rows::default() });
    }

    /// Pushes a changed login of the tenant.
    pub fn change_login(&self, tenant: &mut Tenant, change: impl FnOnce(&mut LoginRoute)) {
        change(&mut tenant.login);
        tenant.login.revision = self.next_revision();
        self.push(Rows { logins: vec![tenant.login.clone()], ..Rows::default() });
    }

    pub fn remove_login(&self, tenant: &Tenant) {
        let revision = self.next_revision();
        let removed_logins = vec![tenant.login.id];
        self.routes.apply(Update::Delta { revision, rows: Rows::default(), removed_logins });
    }

    /// A tenant with its role and its schema, ready to be used.
    pub async fn tenant(&self, slug: &str) -> Tenant {
        self.tenant_below(slug, None).await
    }

    pub async fn tenant_below(&self, slug: &str, parent: Option<&Tenant>) -> Tenant {
        let admin = self.database.connect().await;
        self.tenant_in(slug, parent, &admin, self.database.name()).await
    }

    /// The same in another database, of whatever server.
    pub async fn tenant_in(
        &self,
        slug: &str,
        parent: Option<&Tenant>,
        admin: &Client,
        database: &str,
    ) -> Tenant {
        let id = TenantId::generate(&SystemClock, &OsEntropy);
        let cluster: ClusterName = CLUSTER.parse().unwrap();
        let mut placement = Placement::new(id, Isolation::Schema, cluster, Epoch::FIRST);
        // The database is this test's alone, so that notifications are heard.
        placement.isolation = Isolation::Database;
        placement.database = insula_domain::DatabaseName::from_stored(database.to_owned());
        let generation = self.keys.current_generation();
        make_roles(admin, &self.keys, &placement, id, generation).await;

        let login_id = LoginId::generate(&SystemClock, &OsEntropy);
        let secret = self.keys.login_secret(login_id, generation, 1).unwrap();
        let route = Route {
            tenant: id,
            slug: slug.parse().unwrap(),
            parent: parent.map(|parent| parent.id),
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
            revision: self.next_revision(),
        };
        let login = LoginRoute {
            id: login_id,
            name: slug.parse().unwrap(),
            tenant: id,
            verifier: ScramVerifier::for_login(&secret, &OsEntropy).to_text(),
            read_only: false,
            descendants: false,
            max_sessions: None,
            pool_mode: None,
            revision: self.next_revision(),
        };
        self.push(Rows { tenants: vec![route.clone()], logins: vec![login.clone()], ..Rows::default() });
        Tenant { id, route, login, secret: secret.expose().to_owned() }
    }

    /// How a driver connects as the tenant's default login.
    pub fn config(&self, tenant: &Tenant) -> Config {
        self.config_as(tenant.login.name.as_str(), &tenant.secret, "app")
    }

    pub fn config_as(&self, user: &str, password: &str, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.address.port())
            .user(user)
            .password(password)
            .dbname(database)
            .connect_timeout(PATIENCE);
        config
    }

    pub async fn connect(&self, tenant: &Tenant) -> Client {
        connect(&self.config(tenant)).await.unwrap()
    }

    /// The URL that a tenant's program would use.
    pub fn url(&self, tenant: &Tenant) -> String {
        format!("postgres://{}:{}@127.0.0.1:{}/app", tenant.login.name, tenant.secret, self.address.port())
    }

    pub fn token(&self, tenant: &Tenant, read_only: bool) -> String {
        let context = NewContext {
            subject: "user-1".to_owned(),
            tenant_id: tenant.id,
            tenant: tenant.route.slug.clone(),
            roles: vec!["tenant_user".to_owned()],
            read_only,
            life: time::Duration::seconds(60),
        };
        let token = ContextTokens::new(&self.keys).mint(context, &SystemClock).unwrap();
        token.expose().to_owned()
    }

    /// How many backends of the tenant's role the server has for which a
    /// condition on `pg_stat_activity` holds.
    pub async fn backends(&self, tenant: &Tenant, condition: &str) -> i64 {
        let admin = self.database.connect().await;
        count_backends(&admin, tenant, condition).await
    }

    /// Waits until there are so many.
    pub async fn until_backends(&self, tenant: &Tenant, condition: &str, count: i64) {
        let admin = self.database.connect().await;
        let reached = async {
            while count_backends(&admin, tenant, condition).await != count {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reached).await.expect("the backends come to be as wanted");
    }
}

async fn count_backends(admin: &Client, tenant: &Tenant, condition: &str) -> i64 {
    let role = RoleName::of_tenant(tenant.id);
    let query = format!("select count(*) from pg_stat_activity where usename = '{role}' and {condition}");
    admin.query_one(&query, &[]).await.unwrap().get(0)
}

async fn make_roles(admin: &Client, keys: &MasterKeys, placement: &Placement, id: TenantId, generation: u32) {
    for read_only in [false, true] {
        let role = if read_only { RoleName::read_only_of_tenant(id) } else { placement.role.clone() };
        let password = keys.role_password(id, read_only, generation).unwrap();
        let verifier = verifier_of(&password);
        let (database, schema) = (&placement.database, &placement.schema);
        let mut sql = format!(
            "create role {role} login password '{verifier}';
             alter role {role} in database {database} set search_path = {schema};"
        );
        if read_only {
            sql.push_str(&format!(
                "grant usage on schema {schema} to {role};
                 alter role {role} set default_transaction_read_only = on;"
            ));
        } else {
            sql.push_str(&format!("create schema {schema} authorization {role};"));
        }
        admin.batch_execute(&sql).await.unwrap();
    }
}

/// As Insula makes the verifiers of roles: with one iteration.
fn verifier_of(password: &Secret) -> String {
    let text = ScramVerifier::for_random_secret(password, &OsEntropy).to_text();
    assert!(text.starts_with("SCRAM-SHA-256$1:"));
    text
}

/// Connects; the connection runs as a task until the client is dropped.
pub async fn connect(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// psql, beside the server's programs or in PATH.
pub fn psql_program() -> PathBuf {
    let beside = insula_testkit::installation().program("psql");
    if beside.exists() { beside } else { PathBuf::from("psql") }
}

/// The SQLSTATE, the message and the hint of an error that a server sent.
pub fn words(error: &Error) -> (String, String, String) {
    let error = error.as_db_error().unwrap_or_else(|| panic!("not from the server: {error:?}"));
    let hint = error.hint().unwrap_or_default().to_owned();
    (error.code().code().to_owned(), error.message().to_owned(), hint)
}

/// The SQLSTATE and the hint with which a connection is refused.
pub async fn refused(config: &Config) -> (String, String) {
    let Err(error) = connect(config).await else { panic!("the connection was not refused") };
    let (sqlstate, _, hint) = words(&error);
    (sqlstate, hint)
}

pub fn pair(sqlstate: &str, code: &str) -> (String, String) {
    (sqlstate.to_owned(), format!("insula: {code}"))
}

/// The only text in the only row of a query.
pub async fn one(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap().get(0)
}
