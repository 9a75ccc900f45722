//! Brings what one backend has of a key to another: versions with their numbers,
//! authors and times, and labels. It can be repeated at any point, and repeated
//! it brings what is new; so a tag changes its backend by being carried while it
//! is written, and once more while its writes are held.

use std::collections::{BTreeMap, BTreeSet};

use crate::backend::{Backend, BackendFault, NewVersion, author_of};
use crate::key::ConfigKey;
use crate::scope::Scope;
use crate::stored::{Stored, Version};
use crate::value::{ConfigValue, meaning, sealed_letters};
use crate::write::Label;

/// How many versions are asked for at once.
const PAGE: u32 = 64;

/// What there is of a key, without the values.
#[derive(Debug, Default, PartialEq, Eq)]
struct Index {
    versions: BTreeSet<Version>,
    labels: BTreeMap<Label, Version>,
}

impl Index {
    fn newest(&self) -> Version {
        self.versions.last().copied().unwrap_or(0)
    }

    /// The versions that a backend with this bound is given: half as many as it
    /// holds, so that it has room for more, and those with a label.
    fn behind(&self, reached: Version, bound: Option<u32>) -> Vec<Version> {
        let missing = self.versions.iter().filter(|version| **version > reached);
        let mut missing: Vec<Version> = missing.copied().collect();
        let room = bound.map_or(usize::MAX, |bound| bound as usize / 2);
        let too_many = missing.len().saturating_sub(room);
        let labelled: BTreeSet<Version> = self.labels.values().copied().collect();
        let mut seen = 0;
        missing.retain(|version| {
            seen += 1;
            seen > too_many || labelled.contains(version)
        });
        missing
    }
}

async fn index(backend: &dyn Backend, scope: &Scope, key: &ConfigKey) -> Result<Index, BackendFault> {
    let (mut index, mut before) = (Index::default(), None);
    loop {
        let page = backend.history(scope, key, before, PAGE).await?;
        let Some(last) = page.last() else { return Ok(index) };
        before = Some(last.version);
        for stored in page {
            index.versions.insert(stored.version);
            index.labels.extend(stored.labels.into_iter().map(|label| (label, stored.version)));
        }
    }
}

fn new_version(stored: Stored) -> Result<NewVersion, BackendFault> {
    let value = match stored.value {
        Some(ConfigValue::Json(text)) => Some(text.to_vec()),
        None => None,
        Some(_) => return Err(BackendFault::Refused("a backend gave a value that is no text".to_owned())),
    };
    let Stored { scope, key, version, author, at, note, .. } = stored;
    Ok(NewVersion { scope, key, version, value, author, at, note })
}

/// Brings a key from one backend to another; how many versions were brought.
/// What the other has dropped, or never had room for, is left out.
///
/// A version of the other that was a request of ours, and is not here, was never
/// acknowledged: what is here stands above it.
///
/// # Errors
/// [`BackendFault::Refused`] where the other has something else under a number,
/// or versions that this one has not, or cannot hold a value;
/// [`BackendFault::Conflict`] where only a higher number than ours could stand
/// above what was never acknowledged; what either backend answers.
pub async fn carry(
    from: &dyn Backend,
    to: &dyn Backend,
    scope: &Scope,
    key: &ConfigKey,
) -> Result<u32, BackendFault> {
    let (ours, theirs) = (index(from, scope, key).await?, index(to, scope, key).await?);
    let mut reached = theirs.newest();
    if reached > 0 {
        agree(from, to, scope, key, (reached, ours.newest())).await?;
    }
    let mut count = 0;
    for version in ours.behind(reached, to.limits().versions_max) {
        // One that was dropped meanwhile is not missed.
        let Some(stored) = from.version(scope, key, version).await? else { continue };
        to.write(&new_version(stored)?, reached).await?;
        reached = version;
        count += 1;
    }
    for (label, version) in &ours.labels {
        if theirs.labels.get(label) != Some(version) {
            to.label(scope, key, label, Some(*version)).await?;
        }
    }
    for label in theirs.labels.keys().filter(|label| !ours.labels.contains_key(*label)) {
        to.label(scope, key, label, None).await?;
    }
    Ok(count)
}

/// Refuses where the newest version of the other is not one of ours.
async fn agree(
    from: &dyn Backend,
    to: &dyn Backend,
    scope: &Scope,
    key: &ConfigKey,
    (theirs, ours): (Version, Version),
) -> Result<(), BackendFault> {
    let differ = || {
        let (from, to) = (from.name(), to.name());
        BackendFault::Refused(format!("{to} has another version {theirs} of {key} than {from}"))
    };
    let (here, there) = (from.version(scope, key, theirs).await?, to.version(scope, key, theirs).await?);
    let is_same = match (&here, &there) {
        (Some(here), Some(there)) => is_alike(here, there),
        _ => theirs <= ours,
    };
    if is_same {
        return Ok(());
    }
    let is_undone = there.is_some_and(|there| author_of(&there.author) != there.author);
    match (is_undone, ours > theirs) {
        (true, true) => Ok(()),
        (true, false) => Err(BackendFault::Conflict { newest: theirs, expected: ours }),
        (false, _) => Err(differ()),
    }
}

/// Whether a version is the same in both places. Others write words that are no
/// JSON; a secret is sealed anew from time to time, and in clear where others
/// wrote it.
fn is_alike(here: &Stored, there: &Stored) -> bool {
    let text = |stored: &Stored| match &stored.value {
        Some(ConfigValue::Json(text)) => Some(text.clone()),
        _ => None,
    };
    let same = match (text(here), text(there)) {
        (Some(here), Some(there)) => {
            let is_sealed = [&here, &there].iter().any(|text| sealed_letters(text).is_some());
            is_sealed || meaning(&here) == meaning(&there)
        }
        (here, there) => here == there,
    };
    same && author_of(&here.author) == author_of(&there.author)
}

/// Whether the other has the newest version of a key and all labels as this one.
///
/// # Errors
/// What either backend answers.
pub async fn is_carried(
    from: &dyn Backend,
    to: &dyn Backend,
    scope: &Scope,
    key: &ConfigKey,
) -> Result<bool, BackendFault> {
    let same_newest = match (from.newest(scope, key).await?, to.newest(scope, key).await?) {
        (Some(here), Some(there)) => here.version == there.version && is_alike(&here, &there),
        (here, there) => here.is_none() && there.is_none(),
    };
    Ok(same_newest && index(from, scope, key).await?.labels == index(to, scope, key).await?.labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_version_is_known_again() {
        let stored = |text: Option<&str>, author: &str| Stored {
            scope: Scope::Platform,
            key: "a".parse().unwrap(),
            version: 1,
            revision: 0,
            value: text.map(|text| ConfigValue::Json(text.to_owned().into())),
            labels: BTreeSet::new(),
            author: author.to_owned(),
            at: time::OffsetDateTime::UNIX_EPOCH,
            note: String::new(),
        };
        let ada = |text| stored(text, "operator:ada");
        assert!(is_alike(&ada(Some("\"on\"")), &ada(Some("on"))));
        assert!(is_alike(&ada(None), &stored(None, "operator:ada #1f")));
        assert!(is_alike(&ada(Some("\"sealed:AA\"")), &ada(Some("\"sealed:BB\""))));
        assert!(!is_alike(&ada(Some("1")), &ada(Some("2"))));
        assert!(!is_alike(&ada(Some("1")), &ada(None)));
        assert!(!is_alike(&ada(Some("1")), &stored(Some("1"), "operator:bob")));
    }

    #[test]
    fn a_bounded_backend_is_given_the_newest_and_the_labelled() {
        let labels = BTreeMap::from([("stable".parse().unwrap(), 2), ("old".parse().unwrap(), 40)]);
        let index = Index { versions: (1..=50).collect(), labels };
        assert_eq!(index.behind(0, None).len(), 50);
        assert_eq!(index.behind(48, None), [49, 50]);
        assert_eq!(index.behind(0, Some(6)), [2, 40, 48, 49, 50]);
    }
}
