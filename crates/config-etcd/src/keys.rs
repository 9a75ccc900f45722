//! Where things are in etcd: `<root>/values/<scope>/<key>` has the newest value
//! and nothing else, so that others can use it; beside it are `heads`,
//! `versions` and `labels`. Keys have no white space, so a space ends one.

use insula_config_model::{ConfigKey, Label, Scope, Version};

/// The names below a root.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    root: String,
}

impl Keys {
    pub(crate) fn below(root: &str) -> Self {
        Self { root: root.trim_end_matches('/').to_owned() }
    }

    /// What every name of a family begins with: `values`, `heads`, `versions`, `labels`.
    pub(crate) fn family(&self, family: &str) -> String {
        format!("{}/{family}/", self.root)
    }

    fn of(&self, family: &str, scope: &Scope, key: &str) -> String {
        format!("{}/{family}/{scope}/{key}", self.root)
    }

    pub(crate) fn value(&self, scope: &Scope, key: &str) -> String {
        self.of("values", scope, key)
    }

    pub(crate) fn head(&self, scope: &Scope, key: &str) -> String {
        self.of("heads", scope, key)
    }

    pub(crate) fn versions(&self, scope: &Scope, key: &ConfigKey) -> String {
        format!("{} ", self.of("versions", scope, key.as_str()))
    }

    pub(crate) fn version(&self, scope: &Scope, key: &ConfigKey, version: Version) -> String {
        format!("{}{version:019}", self.versions(scope, key))
    }

    pub(crate) fn labels(&self, scope: &Scope, key: &ConfigKey) -> String {
        format!("{} ", self.of("labels", scope, key.as_str()))
    }

    pub(crate) fn label(&self, scope: &Scope, key: &ConfigKey, label: &Label) -> String {
        format!("{}{label}", self.labels(scope, key))
    }

    /// All that there is of a scope.
    pub(crate) fn scope(&self, scope: &Scope) -> [String; 4] {
        ["values", "heads", "versions", "labels"].map(|family| self.of(family, scope, ""))
    }
}

/// The scope and the key in a name behind its family.
pub(crate) fn scope_and_key(name: &str) -> Option<(Scope, ConfigKey)> {
    let (kind, rest) = name.split_once('/')?;
    let (scope, key) = match kind {
        "platform" => (kind, rest),
        _ => {
            let (of, key) = rest.split_once('/')?;
            (&name[..=kind.len() + of.len()], key)
        }
    };
    Some((scope.parse().ok()?, key.parse().ok()?))
}

/// The first name behind all that begin with this one.
pub(crate) fn end(prefix: &str) -> Vec<u8> {
    let mut bytes = prefix.as_bytes().to_vec();
    // Text never ends in the byte 255.
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let keys = Keys::below("/insula/config/");
        for scope in
            ["platform", "region/eu-west-1", "tier/free", "tenant/0190b8a0-0000-7000-8000-000000000001"]
        {
            for key in ["a", "param_config_db/pool.size", "größe/日本"] {
                let (scope, key): (Scope, ConfigKey) = (scope.parse().unwrap(), key.parse().unwrap());
                let name = keys.value(&scope, key.as_str());
                let rest = name.strip_prefix(&keys.family("values")).unwrap();
                assert_eq!(scope_and_key(rest), Some((scope, key)));
            }
        }
        for name in ["", "platform", "platform/", "region/eu", "other/a/b", "tenant/x/y", "platform/a b"] {
            assert_eq!(scope_and_key(name), None, "{name}");
        }
    }
}
