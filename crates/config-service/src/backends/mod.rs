//! Backends outside the store: which there are, what is written to them, what
//! others have written there, and how a tag goes from one to another. The store
//! has every version too, in its order; a write is done when both have it.

mod align;
mod events;
mod moves;
mod places;
mod reap;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use insula_config_model::{Backend, BackendFault, BackendName, OWN_BACKEND};
use insula_problem::{Code, Problem};

pub(crate) use align::ByTags;
pub use places::TagPlace;
pub(crate) use writes::Begun;

/// The backends outside the store that this process has.
#[derive(Debug, Default)]
pub struct Backends {
    all: BTreeMap<BackendName, Arc<dyn Backend>>,
    /// Those that did not answer when they were looked at last.
    away: Mutex<BTreeSet<BackendName>>,
}

impl Backends {
    /// These, each by its name.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = Arc<dyn Backend>>) -> Self {
        let all = all.into_iter().map(|backend| (backend.name().to_owned(), backend)).collect();
        Self { all, away: Mutex::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<dyn Backend>> {
        self.all.values()
    }

    /// The backend outside of this name; none where it is the store.
    pub(crate) fn outside(&self, name: &str) -> Result<Option<&Arc<dyn Backend>>, Problem> {
        if name == OWN_BACKEND {
            return Ok(None);
        }
        let missing =
            || Problem::new(Code::ConfigBackendUnavailable, format!("This process has no backend {name}."));
        self.all.get(name).map(Some).ok_or_else(missing)
    }

    /// The names of all, the store's among them.
    pub(crate) fn names(&self) -> Vec<&str> {
        std::iter::once(OWN_BACKEND).chain(self.all.keys().map(String::as_str)).collect()
    }

    pub(crate) fn is_away(&self, name: &str) -> bool {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    pub(crate) fn answered(&self, name: &str, has_answered: bool) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let was_away = away.contains(name);
        match (has_answered, was_away) {
            (true, true) => drop(away.remove(name)),
            (false, false) => drop(away.insert(name.to_owned())),
            _ => {}
        }
    }
}

/// What a caller is told of a backend's fault.
pub(crate) fn problem(fault: BackendFault) -> Problem {
    match fault {
        BackendFault::Away { ref backend, .. } => {
            let detail = format!("The backend {backend} cannot be reached right now.");
            Problem::new(Code::ConfigBackendUnavailable, detail).retry_after(2).caused_by(fault)
        }
        BackendFault::Refused(detail) => Problem::new(Code::ConfigValueInvalid, format!("{detail}.")),
        BackendFault::NoVersion(version) => {
            let detail = format!("The backend does not have the version {version} any more.");
            Problem::new(Code::ConfigVersionNotFound, detail)
        }
        BackendFault::Conflict { newest, expected } => {
            let detail = format!("The newest version is {newest}, not {expected}.");
            Problem::new(Code::ConfigVersionConflict, detail)
        }
    }
}
