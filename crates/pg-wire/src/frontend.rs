//! Messages that clients send, as far as the front looks into them, and those
//! that the front itself sends to a server.

use bytes::{BufMut, BytesMut};

use crate::cursor::Cursor;
use crate::error::{NulInText, WireError};
use crate::put::{self, checked, message, text};

/// Types of the messages that clients send.
pub mod tag {
    /// `Bind`.
    pub const BIND: u8 = b'B';
    /// `Close`.
    pub const CLOSE: u8 = b'C';
    /// `CopyData`; servers send it too.
    pub const COPY_DATA: u8 = b'd';
    /// `CopyDone`; servers send it too.
    pub const COPY_DONE: u8 = b'c';
    /// `CopyFail`.
    pub const COPY_FAIL: u8 = b'f';
    /// `Describe`.
    pub const DESCRIBE: u8 = b'D';
    /// `Execute`.
    pub const EXECUTE: u8 = b'E';
    /// `Flush`.
    pub const FLUSH: u8 = b'H';
    /// `FunctionCall`.
    pub const FUNCTION_CALL: u8 = b'F';
    /// `Parse`.
    pub const PARSE: u8 = b'P';
    /// `PasswordMessage`, `SASLInitialResponse` and `SASLResponse`.
    pub const PASSWORD: u8 = b'p';
    /// `Query`.
    pub const QUERY: u8 = b'Q';
    /// `Sync`.
    pub const SYNC: u8 = b'S';
    /// `Terminate`.
    pub const TERMINATE: u8 = b'X';
}

/// `SASLInitialResponse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// The name of the mechanism.
    pub mechanism: &'a [u8],
    /// The client's first message; `None` where it waits for ours.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// Reads the body of the message.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn from_body(body: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        let mechanism = cursor.text()?;
        let length = cursor.i32()?;
        let data = match usize::try_from(length) {
            Ok(length) => Some(cursor.take(length)?),
            Err(_) if length == -1 => None,
            Err(_) => return Err(WireError::Malformed("a length is negative")),
        };
        cursor.end()?;
        Ok(Self { mechanism, data })
    }
}

/// The password of a `PasswordMessage`.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parse_password(body: &[u8]) -> Result<&[u8], WireError> {
    let mut cursor = Cursor::new(body);
    let password = cursor.text()?;
    cursor.end()?;
    Ok(password)
}

/// The text of a `Query`.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parse_query(body: &[u8]) -> Result<&[u8], WireError> {
    parse_password(body)
}

/// `Parse`: a statement to prepare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The name; empty for the unnamed statement.
    pub name: &'a [u8],
    /// The statement.
    pub query: &'a [u8],
    /// The types of its parameters, as they stand in the message: a count of
    /// two bytes and four bytes each.
    pub parameter_types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads the body of the message.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn from_body(body: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        let (name, query) = (cursor.text()?, cursor.text()?);
        let parameter_types = cursor.rest();
        // Without a sign: PostgreSQL takes up to 65,535 (`exec_parse_message`).
        let count = usize::from(cursor.u16()?);
        cursor.take(4 * count)?;
        cursor.end()?;
        Ok(Self { name, query, parameter_types })
    }

    /// Writes the message.
    ///
    /// # Errors
    /// [`NulInText`] where a text holds a zero byte.
    pub fn put(self, out: &mut BytesMut) -> Result<(), NulInText> {
        let (name, query) = (checked(self.name)?, checked(self.query)?);
        message(out, tag::PARSE, |out| {
            text(out, name);
            text(out, query);
            out.put_slice(self.parameter_types);
        });
        Ok(())
    }
}

/// The beginning of a `Bind`: what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindNames<'a> {
    /// The portal that it makes; empty for the unnamed one.
    pub portal: &'a [u8],
    /// The statement; empty for the unnamed one.
    pub statement: &'a [u8],
    /// What follows of the message, as far as it was given.
    pub rest: &'a [u8],
}

impl<'a> BindNames<'a> {
    /// Reads the beginning of the body; `None` where the names do not end
    /// within it.
    #[must_use]
    pub fn from_beginning(body: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(body);
        let (portal, statement) = (cursor.text().ok()?, cursor.text().ok()?);
        Some(Self { portal, statement, rest: cursor.rest() })
    }

    /// Writes the beginning of the message, of which `missing` bytes are to
    /// follow.
    ///
    /// # Errors
    /// [`WireError::Length`] where it would be longer than a message may be.
    pub fn put(self, missing: usize, out: &mut BytesMut) -> Result<(), WireError> {
        let length = 4 + self.portal.len() + 1 + self.statement.len() + 1 + self.rest.len() + missing;
        let length = message_length(length)?;
        out.put_u8(tag::BIND);
        out.put_u32(length);
        text(out, self.portal);
        text(out, self.statement);
        out.put_slice(self.rest);
        Ok(())
    }
}

/// The length of a message as it stands in it.
fn message_length(length: usize) -> Result<u32, WireError> {
    const MAX: u32 = i32::MAX as u32;
    let too_long = WireError::Length { length: u32::MAX, min: 4, max: MAX };
    u32::try_from(length).ok().filter(|length| *length <= MAX).ok_or(too_long)
}

/// What a `Describe` or a `Close` is about: a prepared statement or a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// A prepared statement, by its name.
    Statement(&'a [u8]),
    /// A portal, by its name.
    Portal(&'a [u8]),
}

impl<'a> Named<'a> {
    /// Reads the body of the message.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn from_body(body: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        let (kind, name) = (cursor.u8()?, cursor.text()?);
        cursor.end()?;
        match kind {
            b'S' => Ok(Self::Statement(name)),
            b'P' => Ok(Self::Portal(name)),
            _ => Err(WireError::Malformed("only statements and portals are described and closed")),
        }
    }

    /// Writes the message with this type: `Describe` or `Close`. Names hold no
    /// zero bytes.
    pub fn put(self, message_tag: u8, out: &mut BytesMut) {
        let (kind, name) = match self {
            Self::Statement(name) => (b'S', name),
            Self::Portal(name) => (b'P', name),
        };
        message(out, message_tag, |out| {
            out.put_u8(kind);
            text(out, name);
        });
    }
}

/// Writes a `Query`.
///
/// # Errors
/// [`NulInText`] where the text holds a zero byte.
pub fn put_query(out: &mut BytesMut, query: &[u8]) -> Result<(), NulInText> {
    let query = checked(query)?;
    message(out, tag::QUERY, |out| text(out, query));
    Ok(())
}

/// Writes a `Query` or a `Parse`, whichever the type says, with a text in
/// pieces. A `Parse` has a name before it and parameters' types behind it.
///
/// # Errors
/// [`WireError::Length`] where it would be longer than a message may be; then
/// nothing is written.
pub fn put_text<'a>(
    out: &mut BytesMut,
    tag: u8,
    name: &[u8],
    text: impl Iterator<Item = &'a [u8]> + Clone,
    rest: &[u8],
) -> Result<(), WireError> {
    let length = 4 + name.len() + 1 + text.clone().map(<[u8]>::len).sum::<usize>() + 1 + rest.len();
    message_length(length)?;
    out.reserve(1 + length);
    message(out, tag, |out| {
        if tag == self::tag::PARSE {
            put::text(out, name);
        }
        text.for_each(|piece| out.put_slice(piece));
        out.put_u8(0);
        out.put_slice(rest);
    });
    Ok(())
}

/// Writes a `SASLInitialResponse`.
///
/// # Errors
/// [`NulInText`] where the mechanism's name holds a zero byte.
pub fn put_sasl_initial_response(out: &mut BytesMut, mechanism: &str, data: &[u8]) -> Result<(), NulInText> {
    let mechanism = checked(mechanism.as_bytes())?;
    message(out, tag::PASSWORD, |out| {
        text(out, mechanism);
        out.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
        out.put_slice(data);
    });
    Ok(())
}

/// Writes a `SASLResponse`.
pub fn put_sasl_response(out: &mut BytesMut, data: &[u8]) {
    message(out, tag::PASSWORD, |out| out.put_slice(data));
}

/// Writes a `Flush`.
pub fn put_flush(out: &mut BytesMut) {
    message(out, tag::FLUSH, |_| ());
}

/// Writes a `Terminate`.
pub fn put_terminate(out: &mut BytesMut) {
    message(out, tag::TERMINATE, |_| ());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::read_message;

    fn body(put: impl FnOnce(&mut BytesMut)) -> (u8, Vec<u8>) {
        let mut out = BytesMut::new();
        put(&mut out);
        let message = read_message(&mut out, 1 << 20).unwrap().unwrap();
        assert!(out.is_empty());
        (message.tag, message.body.to_vec())
    }

    #[test]
    fn a_bind_gets_another_name_and_keeps_the_rest() {
        let body = b"portal\0name\0\0\0\0\x01rest";
        let names = BindNames::from_beginning(body).unwrap();
        assert_eq!((names.portal, names.statement), (&b"portal"[..], &b"name"[..]));
        let mut out = BytesMut::new();
        BindNames { statement: b"other_name", ..names }.put(3, &mut out).unwrap();
        out.extend_from_slice(b"end");
        let message = read_message(&mut out, 100).unwrap().unwrap();
        assert_eq!((message.tag, &message.body[..]), (b'B', &b"portal\0other_name\0\0\0\0\x01restend"[..]));
        assert_eq!(BindNames::from_beginning(b"portal\0name"), None);
        assert!(names.put(i32::MAX as usize, &mut out).is_err() && out.is_empty());
    }

    #[test]
    fn what_is_described_or_closed_reads_back() {
        for named in [Named::Statement(b"s"), Named::Portal(b""), Named::Statement(b"")] {
            let (tag, body) = body(|out| named.put(tag::CLOSE, out));
            assert_eq!((tag, Named::from_body(&body)), (b'C', Ok(named)));
        }
        assert!(Named::from_body(b"Xs\0").is_err() && Named::from_body(b"Ss").is_err());
    }

    proptest! {
        #[test]
        fn messages_read_back(
            name in "[^\0]{0,20}",
            query in "[^\0]{0,60}",
            types in proptest::collection::vec(any::<u32>(), 0..5),
            data in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut parameter_types = (types.len() as u16).to_be_bytes().to_vec();
            types.iter().for_each(|oid| parameter_types.extend(oid.to_be_bytes()));
            let parse = Parse {
                name: name.as_bytes(),
                query: query.as_bytes(),
                parameter_types: &parameter_types,
            };
            let (tag, bytes) = body(|out| parse.put(out).unwrap());
            prop_assert_eq!(tag, tag::PARSE);
            prop_assert_eq!(Parse::from_body(&bytes), Ok(parse));

            let (tag, bytes) = body(|out| put_query(out, query.as_bytes()).unwrap());
            prop_assert_eq!((tag, parse_query(&bytes)), (tag::QUERY, Ok(query.as_bytes())));

            let (tag, bytes) = body(|out| put_sasl_initial_response(out, "SCRAM-SHA-256", &data).unwrap());
            let response = SaslInitialResponse { mechanism: b"SCRAM-SHA-256", data: Some(&data) };
            prop_assert_eq!((tag, SaslInitialResponse::from_body(&bytes)), (tag::PASSWORD, Ok(response)));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (Parse::from_body(&bytes), parse_query(&bytes), SaslInitialResponse::from_body(&bytes));
        }
    }

    #[test]
    fn broken_messages_are_refused() {
        assert!(parse_query(b"select 1").is_err() && parse_query(b"a\0b\0").is_err());
        assert!(Parse::from_body(b"\0\0\0\x01\0\0\0").is_err(), "a type is cut off");
        assert!(Parse::from_body(b"\0\0\xff\xff").is_err(), "65,535 types and none there");
        let many = [&b"\0\0\x9c\x40"[..], &[0; 4 * 40_000]].concat();
        assert_eq!(Parse::from_body(&many).unwrap().parameter_types.len(), 2 + 4 * 40_000);
        assert!(SaslInitialResponse::from_body(b"X\0\xff\xff\xff\xfe").is_err(), "a negative length");
        let waiting = SaslInitialResponse { mechanism: b"X", data: None };
        assert_eq!(SaslInitialResponse::from_body(b"X\0\xff\xff\xff\xff"), Ok(waiting));
        assert_eq!(put_query(&mut BytesMut::new(), b"a\0b"), Err(NulInText));
    }
}
