//! Rows as statements: each value is a literal that PostgreSQL itself has
//! written.

use pg_query::protobuf::KeywordKind;

use super::{ChangedRows, MAX_ROWS};
use crate::syntax::tokens_of;

/// Rows that go into one statement.
const ROWS_OF_A_STATEMENT: usize = 500;

/// A statement that makes rows as they were.
#[derive(Debug)]
pub(super) struct RowsText {
    pub(super) sql: String,
    pub(super) rows: usize,
}

/// The statements that do with these rows what was done with them.
pub(super) fn write(tag: &str, rows: &ChangedRows, skips_conflicts: bool) -> Result<Vec<RowsText>, String> {
    if rows.count == 0 {
        return Ok(Vec::new());
    }
    if rows.count > MAX_ROWS as u64 {
        return Err(format!(
            "it changes {} rows of {}, and a version holds at most {MAX_ROWS}: load them apart, and capture with \
             --without-data {}",
            rows.count, rows.table, rows.table
        ));
    }
    let missing = || format!("the rows of {} that it has changed were not kept", rows.table);
    let columns = rows.columns.as_ref().ok_or_else(missing)?;
    match tag {
        "INSERT" => Ok(inserts(rows, columns, rows.new.as_ref().ok_or_else(missing)?, skips_conflicts)),
        "UPDATE" => {
            let (old, new) = (rows.old.as_ref().ok_or_else(missing)?, rows.new.as_ref().ok_or_else(missing)?);
            Ok(old.iter().zip(new).filter_map(|(old, new)| update(rows, columns, old, new)).collect())
        }
        "DELETE" => {
            let old = rows.old.as_ref().ok_or_else(missing)?;
            let delete = |old: &Vec<String>| RowsText {
                sql: format!(
                    "DELETE FROM {} WHERE {}",
                    identifier(&rows.table),
                    condition(rows, columns, old)
                ),
                rows: 1,
            };
            Ok(old.iter().map(delete).collect())
        }
        other => Err(format!("{other} cannot be written out as rows")),
    }
}

fn inserts(
    rows: &ChangedRows,
    columns: &[String],
    new: &[Vec<String>],
    skips_conflicts: bool,
) -> Vec<RowsText> {
    let names: Vec<_> = columns.iter().map(|column| identifier(column)).collect();
    let overriding = if rows.always == Some(true) { " OVERRIDING SYSTEM VALUE" } else { "" };
    let conflict = if skips_conflicts { "\nON CONFLICT DO NOTHING" } else { "" };
    let statement = |chunk: &[Vec<String>]| {
        let values: Vec<_> = chunk.iter().map(|row| format!("({})", row.join(", "))).collect();
        let sql = format!(
            "INSERT INTO {} ({}){overriding} VALUES\n    {}{conflict}",
            identifier(&rows.table),
            names.join(", "),
            values.join(",\n    ")
        );
        RowsText { sql, rows: chunk.len() }
    };
    new.chunks(ROWS_OF_A_STATEMENT).map(statement).collect()
}

fn update(rows: &ChangedRows, columns: &[String], old: &[String], new: &[String]) -> Option<RowsText> {
    let changed: Vec<_> = columns
        .iter()
        .zip(old.iter().zip(new))
        .filter(|(_, (old, new))| old != new)
        .map(|(column, (_, new))| format!("{} = {new}", identifier(column)))
        .collect();
    (!changed.is_empty()).then(|| RowsText {
        sql: format!(
            "UPDATE {} SET {} WHERE {}",
            identifier(&rows.table),
            changed.join(", "),
            condition(rows, columns, old)
        ),
        rows: 1,
    })
}

/// What finds a row again: its primary key, or else all that is in it.
fn condition(rows: &ChangedRows, columns: &[String], values: &[String]) -> String {
    let is_named = |column: &String| rows.key.as_ref().is_none_or(|key| key.contains(column));
    let parts: Vec<_> = columns
        .iter()
        .zip(values)
        .filter(|(column, _)| is_named(column))
        .map(|(column, value)| match value.as_str() {
            "NULL" => format!("{} IS NULL", identifier(column)),
            value => format!("{} = {value}", identifier(column)),
        })
        .collect();
    parts.join(" AND ")
}

/// A name as SQL needs it: quoted where it would be read as something else.
pub(super) fn identifier(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let free = [KeywordKind::NoKeyword as i32, KeywordKind::UnreservedKeyword as i32];
    if is_plain && tokens_of(name).first().is_some_and(|token| free.contains(&token.keyword_kind)) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}
