//! Positions in a migration: from the byte offsets of the parser to the file,
//! line and column that a person looks for.

use crate::refusal::{Refusal, RefusalKind};

/// The most characters of a statement that a refusal quotes.
const EXCERPT_CHARS: usize = 120;

/// A migration's text under its file name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a str,
    pub(crate) sql: &'a str,
}

impl Source<'_> {
    /// Line and column, both from 1, the column in characters.
    pub(crate) fn line_column(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.sql.len());
        while !self.sql.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.sql[..end];
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (line, before[line_start..].chars().count() + 1)
    }

    /// A refusal of the statement at `statement`, pointing at `offset`.
    pub(crate) fn refuse(
        &self,
        statement: &str,
        offset: usize,
        kind: RefusalKind,
        reason: impl Into<String>,
    ) -> Refusal {
        let (line, column) = self.line_column(offset);
        Refusal {
            file: self.file.to_owned(),
            line,
            column,
            statement: excerpt(statement),
            kind,
            reason: reason.into(),
        }
    }
}

/// The statement on one line, its white space folded, cut to a readable length.
pub(crate) fn excerpt(statement: &str) -> String {
    let folded = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    if folded.chars().count() <= EXCERPT_CHARS {
        return folded;
    }
    let cut: String = folded.chars().take(EXCERPT_CHARS - 1).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_counted_in_characters() {
        let source = Source { file: "f", sql: "ab\näö x\n" };
        assert_eq!(source.line_column(0), (1, 1));
        assert_eq!(source.line_column(source.sql.find('x').unwrap()), (2, 4));
        assert_eq!(source.line_column(999), (3, 1));
    }

    #[test]
    fn a_long_statement_is_cut() {
        let cut = excerpt(&format!("SELECT\n   '{}'", "ü".repeat(300)));
        assert_eq!(cut.chars().count(), EXCERPT_CHARS);
        assert!(cut.starts_with("SELECT 'ü") && cut.ends_with('…'));
    }
}
