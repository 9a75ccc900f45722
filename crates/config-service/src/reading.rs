//! Reading: a value as a tenant sees it or as one scope has it, lists, versions
//! and where a value comes from.

use insula_config_model::{
    ConfigKey, Explained, KeyPrefix, Layer, Lineage, Revision, Scope, Stored, TagTable, Version,
};
use insula_config_store::HistoryPage;
use insula_problem::{Code, Problem};

use crate::caller::Caller;
use crate::directory::Named;
use crate::service::Service;
use crate::tags::{Tagged, prefix, tagged};

/// Values of a page where nothing else is asked for.
const PAGE: u32 = 100;
/// The most values of a page.
const PAGE_MAX: u32 = 1_000;

/// Which version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// By its number.
    Version(Version),
    /// By a label that is on it.
    Label(String),
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The key.
    pub key: String,
    /// The scope; empty is the caller's own.
    pub scope: String,
    /// Only what is set in the scope itself.
    pub own: bool,
    /// A version of the scope itself.
    pub which: Option<Which>,
    /// Secrets in clear.
    pub reveal: bool,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The values, by key.
    pub entries: Vec<Stored>,
    /// Behind which key the next page begins; none where this is the last.
    pub next: Option<ConfigKey>,
    /// Up to which change this is true.
    pub revision: Revision,
}

/// Behind which key a page of a list begins, as it is said to callers: what they
/// make up themselves is none.
const CURSOR: &str = "after:";

impl Listed {
    /// The cursor of the next page; none where this is the last.
    #[must_use]
    pub fn cursor(&self) -> Option<String> {
        self.next.as_ref().map(|key| format!("{CURSOR}{key}"))
    }
}

/// Behind which key a caller goes on who gives this cursor; nowhere where it is empty.
///
/// # Errors
/// `invalid_cursor`.
pub fn after(cursor: &str) -> Result<Option<ConfigKey>, Problem> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let key = cursor.strip_prefix(CURSOR).and_then(|key| key.parse().ok());
    key.map(Some).ok_or_else(no_cursor)
}

/// The cursor of a list or a history is not one of ours.
#[must_use]
pub fn no_cursor() -> Problem {
    Problem::new(Code::InvalidCursor, "The cursor is not one of ours.")
}

fn no_key(key: &ConfigKey) -> Problem {
    Problem::new(Code::ConfigKeyNotFound, format!("There is no value under {key} here."))
}

fn no_version() -> Problem {
    Problem::new(Code::ConfigVersionNotFound, "There is no such version of this key here.")
}

/// A layer as it is to be seen: of the provider's scopes, what is set there.
fn seen_in(named: &Named, layer: Layer) -> Layer {
    match named {
        Named::Tenant(lineage) => layer.seen_by(lineage.tenant),
        Named::Provider(_) => layer,
    }
}

/// How many a caller gets who asks for so many.
#[must_use]
pub fn page(limit: i64) -> u32 {
    if limit <= 0 { PAGE } else { u32::try_from(limit).unwrap_or(PAGE_MAX).min(PAGE_MAX) }
}

impl Service {
    pub(crate) fn read_of(
        &self,
        caller: &Caller,
        scope: &str,
        key: &str,
    ) -> Result<(Named, Tagged), Problem> {
        let table = self.tags.known()?;
        let tagged = tagged(&table, key)?;
        let named = self.directory.named(caller, scope)?;
        caller.check_reach(&table, &tagged.key)?;
        Ok((named, tagged))
    }

    /// A value.
    ///
    /// # Errors
    /// `config_key_not_found`, `config_version_not_found`, and what is wrong
    /// with the question.
    pub async fn get(&self, caller: &Caller, asked: &Asked) -> Result<Stored, Problem> {
        let (named, tagged) = self.read_of(caller, &asked.scope, &asked.key)?;
        if asked.reveal {
            caller.check_reveal()?;
        }
        let store = self.store_of(&named)?;
        let key = &tagged.key;
        let found = match (&asked.which, &named) {
            (Some(Which::Version(version)), _) => {
                Some(store.version(&named.scope(), key, *version).await?.ok_or_else(no_version)?)
            }
            (Some(Which::Label(label)), _) => {
                Some(store.labelled(&named.scope(), key, label).await?.ok_or_else(no_version)?)
            }
            (None, Named::Tenant(lineage)) if !asked.own => {
                self.layers(lineage, &tagged).await?.value().cloned()
            }
            (None, _) => {
                let layers = store.newest(&[named.scope()], key).await?.layers;
                let seen = layers.into_iter().find_map(|layer| seen_in(&named, layer).stored);
                seen.filter(|stored| stored.value.is_some())
            }
        };
        let found = found.ok_or_else(|| no_key(key))?;
        if asked.reveal { self.reveal(caller, &named, found).await } else { Ok(found) }
    }

    /// What every scope that counts for a tenant says of a key, the strongest first.
    pub(crate) async fn layers(&self, lineage: &Lineage, tagged: &Tagged) -> Result<Explained, Problem> {
        let store = &self.region(&lineage.region)?.store;
        let scopes = lineage.scopes_under(&tagged.tag);
        let mut layers = store.newest(&scopes, &tagged.key).await?.layers;
        layers.reverse();
        let layers = layers.into_iter().map(|layer| layer.seen_by(lineage.tenant));
        Ok(Explained { layers: layers.collect() })
    }

    /// Where a tenant's value comes from, the strongest scope first.
    ///
    /// # Errors
    /// As [`Service::get`].
    pub async fn explain(&self, caller: &Caller, scope: &str, key: &str) -> Result<Explained, Problem> {
        let (named, tagged) = self.read_of(caller, scope, key)?;
        match &named {
            Named::Tenant(lineage) => self.layers(lineage, &tagged).await,
            Named::Provider(scope) => {
                let layers = self.provider.0.newest(std::slice::from_ref(scope), &tagged.key).await?.layers;
                let layers = layers.into_iter().map(|layer| Layer { scope: scope.clone(), ..layer });
                Ok(Explained { layers: layers.collect() })
            }
        }
    }

    /// The values under a prefix.
    ///
    /// # Errors
    /// What is wrong with the question; where the store is away.
    pub async fn list(
        &self,
        caller: &Caller,
        asked: &Asked,
        limit: u32,
        after: Option<&ConfigKey>,
    ) -> Result<Listed, Problem> {
        let table = self.tags.known()?;
        let named = self.directory.named(caller, &asked.scope)?;
        if asked.reveal {
            caller.check_reveal()?;
        }
        let (prefix, reach) = (prefix(&table, &asked.key)?, caller.reach(&table)?);
        let store = self.store_of(&named)?;
        let Some(part) = reach.as_ref().map_or(Some(prefix.clone()), |reach| reach.within(&prefix)) else {
            let revision = store.clocks().await?.revision;
            return Ok(Listed { entries: Vec::new(), next: None, revision });
        };
        let scopes = match &named {
            Named::Tenant(lineage) if !asked.own => lineage.scopes(),
            _ => vec![named.scope()],
        };
        let own = named.scope();
        let is_reached = |key: &ConfigKey| reach.as_ref().is_none_or(|reach| reach.covers(key));
        let is_listed = |key: &ConfigKey| is_shown(key, &prefix) && is_reached(key) && caller.sees(key);
        let mut read = store.list(&scopes, &part, after, limit).await?;
        let (revision, wanted) = (read.revision, limit as usize);
        let mut entries = Vec::new();
        // Where the caller sees nothing of what was read it goes on: how far is
        // said by keys alone that the caller sees.
        let is_more = loop {
            for layers in read.keys.into_iter().filter(|layers| is_listed(&layers.key)) {
                let counts = |stored: &Stored| counts(&table, &own, stored);
                let seen = layers.layers.into_iter().filter_map(|layer| seen_in(&named, layer).stored);
                entries.extend(seen.filter(counts).rfind(|stored| stored.value.is_some()));
            }
            match read.next {
                Some(behind) if entries.is_empty() => {
                    read = store.list(&scopes, &part, Some(&behind), PAGE_MAX).await?;
                }
                next => break next.is_some() || entries.len() > wanted,
            }
        };
        entries.truncate(wanted);
        let next = entries.last().filter(|_| is_more).map(|last| last.key.clone());
        if asked.reveal {
            self.reveal_all(caller, &named, &mut entries).await?;
        }
        Ok(Listed { entries, next, revision })
    }

    /// The versions of a key in a scope before one, the newest first.
    ///
    /// # Errors
    /// As [`Service::get`].
    pub async fn history(
        &self,
        caller: &Caller,
        asked: &Asked,
        before: Option<Version>,
        limit: u32,
    ) -> Result<HistoryPage, Problem> {
        let (named, tagged) = self.read_of(caller, &asked.scope, &asked.key)?;
        if asked.reveal {
            caller.check_reveal()?;
        }
        let store = self.store_of(&named)?;
        let mut page = store.history(&named.scope(), &tagged.key, before, limit).await?;
        if asked.reveal {
            self.reveal_all(caller, &named, &mut page.versions).await?;
        }
        Ok(page)
    }
}

/// Whether a key is shown among those under a prefix: Insula's own are where
/// they were asked for.
#[must_use]
pub fn is_shown(key: &ConfigKey, asked: &KeyPrefix) -> bool {
    !key.as_str().starts_with(TagTable::OWN) || asked.as_str().starts_with(TagTable::OWN)
}

/// Whether a value counts for whoever asks in a scope: what another tenant has
/// been given in confidence does not.
fn counts(table: &TagTable, own: &Scope, stored: &Stored) -> bool {
    let is_others = stored.scope.tenant().is_some() && stored.scope != *own;
    !is_others || table.of(&stored.key).is_ok_and(|tag| tag.inherited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_as_long_as_is_asked_for() {
        assert_eq!((page(0), page(7), page(i64::MAX), page(-1)), (100, 7, 1_000, 100));
    }

    #[test]
    fn a_cursor_is_one_that_was_given() {
        let key: ConfigKey = "tenant_config_a/b".parse().unwrap();
        let listed = Listed { entries: Vec::new(), next: Some(key.clone()), revision: 1 };
        assert_eq!(after(&listed.cursor().unwrap()).unwrap(), Some(key));
        assert_eq!(after("").unwrap(), None);
        for made_up in ["zzz", "tenant_config_a", "after:", "after:a b"] {
            assert_eq!(after(made_up).unwrap_err().code(), Code::InvalidCursor, "{made_up}");
        }
    }

    #[test]
    fn insulas_own_keys_are_shown_to_those_who_ask_for_them() {
        let shown = |asked: &str| is_shown(&"insula_tags".parse().unwrap(), &asked.parse().unwrap());
        assert!(!shown("") && !shown("ins") && shown("insula_") && shown("insula_t"));
        assert!(is_shown(&"tenant_config_a".parse().unwrap(), &"".parse().unwrap()));
    }
}
