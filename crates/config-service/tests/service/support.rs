//! A service with one region, two tenants and one below the first, and clients
//! with their keys.

#![allow(dead_code)] // the tests and the measurement each use their own part

use std::sync::Arc;
use std::time::Duration;

use insula_access::Access;
use insula_catalog::{ApiKeyRecord, Author, Catalog};
use insula_config_etcd::{EtcdBackend, EtcdSettings};
use insula_config_model::{Backend, ConfigValue, Room, Scope, Transaction, Write, WriteOp, Written};
use insula_config_proto::v1;
use insula_config_proto::v1::config_client::ConfigClient;
use insula_config_proto::v1::watch_event::{Event, Snapshot};
use insula_config_service::{Backends, Bounds, Fitting, Parts, Service, flagd, grpc};
use insula_config_store::{Ambient, ConfigStore, Writer};
use insula_credentials::{ApiKey, MasterKeys, OperatorToken};
use insula_domain::{ApiKeyId, Clock, DatabaseTerms, OsEntropy, SystemClock, TenantId, TenantStatus};
use insula_region_store::RegionStore;
use insula_route_map::{Route, RouteMap, Rows, Update};
use insula_sql_store::{Connector, PoolSize, Store};
use insula_testkit::TestDatabase;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use uuid::Uuid;

/// The longest that anything may take before the test says so.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Client = ConfigClient<InterceptedService<Channel, Bearer>>;

/// Adds a credential to each call.
#[derive(Clone)]
pub struct Bearer(pub String);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value: MetadataValue<_> = format!("Bearer {}", self.0).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

pub struct World {
    pub service: Arc<Service>,
    pub catalog: Catalog,
    pub region: TestDatabase,
    pub routes: Arc<RouteMap>,
    /// Writes the provider's values where the region has them, as another
    /// process does.
    pub provider: Writer,
    /// Where it is served.
    pub address: String,
    channel: Channel,
    revision: std::sync::atomic::AtomicI64,
    ambient: Ambient,
    bounds: Bounds,
    outside: Outside,
    _catalog: TestDatabase,
    running: Option<Running>,
}

/// The backends outside that a process has, made anew for each.
pub type Outside = Arc<dyn Fn() -> Vec<Arc<dyn Backend>> + Send + Sync>;

/// A process, until it is told to stop or dropped.
struct Running {
    task: JoinHandle<()>,
    stop: CancellationToken,
    _guard: DropGuard,
}

/// A service that is served somewhere.
async fn serve(parts: Parts) -> (Arc<Service>, String, Running) {
    let stop = CancellationToken::new();
    let service = Service::new(parts, stop.clone());
    let task = tokio::spawn(service.clone().run(stop.clone()));
    let router = grpc::router(&service, flagd::routes(&service)).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let ends = stop.clone().cancelled_owned();
    tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(ends).await });
    let guard = stop.clone().drop_guard();
    (service, address, Running { task, stop, _guard: guard })
}

async fn ready(service: &Service) {
    let ready = async {
        while !service.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.unwrap();
}

fn parts(
    catalog: &Catalog,
    region: &TestDatabase,
    routes: &Arc<RouteMap>,
    ambient: &Ambient,
    bounds: Bounds,
    outside: &Outside,
) -> Parts {
    let connector = Connector::new(&region.url(), None).unwrap();
    let values = ConfigStore::new(Store::Region, connector, ambient.clone());
    let regions: std::collections::BTreeMap<_, _> = [("eu-west-1".parse().unwrap(), values)].into();
    let provider = ConfigStore::new(Store::Catalog, catalog.connector().clone(), ambient.clone());
    let fitting = Fitting::new(regions.clone(), provider.clone());
    let access = Access::new(catalog.clone(), 0, Arc::new(SystemClock), &OsEntropy);
    Parts {
        access: Arc::new(access),
        catalog: catalog.clone(),
        routes: routes.clone(),
        regions,
        provider,
        backends: Backends::new(outside()),
        validators: vec![Arc::new(fitting)],
        clock: ambient.clock.clone(),
        entropy: Arc::new(OsEntropy),
        bounds,
    }
}

/// A backend on real etcd.
pub fn etcd(root: &str) -> Arc<dyn Backend> {
    etcd_at("etcd", insula_testkit::etcd_url().to_owned(), root.to_owned())
}

/// Another one on the same etcd.
pub fn second(root: &str) -> Arc<dyn Backend> {
    etcd_at("second", insula_testkit::etcd_url().to_owned(), format!("{root}.second"))
}

/// A backend that cannot be reached.
fn nowhere() -> Arc<dyn Backend> {
    let endpoint = format!("http://127.0.0.1:{}", insula_testkit::unused_port());
    etcd_at("nowhere", endpoint, "/".to_owned())
}

fn etcd_at(name: &str, endpoint: String, root: String) -> Arc<dyn Backend> {
    let settings = EtcdSettings { endpoints: vec![endpoint], root, user: None, ca_pem: None };
    Arc::new(EtcdBackend::new(name, settings, Arc::new(SystemClock)).unwrap())
}

pub fn tenant(number: u128) -> TenantId {
    TenantId::from(Uuid::from_u128(number))
}

/// The tenants: 1 acme, 2 globex, 3 below acme.
const TENANTS: [(u128, &str, Option<u128>); 3] =
    [(1, "acme", None), (2, "globex", None), (3, "branch", Some(1))];

fn route(number: u128, slug: &str, parent: Option<u128>) -> Route {
    Route {
        tenant: tenant(number),
        slug: slug.parse().unwrap(),
        parent: parent.map(tenant),
        tier: "free".parse().unwrap(),
        region: "eu-west-1".parse().unwrap(),
        status: TenantStatus::Active,
        placement: None,
        role_key_generation: 1,
        max_connections: None,
        terms: DatabaseTerms::default(),
        hold: None,
        is_narrowed: false,
        goes_to: None,
        revision: 1,
    }
}

/// The tiers that are sold, and the regions that there are beside the one that is
/// served here.
const OFFERED: &str = "insert into plans (name) values ('p');
    insert into tiers (name, isolation, user_pool, plan, position) values
        ('free', 'pool', 'shared', 'p', 1), ('business', 'database', 'dedicated', 'p', 2);
    insert into region_groups (name) values ('g');
    insert into regions (name, created_at) values ('us-east-1', now());
    insert into region_group_members (region, region_group) values ('us-east-1', 'g')";

impl World {
    pub async fn new() -> Self {
        Self::with(Bounds::default()).await
    }

    pub async fn with(bounds: Bounds) -> Self {
        Self::with_more(bounds, 0).await
    }

    /// With more tenants, whose numbers begin at 1000.
    pub async fn with_tenants(more: usize) -> Self {
        Self::with_more(Bounds::default(), more).await
    }

    /// With more tenants, and a clock that the test moves.
    pub async fn with_clock(clock: Arc<dyn Clock>, more: usize) -> Self {
        Self::with_all(Bounds::default(), more, clock, Arc::new(Vec::new)).await
    }

    /// With the backends `etcd` and `second` below a name of the test's own, which
    /// are compared so often, and the backend `nowhere`, which cannot be reached.
    pub async fn with_etcd(root: &str, reconcile: Duration) -> Self {
        let root = root.to_owned();
        Self::with_outside(reconcile, Arc::new(move || vec![etcd(&root), second(&root), nowhere()])).await
    }

    /// With one backend outside.
    pub async fn with_backend(backend: Arc<dyn Backend>, reconcile: Duration) -> Self {
        Self::with_outside(reconcile, Arc::new(move || vec![backend.clone()])).await
    }

    /// With backends outside, which are compared so often.
    pub async fn with_outside(reconcile: Duration, outside: Outside) -> Self {
        let bounds = Bounds { reconcile, ..Bounds::default() };
        Self::with_all(bounds, 0, Arc::new(SystemClock), outside).await
    }

    async fn with_more(bounds: Bounds, more: usize) -> Self {
        Self::with_all(bounds, more, Arc::new(SystemClock), Arc::new(Vec::new)).await
    }

    /// The process ends.
    pub async fn end(&mut self) {
        let running = self.running.take().unwrap();
        running.stop.cancel();
        tokio::time::timeout(PATIENCE, running.task).await.unwrap().unwrap();
    }

    /// The process ends, and another one takes its place, with nothing in memory.
    pub async fn restart(&mut self) {
        let parts =
            parts(&self.catalog, &self.region, &self.routes, &self.ambient, self.bounds, &self.outside);
        let (service, address, running) = serve(parts).await;
        ready(&service).await;
        self.channel = Endpoint::new(address.clone()).unwrap().connect_lazy();
        (self.service, self.address, self.running) = (service, address, Some(running));
    }

    async fn with_all(bounds: Bounds, more: usize, clock: Arc<dyn Clock>, outside: Outside) -> Self {
        let (world, begin) = Self::waiting_with(bounds, more, clock, outside).await;
        begin();
        ready(&world.service).await;
        world
    }

    /// One that does not know its tenants before it is told to.
    pub async fn waiting() -> (Self, impl FnOnce()) {
        Self::waiting_with(Bounds::default(), 0, Arc::new(SystemClock), Arc::new(Vec::new)).await
    }

    /// The process is told to stop.
    pub fn stop(&self) {
        self.running.as_ref().unwrap().stop.cancel();
    }

    async fn waiting_with(
        bounds: Bounds,
        more: usize,
        clock: Arc<dyn Clock>,
        outside: Outside,
    ) -> (Self, impl FnOnce()) {
        let (of_catalog, of_region) =
            tokio::join!(TestDatabase::create("config_catalog"), TestDatabase::create("config_region"));
        let catalog = Catalog::new(Connector::new(&of_catalog.url(), None).unwrap(), PoolSize(4));
        catalog.migrate().await.unwrap();
        // What a key refers to is not what is looked at here.
        let client = of_catalog.connect().await;
        client.batch_execute("alter table api_keys drop constraint api_keys_tenant_id_fkey").await.unwrap();
        client.batch_execute(OFFERED).await.unwrap();
        let connector = Connector::new(&of_region.url(), None).unwrap();
        let store = RegionStore::new("eu-west-1".parse().unwrap(), connector.clone(), PoolSize(2));
        store.migrate().await.unwrap();
        let routes = Arc::new(RouteMap::new());
        let mut tenants = Vec::new();
        for (number, slug, parent) in TENANTS {
            store.open_home(tenant(number), SystemClock.now()).await.unwrap();
            tenants.push(route(number, slug, parent));
        }
        for number in (1_000..).take(more) {
            store.open_home(tenant(number), SystemClock.now()).await.unwrap();
            tenants.push(route(number, &format!("more-{number}"), None));
        }
        let keys = Arc::new(MasterKeys::generate(&OsEntropy));
        let ambient = Ambient { keys, clock, entropy: Arc::new(OsEntropy) };
        let provider = ConfigStore::new(Store::Catalog, connector, ambient.clone()).writer();
        let parts = parts(&catalog, &of_region, &routes, &ambient, bounds, &outside);
        let (service, address, running) = serve(parts).await;
        let channel = Endpoint::new(address.clone()).unwrap().connect_lazy();
        let known = routes.clone();
        let begin = move || {
            let rows = Rows { tenants, ..Rows::default() };
            known.apply(Update::Whole { revision: 1, rows });
        };
        let world = Self {
            service,
            catalog,
            region: of_region,
            routes,
            provider,
            address,
            channel,
            revision: 1.into(),
            ambient,
            bounds,
            outside,
            _catalog: of_catalog,
            running: Some(running),
        };
        (world, begin)
    }

    /// A new key of a tenant, which can be revoked.
    pub async fn key(&self, number: u128, role: &str, path: Option<&str>) -> (ApiKeyId, Client) {
        let (id, key) = self.new_key(number, role, path).await;
        (id, self.client(&key))
    }

    /// A new key of a tenant.
    pub async fn credential(&self, number: u128, role: &str) -> String {
        self.new_key(number, role, None).await.1
    }

    /// A new key of a tenant that is bound to a path.
    pub async fn credential_for(&self, number: u128, role: &str, path: &str) -> String {
        self.new_key(number, role, Some(path)).await.1
    }

    async fn new_key(&self, number: u128, role: &str, path: Option<&str>) -> (ApiKeyId, String) {
        let key = ApiKey::generate(ApiKeyId::generate(&SystemClock, &OsEntropy), &OsEntropy);
        let record = ApiKeyRecord {
            id: key.id(),
            tenant: tenant(number),
            role: role.to_owned(),
            scope: path.map(str::to_owned),
            secret_hash: key.hash().as_bytes().to_vec(),
            created_at: SystemClock.now(),
            revoked_at: None,
        };
        let mut client = self.catalog.client().await.unwrap();
        let change = client.change(Author::new("test", SystemClock.now())).await.unwrap();
        change.add_api_key(&record).await.unwrap();
        change.audit("key.create", None, "key", &serde_json::json!({})).await.unwrap();
        change.commit().await.unwrap();
        (record.id, key.to_text().expose().to_owned())
    }

    /// A client of a tenant that may do everything.
    pub async fn admin(&self, number: u128) -> Client {
        self.key(number, "tenant_admin", None).await.1
    }

    pub async fn operator(&self) -> Client {
        self.client(&self.operator_token().await)
    }

    /// The service, without a credential.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A new token of an operator.
    pub async fn operator_token(&self) -> String {
        let token =
            OperatorToken::generate(ApiKeyId::generate(&SystemClock, &OsEntropy).as_uuid(), &OsEntropy);
        let record = insula_catalog::OperatorToken {
            id: token.id(),
            email: "ada@example.com".to_owned(),
            secret_hash: token.hash().as_bytes().to_vec(),
            created_at: SystemClock.now(),
        };
        let mut client = self.catalog.client().await.unwrap();
        let change = client.change(Author::new("test", SystemClock.now())).await.unwrap();
        change.add_operator_token(&record).await.unwrap();
        change.audit("operator.add", None, "ada", &serde_json::json!({})).await.unwrap();
        change.commit().await.unwrap();
        token.to_text().expose().to_owned()
    }

    pub fn client(&self, credential: &str) -> Client {
        ConfigClient::with_interceptor(self.channel.clone(), Bearer(credential.to_owned()))
            .max_decoding_message_size(64 << 20)
    }

    pub async fn revoke(&self, id: ApiKeyId) {
        let mut client = self.catalog.client().await.unwrap();
        let change = client.change(Author::new("test", SystemClock.now())).await.unwrap();
        assert!(change.revoke_api_key(id).await.unwrap());
        change.audit("key.revoke", None, "key", &serde_json::json!({})).await.unwrap();
        change.commit().await.unwrap();
    }

    /// Has a tombstone of a tenant in the catalog, or a tenant that may still be
    /// taken back, and nothing of it among the routes.
    pub async fn deleted(&self, number: u128, status: TenantStatus) {
        let client = self.catalog.connector().connect().await.unwrap();
        // What a tenant refers to is not what is looked at here.
        client.batch_execute("set session_replication_role = replica").await.unwrap();
        let sql = "insert into tenants
            (id, slug, name, tier, region, residency, status, key_generation, created_at)
            values ($1, $2, '', 'free', 'eu-west-1', 'eu', $3, 1, now())
            on conflict (id) do update set status = excluded.status";
        let (slug, status_text) = (format!("gone-{number}"), status.as_str());
        client.execute(sql, &[&tenant(number).as_uuid(), &slug, &status_text]).await.unwrap();
        if self.routes.snapshot().route(tenant(number)).is_some() {
            self.reroute(number, |route| route.status = TenantStatus::Deleted);
        }
    }

    /// The store of the region, beside the service.
    pub fn values(&self) -> ConfigStore {
        let connector = Connector::new(&self.region.url(), None).unwrap();
        ConfigStore::new(Store::Region, connector, self.ambient.clone())
    }

    /// The store of the catalog, beside the service.
    pub fn provided(&self) -> ConfigStore {
        ConfigStore::new(Store::Catalog, self.catalog.connector().clone(), self.ambient.clone())
    }

    /// A value of the provider in the region; none removes it.
    pub async fn provide(&self, scope: &str, key: &str, json: Option<&'static str>) -> Written {
        let op = match json {
            Some(json) => WriteOp::Put(ConfigValue::Json(json.as_bytes().into())),
            None => WriteOp::Remove,
        };
        let scope: Scope = scope.parse().unwrap();
        let key = key.parse().unwrap();
        let (if_version, note) = (None, String::new());
        let write = Write {
            scope,
            key,
            op,
            if_version,
            note,
            history: 10,
            is_secret: false,
            room: Room::Usual,
            made: None,
        };
        let transaction = Transaction {
            writes: vec![write],
            token: None,
            author: "operator:ada".to_owned(),
            tags: None,
            schemas: Vec::new(),
        };
        self.provider.write(transaction).await.unwrap().remove(0)
    }

    /// Another state of a tenant's route.
    pub fn reroute(&self, number: u128, change: impl FnOnce(&mut Route)) {
        let mut route = (**self.routes.snapshot().route(tenant(number)).unwrap()).clone();
        change(&mut route);
        route.revision = 1 + self.revision.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        let rows = Rows { tenants: vec![route.clone()], ..Rows::default() };
        self.routes.apply(Update::Delta { revision: route.revision, rows, removed_logins: Vec::new() });
    }
}

pub fn put(key: &str, json: &'static str) -> v1::PutRequest {
    v1::PutRequest {
        key: key.to_owned(),
        value: Some(v1::put_request::Value::Json(json.as_bytes().into())),
        ..Default::default()
    }
}

pub fn get(key: &str) -> v1::GetRequest {
    v1::GetRequest { key: key.to_owned(), ..Default::default() }
}

pub fn remove(key: &str) -> v1::RemoveRequest {
    v1::RemoveRequest { key: key.to_owned(), ..Default::default() }
}

/// `key=value`, or `key` of a removal, `key!` of a secret.
pub fn text(entry: &v1::Entry) -> String {
    use v1::entry::Value;
    match entry.value.as_ref().unwrap() {
        Value::Json(json) => format!("{}={}", entry.key, String::from_utf8_lossy(json)),
        Value::Sealed(_) => format!("{}!", entry.key),
        Value::Removed(_) => entry.key.clone(),
        Value::Blob(blob) => format!("{}@{}", entry.key, blob.bytes),
    }
}

/// The stable code of a refusal.
pub fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    let status = answer.expect_err("it is refused");
    let code = status.metadata().get("insula-code");
    code.map_or_else(
        || format!("{:?}: {}", status.code(), status.message()),
        |code| code.to_str().unwrap().to_owned(),
    )
}

/// A stream of a watch.
pub struct Watch(Streaming<v1::WatchEvent>);

impl Watch {
    pub async fn begin(client: &mut Client, request: v1::WatchRequest) -> Self {
        Self(client.watch(request).await.unwrap().into_inner())
    }

    /// Everything under the prefixes, from the beginning.
    pub async fn all(client: &mut Client) -> (Self, Snapshot) {
        let mut watch = Self::begin(client, v1::WatchRequest::default()).await;
        let snapshot = watch.snapshot().await;
        (watch, snapshot)
    }

    pub async fn event(&mut self) -> Result<Event, Status> {
        let next = tokio::time::timeout(PATIENCE, self.0.message()).await.expect("something is heard");
        next.map(|event| event.expect("the stream goes on").event.unwrap())
    }

    /// The next event that is no heartbeat.
    pub async fn news(&mut self) -> Event {
        loop {
            match self.event().await.unwrap() {
                Event::Heartbeat(_) => {}
                news => return news,
            }
        }
    }

    /// A whole snapshot, which is next.
    pub async fn snapshot(&mut self) -> Snapshot {
        let mut whole = Snapshot::default();
        loop {
            let Event::Snapshot(part) = self.news().await else { panic!("a snapshot is next") };
            let mut entries = std::mem::take(&mut whole.entries);
            entries.extend(part.entries.clone());
            whole = Snapshot { entries, ..part };
            if !whole.more {
                return whole;
            }
        }
    }

    /// What the next delta says.
    pub async fn delta(&mut self) -> Vec<String> {
        let Event::Delta(delta) = self.news().await else { panic!("a delta is next") };
        delta.entries.iter().map(text).chain(delta.removed).collect()
    }

    /// The status with which it ends.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.event().await {
                return status;
            }
        }
    }
}

pub fn texts(snapshot: &Snapshot) -> Vec<String> {
    snapshot.entries.iter().map(text).collect()
}
