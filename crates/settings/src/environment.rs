//! The environment as a layer of settings: `INSULA_` and the key, with two
//! underscores between a section and what is in it.

use figment::value::{Dict, Map, Tag, Value};
use figment::{Metadata, Profile, Provider};

use crate::schema;

/// What the names of our variables begin with.
const PREFIX: &str = "INSULA_";

/// Our variables of this process's environment, for [`crate::Settings::load`].
/// A value that is not UTF-8 is taken with replacement characters, so that it
/// is refused where it is read.
#[must_use]
pub fn process_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

/// The key that a variable sets: `INSULA_HTTP__LISTEN` is `http`, `listen`.
/// Variables without two underscores are other ones (`INSULA_URL` is for the
/// command line), unless they name a whole section.
pub fn key_of(name: &str, sections: &[&str]) -> Option<Vec<String>> {
    let key = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
    let path: Vec<String> = key.split("__").map(str::to_owned).collect();
    let is_ours = match path.as_slice() {
        [only] => sections.contains(&only.as_str()),
        parts => parts.iter().all(|part| !part.is_empty()),
    };
    is_ours.then_some(path)
}

/// The name of the variable that sets a key.
pub fn variable_of(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").to_ascii_uppercase())
}

/// The variables that set something, as nested values.
pub struct Environment {
    values: Vec<(Vec<String>, Value)>,
}

impl Environment {
    /// Takes those of the variables that are ours. What is a text by the schema
    /// is taken as it is; the rest is read as TOML would be.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>, schema: &serde_json::Value) -> Self {
        let sections = schema::keys(schema).unwrap_or_default();
        let read = |(name, text): (String, String)| {
            let path = key_of(&name, &sections)?;
            let takes_text =
                schema::at(schema, path.iter().map(String::as_str)).is_none_or(schema::takes_text);
            let value = if takes_text { Value::from(text) } else { parse(&text) };
            Some((path, value))
        };
        Self { values: variables.into_iter().filter_map(read).collect() }
    }
}

/// Numbers, truth values, lists and tables as TOML has them; what is none of
/// these stays a text.
fn parse(text: &str) -> Value {
    toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|table| Value::serialize(table.get("value")?).ok())
        .unwrap_or_else(|| Value::from(text))
}

/// Puts a value at its path into a table.
fn insert(table: &mut Dict, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            table.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = table.entry(first.clone()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            } else {
                let mut fresh = Dict::new();
                insert(&mut fresh, rest, value);
                *inner = Value::Dict(Tag::Default, fresh);
            }
        }
    }
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut table = Dict::new();
        // A whole section first, so that single keys win over it.
        let mut values: Vec<_> = self.values.iter().collect();
        values.sort_by_key(|(path, _)| path.len());
        for (path, value) in values {
            insert(&mut table, path, value.clone());
        }
        Ok(Profile::Default.collect(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_with_a_section_are_settings() {
        let sections = ["http", "regions"];
        let key = |name: &str| key_of(name, &sections).map(|path| path.join("."));
        assert_eq!(key("INSULA_HTTP__LISTEN").as_deref(), Some("http.listen"));
        assert_eq!(key("INSULA_HTTP__TLS__CERT_FILE").as_deref(), Some("http.tls.cert_file"));
        assert_eq!(key("INSULA_REGIONS").as_deref(), Some("regions"));
        assert_eq!(key("INSULA_HTPP__LISTEN").as_deref(), Some("htpp.listen"), "refused later, by name");
        for other in ["INSULA_URL", "INSULA_TOKEN", "INSULA_PG_BIN", "INSULA___X", "PATH", "HTTP__LISTEN"] {
            assert_eq!(key(other), None, "{other}");
        }
        assert_eq!(variable_of(&["http".into(), "listen".into()]), "INSULA_HTTP__LISTEN");
    }
}
