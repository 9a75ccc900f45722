//! What a region's hub knows: the values of the scopes that somebody watches,
//! who watches what, and what a change means to whom. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use insula_config_model::{
    ConfigKey, ConfigValue, Lineage, Revision, Rollout, Scope, Stored, TagTable, Version,
};
use insula_domain::TenantId;

use crate::wire;

/// Bytes of several changes that are told at once, at the most: whoever would be
/// told of more takes a snapshot, which comes in parts. Clients of gRPC take 4 MiB
/// where nobody tells them otherwise.
const LONG: usize = 2 << 20;

/// A value that is there.
#[derive(Debug, Clone)]
pub struct Item {
    /// The version, secrets as they are kept.
    pub stored: Arc<Stored>,
    /// It as a part of snapshots and deltas.
    pub part: Bytes,
}

impl Item {
    /// Encodes a version; none where it is a removal. Labels move by themselves
    /// and are not what watchers are told of.
    #[must_use]
    pub fn of(mut stored: Stored) -> Option<Self> {
        stored.value.as_ref()?;
        stored.labels.clear();
        let part = wire::entry_part(&stored);
        Some(Self { stored: Arc::new(stored), part })
    }

    /// How many bytes of a message it is, with secrets in clear or as they are.
    #[must_use]
    pub fn length(&self, reveal: bool) -> usize {
        match &self.stored.value {
            // What is sealed is about as long as what is in it.
            Some(ConfigValue::Sealed(sealed)) if reveal => self.part.len() + sealed.len(),
            _ => self.part.len(),
        }
    }

    /// About what it takes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        2 * self.part.len() + self.stored.key.as_str().len() + 300
    }
}

/// A newest version that not all tenants see: it is being rolled out.
#[derive(Debug, Clone)]
pub struct Stage {
    /// To whom.
    pub rollout: Arc<Rollout>,
    /// The newest version, also where it is a removal.
    pub newest: Version,
    /// What the others see.
    pub before: Option<Item>,
}

/// The values of a scope.
#[derive(Debug, Default)]
pub struct Values {
    /// Everything up to here is in it.
    pub at: Revision,
    /// The newest versions.
    pub items: BTreeMap<ConfigKey, Item>,
    /// What is being rolled out.
    pub stages: BTreeMap<ConfigKey, Stage>,
}

impl Values {
    fn seen_by(&self, tenant: TenantId, key: &ConfigKey) -> Option<&Item> {
        match self.stages.get(key) {
            Some(stage) if stage.rollout.holds_back(stage.newest, tenant) => stage.before.as_ref(),
            _ => self.items.get(key),
        }
    }

    fn put(&mut self, key: &ConfigKey, version: Version, item: Option<Item>) -> Option<Item> {
        let before = match item {
            Some(item) => self.items.insert(key.clone(), item),
            None => self.items.remove(key),
        };
        if let Some(stage) = self.stages.get_mut(key) {
            stage.newest = version;
            if version == stage.rollout.candidate {
                stage.before.clone_from(&before);
            } else if version > stage.rollout.candidate {
                self.stages.remove(key);
            }
        }
        before
    }

    fn roll_out(&mut self, key: &ConfigKey, rollout: Option<&Arc<Rollout>>) {
        let Some(rollout) = rollout.filter(|rollout| rollout.state.is_under_way()) else {
            self.stages.remove(key);
            return;
        };
        let newest = self.items.get(key).map_or(0, |item| item.stored.version);
        let begun = || Stage { rollout: rollout.clone(), newest, before: None };
        match self.stages.get_mut(key) {
            Some(stage) if stage.rollout.candidate == rollout.candidate => stage.rollout = rollout.clone(),
            _ => drop(self.stages.insert(key.clone(), begun())),
        }
    }
}

#[derive(Debug)]
enum Slot {
    /// It is being read, by the load with this number; changes that come
    /// meanwhile wait.
    Loading(u64, Vec<Change>),
    Here(Values),
}

/// Something new of a key.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its number in the log.
    pub revision: Revision,
    /// Where.
    pub scope: Scope,
    /// Of which key.
    pub key: ConfigKey,
    /// What.
    pub news: News,
}

/// What is new of a key.
#[derive(Debug, Clone)]
pub enum News {
    /// A version.
    Version(Version, Option<Item>),
    /// Where its rollout is; nowhere any more where there is none.
    Rollout(Option<Arc<Rollout>>),
}

/// What a batch of changes means to a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    /// For whom.
    pub tenant: TenantId,
    /// What its watchers are told.
    pub told: Arc<Told>,
}

/// What watchers are told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Up to which revision.
    pub revision: Revision,
    /// All of it, encoded; nothing where that is long.
    pub parts: Bytes,
    /// Whether all of it is more than is told at once.
    pub is_long: bool,
    /// One by one, for those who do not watch everything.
    pub single: Vec<Single>,
}

/// A key that has another value now, or none.
#[derive(Debug, Clone)]
pub struct Single {
    /// Which.
    pub key: ConfigKey,
    /// What is there; none where nothing is any more.
    pub item: Option<Item>,
}

impl PartialEq for Single {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.mark() == other.mark()
    }
}

impl Eq for Single {}

impl Single {
    fn mark(&self) -> Option<(&Scope, Version)> {
        self.item.as_ref().map(|item| (&item.stored.scope, item.stored.version))
    }

    /// About how many bytes of a delta it is.
    fn length(&self, reveal: bool) -> usize {
        self.item.as_ref().map_or_else(|| self.key.as_str().len(), |item| item.length(reveal))
    }

    /// Appends it to a delta.
    pub fn put(&self, parts: &mut BytesMut) {
        match &self.item {
            Some(item) => parts.extend_from_slice(&item.part),
            None => wire::put_removed(&self.key, parts),
        }
    }
}

/// What tenants saw of keys.
type Seen = HashMap<(TenantId, ConfigKey), Option<(Scope, Version)>>;

fn mark(item: &Item) -> (Scope, Version) {
    (item.stored.scope.clone(), item.stored.version)
}

/// What tells a [`Single`] from others.
type Mark = (ConfigKey, Option<(Scope, Version)>);

/// Whether the values of a scope are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Nobody has asked for it.
    Absent,
    /// It is being read.
    Loading,
    /// It is there.
    Here,
}

/// The state of a hub.
#[derive(Debug, Default)]
pub struct State {
    /// Everything up to here was taken in.
    pub applied: Revision,
    tags: Arc<TagTable>,
    scopes: HashMap<Scope, Slot>,
    tenants: HashMap<TenantId, Lineage>,
    watching: HashMap<Scope, HashSet<TenantId>>,
    bytes: usize,
    loads: u64,
}

impl State {
    /// About how much memory the values take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The tags by which it is decided what is inherited.
    #[must_use]
    pub fn tags(&self) -> &Arc<TagTable> {
        &self.tags
    }

    /// Other tags, which hold for what comes from now on; whether tenants may see
    /// something else by them.
    pub fn set_tags(&mut self, tags: Arc<TagTable>) -> bool {
        let shows_more = !self.tags.shows_the_same(&tags);
        self.tags = tags;
        shows_more
    }

    /// Whether the values of a scope are there.
    #[must_use]
    pub fn presence(&self, scope: &Scope) -> Presence {
        match self.scopes.get(scope) {
            None => Presence::Absent,
            Some(Slot::Loading(..)) => Presence::Loading,
            Some(Slot::Here(_)) => Presence::Here,
        }
    }

    /// From now on changes of the scope are kept for when it is there; the
    /// number of the load.
    pub fn begin(&mut self, scope: &Scope) -> u64 {
        self.loads += 1;
        self.scopes.insert(scope.clone(), Slot::Loading(self.loads, Vec::new()));
        self.loads
    }

    /// It could not be read: whoever needs it begins again.
    pub fn abandon(&mut self, scope: &Scope, load: u64) {
        if matches!(self.scopes.get(scope), Some(Slot::Loading(now, _)) if *now == load) {
            self.scopes.remove(scope);
        }
    }

    /// The values of a scope, as they were at a revision. A load that was
    /// overtaken by another changes nothing.
    pub fn load(&mut self, scope: &Scope, load: u64, values: Values) {
        let waited = match self.scopes.get_mut(scope) {
            Some(Slot::Loading(now, waited)) if *now == load => std::mem::take(waited),
            _ => return,
        };
        self.bytes += values.items.values().map(Item::bytes).sum::<usize>();
        self.scopes.insert(scope.clone(), Slot::Here(values));
        for change in waited {
            self.take(&change);
        }
    }

    /// Up to which revision at the least the scopes of a tenant were read.
    #[must_use]
    pub fn at(&self, lineage: &Lineage) -> Revision {
        let at = |scope: &Scope| match self.scopes.get(scope) {
            Some(Slot::Here(values)) => values.at,
            _ => 0,
        };
        lineage.scopes().iter().map(at).max().unwrap_or(0)
    }

    /// A tenant that is watched from now on; all its scopes are there.
    pub fn watch(&mut self, lineage: Lineage) {
        for scope in lineage.scopes() {
            self.watching.entry(scope).or_default().insert(lineage.tenant);
        }
        self.tenants.insert(lineage.tenant, lineage);
    }

    /// Nobody watches the tenant any more, and what nobody else needs goes.
    pub fn forget(&mut self, tenant: TenantId) {
        let Some(lineage) = self.tenants.remove(&tenant) else { return };
        for scope in lineage.scopes() {
            let Some(others) = self.watching.get_mut(&scope) else { continue };
            others.remove(&tenant);
            if others.is_empty() {
                self.watching.remove(&scope);
                self.drop_values(&scope);
            }
        }
    }

    /// Drops what nobody watches: a load whose watcher went away leaves it.
    pub fn sweep(&mut self) {
        let is_left = |scope: &&Scope| !self.watching.contains_key(*scope);
        let left: Vec<Scope> = self.scopes.keys().filter(is_left).cloned().collect();
        left.into_iter()
            .filter(|scope| self.presence(scope) == Presence::Here)
            .collect::<Vec<_>>()
            .iter()
            .for_each(|scope| self.drop_values(scope));
    }

    /// Begins anew at a revision, with nothing.
    pub fn reset(&mut self, applied: Revision) {
        let (tags, loads) = (std::mem::take(&mut self.tags), self.loads);
        *self = Self { applied, tags, loads, ..Self::default() };
    }

    /// Drops a scope, also one that is being read, so that it is read again.
    pub fn drop_values(&mut self, scope: &Scope) {
        if let Some(Slot::Here(values)) = self.scopes.remove(scope) {
            let freed = values.items.values().map(Item::bytes).sum::<usize>();
            self.bytes = self.bytes.saturating_sub(freed);
        }
    }

    /// The tenants that are watched.
    pub fn tenants(&self) -> impl Iterator<Item = &Lineage> {
        self.tenants.values()
    }

    /// What decides what a watched tenant sees.
    #[must_use]
    pub fn lineage(&self, tenant: TenantId) -> Option<&Lineage> {
        self.tenants.get(&tenant)
    }

    /// Everything that a watched tenant sees, by key.
    #[must_use]
    pub fn seen(&self, tenant: TenantId) -> Vec<Item> {
        let Some(lineage) = self.tenants.get(&tenant) else { return Vec::new() };
        let mut seen: BTreeMap<&ConfigKey, &Item> = BTreeMap::new();
        for scope in lineage.scopes() {
            let Some(Slot::Here(values)) = self.scopes.get(&scope) else { continue };
            let is_others = scope.tenant().is_some_and(|owner| owner != tenant);
            let keys = values.items.keys().chain(values.stages.keys());
            for key in keys.filter(|key| !is_others || self.is_inherited(key)) {
                if let Some(item) = values.seen_by(tenant, key) {
                    seen.insert(key, item);
                }
            }
        }
        seen.into_values().cloned().collect()
    }

    /// Takes changes in, and says what they mean to whom.
    pub fn apply(&mut self, changes: &[Change], revision: Revision) -> Vec<Meaning> {
        let was = self.seen_of_staged(changes);
        // Per scope and key, whether something was there before.
        let mut touched: BTreeMap<(Scope, ConfigKey), bool> = BTreeMap::new();
        for change in changes {
            if let Some(was_there) = self.take(change) {
                let place = (change.scope.clone(), change.key.clone());
                // A stage shows and hides what is there.
                let is_stage = matches!(change.news, News::Rollout(_));
                touched.entry(place).and_modify(|known| *known |= is_stage).or_insert(was_there);
            }
        }
        self.applied = self.applied.max(revision);
        self.meanings(&touched, &was, revision)
    }

    /// What tenants see of those keys of which not all see the same, or will:
    /// many are told of nothing when a stage begins or ends.
    fn seen_of_staged(&self, changes: &[Change]) -> Seen {
        let mut seen = Seen::new();
        for change in changes {
            let Some(Slot::Here(values)) = self.scopes.get(&change.scope) else { continue };
            if matches!(change.news, News::Version(..)) && !values.stages.contains_key(&change.key) {
                continue;
            }
            for tenant in self.watching.get(&change.scope).into_iter().flatten() {
                let Some(lineage) = self.tenants.get(tenant) else { continue };
                let mark = || self.effective(lineage, &change.key).map(mark);
                seen.entry((*tenant, change.key.clone())).or_insert_with(mark);
            }
        }
        seen
    }

    /// What a tenant sees of a key.
    fn effective(&self, lineage: &Lineage, key: &ConfigKey) -> Option<&Item> {
        let is_inherited = self.is_inherited(key);
        let is_closed =
            |scope: &Scope| !is_inherited && scope.tenant().is_some_and(|owner| owner != lineage.tenant);
        let mut scopes = lineage.scopes().into_iter().rev().filter(|scope| !is_closed(scope));
        scopes.find_map(|scope| match self.scopes.get(&scope) {
            Some(Slot::Here(values)) => values.seen_by(lineage.tenant, key),
            _ => None,
        })
    }

    /// Whether it cannot be known any more what those see whom a rollout does
    /// not reach: its version was taken in without it.
    #[must_use]
    pub fn lacks_before(&self, scope: &Scope, key: &ConfigKey, rollout: &Rollout, taken: &[Change]) -> bool {
        let Some(Slot::Here(values)) = self.scopes.get(scope) else { return false };
        let is_candidate = |version: Version| version == rollout.candidate;
        let of_key = || taken.iter().filter(|change| change.scope == *scope && change.key == *key);
        let is_known = values.stages.get(key).is_some_and(|stage| is_candidate(stage.rollout.candidate))
            || of_key().any(
                |change| matches!(&change.news, News::Rollout(Some(known)) if is_candidate(known.candidate)),
            );
        let is_there = values.items.get(key).is_some_and(|item| is_candidate(item.stored.version))
            || of_key()
                .any(|change| matches!(change.news, News::Version(version, _) if is_candidate(version)));
        rollout.state.is_under_way() && is_there && !is_known
    }

    /// Takes one change in; whether something was there before, or nothing
    /// where it is of no scope that is there, or known already.
    fn take(&mut self, change: &Change) -> Option<bool> {
        match self.scopes.get_mut(&change.scope)? {
            Slot::Loading(_, waiting) => {
                waiting.push(change.clone());
                None
            }
            Slot::Here(values) if change.revision <= values.at => None,
            Slot::Here(values) => match &change.news {
                News::Version(version, item) => {
                    self.bytes += item.as_ref().map_or(0, Item::bytes);
                    // Where it was removed in stages, the others saw something.
                    let was_staged = values.stages.contains_key(&change.key);
                    let before = values.put(&change.key, *version, item.clone());
                    self.bytes = self.bytes.saturating_sub(before.as_ref().map_or(0, Item::bytes));
                    Some(before.is_some() || was_staged)
                }
                News::Rollout(rollout) => {
                    values.roll_out(&change.key, rollout.as_ref());
                    Some(true)
                }
            },
        }
    }

    fn meanings(
        &self,
        touched: &BTreeMap<(Scope, ConfigKey), bool>,
        was: &Seen,
        revision: Revision,
    ) -> Vec<Meaning> {
        let mut concerned: HashMap<TenantId, Vec<&ConfigKey>> = HashMap::new();
        for (scope, key) in touched.keys() {
            for tenant in self.watching.get(scope).into_iter().flatten() {
                let keys = concerned.entry(*tenant).or_default();
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        // Most see the same: it is encoded once.
        let mut known: HashMap<Vec<Mark>, Arc<Told>> = HashMap::new();
        let mut meanings = Vec::new();
        for (tenant, keys) in concerned {
            let Some(lineage) = self.tenants.get(&tenant) else { continue };
            let is_new = |one: &Single| {
                let before = was.get(&(tenant, one.key.clone()));
                before.is_none_or(|before| *before != one.item.as_ref().map(mark))
            };
            let changed = keys.into_iter().filter_map(|key| self.change_of(lineage, key, touched));
            let single: Vec<Single> = changed.filter(is_new).collect();
            if single.is_empty() {
                continue;
            }
            let marks: Vec<_> = single
                .iter()
                .map(|one| (one.key.clone(), one.mark().map(|(scope, version)| (scope.clone(), version))))
                .collect();
            let told = known.entry(marks).or_insert_with(|| Arc::new(told(revision, single)));
            meanings.push(Meaning { tenant, told: told.clone() });
        }
        meanings
    }

    /// What a tenant sees of a key now, where that may have changed.
    fn change_of(
        &self,
        lineage: &Lineage,
        key: &ConfigKey,
        touched: &BTreeMap<(Scope, ConfigKey), bool>,
    ) -> Option<Single> {
        let is_inherited = self.is_inherited(key);
        let mut is_uncovered = false;
        for scope in lineage.scopes().into_iter().rev() {
            if !is_inherited && scope.tenant().is_some_and(|owner| owner != lineage.tenant) {
                continue;
            }
            let was_there = touched.get(&(scope.clone(), key.clone()));
            let item = match self.scopes.get(&scope) {
                Some(Slot::Here(values)) => values.seen_by(lineage.tenant, key),
                _ => None,
            };
            match (item, was_there) {
                (Some(item), Some(_)) => return Some(Single { key: key.clone(), item: Some(item.clone()) }),
                // Something closer has gone, or nothing closer has changed.
                (Some(item), None) => {
                    return is_uncovered.then(|| Single { key: key.clone(), item: Some(item.clone()) });
                }
                (None, Some(true)) => is_uncovered = true,
                (None, Some(false) | None) => {}
            }
        }
        is_uncovered.then(|| Single { key: key.clone(), item: None })
    }

    /// Whether tenants below a tenant see what it has under the key.
    fn is_inherited(&self, key: &ConfigKey) -> bool {
        self.tags.of(key).is_ok_and(|tag| tag.inherited)
    }
}

/// How many bytes of a delta these are; none where that is more than is told at
/// once. One alone is always told.
pub fn short<'s>(single: impl Iterator<Item = &'s Single> + Clone, reveal: bool) -> Option<usize> {
    let bytes = single.clone().map(|one| one.length(reveal)).sum();
    (bytes <= LONG || single.count() == 1).then_some(bytes)
}

fn told(revision: Revision, single: Vec<Single>) -> Told {
    let is_long = short(single.iter(), false).is_none();
    let mut parts = BytesMut::new();
    if !is_long {
        single.iter().for_each(|one| one.put(&mut parts));
    }
    Told { revision, parts: parts.freeze(), is_long, single }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
