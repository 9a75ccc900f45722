//! Classes of bytes (`scan.l`).

/// White space. The vertical tab is one since PostgreSQL 16; before that a text
/// with one outside of quotations is refused.
pub(crate) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

pub(crate) const fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// A name, a keyword or a dollar quote's tag may begin with it.
pub(crate) const fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// A tag or a number may go on with it.
pub(crate) const fn continues_tag(byte: u8) -> bool {
    begins_word(byte) || byte.is_ascii_digit()
}

/// A name or a keyword may go on with it.
pub(crate) const fn continues_word(byte: u8) -> bool {
    continues_tag(byte) || byte == b'$'
}

/// In SJIS, BIG5, GBK, UHC, GB18030 and SHIFT_JIS_2004 it may be the second
/// byte of a character whose first is `before`. Quotes, dollars, semicolons,
/// dashes, slashes, stars and digits never are, but for digits in the
/// characters of four bytes, where they change nothing.
pub(crate) const fn may_be_second(before: u8, byte: u8) -> bool {
    before >= 0x80 && 0x40 <= byte && byte <= 0x7e
}

/// The first byte of the one character of more than one byte that is converted
/// to an ASCII character that matters: SHIFT_JIS_2004's 0x815F is a backslash.
pub(crate) const BACKSLASH_FIRST: u8 = 0x81;
/// Its second byte.
pub(crate) const BACKSLASH_SECOND: u8 = b'_';
