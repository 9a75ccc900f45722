//! The store as a backend does what every backend does.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use insula_config_model::{
    Backend, BackendFault, BackendLimits, ConfigKey, KeyPrefix, Label, NewVersion, Scope, Stored, Sweep,
    Version,
};
use insula_config_store::{ConfigStore, Mirror};
use insula_credentials::MasterKeys;
use insula_domain::{OsEntropy, TenantId};
use insula_sql_store::Store;
use insula_testkit::backend::MemoryBackend;
use insula_testkit::backend::{conforms, moved_under_writes};
use tokio_postgres::Client;

use common::{Here, at};

/// A region's store and the catalog's, with every tenant at home that is asked for.
struct Everywhere {
    region: Mirror,
    provider: Mirror,
    client: Client,
    open: Mutex<BTreeSet<TenantId>>,
    _here: [Here; 2],
}

impl std::fmt::Debug for Everywhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Everywhere")
    }
}

impl Everywhere {
    async fn start(label: &str) -> Arc<dyn Backend> {
        let keys = Arc::new(MasterKeys::generate(&OsEntropy));
        let region = at(&format!("{label}_region"), Store::Region, keys.clone()).await;
        let catalog = at(&format!("{label}_catalog"), Store::Catalog, keys).await;
        let mirror = |store: &ConfigStore| Mirror::new(store.clone(), store.writer());
        Arc::new(Self {
            region: mirror(&region.store),
            provider: mirror(&catalog.store),
            client: region.database.connect().await,
            open: Mutex::default(),
            _here: [region, catalog],
        })
    }

    async fn of(&self, scope: &Scope) -> &Mirror {
        let Some(tenant) = scope.tenant() else { return &self.provider };
        if !self.open.lock().unwrap().contains(&tenant) {
            let now = time::OffsetDateTime::UNIX_EPOCH;
            insula_config_store::open_home(&self.client, tenant, now).await.unwrap();
            self.open.lock().unwrap().insert(tenant);
        }
        &self.region
    }
}

#[async_trait]
impl Backend for Everywhere {
    fn name(&self) -> &str {
        self.region.name()
    }

    fn limits(&self) -> BackendLimits {
        self.region.limits()
    }

    async fn newest(&self, scope: &Scope, key: &ConfigKey) -> Result<Option<Stored>, BackendFault> {
        self.of(scope).await.newest(scope, key).await
    }

    async fn version(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Option<Stored>, BackendFault> {
        self.of(scope).await.version(scope, key, version).await
    }

    async fn list(
        &self,
        scope: &Scope,
        prefix: &KeyPrefix,
        after: Option<&ConfigKey>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        self.of(scope).await.list(scope, prefix, after, limit).await
    }

    async fn history(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        self.of(scope).await.history(scope, key, before, limit).await
    }

    async fn write(&self, new: &NewVersion, expected: Version) -> Result<(), BackendFault> {
        self.of(&new.scope).await.write(new, expected).await
    }

    async fn label(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        label: &Label,
        version: Option<Version>,
    ) -> Result<(), BackendFault> {
        self.of(scope).await.label(scope, key, label, version).await
    }

    async fn trim(&self, scope: &Scope, key: &ConfigKey, keep: u32) -> Result<u32, BackendFault> {
        self.of(scope).await.trim(scope, key, keep).await
    }

    async fn forget(&self, scope: &Scope) -> Result<(), BackendFault> {
        self.of(scope).await.forget(scope).await
    }

    fn place_of(&self, name: &str) -> Option<(Scope, ConfigKey)> {
        self.region.place_of(name)
    }

    async fn sweep(&self, from: Option<&str>, limit: u32) -> Result<Sweep, BackendFault> {
        self.region.sweep(from, limit).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_does_what_every_backend_does() {
    conforms(Everywhere::start("conforms").await, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_go_away_and_come_back_under_writes() {
    moved_under_writes(Everywhere::start("moved").await, Arc::new(MemoryBackend::default())).await;
}
