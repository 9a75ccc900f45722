//! What one type counts as where another is asked for: JavaScript's rules, which
//! JsonLogic has taken over.

use serde_json::{Number, Value};

/// Whether a value counts as true.
pub(super) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_true) => *is_true,
        Value::Number(number) => number.as_f64().is_some_and(|float| float != 0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(members) => !members.is_empty(),
        Value::Object(_) => true,
    }
}

/// A value as a number; none is "not a number".
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Null => Some(0.0),
        Value::Bool(is_true) => Some(f64::from(*is_true)),
        Value::Number(number) => number.as_f64(),
        Value::String(text) if text.trim().is_empty() => Some(0.0),
        Value::String(text) => {
            let text = text.trim();
            // What Rust reads and JavaScript does not: inf, nan.
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
            if is_plain { text.parse().ok() } else { None }
        }
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A number as a value; what is none is null.
pub(super) fn value(float: f64) -> Value {
    if float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_991.0 {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
        return Value::from(float as i64);
    }
    Number::from_f64(float).map_or(Value::Null, Value::Number)
}

/// A value as text.
pub(crate) fn text(given: &Value) -> String {
    match given {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().map_or_else(String::new, |float| match value(float) {
            Value::Number(whole) if whole.is_i64() => whole.to_string(),
            _ => float.to_string(),
        }),
        Value::Array(members) => members.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// `==`: equal when one is read as the other.
pub(super) fn is_equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Null, _) | (_, Value::Null) => false,
        (Value::String(left), Value::String(right)) => left == right,
        (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => false,
        _ => match (number(left), number(right)) {
            (Some(left), Some(right)) => left == right,
            _ => false,
        },
    }
}

/// `===`: of the same type, and equal.
pub(super) fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(_) | Value::Object(_), _) => false,
        _ => left == right,
    }
}

/// The order of two values: of two texts by their letters, of others by their numbers.
pub(super) fn order(left: &Value, right: &Value) -> Option<std::cmp::Ordering> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => number(left)?.partial_cmp(&number(right)?),
    }
}
