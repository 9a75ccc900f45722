//! JSON as protobuf's `Struct` and back.

use insula_config_proto::{Kind, ListValue, Struct, Value as Proto};
use serde_json::{Map, Number, Value};

/// The largest whole number that a double holds exactly.
const EXACT: f64 = 9_007_199_254_740_991.0;

/// A context as JSON.
pub(super) fn context(given: Option<Struct>) -> Map<String, Value> {
    given
        .map(|given| given.fields.into_iter().map(|(name, value)| (name, json(value))).collect())
        .unwrap_or_default()
}

fn json(value: Proto) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(is_true)) => Value::Bool(is_true),
        Some(Kind::NumberValue(float)) if float.fract() == 0.0 && float.abs() <= EXACT => {
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
            let whole = float as i64;
            whole.into()
        }
        Some(Kind::NumberValue(float)) => Number::from_f64(float).map_or(Value::Null, Value::Number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(json).collect()),
        Some(Kind::StructValue(members)) => Value::Object(context(Some(members))),
    }
}

/// An object as a `Struct`.
pub(super) fn object(members: &Map<String, Value>) -> Struct {
    Struct { fields: members.iter().map(|(name, value)| (name.clone(), proto(value))).collect() }
}

fn proto(value: &Value) -> Proto {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(is_true) => Kind::BoolValue(*is_true),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(members) => Kind::ListValue(ListValue { values: members.iter().map(proto).collect() }),
        Value::Object(members) => Kind::StructValue(object(members)),
    };
    Proto { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_comes_back() {
        let given = json!({"a": [1, 1.5, null, true, {"b": "c"}], "": {}});
        let members = given.as_object().unwrap();
        assert_eq!(Value::Object(context(Some(object(members)))), given);
        assert!(context(None).is_empty());
    }
}
