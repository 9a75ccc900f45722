//! Keys of rows in words that may leave the region: a key can be an e-mail
//! address. Numbers, dates, truth values and UUIDs are told as they are, and of
//! everything else PostgreSQL's `md5()`, by which who may look into the database
//! finds the row: `where md5(email::text) = '…'`.

use md5::{Digest, Md5};

use super::{MovedColumn, identifier};
use crate::literal;

/// What a digest begins with.
const DIGEST: &str = "md5:";

/// Whether values of a type are told as they are. The name is as PostgreSQL
/// prints it, so that a type of an application's own has another one.
fn is_plain(type_name: &str) -> bool {
    const PLAIN: [&str; 8] = [
        "smallint",
        "integer",
        "bigint",
        "uuid",
        "date",
        "boolean",
        "timestamp with time zone",
        "timestamp without time zone",
    ];
    // `timestamp(3) with time zone`
    let precise = type_name.strip_prefix("timestamp(").and_then(|rest| rest.split_once(')'));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let timestamp =
        precise.filter(|(precision, _)| is_digits(precision)).map(|(_, zone)| format!("timestamp{zone}"));
    PLAIN.contains(&timestamp.as_deref().unwrap_or(type_name))
}

/// The expression of what is told of a column, as `name=value`.
pub(super) fn expression(column: &MovedColumn) -> String {
    let (name, value) = (&column.name, identifier(&column.name));
    if is_plain(&column.type_name) {
        return format!("{} || {value}::text", literal(&format!("{name}=")));
    }
    format!("{} || md5({value}::text)", literal(&format!("{name}={DIGEST}")))
}

/// What is told of a value, as PostgreSQL sends it.
pub(super) fn told(column: &MovedColumn, value: Option<&[u8]>) -> String {
    let value = match value {
        None => "null".to_owned(),
        Some(value) if is_plain(&column.type_name) => String::from_utf8_lossy(value).into_owned(),
        Some(value) => {
            // A cast to text takes the blanks away that fill a `char(n)`.
            let is_filled = column.type_name.starts_with("character(");
            let value = if is_filled { value.trim_ascii_end() } else { value };
            let digest: String = Md5::digest(value).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{DIGEST}{digest}")
        }
    };
    format!("{}={value}", column.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(type_name: &str) -> MovedColumn {
        MovedColumn { name: "k".to_owned(), type_name: type_name.to_owned(), always_identity: false }
    }

    #[test]
    fn only_values_that_are_no_texts_are_told_as_they_are() {
        for plain in [
            "integer",
            "uuid",
            "date",
            "timestamp(3) without time zone",
            "timestamp with time zone",
            "boolean",
        ] {
            assert_eq!(told(&column(plain), Some(b"7")), "k=7", "{plain}");
        }
        for other in [
            "text",
            "citext",
            "character varying(20)",
            "numeric(20,0)",
            "bytea",
            "integer[]",
            "app.integer",
            "\"timestamp(3) with time zone\"",
            "timestamp_of_birth",
            "timestamp(ada)",
        ] {
            // echo -n 7 | md5sum
            let digest = "k=md5:8f14e45fceea167a5a36dedd4bea2543";
            assert_eq!(told(&column(other), Some(b"7")), digest, "{other}");
        }
        assert_eq!(told(&column("text"), None), "k=null");
        assert_eq!(told(&column("character(3)"), Some(b"7  ")), told(&column("text"), Some(b"7")));
    }
}
