//! The packets with which a connection begins. They have no type byte; the four
//! bytes after the length say what they are.

use std::hint::black_box;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::cursor::Cursor;
use crate::error::{NulInText, WireError};
use crate::put::{checked, text, with_length};

/// The longest packet, as in PostgreSQL (`MAX_STARTUP_PACKET_LENGTH`).
pub const PACKET_BYTES_MAX: u32 = 10_000;

const PACKET_BYTES_MIN: u32 = 8;

/// Major version 1234, which stands for a request that is no version.
const REQUEST: u16 = 1234;
const CANCEL: u16 = 5678;
const SSL: u16 = 5679;
const GSS_ENCRYPTION: u16 = 5680;

/// What a client begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupPacket {
    /// It asks for TLS.
    Ssl,
    /// It asks for GSSAPI encryption.
    GssEncryption,
    /// It asks to cancel what another connection is doing.
    Cancel(CancelKey),
    /// It begins a session.
    Session(SessionStart),
}

/// What names a connection to a cancel request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelKey {
    /// The number of the connection.
    pub process_id: u32,
    /// The secret of the connection.
    pub secret: CancelSecret,
}

/// The secret of a connection: 4 bytes in protocol 3.0, and up to 256 from 3.2
/// on. Secrets are compared in a time that depends on their lengths alone.
#[derive(Clone)]
pub struct CancelSecret(Bytes);

impl CancelSecret {
    /// Bytes of a secret in protocol 3.0.
    pub const SHORT_BYTES: usize = 4;

    /// Bytes of the longest secret.
    pub const BYTES_MAX: usize = 256;

    /// # Errors
    /// [`WireError::Malformed`] for a length that no secret has.
    pub fn new(secret: &[u8]) -> Result<Self, WireError> {
        if (Self::SHORT_BYTES..=Self::BYTES_MAX).contains(&secret.len()) {
            Ok(Self(Bytes::copy_from_slice(secret)))
        } else {
            Err(WireError::Malformed("a cancel key has 4 to 256 bytes"))
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<[u8; Self::SHORT_BYTES]> for CancelSecret {
    fn from(secret: [u8; Self::SHORT_BYTES]) -> Self {
        Self(Bytes::copy_from_slice(&secret))
    }
}

impl PartialEq for CancelSecret {
    fn eq(&self, other: &Self) -> bool {
        let differences =
            self.0.iter().zip(&other.0).fold(0, |all, (one, other)| black_box(all | (one ^ other)));
        self.0.len() == other.0.len() && differences == 0
    }
}

impl Eq for CancelSecret {}

impl std::fmt::Debug for CancelSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CancelSecret").field(&self.0.len()).finish()
    }
}

/// The beginning of a session.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionStart {
    /// The minor version of the protocol that the client would like.
    pub minor_version: u16,
    /// Names and values in the order in which they came.
    pub parameters: Vec<(Bytes, Bytes)>,
}

/// The newest minor version of protocol 3 that is spoken.
pub const MINOR_VERSION_MAX: u16 = 2;

/// All that are, the newest first. There has never been a 3.1.
const MINOR_VERSIONS: [u16; 2] = [MINOR_VERSION_MAX, 0];

impl SessionStart {
    /// The minor version to be spoken: the newest that is not above the one
    /// that was asked for. Where it is another one the client is told.
    #[must_use]
    pub fn spoken_version(&self) -> u16 {
        MINOR_VERSIONS.into_iter().find(|version| *version <= self.minor_version).unwrap_or(0)
    }

    /// The value of a parameter; the last one where the client repeats it, as
    /// in PostgreSQL.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().rev().find(|(known, _)| known == name).map(|(_, value)| &value[..])
    }
}

impl std::fmt::Debug for SessionStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The values come from the client and may be anything.
        let names: Vec<_> = self.parameters.iter().map(|(name, _)| name.escape_ascii().to_string()).collect();
        f.debug_struct("SessionStart")
            .field("minor_version", &self.minor_version)
            .field("parameters", &names)
            .finish()
    }
}

/// Takes a packet from the front of the buffer; `None` where more bytes are
/// needed.
///
/// # Errors
/// [`WireError`] for a length, a version or a content that no packet has.
pub fn read_packet(buffer: &mut BytesMut) -> Result<Option<StartupPacket>, WireError> {
    let [a, b, c, d, ..] = buffer[..] else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]);
    if !(PACKET_BYTES_MIN..=PACKET_BYTES_MAX).contains(&length) {
        return Err(WireError::Length { length, min: PACKET_BYTES_MIN, max: PACKET_BYTES_MAX });
    }
    if buffer.len() < length as usize {
        return Ok(None);
    }
    let mut packet = buffer.split_to(length as usize).freeze();
    packet.advance(4);
    let (major, minor) = (packet.get_u16(), packet.get_u16());
    match (major, minor) {
        (REQUEST, SSL) => Cursor::new(&packet).end().map(|()| Some(StartupPacket::Ssl)),
        (REQUEST, GSS_ENCRYPTION) => Cursor::new(&packet).end().map(|()| Some(StartupPacket::GssEncryption)),
        (REQUEST, CANCEL) => parse_cancel(&packet).map(Some),
        (3, minor_version) => {
            let parameters = parse_parameters(&packet)?;
            Ok(Some(StartupPacket::Session(SessionStart { minor_version, parameters })))
        }
        (major, minor) => Err(WireError::Version { major, minor }),
    }
}

fn parse_cancel(body: &[u8]) -> Result<StartupPacket, WireError> {
    let mut cursor = Cursor::new(body);
    let process_id = cursor.u32()?;
    Ok(StartupPacket::Cancel(CancelKey { process_id, secret: CancelSecret::new(cursor.rest())? }))
}

fn parse_parameters(body: &Bytes) -> Result<Vec<(Bytes, Bytes)>, WireError> {
    let mut parameters = Vec::new();
    let mut cursor = Cursor::new(body);
    loop {
        let name = cursor.text()?;
        if name.is_empty() {
            cursor.end()?;
            return Ok(parameters);
        }
        parameters.push((body.slice_ref(name), body.slice_ref(cursor.text()?)));
    }
}

/// Another protocol, recognised by the first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// A request of HTTP/1 or HTTP/2.
    Http,
    /// The hello of a TLS client that did not ask first.
    Tls,
}

/// Whether the first bytes are those of another protocol that often ends up at
/// the wrong port. Read as the length of a packet they are all far too large.
#[must_use]
pub fn recognise_foreign(first: &[u8]) -> Option<Foreign> {
    const METHODS: [&[u8]; 10] =
        [b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI "];
    if METHODS.iter().any(|method| first.starts_with(method)) {
        return Some(Foreign::Http);
    }
    // A TLS record: type 22 (handshake), version 3.x (RFC 8446 §5.1).
    first.starts_with(&[22, 3]).then_some(Foreign::Tls)
}

/// Writes the beginning of a session of protocol 3.0.
///
/// # Errors
/// [`NulInText`] where a name or a value holds a zero byte.
pub fn put_session_start(out: &mut BytesMut, parameters: &[(&[u8], &[u8])]) -> Result<(), NulInText> {
    put_session_start_of(out, 0, parameters)
}

/// Writes the beginning of a session of protocol 3 in the newest minor version
/// that the sender speaks.
///
/// # Errors
/// [`NulInText`] where a name or a value holds a zero byte.
pub fn put_session_start_of(
    out: &mut BytesMut,
    minor_version: u16,
    parameters: &[(&[u8], &[u8])],
) -> Result<(), NulInText> {
    for (name, value) in parameters {
        checked(name)?;
        checked(value)?;
    }
    with_length(out, |out| {
        out.put_u16(3);
        out.put_u16(minor_version);
        for (name, value) in parameters {
            text(out, name);
            text(out, value);
        }
        out.put_u8(0);
    });
    Ok(())
}

/// Writes a request for TLS.
pub fn put_ssl_request(out: &mut BytesMut) {
    with_length(out, |out| {
        out.put_u16(REQUEST);
        out.put_u16(SSL);
    });
}

/// Writes a request for GSSAPI encryption.
pub fn put_gss_encryption_request(out: &mut BytesMut) {
    with_length(out, |out| {
        out.put_u16(REQUEST);
        out.put_u16(GSS_ENCRYPTION);
    });
}

/// Writes a cancel request.
pub fn put_cancel_request(out: &mut BytesMut, key: &CancelKey) {
    with_length(out, |out| {
        out.put_u16(REQUEST);
        out.put_u16(CANCEL);
        out.put_u32(key.process_id);
        out.put_slice(key.secret.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<StartupPacket>, WireError> {
        read_packet(&mut BytesMut::from(bytes))
    }

    fn written(put: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut out = BytesMut::new();
        put(&mut out);
        out
    }

    #[test]
    fn requests_read_back() {
        assert_eq!(read(&written(put_ssl_request)), Ok(Some(StartupPacket::Ssl)));
        assert_eq!(read(&written(put_gss_encryption_request)), Ok(Some(StartupPacket::GssEncryption)));
        for length in [4, 32, 256] {
            let key = CancelKey { process_id: 7, secret: CancelSecret::new(&vec![9; length]).unwrap() };
            let cancel = written(|out| put_cancel_request(out, &key));
            assert_eq!(read(&cancel), Ok(Some(StartupPacket::Cancel(key))));
        }
        for length in [0_u8, 3] {
            let cancel =
                [&[0, 0, 0, 12 + length, 4, 210, 22, 46, 0, 0, 0, 7][..], &[9; 3][..length.into()]].concat();
            assert!(matches!(read(&cancel), Err(WireError::Malformed(_))), "{length}");
        }
        assert!(CancelSecret::new(&[9; 257]).is_err());
        assert_eq!(&written(put_ssl_request)[..], [0, 0, 0, 8, 4, 210, 22, 47], "as PostgreSQL writes it");
    }

    #[test]
    fn a_packet_is_waited_for_and_what_follows_it_stays() {
        let parameters: [(&[u8], &[u8]); 2] = [(b"user", b"acme"), (b"database", b"app")];
        let whole = written(|out| put_session_start(out, &parameters).unwrap());
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), Ok(None), "{length}");
        }
        let mut buffer = whole.clone();
        buffer.extend_from_slice(b"more");
        let Ok(Some(StartupPacket::Session(start))) = read_packet(&mut buffer) else { panic!("not read") };
        assert_eq!(start.parameter("user"), Some(&b"acme"[..]));
        assert_eq!((start.minor_version, start.parameter("x")), (0, None));
        assert_eq!(&buffer[..], b"more");
        assert!(!format!("{start:?}").contains("acme"));
    }

    #[test]
    fn secrets_are_the_same_where_all_bytes_are() {
        let secret = |bytes: &[u8]| CancelSecret::new(bytes).unwrap();
        assert_eq!(secret(&[1, 2, 3, 4]), secret(&[1, 2, 3, 4]));
        for other in [&[1, 2, 3, 5][..], &[0, 2, 3, 4], &[1, 2, 3, 4, 0], &[1, 2, 3, 4, 1, 2, 3, 4]] {
            assert_ne!(secret(&[1, 2, 3, 4]), secret(other), "{other:?}");
        }
        assert!(!format!("{:?}", secret(&[77; 32])).contains("77"));
    }

    #[test]
    fn a_version_that_is_spoken_is_the_newest_below_the_one_asked_for() {
        let spoken = |minor_version| SessionStart { minor_version, parameters: Vec::new() }.spoken_version();
        let versions = [(0, 0), (1, 0), (2, 2), (3, 2), (9999, 2), (u16::MAX, 2)];
        for (asked, expected) in versions {
            assert_eq!(spoken(asked), expected, "{asked}");
        }
    }

    #[test]
    fn sizes_and_versions_are_bounded() {
        for length in [0_u32, 4, 7, 10_001, u32::MAX] {
            let refused = read(&length.to_be_bytes()).unwrap_err();
            assert!(matches!(refused, WireError::Length { .. }), "{length}");
        }
        assert_eq!(read(&[0, 0, 0, 8, 0, 2, 0, 0]), Err(WireError::Version { major: 2, minor: 0 }));
        assert_eq!(read(&[0, 0, 0, 8, 4, 210, 0, 1]), Err(WireError::Version { major: 1234, minor: 1 }));
        let nul: [(&[u8], &[u8]); 1] = [(b"user", b"a\0database\0b")];
        assert_eq!(put_session_start(&mut BytesMut::new(), &nul), Err(NulInText));
    }

    #[test]
    fn other_protocols_are_recognised() {
        assert_eq!(recognise_foreign(b"GET / HTTP/1.1\r\n"), Some(Foreign::Http));
        assert_eq!(recognise_foreign(b"PRI * HTTP/2.0"), Some(Foreign::Http));
        assert_eq!(recognise_foreign(&[22, 3, 1, 2, 0]), Some(Foreign::Tls));
        assert_eq!(recognise_foreign(&written(put_ssl_request)), None);
        assert_eq!(recognise_foreign(b""), None);
    }

    proptest! {
        #[test]
        fn parameters_read_back(
            minor in any::<u16>(),
            parameters in proptest::collection::vec(("[a-z_]{1,20}", "[^\0]{0,40}"), 0..10),
        ) {
            let borrowed: Vec<(&[u8], &[u8])> =
                parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            let bytes = written(|out| put_session_start_of(out, minor, &borrowed).unwrap());
            let Ok(Some(StartupPacket::Session(start))) = read(&bytes) else { panic!("not read") };
            prop_assert_eq!(start.minor_version, minor);
            let read: Vec<_> = start.parameters.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            prop_assert_eq!(read, borrowed);
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = recognise_foreign(&bytes);
            // And with a length that fits, so that the content is reached.
            if let Some(length) = bytes.first_chunk::<4>().map(|_| bytes.len() as u32) {
                bytes[..4].copy_from_slice(&length.to_be_bytes());
                let _ = read(&bytes);
                if bytes.len() >= 8 {
                    bytes[4..8].copy_from_slice(&[0, 3, 0, 0]);
                    let _ = read(&bytes);
                }
            }
        }
    }
}
