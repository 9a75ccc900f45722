//! The messages that an applier writes by itself. Source: PostgreSQL's manual,
//! "Message Formats".

use bytes::{BufMut, BytesMut};

/// A statement that is prepared under a name, or under none.
pub(super) fn put_parse(out: &mut BytesMut, name: &str, sql: &str) {
    put_message(out, b'P', |out| {
        put_text(out, name);
        put_text(out, sql);
        out.put_u16(0); // the server finds the parameters' types
    });
}

/// A text without zero bytes: names of PostgreSQL have none.
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

/// A message; its values together are shorter than 1 GiB, as the server has
/// sent them.
pub(super) fn put_message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}
