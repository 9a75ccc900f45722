//! Who calls: an operator, by a bearer token whose hash the catalog has, or by
//! e-mail and password (HTTP Basic, RFC 7617). There is no other way in, and no
//! other header or path ever says who somebody is. Wrong ones are throttled.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use insula_catalog::{Author, RepeatableRequest};
use insula_credentials::{OperatorToken, ScramVerifier, Secret, SecretHash};
use insula_problem::{Code, Problem};

use super::error::{ApiError, RequestId};
use super::throttle::Claim;
use crate::Control;

/// From where a request came: the other end of its connection. Whoever serves
/// the router puts it into the extensions of each request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// An operator whose token was verified.
#[derive(Debug, Clone)]
pub struct Operator {
    email: String,
    request_id: Option<String>,
    request: Option<RepeatableRequest>,
}

impl Operator {
    /// The same, with the request that he may send again.
    pub(super) fn repeatable(self, request: RepeatableRequest) -> Self {
        Self { request: Some(request), ..self }
    }

    /// The author of the changes that this request makes.
    #[must_use]
    pub fn author(&self, control: &Control) -> Author {
        Author {
            actor: format!("operator:{}", self.email),
            at: control.clock.now(),
            request_id: self.request_id.clone(),
            request: self.request.clone(),
        }
    }
}

fn refused() -> ApiError {
    ApiError(Problem::new(
        Code::Unauthenticated,
        "This call needs an operator's token: Authorization: Bearer iop_…",
    ))
}

impl FromRequestParts<Arc<Control>> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, ApiError> {
        // Verified by a layer of ours; nothing that a client sends becomes an extension.
        if let Some(operator) = parts.extensions.get::<Self>() {
            return Ok(operator.clone());
        }
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
        let from = parts.extensions.get::<Peer>().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0);
        let email = verify(control, presented(parts).ok_or_else(refused)?, from).await?;
        Ok(Self { email, request_id, request: None })
    }
}

/// Only what was presented and is wrong counts as an attempt: a request
/// without a credential guesses at nothing, and a catalog that is away proves
/// nothing.
async fn verify(control: &Control, credential: Credential, from: IpAddr) -> Result<String, ApiError> {
    let claim = match &credential {
        Credential::Token(token) => Claim::token(token.id().as_bytes()),
        Credential::Password { email, .. } => Claim::password(email),
    };
    let attempt = control.throttle.attempt(claim, from, control.clock.now())?;
    let verified = match credential {
        Credential::Token(token) => verify_token(control, &token).await,
        Credential::Password { email, password } => verify_password(control, email, password, from).await,
    };
    match &verified {
        Ok(_) => attempt.right(control.clock.now()),
        Err(ApiError(problem)) if problem.code() == Code::Unauthenticated => drop(attempt),
        Err(_) => attempt.void(),
    }
    verified
}

async fn verify_token(control: &Control, token: &OperatorToken) -> Result<String, ApiError> {
    let stored = control.catalog.client().await?.operator_token(token.id()).await?.ok_or_else(refused)?;
    let hash = SecretHash::from_stored(&stored.secret_hash).ok_or_else(refused)?;
    if token.matches(&hash) { Ok(stored.email) } else { Err(refused()) }
}

/// An unknown operator costs as much time as a wrong password.
async fn verify_password(
    control: &Control,
    email: String,
    password: Secret,
    from: IpAddr,
) -> Result<String, ApiError> {
    let hashing = control.throttle.hashing(from)?;
    let stored = control.catalog.client().await?.operator_verifier(&email).await?;
    let known = stored.is_some();
    let verifier: ScramVerifier = match stored {
        Some(text) => text.parse().map_err(|_| refused())?,
        None => control.nobody.clone(),
    };
    let matches = tokio::task::spawn_blocking(move || {
        // Held until the hashing is over, also where nobody waits for it any more.
        let _hashing = hashing;
        verifier.verifies(&password)
    })
    .await;
    if known && matches.unwrap_or(false) { Ok(email) } else { Err(refused()) }
}

enum Credential {
    Token(OperatorToken),
    Password { email: String, password: Secret },
}

/// The one credential of the request; two `Authorization` headers are none.
fn presented(parts: &Parts) -> Option<Credential> {
    let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
    let value = headers.next()?;
    if headers.next().is_some() {
        return None;
    }
    let (scheme, credential) = value.to_str().ok()?.split_once(' ')?;
    let credential = credential.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return OperatorToken::parse(credential).ok().map(Credential::Token);
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credential).ok()?).ok()?;
    let (email, password) = decoded.split_once(':')?;
    Some(Credential::Password { email: email.to_owned(), password: Secret::new(password.to_owned()) })
}
