//! Messages that servers send: those that the front writes to clients, and
//! those that it reads while it opens a backend.

use bytes::{BufMut, BytesMut};

use crate::cursor::Cursor;
use crate::error::WireError;
use crate::fields::{self, ErrorFields};
use crate::message::TransactionStatus;
use crate::put::{message, own_text, text};
use crate::startup::{CancelKey, CancelSecret};

/// Types of the messages that servers send.
pub mod tag {
    /// `Authentication…`.
    pub const AUTHENTICATION: u8 = b'R';
    /// `BackendKeyData`.
    pub const BACKEND_KEY_DATA: u8 = b'K';
    /// `CloseComplete`.
    pub const CLOSE_COMPLETE: u8 = b'3';
    /// `CommandComplete`.
    pub const COMMAND_COMPLETE: u8 = b'C';
    /// `CopyInResponse`.
    pub const COPY_IN_RESPONSE: u8 = b'G';
    /// `DataRow`.
    pub const DATA_ROW: u8 = b'D';
    /// `EmptyQueryResponse`.
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    /// `ErrorResponse`.
    pub const ERROR_RESPONSE: u8 = b'E';
    /// `NegotiateProtocolVersion`.
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    /// `NoticeResponse`.
    pub const NOTICE_RESPONSE: u8 = b'N';
    /// `NotificationResponse`.
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    /// `NoData`.
    pub const NO_DATA: u8 = b'n';
    /// `ParameterDescription`.
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    /// `ParameterStatus`.
    pub const PARAMETER_STATUS: u8 = b'S';
    /// `ParseComplete`.
    pub const PARSE_COMPLETE: u8 = b'1';
    /// `PortalSuspended`.
    pub const PORTAL_SUSPENDED: u8 = b's';
    /// `ReadyForQuery`.
    pub const READY_FOR_QUERY: u8 = b'Z';
    /// `RowDescription`.
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// The object identifier of the type `text`.
const TEXT_OID: u32 = 25;

/// What a server wants to see before it lets somebody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Nothing more.
    Ok,
    /// The password as it is.
    CleartextPassword,
    /// A SASL exchange with one of these mechanisms.
    Sasl(Vec<&'a [u8]>),
    /// The next message of the exchange.
    SaslContinue(&'a [u8]),
    /// The last message of the exchange.
    SaslFinal(&'a [u8]),
    /// Another method, by its number: MD5, GSSAPI and what may come.
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Reads the body of the message.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn from_body(body: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        match cursor.u32()? {
            0 => cursor.end().map(|()| Self::Ok),
            3 => cursor.end().map(|()| Self::CleartextPassword),
            10 => {
                let mut mechanisms = Vec::new();
                loop {
                    match cursor.text()? {
                        [] => break,
                        mechanism => mechanisms.push(mechanism),
                    }
                }
                cursor.end()?;
                Ok(Self::Sasl(mechanisms))
            }
            11 => Ok(Self::SaslContinue(cursor.rest())),
            12 => Ok(Self::SaslFinal(cursor.rest())),
            other => Ok(Self::Other(other)),
        }
    }

    /// Writes the message. [`Authentication::Other`] is never written: the
    /// front does not ask for such a method.
    pub fn put(&self, out: &mut BytesMut) {
        message(out, tag::AUTHENTICATION, |out| match self {
            Self::Ok => out.put_u32(0),
            Self::CleartextPassword => out.put_u32(3),
            Self::Sasl(mechanisms) => {
                out.put_u32(10);
                for mechanism in mechanisms {
                    out.put_slice(mechanism);
                    out.put_u8(0);
                }
                out.put_u8(0);
            }
            Self::SaslContinue(data) => {
                out.put_u32(11);
                out.put_slice(data);
            }
            Self::SaslFinal(data) => {
                out.put_u32(12);
                out.put_slice(data);
            }
            Self::Other(number) => out.put_u32(*number),
        });
    }
}

/// The SQLSTATE and the message of an `ErrorResponse`.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parse_error(body: &[u8]) -> Result<(String, String), WireError> {
    fields::parse(body)
}

/// The fields of an `ErrorResponse`, each with its type, in their order.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn error_fields(body: &[u8]) -> Result<Vec<(u8, &[u8])>, WireError> {
    fields::all(body)
}

/// Writes an `ErrorResponse` of such fields, none of which holds a zero byte.
pub fn put_error_fields(out: &mut BytesMut, fields: &[(u8, &[u8])]) {
    message(out, tag::ERROR_RESPONSE, |out| {
        for (tag, value) in fields {
            out.put_u8(*tag);
            out.put_slice(value);
            out.put_u8(0);
        }
        out.put_u8(0);
    });
}

/// The key of a `BackendKeyData`.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parse_backend_key_data(body: &[u8]) -> Result<CancelKey, WireError> {
    let mut cursor = Cursor::new(body);
    let process_id = cursor.u32()?;
    Ok(CancelKey { process_id, secret: CancelSecret::new(cursor.rest())? })
}

/// The name and the value of a `ParameterStatus`.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parse_parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let mut cursor = Cursor::new(body);
    let parameter = (cursor.text()?, cursor.text()?);
    cursor.end()?;
    Ok(parameter)
}

/// A `NotificationResponse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification<'a> {
    /// Of the session that has notified.
    pub process_id: u32,
    /// The channel's name.
    pub channel: &'a [u8],
    /// What was said.
    pub payload: &'a [u8],
}

impl<'a> Notification<'a> {
    /// Reads a message's body.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn from_body(body: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        let notification =
            Self { process_id: cursor.u32()?, channel: cursor.text()?, payload: cursor.text()? };
        cursor.end()?;
        Ok(notification)
    }

    /// Writes it. Texts are written up to a zero byte, of which what was read
    /// has none.
    pub fn put(&self, out: &mut BytesMut) {
        message(out, tag::NOTIFICATION_RESPONSE, |out| {
            out.put_u32(self.process_id);
            for text in [self.channel, self.payload] {
                out.extend(text.iter().take_while(|byte| **byte != 0));
                out.put_u8(0);
            }
        });
    }
}

/// The status of a `ReadyForQuery`.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parse_ready_for_query(body: &[u8]) -> Result<TransactionStatus, WireError> {
    match body {
        [letter] => TransactionStatus::from_letter(*letter),
        _ => Err(WireError::Malformed("ReadyForQuery has one byte")),
    }
}

/// Writes a `ParameterStatus`.
pub fn put_parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    message(out, tag::PARAMETER_STATUS, |out| {
        own_text(out, name);
        own_text(out, value);
    });
}

/// Writes a `BackendKeyData`.
pub fn put_backend_key_data(out: &mut BytesMut, key: &CancelKey) {
    message(out, tag::BACKEND_KEY_DATA, |out| {
        out.put_u32(key.process_id);
        out.put_slice(key.secret.as_bytes());
    });
}

/// Writes a `ReadyForQuery`.
pub fn put_ready_for_query(out: &mut BytesMut, status: TransactionStatus) {
    message(out, tag::READY_FOR_QUERY, |out| out.put_u8(status.letter()));
}

/// Writes an `ErrorResponse`.
pub fn put_error(out: &mut BytesMut, fields: &ErrorFields) {
    message(out, tag::ERROR_RESPONSE, |out| fields.put(out));
}

/// Writes an `ErrorResponse` with the body of one that was read.
pub fn put_error_body(out: &mut BytesMut, body: &[u8]) {
    message(out, tag::ERROR_RESPONSE, |out| out.put_slice(body));
}

/// Writes a `NoticeResponse`.
pub fn put_notice(out: &mut BytesMut, fields: &ErrorFields) {
    message(out, tag::NOTICE_RESPONSE, |out| fields.put(out));
}

/// Writes a `NegotiateProtocolVersion`: the minor version that is spoken, and
/// the options of the protocol that were not understood, without zero bytes.
pub fn put_negotiate_protocol_version(out: &mut BytesMut, minor_version: u16, options: &[&[u8]]) {
    message(out, tag::NEGOTIATE_PROTOCOL_VERSION, |out| {
        // The whole version, as PostgreSQL writes it: the major one in the upper half.
        out.put_u32((3 << 16) | u32::from(minor_version));
        out.put_u32(u32::try_from(options.len()).unwrap_or(u32::MAX));
        options.iter().for_each(|option| text(out, option));
    });
}

/// The minor version of a `NegotiateProtocolVersion`, and how many options of
/// the protocol were not understood.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parse_negotiate_protocol_version(body: &[u8]) -> Result<(u16, usize), WireError> {
    let mut cursor = Cursor::new(body);
    let [_, major, minor @ ..] = cursor.u32()?.to_be_bytes();
    if major != 3 {
        return Err(WireError::Malformed("another major version is no answer"));
    }
    let count = usize::try_from(cursor.i32()?).map_err(|_| WireError::Malformed("a count is negative"))?;
    for _ in 0..count {
        cursor.text()?;
    }
    cursor.end()?;
    Ok((u16::from_be_bytes(minor), count))
}

/// Writes a `RowDescription` of columns of the type `text`.
pub fn put_text_row_description(out: &mut BytesMut, columns: &[&str]) {
    message(out, tag::ROW_DESCRIPTION, |out| {
        out.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
        for column in columns {
            own_text(out, column);
            out.put_u32(0); // no table
            out.put_u16(0); // no column of a table
            out.put_u32(TEXT_OID);
            out.put_i16(-1); // of variable length
            out.put_i32(-1); // without a modifier
            out.put_u16(0); // in text format
        }
    });
}

/// A column of a `RowDescription`, without where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The object identifier of its type.
    pub type_oid: u32,
    /// What its type is modified by; -1 is nothing.
    pub modifier: i32,
}

/// The columns of a `RowDescription`.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parse_row_description(body: &[u8]) -> Result<Vec<Column<'_>>, WireError> {
    let mut cursor = Cursor::new(body);
    let count = usize::try_from(cursor.i16()?).map_err(|_| WireError::Malformed("a count is negative"))?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let name = cursor.text()?;
        cursor.take(4 + 2)?; // the table and its column
        let type_oid = cursor.u32()?;
        cursor.take(2)?; // the length of values
        let modifier = cursor.i32()?;
        cursor.take(2)?; // the format
        columns.push(Column { name, type_oid, modifier });
    }
    cursor.end()?;
    Ok(columns)
}

/// Writes a `DataRow`; `None` is SQL's null.
pub fn put_data_row(out: &mut BytesMut, values: &[Option<&[u8]>]) {
    message(out, tag::DATA_ROW, |out| {
        out.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
        for value in values {
            match value {
                None => out.put_i32(-1),
                Some(value) => {
                    out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
                    out.put_slice(value);
                }
            }
        }
    });
}

/// The columns of a `DataRow`; `None` is SQL's null.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parse_data_row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, WireError> {
    let mut cursor = Cursor::new(body);
    let count = usize::try_from(cursor.i16()?).map_err(|_| WireError::Malformed("a count is negative"))?;
    let mut columns = Vec::new();
    for _ in 0..count {
        columns.push(match usize::try_from(cursor.i32()?) {
            Ok(length) => Some(cursor.take(length)?),
            Err(_) => None,
        });
    }
    cursor.end()?;
    Ok(columns)
}

/// The command of a `CommandComplete`.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn parse_command_complete(body: &[u8]) -> Result<&[u8], WireError> {
    let mut cursor = Cursor::new(body);
    let command = cursor.text()?;
    cursor.end()?;
    Ok(command)
}

/// Writes a `ParseComplete`.
pub fn put_parse_complete(out: &mut BytesMut) {
    message(out, tag::PARSE_COMPLETE, |_| ());
}

/// Writes a `CommandComplete`.
pub fn put_command_complete(out: &mut BytesMut, command: &str) {
    message(out, tag::COMMAND_COMPLETE, |out| own_text(out, command));
}

#[cfg(test)]
mod tests;
