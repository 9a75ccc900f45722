//! Items of the table: what stands at a partition `TENANT#<id>` (or `PLATFORM`,
//! `REGION#<name>`, `TIER#<name>`) under `CONFIG#<key>`, `VERSION#<key> <number>`
//! and `LABELS#<key>`, as attributes and as what they mean. Keys have no white
//! space, so a space ends one. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use insula_config_model::{
    AUTHOR_EXTERNAL, ConfigKey, ConfigValue, Label, NewVersion, Scope, Stored, Version,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::digest_of;

/// An item, as it is sent and received.
pub(crate) type Attributes = HashMap<String, AttributeValue>;

/// The names of the attributes that are the primary key.
pub(crate) const PK: &str = "PK";
pub(crate) const SK: &str = "SK";
/// What the sort keys of newest values begin with.
pub(crate) const CONFIG: &str = "CONFIG#";

pub(crate) fn partition(scope: &Scope) -> String {
    match scope {
        Scope::Platform => "PLATFORM".to_owned(),
        Scope::Region(region) => format!("REGION#{region}"),
        Scope::Tier(tier) => format!("TIER#{tier}"),
        Scope::Tenant(tenant) => format!("TENANT#{tenant}"),
    }
}

pub(crate) fn scope_of(partition: &str) -> Option<Scope> {
    let text = match partition.split_once('#') {
        None => partition.to_ascii_lowercase(),
        Some((kind, name)) => format!("{}/{name}", kind.to_ascii_lowercase()),
    };
    text.parse().ok()
}

pub(crate) fn config_key(key: &str) -> String {
    format!("{CONFIG}{key}")
}

pub(crate) fn version_key(key: &ConfigKey, version: Version) -> String {
    format!("VERSION#{key} {version:019}")
}

pub(crate) fn labels_key(key: &str) -> String {
    format!("LABELS#{key}")
}

/// The place of an item.
pub(crate) fn place(scope: &Scope, sort: String) -> Attributes {
    HashMap::from([
        (PK.to_owned(), AttributeValue::S(partition(scope))),
        (SK.to_owned(), AttributeValue::S(sort)),
    ])
}

/// A version, or the newest one, as it stands in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// None where others wrote the item without one.
    pub(crate) version: Option<Version>,
    /// What the value was when the version was given.
    pub(crate) digest: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) author: String,
    pub(crate) at: Option<OffsetDateTime>,
    pub(crate) note: String,
}

fn text(attributes: &Attributes, name: &str) -> Option<String> {
    attributes.get(name)?.as_s().ok().cloned()
}

fn number(attributes: &Attributes, name: &str) -> Option<i64> {
    attributes.get(name)?.as_n().ok()?.parse().ok()
}

impl Item {
    pub(crate) fn new(new: &NewVersion, value: Option<String>) -> Self {
        Self {
            version: Some(new.version),
            digest: Some(digest_of(value.as_deref())),
            value,
            author: new.author.clone(),
            at: Some(new.at),
            note: new.note.clone(),
        }
    }

    /// What others wrote.
    pub(crate) fn external(version: Version, value: Option<String>, at: OffsetDateTime) -> Self {
        let digest = Some(digest_of(value.as_deref()));
        let author = AUTHOR_EXTERNAL.to_owned();
        Self { version: Some(version), digest, value, author, at: Some(at), note: String::new() }
    }

    pub(crate) fn parse(attributes: &Attributes) -> Self {
        Self {
            version: number(attributes, "version"),
            digest: text(attributes, "digest"),
            value: text(attributes, "value"),
            author: text(attributes, "author").unwrap_or_default(),
            at: text(attributes, "at").and_then(|at| OffsetDateTime::parse(&at, &Rfc3339).ok()),
            note: text(attributes, "note").unwrap_or_default(),
        }
    }

    pub(crate) fn attributes(&self, scope: &Scope, sort: String) -> Attributes {
        let mut attributes = place(scope, sort);
        let mut put = |name: &str, value: Option<String>| {
            attributes.extend(value.map(|value| (name.to_owned(), AttributeValue::S(value))));
        };
        put("value", self.value.clone());
        put("digest", self.digest.clone());
        put("author", Some(self.author.clone()));
        put("at", self.at.and_then(|at| at.format(&Rfc3339).ok()));
        put("note", Some(self.note.clone()).filter(|note| !note.is_empty()));
        let version = self.version.unwrap_or_default().to_string();
        attributes.insert("version".to_owned(), AttributeValue::N(version));
        attributes
    }

    /// Whether others wrote the value past the version that stands beside it.
    pub(crate) fn is_foreign(&self) -> bool {
        self.version.is_none() || self.digest.as_ref() != Some(&digest_of(self.value.as_deref()))
    }

    pub(crate) fn stored(self, scope: &Scope, key: &ConfigKey, labels: &Labels) -> Stored {
        let version = self.version.unwrap_or_default();
        Stored {
            scope: scope.clone(),
            key: key.clone(),
            version,
            revision: 0,
            value: self.value.map(|text| ConfigValue::Json(text.into_bytes().into())),
            labels: labels.of(version),
            author: self.author,
            at: self.at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            note: self.note,
        }
    }
}

/// The labels of a key, and how often they were changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) edits: i64,
    pub(crate) on: BTreeMap<Label, Version>,
}

impl Labels {
    pub(crate) fn parse(attributes: &Attributes) -> Self {
        let map = attributes.get("labels").and_then(|labels| labels.as_m().ok());
        let label = |(name, version): (&String, &AttributeValue)| {
            Some((name.parse().ok()?, version.as_n().ok()?.parse().ok()?))
        };
        Self {
            edits: number(attributes, "edits").unwrap_or(0),
            on: map.into_iter().flatten().filter_map(label).collect(),
        }
    }

    pub(crate) fn attributes(&self, scope: &Scope, key: &ConfigKey) -> Attributes {
        let mut attributes = place(scope, labels_key(key.as_str()));
        let label = |(name, on): (&Label, &Version)| (name.to_string(), AttributeValue::N(on.to_string()));
        attributes.insert("labels".to_owned(), AttributeValue::M(self.on.iter().map(label).collect()));
        attributes.insert("edits".to_owned(), AttributeValue::N(self.edits.to_string()));
        attributes
    }

    /// With a label put elsewhere, or taken away.
    pub(crate) fn with(&self, label: &Label, version: Option<Version>) -> Self {
        let mut on = self.on.clone();
        match version {
            Some(version) => drop(on.insert(label.clone(), version)),
            None => drop(on.remove(label)),
        }
        Self { edits: self.edits + 1, on }
    }

    pub(crate) fn of(&self, version: Version) -> BTreeSet<Label> {
        self.on.iter().filter(|(_, on)| **on == version).map(|(label, _)| label.clone()).collect()
    }
}

/// The sort keys from the first to the last of those that a prefix covers, and
/// perhaps one more; behind a key, where there is one.
pub(crate) fn bounds(family: &str, prefix: &str, after: Option<&str>) -> (String, String) {
    // Keys have no white space: a space sorts behind the key and before all longer ones.
    let from = match after {
        Some(after) if after >= prefix => format!("{family}{after} "),
        _ => format!("{family}{prefix}"),
    };
    let mut to: Vec<char> = format!("{family}{prefix}").chars().collect();
    while let Some(last) = to.pop() {
        // Surrogates are no characters; behind the last one there is none.
        let next = ((last as u32 + 1)..=0x10_ffff).find_map(char::from_u32);
        if let Some(next) = next {
            to.push(next);
            break;
        }
    }
    (from, to.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn scopes_read_back() {
        for text in
            ["platform", "region/eu-west-1", "tier/free", "tenant/0190b8a0-0000-7000-8000-000000000001"]
        {
            let scope: Scope = text.parse().unwrap();
            assert_eq!(scope_of(&partition(&scope)), Some(scope));
        }
        assert_eq!(scope_of("USER#7"), None);
    }

    #[test]
    fn items_read_back_and_show_what_others_wrote() {
        let at = datetime!(2026-03-01 09:30:15.123456 UTC);
        for value in [None, Some("{\"a\":1}".to_owned())] {
            let mut item = Item::external(7, value, at);
            let attributes = item.attributes(&Scope::Platform, config_key("a"));
            assert_eq!(Item::parse(&attributes), item);
            assert!(!item.is_foreign());
            item.value = Some("2".to_owned());
            assert!(item.is_foreign());
        }
        let theirs = Attributes::from([("value".to_owned(), AttributeValue::S("1".to_owned()))]);
        assert!(Item::parse(&theirs).is_foreign());
    }

    #[test]
    fn bounds_cover_what_a_prefix_does() {
        let (from, to) = bounds(CONFIG, "a/", None);
        assert!(config_key("a/b") >= from && config_key("a/\u{10ffff}") < to && config_key("ab") >= to);
        let (from, to) = bounds(CONFIG, "", Some("a"));
        assert!(config_key("a") < from && config_key("a!") > from && config_key("\u{10ffff}") < to);
        let (_, to) = bounds(CONFIG, "\u{d7ff}", None);
        assert!(config_key("\u{d7ff}x") < to);
    }
}
