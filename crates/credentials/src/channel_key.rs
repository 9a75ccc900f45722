//! The names that a tenant's notification channels have in a database that it
//! shares: PostgreSQL's channels know no tenants, so each tenant's get names
//! that nobody else can guess.

use aws_lc_rs::digest::{SHA256, digest};
use insula_domain::TenantId;
use zeroize::Zeroizing;

use crate::master_key::{MasterKeys, UnknownKeyGeneration};

/// With what the names begin.
const PREFIX: &str = "insula_";

/// Bytes of the digest in a name: 160 bits, as hexadecimal digits, fit the 63
/// bytes that PostgreSQL gives names.
const DIGEST_BYTES: usize = 20;

/// What a tenant's channels are named by. The tenant itself may know it; it is a
/// secret from others.
#[derive(Clone)]
pub struct ChannelKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChannelKey(…)")
    }
}

impl MasterKeys {
    /// What a tenant's channels are named by.
    ///
    /// # Errors
    /// [`UnknownKeyGeneration`] where that key is not here.
    pub fn channel_key(
        &self,
        tenant: TenantId,
        key_generation: u32,
    ) -> Result<ChannelKey, UnknownKeyGeneration> {
        self.derive("notification channels", &[tenant.as_uuid().as_bytes()], key_generation).map(ChannelKey)
    }
}

impl ChannelKey {
    /// The name in the database of a channel of the tenant's:
    /// `SHA-256(key || SHA-256(key || name))`, cut to 160 bits. The outer digest
    /// keeps the inner one to itself, which could be extended to other names.
    /// `insula.pg_notify` computes the same.
    #[must_use]
    pub fn channel(&self, name: &str) -> String {
        let twice = |part: &[u8]| digest(&SHA256, &[self.0.as_slice(), part].concat());
        let outer = twice(twice(name.as_bytes()).as_ref());
        format!("{PREFIX}{}", hexadecimal(&outer.as_ref()[..DIGEST_BYTES]))
    }

    /// The key as the value of the setting `insula.channel_key`: 64 hexadecimal
    /// digits.
    #[must_use]
    pub fn setting(&self) -> Zeroizing<String> {
        Zeroizing::new(hexadecimal(self.0.as_slice()))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_sql_computes() {
        let key = ChannelKey(Zeroizing::new(*b"0123456789abcdef0123456789abcdef"));
        // Computed apart with Python's hashlib.
        assert_eq!(key.channel("news"), "insula_7bba35a0ef97bf7a653bfc9eb51bfd34d73f911b");
        assert_eq!(
            key.setting().as_str(),
            "3031323334353637383961626364656630313233343536373839616263646566"
        );
        assert_eq!(format!("{key:?}"), "ChannelKey(…)");
    }

    #[test]
    fn every_tenant_has_names_of_its_own() {
        let keys = MasterKeys::parse("1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let of = |tenant: &str| keys.channel_key(tenant.parse().unwrap(), 1).unwrap().channel("news");
        let one = of("0190163d-8694-739b-aea5-966c26f8ad91");
        assert_ne!(one, of("0190163d-8694-739b-aea5-966c26f8ad92"));
        assert!(one.starts_with(PREFIX) && one.len() == 47);
        assert!(keys.channel_key("0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap(), 2).is_err());
    }
}
