//! Who the client is: a database login with SCRAM-SHA-256, or a context token
//! as the password of the user `token`. An unknown login goes through the same
//! exchange as a known one, and is refused with the same words.

use std::sync::Arc;

use insula_credentials::scram::{Mechanism, ScramError, ScramServer};
use insula_credentials::{ContextClaims, ScramVerifier};
use insula_domain::{LoginId, TenantId};
use insula_pg_wire::backend::{self, Authentication};
use insula_pg_wire::frontend::{self, SaslInitialResponse};
use insula_pg_wire::startup::SessionStart;
use insula_route_map::LoginRoute;

use super::End;
use super::secure::{Channel, Started};
use crate::front::Front;
use crate::host::Host;
use crate::link::Link;
use crate::parameters::protocol_options;
use crate::refusal::Refusal;

/// The user name that announces a token.
const TOKEN_USER: &[u8] = b"token";

/// Longest message with a proof or a token.
const CREDENTIAL_BYTES_MAX: u32 = 16 * 1024;

/// Whom a credential has proved.
#[derive(Debug)]
pub(super) enum Identity {
    Login(Arc<LoginRoute>),
    Token(Box<ContextClaims>),
}

impl Identity {
    pub fn tenant(&self) -> TenantId {
        match self {
            Self::Login(login) => login.tenant,
            Self::Token(claims) => claims.tenant_id,
        }
    }

    /// The user name with which it was presented.
    pub fn user(&self) -> &[u8] {
        match self {
            Self::Login(login) => login.name.as_str().as_bytes(),
            Self::Token(_) => TOKEN_USER,
        }
    }

    pub fn read_only(&self) -> bool {
        match self {
            Self::Login(login) => login.read_only,
            Self::Token(claims) => claims.read_only,
        }
    }

    /// Whether it reaches the tenants below its own.
    pub fn descendants(&self) -> bool {
        match self {
            Self::Login(login) => login.descendants,
            Self::Token(_) => false,
        }
    }

    pub fn login(&self) -> Option<LoginId> {
        match self {
            Self::Login(login) => Some(login.id),
            Self::Token(_) => None,
        }
    }
}

/// A session whose client is known.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub channel: Channel,
    pub start: SessionStart,
    pub host: Host,
    pub identity: Identity,
}

impl Started {
    /// Asks the client for its credential and checks it.
    pub async fn authenticate(self, front: &Front, link: &mut Link) -> Result<Authenticated, End> {
        let Some(user) = self.start.parameter("user").filter(|user| !user.is_empty()) else {
            return Err(Refusal::protocol("the startup packet names no user").into());
        };
        if !front.parts.routes.is_ready() {
            return Err(Refusal::not_ready().into());
        }
        let options = protocol_options(&self.start);
        let spoken = self.start.spoken_version();
        if self.start.minor_version != spoken || !options.is_empty() {
            link.put(|out| backend::put_negotiate_protocol_version(out, spoken, &options));
        }
        let identity = if user == TOKEN_USER {
            by_token(front, link, &self.channel).await?
        } else {
            by_login(front, link, &self.channel, user).await?
        };
        let name = self.channel.tls.as_ref().and_then(|tls| tls.host.as_deref());
        let host = Host::named(name, front.config.get().tenant_domain.as_deref());
        Ok(Authenticated { channel: self.channel, start: self.start, host, identity })
    }
}

async fn by_token(front: &Front, link: &mut Link, channel: &Channel) -> Result<Identity, End> {
    if !channel.is_private() {
        return Err(Refusal::tls_required().into());
    }
    link.put(|out| Authentication::CleartextPassword.put(out));
    let body = credential(link).await?;
    let token = frontend::parse_password(&body).map_err(Refusal::protocol)?;
    let refused = |reason: &str| Refusal::login(TOKEN_USER).because(reason);
    let token = std::str::from_utf8(token).map_err(|_| refused("the token is not UTF-8"))?;
    let claims = front
        .tokens
        .verify(token, front.parts.clock.as_ref())
        .map_err(|error| refused(&error.to_string()))?;
    link.put(|out| Authentication::Ok.put(out));
    Ok(Identity::Token(Box::new(claims)))
}

async fn by_login(front: &Front, link: &mut Link, channel: &Channel, user: &[u8]) -> Result<Identity, End> {
    let (login, verifier) = find_login(front, user);
    let end_point = channel.tls.as_ref().map(|tls| &*tls.end_point);
    let mechanisms = match end_point {
        Some(_) => vec![Mechanism::Plus, Mechanism::Plain],
        None => vec![Mechanism::Plain],
    };
    let names = mechanisms.iter().map(|mechanism| mechanism.name().as_bytes()).collect();
    link.put(|out| Authentication::Sasl(names).put(out));

    let body = credential(link).await?;
    let response = SaslInitialResponse::from_body(&body).map_err(Refusal::protocol)?;
    let mechanism = Mechanism::from_name(response.mechanism)
        .filter(|mechanism| mechanisms.contains(mechanism))
        .ok_or_else(|| Refusal::protocol("the client chose a mechanism that was not offered"))?;
    let first = response.data.ok_or_else(|| Refusal::protocol("the client's first message is missing"))?;
    let entropy = front.parts.entropy.as_ref();
    let (scram, answer) = ScramServer::start(verifier, mechanism, end_point, first, entropy)
        .map_err(|error| scram_refused(user, error))?;
    link.put(|out| Authentication::SaslContinue(answer.as_bytes()).put(out));

    let last = credential(link).await?;
    let proof = scram.finish(&last).map_err(|error| scram_refused(user, error))?;
    // A made-up verifier lets nobody in: no proof fits it, and there is no login.
    let login = login.ok_or_else(|| scram_refused(user, ScramError::WrongProof))?;
    link.put(|out| {
        Authentication::SaslFinal(proof.as_bytes()).put(out);
        Authentication::Ok.put(out);
    });
    Ok(Identity::Login(login))
}

/// The login and its verifier, or no login and a made-up one.
fn find_login(front: &Front, user: &[u8]) -> (Option<Arc<LoginRoute>>, ScramVerifier) {
    let snapshot = front.parts.routes.snapshot();
    let login = std::str::from_utf8(user).ok().and_then(|user| snapshot.login(user));
    let known = login.and_then(|login| match login.verifier.parse() {
        Ok(verifier) => Some((Arc::clone(login), verifier)),
        Err(error) => {
            tracing::error!(login = %login.name, %error, "a stored verifier cannot be read");
            None
        }
    });
    match known {
        Some((login, verifier)) => (Some(login), verifier),
        None => (None, front.mock_secrets.verifier_for(user, front.parts.entropy.as_ref())),
    }
}

fn scram_refused(user: &[u8], error: ScramError) -> Refusal {
    let refusal = match error {
        ScramError::Malformed(what) => Refusal::protocol(format_args!("malformed SCRAM message: {what}")),
        ScramError::ChannelBinding(_) => Refusal::channel_binding(),
        ScramError::WrongProof | ScramError::WrongServer | ScramError::RefusedByServer => {
            Refusal::login(user)
        }
    };
    refusal.because(error)
}

async fn credential(link: &mut Link) -> Result<bytes::Bytes, End> {
    let message = link.message(CREDENTIAL_BYTES_MAX).await?;
    match message.tag {
        frontend::tag::PASSWORD => Ok(message.body),
        frontend::tag::TERMINATE => Err(End::Gone("the client left")),
        _ => Err(Refusal::protocol("expected a password message").into()),
    }
}
