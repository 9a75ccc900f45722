//! One way of reading a text: where it stands, and what it has found.

use memchr::{memchr, memchr2, memchr3};

use crate::class::{
    BACKSLASH_FIRST, BACKSLASH_SECOND, begins_word, continues_tag, continues_word, is_newline, is_space,
    may_be_second,
};
use crate::follow::Follow;
use crate::token::{Token, Word};

/// Bytes of a dollar quote's tag.
const TAG_BYTES_MAX: usize = 64;

/// Kinds of quotation between single quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `'…'` and `N'…'`: the setting says what a backslash is.
    Plain,
    /// `E'…'`: a backslash protects what follows.
    Escape,
    /// `U&'…'`: a backslash protects nothing from the quotation's end.
    Unicode,
    /// `B'…'` and `X'…'`: neither does a doubled quote.
    Bits,
}

/// What stands between the end of a string and what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    Nothing,
    Space,
    /// A quote behind it takes the string up again.
    Newline,
}

/// How far a number has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figures {
    /// A zero, behind which an `x` may come.
    Zero,
    Whole,
    /// Just behind the point.
    Point,
    Fraction,
    /// Just behind the `e`.
    Exponent,
    /// Nothing but letters and figures can follow.
    Rest,
    /// That of a parameter.
    Parameter,
}

/// The tag of a dollar quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag {
    bytes: [u8; TAG_BYTES_MAX],
    length: u8,
}

impl Tag {
    const EMPTY: Self = Self { bytes: [0; TAG_BYTES_MAX], length: 0 };

    fn push(&mut self, byte: u8) -> bool {
        let Some(place) = self.bytes.get_mut(usize::from(self.length)) else { return false };
        *place = byte;
        self.length += 1;
        true
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Where a reading stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Word(Word),
    /// Behind `u&`, before what may be a quote.
    UnicodePrefix,
    Number(Figures),
    /// Behind a `$` that may begin a dollar quote.
    Dollar(Tag),
    Dash,
    Slash,
    Dot,
    Quoted(Kind),
    /// Behind a byte that may begin a character which is a backslash.
    QuotedFirst(Kind),
    Escaped(Kind),
    QuoteEnd(Kind, Gap),
    QuoteEndDash(Kind, Gap),
    QuoteEndComment(Kind),
    QuotedName,
    QuotedNameEnd,
    LineComment,
    /// With its depth, and the last byte where it may be half of a bound.
    Comment(u32, u8),
    /// With how many bytes of the end have come.
    DollarQuoted(Tag, u8),
}

/// What a step has come to: how far.
pub(crate) enum Step<C> {
    On(usize),
    /// There is another way of reading from here.
    Fork(usize, usize, Box<Reading<C>>),
    /// It cannot be said how a server would go on.
    Unclear,
}

/// Who is told of the tokens.
pub(crate) struct Ears<'f, F> {
    pub follower: &'f mut F,
    /// Bytes of the text before the piece.
    pub before: usize,
}

/// One way of reading a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading<C> {
    state: State,
    course: C,
    /// What `standard_conforming_strings` is in this reading, where it has
    /// mattered already.
    conforming: Option<bool>,
    /// Characters of more than one byte may have ASCII bytes in them.
    any_encoding: bool,
}

impl<C: Copy + PartialEq> Reading<C> {
    pub fn new(course: C) -> Self {
        Self { state: State::Between, course, conforming: None, any_encoding: true }
    }

    #[cfg(test)]
    pub fn by_default(course: C) -> Self {
        Self { conforming: Some(true), any_encoding: false, ..Self::new(course) }
    }

    /// What has become of it, at the end of the text. A text that ends within a
    /// quotation or a comment is refused by the server as a whole.
    pub fn finish(mut self, ears: &mut Ears<'_, impl Follow<Course = C>>) -> Option<C> {
        match self.state {
            State::Quoted(_)
            | State::QuotedFirst(_)
            | State::Escaped(_)
            | State::QuotedName
            | State::Comment(..)
            | State::DollarQuoted(..) => return None,
            State::Word(word) => self.token(Token::Word(word), 0, ears),
            State::Dollar(tag) => {
                self.not_a_tag(tag, 0, ears);
                if let State::Word(word) = self.state {
                    self.token(Token::Word(word), 0, ears);
                }
            }
            State::UnicodePrefix => {
                self.unicode_prefix(b' ', 0, ears);
            }
            State::Dash | State::QuoteEndDash(..) => self.token(Token::Symbol(b'-'), 0, ears),
            State::Slash => self.token(Token::Symbol(b'/'), 0, ears),
            State::Dot => self.token(Token::Symbol(b'.'), 0, ears),
            _ => {}
        }
        self.end_statement(0, ears);
        Some(self.course)
    }

    fn token(&mut self, token: Token, at: usize, ears: &mut Ears<'_, impl Follow<Course = C>>) {
        ears.follower.token(&mut self.course, &token, ears.before + at);
    }

    fn end_statement(&mut self, at: usize, ears: &mut Ears<'_, impl Follow<Course = C>>) {
        ears.follower.end_statement(&mut self.course, ears.before + at);
    }

    /// Goes on from `at`, which is within the piece, by at least one byte or
    /// one state; `before` is the byte before it.
    pub fn step(
        &mut self,
        piece: &[u8],
        at: usize,
        before: u8,
        ears: &mut Ears<'_, impl Follow<Course = C>>,
    ) -> Step<C> {
        let byte = piece[at];
        match self.state {
            State::Between => self.between(piece, at, ears),
            State::Word(word) => self.word(word, piece, at, before, ears),
            State::UnicodePrefix => self.unicode_prefix(byte, at, ears),
            State::Number(figures) => self.number(figures, byte, at, ears),
            State::Dollar(tag) => self.dollar(tag, byte, at, before, ears),
            State::Dash if byte == b'-' => self.on(State::LineComment, at + 1),
            State::Dash => self.symbol(b'-', at, ears),
            State::Slash if byte == b'*' => self.on(State::Comment(1, 0), at + 1),
            State::Slash => self.symbol(b'/', at, ears),
            State::Dot => self.dot(byte, at, ears),
            State::Quoted(kind) => self.quoted(kind, piece, at, before),
            State::QuotedFirst(kind) if byte == BACKSLASH_SECOND => self.backslash(kind, at, before),
            State::QuotedFirst(kind) => self.on(State::Quoted(kind), at),
            State::Escaped(kind) => self.on(State::Quoted(kind), at + 1),
            State::QuoteEnd(kind, gap) => self.quote_end(kind, gap, byte, at, ears),
            State::QuoteEndDash(kind, _) if byte == b'-' => self.on(State::QuoteEndComment(kind), at + 1),
            State::QuoteEndDash(..) => self.on(State::Dash, at),
            State::QuoteEndComment(kind) => match memchr2(b'\n', b'\r', &piece[at..]) {
                Some(offset) => self.on(State::QuoteEnd(kind, Gap::Newline), at + offset + 1),
                None => Step::On(piece.len()),
            },
            State::QuotedName => match memchr(b'"', &piece[at..]) {
                Some(offset) => self.on(State::QuotedNameEnd, at + offset + 1),
                None => Step::On(piece.len()),
            },
            State::QuotedNameEnd if byte == b'"' => self.on(State::QuotedName, at + 1),
            State::QuotedNameEnd => self.on(State::Between, at),
            State::LineComment => match memchr2(b'\n', b'\r', &piece[at..]) {
                Some(offset) => self.on(State::Between, at + offset + 1),
                None => Step::On(piece.len()),
            },
            State::Comment(depth, half) => self.comment(depth, half, piece, at),
            State::DollarQuoted(tag, matched) => self.dollar_quoted(tag, matched, piece, at),
        }
    }

    fn on(&mut self, state: State, at: usize) -> Step<C> {
        self.state = state;
        Step::On(at)
    }

    fn symbol(&mut self, symbol: u8, at: usize, ears: &mut Ears<'_, impl Follow<Course = C>>) -> Step<C> {
        self.token(Token::Symbol(symbol), at, ears);
        self.on(State::Between, at)
    }

    fn literal(&mut self, kind: Kind, at: usize, ears: &mut Ears<'_, impl Follow<Course = C>>) -> Step<C> {
        self.token(Token::Literal, at, ears);
        self.on(State::Quoted(kind), at)
    }

    fn between(&mut self, piece: &[u8], at: usize, ears: &mut Ears<'_, impl Follow<Course = C>>) -> Step<C> {
        let byte = piece[at];
        match byte {
            _ if is_space(byte) => {
                let spaces = piece[at..].iter().take_while(|byte| is_space(**byte)).count();
                Step::On(at + spaces)
            }
            b'\'' => self.literal(Kind::Plain, at + 1, ears),
            b'"' => {
                self.token(Token::QuotedName, at + 1, ears);
                self.on(State::QuotedName, at + 1)
            }
            b'$' => self.on(State::Dollar(Tag::EMPTY), at + 1),
            b'-' => self.on(State::Dash, at + 1),
            b'/' => self.on(State::Slash, at + 1),
            b'.' => self.on(State::Dot, at + 1),
            b';' => {
                self.end_statement(at, ears);
                Step::On(at + 1)
            }
            b'0'..=b'9' => {
                self.token(Token::Number, at + 1, ears);
                let figures = if byte == b'0' { Figures::Zero } else { Figures::Whole };
                self.on(State::Number(figures), at + 1)
            }
            _ if begins_word(byte) => self.on(State::Word(Word::new()), at),
            _ => self.symbol(byte, at + 1, ears),
        }
    }

    fn word(
        &mut self,
        mut word: Word,
        piece: &[u8],
        at: usize,
        before: u8,
        ears: &mut Ears<'_, impl Follow<Course = C>>,
    ) -> Step<C> {
        let (mut end, mut last) = (at, before);
        let may_be_backslash =
            |last, byte| self.any_encoding && last == BACKSLASH_FIRST && byte == BACKSLASH_SECOND;
        while let Some(&byte) = piece.get(end)
            && continues_word(byte)
            && !may_be_backslash(last, byte)
        {
            (end, last) = (end + 1, byte);
        }
        word.extend(&piece[at..end]);
        let Some(&byte) = piece.get(end) else { return self.on(State::Word(word), end) };
        if self.any_encoding && may_be_second(last, byte) {
            // Either the word goes on, or this is a symbol of its own.
            let mut other = *self;
            other.token(Token::Word(word), end, ears);
            other.token(Token::Symbol(byte), end + 1, ears);
            other.state = State::Between;
            word.push(byte);
            self.state = State::Word(word);
            return Step::Fork(end + 1, end + 1, Box::new(other));
        }
        let prefix = match byte {
            b'\'' if word.is("e") => Some(Kind::Escape),
            b'\'' if word.is("b") || word.is("x") => Some(Kind::Bits),
            b'&' if word.is("u") => return self.on(State::UnicodePrefix, end + 1),
            _ => None,
        };
        if let Some(kind) = prefix {
            return self.literal(kind, end + 1, ears);
        }
        self.token(Token::Word(word), end, ears);
        self.on(State::Between, end)
    }

    fn unicode_prefix(
        &mut self,
        byte: u8,
        at: usize,
        ears: &mut Ears<'_, impl Follow<Course = C>>,
    ) -> Step<C> {
        match byte {
            b'\'' => self.literal(Kind::Unicode, at + 1, ears),
            b'"' => {
                self.token(Token::EscapedName, at + 1, ears);
                self.on(State::QuotedName, at + 1)
            }
            _ => {
                let mut word = Word::new();
                word.push(b'u');
                self.token(Token::Word(word), at, ears);
                self.symbol(b'&', at, ears)
            }
        }
    }

    fn number(
        &mut self,
        figures: Figures,
        byte: u8,
        at: usize,
        ears: &mut Ears<'_, impl Follow<Course = C>>,
    ) -> Step<C> {
        use Figures::{Exponent, Fraction, Parameter, Point, Rest, Whole, Zero};
        let next = match (figures, byte) {
            (Parameter, b'0'..=b'9') => Parameter,
            (Parameter, _) => return self.on(State::Between, at),
            (Zero, b'x' | b'X') => Rest,
            (Zero | Whole, b'0'..=b'9' | b'_') => Whole,
            (Zero | Whole, b'.') => Point,
            // Two points are an operator, which the number does not begin.
            (Point, b'.') => {
                self.token(Token::Symbol(b'.'), at, ears);
                return self.symbol(b'.', at + 1, ears);
            }
            (Point | Fraction, b'0'..=b'9' | b'_') => Fraction,
            (Zero | Whole | Point | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => Rest,
            (_, byte) if continues_tag(byte) => Rest,
            _ => return self.on(State::Between, at),
        };
        self.on(State::Number(next), at + 1)
    }

    fn dot(&mut self, byte: u8, at: usize, ears: &mut Ears<'_, impl Follow<Course = C>>) -> Step<C> {
        match byte {
            b'0'..=b'9' => {
                self.token(Token::Number, at + 1, ears);
                self.on(State::Number(Figures::Fraction), at + 1)
            }
            b'.' => {
                self.token(Token::Symbol(b'.'), at, ears);
                self.symbol(b'.', at + 1, ears)
            }
            _ => self.symbol(b'.', at, ears),
        }
    }

    fn dollar(
        &mut self,
        mut tag: Tag,
        byte: u8,
        at: usize,
        before: u8,
        ears: &mut Ears<'_, impl Follow<Course = C>>,
    ) -> Step<C> {
        let is_first = tag.length == 0;
        if byte == b'$' {
            // Encodings have two ways of writing some characters, so that it
            // cannot be said where a tag with such ones comes again.
            if !tag.as_bytes().is_ascii() {
                return Step::Unclear;
            }
            self.token(Token::Literal, at + 1, ears);
            return self.on(State::DollarQuoted(tag, 0), at + 1);
        }
        if is_first && byte.is_ascii_digit() {
            self.token(Token::Number, at + 1, ears);
            return self.on(State::Number(Figures::Parameter), at + 1);
        }
        let continues = if is_first { begins_word(byte) } else { continues_tag(byte) };
        let may_be_either = self.any_encoding
            && !is_first
            && may_be_second(before, byte)
            && (!continues || before == BACKSLASH_FIRST && byte == BACKSLASH_SECOND);
        if may_be_either {
            let mut other = *self;
            other.not_a_tag(tag, at, ears);
            if !tag.push(byte) {
                return Step::Unclear;
            }
            self.state = State::Dollar(tag);
            return Step::Fork(at + 1, at, Box::new(other));
        }
        if continues {
            if !tag.push(byte) {
                return Step::Unclear;
            }
            return self.on(State::Dollar(tag), at + 1);
        }
        self.not_a_tag(tag, at, ears);
        Step::On(at)
    }

    /// A dollar that begins no quotation is a symbol, and what follows a word.
    fn not_a_tag(&mut self, tag: Tag, at: usize, ears: &mut Ears<'_, impl Follow<Course = C>>) {
        self.token(Token::Symbol(b'$'), at, ears);
        let mut word = Word::new();
        word.extend(tag.as_bytes());
        self.state = if tag.length == 0 { State::Between } else { State::Word(word) };
    }

    fn quoted(&mut self, kind: Kind, piece: &[u8], at: usize, before: u8) -> Step<C> {
        let protects = match kind {
            Kind::Plain => self.conforming != Some(true),
            Kind::Escape => true,
            Kind::Unicode | Kind::Bits => false,
        };
        let rest = &piece[at..];
        let found = match (protects, self.any_encoding) {
            (false, _) => memchr(b'\'', rest),
            (true, false) => memchr2(b'\'', b'\\', rest),
            (true, true) => memchr3(b'\'', b'\\', BACKSLASH_FIRST, rest),
        };
        let Some(offset) = found else { return Step::On(piece.len()) };
        let place = at + offset;
        match piece[place] {
            b'\'' => self.on(State::QuoteEnd(kind, Gap::Nothing), place + 1),
            b'\\' => self.backslash(kind, place, if offset == 0 { before } else { piece[place - 1] }),
            _ => self.on(State::QuotedFirst(kind), place + 1),
        }
    }

    /// A byte at `at` that is, or may be, a backslash.
    fn backslash(&mut self, kind: Kind, at: usize, before: u8) -> Step<C> {
        let mut other = *self;
        if kind == Kind::Plain && self.conforming.is_none() {
            // The other one comes here again, knowing its setting.
            other.conforming = Some(false);
            self.conforming = Some(true);
            self.state = State::Quoted(kind);
            return Step::Fork(at + 1, at, Box::new(other));
        }
        if kind == Kind::Plain && self.conforming == Some(true) {
            return self.on(State::Quoted(kind), at + 1);
        }
        self.state = State::Escaped(kind);
        if !self.any_encoding || before < 0x80 {
            return Step::On(at + 1);
        }
        other.state = State::Quoted(kind);
        Step::Fork(at + 1, at + 1, Box::new(other))
    }

    fn quote_end(
        &mut self,
        kind: Kind,
        gap: Gap,
        byte: u8,
        at: usize,
        ears: &mut Ears<'_, impl Follow<Course = C>>,
    ) -> Step<C> {
        match (byte, gap) {
            (b'\'', Gap::Newline) => self.on(State::Quoted(kind), at + 1),
            (b'\'', Gap::Nothing) if kind != Kind::Bits => self.on(State::Quoted(kind), at + 1),
            (b'\'', _) => self.literal(Kind::Plain, at + 1, ears),
            (b'-', _) => self.on(State::QuoteEndDash(kind, gap), at + 1),
            _ if is_newline(byte) => self.on(State::QuoteEnd(kind, Gap::Newline), at + 1),
            _ if is_space(byte) => {
                let gap = if gap == Gap::Newline { gap } else { Gap::Space };
                self.on(State::QuoteEnd(kind, gap), at + 1)
            }
            _ => self.on(State::Between, at),
        }
    }

    fn comment(&mut self, depth: u32, half: u8, piece: &[u8], at: usize) -> Step<C> {
        if half == 0 {
            return match memchr2(b'*', b'/', &piece[at..]) {
                Some(offset) => self.on(State::Comment(depth, piece[at + offset]), at + offset + 1),
                None => Step::On(piece.len()),
            };
        }
        match (half, piece[at]) {
            (b'*', b'/') if depth == 1 => self.on(State::Between, at + 1),
            (b'*', b'/') => self.on(State::Comment(depth - 1, 0), at + 1),
            (b'/', b'*') => self.on(State::Comment(depth.saturating_add(1), 0), at + 1),
            (_, byte @ (b'*' | b'/')) => self.on(State::Comment(depth, byte), at + 1),
            _ => self.on(State::Comment(depth, 0), at + 1),
        }
    }

    /// The end is a dollar, the tag and a dollar, and no dollar is in the tag:
    /// where it breaks off, only that dollar can begin it anew.
    fn dollar_quoted(&mut self, tag: Tag, matched: u8, piece: &[u8], at: usize) -> Step<C> {
        if matched == 0 {
            return match memchr(b'$', &piece[at..]) {
                Some(offset) => self.on(State::DollarQuoted(tag, 1), at + offset + 1),
                None => Step::On(piece.len()),
            };
        }
        let wanted = tag.as_bytes().get(usize::from(matched) - 1).copied().unwrap_or(b'$');
        let byte = piece[at];
        let state = if byte == wanted {
            if matched == tag.length + 1 { State::Between } else { State::DollarQuoted(tag, matched + 1) }
        } else {
            State::DollarQuoted(tag, u8::from(byte == b'$'))
        };
        self.on(state, at + 1)
    }
}
