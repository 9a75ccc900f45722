//! How a problem becomes a status: gRPC's code from the HTTP status, the stable
//! code and the pointers in trailers. Causes go to the log alone.

use http::HeaderMap;
use insula_problem::{Code, Problem};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code as Grpc, Status};

/// Where the stable code is.
const CODE: &str = "insula-code";

/// gRPC's code for a code of ours.
fn code(code: Code) -> Grpc {
    match code {
        Code::ConfigVersionConflict => return Grpc::Aborted,
        Code::ConfigCompacted => return Grpc::OutOfRange,
        Code::RequestTimeout => return Grpc::DeadlineExceeded,
        _ => {}
    }
    match code.status() {
        400 | 413 | 415 | 422 => Grpc::InvalidArgument,
        401 => Grpc::Unauthenticated,
        403 => Grpc::PermissionDenied,
        404 | 410 => Grpc::NotFound,
        405 => Grpc::Unimplemented,
        408 => Grpc::DeadlineExceeded,
        409 | 412 => Grpc::FailedPrecondition,
        429 => Grpc::ResourceExhausted,
        503 => Grpc::Unavailable,
        _ => Grpc::Internal,
    }
}

/// The status that callers see.
#[must_use]
pub fn status(problem: &Problem) -> Status {
    let mut trailers = MetadataMap::new();
    trailers.insert(CODE, MetadataValue::from_static(problem.code().as_str()));
    for field in problem.to_body(None).errors {
        if let Ok(pointer) = field.pointer.parse() {
            trailers.append("insula-pointer", pointer);
        }
    }
    if let Some(seconds) = problem.retry_after_seconds() {
        trailers.insert("retry-after", MetadataValue::from(seconds));
    }
    Status::with_metadata(code(problem.code()), problem.detail(), trailers)
}

/// The problem behind an answer that the library made by itself, which refuses a
/// message by its length, or cannot read it, before anything of ours has seen it.
#[must_use]
pub fn foreign_problem(headers: &HeaderMap) -> Option<Problem> {
    let is_ours = headers.contains_key(CODE);
    let refused = headers.get(Status::GRPC_STATUS).filter(|_| !is_ours)?;
    match Grpc::from_bytes(refused.as_bytes()) {
        Grpc::OutOfRange => {
            Some(Problem::new(Code::RequestTooLarge, "The message is larger than it may be."))
        }
        Grpc::Internal => Some(unreadable()),
        _ => None,
    }
}

/// A message is not one of the call.
pub fn unreadable() -> Problem {
    Problem::new(Code::InvalidRequest, "The message cannot be read.")
}

/// Writes a refusal down, and counts the call.
pub fn settle(method: &'static str, who: Option<&str>, problem: Option<&Problem>) {
    let code = problem.map_or("ok", |problem| problem.code().as_str());
    metrics::counter!(crate::measure::CALLS, "method" => method, "code" => code).increment(1);
    let Some(problem) = problem else { return };
    let (cause, who) = (problem.chain(), who.unwrap_or("nobody"));
    if problem.code().status() >= 500 && problem.code().status() != 503 {
        tracing::error!(method, who, code, cause, "failed");
    } else {
        tracing::info!(method, who, code, cause, "refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_code_and_the_pointers_and_no_causes() {
        let problem = Problem::new(Code::ConfigSchemaViolation, "It does not fit.")
            .at("/value/a", "is no number")
            .caused_by("a secret cause");
        let status = status(&problem);
        assert_eq!((status.code(), status.message()), (Grpc::InvalidArgument, "It does not fit."));
        assert_eq!(status.metadata().get("insula-code").unwrap(), "config_schema_violation");
        assert_eq!(status.metadata().get("insula-pointer").unwrap(), "/value/a");
        assert!(!format!("{status:?}").contains("secret cause"));
        for (ours, theirs) in [
            (Code::Unauthenticated, Grpc::Unauthenticated),
            (Code::TenantNotFound, Grpc::NotFound),
            (Code::ConfigVersionConflict, Grpc::Aborted),
            (Code::Overloaded, Grpc::Unavailable),
            (Code::Internal, Grpc::Internal),
        ] {
            assert_eq!(code(ours), theirs);
        }
    }
}
