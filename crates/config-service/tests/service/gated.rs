//! A backend that stands still where a test wants it to: before a write, or when
//! it was done and nobody has heard of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use insula_config_model::{
    Backend, BackendFault, BackendLimits, ConfigKey, KeyPrefix, Label, NewVersion, Scope, Stored, Sweep,
    Version,
};
use tokio::sync::watch;

use crate::backends::NEVER;
use crate::support::{World, etcd, second};

/// Lets through while it is open.
#[derive(Clone, Debug)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    waiting: Arc<AtomicUsize>,
}

impl Gate {
    fn new() -> Self {
        Self { open: Arc::new(watch::Sender::new(true)), waiting: Arc::default() }
    }

    pub fn close(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// How many have come to it while it was closed.
    pub fn came(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn pass(&self) {
        if !*self.open.borrow() {
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        // The sender is ours, and so it does not end.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

#[derive(Clone, Debug)]
pub struct Gated {
    inner: Arc<dyn Backend>,
    /// Before a write.
    pub before: Gate,
    /// Behind a write, before its answer.
    pub behind: Gate,
}

impl Gated {
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, before: Gate::new(), behind: Gate::new() }
    }
}

impl World {
    /// With the backends `etcd` and `second`, of which the other one stands still
    /// where it is told to.
    pub async fn with_gated(root: &str) -> (Self, Gated) {
        let (root, gated) = (root.to_owned(), Gated::new(second(root)));
        let outside = gated.clone();
        let outside = move || -> Vec<Arc<dyn Backend>> { vec![etcd(&root), Arc::new(outside.clone())] };
        (Self::with_outside(NEVER, Arc::new(outside)).await, gated)
    }
}

#[async_trait]
impl Backend for Gated {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn limits(&self) -> BackendLimits {
        self.inner.limits()
    }

    async fn newest(&self, scope: &Scope, key: &ConfigKey) -> Result<Option<Stored>, BackendFault> {
        self.inner.newest(scope, key).await
    }

    async fn version(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Option<Stored>, BackendFault> {
        self.inner.version(scope, key, version).await
    }

    async fn list(
        &self,
        scope: &Scope,
        prefix: &KeyPrefix,
        after: Option<&ConfigKey>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        self.inner.list(scope, prefix, after, limit).await
    }

    async fn history(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        self.inner.history(scope, key, before, limit).await
    }

    async fn write(&self, new: &NewVersion, expected: Version) -> Result<(), BackendFault> {
        self.before.pass().await;
        let written = self.inner.write(new, expected).await;
        self.behind.pass().await;
        written
    }

    async fn label(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        label: &Label,
        version: Option<Version>,
    ) -> Result<(), BackendFault> {
        self.inner.label(scope, key, label, version).await
    }

    async fn trim(&self, scope: &Scope, key: &ConfigKey, keep: u32) -> Result<u32, BackendFault> {
        self.inner.trim(scope, key, keep).await
    }

    async fn forget(&self, scope: &Scope) -> Result<(), BackendFault> {
        self.inner.forget(scope).await
    }

    fn place_of(&self, name: &str) -> Option<(Scope, ConfigKey)> {
        self.inner.place_of(name)
    }

    async fn sweep(&self, from: Option<&str>, limit: u32) -> Result<Sweep, BackendFault> {
        self.inner.sweep(from, limit).await
    }
}
