//! Cuts a text that is there as a whole into lexemes, as PostgreSQL's `scan.l`
//! does, for a server whose settings are known.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use crate::Settings;

/// Bytes of a name; the server cuts off what is longer.
const NAME_BYTES_MAX: usize = 63;

/// What a lexeme is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword, or a name without quotes.
    Word,
    /// A name in double quotes.
    QuotedName,
    /// A name in double quotes with escapes (`U&"…"`).
    EscapedName,
    /// A string, a number or a parameter.
    Value,
    /// One character of anything else.
    Symbol(u8),
}

/// A part of a text, from byte `start` to before byte `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lexeme {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

impl Lexeme {
    /// Whether it is this keyword, given in small letters.
    pub fn is_word(self, text: &[u8], word: &str) -> bool {
        self.kind == Kind::Word && text[self.start..self.end].eq_ignore_ascii_case(word.as_bytes())
    }

    pub fn is_symbol(self, symbol: u8) -> bool {
        self.kind == Kind::Symbol(symbol)
    }

    pub fn is_name(self) -> bool {
        matches!(self.kind, Kind::Word | Kind::QuotedName | Kind::EscapedName)
    }

    /// The name that it is for the server; `None` where it is none, or one of
    /// which that cannot be said simply.
    pub fn name(self, text: &[u8]) -> Option<Cow<'_, str>> {
        let bytes = &text[self.start..self.end];
        let name = match self.kind {
            Kind::Word => {
                let word = std::str::from_utf8(bytes).ok()?;
                let is_small = !word.bytes().any(|byte| byte.is_ascii_uppercase());
                if is_small { Cow::Borrowed(word) } else { Cow::Owned(word.to_ascii_lowercase()) }
            }
            Kind::QuotedName => {
                let name = std::str::from_utf8(bytes.get(1..bytes.len() - 1)?).ok()?;
                if name.contains('"') { Cow::Owned(name.replace("\"\"", "\"")) } else { Cow::Borrowed(name) }
            }
            _ => return None,
        };
        (name.len() <= NAME_BYTES_MAX).then_some(name)
    }
}

/// The lexemes of a text, without white space and comments.
#[derive(Debug, Clone)]
pub(crate) struct Lexemes<'a> {
    text: &'a [u8],
    at: usize,
    settings: Settings,
    is_broken: bool,
}

/// How a string ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backslash {
    Protects,
    IsItself,
}

impl<'a> Lexemes<'a> {
    pub fn new(text: &'a [u8], settings: Settings) -> Self {
        Self { text, at: 0, settings, is_broken: false }
    }

    /// The text ended within a quotation or a comment.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn byte(&self, offset: usize) -> Option<u8> {
        self.text.get(self.at + offset).copied()
    }

    fn broken(&mut self) -> Option<()> {
        self.is_broken = true;
        self.at = self.text.len();
        None
    }

    /// Skips white space and comments; `None` where a comment has no end.
    fn skip_gap(&mut self) -> Option<()> {
        loop {
            match (self.byte(0), self.byte(1)) {
                (Some(byte), _) if is_space(byte) => self.at += 1,
                (Some(b'-'), Some(b'-')) => self.skip_line(),
                (Some(b'/'), Some(b'*')) => self.skip_comment()?,
                _ => return Some(()),
            }
        }
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
    }

    fn skip_comment(&mut self) -> Option<()> {
        self.at += 2;
        let mut depth = 1_usize;
        while depth > 0 {
            let Some(offset) = memchr2(b'*', b'/', &self.text[self.at..]) else { return self.broken() };
            self.at += offset;
            match (self.byte(0), self.byte(1)) {
                (Some(b'*'), Some(b'/')) => (depth, self.at) = (depth - 1, self.at + 2),
                (Some(b'/'), Some(b'*')) => (depth, self.at) = (depth + 1, self.at + 2),
                _ => self.at += 1,
            }
        }
        Some(())
    }

    /// Goes to behind the quote that ends a name.
    fn quoted_name(&mut self) -> Option<()> {
        loop {
            let Some(offset) = memchr(b'"', &self.text[self.at..]) else { return self.broken() };
            self.at += offset + 1;
            if self.byte(0) != Some(b'"') {
                return Some(());
            }
            self.at += 1;
        }
    }

    /// Goes to behind the end of a string, from behind its first quote, with
    /// what continues it on a later line.
    fn string(&mut self, backslash: Backslash) -> Option<()> {
        loop {
            let rest = &self.text[self.at..];
            let found = match backslash {
                Backslash::Protects => memchr2(b'\'', b'\\', rest),
                Backslash::IsItself => memchr(b'\'', rest),
            };
            let Some(offset) = found else { return self.broken() };
            self.at += offset + 1;
            if rest[offset] == b'\\' {
                self.at = (self.at + 1).min(self.text.len());
            } else if self.byte(0) == Some(b'\'') {
                self.at += 1;
            } else if let Some(behind) = self.continuation() {
                self.at = behind;
            } else {
                return Some(());
            }
        }
    }

    /// Where the string that has just ended goes on: behind a quote that white
    /// space with a new line in it, or comments to the end of a line, precede.
    fn continuation(&self) -> Option<usize> {
        let mut ahead = self.clone();
        let mut is_later_line = false;
        loop {
            match (ahead.byte(0)?, ahead.byte(1)) {
                (byte, _) if is_space(byte) => {
                    is_later_line |= matches!(byte, b'\n' | b'\r');
                    ahead.at += 1;
                }
                (b'-', Some(b'-')) => ahead.skip_line(),
                (b'\'', _) if is_later_line => return Some(ahead.at + 1),
                _ => return None,
            }
        }
    }

    /// Goes to behind the end of a dollar quote that begins here, if one does.
    fn dollar_quoted(&mut self) -> Option<bool> {
        let rest = &self.text[self.at..];
        let tag = rest[1..].iter().take_while(|byte| continues_tag(**byte)).count();
        if rest.get(tag + 1) != Some(&b'$') || rest[1].is_ascii_digit() {
            return Some(false);
        }
        let bound = &rest[..tag + 2];
        self.at += bound.len();
        // The dollar that ends what is no bound may begin one.
        while let Some(offset) = memchr(b'$', &self.text[self.at..]) {
            self.at += offset;
            if self.text[self.at..].starts_with(bound) {
                self.at += bound.len();
                return Some(true);
            }
            self.at += 1;
        }
        self.broken().map(|()| true)
    }

    /// Goes to behind a number, with the letters that PostgreSQL refuses there.
    fn number(&mut self) {
        let (mut may_have_point, mut may_have_exponent) = (true, true);
        if self.byte(0) == Some(b'0') && matches!(self.byte(1), Some(b'x' | b'X')) {
            (may_have_point, may_have_exponent) = (false, false);
        }
        while let Some(byte) = self.byte(0) {
            let next = self.byte(1);
            match byte {
                b'.' if may_have_point && next != Some(b'.') => may_have_point = false,
                b'0'..=b'9' | b'_' => {}
                b'e' | b'E' if may_have_exponent => {
                    (may_have_point, may_have_exponent) = (false, false);
                    self.at += usize::from(matches!(next, Some(b'+' | b'-')));
                }
                _ if continues_tag(byte) => (may_have_point, may_have_exponent) = (false, false),
                _ => return,
            }
            self.at += 1;
        }
    }

    fn kind_of_next(&mut self, byte: u8) -> Option<Kind> {
        let plain = if self.settings.conforming { Backslash::IsItself } else { Backslash::Protects };
        let (second, third) = (self.byte(1), self.byte(2));
        match (byte, second, third) {
            (b'\'', ..) => self.quotation(1, plain),
            (b'e' | b'E', Some(b'\''), _) => self.quotation(2, Backslash::Protects),
            (b'b' | b'B' | b'x' | b'X', Some(b'\''), _) => self.quotation(2, Backslash::IsItself),
            (b'u' | b'U', Some(b'&'), Some(b'\'')) => self.quotation(3, Backslash::IsItself),
            (b'u' | b'U', Some(b'&'), Some(b'"')) => {
                self.at += 3;
                self.quoted_name().map(|()| Kind::EscapedName)
            }
            (b'"', ..) => {
                self.at += 1;
                self.quoted_name().map(|()| Kind::QuotedName)
            }
            (b'$', Some(b'0'..=b'9'), _) => {
                let digits = self.text[self.at + 1..].iter().take_while(|byte| byte.is_ascii_digit());
                self.at += 1 + digits.count();
                Some(Kind::Value)
            }
            (b'$', ..) if self.dollar_quoted()? => Some(Kind::Value),
            (b'0'..=b'9', ..) | (b'.', Some(b'0'..=b'9'), _) => {
                self.number();
                Some(Kind::Value)
            }
            _ if begins_word(byte) => {
                let rest = &self.text[self.at..];
                self.at += rest.iter().take_while(|byte| continues_tag(**byte) || **byte == b'$').count();
                Some(Kind::Word)
            }
            _ => {
                self.at += 1;
                Some(Kind::Symbol(byte))
            }
        }
    }

    fn quotation(&mut self, prefix: usize, backslash: Backslash) -> Option<Kind> {
        self.at += prefix;
        self.string(backslash).map(|()| Kind::Value)
    }
}

impl Iterator for Lexemes<'_> {
    type Item = Lexeme;

    fn next(&mut self) -> Option<Lexeme> {
        self.skip_gap()?;
        let start = self.at;
        let byte = self.byte(0)?;
        let kind = self.kind_of_next(byte)?;
        Some(Lexeme { kind, start, end: self.at })
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

const fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn continues_tag(byte: u8) -> bool {
    begins_word(byte) || byte.is_ascii_digit()
}
