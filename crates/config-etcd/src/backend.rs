//! The backend: what is asked of etcd for each of its methods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use insula_config_model::{
    Backend, BackendFault, BackendLimits, ConfigKey, ConfigValue, Held, KEY_BYTES_MAX, KeyPrefix, Label,
    NewVersion, Scope, Stored, Sweep, Version,
};
use insula_domain::Clock;

use crate::client::wire::range_request::SortOrder;
use crate::client::wire::request_op::Request as Operation;
use crate::client::wire::{DeleteRangeRequest, KeyValue, PutRequest, RangeRequest};
use crate::client::{Client, EtcdSettings, InvalidEndpoint};
use crate::keys::{Keys, end, scope_and_key};
use crate::record::{Head, Record};
use crate::state::{self, Decided, Seen};

/// A value is sent twice in a request, which etcd bounds to 1.5 MiB
/// (<https://etcd.io/docs/v3.4/dev-guide/limit/>).
const VALUE_BYTES_MAX: usize = 640 << 10;
/// How often something is tried again because somebody else was faster. Each
/// time somebody got on.
const TRIES_MAX: usize = 64;
/// The most keys in one answer.
const PAGE: u32 = 64;
/// The most versions dropped at once: etcd takes 128 operations.
const DROPPED_MAX: usize = 100;

/// Keeps values in etcd.
#[derive(Debug)]
pub struct EtcdBackend {
    name: String,
    client: Client,
    keys: Keys,
    clock: Arc<dyn Clock>,
}

/// Keys with their heads and values, some of them perhaps written by others.
struct Page {
    revision: i64,
    /// Per name behind the family: when the value and the head were written,
    /// the value, and the head.
    entries: BTreeMap<String, Entry>,
    /// Whether there may be more behind it.
    is_full: bool,
}

#[derive(Default)]
struct Entry {
    value: Option<KeyValue>,
    head: Option<(i64, Head)>,
}

impl Entry {
    fn is_foreign(&self) -> bool {
        let value_at = self.value.as_ref().map_or(0, |value| value.mod_revision);
        let (head_at, head) = self.head.as_ref().map_or((0, None), |(at, head)| (*at, Some(head)));
        state::is_foreign(value_at, head_at, head)
    }
}

fn range(from: String, end: Vec<u8>, limit: u32) -> RangeRequest {
    RangeRequest {
        key: from.into_bytes(),
        range_end: end,
        limit: i64::from(limit),
        ..RangeRequest::default()
    }
}

fn one(name: String) -> RangeRequest {
    RangeRequest { key: name.into_bytes(), ..RangeRequest::default() }
}

fn put(name: String, value: Vec<u8>) -> Operation {
    Operation::RequestPut(PutRequest { key: name.into_bytes(), value })
}

fn delete(name: String, range_end: Vec<u8>) -> Operation {
    Operation::RequestDeleteRange(DeleteRangeRequest { key: name.into_bytes(), range_end })
}

impl EtcdBackend {
    /// One that connects when it is used.
    ///
    /// # Errors
    /// Where an endpoint is not one.
    pub fn new(name: &str, settings: EtcdSettings, clock: Arc<dyn Clock>) -> Result<Self, InvalidEndpoint> {
        let keys = Keys::below(&settings.root);
        Ok(Self { name: name.to_owned(), client: Client::new(name, settings)?, keys, clock })
    }

    /// What there is of a key, with one version of it.
    async fn look(&self, scope: &Scope, key: &ConfigKey, asked: Version) -> Result<Seen, BackendFault> {
        let versions = self.keys.versions(scope, key);
        let labels = self.keys.labels(scope, key);
        let newest = RangeRequest {
            sort_order: SortOrder::Descend.into(),
            ..range(versions.clone(), end(&versions), 1)
        };
        let ranges = vec![
            RangeRequest { keys_only: true, ..one(self.keys.value(scope, key.as_str())) },
            one(self.keys.head(scope, key.as_str())),
            newest,
            range(labels.clone(), end(&labels), 0),
            one(self.keys.version(scope, key, asked)),
        ];
        let (_, found) = self.client.ranges(ranges).await?;
        Seen::parse(&found).map_err(|unreadable| self.client.unreadable(unreadable))
    }

    /// The same, after what others wrote has become a version.
    async fn settled(&self, scope: &Scope, key: &ConfigKey, asked: Version) -> Result<Seen, BackendFault> {
        for _ in 0..TRIES_MAX {
            let seen = self.look(scope, key, asked).await?;
            if !seen.is_foreign() {
                return Ok(seen);
            }
            let (_, found) = self.client.ranges(vec![one(self.keys.value(scope, key.as_str()))]).await?;
            let value = found.into_iter().flatten().next();
            if value.as_ref().map_or(0, |value| value.mod_revision) != seen.value_at {
                continue;
            }
            let value = value.map(|value| value.value);
            let record = Record::external(seen.version() + 1, value, self.clock.now());
            self.record(scope, key, &seen, &record).await?;
        }
        Err(self.busy())
    }

    /// Writes a version where nothing has changed since it was looked at;
    /// whether it was.
    async fn record(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        seen: &Seen,
        record: &Record,
    ) -> Result<bool, BackendFault> {
        let (value, head) = (self.keys.value(scope, key.as_str()), self.keys.head(scope, key.as_str()));
        let version = self.keys.version(scope, key, record.head.version);
        let compare = vec![
            state::unchanged(value.clone(), seen.value_at),
            state::unchanged(head.clone(), seen.head_at),
            state::unchanged(version.clone(), 0),
        ];
        let plain = match &record.value {
            Some(plain) => put(value, plain.clone()),
            None => delete(value, Vec::new()),
        };
        let operations = vec![put(head, record.head.bytes()), put(version, record.bytes()), plain];
        Ok(self.client.transact(compare, operations).await?.succeeded)
    }

    fn busy(&self) -> BackendFault {
        let source = "others kept writing in between".into();
        BackendFault::Away { backend: self.name.clone(), source }
    }

    /// Heads and values of the names from one to another, at one moment.
    async fn page(&self, from: &str, to: &[u8], limit: u32, keys_only: bool) -> Result<Page, BackendFault> {
        let (values, heads) = (self.keys.family("values"), self.keys.family("heads"));
        let of = |family: &str| {
            let mut until = family.as_bytes().to_vec();
            until.extend_from_slice(to);
            range(format!("{family}{from}"), until, limit)
        };
        let ranges = vec![RangeRequest { keys_only, ..of(&values) }, of(&heads)];
        let (revision, found) = self.client.ranges(ranges).await?;
        let is_full = found.iter().any(|range| range.len() >= limit as usize);
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        let mut found = found.into_iter();
        for kv in found.next().unwrap_or_default() {
            let name = String::from_utf8(kv.key.clone()).unwrap_or_default();
            if let Some(name) = name.strip_prefix(&values) {
                entries.entry(name.to_owned()).or_default().value = Some(kv);
            }
        }
        for kv in found.next().unwrap_or_default() {
            let head = Head::parse(&kv.key, &kv.value).map_err(|error| self.client.unreadable(error))?;
            let name = String::from_utf8(kv.key).unwrap_or_default();
            if let Some(name) = name.strip_prefix(&heads) {
                entries.entry(name.to_owned()).or_default().head = Some((kv.mod_revision, head));
            }
        }
        // Either range is complete up to its own end, so both are up to the limit.
        while entries.len() > limit as usize {
            entries.pop_last();
        }
        Ok(Page { revision, entries, is_full })
    }

    /// The labels of the keys from one to another, as they were then.
    async fn labels_between(
        &self,
        scope: &Scope,
        (first, last): (&ConfigKey, &ConfigKey),
        revision: i64,
    ) -> Result<BTreeMap<String, BTreeMap<Label, Version>>, BackendFault> {
        let family = self.keys.labels(scope, first);
        let ranges =
            RangeRequest { revision, ..range(family.clone(), end(&self.keys.labels(scope, last)), 0) };
        let (_, found) = self.client.ranges(vec![ranges]).await?;
        let above = family.len() - first.as_str().len() - 1;
        let mut labels: BTreeMap<String, BTreeMap<Label, Version>> = BTreeMap::new();
        for kv in found.iter().flatten() {
            let name = std::str::from_utf8(&kv.key).unwrap_or_default();
            let key = name.get(above..).and_then(|rest| rest.split_once(' ')).map(|(key, _)| key);
            if let (Some(key), Some((label, version))) = (key, state::label(kv)) {
                labels.entry(key.to_owned()).or_default().insert(label, version);
            }
        }
        Ok(labels)
    }

    async fn history_page(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Record>, BackendFault> {
        let versions = self.keys.versions(scope, key);
        let until = match before {
            Some(before) => self.keys.version(scope, key, before.max(0)).into_bytes(),
            None => end(&versions),
        };
        let sort_order = SortOrder::Descend.into();
        let (_, found) =
            self.client.ranges(vec![RangeRequest { sort_order, ..range(versions, until, limit) }]).await?;
        let record = |kv: KeyValue| Record::parse(&kv.key, &kv.value);
        let found: Result<Vec<Record>, _> = found.into_iter().flatten().map(record).collect();
        found.map_err(|unreadable| self.client.unreadable(unreadable))
    }

    /// One page of a list, and where it goes on.
    async fn list_page(
        &self,
        scope: &Scope,
        from: &str,
        to: &[u8],
        limit: u32,
    ) -> Result<(Vec<Stored>, Option<String>), BackendFault> {
        let page = self.page(from, to, limit, false).await?;
        let next =
            page.entries.last_key_value().filter(|_| page.is_full).map(|(name, _)| format!("{name}\0"));
        let entries: Vec<(ConfigKey, Entry)> = page
            .entries
            .into_iter()
            .filter_map(|(name, entry)| Some((scope_and_key(&name)?.1, entry)))
            .collect();
        let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else {
            return Ok((Vec::new(), next));
        };
        let labels = self.labels_between(scope, (first, last), page.revision).await?;
        let mut listed = Vec::with_capacity(entries.len());
        for (key, entry) in entries {
            if entry.is_foreign() {
                listed.extend(self.newest(scope, &key).await?);
                continue;
            }
            let Some((_, head)) = entry.head else { continue };
            let labels = labels.get(key.as_str()).map(|all| state::labels_of(all, head.version));
            let record = Record { head, value: entry.value.map(|value| value.value) };
            listed.push(stored(scope, &key, record, labels.unwrap_or_default()));
        }
        Ok((listed, next))
    }
}

fn stored(scope: &Scope, key: &ConfigKey, record: Record, labels: BTreeSet<Label>) -> Stored {
    Stored {
        scope: scope.clone(),
        key: key.clone(),
        version: record.head.version,
        revision: 0,
        value: record.value.map(|text| ConfigValue::Json(text.into())),
        labels,
        author: record.head.author,
        at: record.head.at,
        note: record.head.note,
    }
}

#[async_trait]
impl Backend for EtcdBackend {
    fn name(&self) -> &str {
        &self.name
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
        let mut seen = self.settled(scope, key, 0).await?;
        Ok(seen.newest.take().map(|record| {
            let labels = seen.labels_of(record.head.version);
            stored(scope, key, record, labels)
        }))
    }

    async fn version(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Option<Stored>, BackendFault> {
        let mut seen = self.settled(scope, key, version).await?;
        Ok(seen.asked.take().map(|record| stored(scope, key, record, seen.labels_of(version))))
    }

    async fn list(
        &self,
        scope: &Scope,
        prefix: &KeyPrefix,
        after: Option<&ConfigKey>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        let beginning = format!("{scope}/{prefix}");
        let to = end(&beginning);
        let after = after.map(|after| format!("{scope}/{after}\0")).filter(|after| *after > beginning);
        let mut from = after.unwrap_or(beginning);
        let mut listed: Vec<Stored> = Vec::new();
        while listed.len() < limit as usize && from.as_bytes() < &to[..] {
            let missing = limit - u32::try_from(listed.len()).unwrap_or(limit);
            let (page, next) = self.list_page(scope, &from, &to, missing.min(PAGE)).await?;
            listed.extend(page);
            let Some(next) = next else { break };
            from = next;
        }
        Ok(listed)
    }

    async fn history(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        let seen = self.settled(scope, key, 0).await?;
        let mut history: Vec<Stored> = Vec::new();
        let mut before = before;
        while history.len() < limit as usize {
            let missing = limit - u32::try_from(history.len()).unwrap_or(limit);
            let page = self.history_page(scope, key, before, missing.min(PAGE)).await?;
            let Some(last) = page.last() else { break };
            before = Some(last.head.version);
            history.extend(page.into_iter().map(|record| {
                let labels = seen.labels_of(record.head.version);
                stored(scope, key, record, labels)
            }));
        }
        Ok(history)
    }

    async fn write(&self, new: &NewVersion, expected: Version) -> Result<(), BackendFault> {
        if new.value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
            return Err(BackendFault::Refused(format!("etcd holds values of {VALUE_BYTES_MAX} bytes")));
        }
        for _ in 0..TRIES_MAX {
            let seen = self.settled(&new.scope, &new.key, new.version).await?;
            match seen.decide(new, expected) {
                Decided::Done => return Ok(()),
                Decided::Refused(fault) => return Err(fault),
                Decided::Write => {}
            }
            if self.record(&new.scope, &new.key, &seen, &Record::new(new)).await? {
                return Ok(());
            }
        }
        Err(self.busy())
    }

    async fn label(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        label: &Label,
        version: Option<Version>,
    ) -> Result<(), BackendFault> {
        let name = self.keys.label(scope, key, label);
        let Some(version) = version else {
            return self.client.transact(Vec::new(), vec![delete(name, Vec::new())]).await.map(drop);
        };
        self.settled(scope, key, version).await?;
        let compare = vec![state::is_there(self.keys.version(scope, key, version))];
        let done = self.client.transact(compare, vec![put(name, version.to_string().into_bytes())]).await?;
        if done.succeeded { Ok(()) } else { Err(BackendFault::NoVersion(version)) }
    }

    async fn trim(&self, scope: &Scope, key: &ConfigKey, keep: u32) -> Result<u32, BackendFault> {
        let (versions, labels) = (self.keys.versions(scope, key), self.keys.labels(scope, key));
        let mut count = 0;
        for _ in 0..TRIES_MAX {
            let names = RangeRequest { keys_only: true, ..range(versions.clone(), end(&versions), 0) };
            let (revision, found) =
                self.client.ranges(vec![names, range(labels.clone(), end(&labels), 0)]).await?;
            let number =
                |kv: &KeyValue| std::str::from_utf8(kv.key.get(versions.len()..)?).ok()?.parse().ok();
            let there: BTreeSet<Version> = found.iter().take(1).flatten().filter_map(number).collect();
            let labelled =
                found.iter().skip(1).flatten().filter_map(state::label).map(|(_, on)| on).collect();
            let dropped = state::dropped(&there, &labelled, keep);
            if dropped.is_empty() {
                return Ok(count);
            }
            let some: Vec<Version> = dropped.into_iter().take(DROPPED_MAX).collect();
            // A label that came since would be on a version that goes.
            let compare = vec![state::none_behind(labels.clone(), end(&labels), revision)];
            let drop_them =
                some.iter().map(|version| delete(self.keys.version(scope, key, *version), Vec::new()));
            if self.client.transact(compare, drop_them.collect()).await?.succeeded {
                count += u32::try_from(some.len()).unwrap_or_default();
            }
        }
        Err(self.busy())
    }

    async fn forget(&self, scope: &Scope) -> Result<(), BackendFault> {
        let all = self.keys.scope(scope).map(|prefix| delete(prefix.clone(), end(&prefix)));
        self.client.transact(Vec::new(), all.into()).await.map(drop)
    }

    fn place_of(&self, name: &str) -> Option<(Scope, ConfigKey)> {
        scope_and_key(name.strip_prefix(&self.keys.family("values"))?)
    }

    async fn sweep(&self, from: Option<&str>, limit: u32) -> Result<Sweep, BackendFault> {
        let page = self.page(from.unwrap_or_default(), &[0xff], limit.clamp(1, 1_000), true).await?;
        let next =
            page.entries.last_key_value().filter(|_| page.is_full).map(|(name, _)| format!("{name}\0"));
        let mut held = Vec::with_capacity(page.entries.len());
        for (name, entry) in page.entries {
            // What others keep below our root under names that are no keys is theirs.
            let Some((scope, key)) = scope_and_key(&name) else { continue };
            let version = match (&entry.head, entry.is_foreign()) {
                (Some((_, head)), false) => Some(head.version),
                _ => self.newest(&scope, &key).await?.map(|newest| newest.version),
            };
            held.extend(version.map(|version| Held { scope, key, version }));
        }
        Ok(Sweep { held, next })
    }
}
