//! What is in etcd of a key, and what follows from it: whether somebody wrote
//! past us, whether a write may be done, which versions are dropped. Pure.

use std::collections::{BTreeMap, BTreeSet};

use insula_config_model::{BackendFault, Label, NewVersion, Version};

use crate::client::wire::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::client::wire::{Compare, KeyValue};
use crate::record::{Head, Record, Unreadable};

/// A key at one moment.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When the plain value was written; 0 where there is none.
    pub(crate) value_at: i64,
    /// When the head was written; 0 where there is none.
    pub(crate) head_at: i64,
    pub(crate) head: Option<Head>,
    /// The newest version that was written down.
    pub(crate) newest: Option<Record>,
    /// The version that was asked for.
    pub(crate) asked: Option<Record>,
    pub(crate) labels: BTreeMap<Label, Version>,
}

/// What to do with a write.
#[derive(Debug)]
pub(crate) enum Decided {
    Write,
    Done,
    Refused(BackendFault),
}

impl Seen {
    /// From the ranges: value (its name alone), head, newest version, labels, version asked for.
    pub(crate) fn parse(ranges: &[Vec<KeyValue>]) -> Result<Self, Unreadable> {
        let first = |at: usize| ranges.get(at).and_then(|range| range.first());
        let record = |at| first(at).map(|kv| Record::parse(&kv.key, &kv.value)).transpose();
        Ok(Self {
            value_at: first(0).map_or(0, |kv| kv.mod_revision),
            head_at: first(1).map_or(0, |kv| kv.mod_revision),
            head: first(1).map(|kv| Head::parse(&kv.key, &kv.value)).transpose()?,
            newest: record(2)?,
            asked: record(4)?,
            labels: ranges.get(3).into_iter().flatten().filter_map(label).collect(),
        })
    }

    /// The number of the newest version; 0 where there is none.
    pub(crate) fn version(&self) -> Version {
        let of_head = self.head.as_ref().map_or(0, |head| head.version);
        self.newest.as_ref().map_or(0, |newest| newest.head.version).max(of_head)
    }

    /// Whether somebody wrote or removed the value past us: what we write of a
    /// value and its head has one revision.
    pub(crate) fn is_foreign(&self) -> bool {
        let written = |record: &Record| !record.head.removed;
        is_foreign(self.value_at, self.head_at, self.head.as_ref())
            || (self.value_at == 0 && self.head.is_none() && self.newest.as_ref().is_some_and(written))
    }

    pub(crate) fn decide(&self, new: &NewVersion, expected: Version) -> Decided {
        let same = |there: &Record| there.value == new.value && there.head.author == new.author;
        if self.asked.as_ref().is_some_and(same) {
            return Decided::Done;
        }
        let newest = self.version();
        if newest == expected && new.version > expected {
            Decided::Write
        } else {
            Decided::Refused(BackendFault::Conflict { newest, expected })
        }
    }

    pub(crate) fn labels_of(&self, version: Version) -> BTreeSet<Label> {
        labels_of(&self.labels, version)
    }
}

/// Whether a value was written past the head that stands beside it.
pub(crate) fn is_foreign(value_at: i64, head_at: i64, head: Option<&Head>) -> bool {
    match (value_at, head) {
        (0, None) => false,
        (0, Some(head)) => !head.removed,
        (value_at, _) => value_at != head_at,
    }
}

pub(crate) fn labels_of(labels: &BTreeMap<Label, Version>, version: Version) -> BTreeSet<Label> {
    labels.iter().filter(|(_, on)| **on == version).map(|(label, _)| label.clone()).collect()
}

/// A label and the version that it is on.
pub(crate) fn label(kv: &KeyValue) -> Option<(Label, Version)> {
    let name = std::str::from_utf8(&kv.key).ok()?;
    let (_, label) = name.rsplit_once(' ')?;
    Some((label.parse().ok()?, std::str::from_utf8(&kv.value).ok()?.parse().ok()?))
}

/// The versions to drop, of those that there are.
pub(crate) fn dropped(versions: &BTreeSet<Version>, labelled: &BTreeSet<Version>, keep: u32) -> Vec<Version> {
    let old = versions.iter().rev().skip(keep.max(1) as usize);
    old.filter(|version| !labelled.contains(version)).copied().collect()
}

/// That a name was last written at this revision; 0 where it is not there.
pub(crate) fn unchanged(name: String, at: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: name.into_bytes(),
        target_union: Some(TargetUnion::ModRevision(at)),
        range_end: Vec::new(),
    }
}

/// That a name is there.
pub(crate) fn is_there(name: String) -> Compare {
    Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Create.into(),
        key: name.into_bytes(),
        target_union: Some(TargetUnion::CreateRevision(0)),
        range_end: Vec::new(),
    }
}

/// That nothing in a range was written behind this revision.
pub(crate) fn none_behind(from: String, end: Vec<u8>, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Less.into(),
        target: CompareTarget::Mod.into(),
        key: from.into_bytes(),
        target_union: Some(TargetUnion::ModRevision(revision.saturating_add(1))),
        range_end: end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn record(version: Version, value: Option<&str>) -> Record {
        let value = value.map(|value| value.as_bytes().to_vec());
        Record::external(version, value, datetime!(2026-03-01 09:30 UTC))
    }

    fn seen(value_at: i64, head_at: i64, newest: Option<Record>) -> Seen {
        let head = newest.as_ref().filter(|_| head_at > 0).map(|newest| newest.head.clone());
        Seen { value_at, head_at, head, newest, ..Seen::default() }
    }

    #[test]
    fn what_others_wrote_is_seen() {
        let (there, gone) = (Some(record(3, Some("1"))), Some(record(3, None)));
        assert!(!seen(0, 0, None).is_foreign());
        assert!(!seen(9, 9, there.clone()).is_foreign());
        assert!(!seen(0, 9, gone.clone()).is_foreign());
        assert!(!seen(0, 0, gone.clone()).is_foreign());
        assert!(seen(10, 9, there.clone()).is_foreign(), "written");
        assert!(seen(0, 9, there.clone()).is_foreign(), "removed");
        assert!(seen(0, 0, there).is_foreign(), "removed with its head");
        assert!(seen(10, 9, gone).is_foreign(), "written after a removal");
        assert!(seen(10, 0, None).is_foreign(), "written first by others");
    }

    #[test]
    fn the_newest_and_the_labelled_stay() {
        let versions: BTreeSet<Version> = (1..=6).collect();
        assert_eq!(dropped(&versions, &BTreeSet::from([2]), 3), [3, 1]);
        assert_eq!(dropped(&versions, &BTreeSet::new(), 0).len(), 5);
    }
}
