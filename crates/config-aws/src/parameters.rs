//! The backend on Parameter Store: `/config-service/<tenant>/<service>/<parameter>`
//! has the value and nothing else, and its description says which version that
//! is. Parameter Store writes without conditions: who comes second sees it by
//! the number that the parameter gets, and puts back what was there.

mod history;
mod name;
mod store;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use insula_config_model::{
    Backend, BackendFault, BackendLimits, ConfigKey, ConfigValue, Held, KeyPrefix, Label, NewVersion, Scope,
    Stored, Sweep, Version,
};

use crate::client::{AwsSettings, text_of};
use history::{Claim, Known, Told};
use name::{name_of, scope_and_key, under};
use store::{Put, Store};

/// The longest value of a standard parameter, in bytes
/// (<https://docs.aws.amazon.com/general/latest/gr/ssm.html>).
const VALUE_BYTES_MAX: usize = 4 << 10;
/// A name has 1,011 characters, of which our beginning takes less than 90, and a
/// byte of another script takes four.
const KEY_BYTES_MAX: usize = 224;
/// How many versions a parameter has.
const VERSIONS_MAX: u32 = 100;
/// How many labels a version has.
const LABELS_MAX: u32 = 10;
/// How often something is tried again because somebody else was faster.
const TRIES_MAX: u32 = 20;
/// How many histories are asked for at the same time.
const LOOKS: usize = 8;

/// Keeps values in Parameter Store.
#[derive(Debug)]
pub struct ParameterBackend {
    store: Store,
}

impl ParameterBackend {
    /// One that connects when it is used.
    #[must_use]
    pub fn new(name: &str, settings: &AwsSettings) -> Self {
        Self { store: Store::new(name, settings.parameters()) }
    }

    async fn known(&self, scope: &Scope, key: &ConfigKey) -> Result<Known, BackendFault> {
        match name_of(scope, key) {
            Some(name) => Ok(Known::of(self.store.history(&name).await?)),
            // What cannot be written is not there.
            None => Ok(Known::default()),
        }
    }

    /// Writes the newest version again where a write that came too late stands
    /// in front of it.
    async fn put_back(&self, name: &str) -> Result<(), BackendFault> {
        for tried in 0..TRIES_MAX {
            let known = Known::of(self.store.history(name).await?);
            let Some(newest) = known.hidden() else { return Ok(()) };
            let claim = Claim::of(newest, known.next_number());
            self.store.put(name, newest.value.as_deref(), &claim, true).await?;
            pause(tried).await;
        }
        Err(self.store.busy())
    }

    /// The keys of a scope in their order.
    async fn keys(&self, scope: &Scope) -> Result<Vec<ConfigKey>, BackendFault> {
        let (mut keys, mut from) = (Vec::new(), None);
        loop {
            let (names, next) = self.store.names(&under(scope), from).await?;
            keys.extend(names.iter().filter_map(|name| scope_and_key(name)).map(|(_, key)| key));
            from = next;
            if from.is_none() {
                keys.sort();
                return Ok(keys);
            }
        }
    }
}

/// Lets those who were faster end.
async fn pause(tried: u32) {
    tokio::time::sleep(std::time::Duration::from_millis(u64::from(tried.min(10)) * 5)).await;
}

fn stored(scope: &Scope, key: &ConfigKey, told: Told) -> Stored {
    Stored {
        scope: scope.clone(),
        key: key.clone(),
        version: told.version,
        revision: 0,
        value: told.value.map(|text| ConfigValue::Json(text.into_bytes().into())),
        labels: told.labels,
        author: told.author,
        at: told.at,
        note: told.note,
    }
}

#[async_trait]
impl Backend for ParameterBackend {
    fn name(&self) -> &str {
        self.store.backend()
    }

    fn limits(&self) -> BackendLimits {
        BackendLimits {
            value_bytes_max: VALUE_BYTES_MAX,
            key_bytes_max: KEY_BYTES_MAX,
            versions_max: Some(VERSIONS_MAX),
            labels_max: Some(LABELS_MAX),
        }
    }

    async fn newest(&self, scope: &Scope, key: &ConfigKey) -> Result<Option<Stored>, BackendFault> {
        let newest = self.known(scope, key).await?.into_newest();
        Ok(newest.map(|told| stored(scope, key, told)))
    }

    async fn version(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Option<Stored>, BackendFault> {
        let found = self.known(scope, key).await?.versions.remove(&version);
        Ok(found.map(|told| stored(scope, key, told)))
    }

    async fn list(
        &self,
        scope: &Scope,
        prefix: &KeyPrefix,
        after: Option<&ConfigKey>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        let mut keys = self.keys(scope).await?;
        keys.retain(|key| prefix.covers(key) && after.is_none_or(|after| key > after));
        keys.truncate(limit as usize);
        let newest = stream::iter(keys).map(|key| async move { self.newest(scope, &key).await });
        let newest: Vec<Option<Stored>> = newest.buffered(LOOKS).try_collect().await?;
        Ok(newest.into_iter().flatten().collect())
    }

    async fn history(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        let versions = self.known(scope, key).await?.versions;
        let newest_first = versions.into_iter().rev();
        let wanted = newest_first.filter(|(version, _)| before.is_none_or(|before| *version < before));
        Ok(wanted.take(limit as usize).map(|(_, told)| stored(scope, key, told)).collect())
    }

    async fn write(&self, new: &NewVersion, expected: Version) -> Result<(), BackendFault> {
        let value = text_of(new.value.as_ref())?;
        if value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
            let said = format!("Parameter Store holds values of {VALUE_BYTES_MAX} bytes");
            return Err(BackendFault::Refused(said));
        }
        let name = name_of(&new.scope, &new.key)
            .ok_or_else(|| BackendFault::Refused("the key is too long for Parameter Store".to_owned()))?;
        for tried in 0..TRIES_MAX {
            let known = Known::of(self.store.history(&name).await?);
            let same = |told: &Told| told.value == value && told.author == new.author;
            if known.versions.get(&new.version).is_some_and(same) {
                return Ok(());
            }
            let newest = known.newest().map_or(0, |told| told.version);
            if newest != expected || new.version <= expected {
                return Err(BackendFault::Conflict { newest, expected });
            }
            let claim = Claim::new(new, value.as_deref(), known.next_number());
            match self.store.put(&name, value.as_deref(), &claim, known.next_number() > 1).await? {
                Put::At(number) if number == claim.number => return Ok(()),
                // Somebody was faster, and what they wrote is behind what we did.
                Put::At(_) => self.put_back(&name).await?,
                Put::Taken => {}
            }
            pause(tried).await;
        }
        Err(self.store.busy())
    }

    async fn label(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        label: &Label,
        version: Option<Version>,
    ) -> Result<(), BackendFault> {
        let known = self.known(scope, key).await?;
        let on = known.versions.values().find(|told| told.labels.contains(label));
        let (Some(name), wanted) = (name_of(scope, key), version.map(|version| known.versions.get(&version)))
        else {
            return version.map_or(Ok(()), |version| Err(BackendFault::NoVersion(version)));
        };
        match (wanted, on) {
            (Some(None), _) => Err(BackendFault::NoVersion(version.unwrap_or_default())),
            (Some(Some(told)), _) if told.labels.contains(label) => Ok(()),
            (Some(Some(told)), _) => self.store.label(&name, told, label).await,
            (None, Some(on)) => self.store.unlabel(&name, on, label).await,
            (None, None) => Ok(()),
        }
    }

    /// Parameter Store drops the oldest of more than a hundred by itself.
    async fn trim(&self, _: &Scope, _: &ConfigKey, _: u32) -> Result<u32, BackendFault> {
        Ok(0)
    }

    async fn forget(&self, scope: &Scope) -> Result<(), BackendFault> {
        loop {
            let (names, _) = self.store.names(&under(scope), None).await?;
            if names.is_empty() {
                return Ok(());
            }
            self.store.delete(names).await?;
        }
    }

    fn place_of(&self, name: &str) -> Option<(Scope, ConfigKey)> {
        scope_and_key(name)
    }

    async fn sweep(&self, from: Option<&str>, _: u32) -> Result<Sweep, BackendFault> {
        let (names, next) = self.store.names(name::ROOT, from.map(str::to_owned)).await?;
        let held = stream::iter(names).map(|name| async move {
            let Some((scope, key)) = scope_and_key(&name) else { return Ok(None) };
            self.put_back(&name).await?;
            let newest = self.newest(&scope, &key).await?;
            Ok(newest.map(|newest| Held { scope, key, version: newest.version }))
        });
        let held: Vec<Option<Held>> = held.buffered(LOOKS).try_collect().await?;
        Ok(Sweep { held: held.into_iter().flatten().collect(), next })
    }
}
