//! What others say of changes in their backends: events as EventBridge sends
//! them, of Parameter Store or with what a DynamoDB stream has, alone or in a
//! list. They only say where to look. Pure.

use insula_problem::{Code, Problem};
use serde::Deserialize;
use serde_json::Value;

/// The most events at once.
const EVENTS_MAX: usize = 100;
/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 2_048;

/// An event, as far as it is read. A pipe sends records of a stream as they are,
/// or in an event's detail.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(default)]
    detail: Option<Detail>,
    #[serde(default)]
    dynamodb: Option<Record>,
}

#[derive(Debug, Deserialize)]
struct Detail {
    /// The name of what has changed, as its backend has it.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    dynamodb: Option<Record>,
}

#[derive(Debug, Deserialize)]
struct Record {
    #[serde(rename = "Keys")]
    keys: Keys,
}

#[derive(Debug, Deserialize)]
struct Keys {
    #[serde(rename = "PK")]
    partition: Text,
    #[serde(rename = "SK")]
    sort: Text,
}

#[derive(Debug, Deserialize)]
struct Text {
    #[serde(rename = "S")]
    text: String,
}

fn invalid(at: usize, expected: &str) -> Problem {
    let detail = format!("The event {at} cannot be used: expected {expected}.");
    Problem::new(Code::InvalidRequest, detail).at(format!("/{at}"), format!("expected {expected}"))
}

/// The names of what has changed, as the backends have them.
///
/// # Errors
/// `invalid_request`, with the event that cannot be used.
pub(crate) fn names(body: &[u8]) -> Result<Vec<String>, Problem> {
    let unreadable = |error: serde_json::Error| {
        let detail = format!("The body is not JSON, at line {}, column {}.", error.line(), error.column());
        Problem::new(Code::InvalidRequest, detail)
    };
    let events = match serde_json::from_slice(body).map_err(unreadable)? {
        Value::Array(events) => events,
        event => vec![event],
    };
    if events.is_empty() || events.len() > EVENTS_MAX {
        let detail = format!("There are 1 to {EVENTS_MAX} events at once, not {}.", events.len());
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    events.into_iter().enumerate().map(|(at, event)| name(at, event)).collect()
}

fn name(at: usize, event: Value) -> Result<String, Problem> {
    let event: Event = serde_json::from_value(event).map_err(|_| invalid(at, "an event of EventBridge"))?;
    let (named, nested) = event.detail.map_or((None, None), |detail| (detail.name, detail.dynamodb));
    let record = event.dynamodb.or(nested).map(|record| {
        let Keys { partition, sort } = record.keys;
        format!("{} {}", partition.text, sort.text)
    });
    let name = named.or(record).ok_or_else(|| invalid(at, "detail.name, or dynamodb.Keys with PK and SK"))?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(invalid(at, "a name of 1 to 2048 bytes"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_named() {
        let parameter = r#"{"version": "0", "source": "aws.ssm", "detail-type": "Parameter Store Change",
            "detail": {"operation": "Update", "name": "/config-service/platform/param_config_a", "type": "String"}}"#;
        assert_eq!(names(parameter.as_bytes()).unwrap(), ["/config-service/platform/param_config_a"]);
        let keys = r#"{"Keys": {"PK": {"S": "PLATFORM"}, "SK": {"S": "CONFIG#tenant_config_a"}}}"#;
        let record =
            format!(r#"{{"eventName": "MODIFY", "eventSource": "aws:dynamodb", "dynamodb": {keys}}}"#);
        let both = format!(r#"[{record}, {{"source": "pipe", "detail": {record}}}]"#);
        assert_eq!(names(both.as_bytes()).unwrap(), ["PLATFORM CONFIG#tenant_config_a"; 2]);
    }

    #[test]
    fn what_is_no_event_is_refused_with_its_place() {
        let long = format!(r#"{{"detail": {{"name": "{}"}}}}"#, "n".repeat(3_000));
        let many = format!("[{}]", vec!["{}"; 101].join(","));
        for (body, said) in [
            ("", "line 1"),
            ("{", "not JSON"),
            ("[]", "1 to 100"),
            (many.as_str(), "1 to 100"),
            ("3", "an event of EventBridge"),
            ("{}", "detail.name"),
            (r#"{"detail": "x"}"#, "an event of EventBridge"),
            (r#"{"detail": {"name": 3}}"#, "an event of EventBridge"),
            (r#"{"detail": {"name": ""}}"#, "1 to 2048"),
            (long.as_str(), "1 to 2048"),
            (r#"{"dynamodb": {"Keys": {"PK": {"S": "a"}}}}"#, "an event of EventBridge"),
            (r#"[{"detail": {"name": "a"}}, {}]"#, "The event 1 "),
        ] {
            let refused = names(body.as_bytes()).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidRequest);
            assert!(refused.detail().contains(said), "{body}: {}", refused.detail());
        }
    }
}
