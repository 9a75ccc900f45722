//! What a check stands on: a backend, a scope that nobody else uses, and
//! short ways to write and to look.

use std::collections::BTreeSet;
use std::sync::Arc;

use insula_config_model::{
    Backend, BackendFault, ConfigKey, ConfigValue, KeyPrefix, Label, NewVersion, Scope, Stored, Version,
};
use insula_domain::{OsEntropy, SystemClock, TenantId};
use time::macros::datetime;

/// A backend with a tenant of the check's own.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// The tenant's scope.
    pub scope: Scope,
}

impl Ground {
    /// A new tenant.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        let scope = Scope::Tenant(TenantId::generate(&SystemClock, &OsEntropy));
        Self { backend, scope }
    }

    /// Another tenant on the same backend.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(Arc::clone(&self.backend))
    }

    /// A version with this value, by the author `ada`.
    #[must_use]
    pub fn version(&self, name: &str, version: Version, value: &str) -> NewVersion {
        NewVersion {
            scope: self.scope.clone(),
            key: key(name),
            version,
            value: Some(value.as_bytes().to_vec()),
            author: "operator:ada@example.com".to_owned(),
            at: datetime!(2026-03-01 09:30:15.123456 UTC),
            note: format!("Nr. {version}: grün | \"quoted\", 100 %"),
        }
    }

    /// Writes a version behind the one before it.
    pub async fn put(&self, name: &str, version: Version) {
        self.try_put(name, version, version - 1).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    }

    /// Writes a version where the newest is `expected`.
    ///
    /// # Errors
    /// The backend's.
    pub async fn try_put(&self, name: &str, version: Version, expected: Version) -> Result<(), BackendFault> {
        self.backend.write(&self.version(name, version, &value_of(version)), expected).await
    }

    /// The newest version.
    pub async fn newest(&self, name: &str) -> Option<Stored> {
        self.backend.newest(&self.scope, &key(name)).await.unwrap_or_else(|fault| panic!("{fault:?}"))
    }

    /// The number of the newest version; 0 where there is none.
    pub async fn newest_version(&self, name: &str) -> Version {
        self.newest(name).await.map_or(0, |stored| stored.version)
    }

    /// One version.
    pub async fn at(&self, name: &str, version: Version) -> Option<Stored> {
        let found = self.backend.version(&self.scope, &key(name), version).await;
        found.unwrap_or_else(|fault| panic!("{fault:?}"))
    }

    /// The numbers of the versions before one, the newest first.
    pub async fn history(&self, name: &str, before: Option<Version>, limit: u32) -> Vec<Version> {
        let found = self.backend.history(&self.scope, &key(name), before, limit).await;
        found.unwrap_or_else(|fault| panic!("{fault:?}")).iter().map(|stored| stored.version).collect()
    }

    /// The keys under a prefix, behind one.
    pub async fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<String> {
        let prefix: KeyPrefix = prefix.parse().unwrap();
        let after = after.map(key);
        let found = self.backend.list(&self.scope, &prefix, after.as_ref(), limit).await;
        let found = found.unwrap_or_else(|fault| panic!("{fault:?}"));
        assert!(found.iter().all(|stored| stored.scope == self.scope), "another scope's values are listed");
        found.iter().map(|stored| stored.key.to_string()).collect()
    }

    /// Puts a label on a version, or takes it away.
    ///
    /// # Errors
    /// The backend's.
    pub async fn label(&self, name: &str, label: &str, version: Option<Version>) -> Result<(), BackendFault> {
        self.backend.label(&self.scope, &key(name), &label.parse().unwrap(), version).await
    }

    /// The labels of a version.
    pub async fn labels(&self, name: &str, version: Version) -> Vec<String> {
        let labels: BTreeSet<Label> =
            self.at(name, version).await.map(|stored| stored.labels).unwrap_or_default();
        labels.iter().map(ToString::to_string).collect()
    }
}

/// The value that [`Ground::put`] writes.
#[must_use]
pub fn value_of(version: Version) -> String {
    format!("{{\"n\":{version},\"text\":\"größer \\u0041 日本 \\\"x\\\"\"}}")
}

/// The text of a value.
#[must_use]
pub fn text_of(stored: &Stored) -> Option<String> {
    match stored.value.as_ref()? {
        ConfigValue::Json(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
        other => panic!("a backend gives text, not {other:?}"),
    }
}

/// A key.
#[must_use]
pub fn key(name: &str) -> ConfigKey {
    name.parse().unwrap_or_else(|error| panic!("{error}"))
}
