//! What a statement begins with.

/// Tokens of a statement that are kept, from its beginning.
const TOKENS_MAX: usize = 5;

/// Bytes of a word that are kept: the longest keyword of PostgreSQL has 17, and
/// the longest of its functions that leave something in a session 27.
pub(crate) const WORD_BYTES_MAX: usize = 28;

/// A keyword, or a name without quotes, in small letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    bytes: [u8; WORD_BYTES_MAX],
    /// One more than there is room for where the word is longer.
    length: u8,
}

impl Word {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; WORD_BYTES_MAX], length: 0 }
    }

    pub(crate) fn push(&mut self, byte: u8) {
        let length = usize::from(self.length);
        if length < WORD_BYTES_MAX {
            self.bytes[length] = byte.to_ascii_lowercase();
            self.length += 1;
        } else {
            // All long words are the same, so that readings of them are.
            *self = Self { bytes: [0; WORD_BYTES_MAX], length: self.length.max(WORD_BYTES_MAX as u8 + 1) };
        }
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().take(WORD_BYTES_MAX + 1) {
            self.push(*byte);
        }
    }

    /// Whether it is this word, given in small letters.
    #[must_use]
    pub fn is(&self, word: &str) -> bool {
        self.bytes.get(..usize::from(self.length)) == Some(word.as_bytes())
    }

    /// The word in small letters; `None` where it is longer than 28 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        self.bytes.get(..usize::from(self.length))
    }
}

/// A token, as far as it tells what a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// A keyword, or a name without quotes.
    Word(Word),
    /// A name in quotes.
    QuotedName,
    /// A name in quotes that may have characters by their numbers: `U&"…"`.
    EscapedName,
    /// A string of any kind.
    Literal,
    /// A number, or a parameter's.
    Number,
    /// One character of anything else.
    Symbol(u8),
}

/// The first tokens of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    tokens: [Token; TOKENS_MAX],
    length: u8,
}

impl Head {
    pub(crate) const fn new() -> Self {
        Self { tokens: [Token::Number; TOKENS_MAX], length: 0 }
    }

    /// Whether there is no room for another.
    pub(crate) fn is_full(&self) -> bool {
        usize::from(self.length) == TOKENS_MAX
    }

    pub(crate) fn push(&mut self, token: Token) {
        if !self.is_full() {
            self.tokens[usize::from(self.length)] = token;
            self.length += 1;
        }
    }

    /// The first tokens of the statement, five at the most.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.tokens[..usize::from(self.length)]
    }

    /// Whether the statement begins with these words, which are given in small
    /// letters with one space between two.
    #[must_use]
    pub fn begins_with(&self, words: &str) -> bool {
        let mut tokens = self.tokens().iter();
        words.split(' ').all(|word| matches!(tokens.next(), Some(Token::Word(found)) if found.is(word)))
    }
}
