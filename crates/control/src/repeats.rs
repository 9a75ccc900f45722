//! Requests that are sent again under their idempotency key: what identifies
//! one, and the answer that it gets. What was answered is sealed with the
//! master key, since it may hold a secret that is shown once.

use insula_catalog::{Answer, Change, GivenAnswer, RepeatableRequest};
use insula_credentials::Secret;
use insula_domain::OperationId;
use insula_problem::{Code, Problem};
use serde::Serialize;
use serde_json::Value;

use crate::Control;

/// What a request sent again is answered with.
#[derive(Debug)]
pub enum Repeated {
    /// The operation, as it is now.
    Operation(OperationId),
    /// The body that the first request got.
    Body {
        /// The HTTP status.
        status: u16,
        /// JSON.
        body: Secret,
    },
}

/// A request as it came.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'r> {
    /// The HTTP method.
    pub method: &'r str,
    /// The path.
    pub path: &'r str,
    /// The idempotency key.
    pub key: &'r str,
    /// The body.
    pub body: &'r [u8],
}

impl Control {
    /// The request as it is written down with its answer.
    ///
    /// # Errors
    /// In practice never.
    pub fn repeatable(&self, sent: Sent<'_>) -> Result<RepeatableRequest, Problem> {
        let key_generation = self.keys.current_generation();
        Ok(RepeatableRequest {
            method: sent.method.to_owned(),
            path: sent.path.to_owned(),
            key: sent.key.to_owned(),
            request_hash: self.request_hash(sent.body, key_generation)?,
            key_generation,
        })
    }

    /// The answer that the first request under the key got, if there was one.
    ///
    /// # Errors
    /// `idempotency_key_reused` where that one had another content.
    pub async fn repeated(
        &self,
        actor: &str,
        request: &RepeatableRequest,
        body: &[u8],
    ) -> Result<Option<Repeated>, Problem> {
        let given = self.catalog.client().await?.given_answer(actor, request).await?;
        let Some(given) = given else { return Ok(None) };
        if self.request_hash(body, given.key_generation)? != given.request_hash {
            return Err(Problem::new(
                Code::IdempotencyKeyReused,
                "This idempotency key was used before, for a request with another content.",
            ));
        }
        Ok(Some(self.open_answer(actor, request, given)?))
    }

    fn open_answer(
        &self,
        actor: &str,
        request: &RepeatableRequest,
        given: GivenAnswer,
    ) -> Result<Repeated, Problem> {
        match given.answer {
            Answer::Operation(id) => Ok(Repeated::Operation(id)),
            Answer::Body(sealed) => {
                let body = self.keys.open(&place(actor, request), &sealed, given.key_generation);
                Ok(Repeated::Body { status: given.status, body: body.map_err(Problem::internal)? })
            }
        }
    }

    /// Writes down, in the transaction of the change, the body that its request
    /// is answered with.
    ///
    /// # Errors
    /// `idempotency_key_in_use` where another request under the key was faster.
    pub async fn answer_body(
        &self,
        change: &Change<'_>,
        status: u16,
        body: &impl Serialize,
    ) -> Result<(), Problem> {
        let Some(request) = &change.author().request else { return Ok(()) };
        let text = Secret::new(serde_json::to_string(body).map_err(Problem::internal)?);
        let place = place(&change.author().actor, request);
        let sealed = self.keys.seal(&place, &text, self.entropy.as_ref()).map_err(Problem::internal)?;
        change.give_answer(status, &Answer::Body(sealed)).await
    }

    fn request_hash(&self, body: &[u8], key_generation: u32) -> Result<Vec<u8>, Problem> {
        let hash = self.keys.derive("request hash", &[&canonical(body)], key_generation);
        hash.map(|hash| hash.to_vec()).map_err(Problem::internal)
    }
}

/// Writes down that the request of the change is answered with an operation.
///
/// # Errors
/// `idempotency_key_in_use` where another request under the key was faster.
pub async fn answer_operation(change: &Change<'_>, operation: OperationId) -> Result<(), Problem> {
    change.give_answer(202, &Answer::Operation(operation)).await
}

/// The place to which a sealed answer is bound.
fn place(actor: &str, request: &RepeatableRequest) -> String {
    format!("idempotent_answers\n{actor}\n{} {}\n{}", request.method, request.path, request.key)
}

/// The content, whatever the order of its members and the space between them.
fn canonical(body: &[u8]) -> Vec<u8> {
    let sorted = serde_json::from_slice::<Value>(body).and_then(|value| serde_json::to_vec(&value));
    sorted.unwrap_or_else(|_| body.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_the_same_is_the_same_request() {
        assert_eq!(canonical(br#"{"a":1,"b":[2]}"#), canonical(b" { \"b\": [2],\n\"a\": 1 }"));
        for other in [&br#"{"a":1}"#[..], br#"{"a":1,"b":[3]}"#, br#"{"a":1,"b":[2]"#, b""] {
            assert_ne!(canonical(br#"{"a":1,"b":[2]}"#), canonical(other));
        }
    }
}
