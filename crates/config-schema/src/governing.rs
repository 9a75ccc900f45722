//! Which schema a key has: its own, or else that of the longest prefix for which
//! one is set.

use insula_config_model::{ConfigKey, SCHEMA_KEYS};

/// For what a schema is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Governed<'key> {
    /// For one key.
    Key(&'key str),
    /// For all keys that begin so.
    Prefix(&'key str),
}

/// For what the schema under a key is. None where the key is not a schema's.
#[must_use]
pub fn governed(schema: &ConfigKey) -> Option<Governed<'_>> {
    let text = schema.as_str().strip_prefix(SCHEMA_KEYS)?;
    Some(text.strip_suffix('*').map_or(Governed::Key(text), Governed::Prefix))
}

/// The schema of a key, of those that are set. Insula's own values have none.
pub fn governing<'keys>(
    key: &ConfigKey,
    schemas: impl IntoIterator<Item = &'keys ConfigKey>,
) -> Option<&'keys ConfigKey> {
    if key.as_str().starts_with("insula_") {
        return None;
    }
    let strength = |schema: &ConfigKey| match governed(schema)? {
        Governed::Key(own) => (own == key.as_str()).then_some(usize::MAX),
        Governed::Prefix(prefix) => key.as_str().starts_with(prefix).then_some(prefix.len()),
    };
    let strengths = schemas.into_iter().filter_map(|schema| Some((strength(schema)?, schema)));
    strengths.max_by_key(|(strength, _)| *strength).map(|(_, schema)| schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_wins_and_then_the_longest_beginning() {
        let keys: Vec<ConfigKey> = [
            "insula_schema/tenant_config_*",
            "insula_schema/tenant_config_theme/*",
            "insula_schema/tenant_config_theme/colour",
            "insula_tags",
        ]
        .iter()
        .map(|key| key.parse().unwrap())
        .collect();
        let of = |key: &str| governing(&key.parse().unwrap(), &keys).map(ConfigKey::as_str);
        assert_eq!(of("tenant_config_theme/colour"), Some("insula_schema/tenant_config_theme/colour"));
        assert_eq!(of("tenant_config_theme/colours"), Some("insula_schema/tenant_config_theme/*"));
        assert_eq!(of("tenant_config_theme/font"), Some("insula_schema/tenant_config_theme/*"));
        assert_eq!(of("tenant_config_x"), Some("insula_schema/tenant_config_*"));
        assert_eq!(of("param_config_x"), None);
        assert_eq!(of("insula_schema/x"), None);
    }
}
