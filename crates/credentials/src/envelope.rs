//! Envelopes: bytes sealed with a random key of their own (AES-256-GCM, NIST SP
//! 800-38D), and that key sealed by one derived from the master key. When the
//! master key is replaced only the small inner key is sealed anew. Both are
//! bound to the place of storage: moved to another one, an envelope does not open.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use insula_domain::Entropy;
use zeroize::Zeroizing;

use crate::master_key::MasterKeys;
use crate::sealed::SealError;

/// Stands first; another way to seal gets another one.
const FORM: u8 = 1;

const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
/// The form, the generation of the master key, a nonce, and the sealed data key.
const HEAD_LEN: usize = 1 + 4 + NONCE_LEN + KEY_LEN + TAG_LEN;

/// What comes before the data in an envelope.
struct Head<'e> {
    generation: u32,
    sealed_key: &'e [u8],
    body: &'e [u8],
}

fn split(envelope: &[u8]) -> Result<Head<'_>, SealError> {
    let (head, body) = envelope.split_at_checked(HEAD_LEN).ok_or(SealError::Broken)?;
    let (form, rest) = head.split_first().ok_or(SealError::Broken)?;
    let (generation, sealed_key) = rest.split_first_chunk::<4>().ok_or(SealError::Broken)?;
    if *form != FORM {
        return Err(SealError::Broken);
    }
    Ok(Head { generation: u32::from_be_bytes(*generation), sealed_key, body })
}

fn head(generation: u32, sealed_key: &[u8]) -> Vec<u8> {
    [&[FORM][..], &generation.to_be_bytes(), sealed_key].concat()
}

impl MasterKeys {
    /// Seals bytes for a place, with the current key.
    ///
    /// # Errors
    /// [`SealError`], in practice never for bytes of bounded length.
    pub fn seal_envelope(
        &self,
        place: &str,
        plain: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, SealError> {
        let mut data_key = Zeroizing::new([0; KEY_LEN]);
        entropy.fill(data_key.as_mut_slice());
        let generation = self.current_generation();
        let sealed_key = seal(&self.envelope_key(place, generation)?, place, data_key.as_slice(), entropy)?;
        let body = seal(&key(data_key.as_slice())?, place, plain, entropy)?;
        Ok([head(generation, &sealed_key), body].concat())
    }

    /// Opens an envelope that was sealed for the place.
    ///
    /// # Errors
    /// [`SealError`] where it was not.
    pub fn open_envelope(&self, place: &str, envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let head = split(envelope)?;
        let data_key = open(&self.envelope_key(place, head.generation)?, place, head.sealed_key)?;
        open(&key(&data_key)?, place, head.body)
    }

    /// The envelope with its data key sealed by the current master key; none
    /// where it is already.
    ///
    /// # Errors
    /// [`SealError`] where it was not sealed for the place.
    pub fn reseal_envelope(
        &self,
        place: &str,
        envelope: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Option<Vec<u8>>, SealError> {
        let old = split(envelope)?;
        let newest = self.current_generation();
        if old.generation == newest {
            return Ok(None);
        }
        let data_key = open(&self.envelope_key(place, old.generation)?, place, old.sealed_key)?;
        let sealed_key = seal(&self.envelope_key(place, newest)?, place, &data_key, entropy)?;
        Ok(Some([head(newest, &sealed_key).as_slice(), old.body].concat()))
    }

    fn envelope_key(&self, place: &str, generation: u32) -> Result<LessSafeKey, SealError> {
        key(self.derive("envelope key", &[place.as_bytes()], generation)?.as_slice())
    }
}

/// The generation of the master key with which an envelope is sealed.
///
/// # Errors
/// [`SealError::Broken`] where it is no envelope.
pub fn envelope_generation(envelope: &[u8]) -> Result<u32, SealError> {
    split(envelope).map(|head| head.generation)
}

fn key(bytes: &[u8]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new).map_err(|_| SealError::Broken)
}

fn seal(key: &LessSafeKey, place: &str, plain: &[u8], entropy: &dyn Entropy) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; NONCE_LEN];
    entropy.fill(&mut nonce);
    let mut sealed = plain.to_vec();
    let aad = Aad::from(place.as_bytes());
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
        .map_err(|_| SealError::Broken)?;
    Ok([nonce.as_slice(), &sealed].concat())
}

fn open(key: &LessSafeKey, place: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Broken)?;
    let mut plain = Zeroizing::new(ciphertext.to_vec());
    let aad = Aad::from(place.as_bytes());
    let length = key
        .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, plain.as_mut_slice())
        .map_err(|_| SealError::Broken)?
        .len();
    plain.truncate(length);
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use insula_domain::OsEntropy;

    use super::*;

    #[test]
    fn it_opens_in_its_place_alone_and_outlives_its_master_key() {
        let keys = MasterKeys::generate(&OsEntropy);
        let envelope = keys.seal_envelope("a", b"secret", &OsEntropy).unwrap();
        assert!(!envelope.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(keys.open_envelope("a", &envelope).unwrap().as_slice(), b"secret");
        assert!(matches!(keys.open_envelope("b", &envelope), Err(SealError::Broken)));
        assert!(keys.reseal_envelope("a", &envelope, &OsEntropy).unwrap().is_none());

        let rotated = keys.rotated(&OsEntropy);
        let anew = rotated.reseal_envelope("a", &envelope, &OsEntropy).unwrap().unwrap();
        assert_eq!(envelope_generation(&anew).unwrap(), rotated.current_generation());
        assert_eq!(anew[HEAD_LEN..], envelope[HEAD_LEN..], "the data stays as it is sealed");
        assert_eq!(rotated.open_envelope("a", &anew).unwrap().as_slice(), b"secret");
        assert!(matches!(keys.open_envelope("a", &anew), Err(SealError::Key(_))));
        assert!(rotated.reseal_envelope("b", &envelope, &OsEntropy).is_err());
        for cut in [0, 1, 5, HEAD_LEN - 1, HEAD_LEN, envelope.len() - 1] {
            assert!(keys.open_envelope("a", &envelope[..cut]).is_err(), "{cut}");
        }
        for at in 0..envelope.len() {
            let mut flipped = envelope.clone();
            flipped[at] ^= 1;
            assert!(keys.open_envelope("a", &flipped).is_err(), "{at}");
        }
    }
}
