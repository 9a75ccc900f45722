//! What differs between two settings, by key, and what of it a process takes
//! over while it runs.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::sections::Settings;

/// Keys of which a running process takes a new value over. All others hold from
/// a start to the next.
const TAKEN_AT_ONCE: [&str; 11] = [
    "log.filter",
    "metrics.enabled",
    "metrics.top_tenants",
    "pg.backend_idle",
    "pg.backend_wait",
    "pg.connect_timeout",
    "pg.max_active_per_cluster",
    "pg.max_backends_per_cluster",
    "pg.max_backends_per_tenant",
    "pg.pool_mode",
    "pg.startup_timeout",
];

/// Whether a process takes a new value of this key over while it runs.
#[must_use]
pub fn is_taken_at_once(key: &str) -> bool {
    TAKEN_AT_ONCE.contains(&key)
}

impl Settings {
    /// The keys whose values differ; no values, which may be secrets.
    #[must_use]
    pub fn keys_changed_in(&self, other: &Self) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        // Every field is a text, a number, a truth value, a list or a table.
        let [own, others] = [self, other].map(|settings| serde_json::to_value(settings).unwrap_or_default());
        compare("", &own, &others, &mut changed);
        changed.extend(self.secrets_changed_in(other));
        changed
    }

    /// Secrets are written as one and the same.
    fn secrets_changed_in(&self, other: &Self) -> Vec<String> {
        let mut secrets = vec![
            ("catalog.url".to_owned(), &self.catalog.url, &other.catalog.url),
            ("keys.master_key".to_owned(), &self.keys.master_key, &other.keys.master_key),
            ("operator.token".to_owned(), &self.operator.token, &other.operator.token),
        ];
        for (index, (own, others)) in self.regions.iter().zip(&other.regions).enumerate() {
            secrets.push((format!("regions.{index}.store_url"), &own.store_url, &others.store_url));
        }
        let backends = self.config.backends.iter().zip(&other.config.backends);
        for (index, (own, others)) in backends.enumerate() {
            let key = |field: &str| format!("config.backends.{index}.{field}");
            secrets.push((key("password"), &own.password, &others.password));
            secrets.push((key("secret_access_key"), &own.secret_access_key, &others.secret_access_key));
        }
        secrets.into_iter().filter(|(_, own, others)| own != others).map(|(key, ..)| key).collect()
    }
}

fn compare(key: &str, own: &Value, others: &Value, changed: &mut BTreeSet<String>) {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match (own, others) {
        (Value::Object(own), Value::Object(others)) => {
            let names: BTreeSet<_> = own.keys().chain(others.keys()).collect();
            for name in names {
                let of = |table: &serde_json::Map<_, _>| table.get(name).cloned().unwrap_or_default();
                compare(&below(name), &of(own), &of(others), changed);
            }
        }
        (Value::Array(own), Value::Array(others)) if own.len() == others.len() => {
            for (index, (own, others)) in own.iter().zip(others).enumerate() {
                compare(&below(&index.to_string()), own, others, changed);
            }
        }
        _ if own != others => drop(changed.insert(key.to_owned())),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HumanDuration, SecretText, Tls};

    fn changed(change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let (own, mut other) = (Settings::default(), Settings::default());
        change(&mut other);
        own.keys_changed_in(&other).into_iter().collect()
    }

    #[test]
    fn changed_keys_are_named_and_no_others() {
        assert!(changed(|_| ()).is_empty());
        assert_eq!(changed(|it| it.pg.backend_wait = HumanDuration::from_secs(1)), ["pg.backend_wait"]);
        assert_eq!(changed(|it| it.pg.max_backends_per_tenant = Some(3)), ["pg.max_backends_per_tenant"]);
        let tls = Tls { cert_file: "a".into(), key_file: "b".into() };
        assert_eq!(changed(|it| it.pg.tls = Some(tls)), ["pg.tls"]);
        assert_eq!(changed(|it| it.pg.listen.truncate(1)), ["pg.listen"]);
        assert_eq!(
            changed(|it| {
                it.log.filter = "debug".to_owned();
                it.http.listen[0].set_port(1);
            }),
            ["http.listen.0", "log.filter"]
        );
    }

    #[test]
    fn a_secret_that_changes_is_named_and_not_shown() {
        assert_eq!(changed(|it| it.catalog.url = SecretText::new("x")), ["catalog.url"]);
        let (own, mut other) = (Settings::default(), Settings::default());
        let mut own = own;
        own.keys.master_key = SecretText::new("one");
        other.keys.master_key = SecretText::new("another");
        assert_eq!(own.keys_changed_in(&other), ["keys.master_key".to_owned()].into());
    }

    #[test]
    fn what_is_taken_at_once_exists() {
        let settings = serde_json::to_value(Settings::default()).unwrap();
        for key in TAKEN_AT_ONCE {
            let pointer = format!("/{}", key.replace('.', "/"));
            assert!(settings.pointer(&pointer).is_some(), "{key}");
        }
        assert!(is_taken_at_once("log.filter") && !is_taken_at_once("pg.listen"));
    }
}
