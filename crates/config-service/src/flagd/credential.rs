//! Whose flags. Providers of flagd have no option for a credential; those that
//! can send headers send `authorization`. The others say a tenant's API key in
//! what they can say: as the selector, which goes along as a header, or as the
//! authority, which goes along with every call. It becomes the `authorization`
//! of the call, is verified like every other key, and nothing else in them is
//! looked at. Where several are said, all are the same one.

use axum::extract::Request;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use insula_problem::{Code, Problem};

use crate::caller::Caller;
use crate::grpc;

/// What tenants' API keys begin with.
const KEY: &str = "isk_";

/// What the paths of flagd's services begin with.
const SERVICES: &str = "/flagd.";

/// Puts the key where every call has it. A call of flagd's services that says
/// none, or two, has none.
pub(crate) async fn present(mut request: Request) -> Request {
    if !request.uri().path().starts_with(SERVICES) {
        return request;
    }
    let authority = request.uri().authority().map(http::uri::Authority::host);
    let said = authorization(request.headers(), authority);
    request.headers_mut().remove(AUTHORIZATION);
    if let Some(said) = said {
        request.headers_mut().insert(AUTHORIZATION, said);
    }
    request
}

/// The header for the one key that a call says.
fn authorization(headers: &HeaderMap, authority: Option<&str>) -> Option<HeaderValue> {
    let mut said = Vec::new();
    for value in headers.get_all(AUTHORIZATION) {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        said.push(if scheme.eq_ignore_ascii_case("bearer") { key.trim() } else { return None });
    }
    for value in headers.get_all("flagd-selector") {
        said.push(value.to_str().ok()?);
    }
    let label = authority.and_then(|authority| authority.split('.').next());
    said.extend(label.filter(|label| label.starts_with(KEY)));
    let (first, others) = said.split_first()?;
    if !first.starts_with(KEY) || others.iter().any(|other| other != first) {
        return None;
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {first}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The tenant that calls.
pub(super) fn tenant<T>(request: &tonic::Request<T>) -> Result<Caller, Problem> {
    let caller = grpc::caller(request)?;
    let nobody = || Problem::new(Code::Unauthenticated, "Flags are for a tenant's API key.");
    caller.tenant().map(|_| caller.clone()).ok_or_else(nobody)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(headers: &[(&'static str, &str)], authority: &str) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        authorization(&map, Some(authority)).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn one_key_is_said_somewhere() {
        for (headers, authority) in [
            (vec![("authorization", "Bearer isk_a")], "localhost"),
            (vec![("flagd-selector", "isk_a")], "localhost"),
            (vec![], "isk_a"),
            (vec![], "isk_a.config.example.com"),
            (vec![("authorization", "bearer isk_a"), ("flagd-selector", "isk_a")], "isk_a"),
        ] {
            assert_eq!(said(&headers, authority).as_deref(), Some("Bearer isk_a"), "{headers:?} {authority}");
        }
    }

    #[test]
    fn two_keys_none_and_what_is_no_key_are_refused() {
        for (headers, authority) in [
            (vec![], "localhost"),
            (vec![], "config.isk_a"),
            (vec![("flagd-selector", "tenant=acme")], "localhost"),
            (vec![("flagd-selector", "")], "localhost"),
            (vec![("authorization", "isk_a")], "localhost"),
            (vec![("authorization", "Basic isk_a")], "localhost"),
            (vec![("authorization", "Bearer iop_a")], "localhost"),
            (vec![("authorization", "Bearer isk_a"), ("authorization", "Bearer isk_b")], "localhost"),
            (vec![("authorization", "Bearer isk_a"), ("flagd-selector", "isk_b")], "localhost"),
            (vec![("authorization", "Bearer isk_a"), ("flagd-selector", "source=x")], "localhost"),
            (vec![("authorization", "Bearer isk_a")], "isk_b"),
        ] {
            assert_eq!(said(&headers, authority), None, "{headers:?} {authority}");
        }
    }
}
