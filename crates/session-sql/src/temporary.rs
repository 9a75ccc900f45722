//! Where `TEMP` makes something temporary: behind `CREATE`, and behind the
//! `INTO` of a `SELECT`. The table of an `INSERT INTO` may be called so.

use insula_sql_lexer::{Token, Word};

/// What the last token was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// There was none in this statement.
    Nothing,
    /// `CREATE`, `CREATE OR REPLACE`, `LOCAL`, `GLOBAL`.
    Making,
    /// `INSERT` or `MERGE` where a statement begins with it.
    Verb,
    /// The same behind a parenthesis, where it may be a column's name.
    MaybeVerb,
    /// The `INTO` behind a verb.
    IntoTable,
    /// The one behind what may be a verb.
    MaybeIntoTable,
    /// That of a `SELECT`.
    IntoNew,
    Open,
    Close,
    Other,
}

impl Before {
    /// What the next token is, and whether it makes something temporary. In a
    /// body statements begin anywhere.
    pub fn next(self, token: &Token, in_body: bool) -> (Self, bool) {
        let word = match token {
            Token::Word(word) => word,
            Token::Symbol(b'(') => return (Self::Open, false),
            Token::Symbol(b')') => return (Self::Close, false),
            _ => return (Self::Other, false),
        };
        let next = match word.as_bytes() {
            Some(b"create" | b"replace" | b"local" | b"global") => Self::Making,
            Some(b"insert" | b"merge") => match self {
                Self::Nothing | Self::Open => Self::Verb,
                Self::Close => Self::MaybeVerb,
                _ if in_body => Self::Verb,
                _ => Self::Other,
            },
            Some(b"into") => match self {
                Self::Verb => Self::IntoTable,
                Self::MaybeVerb => Self::MaybeIntoTable,
                _ => Self::IntoNew,
            },
            _ => Self::Other,
        };
        (next, self.allows_temporary() && is_temporary(word))
    }

    const fn allows_temporary(self) -> bool {
        matches!(self, Self::Making | Self::IntoNew | Self::MaybeIntoTable)
    }
}

fn is_temporary(word: &Word) -> bool {
    word.is("temp") || word.is("temporary")
}
