//! Reading SQL with PostgreSQL's own grammar: a migration into its statements,
//! and a syntax error to its line and column.

use pg_query::protobuf::{ScanToken, Token};
use pg_query::{Error, NodeEnum, ParserOptions};
use serde_json::Value;

use crate::refusal::{Refusal, RefusalKind};
use crate::source::Source;

/// One statement of a migration.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// The parse tree.
    pub(crate) node: NodeEnum,
    /// The same as JSON, for what must look at every node whatever its kind.
    pub(crate) json: Value,
    /// Byte offset of its first token.
    pub(crate) start: usize,
    /// Byte offset behind its last token, without the semicolon.
    pub(crate) end: usize,
}

impl Statement {
    pub(crate) fn text<'a>(&self, sql: &'a str) -> &'a str {
        &sql[self.start..self.end]
    }
}

/// Splits a migration into its statements.
pub(crate) fn statements(source: Source<'_>) -> Result<Vec<Statement>, Refusal> {
    let parsed = pg_query::parse(source.sql, 0).map_err(|error| refusal_of(source, &error))?;
    let tokens = tokens_of(source.sql);
    let mut statements = Vec::with_capacity(parsed.protobuf.stmts.len());
    for raw in parsed.protobuf.stmts {
        let Some(stmt) = raw.stmt else { continue };
        let Some(node) = stmt.node else { continue };
        let from = offset(raw.stmt_location);
        let until = if raw.stmt_len == 0 { source.sql.len() } else { from + offset(raw.stmt_len) };
        let mut own = tokens.iter().filter(|token| offset(token.start) >= from && offset(token.end) <= until);
        let first = own.next();
        let last = own.next_back().or(first);
        let json = serde_json::to_value(&node).unwrap_or(Value::Null);
        statements.push(Statement {
            node,
            json,
            start: first.map_or(from, |token| offset(token.start)),
            end: last.map_or(until, |token| offset(token.end)),
        });
    }
    Ok(statements)
}

/// The tokens of a text, without comments and semicolons; none where the text
/// cannot be divided into tokens.
pub(crate) fn tokens_of(sql: &str) -> Vec<ScanToken> {
    let ignored = [Token::SqlComment as i32, Token::CComment as i32, Token::Ascii59 as i32];
    scan(sql).into_iter().filter(|token| !ignored.contains(&token.token)).collect()
}

/// The parser library makes a slice of a null pointer where there is no token.
fn scan(sql: &str) -> Vec<ScanToken> {
    let is_space = |byte: u8| byte.is_ascii_whitespace() || byte == 0x0b;
    if sql.bytes().all(is_space) { Vec::new() } else { pg_query::scan_tokens(sql).unwrap_or_default() }
}

/// A location of the parser as an offset; the parser's "unknown" is 0.
pub(crate) fn offset(location: i32) -> usize {
    usize::try_from(location).unwrap_or(0)
}

fn refusal_of(source: Source<'_>, error: &Error) -> Refusal {
    match error {
        Error::Parse(message) if !message.contains("stack depth limit exceeded") => {
            let at = error_offset(source.sql, message);
            source.refuse(statement_around(source.sql, at), at, RefusalKind::SyntaxError, message.as_str())
        }
        Error::Parse(_) | Error::Decode(_) => source.refuse(
            source.sql,
            0,
            RefusalKind::TooDeep,
            "a statement in this file is nested too deeply to be read: divide it",
        ),
        other => source.refuse(source.sql, 0, RefusalKind::SyntaxError, other.to_string()),
    }
}

/// Where a syntax error is. The parser's message has no position, but its
/// grammar finds an error at the first token that no valid text can have
/// there: every text that ends before it could still be continued. So the
/// shortest text that is wrong, and not merely unfinished, ends with that
/// token, and a binary search finds it.
fn error_offset(sql: &str, message: &str) -> usize {
    let tokens = tokens_with_semicolons(sql);
    if tokens.is_empty() {
        return offset_named_in(sql, message);
    }
    let is_wrong = |count: usize| {
        let end = tokens.get(count - 1).map_or(0, |token| offset(token.end));
        matches!(pg_query::parse(&sql[..end], 0),
            Err(Error::Parse(text)) if !text.contains("at end of input"))
    };
    let (mut fine, mut wrong) = (0, tokens.len() + 1);
    while wrong - fine > 1 {
        let middle = usize::midpoint(fine, wrong);
        if is_wrong(middle) {
            wrong = middle;
        } else {
            fine = middle;
        }
    }
    tokens.get(wrong - 1).map_or(sql.trim_end().len(), |token| offset(token.start))
}

fn tokens_with_semicolons(sql: &str) -> Vec<ScanToken> {
    let comments = [Token::SqlComment as i32, Token::CComment as i32];
    scan(sql).into_iter().filter(|token| !comments.contains(&token.token)).collect()
}

/// The place of the text that the scanner quotes: what it could not end, such
/// as a string, reaches from there to the end of the file.
fn offset_named_in(sql: &str, message: &str) -> usize {
    let quoted = message.split_once("at or near \"").map(|(_, rest)| rest.strip_suffix('"').unwrap_or(rest));
    quoted.and_then(|text| sql.rfind(text)).unwrap_or(0)
}

/// The text from the last semicolon before an offset to the next one.
fn statement_around(sql: &str, at: usize) -> &str {
    let mut at = at.min(sql.len());
    while !sql.is_char_boundary(at) {
        at -= 1;
    }
    let start = sql[..at].rfind(';').map_or(0, |semicolon| semicolon + 1);
    let end = sql[at..].find(';').map_or(sql.len(), |semicolon| at + semicolon);
    &sql[start..end]
}

/// Parses one expression as PL/pgSQL holds it, by the mode that its compiler
/// has noted.
pub(crate) fn plpgsql_expression(text: &str, mode: i64) -> Result<Value, String> {
    let options = match mode {
        0 => ParserOptions::DEFAULT,
        2 => ParserOptions::PLPGSQL_EXPR,
        3 => ParserOptions::PLPGSQL_ASSIGN1,
        4 => ParserOptions::PLPGSQL_ASSIGN2,
        5 => ParserOptions::PLPGSQL_ASSIGN3,
        _ => return Err(format!("unknown parse mode {mode}")),
    };
    let parsed = pg_query::parse(text, options).map_err(|error| error.to_string())?;
    serde_json::to_value(&parsed.protobuf).map_err(|error| error.to_string())
}

/// The text of a parse tree.
pub(crate) fn deparse(node: NodeEnum) -> Result<String, String> {
    let stmt = pg_query::Node { node: Some(node) };
    let raw = pg_query::protobuf::RawStmt { stmt: Some(Box::new(stmt)), stmt_location: 0, stmt_len: 0 };
    let result = pg_query::protobuf::ParseResult { version: 0, stmts: vec![raw] };
    pg_query::deparse(&result, pg_query::DeparseOptions::default()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(sql: &str) -> Vec<String> {
        let statements = statements(Source { file: "f.sql", sql }).unwrap();
        statements.iter().map(|statement| statement.text(sql).to_owned()).collect()
    }

    fn error(sql: &str) -> (usize, usize, String) {
        let refusal = statements(Source { file: "f.sql", sql }).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::SyntaxError);
        (refusal.line, refusal.column, refusal.reason)
    }

    #[test]
    fn statements_are_split_without_their_comments() {
        let sql = "-- one\nSELECT 'ä;' /* ; */ ;;\n\n SELECT $$;$$ -- two\n; -- three";
        assert_eq!(split(sql), ["SELECT 'ä;'", "SELECT $$;$$"]);
        for nothing in ["-- nothing\n", "", " \t\r\n\x0b\x0c"] {
            assert!(split(nothing).is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn a_syntax_error_is_found_at_its_token() {
        assert_eq!(
            error("SELECT 1;\n\nCREATE TABLE t (\n  a int,\n  b intt int\n);\nSELECT 2;"),
            (5, 10, "syntax error at or near \"int\"".to_owned())
        );
        assert_eq!(error("CREATE TABEL t (a int)").1, 8);
        assert_eq!(error("SELECT 'ä', FROM FROM t").1, 13);
        assert_eq!(error("SELECT 1;\nSELECT (1").0, 2);
        assert_eq!(error("SELECT 1;\nSELECT 'open").0, 2);
        assert_eq!(error("SELECT 1;\n\nSELECT /* open").0, 3);
        let (line, column, reason) =
            error("SELECT 1;\nCREATE TABLE t (a int DEFERRABLE NOT DEFERRABLE CHECK);");
        assert_eq!((line, reason.is_empty()), (2, false), "{column} {reason}");
    }

    #[test]
    fn a_deep_statement_is_told_from_a_wrong_one() {
        let long = format!("SELECT 1{}", " UNION ALL SELECT 1 || ''".repeat(100));
        let statement = statements(Source { file: "f.sql", sql: &long }).unwrap().remove(0);
        assert!(deparse(statement.node).unwrap().ends_with("UNION ALL SELECT 1 || ''"));

        let sql = format!("SELECT {}1{}", "(SELECT ".repeat(3000), ")".repeat(3000));
        let refusal = statements(Source { file: "f.sql", sql: &sql }).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::TooDeep);
    }
}
