//! The fields of `ErrorResponse` and `NoticeResponse`.

use bytes::{BufMut, BytesMut};

use crate::cursor::Cursor;
use crate::error::WireError;
use crate::put::own_text;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The connection ends.
    Fatal,
    /// The statement ends.
    Error,
    /// Nothing ends.
    Notice,
}

impl Severity {
    /// The word in the protocol.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fatal => "FATAL",
            Self::Error => "ERROR",
            Self::Notice => "NOTICE",
        }
    }
}

/// What an error tells the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFields {
    /// How bad it is (fields `S` and `V`).
    pub severity: Severity,
    /// The SQLSTATE, five characters (field `C`).
    pub sqlstate: &'static str,
    /// One sentence (field `M`).
    pub message: String,
    /// More sentences (field `D`).
    pub detail: Option<String>,
    /// What may be done (field `H`).
    pub hint: Option<String>,
}

impl ErrorFields {
    pub(crate) fn put(&self, out: &mut BytesMut) {
        let mut field = |tag: u8, text: &str| {
            out.put_u8(tag);
            own_text(out, text);
        };
        field(b'S', self.severity.as_str());
        field(b'V', self.severity.as_str());
        field(b'C', self.sqlstate);
        field(b'M', &self.message);
        if let Some(detail) = &self.detail {
            field(b'D', detail);
        }
        if let Some(hint) = &self.hint {
            field(b'H', hint);
        }
        out.put_u8(0);
    }
}

/// The fields of an `ErrorResponse` that a server sent, in their order.
pub(crate) fn all(body: &[u8]) -> Result<Vec<(u8, &[u8])>, WireError> {
    let mut all = Vec::new();
    let mut cursor = Cursor::new(body);
    loop {
        match cursor.u8()? {
            0 => return Ok(all),
            tag => all.push((tag, cursor.text()?)),
        }
    }
}

/// The fields of an `ErrorResponse` that a server sent, as far as they are
/// wanted: the SQLSTATE and the message, made readable.
pub(crate) fn parse(body: &[u8]) -> Result<(String, String), WireError> {
    let (mut sqlstate, mut message) = (String::new(), String::new());
    let mut cursor = Cursor::new(body);
    loop {
        match cursor.u8()? {
            0 => return Ok((sqlstate, message)),
            b'C' => sqlstate = String::from_utf8_lossy(cursor.text()?).into_owned(),
            b'M' => message = String::from_utf8_lossy(cursor.text()?).into_owned(),
            _ => {
                cursor.text()?;
            }
        }
    }
}
