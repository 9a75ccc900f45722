//! A compiled schema.

use jsonschema::{PatternOptions, Validator};
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
        Ok(Self { validator })
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
