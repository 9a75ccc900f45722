//! A backend in memory: right, or with one of the defects that backends come
//! with, so that the checks can be seen to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use async_trait::async_trait;
use insula_config_model::{
    Backend, BackendFault, BackendLimits, ConfigKey, ConfigValue, Held, KEY_BYTES_MAX, KeyPrefix, Label,
    NewVersion, Scope, Stored, Sweep, Version,
};
use tokio::sync::{Mutex, MutexGuard};

/// What is wrong with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// It looks at the newest version and writes later.
    LooksThenWrites,
    /// It takes every write, whatever is there.
    NoCondition,
    /// It refuses a write that it has done already.
    RefusesRepeats,
    /// It takes a write for done that another author did.
    TakesOthersForRepeats,
    /// A removal leaves nothing, and numbers begin again.
    ForgetsRemovals,
    /// It keeps the newest version alone.
    NoHistory,
    /// Pages of history share a version.
    PagesOverlap,
    /// It sorts keys as UTF-16 does.
    SortsByUtf16,
    /// `_` in a prefix stands for any character.
    PrefixIsPattern,
    /// It takes `%2F` in a key for a slash.
    DecodesKeys,
    /// It has one place for the values of all scopes.
    OneScope,
    /// It cuts what is too long.
    CutsValues,
    /// It leaves labels when it forgets a scope.
    RemembersLabels,
    /// It labels what is not there.
    LabelsNothing,
    /// A label stays where it was when it is put on another version.
    LabelsStay,
    /// It takes the label away before it finds that the version is not there.
    UnlabelsFirst,
    /// It drops versions with a label.
    TrimsLabelled,
    /// It sees which versions have labels, and drops the others later.
    LooksThenTrims,
    /// A sweep leaves out removed keys.
    SweepsPastRemovals,
}

type Place = (Scope, ConfigKey);

#[derive(Debug, Default)]
struct Kept {
    versions: BTreeMap<Place, BTreeMap<Version, NewVersion>>,
    labels: BTreeMap<Place, BTreeMap<Label, Version>>,
}

/// Keeps values for as long as it lives.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    kept: Mutex<Kept>,
    defect: Option<Defect>,
}

impl MemoryBackend {
    /// One with a defect.
    #[must_use]
    pub fn with(defect: Defect) -> Self {
        Self { defect: Some(defect), ..Self::default() }
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    async fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().await
    }

    fn place(&self, scope: &Scope, key: &ConfigKey) -> Place {
        let scope = if self.has(Defect::OneScope) { Scope::Platform } else { scope.clone() };
        let key =
            if self.has(Defect::DecodesKeys) { key.as_str().replace("%2F", "/") } else { key.to_string() };
        (scope, key.parse().expect("a key"))
    }

    fn stored(&self, kept: &Kept, place: &Place, version: &NewVersion, asked: &ConfigKey) -> Stored {
        let none = BTreeMap::new();
        let labels = kept.labels.get(place).unwrap_or(&none).iter();
        let labels = labels.filter(|(_, at)| **at == version.version).map(|(label, _)| label.clone());
        Stored {
            scope: version.scope.clone(),
            key: asked.clone(),
            version: version.version,
            revision: 0,
            value: version.value.clone().map(|text| ConfigValue::Json(text.into())),
            labels: labels.collect::<BTreeSet<Label>>(),
            author: version.author.clone(),
            at: version.at,
            note: version.note.clone(),
        }
    }

    fn put(&self, kept: &mut Kept, new: &NewVersion) {
        let place = self.place(&new.scope, &new.key);
        if new.value.is_none() && self.has(Defect::ForgetsRemovals) {
            kept.versions.remove(&place);
            return;
        }
        let versions = kept.versions.entry(place).or_default();
        if self.has(Defect::NoHistory) {
            versions.clear();
        }
        let mut new = new.clone();
        if let (Some(value), true) = (&mut new.value, self.has(Defect::CutsValues)) {
            value.truncate(self.limits().value_bytes_max);
        }
        versions.insert(new.version, new);
    }

    /// What to answer where nothing is to be written.
    fn answered(&self, kept: &Kept, new: &NewVersion, expected: Version) -> Option<Result<(), BackendFault>> {
        let place = self.place(&new.scope, &new.key);
        let versions = kept.versions.get(&place);
        let same = versions.and_then(|versions| versions.get(&new.version)).is_some_and(|there| {
            let by_same = there.author == new.author || self.has(Defect::TakesOthersForRepeats);
            there.value == new.value && by_same
        });
        if same && !self.has(Defect::RefusesRepeats) {
            return Some(Ok(()));
        }
        let newest = versions.and_then(|versions| versions.keys().next_back().copied()).unwrap_or(0);
        let too_large = new.value.as_ref().is_some_and(|value| value.len() > self.limits().value_bytes_max);
        if too_large && !self.has(Defect::CutsValues) {
            return Some(Err(BackendFault::Refused("the value is too large".to_owned())));
        }
        let in_order = newest == expected && new.version > expected;
        (!in_order && !self.has(Defect::NoCondition))
            .then_some(Err(BackendFault::Conflict { newest, expected }))
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn name(&self) -> &str {
        "memory"
    }

    fn limits(&self) -> BackendLimits {
        BackendLimits {
            value_bytes_max: 64 << 10,
            key_bytes_max: KEY_BYTES_MAX,
            versions_max: None,
            labels_max: None,
        }
    }

    async fn newest(&self, scope: &Scope, key: &ConfigKey) -> Result<Option<Stored>, BackendFault> {
        Ok(self.history(scope, key, None, 1).await?.pop())
    }

    async fn version(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Option<Stored>, BackendFault> {
        let (kept, place) = (self.kept().await, self.place(scope, key));
        let found = kept.versions.get(&place).and_then(|versions| versions.get(&version));
        Ok(found.map(|found| self.stored(&kept, &place, found, key)))
    }

    async fn list(
        &self,
        scope: &Scope,
        prefix: &KeyPrefix,
        after: Option<&ConfigKey>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        let kept = self.kept().await;
        let covers = |key: &ConfigKey| {
            if !self.has(Defect::PrefixIsPattern) {
                return prefix.covers(key);
            }
            let mut characters = key.as_str().chars();
            prefix
                .as_str()
                .chars()
                .all(|wanted| characters.next().is_some_and(|c| wanted == '_' || c == wanted))
        };
        let mut keys: Vec<&Place> =
            kept.versions.keys().filter(|(of, key)| of == scope && covers(key)).collect();
        keys.retain(|(_, key)| after.is_none_or(|after| key > after));
        if self.has(Defect::SortsByUtf16) {
            keys.sort_by_key(|(_, key)| key.as_str().encode_utf16().collect::<Vec<u16>>());
        }
        let newest = |place: &&Place| {
            let newest = kept.versions[*place].values().next_back()?;
            Some(self.stored(&kept, place, newest, &place.1))
        };
        Ok(keys.iter().filter_map(newest).take(limit as usize).collect())
    }

    async fn history(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        let (kept, place) = (self.kept().await, self.place(scope, key));
        let before = match before {
            Some(before) if self.has(Defect::PagesOverlap) => Bound::Included(before),
            Some(before) => Bound::Excluded(before),
            None => Bound::Unbounded,
        };
        let versions = kept.versions.get(&place).into_iter();
        let versions = versions.flat_map(|versions| versions.range((Bound::Unbounded, before)).rev());
        Ok(versions.take(limit as usize).map(|(_, found)| self.stored(&kept, &place, found, key)).collect())
    }

    async fn write(&self, new: &NewVersion, expected: Version) -> Result<(), BackendFault> {
        let mut kept = self.kept().await;
        if let Some(answer) = self.answered(&kept, new, expected) {
            return answer;
        }
        if self.has(Defect::LooksThenWrites) {
            drop(kept);
            tokio::task::yield_now().await;
            kept = self.kept().await;
        }
        self.put(&mut kept, new);
        Ok(())
    }

    async fn label(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        label: &Label,
        version: Option<Version>,
    ) -> Result<(), BackendFault> {
        let mut kept = self.kept().await;
        let place = self.place(scope, key);
        let exists = version
            .is_none_or(|version| kept.versions.get(&place).is_some_and(|all| all.contains_key(&version)));
        let refused = !exists && !self.has(Defect::LabelsNothing);
        let labels = kept.labels.entry(place).or_default();
        if refused && self.has(Defect::UnlabelsFirst) {
            labels.remove(label);
        }
        match version {
            Some(version) if refused => return Err(BackendFault::NoVersion(version)),
            Some(_) if self.has(Defect::LabelsStay) && labels.contains_key(label) => {}
            Some(version) => drop(labels.insert(label.clone(), version)),
            None => drop(labels.remove(label)),
        }
        Ok(())
    }

    async fn trim(&self, scope: &Scope, key: &ConfigKey, keep: u32) -> Result<u32, BackendFault> {
        let place = self.place(scope, key);
        let mut kept = self.kept().await;
        let mut labelled: BTreeSet<Version> =
            kept.labels.get(&place).into_iter().flat_map(BTreeMap::values).copied().collect();
        if self.has(Defect::TrimsLabelled) {
            labelled.clear();
        }
        if self.has(Defect::LooksThenTrims) {
            drop(kept);
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            kept = self.kept().await;
        }
        let Some(versions) = kept.versions.get_mut(&place) else { return Ok(0) };
        let old: Vec<Version> = versions.keys().rev().skip(keep as usize).copied().collect();
        let dropped = old.iter().filter(|version| !labelled.contains(version));
        let dropped: u32 = dropped.map(|version| u32::from(versions.remove(version).is_some())).sum();
        Ok(dropped)
    }

    async fn forget(&self, scope: &Scope) -> Result<(), BackendFault> {
        let mut kept = self.kept().await;
        kept.versions.retain(|(of, _), _| of != scope);
        if !self.has(Defect::RemembersLabels) {
            kept.labels.retain(|(of, _), _| of != scope);
        }
        Ok(())
    }

    fn place_of(&self, name: &str) -> Option<(Scope, ConfigKey)> {
        let (scope, key) = name.split_once(' ')?;
        Some((scope.parse().ok()?, key.parse().ok()?))
    }

    async fn sweep(&self, from: Option<&str>, limit: u32) -> Result<Sweep, BackendFault> {
        let kept = self.kept().await;
        let start: usize = from.map_or(0, |from| from.parse().expect("our own cursor"));
        let part = kept.versions.iter().skip(start).take(limit as usize);
        let mut held: Vec<Held> = Vec::new();
        for ((scope, key), versions) in part {
            let Some(newest) = versions.values().next_back() else { continue };
            if newest.value.is_some() || !self.has(Defect::SweepsPastRemovals) {
                held.push(Held { scope: scope.clone(), key: key.clone(), version: newest.version });
            }
        }
        let end = start + limit as usize;
        Ok(Sweep { held, next: (end < kept.versions.len()).then(|| end.to_string()) })
    }
}
