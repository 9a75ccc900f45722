//! Messages of requests as what the service is asked.

use insula_config_model::Written;
use insula_config_proto::v1;
use insula_problem::{Code, Problem};

use crate::reading::{Asked, Which};
use crate::writing::{NewOp, NewWrite, To};

pub fn asked(request: v1::GetRequest) -> Asked {
    let which = request.which.map(|which| match which {
        v1::get_request::Which::Version(version) => Which::Version(version),
        v1::get_request::Which::Label(label) => Which::Label(label),
    });
    Asked { key: request.key, scope: request.scope, own: request.own, which, reveal: request.reveal }
}

fn missing(pointer: &str) -> Problem {
    Problem::new(Code::InvalidRequest, format!("{pointer} is missing.")).at(pointer, "is missing")
}

/// A write and its token.
pub fn put(request: v1::PutRequest) -> Result<(NewWrite, String), Problem> {
    let op = match request.value.ok_or_else(|| missing("/value"))? {
        v1::put_request::Value::Json(json) => NewOp::Put(json),
        v1::put_request::Value::Large(large) => {
            NewOp::PutLarge { bytes: large.bytes, media_type: large.media_type }
        }
    };
    let (scope, key, note) = (request.scope, request.key, request.note);
    Ok((NewWrite { scope, key, op, if_version: request.if_version, note }, request.token))
}

pub fn remove(request: v1::RemoveRequest) -> (NewWrite, String) {
    let (scope, key, note) = (request.scope, request.key, request.note);
    (NewWrite { scope, key, op: NewOp::Remove, if_version: request.if_version, note }, request.token)
}

pub fn rollback(request: v1::RollbackRequest) -> Result<(NewWrite, String), Problem> {
    let to = match request.to.ok_or_else(|| missing("/to"))? {
        v1::rollback_request::To::Version(version) => To::Version(version),
        v1::rollback_request::To::Label(label) => To::Label(label),
    };
    let (scope, key, note) = (request.scope, request.key, request.note);
    let op = NewOp::Rollback(to);
    Ok((NewWrite { scope, key, op, if_version: request.if_version, note }, request.token))
}

pub fn label(request: v1::LabelRequest) -> NewWrite {
    let version = (request.version != 0).then_some(request.version);
    let op = NewOp::Label { label: request.label, version };
    NewWrite { scope: request.scope, key: request.key, op, if_version: None, note: String::new() }
}

pub fn operation(operation: v1::transact_request::Op) -> Result<NewWrite, Problem> {
    use v1::transact_request::op::Op;
    Ok(match operation.op.ok_or_else(|| missing("/ops"))? {
        Op::Put(request) => put(request)?.0,
        Op::Remove(request) => remove(request).0,
        Op::Rollback(request) => rollback(request)?.0,
        Op::Label(request) => label(request),
    })
}

pub fn written(written: &Written) -> v1::Written {
    v1::Written { version: written.version, revision: written.revision }
}
