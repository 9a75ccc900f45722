//! Secrets: sealed when they are written, each version with a key of its own
//! that is bound to its place, and opened for those alone who may see them.

use bytes::Bytes;
use insula_config_model::{ConfigKey, ConfigValue, Scope, Version};
use insula_credentials::SealError;

use crate::Ambient;
use crate::decide::{Old, Place};

/// Where a version's secret opens. Keys have no control characters, and so no
/// two places have the same text.
pub(crate) fn place_text(scope: &Scope, key: &ConfigKey, version: Version) -> String {
    format!("config\0{scope}\0{key}\0{version}")
}

impl Ambient {
    /// The value as it is kept.
    pub(crate) fn seal(
        &self,
        place: &Place,
        version: Version,
        value: ConfigValue,
    ) -> Result<ConfigValue, SealError> {
        let ConfigValue::Secret(plain) = value else { return Ok(value) };
        let place = place_text(&place.0, &place.1, version);
        let envelope = self.keys.seal_envelope(&place, &plain, self.entropy.as_ref())?;
        Ok(ConfigValue::Sealed(Bytes::from(envelope)))
    }

    /// The value in clear.
    pub(crate) fn open(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        version: Version,
        value: ConfigValue,
    ) -> Result<ConfigValue, SealError> {
        let ConfigValue::Sealed(envelope) = value else { return Ok(value) };
        self.keys.open_envelope(&place_text(scope, key, version), &envelope).map(ConfigValue::Secret)
    }

    /// An earlier version, to be written again.
    pub(crate) fn old(&self, place: &Place, version: Version, value: Option<ConfigValue>) -> Old {
        match value.map(|value| self.open(&place.0, &place.1, version, value)).transpose() {
            Ok(value) => Old::There(value),
            Err(error) => {
                tracing::error!(%error, scope = %place.0, version, "a kept secret does not open");
                Old::Unreadable
            }
        }
    }
}
