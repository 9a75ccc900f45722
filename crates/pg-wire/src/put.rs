//! Writes messages: the type, the length that is known only at the end, the
//! body.

use bytes::{BufMut, BytesMut};

use crate::error::NulInText;

/// Writes one typed message; its length is filled in afterwards.
pub(crate) fn message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    with_length(out, body);
}

/// Writes a body with its length, which counts itself, before it.
pub(crate) fn with_length(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Writes a text and its zero byte. Zero bytes within the text would end it
/// early and are left out: only for texts of our own making.
pub(crate) fn own_text(out: &mut BytesMut, text: &str) {
    out.extend(text.bytes().filter(|byte| *byte != 0));
    out.put_u8(0);
}

/// A text that may come from outside, checked before anything is written.
pub(crate) fn checked(text: &[u8]) -> Result<&[u8], NulInText> {
    if text.contains(&0) { Err(NulInText) } else { Ok(text) }
}

/// Writes a checked text and its zero byte.
pub(crate) fn text(out: &mut BytesMut, text: &[u8]) {
    out.put_slice(text);
    out.put_u8(0);
}
