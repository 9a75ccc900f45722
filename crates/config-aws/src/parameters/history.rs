//! What a parameter's history means: which of its numbers are versions of ours,
//! which were written by others, and which came too late. Pure.
//!
//! A description claims a version, and the number that the parameter was
//! expected to get. Of two who expect the same one gets it. A description whose
//! value is another one was left by somebody who changed the value alone.

use std::collections::{BTreeMap, BTreeSet};

use insula_config_model::{AUTHOR_EXTERNAL, Label, NewVersion, Version};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::digest_of;

/// What stands in the place of a value that was removed: a parameter always has one.
pub(super) const REMOVED: &str = "null";
/// What our descriptions begin with.
const SIGN: &str = "insula";

/// A number of a parameter's history.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) number: i64,
    pub(super) value: String,
    pub(super) description: String,
    pub(super) labels: BTreeSet<Label>,
    pub(super) at: OffsetDateTime,
}

/// What a description says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) version: Version,
    pub(super) number: i64,
    digest: String,
    author: String,
    at: OffsetDateTime,
    note: String,
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) version: Version,
    /// The first number that has it, which has its labels.
    pub(super) number: i64,
    pub(super) value: Option<String>,
    pub(super) labels: BTreeSet<Label>,
    pub(super) author: String,
    pub(super) at: OffsetDateTime,
    pub(super) note: String,
}

impl Claim {
    pub(super) fn new(new: &NewVersion, value: Option<&str>, number: i64) -> Self {
        let (author, note) = (new.author.clone(), new.note.clone());
        Self { version: new.version, number, digest: digest_of(value), author, at: new.at, note }
    }

    /// The same version once more, at another number.
    pub(super) fn of(told: &Told, number: i64) -> Self {
        let digest = digest_of(told.value.as_deref());
        let (author, note) = (told.author.clone(), told.note.clone());
        Self { version: told.version, number, digest, author, at: told.at, note }
    }

    pub(super) fn text(&self) -> String {
        let at = self.at.format(&Rfc3339).unwrap_or_default();
        let author = self.author.replace('%', "%25").replace(' ', "%20");
        let Self { version, number, digest, note, .. } = self;
        format!("{SIGN} v{version} n{number} {digest} {at} {author} {note}")
    }

    fn parse(description: &str) -> Option<Self> {
        let mut words = description.splitn(7, ' ');
        let sign = words.next()? == SIGN;
        let claim = Self {
            version: words.next()?.strip_prefix('v')?.parse().ok()?,
            number: words.next()?.strip_prefix('n')?.parse().ok()?,
            digest: words.next()?.to_owned(),
            at: OffsetDateTime::parse(words.next()?, &Rfc3339).ok()?,
            author: words.next()?.replace("%20", " ").replace("%25", "%"),
            note: words.next()?.to_owned(),
        };
        sign.then_some(claim)
    }

    /// The value that it speaks of, where it speaks of this one.
    fn value(&self, text: &str) -> Option<Option<String>> {
        if text == REMOVED && self.digest == digest_of(None) {
            return Some(None);
        }
        (self.digest == digest_of(Some(text))).then(|| Some(text.to_owned()))
    }
}

/// A parameter's versions.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) versions: BTreeMap<Version, Told>,
    last: Option<Entry>,
}

impl Known {
    /// From its history in the order of its numbers.
    pub(super) fn of(history: Vec<Entry>) -> Self {
        let mut known = Self::default();
        for entry in history {
            known.add(&entry);
            known.last = Some(entry);
        }
        known
    }

    fn add(&mut self, entry: &Entry) {
        let newest = self.newest().map_or(0, |told| told.version);
        let claim = Claim::parse(&entry.description);
        let ours = claim.as_ref().and_then(|claim| Some((claim, claim.value(&entry.value)?)));
        let told = |version, value, author: &str, at, note: &str| Told {
            version,
            number: entry.number,
            value,
            labels: entry.labels.clone(),
            author: author.to_owned(),
            at,
            note: note.to_owned(),
        };
        match ours {
            Some((claim, _)) if claim.number != entry.number => {}
            Some((claim, _)) if self.versions.contains_key(&claim.version) => {
                if let Some(told) = self.versions.get_mut(&claim.version) {
                    told.labels.extend(entry.labels.iter().cloned());
                }
            }
            // Numbers of versions only grow.
            Some((claim, value)) if claim.version > newest => {
                let told = told(claim.version, value, &claim.author, claim.at, &claim.note);
                self.versions.insert(claim.version, told);
            }
            Some(_) => {}
            None => {
                // Where the oldest are gone, the parameter's own number is the best guess.
                let version = if newest == 0 { entry.number } else { newest + 1 };
                let told = told(version, Some(entry.value.clone()), AUTHOR_EXTERNAL, entry.at, "");
                self.versions.insert(version, told);
            }
        }
    }

    pub(super) fn newest(&self) -> Option<&Told> {
        self.versions.last_key_value().map(|(_, told)| told)
    }

    pub(super) fn into_newest(mut self) -> Option<Told> {
        self.versions.pop_last().map(|(_, told)| told)
    }

    /// The number that the next write gets.
    pub(super) fn next_number(&self) -> i64 {
        self.last.as_ref().map_or(1, |last| last.number + 1)
    }

    /// The newest version, where others see something else.
    pub(super) fn hidden(&self) -> Option<&Told> {
        let shown = &self.last.as_ref()?.value;
        self.newest().filter(|newest| newest.value.as_deref().unwrap_or(REMOVED) != shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const AT: OffsetDateTime = datetime!(2026-03-01 09:30:15.123456 UTC);

    fn claim(version: Version, number: i64, value: Option<&str>) -> Claim {
        let (author, note) = ("operator:a b%20".to_owned(), "why  | 100 %".to_owned());
        Claim { version, number, digest: digest_of(value), author, at: AT, note }
    }

    fn entry(number: i64, value: Option<&str>, claim: Option<Claim>) -> Entry {
        let description = claim.map(|claim| claim.text()).unwrap_or_default();
        let value = value.unwrap_or(REMOVED).to_owned();
        Entry { number, value, description, labels: BTreeSet::new(), at: AT }
    }

    fn ours(version: Version, number: i64, value: Option<&str>) -> Entry {
        entry(number, value, Some(claim(version, number, value)))
    }

    fn versions(history: &[Entry]) -> Vec<(Version, Option<String>)> {
        let known = Known::of(history.to_vec());
        known.versions.into_iter().map(|(version, told)| (version, told.value)).collect()
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn descriptions_read_back() {
        let claim = claim(57, 12, Some("1"));
        assert_eq!(Claim::parse(&claim.text()), Some(claim));
        for text in ["", "insula", "ours v1 n1 x 2026-03-01T09:30:15Z a b", "the timeout of the database"] {
            assert_eq!(Claim::parse(text), None, "{text}");
        }
    }

    #[test]
    fn of_two_that_expect_a_number_the_first_has_it() {
        let late = entry(3, Some("late"), Some(claim(2, 2, Some("late"))));
        let history = [ours(1, 1, Some("1")), ours(2, 2, Some("2")), late];
        assert_eq!(versions(&history), [(1, some("1")), (2, some("2"))]);
        let known = Known::of(history.to_vec());
        assert_eq!(known.hidden().map(|told| told.version), Some(2));
        let again = entry(4, Some("2"), Some(Claim::of(known.newest().unwrap(), 4)));
        let mended = Known::of([&history[..], &[again]].concat());
        assert!(mended.hidden().is_none());
        assert_eq!(mended.newest().map(|told| (told.version, told.number)), Some((2, 2)));
    }

    #[test]
    fn what_others_write_is_the_next_version() {
        let left = entry(2, Some("by hand"), Some(claim(1, 1, Some("1"))));
        let plain = entry(3, Some("more"), None);
        let history = [ours(41, 1, Some("1")), left, plain, ours(44, 4, None), ours(50, 5, Some("5"))];
        let expected =
            [(41, some("1")), (42, some("by hand")), (43, some("more")), (44, None), (50, some("5"))];
        assert_eq!(versions(&history), expected);
        assert_eq!(versions(&[entry(7, Some("x"), None)]), [(7, some("x"))]);
        assert_eq!(Known::of(history.to_vec()).next_number(), 6);
    }
}
