//! The settings as they are shown: with every secret redacted, and as a
//! JSON Schema.

use crate::schema;
use crate::sections::Settings;

impl Settings {
    /// All settings as TOML, defaults included and secrets redacted.
    #[must_use]
    pub fn to_redacted_toml(&self) -> String {
        // Every field is a text, a number, a truth value, a list or a table.
        toml::to_string_pretty(self).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
    }

    /// The JSON Schema of the settings file, pretty, with a line end.
    #[must_use]
    pub fn json_schema() -> String {
        format!("{:#}\n", schema::of_settings())
    }
}
