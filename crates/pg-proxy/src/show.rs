//! `show insula.tenant`, `show insula.placement` and `show insula.epoch`: the
//! statement is recognised by its text, in both query protocols, and replaced
//! by a SELECT of a constant. The server answers it, so that its place among
//! pipelined messages, its description and a failed transaction all work out as
//! for any other statement, and a client cannot set the value.

use bytes::BytesMut;
use insula_domain::{Placement, Slug};
use insula_pg_wire::Header;
use insula_pg_wire::frontend::{Parse, parse_query, put_query, tag};

use crate::settings::literal;

/// Longer messages hold no such statement and are not held back for a look.
const STATEMENT_BYTES_MAX: u32 = 200;

/// The answers of a session.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    tenant: String,
    placement: String,
    epoch: String,
}

impl Answers {
    pub fn new(slug: &Slug, placement: &Placement) -> Self {
        Self {
            tenant: constant("insula.tenant", slug.as_str()),
            placement: constant("insula.placement", &serde_json::to_string(placement).unwrap_or_default()),
            epoch: constant("insula.epoch", &placement.epoch.to_string()),
        }
    }

    /// The statement that takes the place of `statement`, where it is one of
    /// the three.
    fn replacement(&self, statement: &[u8]) -> Option<&str> {
        let text = std::str::from_utf8(statement).ok()?.trim_matches(is_space);
        let text = text.strip_suffix(';').unwrap_or(text).trim_end_matches(is_space);
        let (verb, name) = text.split_once(is_space)?;
        if !verb.eq_ignore_ascii_case("show") {
            return None;
        }
        let name = name.trim_start_matches(is_space);
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match () {
            () if is("insula.tenant") => Some(&self.tenant),
            () if is("insula.placement") => Some(&self.placement),
            () if is("insula.epoch") => Some(&self.epoch),
            () => None,
        }
    }

    /// Writes the message that takes the place of a whole `Query` or `Parse`;
    /// false where that one is to go on as it is.
    pub fn rewrite(&self, message_tag: u8, body: &[u8], out: &mut BytesMut) -> bool {
        match message_tag {
            tag::QUERY => parse_query(body)
                .ok()
                .and_then(|query| self.replacement(query))
                .is_some_and(|replacement| put_query(out, replacement.as_bytes()).is_ok()),
            tag::PARSE => Parse::from_body(body)
                .ok()
                .and_then(|parse| Some(Parse { query: self.replacement(parse.query)?.as_bytes(), ..parse }))
                .is_some_and(|parse| parse.put(out).is_ok()),
            _ => false,
        }
    }
}

/// Whether a message could be one of the three, so that it is worth a look.
pub(crate) fn may_be_show(header: Header) -> bool {
    matches!(header.tag, tag::QUERY | tag::PARSE) && header.body_bytes <= STATEMENT_BYTES_MAX
}

/// PostgreSQL's white space (`scan.l`).
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\u{c}' | '\u{b}')
}

/// A SELECT of one text under a name.
fn constant(name: &str, value: &str) -> String {
    format!("SELECT {}::pg_catalog.text AS \"{name}\"", literal(value))
}

#[cfg(test)]
mod tests {
    use insula_domain::{Epoch, Isolation};

    use super::*;

    fn answers() -> Answers {
        let tenant = "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap();
        let placement = Placement::new(tenant, Isolation::Pool, "c".parse().unwrap(), Epoch(3));
        Answers::new(&"acme".parse().unwrap(), &placement)
    }

    #[test]
    fn the_three_statements_are_recognised_in_every_spelling() {
        let answers = answers();
        let epoch = "SELECT E'3'::pg_catalog.text AS \"insula.epoch\"";
        for statement in ["show insula.epoch", "SHOW INSULA.EPOCH;", "  Show\t\n insula.Epoch  ;  "] {
            assert_eq!(answers.replacement(statement.as_bytes()), Some(epoch), "{statement}");
        }
        assert!(answers.replacement(b"show insula.tenant").unwrap().contains("E'acme'"));
        assert!(answers.replacement(b"show insula.placement").unwrap().contains(r#""cluster":"c""#));
    }

    #[test]
    fn other_statements_go_on_as_they_are() {
        let answers = answers();
        for statement in [
            "",
            "show",
            "show ",
            "showinsula.epoch",
            "show insula.epochs",
            "show insula.epoch; select 1",
            "show insula.epoch;;",
            "select 'show insula.epoch'",
            "show search_path",
            "\u{a0}show insula.epoch",
        ] {
            assert_eq!(answers.replacement(statement.as_bytes()), None, "{statement}");
        }
    }

    #[test]
    fn both_query_protocols_are_rewritten() {
        let (answers, mut out) = (answers(), BytesMut::new());
        assert!(answers.rewrite(tag::QUERY, b"show insula.tenant\0", &mut out));
        assert!(out.starts_with(b"Q"));
        out.clear();
        assert!(answers.rewrite(tag::PARSE, b"name\0show insula.tenant\0\0\0", &mut out));
        let parse = Parse::from_body(&out[5..]).unwrap();
        assert_eq!((parse.name, parse.parameter_types), (&b"name"[..], &b"\0\0"[..]));
        assert!(parse.query.starts_with(b"SELECT E'acme'"));
        out.clear();
        assert!(!answers.rewrite(tag::QUERY, b"select 1\0", &mut out));
        assert!(!answers.rewrite(tag::QUERY, b"no end", &mut out));
        assert!(!answers.rewrite(tag::EXECUTE, b"show insula.tenant\0", &mut out));
        assert!(out.is_empty());
    }

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        let sql = constant("n", "a'b\\'c\u{e9}\n\0--");
        assert_eq!(sql, r#"SELECT E'a''b\\''c\U000000E9\U0000000A--'::pg_catalog.text AS "n""#);
    }
}
