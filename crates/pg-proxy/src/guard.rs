//! Statements that reach past a tenant and that PostgreSQL's rights do not
//! stop, or stop too late. They are recognised by what they begin with, by
//! PostgreSQL's own lexical rules, so that no spelling gets through.
//!
//! A refused statement is replaced by one that the server must refuse, since it
//! names a column where there are none, and the server's error is replaced by
//! ours on its way back. So it is the server that skips to the next `Sync`,
//! fails the transaction, and says when it is ready: the front need not play
//! any of it. In a transaction that has failed already the server's own error
//! (25P02) comes first, and goes through as it is.
//!
//! What is not refused is made to fit the tables of a pool where it must be, and
//! channels get their tenant's names where a database is shared. A changed text
//! is looked at like any other before the server has it.
//!
//! A text that is too long to be held is read as it passes. If it turns out to
//! be one of these its last byte does not pass, without which the server does
//! not begin with it, and the session ends.

use std::fmt;

use bytes::BytesMut;
use insula_domain::Isolation;
use insula_pg_wire::backend::parse_error;
use insula_pg_wire::frontend::{Parse, put_query, tag};
use insula_pg_wire::{Handling, Header};
use insula_sql_lexer::{Head, Outcome, Reader};
use tracing::Span;

use crate::fitting::{Changes, Fitting, put_changed};
use crate::measure::statement_refused;

/// Longer texts are not held, but read as they pass.
const HELD_BYTES_MAX: u32 = 64 * 1024;

/// What the name of the column begins with, that makes the server refuse a
/// statement. The rule's number follows.
const MARKER: &str = "insula:refused:";

/// SQLSTATE of an unknown column.
const UNDEFINED_COLUMN: &str = "42703";

/// Where a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    /// In every model.
    Everywhere,
    /// Where tenants share a database and a channel could not be given its
    /// tenant's name. It would do no harm, and nothing else.
    UnnamedChannel,
    /// Where tenants share tables.
    Pool,
}

/// Statements that are refused, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Their name, for people.
    pub statement: &'static str,
    /// The words with which they begin.
    starts: &'static [&'static str],
    /// Longer beginnings that are something else.
    except: &'static [&'static str],
    holds: Where,
    /// Why.
    pub reason: &'static str,
    /// It is one too many, and not refused for what it is.
    pub is_limit: bool,
}

/// Roles are Insula's. PostgreSQL lets every role set its own password and
/// settings, and take part in granting itself.
const ROLES_ARE_OURS: &str = "Roles belong to Insula: a changed one would lock its own tenant out.";

/// PostgreSQL's notifications know databases and no tenants.
const CHANNELS_HAVE_NAMES: &str = "Where tenants share a database, channels get names of their tenant's own, and this \
     one's could not be given: the text is longer than 64 KiB, the name is longer than 63 bytes or has escapes, or \
     the session hears 1,000 channels already.";

/// Everything that is refused. The first is for texts that cannot be read.
const RULES: &[Rule] = &[
    Rule {
        statement: "a text that can be read in several ways",
        starts: &[],
        except: &[],
        holds: Where::Everywhere,
        reason: "It depends on the session's encoding where its quotations end. \
                 Use UTF-8, and only ASCII in the tags of dollar quotes.",
        is_limit: false,
    },
    Rule {
        statement: "ALTER ROLE",
        starts: &["alter role", "alter user", "alter group"],
        except: &["alter user mapping for"],
        holds: Where::Everywhere,
        reason: ROLES_ARE_OURS,
        is_limit: false,
    },
    Rule {
        statement: "CREATE ROLE",
        starts: &["create role", "create user", "create group"],
        except: &["create user mapping for", "create user mapping if"],
        holds: Where::Everywhere,
        reason: ROLES_ARE_OURS,
        is_limit: false,
    },
    Rule {
        statement: "DROP ROLE",
        starts: &["drop role", "drop user", "drop group"],
        except: &["drop user mapping for", "drop user mapping if"],
        holds: Where::Everywhere,
        reason: ROLES_ARE_OURS,
        is_limit: false,
    },
    Rule {
        statement: "DROP OWNED",
        starts: &["drop owned"],
        except: &[],
        holds: Where::Everywhere,
        reason: "It would take the rights that Insula gave to the tenant's role.",
        is_limit: false,
    },
    Rule {
        statement: "REASSIGN OWNED",
        starts: &["reassign owned"],
        except: &[],
        holds: Where::Everywhere,
        reason: "Owners belong to the app schema.",
        is_limit: false,
    },
    Rule {
        statement: "GRANT",
        starts: &["grant"],
        except: &[],
        holds: Where::Everywhere,
        reason: "Rights belong to Insula. PostgreSQL 15 lets a role grant itself to others, \
                 whose own isolation could then not be proved any more.",
        is_limit: false,
    },
    Rule {
        statement: "REVOKE",
        starts: &["revoke"],
        except: &[],
        holds: Where::Everywhere,
        reason: "Rights belong to Insula.",
        is_limit: false,
    },
    Rule {
        statement: "ALTER DEFAULT PRIVILEGES",
        starts: &["alter default privileges"],
        except: &[],
        holds: Where::Everywhere,
        reason: "Rights belong to Insula.",
        is_limit: false,
    },
    Rule {
        statement: "PREPARE TRANSACTION",
        starts: &["prepare transaction"],
        except: &[],
        holds: Where::Everywhere,
        reason: "A prepared transaction keeps its locks when its session has ended, \
                 also that of a tenant who is suspended or moves.",
        is_limit: false,
    },
    Rule {
        statement: "LISTEN",
        starts: &["listen"],
        except: &[],
        holds: Where::UnnamedChannel,
        reason: CHANNELS_HAVE_NAMES,
        is_limit: false,
    },
    Rule {
        statement: "NOTIFY",
        starts: &["notify"],
        except: &[],
        holds: Where::UnnamedChannel,
        reason: CHANNELS_HAVE_NAMES,
        is_limit: false,
    },
    Rule {
        statement: "TRUNCATE",
        starts: &["truncate"],
        except: &[],
        holds: Where::Pool,
        reason: "It would take the rows of all tenants of the pool. Use DELETE, which takes your own.",
        is_limit: false,
    },
    Rule {
        statement: "LOCK",
        starts: &["lock"],
        except: &[],
        holds: Where::Pool,
        reason: "It would lock the table for all tenants of the pool. Use SELECT … FOR UPDATE, or a tier with \
                 tables of one's own.",
        is_limit: false,
    },
    // PostgreSQL looks at the right to these only when it has the lock. While
    // it waits for it, behind a transaction of the same tenant's, everybody
    // else waits behind it.
    Rule {
        statement: "CREATE TRIGGER",
        starts: &[
            "create trigger",
            "create or replace trigger",
            "create constraint trigger",
            "create or replace constraint trigger",
        ],
        except: &[],
        holds: Where::Pool,
        reason: "Definitions come with the app schema, and it would wait for a lock that stops all tenants of the \
                 pool.",
        is_limit: false,
    },
    Rule {
        statement: "CREATE RULE",
        starts: &["create rule", "create or replace rule"],
        except: &[],
        holds: Where::Pool,
        reason: "Definitions come with the app schema, and it would wait for a lock that stops all tenants of the \
                 pool.",
        is_limit: false,
    },
    Rule {
        statement: "ALTER INDEX",
        starts: &["alter index", "alter materialized"],
        except: &[],
        holds: Where::Pool,
        reason: "Definitions come with the app schema, and it would wait for a lock that stops all tenants of the \
                 pool.",
        is_limit: false,
    },
    Rule {
        statement: "one more prepared statement",
        starts: &[],
        except: &[],
        holds: Where::Everywhere,
        reason: "The tenant's sessions have as many bytes of prepared statements as they may have together. Close \
                 those that are not needed, let drivers keep fewer, or open fewer connections.",
        is_limit: true,
    },
];

/// The number of the rule for texts that cannot be read.
const UNCLEAR: usize = 0;

/// That of the last rule, which is not about texts.
const TOO_MANY_STATEMENTS: usize = RULES.len() - 1;

/// The number of the rule against a statement.
fn objection(isolation: Isolation, head: &Head) -> Option<usize> {
    let holds = |rule: &Rule| match rule.holds {
        Where::Everywhere => true,
        Where::UnnamedChannel => matches!(isolation, Isolation::Pool | Isolation::Schema),
        Where::Pool => isolation == Isolation::Pool,
    };
    let is_one = |rule: &Rule| {
        holds(rule)
            && rule.starts.iter().any(|start| head.begins_with(start))
            && !rule.except.iter().any(|start| head.begins_with(start))
    };
    RULES.iter().position(is_one)
}

/// The same, of a text in which channels have got their names.
fn objection_but_channels(isolation: Isolation, head: &Head) -> Option<usize> {
    objection(isolation, head).filter(|number| RULES[*number].holds != Where::UnnamedChannel)
}

/// First words of statements that no rule is against.
const HARMLESS: &[&str] = &["select", "insert", "update", "delete", "begin", "commit", "end", "rollback"];

/// Whether the text is one statement that no rule is against, however it is
/// read: without a semicolon there is no second one, and what a text begins with
/// is the same in every encoding. False says nothing.
fn is_harmless(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let text = text.strip_suffix(b";").unwrap_or(text);
    let end = text.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(text.len());
    text.get(end).is_none_or(u8::is_ascii_whitespace)
        && HARMLESS.iter().any(|word| text[..end].eq_ignore_ascii_case(word.as_bytes()))
        && !text.contains(&b';')
}

fn outcome(outcome: Outcome<usize>) -> Option<usize> {
    match outcome {
        Outcome::Clear => None,
        Outcome::Found(number) => Some(number),
        Outcome::Unclear => Some(UNCLEAR),
    }
}

/// What became of a text that may have to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fitted {
    Changed,
    /// It goes as it is.
    Unchanged,
    /// A rule is against the changed text.
    Refused(usize),
}

/// Looks at every text of a session before the server has it.
#[derive(Debug)]
pub(crate) struct Guard {
    isolation: Isolation,
    passing: Option<Passing>,
    has_refused: bool,
    /// Where a database is shared.
    fitting: Option<Fitting>,
    /// The session's.
    span: Span,
}

impl Guard {
    pub fn new(isolation: Isolation) -> Self {
        Self { isolation, passing: None, has_refused: false, fitting: None, span: Span::current() }
    }

    /// A guard that makes statements fit a database that is shared.
    pub fn with_fitting(self, fitting: Fitting) -> Self {
        Self { fitting: Some(fitting), ..self }
    }

    /// What makes statements fit, where a database is shared.
    pub fn fitting(&mut self) -> Option<&mut Fitting> {
        self.fitting.as_mut()
    }

    /// A message of the client begins.
    pub fn begins(&mut self, header: Header) -> Handling {
        match header.tag {
            tag::QUERY | tag::PARSE if header.body_bytes <= HELD_BYTES_MAX => Handling::Hold,
            tag::QUERY | tag::PARSE if self.holds_long(header.body_bytes) => Handling::Hold,
            tag::QUERY | tag::PARSE => {
                self.passing = Some(Passing::new(self.isolation, header.tag));
                Handling::Watch
            }
            _ => Handling::Pass,
        }
    }

    fn holds_long(&mut self, bytes: u32) -> bool {
        self.fitting.as_mut().is_some_and(|fitting| fitting.has_room(bytes))
    }

    /// Writes what takes the place of a whole `Query` or `Parse` that is
    /// refused or changed; false where it is to go on as it is.
    pub fn rewrite(&mut self, message_tag: u8, body: &[u8], out: &mut BytesMut) -> bool {
        let Some((name, text, rest)) = parts(message_tag, body) else { return false };
        let isolation = self.isolation;
        let judge = |head: &Head| objection(isolation, head);
        let found = if is_harmless(text) { None } else { outcome(Reader::read(judge, text)) };
        let is_refused = found.is_some_and(|number| RULES[number].holds != Where::UnnamedChannel);
        let fitted =
            if is_refused { Fitted::Unchanged } else { self.fit((message_tag, name, rest), text, out) };
        let number = match (fitted, found) {
            (Fitted::Changed, _) => return true,
            (Fitted::Unchanged, None) => return false,
            (Fitted::Unchanged, Some(number)) | (Fitted::Refused(number), _) => number,
        };
        self.count(number);
        let query = format!("select \"{MARKER}{number}\"");
        let query = query.as_bytes();
        match message_tag {
            tag::PARSE => Parse { name, query, parameter_types: rest }.put(out).is_ok(),
            _ => put_query(out, query).is_ok(),
        }
    }

    /// Writes what takes the place of a `Parse` for which its tenant has no room.
    pub fn refuse_statement(&mut self, name: &[u8], out: &mut BytesMut) {
        self.count(TOO_MANY_STATEMENTS);
        let query = format!("select \"{MARKER}{TOO_MANY_STATEMENTS}\"");
        // Neither has a zero byte.
        let _ = Parse { name, query: query.as_bytes(), parameter_types: &[0, 0] }.put(out);
    }

    /// Writes a text that must be changed for the database that is shared.
    fn fit(&mut self, message: (u8, &[u8], &[u8]), text: &[u8], out: &mut BytesMut) -> Fitted {
        let Some(fitting) = &mut self.fitting else { return Fitted::Unchanged };
        let isolation = self.isolation;
        let Some(Changes { edits, has_channels }) = fitting.changes(text) else {
            fitting.sends(text, None);
            return Fitted::Unchanged;
        };
        let object = if has_channels { objection_but_channels } else { objection };
        let mut reader = Reader::new(|head: &Head| object(isolation, head));
        edits.pieces(text).for_each(|piece| reader.feed(piece));
        let fitted = match outcome(reader.finish()) {
            Some(number) => Fitted::Refused(number),
            None if put_changed(message, text, &edits, out) => Fitted::Changed,
            None => Fitted::Unchanged,
        };
        fitting.sends(text, (fitted == Fitted::Changed).then_some(&edits));
        fitted
    }

    /// A piece of a message that passes.
    pub fn piece(&mut self, piece: &[u8], is_last: bool) -> Result<(), &'static Rule> {
        let Some(passing) = &mut self.passing else { return Ok(()) };
        passing.feed(piece);
        if !is_last {
            return Ok(());
        }
        let number = self.passing.take().and_then(|passing| outcome(passing.reader.finish()));
        match number {
            None => Ok(()),
            Some(number) => {
                self.count(number);
                Err(&RULES[number])
            }
        }
    }

    /// Whether an error of the server may be one that stands for ours, or has
    /// places in it that are not the client's.
    pub fn minds_errors(&self) -> bool {
        self.has_refused || self.fitting.as_ref().is_some_and(Fitting::minds_errors)
    }

    /// Writes the server's error as the client is to have it; false where it is
    /// so already.
    pub fn put_error(&self, body: &[u8], out: &mut BytesMut) -> bool {
        self.fitting.as_ref().is_some_and(|fitting| fitting.minds_errors() && fitting.put_error(body, out))
    }

    /// The rule because of which the server has refused a statement of ours.
    pub fn refused_by(&self, error_body: &[u8]) -> Option<&'static Rule> {
        let (sqlstate, message) = parse_error(error_body).ok()?;
        if sqlstate != UNDEFINED_COLUMN {
            return None;
        }
        let (_, number) = message.split_once(MARKER)?;
        let end = number.find(|character: char| !character.is_ascii_digit()).unwrap_or(number.len());
        RULES.get(number[..end].parse::<usize>().ok()?)
    }

    fn count(&mut self, number: usize) {
        let statement = RULES[number].statement;
        statement_refused(statement);
        if !self.has_refused {
            tracing::info!(parent: &self.span, statement, "a statement was refused");
        }
        self.has_refused = true;
    }
}

/// The name of a `Parse`, the text, and what follows it. Of a text that has no
/// end there is no rest; the server refuses the message.
fn parts(message_tag: u8, body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let until_nul = |bytes: &[u8]| bytes.iter().position(|byte| *byte == 0);
    let (name, body) = match message_tag {
        tag::PARSE => {
            let end = until_nul(body)?;
            (&body[..end], &body[end + 1..])
        }
        tag::QUERY => (&body[..0], body),
        _ => return None,
    };
    let end = until_nul(body)?;
    Some((name, &body[..end], &body[end + 1..]))
}

type Judge = Box<dyn Fn(&Head) -> Option<usize> + Send>;

/// A message that is read as it passes.
struct Passing {
    reader: Reader<usize, Judge>,
    /// Bytes of its header that have not come.
    header_bytes: usize,
    /// Texts before the one that is read.
    names: usize,
    is_over: bool,
}

impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passing").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

impl Passing {
    fn new(isolation: Isolation, message_tag: u8) -> Self {
        let judge: Judge = Box::new(move |head| objection(isolation, head));
        Self {
            reader: Reader::new(judge),
            header_bytes: Header::BYTES,
            names: usize::from(message_tag == tag::PARSE),
            is_over: false,
        }
    }

    fn feed(&mut self, piece: &[u8]) {
        let skipped = self.header_bytes.min(piece.len());
        self.header_bytes -= skipped;
        let mut rest = &piece[skipped..];
        while self.names > 0 {
            let Some(end) = rest.iter().position(|byte| *byte == 0) else { return };
            self.names -= 1;
            rest = &rest[end + 1..];
        }
        if self.is_over {
            return;
        }
        // Texts have no zero bytes: it is behind the end, and mostly the last.
        let end = rest.iter().position(|byte| *byte == 0);
        self.is_over = end.is_some();
        self.reader.feed(&rest[..end.unwrap_or(rest.len())]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(isolation: Isolation, text: &str) -> Option<&'static str> {
        let mut out = BytesMut::new();
        let mut guard = Guard::new(isolation);
        let body = [text.as_bytes(), b"\0"].concat();
        let is_rewritten = guard.rewrite(tag::QUERY, &body, &mut out);
        assert_eq!(is_rewritten, guard.has_refused);
        // The same as it passes, in small pieces.
        let mut passing = Passing::new(isolation, tag::QUERY);
        [b"Q\0\0\0\0", &body[..]].concat().chunks(3).for_each(|piece| passing.feed(piece));
        assert_eq!(outcome(passing.reader.finish()).is_some(), is_rewritten, "{text}");
        let number = std::str::from_utf8(&out).unwrap().split_once(MARKER)?.1;
        let number: usize = number.trim_end_matches(['"', '\0']).parse().unwrap();
        Some(RULES[number].statement)
    }

    #[test]
    fn what_is_harmless_is_one_statement_that_no_rule_is_against() {
        for word in HARMLESS {
            let begins_so = |start: &&&str| start.split(' ').next() == Some(word);
            assert!(!RULES.iter().any(|rule| rule.starts.iter().any(|start| begins_so(&start))), "{word}");
            assert!(is_harmless(word.as_bytes()) && is_harmless(format!(" {word} 1 ;\n").as_bytes()));
        }
        for text in [
            "",
            "select 1; grant a to b",
            "select 1;;",
            "select ';'",
            "selects",
            "select_",
            "select/**/1",
            "selecté",
            "/**/select 1",
            "grant select on a to b",
            "with a as (select 1) grant",
            "begin; alter role a",
        ] {
            assert!(!is_harmless(text.as_bytes()), "{text}");
        }
    }

    const ALL: [Isolation; 4] = [Isolation::Pool, Isolation::Schema, Isolation::Database, Isolation::Cluster];

    #[test]
    fn roles_and_rights_are_refused_in_every_model() {
        for isolation in ALL {
            for (text, statement) in [
                ("alter role current_user password 'x'", "ALTER ROLE"),
                ("ALTER /**/ USER x", "ALTER ROLE"),
                ("select 1; alter group x add user y", "ALTER ROLE"),
                ("alter user mapping password 'x'", "ALTER ROLE"),
                ("create user mapping", "CREATE ROLE"),
                ("create role x", "CREATE ROLE"),
                ("drop user mapping, x", "DROP ROLE"),
                ("drop owned by current_user", "DROP OWNED"),
                ("reassign owned by a to b", "REASSIGN OWNED"),
                ("grant a to b", "GRANT"),
                ("revoke a from b", "REVOKE"),
                ("prepare transaction 'x'", "PREPARE TRANSACTION"),
            ] {
                assert_eq!(refused(isolation, text), Some(statement), "{isolation}: {text}");
            }
            for text in [
                "",
                "select 'alter role x'",
                "alter user mapping for x server y",
                "create user mapping if not exists for x server y",
                "drop user mapping for x server y",
                "prepare x as select 1",
                "select 1 as lock",
                "create table lock (a int)",
                "alter table roles add role text",
            ] {
                assert_eq!(refused(isolation, text), None, "{isolation}: {text}");
            }
        }
    }

    #[test]
    fn what_reaches_others_is_refused_where_there_are_others() {
        let models = |text: &str| ALL.map(|isolation| refused(isolation, text).is_some());
        for text in ["listen x", "notify x"] {
            assert_eq!(models(text), [true, true, false, false], "{text}");
        }
        for text in [
            "lock t",
            "truncate t",
            "begin; lock table t in share mode",
            "create or replace constraint trigger x after insert on t",
            "create trigger x before insert on t",
            "create rule x as on insert to t do nothing",
            "alter index x depends on extension y",
        ] {
            assert_eq!(models(text), [true, false, false, false], "{text}");
        }
        assert_eq!(models("unlisten *"), [false; 4]);
    }

    #[test]
    fn a_parse_keeps_its_name_and_its_types() {
        let (mut guard, mut out) = (Guard::new(Isolation::Pool), BytesMut::new());
        // More parameters than fit into a signed number, which the server takes.
        let types = [&[0x80, 0][..], &[0; 4 * 0x8000]].concat();
        let body = [&b"name\0lock t\0"[..], &types].concat();
        assert!(guard.rewrite(tag::PARSE, &body, &mut out));
        assert!(out[5..].starts_with(b"name\0select \"insula:refused:"));
        assert!(out.ends_with(&types));
        out.clear();
        // A name is no statement.
        assert!(!guard.rewrite(tag::PARSE, b"lock t\0select 1\0\0\0", &mut out));
        assert!(!guard.rewrite(tag::EXECUTE, b"lock t\0", &mut out) && out.is_empty());
    }

    #[test]
    fn only_the_servers_word_on_our_marker_is_ours() {
        let guard = Guard::new(Isolation::Pool);
        let error =
            |sqlstate: &str, message: &str| format!("SERROR\0C{sqlstate}\0M{message}\0\0").into_bytes();
        let ours = guard.refused_by(&error("42703", "Spalte »insula:refused:1« existiert nicht"));
        assert_eq!(ours.map(|rule| rule.statement), Some("ALTER ROLE"));
        for (sqlstate, message) in [
            ("25P02", "column \"insula:refused:1\" does not exist"),
            ("42703", "column \"x\" does not exist"),
            ("42703", "column \"insula:refused:\" does not exist"),
            ("42703", "column \"insula:refused:99\" does not exist"),
        ] {
            assert_eq!(guard.refused_by(&error(sqlstate, message)), None, "{sqlstate} {message}");
        }
    }
}
