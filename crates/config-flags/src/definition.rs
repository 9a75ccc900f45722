//! The definition of one flag: read strictly, so that what is stored can be
//! evaluated, and a mistake is told where it is.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::logic::Rule;

/// The largest whole number that every client reads exactly.
const SAFE_INTEGER_MAX: f64 = 9_007_199_254_740_991.0;

/// The most variants of a flag.
const VARIANTS_MAX: usize = 1_000;

/// Whether a flag is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is.
    Enabled,
    /// As if there were none: applications use what they have built in.
    Disabled,
}

/// The value is no flag.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct FlagRefused {
    /// Where, as a JSON pointer into the value.
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
}

fn refused(pointer: impl Into<String>, detail: impl Into<String>) -> FlagRefused {
    FlagRefused { pointer: pointer.into(), detail: detail.into() }
}

/// A JSON pointer's part.
pub(crate) fn escaped(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

/// A flag as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct FlagDefinition {
    /// Whether it is to be used.
    pub state: State,
    /// The values between which it chooses, all of one type.
    pub variants: BTreeMap<String, Value>,
    /// The variant where no rule chooses; none leaves it to the application.
    pub default_variant: Option<String>,
    /// The rule that chooses.
    pub targeting: Option<Value>,
    /// What is said of it: words, numbers and truth values.
    pub metadata: Map<String, Value>,
}

impl FlagDefinition {
    /// Reads a definition.
    ///
    /// # Errors
    /// Where it could not be evaluated.
    pub fn read(value: &Value) -> Result<Self, FlagRefused> {
        let members = value.as_object().ok_or_else(|| refused("", "a flag is an object"))?;
        for name in members.keys() {
            if !["state", "variants", "defaultVariant", "targeting", "metadata"].contains(&name.as_str()) {
                return Err(refused(format!("/{}", escaped(name)), "a flag has no such member"));
            }
        }
        let variants = variants(members.get("variants"))?;
        Ok(Self {
            state: state(members.get("state"))?,
            default_variant: default_variant(members.get("defaultVariant"), &variants)?,
            variants,
            targeting: targeting(members.get("targeting"))?,
            metadata: metadata(members.get("metadata"))?,
        })
    }
}

fn state(value: Option<&Value>) -> Result<State, FlagRefused> {
    match value.and_then(Value::as_str) {
        Some("ENABLED") => Ok(State::Enabled),
        Some("DISABLED") => Ok(State::Disabled),
        _ => Err(refused("/state", "the state is ENABLED or DISABLED")),
    }
}

fn variants(value: Option<&Value>) -> Result<BTreeMap<String, Value>, FlagRefused> {
    let members = value
        .and_then(Value::as_object)
        .filter(|members| (1..=VARIANTS_MAX).contains(&members.len()))
        .ok_or_else(|| refused("/variants", "variants is an object with 1 to 1000 members"))?;
    let mut first: Option<&'static str> = None;
    for (name, value) in members {
        let at = || format!("/variants/{}", escaped(name));
        let kind = match value {
            _ if name.is_empty() => return Err(refused("/variants", "a variant has a name")),
            Value::Bool(_) => "boolean",
            Value::String(_) => "string",
            Value::Object(_) => "object",
            Value::Number(number) if is_exact(number) => "number",
            Value::Number(_) => return Err(refused(at(), "clients cannot read so large a number exactly")),
            Value::Null | Value::Array(_) => {
                return Err(refused(at(), "a variant is a boolean, a string, a number or an object"));
            }
        };
        if *first.get_or_insert(kind) != kind {
            return Err(refused(at(), "all variants of a flag have the same type"));
        }
    }
    Ok(members.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn is_exact(number: &serde_json::Number) -> bool {
    number.as_f64().is_some_and(|float| float.fract() != 0.0 || float.abs() <= SAFE_INTEGER_MAX)
}

fn default_variant(
    value: Option<&Value>,
    variants: &BTreeMap<String, Value>,
) -> Result<Option<String>, FlagRefused> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) if variants.contains_key(name) => Ok(Some(name.clone())),
        Some(_) => Err(refused("/defaultVariant", "the default variant is one of the variants")),
    }
}

fn targeting(value: Option<&Value>) -> Result<Option<Value>, FlagRefused> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(members)) if members.is_empty() => Ok(None),
        Some(rule @ Value::Object(_)) => {
            Rule::check(rule)
                .map_err(|error| refused(format!("/targeting{}", error.pointer), error.detail))?;
            Ok(Some(rule.clone()))
        }
        Some(_) => Err(refused("/targeting", "targeting is an object")),
    }
}

fn metadata(value: Option<&Value>) -> Result<Map<String, Value>, FlagRefused> {
    let members = match value {
        None | Some(Value::Null) => return Ok(Map::new()),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(refused("/metadata", "metadata is an object")),
    };
    for (name, value) in members {
        if !(value.is_string() || value.is_number() || value.is_boolean()) {
            return Err(refused(
                format!("/metadata/{}", escaped(name)),
                "metadata are strings, numbers and booleans",
            ));
        }
    }
    Ok(members.clone())
}

/// Rules that several flags use, by name (`{"$ref": "name"}`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SharedRules(BTreeMap<String, Value>);

impl SharedRules {
    /// Whether a value can be shared as a rule.
    ///
    /// # Errors
    /// Where it is none.
    pub fn check(value: &Value) -> Result<(), FlagRefused> {
        if !value.is_object() {
            return Err(refused("", "a shared rule is an object"));
        }
        Rule::check(value).map_err(|error| refused(error.pointer, error.detail))
    }

    /// Adds one.
    pub fn insert(&mut self, name: impl Into<String>, rule: Value) {
        self.0.insert(name.into(), rule);
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, rule)| (name.as_str(), rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_whole_definition_is_read() {
        let flag = FlagDefinition::read(&json!({
            "state": "ENABLED",
            "variants": {"wide": {"columns": 3}, "narrow": {"columns": 1}},
            "defaultVariant": "narrow",
            "targeting": {"if": [{"$ref": "staff"}, "wide"]},
            "metadata": {"owner": "web", "since": 3, "temporary": true}
        }))
        .unwrap();
        assert_eq!(flag.variants.len(), 2);
        assert_eq!(flag.default_variant.as_deref(), Some("narrow"));
        assert!(flag.targeting.is_some());
        let short = FlagDefinition::read(&json!({
            "state": "DISABLED", "variants": {"on": true}, "targeting": {}, "defaultVariant": null
        }));
        let short = short.unwrap();
        assert_eq!((short.state, short.default_variant, short.targeting), (State::Disabled, None, None));
    }

    #[test]
    fn a_mistake_is_told_where_it_is() {
        let good = json!({"state": "ENABLED", "variants": {"a": 1, "b": 2}, "defaultVariant": "a"});
        FlagDefinition::read(&good).unwrap();
        for (member, value, pointer) in [
            ("state", json!("enabled"), "/state"),
            ("state", Value::Null, "/state"),
            ("variants", json!({}), "/variants"),
            ("variants", json!({"a": 1, "b/c": "x"}), "/variants/b~1c"),
            ("variants", json!({"a": [1]}), "/variants/a"),
            ("variants", json!({"a": 9_007_199_254_740_993_i64}), "/variants/a"),
            ("variants", json!({"": 1, "a": 1}), "/variants"),
            ("defaultVariant", json!("c"), "/defaultVariant"),
            ("defaultVariant", json!(1), "/defaultVariant"),
            ("targeting", json!([1]), "/targeting"),
            ("targeting", json!({"if": [{"unknown": 1}, "a"]}), "/targeting/if/0"),
            ("metadata", json!({"a": {}}), "/metadata/a"),
            ("targetting", json!({}), "/targetting"),
        ] {
            let mut flag = good.clone();
            flag[member] = value.clone();
            let refused = FlagDefinition::read(&flag).unwrap_err();
            assert_eq!(refused.pointer, pointer, "{member}: {value}");
        }
        assert!(FlagDefinition::read(&json!(true)).is_err());
    }
}
