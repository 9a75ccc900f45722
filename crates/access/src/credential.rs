//! Credentials as they are presented: the value of one `Authorization` header.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use insula_credentials::{ApiKey, OperatorToken, Secret};

/// What somebody presents.
#[derive(Debug)]
pub enum Credential {
    /// An operator's token.
    Token(OperatorToken),
    /// An operator's e-mail address and password.
    Password {
        /// The address.
        email: String,
        /// The password.
        password: Secret,
    },
    /// A tenant's API key.
    Key(ApiKey),
}

impl Credential {
    /// Reads the value of the header; none where it holds none of these.
    #[must_use]
    pub fn from_authorization(value: &str) -> Option<Self> {
        let (scheme, credential) = value.split_once(' ')?;
        let credential = credential.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            let key = || ApiKey::parse(credential).ok().map(Self::Key);
            return OperatorToken::parse(credential).ok().map(Self::Token).or_else(key);
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(STANDARD.decode(credential).ok()?).ok()?;
        let (email, password) = decoded.split_once(':')?;
        Some(Self::Password { email: email.to_owned(), password: Secret::new(password.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use insula_domain::ApiKeyId;
    use insula_testkit::SeededEntropy;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_header_holds_one_credential_of_three_kinds() {
        let entropy = SeededEntropy::new(1);
        let key = ApiKey::generate(ApiKeyId::from(Uuid::from_u128(1)), &entropy).to_text();
        let token = OperatorToken::generate(Uuid::from_u128(2), &entropy).to_text();
        let of = |value: &str| Credential::from_authorization(value);
        let bearer = |secret: &Secret| of(&format!("BEARER  {}", secret.expose()));
        assert!(matches!(bearer(&key), Some(Credential::Key(_))));
        assert!(matches!(bearer(&token), Some(Credential::Token(_))));
        let basic = of(&format!("Basic {}", STANDARD.encode("ada@example.com:a:b")));
        let Some(Credential::Password { email, password }) = basic else { panic!("no password") };
        assert_eq!((email.as_str(), password.expose()), ("ada@example.com", "a:b"));
        for value in ["", "Bearer", "Bearer x", "Basic x", "Digest x", key.expose()] {
            assert!(of(value).is_none(), "{value}");
        }
        assert!(!format!("{:?}", bearer(&key)).contains(key.expose()), "it does not show itself");
    }
}
