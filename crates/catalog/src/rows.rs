//! Reading typed values from rows. What the catalog holds it has written
//! itself, so a value that does not parse is an internal error and not a
//! caller's.

use std::fmt::Display;
use std::str::FromStr;

use insula_problem::Problem;
use tokio_postgres::Row;

/// The column's text, parsed.
pub fn parsed<T: FromStr<Err: Display>>(row: &Row, column: &str) -> Result<T, Problem> {
    let text: &str = row.try_get(column).map_err(crate::db)?;
    parse(column, text)
}

/// The column's text, parsed, where it is not null.
pub fn parsed_opt<T: FromStr<Err: Display>>(row: &Row, column: &str) -> Result<Option<T>, Problem> {
    let text: Option<&str> = row.try_get(column).map_err(crate::db)?;
    text.map(|text| parse(column, text)).transpose()
}

fn parse<T: FromStr<Err: Display>>(column: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: T::Err| Problem::internal(format!("catalog column {column}: {error}")))
}

/// A number that the catalog keeps signed and the program unsigned.
pub fn unsigned<S: Copy + Display, U: TryFrom<S>>(column: &str, value: S) -> Result<U, Problem> {
    U::try_from(value)
        .map_err(|_| Problem::internal(format!("catalog column {column}: {value} is out of range")))
}
