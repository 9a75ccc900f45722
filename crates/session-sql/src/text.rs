//! Reads names and strings in a text that is held, from the places that the
//! lexer tells.

use std::borrow::Cow;

use memchr::{memchr, memmem};

/// Bytes of a name; PostgreSQL cuts longer ones.
const NAME_BYTES_MAX: usize = 63;

/// The character of SHIFT_JIS_2004 that is converted to a backslash.
const BACKSLASH: &[u8] = b"\x81\x5f";

const fn continues_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Where the word begins that ends before `end`.
pub(crate) fn word_start(text: &[u8], end: usize) -> usize {
    let before = text.get(..end).unwrap_or_default();
    end - before.iter().rev().take_while(|byte| continues_word(**byte)).count()
}

/// The place behind the closing quote of the name that begins at `start`, just
/// behind its opening quote.
pub(crate) fn quoted_end(text: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(offset) = text.get(at..).and_then(|rest| memchr(b'"', rest)) {
        at += offset + 1;
        if text.get(at) != Some(&b'"') {
            return at;
        }
        at += 1;
    }
    text.len()
}

/// The content of a name in quotes that begins at `start`; none where a quote
/// is in it.
pub(crate) fn quoted(text: &[u8], start: usize) -> Option<&[u8]> {
    let rest = text.get(start..)?;
    let end = memchr(b'"', rest)?;
    (rest.get(end + 1) != Some(&b'"')).then_some(&rest[..end])
}

/// What a name is to PostgreSQL that is written so, with its quotes if it has
/// some. None for names that it would cut, and what is none.
pub(crate) fn identifier(written: &[u8]) -> Option<Vec<u8>> {
    let name = match written {
        [b'"', inner @ .., b'"'] => {
            let mut name = Vec::with_capacity(inner.len());
            let mut bytes = inner.iter();
            while let Some(byte) = bytes.next() {
                name.push(*byte);
                if *byte == b'"' {
                    bytes.next();
                }
            }
            name
        }
        _ => written.to_ascii_lowercase(),
    };
    (1..=NAME_BYTES_MAX).contains(&name.len()).then_some(name)
}

/// The name of a custom setting that is written so, parts and dots and quotes;
/// none where it is not plainly so.
pub(crate) fn custom_setting(written: &[u8]) -> Option<String> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.' | b'"');
    if !written.iter().all(is_plain) || memmem::find(written, b"\"\"").is_some() {
        return None;
    }
    let name: Vec<u8> = written.iter().filter(|byte| **byte != b'"').map(u8::to_ascii_lowercase).collect();
    let has_cut = name.split(|byte| *byte == b'.').any(|part| part.len() > NAME_BYTES_MAX);
    if has_cut { None } else { String::from_utf8(name).ok() }
}

/// The content of the string that begins at `start`, just behind its opening
/// quote or dollar. None where that depends on something: backslashes, numbers
/// of characters, or a string that goes on in another line.
pub(crate) fn string(text: &[u8], start: usize) -> Option<Cow<'_, [u8]>> {
    match text.get(start.checked_sub(1)?)? {
        b'$' => dollar_quoted(text, start),
        b'\'' if text.get(start.wrapping_sub(2)) == Some(&b'&') => None,
        b'\'' => single_quoted(text.get(start..)?),
        _ => None,
    }
}

fn dollar_quoted(text: &[u8], start: usize) -> Option<Cow<'_, [u8]>> {
    let tag_start = text[..start - 1].iter().rposition(|byte| *byte == b'$')?;
    let rest = &text[start..];
    let end = memmem::find(rest, &text[tag_start..start])?;
    Some(Cow::Borrowed(&rest[..end]))
}

fn single_quoted(rest: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut content = Cow::Borrowed(&rest[..0]);
    let mut at = 0;
    loop {
        let piece = &rest[at..at + memchr(b'\'', &rest[at..])?];
        if memchr(b'\\', piece).is_some() || memmem::find(piece, BACKSLASH).is_some() {
            return None;
        }
        at += piece.len() + 1;
        if content.is_empty() {
            content = Cow::Borrowed(piece);
        } else {
            content.to_mut().extend_from_slice(piece);
        }
        if rest.get(at) != Some(&b'\'') {
            break;
        }
        content.to_mut().push(b'\'');
        at += 1;
    }
    // Behind a new line a quote takes the string up again, also after a comment.
    let next = rest[at..].iter().find(|byte| !byte.is_ascii_whitespace() && **byte != 0x0b);
    (!matches!(next, Some(b'\'' | b'-'))).then_some(content)
}
