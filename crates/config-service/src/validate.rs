//! Values before they are written: JSON, compact, as long as the tag allows;
//! then whoever has more to say of it.

use async_trait::async_trait;
use bytes::Bytes;
use insula_config_model::{ConfigValue, Kind, Revision, Scope, ValueRefused, compact_json};
use insula_problem::{Code, Problem};
use zeroize::Zeroizing;

use crate::directory::Named;
use crate::tags::Tagged;

/// A value that is about to be written.
#[derive(Debug)]
pub struct Proposed<'a> {
    /// Where.
    pub named: &'a Named,
    /// Under which key.
    pub tagged: &'a Tagged,
    /// The JSON text, of secrets too; none for a large value.
    pub json: Option<&'a [u8]>,
    /// Against which schemas it is held.
    pub schemas: Schemas,
}

/// Which schemas are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schemas {
    /// Those that are known here: the store refuses the write where others count.
    Known,
    /// Those that the store has now.
    Newest,
}

/// Which schemas a value was held against, by the newest change of those of
/// each scope; empty where schemas do not concern it.
pub type HeldAgainst = Vec<(Scope, Revision)>;

impl Proposed<'_> {
    /// The scope.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.named.scope()
    }
}

/// Has a say on values before they are written.
#[async_trait]
pub trait Validator: Send + Sync + std::fmt::Debug {
    /// Lets the value pass, or not.
    ///
    /// # Errors
    /// What is wrong with it, for example `config_schema_violation`.
    async fn validate(&self, proposed: &Proposed<'_>) -> Result<HeldAgainst, Problem>;
}

/// The value of a JSON text under a tag.
///
/// # Errors
/// `config_value_invalid`, `config_value_too_large`.
pub fn json(tagged: &Tagged, text: &[u8]) -> Result<ConfigValue, Problem> {
    let invalid = |error: ValueRefused| {
        Problem::new(Code::ConfigValueInvalid, format!("{error}.")).at("/value", "is no JSON document")
    };
    check_length(tagged, text.len())?;
    match tagged.tag.kind {
        Kind::Blob => {
            let detail = format!("The tag {} takes large values with a media type.", tagged.prefix);
            Err(Problem::new(Code::ConfigValueInvalid, detail).at("/value", "is no large value"))
        }
        Kind::Secret => {
            let text = compact_json(text).map_err(|_| {
                // What the parser says may show a part of the secret.
                Problem::new(Code::ConfigValueInvalid, "The value is not JSON.")
                    .at("/value", "is no JSON document")
            })?;
            Ok(ConfigValue::Secret(Zeroizing::new(text.to_vec())))
        }
        Kind::KeyValue | Kind::Parameter => compact_json(text).map(ConfigValue::Json).map_err(invalid),
    }
}

/// Whether a large value may be put under a tag.
///
/// # Errors
/// `config_value_invalid`, `config_value_too_large`.
pub fn check_large(tagged: &Tagged, bytes: &Bytes, media_type: &str) -> Result<(), Problem> {
    if tagged.tag.kind != Kind::Blob {
        let detail = format!("The tag {} takes JSON.", tagged.prefix);
        return Err(Problem::new(Code::ConfigValueInvalid, detail).at("/value", "is no JSON document"));
    }
    let is_type = (1..=100).contains(&media_type.len())
        && media_type.bytes().all(|byte| byte.is_ascii_graphic())
        && media_type.split('/').count() == 2;
    if !is_type {
        let rule = "a media type as in image/png, 100 bytes at the most";
        return Err(
            Problem::new(Code::ConfigValueInvalid, format!("Expected {rule}.")).at("/media_type", rule)
        );
    }
    check_length(tagged, bytes.len())
}

fn check_length(tagged: &Tagged, bytes: usize) -> Result<(), Problem> {
    let max = tagged.tag.max_bytes;
    if bytes <= max {
        return Ok(());
    }
    let refused = ValueRefused::TooLarge { bytes, max, tag: tagged.prefix.clone() };
    let rule = format!("has {max} bytes at the most");
    Err(Problem::new(Code::ConfigValueTooLarge, format!("{refused}.")).at("/value", rule))
}

#[cfg(test)]
mod tests {
    use insula_config_model::TagTable;

    use super::*;
    use crate::tags::tagged;

    fn code(key: &str, text: &[u8]) -> Result<(), Code> {
        let tagged = tagged(&TagTable::default(), key).unwrap();
        json(&tagged, text).map(drop).map_err(|problem| problem.code())
    }

    #[test]
    fn values_fit_their_tags() {
        assert_eq!(code("tenant_config_a", b" {\"a\": 1} "), Ok(()));
        assert_eq!(code("secret_config_a", b"\"s\""), Ok(()));
        assert_eq!(code("tenant_config_a", b"{"), Err(Code::ConfigValueInvalid));
        assert_eq!(code("blob_config_a", b"1"), Err(Code::ConfigValueInvalid));
        let long = format!("\"{}\"", "x".repeat(64 << 10));
        assert_eq!(code("param_config_a", long.as_bytes()), Err(Code::ConfigValueTooLarge));
        assert_eq!(code("tenant_config_a", long.as_bytes()), Ok(()), "its tag allows more");
        let blob = tagged(&TagTable::default(), "blob_config_a").unwrap();
        let large = |media_type| check_large(&blob, &Bytes::from_static(b"x"), media_type).is_ok();
        assert!(large("image/png") && !large("") && !large("png") && !large("a/b c"));
    }

    #[test]
    fn what_is_wrong_with_a_secret_does_not_show_it() {
        let tagged = tagged(&TagTable::default(), "secret_config_a").unwrap();
        let problem = json(&tagged, b"hunter2").unwrap_err();
        assert!(!problem.chain().contains("hunter") && !format!("{problem:?}").contains("hunter"));
    }
}
