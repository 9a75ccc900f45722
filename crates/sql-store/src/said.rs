//! What a server says of an error, in words that hold no value of any row. Its
//! own may: they name the key that is there twice, and the line that cannot be
//! read; and whatever is known of an error goes to logs and to the global catalog.

use std::error::Error;
use std::fmt;

use tokio_postgres::error::DbError;

use crate::conditions::condition;

/// Classes whose messages are about objects, sessions and the server, where
/// they come from a statement of ours and from no function that it called.
const OF_OBJECTS: [&str; 13] = ["08", "25", "28", "2B", "3D", "3F", "40", "42", "53", "55", "57", "58", "XX"];

/// Where a `RAISE` comes from, which says, and names, what it likes.
const RAISE: &str = "exec_stmt_raise";

/// An error as a server has reported it.
#[derive(Clone, Copy, Default)]
pub struct Report<'a> {
    /// Its SQLSTATE.
    pub sqlstate: &'a str,
    /// The message.
    pub message: &'a str,
    /// The detail.
    pub detail: Option<&'a str>,
    /// What the server was at: the line of a `COPY`, the function that was called.
    pub context: Option<&'a str>,
    /// Where in PostgreSQL's sources it comes from.
    pub routine: Option<&'a str>,
    /// The schema that it names.
    pub schema: Option<&'a str>,
    /// The table that it names.
    pub table: Option<&'a str>,
    /// The column that it names.
    pub column: Option<&'a str>,
    /// The type that it names.
    pub data_type: Option<&'a str>,
    /// The constraint that it names.
    pub constraint: Option<&'a str>,
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Report({} {})", self.sqlstate, self.in_words())
    }
}

impl<'a> From<&'a DbError> for Report<'a> {
    fn from(error: &'a DbError) -> Self {
        Self {
            sqlstate: error.code().code(),
            message: error.message(),
            detail: error.detail(),
            context: error.where_(),
            routine: error.routine(),
            schema: error.schema(),
            table: error.table(),
            column: error.column(),
            data_type: error.datatype(),
            constraint: error.constraint(),
        }
    }
}

impl<'a> From<&[(u8, &'a str)]> for Report<'a> {
    /// Of the fields of an `ErrorResponse`.
    fn from(fields: &[(u8, &'a str)]) -> Self {
        let field = |tag: u8| fields.iter().find(|(found, _)| *found == tag).map(|(_, value)| *value);
        Self {
            sqlstate: field(b'C').unwrap_or_default(),
            message: field(b'M').unwrap_or_default(),
            detail: field(b'D'),
            context: field(b'W'),
            routine: field(b'R'),
            schema: field(b's'),
            table: field(b't'),
            column: field(b'c'),
            data_type: field(b'd'),
            constraint: field(b'n'),
        }
    }
}

impl<'a> Report<'a> {
    /// The condition, and the names that the server itself gives.
    #[must_use]
    pub fn in_names(&self) -> String {
        let mut text = condition(self.sqlstate).to_owned();
        if self.is_raised() {
            return text;
        }
        let names = [
            ("schema", self.schema),
            ("table", self.table),
            ("column", self.column),
            ("type", self.data_type),
            ("constraint", self.constraint),
        ];
        let named = names.into_iter().filter_map(|(kind, name)| name.map(|name| format!("{kind} {name}")));
        let named = named.collect::<Vec<_>>().join(", ");
        if !named.is_empty() {
            text.push_str(&format!(" on {named}"));
        }
        text
    }

    /// The server's words where they can be of objects alone, and names where not.
    #[must_use]
    pub fn in_words(&self) -> String {
        let of_objects = OF_OBJECTS.iter().any(|class| self.sqlstate.starts_with(class))
            && self.context.is_none()
            && !self.is_raised();
        if !of_objects {
            return self.in_names();
        }
        let detail = self.detail.map(|detail| format!(". {}", detail.trim_end_matches('.')));
        format!("{}{}", self.message, detail.unwrap_or_default()).replace('\n', "; ")
    }

    /// The table, where the server itself has named it.
    #[must_use]
    pub fn of_table(&self) -> Option<&'a str> {
        self.table.filter(|_| !self.is_raised())
    }

    fn is_raised(&self) -> bool {
        self.routine == Some(RAISE)
    }
}

/// An error of a driver that tells no value of a row, however it is printed.
pub struct Discreet(tokio_postgres::Error);

impl Discreet {
    /// What the server said, where it has said it.
    #[must_use]
    pub fn said(&self) -> Option<String> {
        let report = Report::from(self.0.as_db_error()?);
        Some(format!("{} ({})", report.in_words(), report.sqlstate))
    }
}

impl From<tokio_postgres::Error> for Discreet {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Discreet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.said() {
            Some(said) => write!(f, "the server says: {said}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Discreet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Discreet({self})")
    }
}

impl Error for Discreet {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // What the server said is the source of what the driver says.
        if self.0.as_db_error().is_some() { None } else { self.0.source() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_no_words() {
        let duplicate = Report {
            sqlstate: "23505",
            message: "duplicate key value violates unique constraint \"a_pkey\"",
            detail: Some("Key (a)=(ada@example.test) already exists."),
            table: Some("a"),
            constraint: Some("a_pkey"),
            ..Report::default()
        };
        assert_eq!(duplicate.in_words(), "unique_violation on table a, constraint a_pkey");
        let raised = Report { sqlstate: "42000", message: "ada", table: Some("ada"), ..Report::default() };
        assert_eq!(raised.in_words(), "ada", "canary: words of objects are told");
        let raised = Report { routine: Some(RAISE), ..raised };
        assert!(!raised.in_words().contains("ada") && raised.of_table().is_none(), "{}", raised.in_words());
        let read = Report { context: Some("COPY a, line 3, column a: \"ada\""), routine: None, ..raised };
        assert!(!read.in_words().contains("ada\""), "{}", read.in_words());
    }

    #[test]
    fn the_fields_of_a_message_are_read() {
        let fields = [(b'C', "42P01"), (b'M', "relation \"a\" does not exist"), (b'W', "f()")];
        let with_context = Report::from(&fields[..]);
        assert_eq!(with_context.in_words(), "undefined_table");
        assert_eq!(Report::from(&fields[..2]).in_words(), "relation \"a\" does not exist");
    }
}
