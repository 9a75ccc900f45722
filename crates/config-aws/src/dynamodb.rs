//! The backend on a table of DynamoDB. A version is written in one transaction
//! with the newest value, on condition that this is still as it was seen.

mod item;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use insula_config_model::{
    Backend, BackendFault, BackendLimits, ConfigKey, Held, KEY_BYTES_MAX, KeyPrefix, Label, NewVersion,
    Scope, Stored, Sweep, Version,
};
use insula_domain::Clock;

use crate::client::{AwsSettings, text_of};
use item::{Attributes, CONFIG, Item, Labels, SK};
use table::{Change, Table};

/// An item has 400 KB with its names and the rest
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html>).
const VALUE_BYTES_MAX: usize = 350 << 10;
/// How often something is tried again because somebody else was faster.
const TRIES_MAX: u32 = 40;
/// The most versions dropped at once: a transaction has 100 items.
const DROPPED_MAX: usize = 90;
/// How many keys of a list are looked at again at the same time.
const LOOKS: usize = 8;

/// Keeps values in a table.
#[derive(Debug)]
pub struct DynamoBackend {
    table: Table,
    clock: Arc<dyn Clock>,
}

/// A key, as it was seen.
struct Seen {
    head: Option<Item>,
    labels: Labels,
    asked: Option<Item>,
    /// The newest version that was written down, where the head does not say it.
    newest: Option<Item>,
}

impl Seen {
    fn is_foreign(&self) -> bool {
        match (&self.head, &self.newest) {
            (Some(head), _) => head.is_foreign(),
            (None, newest) => newest.as_ref().is_some_and(|newest| newest.value.is_some()),
        }
    }

    fn version(&self) -> Version {
        let of = |item: &Option<Item>| item.as_ref().and_then(|item| item.version).unwrap_or(0);
        of(&self.head).max(of(&self.newest))
    }
}

impl DynamoBackend {
    /// One on a table, whose primary key is `PK` and `SK`, both text.
    #[must_use]
    pub fn new(name: &str, settings: &AwsSettings, table: &str, clock: Arc<dyn Clock>) -> Self {
        Self { table: Table::new(name, settings.dynamodb(), table), clock }
    }

    /// Makes the table where there is none, to be paid by request.
    ///
    /// # Errors
    /// Where DynamoDB cannot be reached, or does not allow it.
    pub async fn create_table(&self) -> Result<(), BackendFault> {
        self.table.create().await
    }

    async fn look(&self, scope: &Scope, key: &ConfigKey, asked: Version) -> Result<Seen, BackendFault> {
        let (head, labels, asked) = tokio::try_join!(
            self.table.get(scope, item::config_key(key.as_str())),
            self.table.get(scope, item::labels_key(key.as_str())),
            self.table.get(scope, item::version_key(key, asked)),
        )?;
        let head = head.as_ref().map(Item::parse);
        let newest = match head.as_ref().is_some_and(|head| head.version.is_some()) {
            true => None,
            false => self.versions(scope, key, None, 1).await?.pop(),
        };
        let labels = labels.as_ref().map(Labels::parse).unwrap_or_default();
        Ok(Seen { head, labels, asked: asked.as_ref().map(Item::parse), newest })
    }

    /// The same, after what others wrote has become a version.
    async fn settled(&self, scope: &Scope, key: &ConfigKey, asked: Version) -> Result<Seen, BackendFault> {
        for tried in 0..TRIES_MAX {
            let seen = self.look(scope, key, asked).await?;
            if !seen.is_foreign() {
                return Ok(seen);
            }
            let value = seen.head.as_ref().and_then(|head| head.value.clone());
            let item = Item::external(seen.version() + 1, value, self.clock.now());
            self.record(scope, key, &seen, &item).await?;
            pause(tried).await;
        }
        Err(self.table.busy())
    }

    /// Writes a version where nothing has changed since it was looked at;
    /// whether it was.
    async fn record(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        seen: &Seen,
        item: &Item,
    ) -> Result<bool, BackendFault> {
        let version = item::version_key(key, item.version.unwrap_or_default());
        let changes = vec![
            Change::PutNew(item.attributes(scope, version)),
            Change::PutOver {
                item: item.attributes(scope, item::config_key(key.as_str())),
                seen: seen.head.clone(),
            },
        ];
        self.table.transact(changes).await
    }

    /// The versions of a key before one, the newest first.
    async fn versions(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Item>, BackendFault> {
        let last = before.map_or(Version::MAX, |before| before - 1);
        if last < 0 {
            return Ok(Vec::new());
        }
        let (from, to) = (item::version_key(key, 0), item::version_key(key, last));
        let found = self.table.between(scope, &from, &to, false, limit).await?;
        Ok(found.iter().map(Item::parse).collect())
    }

    /// The labels of all keys that a prefix covers.
    async fn labels_under(
        &self,
        scope: &Scope,
        first: &str,
        last: &str,
    ) -> Result<BTreeMap<String, Labels>, BackendFault> {
        let (from, to) = (item::labels_key(first), item::labels_key(last));
        let found = self.table.between(scope, &from, &to, true, u32::MAX).await?;
        let family = item::labels_key("");
        let labels = |attributes: &Attributes| {
            let key = attributes.get(SK)?.as_s().ok()?.strip_prefix(&family)?.to_owned();
            Some((key, Labels::parse(attributes)))
        };
        Ok(found.iter().filter_map(labels).collect())
    }
}

/// Lets those who were faster end.
async fn pause(tried: u32) {
    tokio::time::sleep(std::time::Duration::from_millis(u64::from(tried.min(10)) * 5)).await;
}

/// The key of a newest value.
fn key_of(attributes: &Attributes) -> Option<ConfigKey> {
    attributes.get(SK)?.as_s().ok()?.strip_prefix(CONFIG)?.parse().ok()
}

#[async_trait]
impl Backend for DynamoBackend {
    fn name(&self) -> &str {
        self.table.backend()
    }

    fn limits(&self) -> BackendLimits {
        BackendLimits {
            value_bytes_max: VALUE_BYTES_MAX,
            key_bytes_max: KEY_BYTES_MAX,
            versions_max: None,
            labels_max: None,
        }
    }

    async fn newest(&self, scope: &Scope, key: &ConfigKey) -> Result<Option<Stored>, BackendFault> {
        let seen = self.settled(scope, key, 0).await?;
        let newest = seen.head.or(seen.newest);
        Ok(newest.map(|item| item.stored(scope, key, &seen.labels)))
    }

    async fn version(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Option<Stored>, BackendFault> {
        let seen = self.settled(scope, key, version).await?;
        Ok(seen.asked.map(|item| item.stored(scope, key, &seen.labels)))
    }

    async fn list(
        &self,
        scope: &Scope,
        prefix: &KeyPrefix,
        after: Option<&ConfigKey>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        let (from, to) = item::bounds(CONFIG, prefix.as_str(), after.map(ConfigKey::as_str));
        if from > to {
            return Ok(Vec::new());
        }
        // One more, since the last sort key may be behind those that are covered.
        let found = self.table.between(scope, &from, &to, true, limit.saturating_add(1)).await?;
        let listed =
            found.iter().filter_map(|attributes| Some((key_of(attributes)?, Item::parse(attributes))));
        let listed: Vec<(ConfigKey, Item)> =
            listed.filter(|(key, _)| prefix.covers(key)).take(limit as usize).collect();
        let (Some((first, _)), Some((last, _))) = (listed.first(), listed.last()) else {
            return Ok(Vec::new());
        };
        let labels = &self.labels_under(scope, first.as_str(), last.as_str()).await?;
        let settled = stream::iter(listed).map(|(key, item)| async move {
            if item.is_foreign() {
                return self.newest(scope, &key).await;
            }
            let none = Labels::default();
            let labels = labels.get(key.as_str()).unwrap_or(&none);
            Ok(Some(item.stored(scope, &key, labels)))
        });
        let settled: Vec<Option<Stored>> = settled.buffered(LOOKS).try_collect().await?;
        Ok(settled.into_iter().flatten().collect())
    }

    async fn history(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        let seen = self.settled(scope, key, 0).await?;
        let versions = self.versions(scope, key, before, limit).await?;
        Ok(versions.into_iter().map(|item| item.stored(scope, key, &seen.labels)).collect())
    }

    async fn write(&self, new: &NewVersion, expected: Version) -> Result<(), BackendFault> {
        let value = text_of(new.value.as_ref())?;
        if value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
            return Err(BackendFault::Refused(format!("DynamoDB holds values of {VALUE_BYTES_MAX} bytes")));
        }
        let item = Item::new(new, value);
        for tried in 0..TRIES_MAX {
            let seen = self.settled(&new.scope, &new.key, new.version).await?;
            let same = |there: &Item| there.value == item.value && there.author == item.author;
            if seen.asked.as_ref().is_some_and(same) {
                return Ok(());
            }
            let newest = seen.version();
            if newest != expected || new.version <= expected {
                return Err(BackendFault::Conflict { newest, expected });
            }
            if self.record(&new.scope, &new.key, &seen, &item).await? {
                return Ok(());
            }
            pause(tried).await;
        }
        Err(self.table.busy())
    }

    async fn label(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        label: &Label,
        version: Option<Version>,
    ) -> Result<(), BackendFault> {
        for tried in 0..TRIES_MAX {
            let seen = self.settled(scope, key, version.unwrap_or(0)).await?;
            if let (Some(version), None) = (version, &seen.asked) {
                return Err(BackendFault::NoVersion(version));
            }
            if seen.labels.on.get(label).copied() == version {
                return Ok(());
            }
            let labels = seen.labels.with(label, version).attributes(scope, key);
            let mut changes = vec![Change::PutLabels { item: labels, edits: seen.labels.edits }];
            changes.extend(
                version.map(|version| Change::IsThere(item::place(scope, item::version_key(key, version)))),
            );
            if self.table.transact(changes).await? {
                return Ok(());
            }
            pause(tried).await;
        }
        Err(self.table.busy())
    }

    async fn trim(&self, scope: &Scope, key: &ConfigKey, keep: u32) -> Result<u32, BackendFault> {
        let mut count = 0;
        for tried in 0..TRIES_MAX {
            let labels = self.table.get(scope, item::labels_key(key.as_str())).await?;
            let labels = labels.as_ref().map(Labels::parse).unwrap_or_default();
            let labelled: BTreeSet<Version> = labels.on.values().copied().collect();
            let versions = self.versions(scope, key, None, u32::MAX).await?;
            let old = versions.iter().skip(keep.max(1) as usize).filter_map(|item| item.version);
            let dropped: Vec<Version> =
                old.filter(|version| !labelled.contains(version)).take(DROPPED_MAX).collect();
            if dropped.is_empty() {
                return Ok(count);
            }
            let places = dropped.iter().map(|version| item::place(scope, item::version_key(key, *version)));
            let mut changes: Vec<Change> = places.map(Change::Delete).collect();
            // A label that came since would be on a version that goes.
            changes.push(Change::LabelsAre {
                place: item::place(scope, item::labels_key(key.as_str())),
                edits: labels.edits,
            });
            if self.table.transact(changes).await? {
                count += u32::try_from(dropped.len()).unwrap_or_default();
            }
            pause(tried).await;
        }
        Err(self.table.busy())
    }

    async fn forget(&self, scope: &Scope) -> Result<(), BackendFault> {
        self.table.clear(scope).await
    }

    /// The name of an item is its partition key, a space, and its sort key.
    fn place_of(&self, name: &str) -> Option<(Scope, ConfigKey)> {
        let (partition, sort) = name.split_once(' ')?;
        Some((item::scope_of(partition)?, sort.strip_prefix(item::CONFIG)?.parse().ok()?))
    }

    async fn sweep(&self, from: Option<&str>, limit: u32) -> Result<Sweep, BackendFault> {
        let (found, next) = self.table.scan(from, CONFIG, limit.clamp(1, 1_000)).await?;
        let keys = found.iter().filter_map(|attributes| {
            let scope = item::scope_of(attributes.get(item::PK)?.as_s().ok()?)?;
            Some((scope, key_of(attributes)?, Item::parse(attributes)))
        });
        let held = stream::iter(keys.collect::<Vec<_>>()).map(|(scope, key, item)| async move {
            let version = match item.version.filter(|_| !item.is_foreign()) {
                Some(version) => Some(version),
                None => self.newest(&scope, &key).await?.map(|newest| newest.version),
            };
            Ok(version.map(|version| Held { scope, key, version }))
        });
        let held: Vec<Option<Held>> = held.buffered(LOOKS).try_collect().await?;
        Ok(Sweep { held: held.into_iter().flatten().collect(), next })
    }
}
