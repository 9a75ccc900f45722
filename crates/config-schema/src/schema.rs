//! A compiled schema.

use std::collections::BTreeSet;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;
use thiserror::Error;

/// The most bytes that a compiled pattern takes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// The longest text of an error.
const DETAIL_CHARACTERS_MAX: usize = 300;

/// The value is no schema.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the value is no JSON Schema: {detail}")]
pub struct NotASchema {
    /// Where, as a JSON pointer into it.
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
}

/// A value does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct DoesNotFit {
    /// Where, as a JSON pointer into the value.
    pub pointer: String,
    /// What the schema asks for there. The value itself is not shown: it may be
    /// a secret.
    pub detail: String,
}

/// A schema that values can be held against.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    /// The names of all properties that it speaks of.
    names: BTreeSet<String>,
}

impl Schema {
    /// Compiles a schema. It refers to nothing outside itself; of which draft
    /// it is, `$schema` says, and 2020-12 where it is silent.
    ///
    /// # Errors
    /// Where it is none.
    pub fn compile(text: &[u8]) -> Result<Self, NotASchema> {
        let schema: Value = serde_json::from_slice(text)
            .map_err(|error| NotASchema { pointer: String::new(), detail: error.to_string() })?;
        if !schema.is_object() && !schema.is_boolean() {
            let detail = "a schema is an object, true or false".to_owned();
            return Err(NotASchema { pointer: String::new(), detail });
        }
        refuse_circles(&schema)?;
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX);
        let validator = jsonschema::options()
            .offline()
            .should_validate_formats(true)
            .with_pattern_options(patterns)
            .build(&schema)
            .map_err(|error| NotASchema {
                pointer: error.instance_path().to_string(),
                detail: cut(&error.to_string()),
            })?;
        let mut names = BTreeSet::new();
        named(&schema, &mut names);
        Ok(Self { validator, names })
    }

    /// Holds a value against the schema.
    ///
    /// # Errors
    /// Where it does not fit: the first place where it does not.
    pub fn fits(&self, value: &Value) -> Result<(), DoesNotFit> {
        self.validator.validate(value).map_err(|error| DoesNotFit {
            pointer: error.instance_path().to_string(),
            detail: cut(&error.masked().to_string()),
        })
    }

    /// The same for a secret: of it nothing is told that does not stand in the
    /// schema, neither what it contains nor how its properties are called.
    ///
    /// # Errors
    /// As [`Schema::fits`]. The place is the deepest one on the way there that the
    /// schema has a name for.
    pub fn fits_as_secret(&self, value: &Value) -> Result<(), DoesNotFit> {
        self.validator.validate(value).map_err(|error| {
            let whole = error.instance_path().to_string();
            let pointer = self.as_named(&whole, value);
            let within = if pointer.len() < whole.len() { "of what is in it, " } else { "" };
            DoesNotFit { detail: cut(&format!("{within}{}", said_of_secret(&error))), pointer }
        })
    }

    /// The beginning of a pointer in which each property is one that the schema
    /// names. What stands for an element of an array is its number.
    fn as_named(&self, pointer: &str, value: &Value) -> String {
        let (mut known, mut at) = (String::new(), Some(value));
        for part in pointer.split('/').skip(1) {
            let name = part.replace("~1", "/").replace("~0", "~");
            at = match at {
                Some(Value::Object(members)) if self.names.contains(&name) => members.get(&name),
                Some(Value::Array(members)) => name.parse::<usize>().ok().and_then(|at| members.get(at)),
                _ => break,
            };
            known.push('/');
            known.push_str(part);
        }
        known
    }
}

/// What is told of a secret. The library masks values, and not the names of
/// properties that it stumbles on.
fn said_of_secret(error: &ValidationError<'_>) -> String {
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            format!("properties that the schema does not allow: {}", unexpected.len())
        }
        ValidationErrorKind::PropertyNames { .. } => {
            "a property has a name that the schema does not allow".to_owned()
        }
        ValidationErrorKind::BacktrackLimitExceeded { .. }
        | ValidationErrorKind::RegexEngineFailure { .. } => "a pattern could not be tried".to_owned(),
        _ => error.masked().to_string(),
    }
}

/// All names of properties in a schema.
fn named(schema: &Value, names: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Object(properties)) = members.get("properties") {
                names.extend(properties.keys().cloned());
            }
            members.values().for_each(|member| named(member, names));
        }
        Value::Array(members) => members.iter().for_each(|member| named(member, names)),
        _ => {}
    }
}

fn cut(text: &str) -> String {
    text.chars().take(DETAIL_CHARACTERS_MAX).collect()
}

/// A reference that leads back to itself without going into the value would be
/// followed without an end. Followed here are `$ref`s into the schema itself and
/// what is applied to the same place of a value.
fn refuse_circles(schema: &Value) -> Result<(), NotASchema> {
    let mut done = std::collections::BTreeSet::new();
    let mut pointers = Vec::new();
    references(schema, &mut pointers);
    for start in pointers {
        let mut path = Vec::new();
        if !done.contains(&start) {
            follow(schema, &start, &mut path, &mut done)?;
        }
    }
    Ok(())
}

/// All references of a schema to itself.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(reference(members));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(members) => members.iter().for_each(|member| references(member, found)),
        _ => {}
    }
}

fn reference(members: &serde_json::Map<String, Value>) -> Option<String> {
    let target = members.get("$ref").or_else(|| members.get("$dynamicRef"))?.as_str()?;
    target.strip_prefix('#').map(|pointer| pointer.replace("%25", "%"))
}

fn follow(
    schema: &Value,
    pointer: &str,
    path: &mut Vec<String>,
    done: &mut std::collections::BTreeSet<String>,
) -> Result<(), NotASchema> {
    if path.iter().any(|passed| passed == pointer) {
        let detail = "it refers to itself without going into the value".to_owned();
        return Err(NotASchema { pointer: pointer.to_owned(), detail });
    }
    let target = if pointer.starts_with('/') || pointer.is_empty() { schema.pointer(pointer) } else { None };
    if let Some(target) = target {
        path.push(pointer.to_owned());
        let mut next = Vec::new();
        in_place(target, &mut next);
        for pointer in next {
            if !done.contains(&pointer) {
                follow(schema, &pointer, path, done)?;
            }
        }
        path.pop();
    }
    done.insert(pointer.to_owned());
    Ok(())
}

/// The references of a schema that are applied to the same place of the value.
fn in_place(schema: &Value, found: &mut Vec<String>) {
    let Value::Object(members) = schema else { return };
    found.extend(reference(members));
    for keyword in ["allOf", "anyOf", "oneOf"] {
        if let Some(Value::Array(parts)) = members.get(keyword) {
            parts.iter().for_each(|part| in_place(part, found));
        }
    }
    for keyword in ["not", "if", "then", "else"] {
        members.get(keyword).into_iter().for_each(|part| in_place(part, found));
    }
    if let Some(Value::Object(parts)) =
        members.get("dependentSchemas").or_else(|| members.get("dependencies"))
    {
        parts.values().for_each(|part| in_place(part, found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compile(schema: &Value) -> Result<Schema, NotASchema> {
        Schema::compile(schema.to_string().as_bytes())
    }

    #[test]
    fn a_value_fits_or_is_told_where_not() {
        let schema = compile(&json!({
            "type": "object",
            "properties": {
                "colour": {"pattern": "^#[0-9a-f]{6}$"},
                "pools": {"type": "array", "items": {"type": "object", "properties": {"size": {"minimum": 1}}}},
                "from": {"type": "string", "format": "email"}
            },
            "required": ["colour"],
            "additionalProperties": false
        }))
        .unwrap();
        assert_eq!(schema.fits(&json!({"colour": "#00ff7f", "pools": [{"size": 3}]})), Ok(()));
        for (value, pointer) in [
            (json!({"colour": "hunter2"}), "/colour"),
            (json!({"colour": "#000000", "pools": [{"size": 3}, {"size": 0}]}), "/pools/1/size"),
            (json!({"colour": "#000000", "from": "hunter2"}), "/from"),
            (json!({"colour": "#000000", "x": "hunter2"}), ""),
            (json!({}), ""),
            (json!("hunter2"), ""),
        ] {
            let refused = schema.fits(&value).unwrap_err();
            assert_eq!(refused.pointer, pointer, "{value}: {refused}");
            assert!(!refused.detail.contains("hunter2"), "it shows the value: {refused}");
        }
    }

    #[test]
    fn of_a_secret_only_what_the_schema_says_is_told() {
        let schema = compile(&json!({
            "type": "object",
            "properties": {
                "ports": {"type": "array", "items": {"type": "object", "properties": {"size": {"minimum": 1}}}},
                "names": {"propertyNames": {"pattern": "^[a-z]+$"}},
                "lists": {"additionalProperties": {"type": "array", "items": {"type": "string"}}},
                "parts": {"unevaluatedProperties": false}
            },
            "patternProperties": {"^x-": {"type": "string"}},
            "required": ["ports"],
            "additionalProperties": false
        }))
        .unwrap();
        assert_eq!(schema.fits_as_secret(&json!({"ports": [{"size": 3}], "x-HIDDEN777": "a"})), Ok(()));
        for (value, pointer) in [
            (json!({"ports": [], "HIDDEN777": 1}), ""),
            (json!({"ports": [{"size": 3}, {"size": 0}]}), "/ports/1/size"),
            (json!({"ports": [], "names": {"HIDDEN777": 1}}), "/names"),
            (json!({"ports": [], "lists": {"HIDDEN777": 1}}), "/lists"),
            (json!({"ports": [], "lists": {"777": ["HIDDEN777", 1]}}), "/lists"),
            (json!({"ports": [], "parts": {"HIDDEN777": 1}}), "/parts"),
            (json!({"ports": [], "x-HIDDEN777": 1}), ""),
            (json!({"HIDDEN777": "HIDDEN777"}), ""),
            (json!("HIDDEN777"), ""),
        ] {
            let refused = schema.fits_as_secret(&value).unwrap_err();
            assert_eq!(refused.pointer, pointer, "{value}: {refused}");
            assert!(!refused.detail.contains("777"), "it shows a name: {refused}");
        }
        // Canary: of others the name is told.
        let refused = schema.fits(&json!({"ports": [], "HIDDEN777": 1})).unwrap_err();
        assert!(refused.detail.contains("HIDDEN777"), "{refused}");
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for schema in [
            json!({"type": "text"}),
            json!({"properties": []}),
            json!({"pattern": "("}),
            json!({"pattern": "(a)\\1"}),
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"$ref": "#/$defs/none"}),
            json!({"$schema": "https://example.com/own-dialect"}),
            json!([]),
            json!("x"),
        ] {
            assert!(compile(&schema).is_err(), "{schema}");
        }
        assert!(Schema::compile(b"{").is_err());
        assert!(compile(&json!(true)).is_ok());
        let large = json!({"pattern": "(a{1000}){1000}"});
        assert!(compile(&large).is_err(), "a pattern is bounded");
    }

    #[test]
    fn schemas_that_lead_to_themselves_are_refused_and_trees_are_not() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"not": {"$ref": "#/$defs/a"}}]}}, "$ref": "#/$defs/a"}),
        ] {
            let refused = compile(&schema).unwrap_err();
            assert!(refused.detail.contains("refers to itself"), "{schema}: {refused}");
        }
        let tree = compile(&json!({
            "$defs": {"node": {
                "type": "object",
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
                "required": ["children"]
            }},
            "$ref": "#/$defs/node"
        }))
        .unwrap();
        assert_eq!(tree.fits(&json!({"children": [{"children": []}]})), Ok(()));
        assert_eq!(tree.fits(&json!({"children": [{}]})).unwrap_err().pointer, "/children/0");
    }

    /// What is not seen here is seen when a value is held against it: it comes
    /// to an end, and does not take the process with it.
    #[test]
    fn a_circle_that_is_not_refused_comes_to_an_end() {
        let older = "https://json-schema.org/draft/2019-09/schema";
        for schema in [
            json!({"$anchor": "a", "allOf": [{"$ref": "#a"}]}),
            json!({"$dynamicAnchor": "a", "allOf": [{"$dynamicRef": "#a"}]}),
            json!({"$id": "https://example.com/a", "allOf": [{"$ref": "https://example.com/a"}]}),
            json!({"allOf": [{"$ref": ""}]}),
            json!({"$defs": {"a": {"allOf": [{"$ref": "#/%24defs/a"}]}}, "$ref": "#/$defs/a"}),
            json!({"$schema": older, "allOf": [{"$recursiveRef": "#"}]}),
            json!({"$schema": older, "dependentSchemas": {}, "dependencies": {"a": {"$ref": "#"}}}),
            json!({"$defs": {"b": {"$id": "https://example.com/b", "not": {"$ref": "#"}}}, "$ref": "#/$defs/b"}),
        ] {
            if let Ok(compiled) = compile(&schema) {
                for value in [json!({"a": {"a": 1}}), json!([1]), json!(1)] {
                    // Whether it fits is the library's to say.
                    let _ = compiled.fits(&value);
                }
            }
        }
    }
}
