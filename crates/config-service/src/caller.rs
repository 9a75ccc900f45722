//! What a caller may do: by the holder of its credential and the key's role and
//! path. Pure.

use std::sync::Arc;

use insula_access::{Holder, Pass};
use insula_config_model::{ConfigKey, KeyPrefix, Rollout, TagTable};
use insula_domain::TenantId;
use insula_problem::{Code, Problem};

use crate::tags::prefix;

/// The roles of keys that write.
const WRITERS: [&str; 2] = ["tenant_admin", "config_writer"];
/// The roles of keys that see secrets in clear.
const CONFIDANTS: [&str; 2] = ["tenant_admin", "config_secrets"];
/// What a key's path begins with where it reaches configuration.
const PATH: &str = "/config";
/// With what no name ends: what ends so is the beginning of names.
const ENDS: [char; 4] = ['/', '_', '-', '.'];

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The credential, which may end.
    pub pass: Arc<Pass>,
}

impl Caller {
    /// By a credential that was verified.
    #[must_use]
    pub fn new(pass: Arc<Pass>) -> Self {
        Self { pass }
    }

    /// The tenant whose key it is; none for an operator.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        match &self.pass.holder {
            Holder::Key { tenant, .. } => Some(*tenant),
            Holder::Operator { .. } => None,
        }
    }

    /// Who it is, as authors of versions and readers of secrets are written down.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.pass.holder {
            Holder::Key { id, .. } => format!("key:{id}"),
            Holder::Operator { email } => format!("operator:{email}"),
        }
    }

    /// The keys that the caller reaches; none where there is no bound.
    ///
    /// # Errors
    /// `forbidden` where its path is elsewhere.
    pub fn reach(&self, tags: &TagTable) -> Result<Option<Reach>, Problem> {
        let Holder::Key { path: Some(path), .. } = &self.pass.holder else { return Ok(None) };
        let below = match path.strip_prefix(PATH) {
            Some("" | "/") => return Ok(None),
            _ if path == "/" => return Ok(None),
            Some(below) => below.strip_prefix('/').and_then(|below| prefix(tags, below).ok()),
            None => None,
        };
        let elsewhere = || Problem::new(Code::Forbidden, "The path of this key is not one of configuration.");
        below.map(|below| Some(Reach(below))).ok_or_else(elsewhere)
    }

    /// Whether the caller is shown the key at all: which tenants see what first
    /// is not for tenants.
    #[must_use]
    pub fn sees(&self, key: &ConfigKey) -> bool {
        self.tenant().is_none() || !key.as_str().starts_with(Rollout::KEYS)
    }

    /// Whether the caller reaches the key.
    ///
    /// # Errors
    /// `forbidden` where its path is another, or the key is not for tenants.
    pub fn check_reach(&self, tags: &TagTable, key: &ConfigKey) -> Result<(), Problem> {
        if !self.sees(key) {
            return Err(Problem::new(Code::Forbidden, "Where rollouts are is for operators."));
        }
        match self.reach(tags)? {
            Some(reach) if !reach.covers(key) => {
                Err(Problem::new(Code::Forbidden, format!("This key of yours reaches {} only.", reach.0)))
            }
            _ => Ok(()),
        }
    }

    /// Whether the caller may write the key.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn check_write(&self, tags: &TagTable, key: &ConfigKey) -> Result<(), Problem> {
        self.check_reach(tags, key)?;
        let Holder::Key { role, .. } = &self.pass.holder else { return Ok(()) };
        if !WRITERS.contains(&role.as_str()) {
            let detail = format!("A key with the role {role} reads. The roles {} write.", WRITERS.join(", "));
            return Err(Problem::new(Code::Forbidden, detail));
        }
        if key.as_str().starts_with(TagTable::OWN) {
            let detail = format!("Keys that begin with {} are written by operators.", TagTable::OWN);
            return Err(Problem::new(Code::Forbidden, detail));
        }
        Ok(())
    }

    /// Whether the caller is an operator. `what` says what is for them, as in
    /// "Staged rollouts are".
    ///
    /// # Errors
    /// `forbidden`.
    pub fn check_operator(&self, what: &str) -> Result<(), Problem> {
        match self.tenant() {
            Some(_) => Err(Problem::new(Code::Forbidden, format!("{what} for operators."))),
            None => Ok(()),
        }
    }

    /// Whether the caller may see secrets in clear.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn check_reveal(&self) -> Result<(), Problem> {
        match &self.pass.holder {
            Holder::Key { role, .. } if !CONFIDANTS.contains(&role.as_str()) => Err(Problem::new(
                Code::Forbidden,
                format!("Secrets in clear are for keys with the roles {}.", CONFIDANTS.join(", ")),
            )),
            _ => Ok(()),
        }
    }
}

/// What an API key's path reaches: the key of that name and those below it, as
/// of a folder. One that ends where a name does not, as a tag does, reaches
/// everything that begins with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach(KeyPrefix);

impl Reach {
    /// What it begins with.
    #[must_use]
    pub fn prefix(&self) -> &KeyPrefix {
        &self.0
    }

    /// Whether a key is among those that are reached.
    #[must_use]
    pub fn covers(&self, key: &ConfigKey) -> bool {
        key.as_str().strip_prefix(self.0.as_str()).is_some_and(|rest| self.is_cut_before(rest))
    }

    /// The part of a prefix in which keys are that are reached; none where
    /// there is none. Not all that it covers is.
    #[must_use]
    pub fn within(&self, asked: &KeyPrefix) -> Option<KeyPrefix> {
        match asked.as_str().strip_prefix(self.0.as_str()) {
            Some(rest) => self.is_cut_before(rest).then(|| asked.clone()),
            None => self.0.as_str().starts_with(asked.as_str()).then(|| self.0.clone()),
        }
    }

    fn is_cut_before(&self, rest: &str) -> bool {
        rest.is_empty() || rest.starts_with('/') || self.0.as_str().ends_with(ENDS)
    }
}

#[cfg(test)]
mod tests {
    use insula_domain::ApiKeyId;
    use uuid::Uuid;

    use super::*;

    fn key(role: &str, path: Option<&str>) -> Caller {
        let (id, tenant) = (ApiKeyId::from(Uuid::from_u128(1)), TenantId::from(Uuid::from_u128(2)));
        let (role, path) = (role.to_owned(), path.map(str::to_owned));
        Caller::new(Arc::new(Pass::unending(Holder::Key { id, tenant, role, path })))
    }

    fn operator() -> Caller {
        Caller::new(Arc::new(Pass::unending(Holder::Operator { email: "ada".to_owned() })))
    }

    fn tags() -> TagTable {
        TagTable::default()
    }

    fn named(text: &str) -> ConfigKey {
        text.parse().unwrap()
    }

    #[test]
    fn roles_decide_who_writes_and_who_sees_secrets() {
        let theme = named("tenant_config_theme");
        for (role, writes, sees) in [
            ("tenant_user", false, false),
            ("config_writer", true, false),
            ("config_secrets", false, true),
            ("tenant_admin", true, true),
        ] {
            let caller = key(role, None);
            assert_eq!(caller.check_write(&tags(), &theme).is_ok(), writes, "{role}");
            assert_eq!(caller.check_reveal().is_ok(), sees, "{role}");
            assert!(
                caller.check_write(&tags(), &named("insula_tags")).is_err(),
                "{role} writes Insula's own"
            );
            assert!(caller.check_reach(&tags(), &named("insula_tags")).is_ok(), "{role} reads it");
            let rollout = named("insula_rollout/tenant_config_a");
            assert!(caller.check_reach(&tags(), &rollout).is_err(), "{role}");
        }
        assert!(operator().check_write(&tags(), &named("insula_tags")).is_ok());
        assert!(operator().check_reveal().is_ok());
    }

    #[test]
    fn a_path_bounds_what_a_key_reaches() {
        let reaches = |path: &str, text: &str| {
            let caller = key("tenant_admin", Some(path));
            (
                caller.check_reach(&tags(), &named(text)).is_ok(),
                caller.check_write(&tags(), &named(text)).is_ok(),
            )
        };
        for path in ["/", "/config", "/config/"] {
            assert_eq!(reaches(path, "tenant_config_a"), (true, true), "{path}");
        }
        assert_eq!(reaches("/config/tenant_config_a", "tenant_config_a/b"), (true, true));
        assert_eq!(reaches("/config/tenant_config_a", "tenant_config_a"), (true, true));
        assert_eq!(reaches("/config/tenant_config_a", "tenant_config_b"), (false, false));
        // It ends where a name does.
        for other in ["tenant_config_ab", "tenant_config_ab/c", "tenant_config_a_b", "tenant_config_a.b"] {
            assert_eq!(reaches("/config/tenant_config_a", other), (false, false), "{other}");
        }
        // What stands behind a slash is in a folder, which is not the key of its name.
        assert_eq!(reaches("/config/tenant_config_a/", "tenant_config_a/b"), (true, true));
        assert_eq!(reaches("/config/tenant_config_a/", "tenant_config_a"), (false, false));
        assert_eq!(reaches("/config/tenant_config_a/", "tenant_config_ab"), (false, false));
        // A tag, and the beginning of names.
        assert_eq!(reaches("/config/tenant_config_", "tenant_config_b/c"), (true, true));
        assert_eq!(reaches("/config/tenant_config_shop.", "tenant_config_shop.a"), (true, true));
        // By the other spelling of its tag.
        assert_eq!(reaches("/config/tenantconfig_a", "tenant_config_a/b"), (true, true));
        for path in ["/orders", "/configuration", "/config//a"] {
            assert_eq!(reaches(path, "tenant_config_a"), (false, false), "{path}");
        }
    }

    #[test]
    fn who_asks_for_more_gets_the_part_of_a_prefix_that_it_reaches() {
        let within = |asked: &str, path: &str| {
            let reach = key("tenant_user", Some(path)).reach(&tags()).unwrap().unwrap();
            reach.within(&asked.parse().unwrap()).map(String::from)
        };
        for (asked, path, part) in [
            ("", "/config/tenant_config_a", Some("tenant_config_a")),
            ("tenant_con", "/config/tenant_config_a/", Some("tenant_config_a/")),
            ("tenant_config_a/b", "/config/tenant_config_a", Some("tenant_config_a/b")),
            ("tenant_config_ab", "/config/tenant_config_", Some("tenant_config_ab")),
            ("tenant_config_ab", "/config/tenant_config_a", None),
            ("tenant_config_b", "/config/tenant_config_a", None),
        ] {
            assert_eq!(within(asked, path).as_deref(), part, "{asked} of {path}");
        }
    }
}
