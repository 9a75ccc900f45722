//! `LISTEN`, `UNLISTEN`, `NOTIFY` and `pg_notify`: a channel gets the name that
//! the tenant's has in the database, and the function gives way to Insula's,
//! which does the same with a name that is known only when it runs.

use std::borrow::Cow;

use crate::edits::{Edit, Edits};
use crate::lexemes::{Lexeme, Lexemes};
use crate::{Settings, has};

/// What is done with a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelVerb {
    /// The session wants to hear it.
    Listen,
    /// The session does not want to hear it any more.
    Unlisten,
    /// Something is said to who hears it.
    Notify,
}

/// The schema of Insula's `pg_notify`.
const OURS: &str = "insula";

/// The changes of names of channels, given the name of each in the database.
/// `None` where there is nothing to change, or one of them has no name there, or
/// the text is not understood. In bodies of functions and `DO` blocks nothing is
/// changed.
#[must_use]
pub fn channel_edits(
    text: &[u8],
    settings: Settings,
    mut name_of: impl FnMut(ChannelVerb, &str) -> Option<String>,
) -> Option<Edits> {
    if !may_have_channels(text) {
        return None;
    }
    let mut edits = Edits::default();
    let mut lexemes = Lexemes::new(text, settings);
    // Of the lexemes before: the last is the nearest.
    let mut before: [Option<Lexeme>; 2] = [None, None];
    let mut begins_statement = true;
    while let Some(lexeme) = lexemes.next() {
        if let Some(verb) = verb(text, lexeme).filter(|_| begins_statement) {
            let channel = lexemes.clone().next().filter(|next| !next.is_symbol(b'*'));
            if let Some(channel) = channel {
                let insert = name_of(verb, &channel.name(text)?)?;
                edits.extend([Edit { start: channel.start, end: channel.end, insert: Cow::Owned(insert) }]);
            }
        } else if lexeme.name(text).is_some_and(|name| name == "pg_notify")
            && lexemes.clone().next().is_some_and(|next| next.is_symbol(b'('))
        {
            edits.extend(qualified(text, lexeme, before));
        }
        begins_statement = lexeme.is_symbol(b';');
        before = [before[1], Some(lexeme)];
    }
    if lexemes.is_broken() { None } else { edits.in_order() }
}

/// Has a call go to Insula's function, where it goes to PostgreSQL's.
fn qualified(text: &[u8], function: Lexeme, before: [Option<Lexeme>; 2]) -> Option<Edit> {
    match before {
        [Some(schema), Some(point)] if point.is_symbol(b'.') => {
            let is_postgresqls = schema.name(text)? == "pg_catalog";
            let (start, end) = (schema.start, schema.end);
            is_postgresqls.then_some(Edit { start, end, insert: Cow::Borrowed(OURS) })
        }
        _ => {
            let start = function.start;
            Some(Edit { start, end: start, insert: Cow::Owned(format!("{OURS}.")) })
        }
    }
}

fn verb(text: &[u8], lexeme: Lexeme) -> Option<ChannelVerb> {
    [("listen", ChannelVerb::Listen), ("unlisten", ChannelVerb::Unlisten), ("notify", ChannelVerb::Notify)]
        .into_iter()
        .find_map(|(word, verb)| lexeme.is_word(text, word).then_some(verb))
}

/// Whether one of the words stands in the text.
fn may_have_channels(text: &[u8]) -> bool {
    has(text, [b'f', b'F'], 4, b"notify") || has(text, [b'l', b'L'], 0, b"listen")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str) -> Option<String> {
        let conforming = Settings { conforming: true };
        let edits = channel_edits(text.as_bytes(), conforming, |_, name| {
            (name != "none").then(|| format!("x_{}", name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")))
        });
        edits.map(|edits| String::from_utf8(edits.apply(text.as_bytes())).unwrap())
    }

    #[test]
    fn channels_get_their_names_wherever_a_statement_names_one() {
        for (text, expected) in [
            ("listen news", "listen x_news"),
            ("LISTEN News;", "LISTEN x_news;"),
            ("unlisten /* a */ \"a b\"", "unlisten /* a */ x_a_b"),
            ("notify news, 'listen'", "notify x_news, 'listen'"),
            ("begin; notify a; commit; listen b", "begin; notify x_a; commit; listen x_b"),
            ("select pg_notify('a', $1)", "select insula.pg_notify('a', $1)"),
            ("select \"pg_notify\" ('a', '')", "select insula.\"pg_notify\" ('a', '')"),
            ("select pg_catalog . PG_NOTIFY('a', '')", "select insula . PG_NOTIFY('a', '')"),
            ("select 1, pg_notify(a, b) from t", "select 1, insula.pg_notify(a, b) from t"),
        ] {
            assert_eq!(changed(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_channel_stays() {
        for text in [
            "select 1",
            "select listen from notify",
            "unlisten *",
            "select 'listen a; notify b'",
            "select own.pg_notify('a', 'b')",
            "select pg_notify",
            "do $$ begin notify a; perform pg_notify('a', 'b'); end $$",
            "listen",
            "listen a 'open",
            "listen none",
            "listen a; listen none",
            "listen U&\"\\0061\"",
            "listen 'a'",
        ] {
            assert_eq!(changed(text), None, "{text}");
        }
    }
}
