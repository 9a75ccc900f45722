//! `tls-server-end-point` (RFC 5929 §4): the hash of the server's certificate,
//! with the hash function of the certificate's own signature, but SHA-256 in
//! place of MD5 and SHA-1.

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512, digest};

/// The hash that binds an exchange to the server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndPoint(Vec<u8>);

impl EndPoint {
    /// The binding of a certificate in DER form; `None` where the certificate's
    /// signature has no hash function of its own (Ed25519, or RSA-PSS, whose
    /// hash is a parameter that this does not read), because the RFC then
    /// leaves the binding undefined.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let algorithm = hash_of_signature(signature_algorithm(der)?)?;
        Some(Self(digest(algorithm, der).as_ref().to_vec()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The object identifier of the certificate's signature algorithm: RFC 5280
/// §4.1, `SEQUENCE { tbsCertificate, SEQUENCE { OID, … }, … }`.
fn signature_algorithm(der: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (certificate, _) = element(der, SEQUENCE)?;
    let (_, after_tbs) = element(certificate, SEQUENCE)?;
    let (algorithm, _) = element(after_tbs, SEQUENCE)?;
    element(algorithm, OBJECT_IDENTIFIER).map(|(oid, _)| oid)
}

/// Splits off one DER element of the tag: its content and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.is_empty() || bytes.len() > 4 {
            return None;
        }
        (bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
    };
    if found == tag { rest.split_at_checked(length) } else { None }
}

/// The hash function of a signature algorithm, by the OIDs of RFC 3279,
/// RFC 4055 and RFC 5758.
fn hash_of_signature(oid: &[u8]) -> Option<&'static Algorithm> {
    const PKCS_1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    match (oid.strip_prefix(PKCS_1), oid.strip_prefix(ECDSA_SHA2)) {
        (Some([4 | 5 | 11]), _) | (_, Some([2])) => Some(&SHA256),
        (Some([12]), _) | (_, Some([3])) => Some(&SHA384),
        (Some([13]), _) | (_, Some([4])) => Some(&SHA512),
        _ if oid == ECDSA_SHA1 => Some(&SHA256),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate as far as this module reads it.
    fn certificate(oid: &[u8]) -> Vec<u8> {
        let tbs = [&[0x30, 0x81, 0x80][..], &[0; 0x80]].concat();
        let algorithm = [&[0x30, 2 + oid.len() as u8, 0x06, oid.len() as u8][..], oid].concat();
        let body = [tbs, algorithm, vec![0x03, 0x01, 0x00]].concat();
        [&[0x30, 0x82, 0, body.len() as u8][..], &body].concat()
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let sha256_rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
        let sha1_rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05];
        let sha384_ecdsa = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
        let ed25519 = [0x2b, 0x65, 0x70];
        let length = |oid: &[u8]| EndPoint::of_certificate(&certificate(oid)).map(|binding| binding.0.len());
        assert_eq!(length(&sha256_rsa), Some(32));
        assert_eq!(length(&sha1_rsa), Some(32));
        assert_eq!(length(&sha384_ecdsa), Some(48));
        assert_eq!(length(&ed25519), None);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = certificate(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]);
        for length in 0..whole.len() {
            let _ = EndPoint::of_certificate(&whole[..length]);
        }
        for position in 0..whole.len() {
            for byte in [0, 0x7f, 0x80, 0x84, 0x85, 0xff] {
                let mut bad = whole.clone();
                bad[position] = byte;
                let _ = EndPoint::of_certificate(&bad);
            }
        }
    }
}
