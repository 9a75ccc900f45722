//! Keys that a caller presents as they are: `isk_…` (a tenant's API key) and
//! `iop_…` (an operator's token). The id in the text finds the stored row; of
//! the secret only its SHA-256 is stored. A plain hash is enough because the
//! secret has 256 random bits: there is nothing to guess.

use std::fmt;
use std::marker::PhantomData;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use insula_domain::{ApiKeyId, Entropy};
use thiserror::Error;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// A kind of key: its prefix and the type of its id.
pub trait KeyKind {
    /// What the text begins with, without the underscore after it.
    const PREFIX: &'static str;
    /// The id of a key of this kind.
    type Id: Copy + From<Uuid>;

    /// The id as it stands in the text.
    fn uuid(id: Self::Id) -> Uuid;
}

/// The kind of a tenant's API keys.
#[derive(Debug, Clone, Copy)]
pub enum ApiKeyKind {}

impl KeyKind for ApiKeyKind {
    const PREFIX: &'static str = "isk";
    type Id = ApiKeyId;

    fn uuid(id: ApiKeyId) -> Uuid {
        id.as_uuid()
    }
}

/// The kind of operators' tokens.
#[derive(Debug, Clone, Copy)]
pub enum OperatorTokenKind {}

impl KeyKind for OperatorTokenKind {
    const PREFIX: &'static str = "iop";
    type Id = Uuid;

    fn uuid(id: Uuid) -> Uuid {
        id
    }
}

/// A tenant's API key: `isk_<id>_<secret>`.
pub type ApiKey = BearerKey<ApiKeyKind>;

/// An operator's token: `iop_<id>_<secret>`.
pub type OperatorToken = BearerKey<OperatorTokenKind>;

/// A key with its secret, as the caller holds it.
pub struct BearerKey<K: KeyKind> {
    id: Uuid,
    secret: Zeroizing<[u8; 32]>,
    kind: PhantomData<K>,
}

/// The text is not a key of this kind. Never carries the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this is not a key that begins with {0}_")]
pub struct NotAKey(&'static str);

impl<K: KeyKind> BearerKey<K> {
    /// A new key under an id that the caller has made.
    #[must_use]
    pub fn generate(id: K::Id, entropy: &dyn Entropy) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        entropy.fill(secret.as_mut_slice());
        Self { id: K::uuid(id), secret, kind: PhantomData }
    }

    /// Reads a key from its text. The only text that is accepted for a key is
    /// the one that [`BearerKey::to_text`] gives.
    ///
    /// # Errors
    /// [`NotAKey`] for every other text.
    pub fn parse(text: &str) -> Result<Self, NotAKey> {
        Self::parse_parts(text).ok_or(NotAKey(K::PREFIX))
    }

    fn parse_parts(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(K::PREFIX)?.strip_prefix('_')?;
        let (id, secret) = rest.split_once('_')?;
        let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if id.len() != 32 || !id.bytes().all(lower_hex) {
            return None;
        }
        let id = Uuid::try_parse(id).ok()?;
        let decoded = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).ok()?);
        let mut secret = Zeroizing::new([0; 32]);
        if decoded.len() != secret.len() {
            return None;
        }
        secret.copy_from_slice(&decoded);
        Some(Self { id, secret, kind: PhantomData })
    }

    /// The text that the caller presents.
    #[must_use]
    pub fn to_text(&self) -> Secret {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.as_slice()));
        Secret::new(format!("{}_{}_{}", K::PREFIX, self.id.simple(), secret.as_str()))
    }

    /// The id, which finds the stored row.
    #[must_use]
    pub fn id(&self) -> K::Id {
        K::Id::from(self.id)
    }

    /// What is stored of the secret.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, self.secret.as_slice()).as_ref());
        SecretHash(hash)
    }

    /// Whether the stored hash is that of this key's secret, in a time that
    /// does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, stored: &SecretHash) -> bool {
        verify_slices_are_equal(&self.hash().0, &stored.0).is_ok()
    }
}

impl<K: KeyKind> fmt::Debug for BearerKey<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_redacted", K::PREFIX, self.id.simple())
    }
}

/// SHA-256 of a key's secret, as the catalog stores it.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The 32 bytes to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A hash read back from the store; `None` where it has not 32 bytes.
    #[must_use]
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use insula_domain::OsEntropy;

    use super::*;

    fn id() -> ApiKeyId {
        "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap()
    }

    #[test]
    fn a_key_reads_back_and_matches_its_own_hash_alone() {
        for _ in 0..50 {
            let key = ApiKey::generate(id(), &OsEntropy);
            let text = key.to_text();
            assert!(text.expose().starts_with("isk_0190163d8694739baea5966c26f8ad91_"));
            let read = ApiKey::parse(text.expose()).unwrap();
            assert_eq!(read.id(), id());
            let stored = SecretHash::from_stored(key.hash().as_bytes()).unwrap();
            assert!(read.matches(&stored));
            assert!(!ApiKey::generate(id(), &OsEntropy).matches(&stored));
            assert!(OperatorToken::parse(text.expose()).is_err(), "another kind is not this kind");
            let secret = text.expose().splitn(3, '_').nth(2).unwrap();
            assert!(!format!("{key:?}{stored:?}").contains(secret));
        }
    }

    #[test]
    fn every_other_text_is_refused() {
        let good = ApiKey::generate(id(), &OsEntropy).to_text();
        let good = good.expose();
        let (head, secret) = good.split_at(37);
        for bad in [
            "",
            "isk_",
            "isk__",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}="),
            &format!("{good} "),
            &format!("{good}A"),
            &format!("{}{secret}", head.to_uppercase()),
            &format!("isk_0190163d-8694-739b-aea5-966c26f8ad91_{secret}"),
        ] {
            assert!(ApiKey::parse(bad).is_err(), "{bad}");
        }
    }
}
