//! Text that must not be seen: never in a log, and gone from memory when it is
//! no longer needed.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use insula_domain::Entropy;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A password or another text that must stay secret. Printing it for debugging
/// shows only that it is one; [`Secret::expose`] is the way to its text.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes a text in; it is zeroed when the secret is dropped.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// A new secret of 256 random bits: 43 characters of base64url (RFC 4648
    /// §5), which need no escaping in a URL, in SQL or in a shell.
    #[must_use]
    pub fn random(entropy: &dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        entropy.fill(bytes.as_mut_slice());
        Self(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the text is this one, in a time that does not depend on where
    /// the two differ.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        verify_slices_are_equal(self.0.as_bytes(), text.as_bytes()).is_ok()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_itself_only_when_asked() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
        assert_eq!(secret.expose(), "hunter2");
        assert!(secret.matches("hunter2") && !secret.matches("hunter3") && !secret.matches("hunter"));
    }
}
