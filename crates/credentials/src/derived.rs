//! Secrets that are derived from a master key and therefore stored nowhere:
//! HMAC-SHA256 (RFC 2104, FIPS 198-1) over a purpose and parts, each with its
//! length before it, so that no two askings can give the same input.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use insula_domain::{ClusterName, LoginId, TenantId};
use zeroize::Zeroizing;

use crate::master_key::{MasterKeys, UnknownKeyGeneration};
use crate::secret::Secret;

/// Stands before everything that is hashed; a new way to derive gets a new one.
const LABEL: &[u8] = b"insula derived secret, version 1";

impl MasterKeys {
    /// 32 bytes for a purpose and its parts, from the key of the generation.
    ///
    /// # Errors
    /// [`UnknownKeyGeneration`] where that key is not here.
    pub fn derive(
        &self,
        purpose: &str,
        parts: &[&[u8]],
        key_generation: u32,
    ) -> Result<Zeroizing<[u8; 32]>, UnknownKeyGeneration> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key(key_generation)?.bytes());
        let mut context = hmac::Context::with_key(&key);
        context.update(LABEL);
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let tag = context.sign();
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(tag.as_ref());
        Ok(bytes)
    }

    /// The same as text: 43 characters of base64url (RFC 4648 §5), which need
    /// no escaping in a URL, in SQL or in a shell.
    ///
    /// # Errors
    /// [`UnknownKeyGeneration`] where that key is not here.
    pub fn derive_secret(
        &self,
        purpose: &str,
        parts: &[&[u8]],
        key_generation: u32,
    ) -> Result<Secret, UnknownKeyGeneration> {
        let bytes = self.derive(purpose, parts, key_generation)?;
        Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes.as_slice())))
    }

    /// The password of a tenant's role in PostgreSQL, or of its second role
    /// that may only read.
    ///
    /// # Errors
    /// [`UnknownKeyGeneration`] where that key is not here.
    pub fn role_password(
        &self,
        tenant: TenantId,
        read_only: bool,
        key_generation: u32,
    ) -> Result<Secret, UnknownKeyGeneration> {
        let purpose = if read_only { "role password, read only" } else { "role password" };
        self.derive_secret(purpose, &[tenant.as_uuid().as_bytes()], key_generation)
    }

    /// The password of the blueprint's role on a cluster.
    ///
    /// # Errors
    /// [`UnknownKeyGeneration`] where that key is not here.
    pub fn blueprint_password(
        &self,
        cluster: &ClusterName,
        key_generation: u32,
    ) -> Result<Secret, UnknownKeyGeneration> {
        self.derive_secret("blueprint password", &[cluster.as_str().as_bytes()], key_generation)
    }

    /// The secret of a database login whose secret is derived, so that it can
    /// be shown again. A new `secret_generation` gives the login a new secret.
    ///
    /// # Errors
    /// [`UnknownKeyGeneration`] where that key is not here.
    pub fn login_secret(
        &self,
        login: LoginId,
        key_generation: u32,
        secret_generation: u32,
    ) -> Result<Secret, UnknownKeyGeneration> {
        let (login, secret) = (login.as_uuid(), secret_generation.to_be_bytes());
        self.derive_secret("login secret", &[login.as_bytes(), &secret], key_generation)
    }

    /// The password of Insula's own administrative role on a cluster that
    /// Insula itself started.
    ///
    /// # Errors
    /// [`UnknownKeyGeneration`] where that key is not here.
    pub fn cluster_admin_password(
        &self,
        cluster: &ClusterName,
        key_generation: u32,
    ) -> Result<Secret, UnknownKeyGeneration> {
        self.derive_secret("cluster admin password", &[cluster.as_str().as_bytes()], key_generation)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn keys() -> MasterKeys {
        MasterKeys::parse(
            "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8= 2:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",
        )
        .unwrap()
    }

    #[test]
    fn what_is_derived_stays_the_same_for_ever() {
        // Computed apart with Python's hmac module; a change here would lock
        // every tenant of a running Insula out of its database.
        let tenant = "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap();
        let secret = keys().role_password(tenant, false, 1).unwrap();
        assert_eq!(secret.expose(), "Xz87c0q-P2jslgJglSeE1guQ6vqPiW3uXAEsNT7jlRw");
        let login = "0190163d-8694-739b-aea5-966c26f8ad92".parse().unwrap();
        let secret = keys().login_secret(login, 2, 7).unwrap();
        assert_eq!(secret.expose(), "DrYQ1T5foxguIDqxtUifloa4RwCAQ3S0H-06D0Rz40k");
    }

    #[test]
    fn every_input_matters() {
        let keys = keys();
        let a: TenantId = "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap();
        let b: TenantId = "0190163d-8694-739b-aea5-966c26f8ad92".parse().unwrap();
        let login = LoginId::from(a.as_uuid());
        let secrets = [
            keys.role_password(a, false, 1),
            keys.role_password(a, true, 1),
            keys.role_password(a, false, 2),
            keys.role_password(b, false, 1),
            keys.login_secret(login, 1, 1),
            keys.login_secret(login, 1, 2),
            keys.login_secret(login, 2, 1),
            keys.cluster_admin_password(&"eu".parse().unwrap(), 1),
            keys.blueprint_password(&"eu".parse().unwrap(), 1),
            keys.derive_secret("p", &[b"ab", b"c"], 1),
            keys.derive_secret("p", &[b"a", b"bc"], 1),
            keys.derive_secret("p", &[b"abc"], 1),
            keys.derive_secret("pa", &[b"bc"], 1),
            keys.derive_secret("p", &[b"abc", b""], 1),
        ]
        .map(|secret| secret.unwrap().expose().to_owned());
        assert!(secrets.iter().all(|secret| secret.len() == 43));
        assert_eq!(secrets.iter().collect::<BTreeSet<_>>().len(), secrets.len());
        assert_eq!(keys.role_password(a, false, 3).unwrap_err(), UnknownKeyGeneration(3));
    }
}
