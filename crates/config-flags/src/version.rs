//! `sem_ver`: versions compared by the rules of Semantic Versioning, also those
//! that are written in short.
//! Source: <https://flagd.dev/reference/custom-operations/semver-operation/>.

use semver::{BuildMetadata, Version};
use serde_json::Value;

use crate::logic::text;

/// A version as people write it: `1.2.3`, `v1.2.3`, `1.2`, or a number.
fn read(value: &Value) -> Option<Version> {
    let written = match value {
        Value::String(written) => written.clone(),
        Value::Number(_) => text(value),
        _ => return None,
    };
    let written = written.trim().trim_start_matches(['v', 'V']);
    let parts = written.split('.').count();
    let is_short = parts < 3 && written.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let full = if is_short { format!("{written}{}", ".0".repeat(3 - parts)) } else { written.to_owned() };
    let mut version = Version::parse(&full).ok()?;
    // What a build is called does not make it newer.
    version.build = BuildMetadata::EMPTY;
    Some(version)
}

/// Whether a version stands to another as the sign says; null where it cannot be said.
pub(crate) fn compare(arguments: &[Value]) -> Value {
    let [left, Value::String(sign), right] = arguments else { return Value::Null };
    let (Some(left), Some(right)) = (read(left), read(right)) else { return Value::Null };
    let holds = match sign.as_str() {
        "=" => left == right,
        "!=" => left != right,
        "<" => left < right,
        "<=" => left <= right,
        ">" => left > right,
        ">=" => left >= right,
        "^" => left.major == right.major,
        "~" => left.major == right.major && left.minor == right.minor,
        _ => return Value::Null,
    };
    Value::Bool(holds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn versions_are_compared() {
        for (left, sign, right, holds) in [
            (json!("1.10.0"), ">", json!("1.9.9"), true),
            (json!("2.0.0-rc.2"), "<", json!("2.0.0"), true),
            (json!("2.0.0-rc.2"), ">", json!("2.0.0-rc.10"), false),
            (json!("v3"), "=", json!("3.0.0"), true),
            (json!(3), ">=", json!("3.0"), true),
            (json!(1.5), "=", json!("1.5.0"), true),
            (json!("1.2.3+blue"), "=", json!("1.2.3+green"), true),
            (json!("1.2.3"), "!=", json!("1.2.3"), false),
            (json!("4.7.1"), "^", json!("4.0.0"), true),
            (json!("4.7.1"), "~", json!("4.8.0"), false),
            (json!("4.8.1"), "~", json!("4.8.0"), true),
            (json!("4.8.1"), "<=", json!("4.8.1"), true),
        ] {
            assert_eq!(compare(&[left.clone(), json!(sign), right.clone()]), holds, "{left} {sign} {right}");
        }
    }

    #[test]
    fn what_is_no_version_is_not_compared() {
        for arguments in [
            json!(["1.0.0", "="]),
            json!(["1.0.0", "=>", "1.0.0"]),
            json!(["1.0.0.0", "=", "1.0.0"]),
            json!(["release_1", "=", "1.0.0"]),
            json!([null, "=", "1.0.0"]),
            json!(["1.0.0", "=", "1.0.0", "2.0.0"]),
            json!(["", "=", ""]),
        ] {
            assert_eq!(compare(arguments.as_array().unwrap()), Value::Null, "{arguments}");
        }
    }
}
