//! `COPY t FROM STDIN`: PostgreSQL refuses it under row-level security, and
//! takes the view that stands for the table.

use std::borrow::Cow;

use crate::edits::Edit;
use crate::lexemes::{Lexeme, Lexemes};
use crate::{COPY_VIEWS, TABLES};

/// What follows the word `COPY` at the beginning of a statement.
#[derive(Debug)]
pub(crate) struct Copy<'a> {
    pub text: &'a [u8],
    pub rest: Lexemes<'a>,
}

impl Copy<'_> {
    /// The change, where it is a table that is copied from the client.
    pub fn edit(mut self) -> Option<Edit> {
        let mut first = self.rest.next()?;
        if first.is_word(self.text, "binary") {
            first = self.rest.next()?;
        }
        if !first.is_name() {
            return None;
        }
        let mut next = self.rest.next()?;
        let is_qualified = next.is_symbol(b'.');
        if is_qualified {
            self.rest.next().filter(|name| name.is_name())?;
            next = self.rest.next()?;
        }
        if next.is_symbol(b'(') {
            next = self.behind_columns()?;
        }
        let is_from_client = next.is_word(self.text, "from") && self.rest.next()?.is_word(self.text, "stdin");
        if !is_from_client {
            return None;
        }
        let (start, end) = (first.start, first.end);
        if is_qualified {
            let is_ours = first.name(self.text).is_some_and(|schema| schema == TABLES);
            return is_ours.then_some(Edit { start, end, insert: Cow::Borrowed(COPY_VIEWS) });
        }
        Some(Edit { start, end: start, insert: Cow::Borrowed("insula_copy.") })
    }

    /// The lexeme behind a list of names.
    fn behind_columns(&mut self) -> Option<Lexeme> {
        loop {
            let lexeme = self.rest.next()?;
            if lexeme.is_symbol(b')') {
                return self.rest.next();
            }
            let is_part = lexeme.is_symbol(b',') || lexeme.is_name();
            if !is_part {
                return None;
            }
        }
    }
}
