//! What is wrong with the settings: all faults at once.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting, for example `http.listen`; empty where the whole file is at fault.
    pub key: String,
    /// Where it was set: a file or a variable of the environment; none where it was not set.
    pub place: Option<String>,
    /// What is wrong and what is wanted, in words. Never holds a secret.
    pub detail: String,
}

impl Fault {
    pub(crate) fn new(key: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { key: key.into(), place: None, detail: detail.into() }
    }

    pub(crate) fn in_place(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.as_str(), &self.place) {
            ("", None) => f.write_str(&self.detail),
            ("", Some(place)) => write!(f, "{place}: {}", self.detail),
            (key, None) => write!(f, "{key}: {}", self.detail),
            (key, Some(place)) => write!(f, "{key} ({place}): {}", self.detail),
        }
    }
}

/// The settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// Everything that is wrong; never empty.
    pub faults: Vec<Fault>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.as_slice() {
            [only] => write!(f, "the settings are not valid: {only}"),
            faults => {
                write!(f, "the settings are not valid, in {} places:", faults.len())?;
                faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
        }
    }
}

impl std::error::Error for SettingsError {}
