//! Who calls: an operator. The one `Authorization` header says it, and no other
//! header or path ever does.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use insula_access::{Credential, Peer};
use insula_catalog::{Author, RepeatableRequest};
use insula_problem::{Code, Problem};
use tokio::time::Instant;

use super::error::{ApiError, RequestId};
use crate::Control;

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
        let credential = presented(parts).ok_or_else(refused)?;
        let email = control.access.operator(&credential, from).await?;
        Ok(Self { email, request_id, request: None })
    }
}

/// An operator whose token is looked at again while something lasts.
#[derive(Debug)]
pub struct LastingOperator {
    credential: Credential,
    from: IpAddr,
    checked: Instant,
}

/// How long a token is believed.
const BELIEVED: Duration = Duration::from_secs(5);

impl LastingOperator {
    /// Looks whether the token still holds, unless it has just done so.
    ///
    /// # Errors
    /// `unauthenticated` where it does not; where the catalog is away.
    pub async fn check(&mut self, control: &Control) -> Result<(), Problem> {
        if self.checked.elapsed() >= BELIEVED {
            control.access.operator(&self.credential, self.from).await?;
            self.checked = Instant::now();
        }
        Ok(())
    }
}

impl FromRequestParts<Arc<Control>> for LastingOperator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, ApiError> {
        Operator::from_request_parts(parts, control).await?;
        let credential = presented(parts).ok_or_else(refused)?;
        if matches!(credential, Credential::Password { .. }) {
            let detail =
                "A watch goes on, and it is not heard when a password ends: use an operator's token.";
            return Err(ApiError(Problem::new(Code::Forbidden, detail)));
        }
        let from = parts.extensions.get::<Peer>().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0);
        Ok(Self { credential, from, checked: Instant::now() })
    }
}

/// The one credential of the request; two `Authorization` headers are none.
fn presented(parts: &Parts) -> Option<Credential> {
    let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
    let value = headers.next()?;
    if headers.next().is_some() {
        return None;
    }
    Credential::from_authorization(value.to_str().ok()?)
}
