//! A typed message as such: one byte of type, four of length, the body.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::WireError;
use crate::put::message;

/// The five bytes before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The type of the message.
    pub tag: u8,
    /// Bytes of the body, without the header.
    pub body_bytes: u32,
}

impl Header {
    /// Bytes of a header.
    pub const BYTES: usize = 5;

    /// Reads the header at the beginning of the bytes; `None` where they are
    /// too few.
    ///
    /// # Errors
    /// [`WireError::Length`] where the length is smaller than its own four
    /// bytes, or negative when read with a sign.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        const MAX: u32 = i32::MAX as u32;
        let [tag, a, b, c, d, ..] = *bytes else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]);
        if !(4..=MAX).contains(&length) {
            return Err(WireError::Length { length, min: 4, max: MAX });
        }
        Ok(Some(Self { tag, body_bytes: length - 4 }))
    }

    /// Bytes of the whole message.
    #[must_use]
    pub const fn message_bytes(self) -> usize {
        Self::BYTES + self.body_bytes as usize
    }
}

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The type of the message.
    pub tag: u8,
    /// The body.
    pub body: Bytes,
}

impl Message {
    /// Writes the message as it was read.
    pub fn put(&self, out: &mut BytesMut) {
        message(out, self.tag, |out| out.extend_from_slice(&self.body));
    }
}

/// Takes a whole message from the front of the buffer; `None` where more bytes
/// are needed. A message whose body would be longer than `body_bytes_max` is an
/// error as soon as its header is there.
///
/// # Errors
/// [`WireError::Length`].
pub fn read_message(buffer: &mut BytesMut, body_bytes_max: u32) -> Result<Option<Message>, WireError> {
    let Some(header) = Header::parse(buffer)? else { return Ok(None) };
    if header.body_bytes > body_bytes_max {
        let max = body_bytes_max.saturating_add(4);
        return Err(WireError::Length { length: header.body_bytes + 4, min: 4, max });
    }
    if buffer.len() < header.message_bytes() {
        buffer.reserve(header.message_bytes() - buffer.len());
        return Ok(None);
    }
    let mut message = buffer.split_to(header.message_bytes());
    message.advance(Header::BYTES);
    Ok(Some(Message { tag: header.tag, body: message.freeze() }))
}

/// What `ReadyForQuery` says of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: no transaction is open.
    Idle,
    /// `T`: one is open.
    InTransaction,
    /// `E`: one is open and has failed; it can only be rolled back.
    Failed,
}

impl TransactionStatus {
    /// The status of its letter.
    ///
    /// # Errors
    /// [`WireError::Malformed`] for another letter.
    pub fn from_letter(letter: u8) -> Result<Self, WireError> {
        match letter {
            b'I' => Ok(Self::Idle),
            b'T' => Ok(Self::InTransaction),
            b'E' => Ok(Self::Failed),
            _ => Err(WireError::Malformed("the transaction status is unknown")),
        }
    }

    /// The letter in the protocol.
    #[must_use]
    pub const fn letter(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}
