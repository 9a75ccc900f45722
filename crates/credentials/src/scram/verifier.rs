//! What the server stores instead of a password, in PostgreSQL's own text form
//! (`SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, the form of
//! `pg_authid.rolpassword`).

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::pbkdf2;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use insula_domain::Entropy;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{KEY_BYTES, hmac_sha256};
use crate::secret::Secret;

/// Iterations for database logins. RFC 7677 §4 asks for at least 4096, some
/// drivers refuse fewer, and all logins must have the same number: otherwise
/// the number would tell a known login from a mocked one.
pub const LOGIN_ITERATIONS: u32 = 4096;

/// Bytes of a salt, as many as PostgreSQL makes.
pub(super) const SALT_BYTES: usize = 16;

/// Longest salt that is read, far above what anybody makes.
const SALT_BYTES_MAX: usize = 256;

/// More iterations than this are not computed: the number comes from outside.
pub(super) const ITERATIONS_MAX: u32 = 100_000;

/// What proves that somebody knows a secret, without being the secret.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ScramVerifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: [u8; KEY_BYTES],
    pub(super) server_key: [u8; KEY_BYTES],
}

/// The text is not a SCRAM-SHA-256 verifier in PostgreSQL's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a verifier of the form SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey")]
pub struct InvalidVerifier;

impl ScramVerifier {
    /// The verifier of a secret with a given salt and number of iterations.
    /// Deterministic: the same input gives the same verifier.
    #[must_use]
    pub fn compute(secret: &Secret, salt: &[u8], iterations: NonZeroU32) -> Self {
        let salted = salted_password(secret, salt, iterations);
        let client_key = Zeroizing::new(hmac_sha256(salted.as_slice(), &[b"Client Key"]));
        let mut stored_key = [0; KEY_BYTES];
        stored_key.copy_from_slice(digest(&SHA256, client_key.as_slice()).as_ref());
        let server_key = hmac_sha256(salted.as_slice(), &[b"Server Key"]);
        Self { iterations: iterations.get(), salt: salt.to_vec(), stored_key, server_key }
    }

    /// The verifier of a database login's secret, with a random salt.
    #[must_use]
    pub fn for_login(secret: &Secret, entropy: &dyn Entropy) -> Self {
        let iterations = NonZeroU32::new(LOGIN_ITERATIONS).unwrap_or(NonZeroU32::MIN);
        Self::compute(secret, &random_salt(entropy), iterations)
    }

    /// The verifier of a secret with 256 random bits, with one iteration.
    ///
    /// Iterations only slow down somebody who has stolen the verifier and
    /// guesses passwords; nobody guesses 256 bits, at whatever speed. PostgreSQL
    /// takes such a verifier (tested on 15), and every backend that is opened
    /// is spared 4095 rounds of HMAC on both sides. Only for derived and
    /// generated secrets, never for what a person chose.
    #[must_use]
    pub fn for_random_secret(secret: &Secret, entropy: &dyn Entropy) -> Self {
        Self::compute(secret, &random_salt(entropy), NonZeroU32::MIN)
    }

    /// Whether the verifier is that of the secret.
    #[must_use]
    pub fn verifies(&self, secret: &Secret) -> bool {
        NonZeroU32::new(self.iterations).is_some_and(|iterations| {
            let other = Self::compute(secret, &self.salt, iterations);
            verify_slices_are_equal(&self.stored_key, &other.stored_key).is_ok()
        })
    }

    /// The text as PostgreSQL and the catalog store it. It needs no escaping
    /// in an SQL string, but must not be shown to anybody.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations.parse().ok().filter(|number| (1..=ITERATIONS_MAX).contains(number))?;
        let salt = STANDARD.decode(salt).ok().filter(|salt| (1..=SALT_BYTES_MAX).contains(&salt.len()))?;
        Some(Self {
            iterations,
            salt,
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
        })
    }
}

impl FromStr for ScramVerifier {
    type Err = InvalidVerifier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or(InvalidVerifier)
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier(redacted)")
    }
}

/// `Hi(Normalize(password), salt, i)` of RFC 5802 §3. A password that SASLprep
/// refuses is used as it is, as PostgreSQL does.
pub(super) fn salted_password(
    secret: &Secret,
    salt: &[u8],
    iterations: NonZeroU32,
) -> Zeroizing<[u8; KEY_BYTES]> {
    let text = secret.expose();
    let prepared = Zeroizing::new(stringprep::saslprep(text).map_or_else(|_| text.to_owned(), Into::into));
    let mut salted = Zeroizing::new([0; KEY_BYTES]);
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::derive(algorithm, iterations, salt, prepared.as_bytes(), salted.as_mut_slice());
    salted
}

fn random_salt(entropy: &dyn Entropy) -> [u8; SALT_BYTES] {
    let mut salt = [0; SALT_BYTES];
    entropy.fill(&mut salt);
    salt
}

fn decode_key(text: &str) -> Option<[u8; KEY_BYTES]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use insula_domain::OsEntropy;

    use super::*;

    #[test]
    fn the_example_of_rfc_7677_gives_its_keys() {
        // RFC 7677 §3: user "user", password "pencil". The two signatures of
        // the example are checked in the exchange test of the server.
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier =
            ScramVerifier::compute(&Secret::new("pencil".into()), &salt, NonZeroU32::new(4096).unwrap());
        let text = verifier.to_text();
        assert!(text.starts_with("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"), "{text}");
        assert_eq!(text.parse::<ScramVerifier>().unwrap(), verifier);
        assert!(!format!("{verifier:?}").contains("W22Z"));
    }

    #[test]
    fn saslprep_makes_equal_what_looks_equal() {
        // U+00AD (soft hyphen) is mapped to nothing, U+2168 to IX: RFC 4013 §3.
        let iterations = NonZeroU32::new(2).unwrap();
        let verifier = |text: &str| ScramVerifier::compute(&Secret::new(text.into()), b"salt", iterations);
        assert_eq!(verifier("I\u{ad}X"), verifier("IX"));
        assert_eq!(verifier("\u{2168}"), verifier("IX"));
        assert_ne!(verifier("ix"), verifier("IX"));
        // Prohibited characters are taken as they are.
        assert_ne!(verifier("\u{7}a"), verifier("\u{7}b"));
    }

    #[test]
    fn what_is_not_a_verifier_is_refused() {
        let good = ScramVerifier::for_login(&Secret::new("x".into()), &OsEntropy).to_text();
        assert!(good.parse::<ScramVerifier>().is_ok());
        for bad in [
            String::new(),
            "md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned(),
            good.replace("$4096:", "$0:"),
            good.replace("$4096:", "$100001:"),
            good.replace("$4096:", "$-1:"),
            good.replace(':', "$"),
            good[..good.len() - 4].to_owned(),
            format!("{good}x"),
            "SCRAM-SHA-256$4096:$x:y".to_owned(),
        ] {
            assert_eq!(bad.parse::<ScramVerifier>(), Err(InvalidVerifier), "{bad}");
        }
    }

    #[test]
    fn a_verifier_verifies_its_own_secret_alone() {
        let secret = Secret::new("one".into());
        for verifier in [
            ScramVerifier::for_random_secret(&secret, &OsEntropy),
            ScramVerifier::for_login(&secret, &OsEntropy),
        ] {
            assert!(verifier.verifies(&secret));
            assert!(!verifier.verifies(&Secret::new("two".into())));
        }
    }
}
