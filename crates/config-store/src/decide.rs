//! What becomes of a write, decided on what is there while the clock is locked.
//! Pure: a refused transaction leaves everything as it was, and the next one is
//! decided on what the ones before it have made.

use std::collections::{BTreeMap, BTreeSet};

use insula_config_model::{
    ConfigKey, ConfigValue, LABEL_CURRENT, LABEL_PREVIOUS, Label, Made, RequestToken, Revision, Room,
    SCHEMA_KEYS, Scope, Transaction, Version, Write, WriteOp, Written,
};
use insula_problem::{Code, Problem};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::usage::{OfKey, Quota, Step, Usage};

/// The most labels on the versions of one key.
const LABELS_MAX: usize = 100;

/// A key in a scope.
pub(crate) type Place = (Scope, ConfigKey);

/// A version of before that a write refers to, opened where it is a secret.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Old {
    There(Option<ConfigValue>),
    /// It does not open.
    Unreadable,
}

/// The newest version of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newest {
    pub version: Version,
    pub revision: Revision,
    pub is_removal: bool,
}

/// What is known of a key: of labels and versions, what the batch asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct KeyState {
    pub newest: Option<Newest>,
    pub labels: BTreeMap<Label, Version>,
    pub versions: BTreeMap<Version, Old>,
    pub usage: OfKey,
}

/// What a request is known again by: keyed, since it may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hashed {
    pub hash: Vec<u8>,
    pub key_generation: i32,
}

/// What was done under a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    pub hash: Hashed,
    pub answer: Vec<Written>,
}

impl Answered {
    /// Whether the request was only begun: which version it would make is known,
    /// and no change of the log.
    pub fn is_begun(&self) -> bool {
        !self.answer.is_empty() && self.answer.iter().all(|written| written.revision == 0)
    }
}

/// What is there, as far as a batch asks for it.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The newest revision.
    pub revision: Revision,
    pub keys: BTreeMap<Place, KeyState>,
    /// The tenants that are read and written here.
    pub open: BTreeSet<Scope>,
    /// The large values that are there.
    pub blobs: BTreeSet<(Scope, String)>,
    /// What the scopes have, and what each may have.
    pub usage: BTreeMap<Scope, Usage>,
    pub quota: Quota,
    /// The version of the table of tags that is here.
    pub tags: Version,
    /// The newest change of the schemas of each scope that was asked for.
    pub schemas: BTreeMap<Scope, Revision>,
}

/// A change that was decided.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    pub revision: Revision,
    pub place: Place,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    Version {
        version: Version,
        value: Option<ConfigValue>,
        note: String,
        history: u32,
        /// When a backend outside has made it.
        made_at: Option<OffsetDateTime>,
    },
    Label {
        label: Label,
        version: Option<Version>,
    },
}

/// What a transaction comes to.
#[derive(Debug)]
pub(crate) struct Decided {
    pub written: Vec<Written>,
    pub changes: Vec<Change>,
}

/// The scope in which a transaction's token counts.
pub(crate) fn token_place(transaction: &Transaction) -> Option<(Scope, RequestToken)> {
    let first = transaction.writes.first()?;
    Some((first.scope.clone(), transaction.token.clone()?))
}

/// What is said of a write that was decided by a table of tags that is not the
/// newest any more.
const BY_OLD_TAGS: &str = "The table of tags has just changed.";

/// Whether a write was refused since a newer table of tags decides where its
/// values are kept. Nothing was written here; decided anew it may be done.
#[must_use]
pub fn is_by_old_tags(problem: &Problem) -> bool {
    problem.code() == Code::ConfigMoving && problem.detail() == BY_OLD_TAGS
}

/// What is said of a write whose values were held against schemas that do not
/// hold any more.
const BY_OLD_SCHEMAS: &str = "The schemas that count have just changed.";

/// Whether a write was refused since other schemas count than those that its
/// values were held against. Nothing was written here; looked at anew it may be done.
#[must_use]
pub fn is_by_old_schemas(problem: &Problem) -> bool {
    problem.code() == Code::Unavailable && problem.detail() == BY_OLD_SCHEMAS
}

impl State {
    /// What a transaction would come to, which is not decided by this.
    pub fn plan(&self, transaction: &Transaction) -> Result<Decided, Problem> {
        let (written, draft) = self.draft(transaction)?;
        Ok(Decided { written, changes: draft.changes })
    }

    fn draft(&self, transaction: &Transaction) -> Result<(Vec<Written>, Draft<'_>), Problem> {
        if transaction.tags.is_some_and(|known| known < self.tags) {
            return Err(Problem::new(Code::ConfigMoving, BY_OLD_TAGS).retry_after(1));
        }
        let newest = |scope: &Scope| self.schemas.get(scope).copied().unwrap_or(0);
        if transaction.schemas.iter().any(|(scope, known)| newest(scope) != *known) {
            return Err(Problem::new(Code::Unavailable, BY_OLD_SCHEMAS).retry_after(1));
        }
        let (keys, usage) = (BTreeMap::new(), BTreeMap::new());
        let mut draft = Draft { state: self, keys, usage, changes: Vec::new() };
        let written = transaction.writes.iter().map(|write| draft.write(write)).collect::<Result<_, _>>()?;
        Ok((written, draft))
    }

    /// Decides a transaction, all of it or nothing.
    pub fn decide(&mut self, transaction: &Transaction) -> Result<Decided, Problem> {
        let (written, draft) = self.draft(transaction)?;
        let Draft { keys, usage, changes, .. } = draft;
        if let Some(last) = changes.last() {
            self.revision = last.revision;
        }
        for change in changes.iter().filter(|change| change.place.1.as_str().starts_with(SCHEMA_KEYS)) {
            self.schemas.insert(change.place.0.clone(), change.revision);
        }
        self.keys.extend(keys);
        self.usage.extend(usage);
        Ok(Decided { written, changes })
    }
}

struct Draft<'s> {
    state: &'s State,
    keys: BTreeMap<Place, KeyState>,
    usage: BTreeMap<Scope, Usage>,
    changes: Vec<Change>,
}

impl Draft<'_> {
    fn write(&mut self, write: &Write) -> Result<Written, Problem> {
        if write.scope.tenant().is_some() && !self.state.open.contains(&write.scope) {
            return Err(crate::homes::moving());
        }
        let place = (write.scope.clone(), write.key.clone());
        let known = self.keys.get(&place).or_else(|| self.state.keys.get(&place));
        let key = known.cloned().unwrap_or_default();
        if let Some(made) = &write.made {
            return self.take_over(write, place, key, made);
        }
        let next = key.newest.map_or(0, |newest| newest.version) + 1;
        meets(write, key.newest)?;
        match &write.op {
            WriteOp::Put(value) => {
                self.check(write, value)?;
                self.version(write, place, key, (next, Some(value.clone())))
            }
            WriteOp::Remove => {
                if key.newest.is_none_or(|newest| newest.is_removal) {
                    let detail = format!("Nothing is set under {}.", write.key);
                    return Err(Problem::new(Code::ConfigKeyNotFound, detail));
                }
                self.version(write, place, key, (next, None))
            }
            WriteOp::Rollback(to) => {
                let value = old(write, &key, *to)?;
                self.version(write, place, key, (next, value))
            }
            WriteOp::RollbackTo(label) => {
                let value = old(write, &key, labelled(write, &key, label)?)?;
                self.version(write, place, key, (next, value))
            }
            WriteOp::Label(label, version) => self.label(write, place, key, label, *version),
        }
    }

    /// Takes over what a backend has made. What is there already was taken over
    /// before, by whoever was faster; under a condition it is a conflict.
    fn take_over(
        &mut self,
        write: &Write,
        place: Place,
        key: KeyState,
        made: &Made,
    ) -> Result<Written, Problem> {
        let there = key.newest.map_or(0, |newest| newest.version);
        if let Some(behind) = made.behind.filter(|behind| *behind != there) {
            return Err(conflict(write, behind, there));
        }
        match key.newest {
            Some(newest) if there >= made.version => {
                Ok(Written { version: made.version, revision: newest.revision })
            }
            _ => self.version(write, place, key, (made.version, made.value.clone())),
        }
    }

    fn check(&self, write: &Write, value: &ConfigValue) -> Result<(), Problem> {
        match value {
            ConfigValue::Json(_) | ConfigValue::Secret(_) => Ok(()),
            ConfigValue::Sealed(_) => Err(Problem::internal("a sealed value was written")),
            ConfigValue::Blob(blob) => {
                let is_there = self.state.blobs.contains(&(write.scope.clone(), blob.sha256.clone()));
                let gone = "The large value is not there any more. Send it again.";
                if is_there { Ok(()) } else { Err(Problem::new(Code::Unavailable, gone).retry_after(1)) }
            }
        }
    }

    fn next(&self) -> Revision {
        self.changes.last().map_or(self.state.revision, |last| last.revision) + 1
    }

    fn version(
        &mut self,
        write: &Write,
        place: Place,
        mut key: KeyState,
        (version, value): (Version, Option<ConfigValue>),
    ) -> Result<Written, Problem> {
        let was_set = key.newest.is_some_and(|newest| !newest.is_removal);
        let step = Step::new(&write.key, was_set, value.as_ref());
        let known = self.usage.get(&write.scope).or_else(|| self.state.usage.get(&write.scope));
        let mut usage = known.copied().unwrap_or_default();
        let is_squeezed = usage.take(&self.state.quota, &mut key.usage, step, write.room)?;
        self.usage.insert(write.scope.clone(), usage);
        let least = if write.room == Room::BesideBefore { 2 } else { 1 };
        let history = if is_squeezed { least } else { write.history };
        let revision = self.next();
        key.newest = Some(Newest { version, revision, is_removal: value.is_none() });
        key.versions.insert(version, Old::There(value.clone()));
        let made_at = write.made.as_ref().and_then(|made| made.at);
        let what = What::Version { version, value, note: write.note.clone(), history, made_at };
        self.changes.push(Change { revision, place: place.clone(), what });
        self.keys.insert(place, key);
        Ok(Written { version, revision })
    }

    fn label(
        &mut self,
        write: &Write,
        place: Place,
        mut key: KeyState,
        label: &Label,
        version: Option<Version>,
    ) -> Result<Written, Problem> {
        let Some(newest) = key.newest else {
            let detail = format!("Nothing is set under {}.", write.key);
            return Err(Problem::new(Code::ConfigKeyNotFound, detail));
        };
        if let Some(version) = version.filter(|version| !key.versions.contains_key(version)) {
            return Err(no_version(write, version));
        }
        let shown = version.unwrap_or(newest.version);
        if key.labels.get(label).copied() == version {
            return Ok(Written { version: shown, revision: newest.revision });
        }
        if version.is_some() && !key.labels.contains_key(label) && key.labels.len() >= LABELS_MAX {
            let detail = format!("{} has {LABELS_MAX} labels already, and no more fit.", write.key);
            return Err(Problem::new(Code::ConfigLabelInvalid, detail));
        }
        match version {
            Some(version) => key.labels.insert(label.clone(), version),
            None => key.labels.remove(label),
        };
        let revision = self.next();
        let what = What::Label { label: label.clone(), version };
        self.changes.push(Change { revision, place: place.clone(), what });
        self.keys.insert(place, key);
        Ok(Written { version: shown, revision })
    }
}

/// The value of an earlier version, as it is set again: what was in clear before
/// its tag became one of secrets is sealed from now on.
fn old(write: &Write, key: &KeyState, version: Version) -> Result<Option<ConfigValue>, Problem> {
    match key.versions.get(&version).cloned() {
        None => Err(no_version(write, version)),
        Some(Old::Unreadable) => Err(Problem::internal("an earlier version does not open")),
        Some(Old::There(Some(ConfigValue::Json(json)))) if write.is_secret => {
            Ok(Some(ConfigValue::Secret(Zeroizing::new(json.to_vec()))))
        }
        Some(Old::There(Some(ConfigValue::Blob(_)))) if write.is_secret => {
            let detail = format!("Version {version} is a large value, and {} is a secret now.", write.key);
            Err(Problem::new(Code::ConfigValueInvalid, detail))
        }
        Some(Old::There(value)) => Ok(value),
    }
}

/// The version that has a label, now that it is decided.
fn labelled(write: &Write, key: &KeyState, label: &str) -> Result<Version, Problem> {
    let newest = key.newest.map_or(0, |newest| newest.version);
    let version = match label {
        LABEL_CURRENT => Some(newest),
        LABEL_PREVIOUS => Some(newest - 1),
        label => key.labels.iter().find(|(known, _)| known.as_str() == label).map(|(_, version)| *version),
    };
    version.filter(|version| key.versions.contains_key(version)).ok_or_else(|| {
        let shown: String = label.chars().take(60).collect();
        let detail = format!("No version of {} has the label {shown:?} here.", write.key);
        Problem::new(Code::ConfigVersionNotFound, detail)
    })
}

/// Whether the condition of a write is met.
fn meets(write: &Write, newest: Option<Newest>) -> Result<(), Problem> {
    let Some(wanted) = write.if_version else { return Ok(()) };
    let there = newest.map_or(0, |newest| newest.version);
    let is_none = newest.is_none_or(|newest| newest.is_removal);
    if wanted == there || (wanted == 0 && is_none) {
        return Ok(());
    }
    Err(conflict(write, wanted, there))
}

fn conflict(write: &Write, wanted: Version, there: Version) -> Problem {
    let detail = format!("The newest version of {} is {there}, not {wanted}.", write.key);
    Problem::new(Code::ConfigVersionConflict, detail)
}

fn no_version(write: &Write, version: Version) -> Problem {
    Problem::new(Code::ConfigVersionNotFound, format!("There is no version {version} of {}.", write.key))
}
