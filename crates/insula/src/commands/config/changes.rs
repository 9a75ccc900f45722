//! What a watch has seen, and what an event changes in it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use insula_api::ConfigEvent;
use serde::Serialize;

use super::value;

/// A change, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Up to which revision.
    pub revision: i64,
    /// Of which key.
    pub key: String,
    /// What was seen, the whole JSON as a text, or in words what is not shown; none
    /// where there was nothing.
    pub old: Option<String>,
    /// What is seen, likewise.
    pub new: Option<String>,
    /// Where it is set.
    pub scope: Option<String>,
    /// In which version.
    pub version: Option<i64>,
    /// The event, behind which a later watch can go on.
    pub event: Option<String>,
}

/// The values, by key: each with its version and where it is set.
type Values = BTreeMap<String, (Arc<str>, i64, String)>;

/// What is seen.
#[derive(Debug, Default)]
pub struct Seen {
    values: Values,
    /// The keys of a snapshot of which parts are still to come.
    coming: Values,
    is_known: bool,
}

impl Seen {
    /// Of one who goes on behind an event: what was seen then is not known here.
    pub fn later() -> Self {
        Self { is_known: true, ..Self::default() }
    }

    /// How many values there are, once there is a snapshot.
    pub fn count(&self) -> Option<usize> {
        self.is_known.then_some(self.values.len())
    }

    /// Takes an event over; what is other than before.
    pub fn take(&mut self, name: &str, event: &ConfigEvent) -> Vec<Change> {
        let entries = event.entries.iter().filter(|entry| !entry.removed);
        let told = entries
            .map(|entry| (entry.key.clone(), (value(entry).into(), entry.version, entry.scope.clone())));
        let mut next = self.values.clone();
        match name {
            "snapshot" => {
                self.coming.extend(told);
                if event.more {
                    return Vec::new();
                }
                next = std::mem::take(&mut self.coming);
            }
            "delta" => {
                for key in &event.removed {
                    next.remove(key);
                }
                next.extend(told);
            }
            _ => return Vec::new(),
        }
        let before = std::mem::replace(&mut self.values, next);
        // The first snapshot is what there is, and no change.
        if !std::mem::replace(&mut self.is_known, true) {
            return Vec::new();
        }
        self.changes(&before, event.revision)
    }

    fn changes(&self, before: &Values, revision: i64) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, now) in &self.values {
            let old = before.get(key);
            if old != Some(now) {
                changes.push(Change {
                    revision,
                    key: key.clone(),
                    old: old.map(|(value, ..)| value.to_string()),
                    new: Some(now.0.to_string()),
                    scope: Some(now.2.clone()),
                    version: Some(now.1),
                    event: None,
                });
            }
        }
        for (key, (value, ..)) in before.iter().filter(|(key, _)| !self.values.contains_key(*key)) {
            let (key, old) = (key.clone(), Some(value.to_string()));
            changes.push(Change { revision, key, old, new: None, scope: None, version: None, event: None });
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(revision: i64, values: &[(&str, i64, &str)], removed: &[&str], more: bool) -> ConfigEvent {
        let entries: Vec<_> = values
            .iter()
            .map(|(key, version, value)| {
                json!({
                    "key": key, "scope": "platform", "version": version, "revision": revision, "author": "a",
                    "at": "2026-01-01T00:00:00Z", "value": value
                })
            })
            .collect();
        // Raw values are read from text alone.
        let text =
            json!({"revision": revision, "entries": entries, "removed": removed, "more": more}).to_string();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn values_that_differ_at_their_end_are_told_whole() {
        let long = |end: char| format!("{}{end}", "x".repeat(100_000));
        let mut seen = Seen::default();
        seen.take("snapshot", &event(5, &[("a", 1, &long('1'))], &[], false));
        let told = seen.take("delta", &event(6, &[("a", 2, &long('2'))], &[], false)).remove(0);
        assert_eq!(told.old, Some(json!(long('1')).to_string()));
        assert_eq!(told.new, Some(json!(long('2')).to_string()));
    }

    #[test]
    fn changes_are_told_from_old_to_new() {
        let mut seen = Seen::default();
        assert!(seen.take("snapshot", &event(5, &[("a", 1, "x")], &[], true)).is_empty());
        assert_eq!(seen.count(), None);
        assert!(seen.take("snapshot", &event(5, &[("b", 1, "y")], &[], false)).is_empty());
        assert_eq!(seen.count(), Some(2));
        assert!(seen.take("heartbeat", &event(6, &[], &[], false)).is_empty());
        let told = seen.take("delta", &event(7, &[("a", 2, "z"), ("c", 1, "new")], &["b"], false));
        let told: Vec<_> =
            told.iter().map(|one| (one.key.as_str(), one.old.as_deref(), one.new.as_deref())).collect();
        assert_eq!(
            told,
            [("a", Some("\"x\""), Some("\"z\"")), ("c", None, Some("\"new\"")), ("b", Some("\"y\""), None)]
        );
        // A snapshot after a pause tells what was missed, and nothing twice.
        let told = seen.take("snapshot", &event(9, &[("a", 2, "z")], &[], false));
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].key.as_str(), told[0].new.as_deref(), told[0].revision), ("c", None, 9));
    }
}
