//! What a flag is for the one who asks, as both versions of the protocol say it,
//! and the status where there is no answer. Providers tell errors apart by
//! gRPC's codes: there is no flag (NOT_FOUND), it has another type
//! (INVALID_ARGUMENT), it cannot be evaluated (DATA_LOSS).

use insula_config_flags::{Asking, Reason};
use insula_config_proto::Struct;
use serde_json::Value;
use tonic::Status;

use super::set::{FlagSet, Found};
use super::structs::object;

/// What a flag is.
#[derive(Debug)]
pub(super) struct Answer<T> {
    /// The value and its variant; none leaves it to the application.
    pub chosen: Option<(T, String)>,
    /// Why.
    pub reason: Reason,
    /// What is said of it.
    pub metadata: Struct,
}

/// A type of flags.
pub(super) trait Typed: Sized {
    /// The value, where it is of the type.
    fn of(value: &Value) -> Option<Self>;
}

impl Typed for bool {
    fn of(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Typed for String {
    fn of(value: &Value) -> Option<Self> {
        value.as_str().map(ToOwned::to_owned)
    }
}

impl Typed for f64 {
    fn of(value: &Value) -> Option<Self> {
        value.as_f64()
    }
}

impl Typed for i64 {
    fn of(value: &Value) -> Option<Self> {
        // As flagd does: what is behind the point is left out.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "numbers of flags are small enough, see definitions"
        )]
        value.as_f64().map(|float| float as i64)
    }
}

impl Typed for Struct {
    fn of(value: &Value) -> Option<Self> {
        value.as_object().map(object)
    }
}

impl Typed for Value {
    fn of(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
}

/// Asks a flag of a set.
pub(super) fn ask<T: Typed>(set: &FlagSet, name: &str, asking: &mut Asking) -> Result<Answer<T>, Status> {
    let found = set.get(name).ok_or_else(|| Status::not_found("FLAG_NOT_FOUND: there is no such flag"))?;
    ask_one(found, name, asking)
}

/// Asks a flag.
pub(super) fn ask_one<T: Typed>(found: &Found, name: &str, asking: &mut Asking) -> Result<Answer<T>, Status> {
    let unreadable = |error: String| Status::data_loss(format!("PARSE_ERROR: {error}"));
    let flag = found.flag.as_ref().map_err(|refused| unreadable(refused.to_string()))?;
    let resolution = flag.answer(name, asking).map_err(|error| unreadable(error.to_string()))?;
    let mismatch = || Status::invalid_argument("TYPE_MISMATCH: the flag has another type");
    let chosen = match resolution.chosen {
        Some((variant, value)) => Some((T::of(value).ok_or_else(mismatch)?, variant.to_owned())),
        None => None,
    };
    Ok(Answer { chosen, reason: resolution.reason, metadata: object(&found.metadata) })
}

#[cfg(test)]
mod tests {
    use super::super::set::Entry;
    use super::*;
    use insula_config_flags::Purse;
    use serde_json::json;

    #[test]
    fn answers_have_the_type_that_is_asked_for() {
        let value = json!({"state": "ENABLED", "variants": {"a": 2.5}, "defaultVariant": "a"}).to_string();
        let broken = b"{}".as_slice();
        let entry = |key, json| Entry { key, json, scope: "platform", version: 1 };
        let set = FlagSet::new([
            entry("tenant_config_flag/n", value.as_bytes()),
            entry("tenant_config_flag/broken", broken),
        ]);
        let context = &mut Asking::new(serde_json::Map::new(), 0, Purse::for_rules(1));
        assert_eq!(ask::<f64>(&set, "n", context).unwrap().chosen, Some((2.5, "a".to_owned())));
        assert_eq!(ask::<i64>(&set, "n", context).unwrap().chosen, Some((2, "a".to_owned())));
        let code = |status: Result<Answer<bool>, Status>| status.unwrap_err().code();
        assert_eq!(code(ask(&set, "n", context)), tonic::Code::InvalidArgument);
        assert_eq!(code(ask(&set, "x", context)), tonic::Code::NotFound);
        assert_eq!(code(ask(&set, "broken", context)), tonic::Code::DataLoss);
    }
}
