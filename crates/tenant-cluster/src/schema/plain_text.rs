//! The text of a version in the plain form, as it goes to the server in one
//! message, and the way back from an error to the statement of the file.

use insula_app_schema::PlainMigration;
use insula_problem::Problem;

use super::batch::Failure;
use super::failure::Place;

/// What was put off until the end is done where definitions follow rows, since
/// PostgreSQL takes no definition of a table that waits for it. On one line, so
/// that lines stay what they are. In a pool each tenant's rows end in the same way.
const SETTLE: &str = "; set constraints all immediate; set constraints all deferred";
/// How many statements that is.
const SETTLE_STATEMENTS: usize = 2;

/// A migration between what comes before and after it in its transaction.
pub(super) struct PlainText<'a> {
    migration: &'a PlainMigration,
    pub(super) sql: String,
    /// Statements before the migration's own.
    before: usize,
    /// Characters before the migration's own.
    offset: usize,
    /// Where [`SETTLE`] stands: the statement before it, and its characters.
    settled: Vec<(usize, usize)>,
}

impl<'a> PlainText<'a> {
    pub(super) fn new(statements: &[String], migration: &'a PlainMigration, after: &str) -> Self {
        let mut sql = statements.join(";\n");
        sql.push_str(";\n");
        let offset = sql.chars().count();
        let settled = migration.ends_of_data();
        let own = migration.sql_in_a_transaction();
        let mut own = own.chars();
        let mut at = 0;
        for (_, end) in &settled {
            sql.extend(own.by_ref().take(end - at));
            sql.push_str(SETTLE);
            at = *end;
        }
        sql.extend(own);
        sql.push_str(&format!("\n;\n{after}"));
        Self { migration, sql, before: statements.len(), offset, settled }
    }

    pub(super) fn problem(&self, failure: Failure) -> Problem {
        let file = self.migration.migration().file_name();
        let index = failure.done.checked_sub(self.before).map(|seen| self.own_index(seen));
        let mut place = Place::of(&file, &self.migration.applied());
        let Some(statement) = index.and_then(|index| self.migration.statement(index)) else {
            return failure.into_problem(&place);
        };
        let in_file = failure.position().and_then(|position| position.checked_sub(self.offset));
        let line =
            in_file.map_or(statement.line, |seen| self.migration.line_of_character(self.own_position(seen)));
        place.text = format!("{file}:{line}");
        place.statement = &statement.excerpt;
        failure.into_problem(&place)
    }

    /// The statement of the migration that the server meets as number `seen`.
    fn own_index(&self, seen: usize) -> usize {
        let mut more = 0;
        for (before, _) in &self.settled {
            if seen <= before + more {
                break;
            }
            if seen <= before + more + SETTLE_STATEMENTS {
                return *before;
            }
            more += SETTLE_STATEMENTS;
        }
        seen - more
    }

    /// The character of the migration that the server sees at a place.
    fn own_position(&self, seen: usize) -> usize {
        let length = SETTLE.chars().count();
        let passed = self.settled.iter().enumerate().filter(|(index, (_, end))| end + index * length < seen);
        seen - passed.count() * length
    }
}

#[cfg(test)]
mod tests {
    use insula_app_schema::{Migration, check};
    use insula_domain::SchemaVersion;

    use super::*;

    #[test]
    fn what_is_put_in_changes_no_line_and_no_number() {
        let sql = "create table t (ä int);\ninsert into t values (1);\ninsert into t values (2);\n\
                   create index on t (ä);\nupdate t set ä = 3;\ndrop table t";
        let plain = check(&Migration::new(SchemaVersion(1), "x", sql)).unwrap();
        let text = PlainText::new(&["first".to_owned()], &plain, "last");
        assert_eq!(text.sql.replace(SETTLE, ""), format!("first;\n{sql}\n;\nlast"));
        assert_eq!(text.sql.matches(SETTLE).count(), 2);
        // Statement by statement of what the server sees.
        let own: Vec<_> = (0..10).map(|seen| text.own_index(seen)).collect();
        assert_eq!(own, [0, 1, 2, 2, 2, 3, 4, 4, 4, 5]);
        for word in ["create index", "update t", "drop table"] {
            let at = |text: &str| text[..text.find(word).unwrap()].chars().count() + 1;
            assert_eq!(text.own_position(at(&text.sql) - text.offset), at(sql), "{word}");
        }
    }
}
