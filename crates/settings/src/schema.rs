//! The JSON Schema of the settings, made from the structs. Loading asks it
//! which keys there are, which of them are texts, and which are secrets.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::sections::Settings;

/// The schema with all its parts inlined.
pub fn of_settings() -> Value {
    let generator =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
    generator.into_root_schema_for::<Settings>().to_value()
}

/// The alternatives that a schema is made of: itself, and what its `anyOf` and
/// `oneOf` hold.
fn alternatives(schema: &Value) -> Vec<&Value> {
    let nested = ["anyOf", "oneOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
    std::iter::once(schema).chain(nested.flat_map(alternatives)).collect()
}

/// The schema at a path of keys; digits stand for the items of a list.
pub fn at<'a, 'p>(schema: &'a Value, path: impl IntoIterator<Item = &'p str>) -> Option<&'a Value> {
    path.into_iter().try_fold(schema, |schema, key| {
        alternatives(schema).into_iter().find_map(|one| {
            one["properties"].get(key).or_else(|| {
                let is_index = key.bytes().all(|byte| byte.is_ascii_digit());
                one.get("items").filter(|_| is_index)
            })
        })
    })
}

/// The keys that a schema knows; none where it takes any, or is no table.
pub fn keys(schema: &Value) -> Option<Vec<&str>> {
    alternatives(schema)
        .into_iter()
        .find_map(|one| one["properties"].as_object())
        .map(|properties| properties.keys().map(String::as_str).collect())
}

/// The schema of the items of a list.
pub fn items(schema: &Value) -> Option<&Value> {
    alternatives(schema).into_iter().find_map(|one| one.get("items"))
}

/// Whether a text may stand here as it is.
pub fn takes_text(schema: &Value) -> bool {
    alternatives(schema).into_iter().any(|one| {
        let kind = &one["type"];
        kind == "string" || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "string"))
    })
}

/// Whether a secret stands here or further in.
pub fn holds_secret(schema: &Value) -> bool {
    alternatives(schema).into_iter().any(|one| {
        one["writeOnly"] == true
            || one["properties"].as_object().is_some_and(|properties| properties.values().any(holds_secret))
            || one.get("items").is_some_and(holds_secret)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> impl Iterator<Item = &str> {
        text.split('.')
    }

    #[test]
    fn the_schema_knows_texts_and_secrets() {
        let schema = of_settings();
        for (key, text, secret) in [
            ("http.listen", true, false),
            ("http.tls", false, false),
            ("http.tls.cert_file", true, false),
            ("http.max_body_bytes", false, false),
            ("http.request_timeout", true, false),
            ("catalog", false, true),
            ("catalog.url", true, true),
            ("catalog.url_file", true, false),
            ("regions", false, true),
            ("regions.0.name", true, false),
            ("regions.0.store_url", true, true),
            ("keys.master_key", true, true),
            ("operator.token", true, true),
            ("log.format", true, false),
            ("provisioner.kind", true, false),
            ("provisioner.first_port", false, false),
        ] {
            let found = at(&schema, path(key)).unwrap_or_else(|| panic!("{key} is not there"));
            assert_eq!((takes_text(found), holds_secret(found)), (text, secret), "{key}");
        }
        assert!(at(&schema, path("http.lisen")).is_none());
    }

    #[test]
    fn every_section_refuses_what_it_does_not_know_and_every_key_is_described() {
        fn walk(schema: &Value, path: &str, seen: &mut u32) {
            for one in alternatives(schema) {
                if let Some(properties) = one["properties"].as_object() {
                    assert_eq!(one["additionalProperties"], false, "{path}");
                    for (key, inner) in properties {
                        assert!(
                            inner["description"].as_str().is_some_and(|text| !text.is_empty()),
                            "{path}.{key}"
                        );
                        *seen += 1;
                        walk(inner, &format!("{path}.{key}"), seen);
                    }
                }
            }
            if let Some(items) = schema.get("items") {
                walk(items, &format!("{path}.0"), seen);
            }
        }
        let mut seen = 0;
        walk(&of_settings(), "", &mut seen);
        assert!(seen > 50, "{seen}");
    }
}
