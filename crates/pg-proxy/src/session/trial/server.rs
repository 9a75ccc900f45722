//! A server that plays PostgreSQL: what it answers depends on the text of a
//! statement and on what it has been told before, so that two of them that are
//! told the same say the same. It knows what it owes. Source: PostgreSQL's
//! documentation, chapter "Frontend/Backend Protocol", and `postgres.c`.

use std::collections::{BTreeMap, HashMap};

use bytes::{Buf, BytesMut};
use insula_pg_wire::backend::{
    put_command_complete, put_data_row, put_error, put_parse_complete, put_ready_for_query, tag,
};
use insula_pg_wire::frontend::{self, BindNames, Named, Parse, parse_query};
use insula_pg_wire::{ErrorFields, Header, Severity, TransactionStatus};

use super::statement::Statement;

/// What it answers to messages that have no body.
const BIND_COMPLETE: &[u8] = b"2\0\0\0\x04";
const CLOSE_COMPLETE: &[u8] = b"3\0\0\0\x04";
const NO_DATA: &[u8] = b"n\0\0\0\x04";
const PARAMETER_DESCRIPTION: &[u8] = b"t\0\0\0\x06\0\0";
const COPY_IN_RESPONSE: &[u8] = b"G\0\0\0\x07\0\0\0";
const EMPTY_QUERY_RESPONSE: &[u8] = b"I\0\0\0\x04";
const FUNCTION_CALL_RESPONSE: &[u8] = b"V\0\0\0\x08\xff\xff\xff\xff";

/// The settings of a session.
pub(super) type Settings = BTreeMap<String, String>;

/// In which protocol a COPY runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copying {
    Simple,
    Extended,
}

/// A statement that cannot go on.
struct Failed;

/// A server with one session.
#[derive(Debug)]
pub(super) struct Server {
    /// What has come and is not looked at yet.
    pub input: BytesMut,
    /// What it has said.
    pub out: BytesMut,
    pub settings: Settings,
    /// Those of before the transaction.
    saved: Option<Settings>,
    prepared: HashMap<Vec<u8>, Vec<u8>>,
    /// The texts of the statements, and their parameters.
    portals: HashMap<Vec<u8>, (Vec<u8>, Vec<u8>)>,
    status: TransactionStatus,
    copying: Option<Copying>,
    /// An error has been told of, and nothing counts up to a `Sync`.
    skips: bool,
    /// Messages of the extended protocol have come, and no `Sync` yet.
    unsynced: bool,
    /// What has come is nothing that a session goes on after.
    pub is_lost: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            input: BytesMut::new(),
            out: BytesMut::new(),
            settings: Settings::new(),
            saved: None,
            prepared: HashMap::new(),
            portals: HashMap::new(),
            status: TransactionStatus::Idle,
            copying: None,
            skips: false,
            unsynced: false,
            is_lost: false,
        }
    }
}

impl Server {
    /// It owes nothing, and nobody owes it anything.
    pub fn is_at_rest(&self) -> bool {
        self.has_only_leftovers()
            && self.out.is_empty()
            && self.copying.is_none()
            && !self.skips
            && !self.unsynced
            && self.status == TransactionStatus::Idle
    }

    /// The prepared statements by names of the front's.
    pub fn shared(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let shared = self.prepared.iter().filter(|(name, _)| name.starts_with(b"insula_"));
        shared.map(|(name, text)| (name.clone(), text.clone())).collect()
    }

    /// Of COPY data that comes too late nobody hears anything: it is passed over.
    fn has_only_leftovers(&self) -> bool {
        let mut rest = &self.input[..];
        while let Ok(Some(Header { tag, .. })) = Header::parse(rest)
            && matches!(tag, frontend::tag::COPY_DATA | frontend::tag::COPY_DONE | frontend::tag::COPY_FAIL)
            && let Ok(Some(header)) = Header::parse(rest)
            && rest.len() >= header.message_bytes()
        {
            rest = &rest[header.message_bytes()..];
        }
        rest.is_empty()
    }

    /// Looks at the next message; false where none is whole.
    pub fn step(&mut self) -> bool {
        if self.is_lost {
            return false;
        }
        match Header::parse(&self.input) {
            Err(_) => {
                self.is_lost = true;
                false
            }
            Ok(Some(header)) if self.input.len() >= header.message_bytes() => {
                let message = self.input.split_to(header.message_bytes());
                self.message(header.tag, &message[Header::BYTES..]);
                true
            }
            Ok(_) => false,
        }
    }

    fn message(&mut self, message_tag: u8, body: &[u8]) {
        if let Some(copying) = self.copying {
            return self.copy(copying, message_tag, body);
        }
        match message_tag {
            frontend::tag::SYNC => return self.sync(),
            frontend::tag::TERMINATE => {
                self.is_lost = true;
                return;
            }
            _ if self.skips => return,
            frontend::tag::COPY_DATA | frontend::tag::COPY_DONE | frontend::tag::COPY_FAIL => return,
            frontend::tag::QUERY => return self.query(body),
            frontend::tag::FUNCTION_CALL => {
                self.out.extend_from_slice(FUNCTION_CALL_RESPONSE);
                return put_ready_for_query(&mut self.out, self.status);
            }
            _ => self.unsynced = true,
        }
        let done = match message_tag {
            frontend::tag::PARSE => self.parse(body),
            frontend::tag::BIND => self.bind(body),
            frontend::tag::DESCRIBE => self.describe(body),
            frontend::tag::EXECUTE => self.execute(body),
            frontend::tag::CLOSE => self.close(body),
            frontend::tag::FLUSH => Ok(()),
            _ => {
                self.is_lost = true;
                Ok(())
            }
        };
        if done.is_err() {
            self.fails();
            self.skips = true;
        }
    }

    fn sync(&mut self) {
        (self.skips, self.unsynced) = (false, false);
        self.rests();
    }

    /// Is ready for the next question; outside of a block the transaction ends.
    fn rests(&mut self) {
        if self.status == TransactionStatus::Idle {
            self.saved = None;
            self.portals.clear();
        }
        put_ready_for_query(&mut self.out, self.status);
    }

    fn fails(&mut self) {
        let text = |text: &str| text.to_owned();
        let fields = ErrorFields {
            severity: Severity::Error,
            sqlstate: "XX000",
            message: text("no"),
            detail: None,
            hint: None,
        };
        put_error(&mut self.out, &fields);
        match self.status {
            TransactionStatus::Idle => self.takes_back(),
            _ => self.status = TransactionStatus::Failed,
        }
    }

    fn takes_back(&mut self) {
        if let Some(saved) = self.saved.take() {
            self.settings = saved;
        }
        self.portals.clear();
    }

    fn copy(&mut self, copying: Copying, message_tag: u8, body: &[u8]) {
        let has_failed = match message_tag {
            frontend::tag::SYNC | frontend::tag::FLUSH => return,
            frontend::tag::COPY_DATA if body.starts_with(b"bad") => true,
            frontend::tag::COPY_DATA => return,
            frontend::tag::COPY_FAIL => true,
            frontend::tag::COPY_DONE => false,
            _ => {
                self.is_lost = true;
                return;
            }
        };
        self.copying = None;
        if has_failed {
            self.fails();
            self.skips = copying == Copying::Extended;
        } else {
            put_command_complete(&mut self.out, "COPY 1");
        }
        if copying == Copying::Simple {
            self.rests();
        }
    }

    fn query(&mut self, body: &[u8]) {
        self.prepared.remove(&b""[..]);
        let Ok(text) = parse_query(body) else {
            self.is_lost = true;
            return;
        };
        for text in Statement::several(text) {
            match self.runs(text, b"", Copying::Simple) {
                Ok(()) if self.copying.is_some() => return,
                Ok(()) => {}
                Err(Failed) => {
                    self.fails();
                    break;
                }
            }
        }
        self.rests();
    }

    /// What is refused in a transaction that has failed.
    fn checks(&self, text: &[u8]) -> Result<Statement, Failed> {
        let statement = Statement::of(text);
        let ends = matches!(statement, Statement::Commit | Statement::Rollback);
        if self.status == TransactionStatus::Failed && !ends { Err(Failed) } else { Ok(statement) }
    }

    fn parse(&mut self, body: &[u8]) -> Result<(), Failed> {
        let parse = Parse::from_body(body).map_err(|_| Failed)?;
        // In a transaction that has failed PostgreSQL refuses it. Behind the front
        // that shows with the Bind where a backend has the statement already.
        let is_there = !parse.name.is_empty() && self.prepared.contains_key(parse.name);
        if is_there || Statement::of(parse.query) == Statement::FailsToParse {
            return Err(Failed);
        }
        self.prepared.insert(parse.name.to_vec(), parse.query.to_vec());
        put_parse_complete(&mut self.out);
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Failed> {
        let names = BindNames::from_beginning(body).ok_or(Failed)?;
        let text = self.prepared.get(names.statement).ok_or(Failed)?.clone();
        self.checks(&text)?;
        let is_there = !names.portal.is_empty() && self.portals.contains_key(names.portal);
        if is_there {
            return Err(Failed);
        }
        self.portals.insert(names.portal.to_vec(), (text, names.rest.to_vec()));
        self.out.extend_from_slice(BIND_COMPLETE);
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Failed> {
        let text = match Named::from_body(body).map_err(|_| Failed)? {
            Named::Statement(name) => self.prepared.get(name).ok_or(Failed)?,
            Named::Portal(name) => &self.portals.get(name).ok_or(Failed)?.0,
        };
        self.checks(text)?;
        if body[0] == b'S' {
            self.out.extend_from_slice(PARAMETER_DESCRIPTION);
        }
        self.out.extend_from_slice(NO_DATA);
        Ok(())
    }

    fn close(&mut self, body: &[u8]) -> Result<(), Failed> {
        match Named::from_body(body).map_err(|_| Failed)? {
            Named::Statement(name) => drop(self.prepared.remove(name)),
            Named::Portal(name) => drop(self.portals.remove(name)),
        }
        self.out.extend_from_slice(CLOSE_COMPLETE);
        Ok(())
    }

    fn execute(&mut self, mut body: &[u8]) -> Result<(), Failed> {
        let end = body.iter().position(|byte| *byte == 0).ok_or(Failed)?;
        let (text, parameters) = self.portals.get(&body[..end]).ok_or(Failed)?.clone();
        body.advance(end + 1);
        self.runs(&text, &parameters, Copying::Extended)
    }

    /// Runs a statement, up to what ends it.
    fn runs(&mut self, text: &[u8], parameters: &[u8], protocol: Copying) -> Result<(), Failed> {
        let statement = self.checks(text)?;
        if self.saved.is_none() {
            self.saved = Some(self.settings.clone());
        }
        let command = match statement {
            Statement::Empty => {
                self.out.extend_from_slice(EMPTY_QUERY_RESPONSE);
                return Ok(());
            }
            Statement::FailsToParse | Statement::Fails => return Err(Failed),
            Statement::CopyIn => {
                self.copying = Some(protocol);
                self.out.extend_from_slice(COPY_IN_RESPONSE);
                return Ok(());
            }
            Statement::Begin => {
                self.status = TransactionStatus::InTransaction;
                "BEGIN"
            }
            Statement::Commit if self.status != TransactionStatus::Failed => {
                self.status = TransactionStatus::Idle;
                self.saved = None;
                self.portals.clear();
                "COMMIT"
            }
            Statement::Commit | Statement::Rollback => {
                self.takes_back();
                self.status = TransactionStatus::Idle;
                "ROLLBACK"
            }
            Statement::Set(name, value) => {
                self.settings.insert(name, value);
                "SET"
            }
            Statement::ResetAll => {
                self.settings.clear();
                "RESET"
            }
            Statement::DiscardAll => {
                // Not where it could not be taken back.
                if self.status != TransactionStatus::Idle || protocol == Copying::Extended {
                    return Err(Failed);
                }
                self.settings.clear();
                self.saved = None;
                self.prepared.clear();
                "DISCARD ALL"
            }
            Statement::Deallocate(name) => {
                self.prepared.remove(&name).ok_or(Failed)?;
                "DEALLOCATE"
            }
            Statement::DeallocateAll => {
                self.prepared.clear();
                "DEALLOCATE ALL"
            }
            Statement::Restores(settings) => {
                self.settings.extend(settings);
                self.row(b"");
                "SELECT 1"
            }
            Statement::Asks(names) => {
                for name in names {
                    let value = self.settings.get(&name).map(|value| value.as_bytes());
                    put_data_row(&mut self.out, &[Some(name.as_bytes()), value]);
                }
                "SELECT"
            }
            Statement::Show(name) => {
                let value = self.settings.get(&name).cloned().unwrap_or_default();
                self.row(value.as_bytes());
                "SHOW"
            }
            Statement::Says(what) => {
                self.row(&[&what, parameters].concat());
                "SELECT 1"
            }
        };
        put_command_complete(&mut self.out, command);
        Ok(())
    }

    fn row(&mut self, value: &[u8]) {
        put_data_row(&mut self.out, &[Some(value)]);
    }
}

/// What a message of a server says, as far as it must not depend on which
/// server says it: an error's words name statements as the front calls them.
pub(super) fn essence(message: &insula_pg_wire::Message) -> (char, Vec<u8>) {
    let body = if message.tag == tag::ERROR_RESPONSE { Vec::new() } else { message.body.to_vec() };
    (char::from(message.tag), body)
}
