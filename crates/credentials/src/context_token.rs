//! Context tokens: short-lived signed statements "this is for tenant T, user U,
//! roles R", minted by the gateway and accepted by the PostgreSQL front. They
//! are JWTs (RFC 7519) signed with Ed25519 (RFC 8037) by a key that is derived
//! from the master key, so that every process of an Insula can check them.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use insula_domain::{Clock, Slug, TenantId};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::Duration;

use crate::master_key::MasterKeys;
use crate::secret::Secret;

/// The longest life of a context token.
pub const CONTEXT_TOKEN_LIFE_MAX_SECONDS: i64 = 300;

const ISSUER: &str = "insula";
const AUDIENCE: &str = "insula-pg";
const TYPE: &str = "insula-context+jwt";

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8192;

/// How far the clocks of two of our processes may be apart when a token says
/// that it is from the future.
const CLOCK_SKEW_MAX_SECONDS: i64 = 30;

/// What a new token states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewContext {
    /// The user, or the key, for whom the tenant's service works.
    pub subject: String,
    /// The tenant.
    pub tenant_id: TenantId,
    /// The tenant's slug when the token was minted.
    pub tenant: Slug,
    /// The user's roles in the tenant.
    pub roles: Vec<String>,
    /// Whether the session may only read.
    pub read_only: bool,
    /// How long the token is good, at most [`CONTEXT_TOKEN_LIFE_MAX_SECONDS`].
    pub life: Duration,
}

/// What a verified token states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextClaims {
    /// The user, or the key, for whom the tenant's service works.
    pub subject: String,
    /// The tenant.
    pub tenant_id: TenantId,
    /// The tenant's slug when the token was minted; the id is what counts.
    pub tenant: Slug,
    /// The user's roles in the tenant.
    pub roles: Vec<String>,
    /// Whether the session may only read.
    pub read_only: bool,
    /// When the token was minted, in seconds since 1970 (UTC).
    pub issued_at: i64,
    /// When the token stops being good, in seconds since 1970 (UTC).
    pub expires_at: i64,
}

/// The claims as they stand in the token.
#[derive(Serialize, Deserialize)]
struct WireClaims {
    iss: String,
    aud: String,
    sub: String,
    tenant_id: TenantId,
    tenant: Slug,
    roles: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
    iat: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    exp: i64,
}

/// A token could not be minted.
#[derive(Debug, Error)]
pub enum TokenNotMinted {
    /// The life is not between one second and the longest one.
    #[error("a context token lives from 1 to {CONTEXT_TOKEN_LIFE_MAX_SECONDS} seconds, not {0}")]
    Life(i64),
    /// Signing failed.
    #[error("the context token could not be signed")]
    Signing(#[source] jsonwebtoken::errors::Error),
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenRefused {
    /// It is not a JWT, or one with claims that are not ours.
    #[error("the token is not a context token")]
    Malformed,
    /// Its header is not exactly the one that the minter writes: another
    /// algorithm, another type, further members.
    #[error("the token's header is not that of a context token")]
    WrongHeader,
    /// No key of this process has its key id.
    #[error("the token was signed with an unknown key")]
    UnknownKey,
    /// The signature is not that of the key.
    #[error("the token's signature is wrong")]
    WrongSignature,
    /// It is for somebody else, or from somebody else.
    #[error("the token was minted by or for somebody else")]
    WrongParties,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come, or it is good for longer than any token may be.
    #[error("the token's times are not those of a context token")]
    WrongTimes,
}

/// Mints and verifies context tokens with the keys of all master-key
/// generations; the newest signs.
#[derive(Debug)]
pub struct ContextTokens {
    keys: BTreeMap<u32, TokenKey>,
    current: u32,
}

struct TokenKey {
    signing: EncodingKey,
    verifying: DecodingKey,
    header: Header,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(redacted)")
    }
}

impl ContextTokens {
    /// Derives the signing keys.
    #[must_use]
    pub fn new(master_keys: &MasterKeys) -> Self {
        let keys = master_keys
            .generations()
            .filter_map(|generation| Some((generation, TokenKey::derive(master_keys, generation)?)))
            .collect();
        Self { keys, current: master_keys.current_generation() }
    }

    /// Mints a token.
    ///
    /// # Errors
    /// [`TokenNotMinted::Life`] where it would live too long or not at all.
    pub fn mint(&self, context: NewContext, clock: &dyn Clock) -> Result<Secret, TokenNotMinted> {
        let life = context.life.whole_seconds();
        if !(1..=CONTEXT_TOKEN_LIFE_MAX_SECONDS).contains(&life) {
            return Err(TokenNotMinted::Life(life));
        }
        let now = clock.now().unix_timestamp();
        let claims = WireClaims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: context.subject,
            tenant_id: context.tenant_id,
            tenant: context.tenant,
            roles: context.roles,
            read_only: context.read_only,
            iat: now,
            nbf: None,
            exp: now + life,
        };
        let no_key = || jsonwebtoken::errors::ErrorKind::InvalidEddsaKey.into();
        let key = self.keys.get(&self.current).ok_or_else(no_key).map_err(TokenNotMinted::Signing)?;
        jsonwebtoken::encode(&key.header, &claims, &key.signing)
            .map(Secret::new)
            .map_err(TokenNotMinted::Signing)
    }

    /// Verifies a token against the clock that is handed in.
    ///
    /// # Errors
    /// [`TokenRefused`] for everything but a token that one of our keys signed
    /// and whose time is now.
    pub fn verify(&self, token: &str, clock: &dyn Clock) -> Result<ContextClaims, TokenRefused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenRefused::Malformed);
        }
        let key = self.key_of(token)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        // Parties and times are checked below: the library would read the
        // machine's own clock, and accept a list of audiences.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<WireClaims>(token, &key.verifying, &validation)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenRefused::WrongSignature,
                _ => TokenRefused::Malformed,
            })?
            .claims;
        if claims.iss != ISSUER || claims.aud != AUDIENCE {
            return Err(TokenRefused::WrongParties);
        }
        check_times(&claims, clock.now().unix_timestamp())?;
        Ok(claims.into())
    }

    /// The key that the header names, after the header has been found to be
    /// exactly the one that goes with that key.
    fn key_of(&self, token: &str) -> Result<&TokenKey, TokenRefused> {
        // An unknown algorithm, `none` among them, does not even parse.
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenRefused::Malformed)?;
        let kid = header.kid.as_deref().ok_or(TokenRefused::UnknownKey)?;
        let generation: u32 = kid.parse().map_err(|_| TokenRefused::UnknownKey)?;
        let key = self.keys.get(&generation).ok_or(TokenRefused::UnknownKey)?;
        if header == key.header { Ok(key) } else { Err(TokenRefused::WrongHeader) }
    }
}

impl TokenKey {
    /// `None` can only be where the library refuses a 32-byte seed, which it
    /// never does; such a generation would then verify nothing.
    fn derive(master_keys: &MasterKeys, generation: u32) -> Option<Self> {
        let seed = master_keys.derive("context token key", &[], generation).ok()?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).ok()?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(generation.to_string());
        Some(Self {
            signing: EncodingKey::from_ed_der(pair.to_pkcs8().ok()?.as_ref()),
            verifying: DecodingKey::from_ed_der(pair.public_key().as_ref()),
            header,
        })
    }
}

fn check_times(claims: &WireClaims, now: i64) -> Result<(), TokenRefused> {
    if now >= claims.exp {
        return Err(TokenRefused::Expired);
    }
    let life = claims.exp.saturating_sub(claims.iat);
    let begins = claims.nbf.unwrap_or(claims.iat).max(claims.iat);
    if !(1..=CONTEXT_TOKEN_LIFE_MAX_SECONDS).contains(&life)
        || begins > now.saturating_add(CLOCK_SKEW_MAX_SECONDS)
    {
        return Err(TokenRefused::WrongTimes);
    }
    Ok(())
}

impl From<WireClaims> for ContextClaims {
    fn from(claims: WireClaims) -> Self {
        Self {
            subject: claims.sub,
            tenant_id: claims.tenant_id,
            tenant: claims.tenant,
            roles: claims.roles,
            read_only: claims.read_only,
            issued_at: claims.iat,
            expires_at: claims.exp,
        }
    }
}

#[cfg(test)]
mod tests;
