//! All flags that a tenant sees, ready to be asked, and as flagd writes them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use insula_config_flags::{Flag, FlagDefinition, FlagRefused, SharedRules};
use serde_json::{Map, Value, json};

use crate::caller::Reach;

/// What the keys of flags begin with; behind it stands the flag's name.
pub const FLAGS: &str = "tenant_config_flag/";

/// What the keys of rules begin with that flags share (`{"$ref": "name"}`).
pub const RULES: &str = "tenant_config_flag_rule/";

/// A flag of a set.
#[derive(Debug, Clone)]
pub struct Found {
    /// It; or why the value is none.
    pub flag: Result<Flag, FlagRefused>,
    /// What is said of it, with where it is set and in which version.
    pub metadata: Map<String, Value>,
    /// As it is written.
    text: Value,
}

impl Found {
    /// Whether both are the same to those who ask.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// One value of a set.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its JSON text.
    pub json: &'a [u8],
    /// Where it is set.
    pub scope: &'a str,
    /// In which version.
    pub version: i64,
}

/// The flags that a tenant sees, by name.
#[derive(Debug, Clone, Default)]
pub struct FlagSet {
    flags: BTreeMap<String, Found>,
    rules: SharedRules,
    /// Of the texts that it was made from.
    bytes: usize,
    /// As flagd writes it, once somebody asks for that.
    written: OnceLock<String>,
}

impl FlagSet {
    /// From what a tenant sees; what is neither a flag nor a rule is passed over.
    pub fn new<'a>(entries: impl IntoIterator<Item = Entry<'a>>) -> Self {
        let (mut rules, mut read, mut bytes) = (SharedRules::default(), Vec::new(), 0);
        for entry in entries {
            bytes += entry.key.len() + entry.json.len();
            let value = || serde_json::from_slice::<Value>(entry.json).unwrap_or_default();
            if let Some(name) = entry.key.strip_prefix(RULES) {
                rules.insert(name, value());
            } else if let Some(name) = entry.key.strip_prefix(FLAGS) {
                read.push((name, entry, value()));
            }
        }
        let flags = read.into_iter().map(|(name, entry, value)| {
            let flag = FlagDefinition::read(&value).map(|definition| Flag::new(definition, &rules));
            (name.to_owned(), found(flag, entry, value))
        });
        Self { flags: flags.collect(), rules, bytes, written: OnceLock::new() }
    }

    /// The bytes of the texts that it was made from.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A flag.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Found> {
        self.flags.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Found)> {
        self.flags.iter().map(|(name, found)| (name.as_str(), found))
    }

    /// Those whose keys a caller reaches.
    #[must_use]
    pub fn reached(&self, reach: &Reach) -> Self {
        let reached = |name: &str| format!("{FLAGS}{name}").parse().is_ok_and(|key| reach.covers(&key));
        let flags = self.flags.iter().filter(|(name, _)| reached(name));
        Self {
            flags: flags.map(|(name, found)| (name.clone(), found.clone())).collect(),
            rules: self.rules.clone(),
            bytes: self.bytes,
            written: OnceLock::new(),
        }
    }

    /// As flagd writes definitions.
    #[must_use]
    pub fn configuration(&self) -> &str {
        self.written.get_or_init(|| self.write())
    }

    /// The member `scope` of the metadata is where
    /// a flag is set; providers of flagd put the selector there where there is
    /// none, and the selector may be a credential.
    fn write(&self) -> String {
        // What cannot be read, or refers to a shared rule that the caller does
        // not reach, would make providers refuse all others with it.
        let is_whole = |found: &Found| found.flag.as_ref().is_ok_and(Flag::is_whole);
        let flags = self.flags.iter().filter(|(_, found)| is_whole(found));
        let flags: Map<String, Value> =
            flags.map(|(name, found)| (name.clone(), found.text.clone())).collect();
        let rules: Map<String, Value> =
            self.rules.iter().map(|(name, rule)| (name.to_owned(), rule.clone())).collect();
        json!({
            "$schema": "https://flagd.dev/schema/v0/flags.json",
            "flags": flags,
            "$evaluators": rules,
            "metadata": {"scope": "insula"},
        })
        .to_string()
    }

    /// The names of the flags that are others now, with what has become of each.
    /// Another shared rule makes all flags others.
    #[must_use]
    pub fn changed(&self, before: &Self) -> BTreeMap<String, &'static str> {
        let is_ruled_anew = self.rules != before.rules;
        let mut changed = BTreeMap::new();
        for (name, found) in &self.flags {
            match before.flags.get(name) {
                None => drop(changed.insert(name.clone(), "write")),
                Some(old) if is_ruled_anew || !found.is(old) => drop(changed.insert(name.clone(), "update")),
                Some(_) => {}
            }
        }
        let gone = before.flags.keys().filter(|name| !self.flags.contains_key(*name));
        changed.extend(gone.map(|name| (name.clone(), "delete")));
        changed
    }
}

fn found(flag: Result<Flag, FlagRefused>, entry: Entry<'_>, mut text: Value) -> Found {
    let own = flag.as_ref().map(|flag| flag.definition().metadata.clone()).unwrap_or_default();
    let mut metadata = Map::new();
    metadata.insert("scope".to_owned(), entry.scope.into());
    metadata.insert("version".to_owned(), entry.version.into());
    metadata.extend(own);
    if let Value::Object(members) = &mut text {
        members.insert("metadata".to_owned(), Value::Object(metadata.clone()));
    }
    Found { flag, metadata, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &[(&str, Value)]) -> FlagSet {
        let texts: Vec<Vec<u8>> = entries.iter().map(|(_, value)| value.to_string().into_bytes()).collect();
        FlagSet::new(entries.iter().zip(&texts).map(|((key, _), json)| Entry {
            key,
            json,
            scope: "tier/free",
            version: 3,
        }))
    }

    fn on(is_on: bool) -> Value {
        let default = if is_on { "on" } else { "off" };
        json!({"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": default})
    }

    #[test]
    fn a_set_has_flags_and_rules_and_says_where_they_are_set() {
        let mut owned = on(true);
        owned["metadata"] = json!({"owner": "web", "version": "7"});
        let set = set(&[
            ("tenant_config_flag/a/b", owned),
            ("tenant_config_flag/broken", json!({"state": 1})),
            ("tenant_config_flag_rule/staff", json!({"==": [1, 1]})),
            ("tenant_config_other", json!(1)),
        ]);
        assert_eq!(set.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a/b", "broken"]);
        assert!(set.get("broken").unwrap().flag.is_err());
        let written: Value = serde_json::from_str(set.configuration()).unwrap();
        assert_eq!(
            written["flags"]["a/b"]["metadata"],
            json!({"scope": "tier/free", "version": "7", "owner": "web"})
        );
        assert!(written["flags"].get("broken").is_none());
        assert_eq!(written["$evaluators"]["staff"], json!({"==": [1, 1]}));
        assert_eq!(written["metadata"]["scope"], "insula");
    }

    #[test]
    fn what_has_changed_is_named() {
        let rule = ("tenant_config_flag_rule/r", json!({"==": [1, 1]}));
        let before = set(&[
            ("tenant_config_flag/same", on(true)),
            ("tenant_config_flag/other", on(true)),
            ("tenant_config_flag/gone", on(true)),
        ]);
        let entries = [
            ("tenant_config_flag/same", on(true)),
            ("tenant_config_flag/other", on(false)),
            ("tenant_config_flag/new", on(true)),
        ];
        let after = set(&entries);
        let changed: Vec<_> = after.changed(&before).into_iter().collect();
        let named = |name: &str, what| (name.to_owned(), what);
        assert_eq!(changed, [named("gone", "delete"), named("new", "write"), named("other", "update")]);
        assert!(after.changed(&after).is_empty());
        let ruled = set(&[entries[0].clone(), rule]);
        assert_eq!(ruled.changed(&after).get("same"), Some(&"update"));
    }
}
