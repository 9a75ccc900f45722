//! The schemas that this process has read, by scope. They may be old: a store
//! that has others refuses what was held against them, and they are read again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use insula_config_model::{ConfigValue, Revision, Scope, Stored};
use insula_domain::RegionName;

/// Bytes of schemas that are kept. Where there are more, all of them are read
/// again when they are needed.
const BYTES_MAX: usize = 32 << 20;

/// What a schema takes beside its text, and a scope beside its schemas.
const BESIDE: usize = 500;

/// The schemas that are set in a scope.
#[derive(Debug, Default)]
pub(crate) struct OfScope {
    /// Their newest change, a removal too; 0 where there has been none.
    pub newest: Revision,
    /// They, in the order of their keys.
    pub set: Vec<Stored>,
}

impl OfScope {
    /// Takes in the newest version of one.
    pub fn take(&mut self, stored: Stored) {
        self.newest = self.newest.max(stored.revision);
        if stored.value.is_some() {
            self.set.push(stored);
        }
    }

    fn bytes(&self) -> usize {
        let of = |stored: &Stored| match &stored.value {
            Some(ConfigValue::Json(text)) => BESIDE + text.len(),
            _ => BESIDE,
        };
        BESIDE + self.set.iter().map(of).sum::<usize>()
    }
}

/// A scope in a region's store, or in the provider's.
type Place = (Option<RegionName>, Scope);

#[derive(Debug, Default)]
struct Kept {
    by_place: HashMap<Place, Arc<OfScope>>,
    bytes: usize,
}

/// The schemas that were read.
#[derive(Debug, Default)]
pub(crate) struct KnownSchemas {
    kept: Mutex<Kept>,
}

impl KnownSchemas {
    /// Those of a scope; none where nothing was read. Most scopes have none.
    pub fn of(&self, region: Option<&RegionName>, scope: &Scope) -> Arc<OfScope> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_place.get(&(region.cloned(), scope.clone())).cloned().unwrap_or_default()
    }

    /// Keeps what was read of a scope.
    pub fn set(&self, region: Option<&RegionName>, scope: &Scope, of: &Arc<OfScope>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (region.cloned(), scope.clone());
        let gone = kept.by_place.remove(&place).map_or(0, |before| before.bytes());
        kept.bytes -= gone;
        if of.newest == 0 {
            return;
        }
        if kept.bytes + of.bytes() > BYTES_MAX {
            *kept = Kept::default();
        }
        kept.bytes += of.bytes();
        kept.by_place.insert(place, Arc::clone(of));
    }
}

#[cfg(test)]
mod tests {
    use insula_domain::{Clock, SystemClock};

    use super::*;

    fn stored(revision: Revision, value: Option<usize>) -> Stored {
        Stored {
            scope: Scope::Platform,
            key: "insula_schema/param_config_a".parse().unwrap(),
            version: 1,
            revision,
            value: value.map(|bytes| ConfigValue::Json(vec![b' '; bytes].into())),
            labels: std::collections::BTreeSet::new(),
            author: String::new(),
            at: SystemClock.now(),
            note: String::new(),
        }
    }

    fn of(stored: Vec<Stored>) -> Arc<OfScope> {
        let mut of = OfScope::default();
        stored.into_iter().for_each(|stored| of.take(stored));
        Arc::new(of)
    }

    #[test]
    fn a_removal_is_the_newest_change_and_no_schema() {
        let of = of(vec![stored(7, None), stored(3, Some(1))]);
        assert_eq!((of.newest, of.set.len()), (7, 1));
    }

    #[test]
    fn it_is_bounded_and_scopes_without_schemas_take_nothing() {
        let known = KnownSchemas::default();
        let region: RegionName = "eu-west-1".parse().unwrap();
        let bytes = || known.kept.lock().unwrap().bytes;
        known.set(None, &Scope::Platform, &of(Vec::new()));
        assert_eq!(bytes(), 0);
        known.set(None, &Scope::Platform, &of(vec![stored(1, Some(BYTES_MAX / 2))]));
        known.set(None, &Scope::Platform, &of(vec![stored(2, Some(BYTES_MAX / 2))]));
        assert_eq!(known.of(None, &Scope::Platform).newest, 2);
        assert_eq!(known.of(Some(&region), &Scope::Platform).newest, 0, "another store");
        known.set(Some(&region), &Scope::Platform, &of(vec![stored(3, Some(BYTES_MAX / 2))]));
        assert_eq!(known.of(None, &Scope::Platform).newest, 0, "it is read again");
        assert_eq!(known.of(Some(&region), &Scope::Platform).newest, 3);
        known.set(Some(&region), &Scope::Platform, &of(Vec::new()));
        assert_eq!(bytes(), 0);
    }
}
