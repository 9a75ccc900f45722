//! Requests that come again: what a request is known by, and what it is answered.

use insula_config_model::{ConfigValue, Transaction, WriteOp, Written};
use insula_problem::{Code, Problem};
use zeroize::Zeroizing;

use crate::Ambient;
use crate::decide::{Answered, Hashed};

impl Ambient {
    /// What a request is known again by.
    pub(crate) fn hash(&self, transaction: &Transaction, generation: u32) -> Result<Hashed, Problem> {
        let bytes = as_bytes(transaction);
        let hash = self.keys.derive("config request", &[&bytes], generation).map_err(Problem::internal)?;
        let key_generation = i32::try_from(generation).map_err(Problem::internal)?;
        Ok(Hashed { hash: hash.to_vec(), key_generation })
    }

    /// What is answered where something was done under the token already.
    pub(crate) fn repeated(
        &self,
        transaction: &Transaction,
        before: &Answered,
    ) -> Result<Vec<Written>, Problem> {
        let generation = u32::try_from(before.hash.key_generation).map_err(Problem::internal)?;
        if self.hash(transaction, generation)? == before.hash {
            return Ok(before.answer.clone());
        }
        Err(Problem::new(Code::IdempotencyKeyReused, "The token was used for another request."))
    }
}

/// The writes as bytes, each part with its length before it, so that no two
/// requests are the same bytes.
fn as_bytes(transaction: &Transaction) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let mut part = |part: &[u8]| {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    };
    for write in &transaction.writes {
        part(write.scope.to_string().as_bytes());
        part(write.key.as_str().as_bytes());
        match &write.op {
            WriteOp::Put(ConfigValue::Json(text)) => [&b"json"[..], text].map(&mut part),
            WriteOp::Put(ConfigValue::Secret(plain)) => [&b"secret"[..], plain].map(&mut part),
            WriteOp::Put(ConfigValue::Sealed(envelope)) => [&b"sealed"[..], envelope].map(&mut part),
            WriteOp::Put(ConfigValue::Blob(blob)) => {
                part(blob.media_type.as_bytes());
                [&b"blob"[..], blob.sha256.as_bytes()].map(&mut part)
            }
            WriteOp::Remove => [&b"remove"[..], b""].map(&mut part),
            WriteOp::Rollback(version) => [&b"rollback"[..], &version.to_be_bytes()].map(&mut part),
            WriteOp::RollbackTo(label) => [&b"rollback to"[..], label.as_bytes()].map(&mut part),
            WriteOp::Label(label, version) => {
                part(label.as_str().as_bytes());
                [&b"label"[..], &version.unwrap_or(0).to_be_bytes()].map(&mut part)
            }
        };
        part(&write.if_version.unwrap_or(-1).to_be_bytes());
        part(write.note.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use insula_config_model::{Room, Write};

    use super::*;

    #[test]
    fn every_part_of_a_request_counts() {
        let write = |key: &str, op: WriteOp, if_version, note: &str| Write {
            scope: insula_config_model::Scope::Platform,
            key: key.parse().unwrap(),
            op,
            if_version,
            note: note.to_owned(),
            history: 5,
            is_secret: false,
            room: Room::Usual,
            made: None,
        };
        let json = |text: &'static str| WriteOp::Put(ConfigValue::Json(text.into()));
        let of = |writes: Vec<Write>| {
            as_bytes(&Transaction {
                writes,
                token: None,
                author: "a".to_owned(),
                tags: None,
                schemas: Vec::new(),
            })
            .to_vec()
        };
        let all = [
            of(vec![write("a", json("1"), None, "")]),
            of(vec![write("a", json("2"), None, "")]),
            of(vec![write("b", json("1"), None, "")]),
            of(vec![write("a", json("1"), Some(0), "")]),
            of(vec![write("a", json("1"), None, "n")]),
            of(vec![write("a", WriteOp::Remove, None, "")]),
            of(vec![write("a", WriteOp::Rollback(1), None, "")]),
            of(vec![write("a", WriteOp::Rollback(2), None, "")]),
            of(vec![write("a", WriteOp::RollbackTo("previous".to_owned()), None, "")]),
            of(vec![write("a", WriteOp::RollbackTo("l".to_owned()), None, "")]),
            of(vec![write("a", WriteOp::Label("l".parse().unwrap(), Some(1)), None, "")]),
            of(vec![write("a", WriteOp::Label("l".parse().unwrap(), None), None, "")]),
            of(vec![write("a", json("1"), None, ""), write("a", json("1"), None, "")]),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
