//! `INSERT … ON CONFLICT (columns) [WHERE …] DO …`: the index that it means has
//! the tenant's column too.
//!
//! `ON` is a reserved word and `CONFLICT` is none, so that `JOIN t ON
//! conflict(a) WHERE …` is a call of a function. What tells the two apart is
//! `DO`, which is reserved: it follows the list, or the condition behind it, and
//! nothing else that begins so.

use std::borrow::Cow;

use crate::TENANT_COLUMN;
use crate::edits::Edit;
use crate::lexemes::{Kind, Lexeme};

/// How much of it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Nothing,
    On,
    OnConflict,
    /// Within the list, which began at a depth.
    List(List),
    /// Behind it.
    Listed(List),
    /// Within the condition behind it.
    Condition(List),
    /// Behind `DO`.
    Do(List),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct List {
    /// Where its first element begins, once there is one.
    first: Option<usize>,
    /// Brackets that were open before it.
    depth: usize,
    names_tenant: bool,
}

/// Reads a text lexeme by lexeme.
#[derive(Debug, Default)]
pub(crate) struct Conflict {
    state: State,
    depth: usize,
    /// The lexeme before is a dot, behind which every word is a name.
    is_behind_dot: bool,
}

impl Conflict {
    /// Takes the next lexeme, and gives the change that is certain with it.
    pub fn take(&mut self, text: &[u8], lexeme: Lexeme) -> Option<Edit> {
        let is = |word| !self.is_behind_dot && lexeme.is_word(text, word);
        let depth = self.depth;
        let mut edit = None;
        self.state = match self.state {
            State::On if is("conflict") => State::OnConflict,
            State::OnConflict if lexeme.is_symbol(b'(') => {
                State::List(List { first: None, depth, names_tenant: false })
            }
            State::List(list) if lexeme.is_symbol(b')') && depth == list.depth + 1 => State::Listed(list),
            State::List(list) if !lexeme.is_symbol(b';') && depth > list.depth => State::List(List {
                first: list.first.or(Some(lexeme.start)),
                names_tenant: list.names_tenant || names_tenant(text, lexeme),
                ..list
            }),
            State::Listed(list) if is("do") => State::Do(list),
            State::Listed(list) if is("where") => State::Condition(list),
            State::Condition(list) if is("do") && depth == list.depth => State::Do(list),
            State::Do(list) => {
                if is("nothing") || is("update") {
                    edit = list.edit();
                }
                State::Nothing
            }
            State::Condition(list) if goes_on(text, lexeme) && depth >= list.depth => State::Condition(list),
            _ if is("on") => State::On,
            _ => State::Nothing,
        };
        match lexeme.kind {
            Kind::Symbol(b'(') => self.depth += 1,
            Kind::Symbol(b')') => self.depth = self.depth.saturating_sub(1),
            Kind::Symbol(b';') => self.depth = 0,
            _ => {}
        }
        self.is_behind_dot = lexeme.is_symbol(b'.');
        edit
    }
}

impl List {
    fn edit(self) -> Option<Edit> {
        let start = self.first.filter(|_| !self.names_tenant)?;
        Some(Edit { start, end: start, insert: Cow::Borrowed("tenant_id, ") })
    }
}

/// Whether a lexeme may stand in an index's condition.
fn goes_on(text: &[u8], lexeme: Lexeme) -> bool {
    !lexeme.is_symbol(b';') && !lexeme.is_word(text, "on")
}

fn names_tenant(text: &[u8], lexeme: Lexeme) -> bool {
    lexeme.name(text).is_some_and(|name| name == TENANT_COLUMN)
}
