//! What the front does with messages of a client as they pass: they are judged,
//! fitted and given the names that the backend knows.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use insula_pg_wire::frontend::{self, BindNames, Named, Parse, put_query};
use insula_pg_wire::{Handling, Header, WireError};
use insula_session_sql::Effects;

use super::lane::{Stopped, Watcher};
use super::memory::{Held, Memory};
use crate::backend::Contents;
use crate::guard::Guard;
use crate::pipeline::{Own, Pipeline, Step, Unnamed};
use crate::prepared::{GONE, Gone, NONE, PREFIX, Shape, Statement, Statements};
use crate::show::{Answers, may_be_show};

/// A `Describe` or `Close` with a longer name names nothing.
const NAMED_BYTES_MAX: u32 = 4096;

/// A longer unnamed statement is not kept for another backend.
const UNNAMED_KEPT_BYTES_MAX: usize = 64 * 1024;

/// A statement with a longer name stays where it is.
const NAME_BYTES_MAX: usize = 1024;

/// Sees what the client sends.
pub(super) struct FromClient<'a> {
    pub pipeline: &'a mut Pipeline,
    pub answers: &'a Answers,
    pub guard: &'a mut Guard,
    pub memory: &'a mut Memory,
    pub contents: &'a mut Contents,
    pub statements: &'a Statements,
    /// No other transaction of its tenant may begin.
    pub is_held: bool,
}

impl Watcher for FromClient<'_> {
    fn begins(&mut self, header: Header) -> Handling {
        if self.pipeline.is_quiet()
            && let Some(fitting) = self.guard.fitting()
        {
            fitting.begins_anew();
        }
        self.memory.begins_at_rest = self.pipeline.is_at_rest();
        self.pipeline.client_sent(header.tag);
        let handling = self.guard.begins(header);
        if !self.memory.wanders() {
            return self.begins_there(header, handling);
        }
        match header.tag {
            frontend::tag::QUERY | frontend::tag::PARSE if handling == Handling::Watch => {
                self.memory.passes();
                if header.tag == frontend::tag::PARSE {
                    // It cannot be given to another backend.
                    self.memory.pin("long_statement");
                    self.pipeline.steps(Step::Plain);
                    self.memory.unnamed.is_there = true;
                }
                handling
            }
            frontend::tag::BIND => Handling::Begin,
            frontend::tag::DESCRIBE | frontend::tag::CLOSE if header.body_bytes <= NAMED_BYTES_MAX => {
                Handling::Hold
            }
            frontend::tag::CLOSE => {
                self.pipeline.steps(Step::Plain);
                handling
            }
            frontend::tag::FUNCTION_CALL => {
                self.memory.pin("function_call");
                handling
            }
            _ => handling,
        }
    }

    fn has_to_wait(&self, header: Header, message: &[u8]) -> bool {
        self.memory.wanders() && self.is_in_doubt(header, message)
    }

    fn whole(&mut self, header: Header, message: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        let at = out.len();
        let body = &message[Header::BYTES..];
        if self.memory.wanders() {
            match header.tag {
                frontend::tag::DESCRIBE | frontend::tag::CLOSE => return self.named(header, message, out),
                frontend::tag::QUERY => return self.query(header, message, out),
                _ => {}
            }
        }
        if !self.memory.wanders() {
            self.notes_resets(header, body);
        }
        let is_changed = may_be_show(header) && self.answers.rewrite(header.tag, body, out)
            || self.guard.rewrite(header.tag, body, out);
        if !is_changed {
            out.extend_from_slice(message);
        }
        if self.memory.wanders() && header.tag == frontend::tag::PARSE {
            let parse = out.split_off(at);
            // What it is made of is needed again where its tenant moves.
            let own = if is_changed { Bytes::copy_from_slice(message) } else { Bytes::new() };
            self.parse(&parse, own, out);
        }
        Ok(())
    }

    fn beginning(
        &mut self,
        header: Header,
        (beginning, next): (&[u8], Option<u8>),
        out: &mut BytesMut,
    ) -> Result<(), WireError> {
        self.memory.bound = None;
        let missing = header.message_bytes() - beginning.len();
        let names = BindNames::from_beginning(&beginning[Header::BYTES..]);
        if let Some(names) = &names {
            self.memory.resets.binds(names.statement);
        }
        if !self.memory.wanders() {
            out.extend_from_slice(beginning);
            return Ok(());
        }
        let Some(names) = names else {
            // The server says what is wrong with it, or knows a statement by it that
            // is not looked at here.
            self.memory.pin("long_statement");
            out.extend_from_slice(beginning);
            return Ok(());
        };
        if names.statement.is_empty() {
            if let Some(effects) = self.memory.unnamed.effects.clone() {
                // It may have been prepared in an earlier turn.
                self.runs(&effects, out);
            }
            let statement = if self.give_unnamed(out) { &b""[..] } else { NONE };
            return BindNames { statement, ..names }.put(missing, out);
        }
        self.uses_name();
        let Some(statement) = self.memory.statement(names.statement).map(Arc::clone) else {
            let statement = if self.memory.stays() { names.statement } else { NONE };
            return BindNames { statement, ..names }.put(missing, out);
        };
        self.runs(&statement.effects, out);
        self.memory.binds(names.portal, names.statement);
        // Who asks again is told again.
        if let Some(told) = self.memory.told(names.statement)
            && next != Some(frontend::tag::DESCRIBE)
            && !self.pipeline.is_skipping()
            && self.checks(&statement, told, out)
        {
            let (portal, rest) = (Bytes::copy_from_slice(names.portal), Bytes::copy_from_slice(names.rest));
            self.memory.held = Some(Box::new(Held { statement, told, portal, rest, missing, fits: None }));
            return Ok(());
        }
        self.give(&statement, out);
        BindNames { statement: statement.name().as_bytes(), ..names }.put(missing, out)
    }

    fn piece(&mut self, piece: &[u8], is_last: bool) -> Result<(), Stopped> {
        if self.memory.passes_piece(piece, is_last).is_some_and(|effects| effects.drops_prepared) {
            self.pipeline.may_drop_all();
        }
        self.guard.piece(piece, is_last).map_err(Stopped::Refused)
    }

    fn waits(&self) -> bool {
        self.memory.held.is_some()
    }

    /// Whether the transaction goes on is known when all is answered.
    fn stops(&self) -> bool {
        self.is_held && self.pipeline.may_end()
    }
}

impl FromClient<'_> {
    /// Whether a message names a prepared statement of which it is not known yet
    /// whether the client, or the backend, has it.
    fn is_in_doubt(&self, header: Header, incoming: &[u8]) -> bool {
        let dropped = self.pipeline.may_have_dropped_all();
        let is_unsure = dropped || self.pipeline.is_unsure();
        let Some(body) = incoming.get(Header::BYTES..header.message_bytes().min(incoming.len())) else {
            return false;
        };
        let named = |name: &[u8]| {
            !name.is_empty()
                && (dropped || self.pipeline.is_in_doubt(header.tag, name, self.memory.statement(name)))
        };
        let used = |name: &[u8]| named(name) || name.is_empty() && self.pipeline.is_unnamed_in_doubt();
        let deallocated =
            |text| insula_session_sql::effects(text).deallocates.is_some_and(|one| named(&one.name));
        match header.tag {
            frontend::tag::PARSE if is_unsure => Parse::from_body(body).is_ok_and(|parse| {
                if parse.name.is_empty() {
                    return deallocated(parse.query);
                }
                // One that nobody has cannot be in doubt.
                let made = self.statements.find(&parse, self.memory.read_under());
                named(parse.name)
                    || made.is_some_and(|made| self.pipeline.is_in_doubt(header.tag, parse.name, Some(&made)))
            }),
            frontend::tag::BIND => BindNames::from_beginning(body).is_some_and(|names| used(names.statement)),
            frontend::tag::DESCRIBE => {
                matches!(Named::from_body(body), Ok(Named::Statement(name)) if used(name))
            }
            frontend::tag::CLOSE => {
                matches!(Named::from_body(body), Ok(Named::Statement(name)) if named(name))
            }
            frontend::tag::QUERY if is_unsure => deallocated(frontend::parse_query(body).unwrap_or_default()),
            _ => false,
        }
    }

    /// The same for a session that keeps its backend from its beginning on.
    fn begins_there(&mut self, header: Header, handling: Handling) -> Handling {
        match header.tag {
            // It is not read for this.
            frontend::tag::QUERY | frontend::tag::PARSE if handling == Handling::Watch => {
                self.memory.resets.runs(true);
                handling
            }
            frontend::tag::BIND if self.memory.resets.minds_names() => Handling::Begin,
            _ => handling,
        }
    }

    /// What such a session runs may reset settings.
    fn notes_resets(&mut self, header: Header, body: &[u8]) {
        let may_reset = |text| insula_session_sql::effects(text).resets_settings;
        match header.tag {
            frontend::tag::QUERY => {
                self.memory.resets.runs(frontend::parse_query(body).is_ok_and(may_reset));
            }
            frontend::tag::PARSE => {
                if let Ok(parse) = Parse::from_body(body) {
                    self.memory.resets.prepares(parse.name, may_reset(parse.query));
                }
            }
            _ => {}
        }
    }

    /// A statement is used by its name. Whether it is there is not known before
    /// the next `Sync` where all may be taken away before: then the session has
    /// this backend for itself.
    fn uses_name(&mut self) {
        if self.pipeline.drops_with_sync() {
            self.memory.pin("statements_dropped");
        }
    }

    /// A `Query`. It takes the unnamed statement away.
    fn query(&mut self, header: Header, message: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        let body = &message[Header::BYTES..];
        self.memory.unnamed = Unnamed::default();
        if may_be_show(header) && self.answers.rewrite(header.tag, body, out) {
            return Ok(());
        }
        let text = frontend::parse_query(body).unwrap_or_default();
        let effects = insula_session_sql::effects(text);
        self.runs(&effects, out);
        if let Some((mut gone, mut text)) = self.deallocated(&effects, text) {
            gone.on_backend = self.contents.kept.uses(&gone.statement);
            if gone.on_backend {
                self.contents.kept.remove(&gone.statement);
            } else if let Some(named) = &effects.deallocates {
                // Its own text could fail to be read, and the server would wait for a
                // Sync. One may be left of a time when this failed.
                let start = named.range.start;
                text.splice(start..start + gone.statement.name().len(), GONE.iter().copied());
                Named::Statement(GONE).put(frontend::tag::CLOSE, out);
                let empty = Parse { name: GONE, query: b"", parameter_types: b"\0\0" };
                if empty.put(out).is_ok() {
                    self.pipeline.steps_before_query(Step::Hidden);
                    self.pipeline.steps_before_query(Step::Hidden);
                }
            }
            self.pipeline.steps_before_query(Step::Deallocated(Box::new(gone)));
            return put_query(out, &text).map_err(|_| WireError::Malformed("a text holds a zero byte"));
        }
        if !self.guard.rewrite(header.tag, body, out) {
            out.extend_from_slice(message);
        }
        Ok(())
    }

    /// A `Parse` as it would go out.
    fn parse(&mut self, message: &[u8], own: Bytes, out: &mut BytesMut) {
        let parse = Parse::from_body(&message[Header::BYTES..]);
        let Ok(parse) = parse else {
            self.pipeline.steps(Step::Plain);
            return out.extend_from_slice(message);
        };
        if parse.name.is_empty() {
            return self.parse_unnamed(&parse, (message, own), out);
        }
        if parse.name.len() > NAME_BYTES_MAX {
            self.memory.pin("long_statement");
        }
        self.uses_name();
        if let Some(statement) = self.memory.statement(parse.name).map(Arc::clone) {
            // The server refuses it, as it has one of that name.
            self.give(&statement, out);
            self.pipeline.steps(Step::Again);
            let _ = Parse { name: statement.name().as_bytes(), ..parse }.put(out);
            return;
        }
        if self.memory.stays() {
            // Beside those of SQL, which have their own names.
            let effects = insula_session_sql::effects(parse.query);
            self.memory.resets.prepares(parse.name, effects.resets_settings);
            self.memory.runs(&effects);
            self.pipeline.steps(Step::Plain);
            return out.extend_from_slice(message);
        }
        let statement = self.statements.get(&parse, self.memory.read_under());
        let bytes = self.memory.bytes_with(parse.name, &statement);
        if self.statements.bytes_of_tenant.is_some_and(|most| bytes > most) {
            self.pipeline.steps(Step::Plain);
            return self.guard.refuse_statement(NONE, out);
        }
        // Nothing can be asked between it and its Bind, if that comes with it.
        self.forgets_sequences(&statement.effects, out);
        let name = Bytes::copy_from_slice(parse.name);
        self.memory.learn(name.clone(), Arc::clone(&statement), own);
        if self.contents.kept.uses(&statement) {
            Named::Statement(NONE).put(frontend::tag::CLOSE, out);
            self.pipeline.steps(Step::KnownAlready(name));
        } else {
            self.put_given(&statement, out, Step::Parse(Arc::clone(&statement), name));
        }
    }

    fn parse_unnamed(&mut self, parse: &Parse<'_>, (message, own): (&[u8], Bytes), out: &mut BytesMut) {
        let effects = insula_session_sql::effects(parse.query);
        self.runs(&effects, out);
        self.memory.resets.prepares(b"", effects.resets_settings);
        let unnamed = if let Some((gone, text)) = self.deallocated(&effects, parse.query) {
            self.give(&gone.statement, out);
            self.contents.kept.remove(&gone.statement);
            self.pipeline.steps(Step::Deallocated(Box::new(gone)));
            let is_there = Parse { query: &text, ..*parse }.put(out).is_ok();
            Unnamed { is_there, ..Unnamed::default() }
        } else {
            out.extend_from_slice(message);
            let effects = (effects != Effects::default()).then(|| Arc::new(effects));
            if message.len() <= UNNAMED_KEPT_BYTES_MAX {
                Unnamed { parse: Bytes::copy_from_slice(message), own, is_there: true, effects }
            } else {
                self.memory.pin("long_statement");
                Unnamed { is_there: true, effects, ..Unnamed::default() }
            }
        };
        let before = std::mem::replace(&mut self.memory.unnamed, unnamed);
        self.changes_unnamed(before);
    }

    /// The unnamed statement is changed; it was this. Of many that are sent ahead
    /// only the backend knows which it is in the end.
    fn changes_unnamed(&mut self, mut before: Unnamed) {
        if self.pipeline.keeps_enough() {
            self.memory.pin("unnamed_ahead");
            before = Unnamed { is_there: true, ..Unnamed::default() };
        }
        let is_none = before.parse.is_empty() && !before.is_there;
        self.pipeline.steps(Step::Unnamed((!is_none).then(|| Box::new(before))));
    }

    /// Notes what a statement leaves behind. What it reads of sequences must be
    /// its own session's.
    fn runs(&mut self, effects: &Effects, out: &mut BytesMut) {
        self.forgets_sequences(effects, out);
        self.memory.runs(effects);
        if effects.drops_prepared {
            self.pipeline.may_drop_all();
        }
    }

    /// Has the backend forget what others have drawn of sequences, before what
    /// reads it.
    fn forgets_sequences(&mut self, effects: &Effects, out: &mut BytesMut) {
        let may_read_others = effects.reads_sequences && !self.memory.stays() && self.memory.begins_at_rest;
        if may_read_others && put_query(out, b"DISCARD SEQUENCES").is_ok() {
            self.pipeline.asks_before(Own::Forget);
        }
    }

    /// The statement of the protocol that a DEALLOCATE names, and the text with
    /// the name that it has on the backend.
    fn deallocated(&mut self, effects: &Effects, text: &[u8]) -> Option<(Gone, Vec<u8>)> {
        let named = effects.deallocates.as_ref()?;
        let Some(gone) = self.memory.forget(&named.name) else {
            if named.name.starts_with(PREFIX) {
                // It may be what others have by its name on the backend.
                self.memory.pin("others_statement");
            }
            return None;
        };
        let (before, behind) = (text.get(..named.range.start)?, text.get(named.range.end..)?);
        self.memory.watches_commands = true;
        let text = [before, gone.statement.name().as_bytes(), behind].concat();
        Some((gone, text))
    }

    /// A `Describe` or a `Close`.
    fn named(&mut self, header: Header, message: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        let is_close = header.tag == frontend::tag::CLOSE;
        let named = Named::from_body(&message[Header::BYTES..])?;
        if matches!(named, Named::Statement(name) if !name.is_empty()) {
            self.uses_name();
        }
        let changed = match named {
            Named::Portal(_) => named,
            Named::Statement(b"") if is_close => {
                named.put(header.tag, out);
                let before = std::mem::take(&mut self.memory.unnamed);
                self.changes_unnamed(before);
                return Ok(());
            }
            Named::Statement(b"") => Named::Statement(if self.give_unnamed(out) { b"" } else { NONE }),
            Named::Statement(name) if is_close => match self.memory.forget(name) {
                Some(gone) => {
                    // Others may use it: it stays with the backend.
                    Named::Statement(NONE).put(header.tag, out);
                    self.pipeline.steps(Step::Close(Box::new(gone)));
                    return Ok(());
                }
                None if self.memory.stays() => named,
                // By another name of the backend's it would be others'.
                None => Named::Statement(NONE),
            },
            Named::Statement(name) => match self.memory.statement(name).map(Arc::clone) {
                Some(statement) => {
                    self.give(&statement, out);
                    Named::Statement(statement.name().as_bytes()).put(header.tag, out);
                    let name = Bytes::copy_from_slice(name);
                    self.pipeline.steps(Step::Describe(Some((statement, name))));
                    return Ok(());
                }
                None if self.memory.stays() => named,
                None => Named::Statement(NONE),
            },
        };
        changed.put(header.tag, out);
        match changed {
            _ if is_close => self.pipeline.steps(Step::Plain),
            Named::Statement(_) => self.pipeline.steps(Step::Describe(None)),
            Named::Portal(portal) => {
                let of = self.unknown_of(portal);
                self.pipeline.steps(Step::DescribePortal(of));
            }
        }
        Ok(())
    }

    /// The statement of a portal, and what the client calls it, where it is not
    /// known yet what it gives.
    fn unknown_of(&self, portal: &[u8]) -> Option<(Arc<Statement>, Bytes)> {
        let bound = self.memory.bound.as_ref().filter(|bound| bound.portal == portal)?;
        let shape = self.contents.kept.shape(&bound.statement);
        let told = self.memory.told(&bound.name);
        let is_known = shape.zip(told).is_some_and(|(shape, told)| shape.fits(told));
        (!is_known).then(|| (Arc::clone(&bound.statement), bound.name.clone()))
    }

    /// Whether the server has to be asked what a statement gives before it runs,
    /// since its client was told something. The answer comes at once.
    fn checks(&mut self, statement: &Arc<Statement>, told: Shape, out: &mut BytesMut) -> bool {
        let name = Named::Statement(statement.name().as_bytes());
        let is_there = self.contents.kept.uses(statement);
        match self.contents.kept.shape(statement) {
            Some(shape) if shape.fits(told) => return false,
            Some(_) => {
                // It was made before the client was told, or after.
                name.put(frontend::tag::CLOSE, out);
                self.pipeline.steps(Step::Dropped(self.contents.kept.gives_up(statement)));
                self.give(statement, out);
            }
            None if is_there => {}
            None => self.give(statement, out),
        }
        name.put(frontend::tag::DESCRIBE, out);
        self.pipeline.steps(Step::Check(Arc::clone(statement)));
        frontend::put_flush(out);
        true
    }

    /// Makes the backend have a statement.
    fn give(&mut self, statement: &Arc<Statement>, out: &mut BytesMut) {
        if !self.contents.kept.uses(statement) {
            if !statement.fits(&self.memory.read_under()) {
                // Read under what is set now, it is not what others have by its name.
                self.memory.pin("statement_read_otherwise");
            }
            self.put_given(statement, out, Step::Given(Arc::clone(statement)));
        }
    }

    fn put_given(&mut self, statement: &Statement, out: &mut BytesMut, step: Step) {
        if statement.put_parse(out).is_err() {
            return;
        }
        self.pipeline.steps(step);
        if let Some(dropped) = self.contents.kept.add(statement) {
            Named::Statement(dropped.name().as_bytes()).put(frontend::tag::CLOSE, out);
            self.pipeline.steps(Step::Dropped(dropped));
        }
    }

    /// Makes the backend have the session's unnamed statement; false where the
    /// session has none.
    fn give_unnamed(&mut self, out: &mut BytesMut) -> bool {
        let unnamed = &mut self.memory.unnamed;
        if !unnamed.is_there && !unnamed.parse.is_empty() {
            out.extend_from_slice(&unnamed.parse);
            unnamed.is_there = true;
            self.pipeline.steps(Step::GivenUnnamed);
        }
        unnamed.is_there
    }
}
