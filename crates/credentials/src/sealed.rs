//! Secrets that have to be stored and read back, such as the password of a
//! registered cluster: AES-256-GCM (NIST SP 800-38D) with a random 96-bit
//! nonce before the ciphertext. The key is derived from the master key for the
//! purpose and the place of storage, and the place is authenticated too, so
//! that a sealed secret moved to another row does not open there.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use insula_domain::Entropy;
use thiserror::Error;

use crate::master_key::{MasterKeys, UnknownKeyGeneration};
use crate::secret::Secret;

/// A sealed secret could not be opened, or a secret could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SealError {
    /// The master key that it was sealed with is not here.
    #[error(transparent)]
    Key(#[from] UnknownKeyGeneration),
    /// The bytes are not what was sealed for this place with this key.
    #[error("the sealed secret does not open: it was changed, moved, or sealed with another key")]
    Broken,
}

impl MasterKeys {
    /// Seals a secret for a place, with the current key.
    ///
    /// # Errors
    /// [`SealError`], in practice never for a secret of bounded length.
    pub fn seal(&self, place: &str, secret: &Secret, entropy: &dyn Entropy) -> Result<Vec<u8>, SealError> {
        let key = self.sealing_key(place, self.current_generation())?;
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        let mut sealed = secret.expose().as_bytes().to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place.as_bytes()),
            &mut sealed,
        )
        .map_err(|_| SealError::Broken)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens a secret that was sealed for the place with the key of the generation.
    ///
    /// # Errors
    /// [`SealError`] where it was not.
    pub fn open(&self, place: &str, sealed: &[u8], key_generation: u32) -> Result<Secret, SealError> {
        let key = self.sealing_key(place, key_generation)?;
        let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Broken)?;
        let mut plain = zeroize::Zeroizing::new(ciphertext.to_vec());
        let opened = key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(place.as_bytes()),
                plain.as_mut_slice(),
            )
            .map_err(|_| SealError::Broken)?;
        let text = std::str::from_utf8(opened).map_err(|_| SealError::Broken)?;
        Ok(Secret::new(text.to_owned()))
    }

    fn sealing_key(&self, place: &str, key_generation: u32) -> Result<LessSafeKey, SealError> {
        let bytes = self.derive("sealing key", &[place.as_bytes()], key_generation)?;
        let key = UnboundKey::new(&AES_256_GCM, bytes.as_slice()).map_err(|_| SealError::Broken)?;
        Ok(LessSafeKey::new(key))
    }
}

#[cfg(test)]
mod tests {
    use insula_domain::OsEntropy;

    use super::*;

    #[test]
    fn it_opens_in_its_place_with_its_key_and_nowhere_else() {
        let keys = MasterKeys::generate(&OsEntropy);
        let generation = keys.current_generation();
        let secret = Secret::new("pässword".to_owned());
        let sealed = keys.seal("cluster/a", &secret, &OsEntropy).unwrap();
        assert_ne!(sealed, keys.seal("cluster/a", &secret, &OsEntropy).unwrap(), "the nonce is fresh");
        let rotated = keys.rotated(&OsEntropy);
        assert!(rotated.open("cluster/a", &sealed, generation).unwrap().matches("pässword"));
        let newer = rotated.current_generation();
        assert!(matches!(rotated.open("cluster/a", &sealed, newer), Err(SealError::Broken)));
        assert!(matches!(keys.open("cluster/b", &sealed, generation), Err(SealError::Broken)));
        assert!(matches!(keys.open("cluster/a", &sealed, 99), Err(SealError::Key(_))));
        for broken in [&sealed[..5], &sealed[..sealed.len() - 1], &[0_u8; 60][..], &[]] {
            assert!(matches!(keys.open("cluster/a", broken, generation), Err(SealError::Broken)));
        }
        let mut flipped = sealed;
        flipped[14] ^= 1;
        assert!(matches!(keys.open("cluster/a", &flipped, generation), Err(SealError::Broken)));
    }
}
