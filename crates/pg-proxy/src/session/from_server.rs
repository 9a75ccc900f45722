//! What the front does with messages of a server as they pass: the client gets
//! what it has asked for, and the session learns what became of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use insula_pg_wire::backend::{
    self, Notification, error_fields, parse_command_complete, parse_parameter_status, parse_ready_for_query,
    put_error, put_error_fields, put_parse_complete,
};
use insula_pg_wire::{Handling, Header, WireError};

use super::lane::{Stopped, Watcher};
use super::memory::Memory;
use crate::backend::Contents;
use crate::guard::Guard;
use crate::pipeline::{Behind, Own, Pipeline, Step};
use crate::prepared::{OUTDATED, Shape};
use crate::refusal::Refusal;
use crate::settings::APPLICATION_NAME;
use crate::vital::Vital;

/// Longer errors and settings pass as they are.
const LOOKED_AT_BYTES_MAX: u32 = 16 * 1024;

/// The place in PostgreSQL's source that finds that a prepared statement does
/// not fit its tables any more. It is the same in every language.
const STALE_ROUTINE: (u8, &[u8]) = (b'R', b"RevalidateCachedQuery");

/// What PostgreSQL says of a statement that gives something else than before. By
/// the routine drivers know that they may prepare it anew.
const CHANGED_RESULT: [(u8, &[u8]); 5] = [
    (b'S', b"ERROR"),
    (b'V', b"ERROR"),
    (b'C', b"0A000"),
    (b'M', b"cached plan must not change result type"),
    STALE_ROUTINE,
];

/// The server does not know the name that stands for such a statement.
fn is_outdated(fields: &[(u8, &[u8])]) -> bool {
    let names_it = |text: &[u8]| text.windows(OUTDATED.len()).any(|window| window == OUTDATED);
    fields.contains(&(b'C', b"26000")) && fields.iter().any(|(field, text)| *field == b'M' && names_it(text))
}

/// The SQLSTATE of a statement that was cancelled, among an error's fields.
const CANCELED: (u8, &[u8]) = (b'C', b"57014");

/// The SQLSTATE of a session that is ended from outside.
const ENDED: (u8, &[u8]) = (b'C', b"57P01");

/// Sees what the server says.
pub(super) struct FromServer<'a> {
    pub pipeline: &'a mut Pipeline,
    pub guard: &'a mut Guard,
    pub memory: &'a mut Memory,
    pub contents: &'a mut Contents,
    pub last_was_error: &'a mut bool,
    /// Where the session is to be seen.
    pub vital: &'a Vital,
    /// The statement was cancelled because it took longer than this.
    pub timed_out: Option<Duration>,
    /// Its tenant is being moved, or has been.
    pub is_moving: bool,
}

impl Watcher for FromServer<'_> {
    fn has_to_wait(&self, _: Header, _: &[u8]) -> bool {
        false
    }

    fn begins(&mut self, header: Header) -> Handling {
        if self.pipeline.answers_own().is_some() {
            return Handling::Hold;
        }
        *self.last_was_error = header.tag == backend::tag::ERROR_RESPONSE;
        if header.tag == backend::tag::READY_FOR_QUERY && header.body_bytes == 1 {
            return Handling::Hold;
        }
        if header.tag == backend::tag::NOTIFICATION_RESPONSE && self.guard.fitting().is_some() {
            return Handling::Hold;
        }
        self.pipeline.server_sent(header.tag);
        if self.pipeline.skips_check() {
            self.memory.goes_on(None);
        }
        let wanders = self.memory.wanders();
        let is_looked_at = match header.tag {
            backend::tag::PARAMETER_STATUS => true,
            backend::tag::ERROR_RESPONSE => {
                wanders || self.guard.minds_errors() || self.timed_out.is_some() || self.is_moving
            }
            backend::tag::COMMAND_COMPLETE => self.memory.watches_commands,
            backend::tag::PARSE_COMPLETE | backend::tag::CLOSE_COMPLETE => self.pipeline.awaits_step(),
            // However long: PostgreSQL has bounds for parameters and columns.
            backend::tag::PARAMETER_DESCRIPTION if self.pipeline.awaits_description() => {
                return Handling::Hold;
            }
            backend::tag::ROW_DESCRIPTION | backend::tag::NO_DATA => match self.pipeline.awaits_portal() {
                Some(false) => {
                    self.pipeline.stepped();
                    false
                }
                Some(true) => return Handling::Hold,
                None if self.memory.parameters.is_some() => return Handling::Hold,
                None => false,
            },
            _ => false,
        };
        if is_looked_at && header.body_bytes <= LOOKED_AT_BYTES_MAX { Handling::Hold } else { Handling::Pass }
    }

    fn whole(&mut self, header: Header, message: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        let body = &message[Header::BYTES..];
        if let Some(own) = self.pipeline.answers_own() {
            return self.own(own, header, message, out);
        }
        match header.tag {
            backend::tag::NOTIFICATION_RESPONSE => return self.notification(message, out),
            backend::tag::ERROR_RESPONSE => {
                if self.error(body, out) {
                    return Ok(());
                }
            }
            backend::tag::PARAMETER_STATUS => {
                self.setting(body)?;
                self.memory.reported = Arc::clone(&self.contents.reported);
            }
            backend::tag::COMMAND_COMPLETE => self.command(parse_command_complete(body)?),
            backend::tag::PARSE_COMPLETE | backend::tag::CLOSE_COMPLETE => {
                return self.stepped(header, message, out);
            }
            backend::tag::PARAMETER_DESCRIPTION => {
                self.memory.parameters = Some(Bytes::copy_from_slice(body));
                if self.pipeline.awaits_check() {
                    return Ok(());
                }
            }
            backend::tag::ROW_DESCRIPTION | backend::tag::NO_DATA => {
                if self.described(body)? {
                    return Ok(());
                }
            }
            _ => {
                let skipped = self.pipeline.server_ready(parse_ready_for_query(body)?);
                skipped.into_iter().for_each(|step| self.skipped(step));
            }
        }
        out.extend_from_slice(message);
        Ok(())
    }

    fn beginning(
        &mut self,
        _: Header,
        (beginning, _): (&[u8], Option<u8>),
        out: &mut BytesMut,
    ) -> Result<(), WireError> {
        out.extend_from_slice(beginning);
        Ok(())
    }

    fn piece(&mut self, _: &[u8], _: bool) -> Result<(), Stopped> {
        Ok(())
    }

    fn waits(&self) -> bool {
        false
    }
}

impl FromServer<'_> {
    /// Writes an error as the client is to have it; false where it is so
    /// already.
    fn error(&mut self, body: &[u8], out: &mut BytesMut) -> bool {
        if self.memory.wanders() && error_fields(body).is_ok_and(|fields| fields.contains(&STALE_ROUTINE)) {
            self.memory.changed_definitions = true;
        }
        if let Some(limit) = self.timed_out
            && error_fields(body).is_ok_and(|fields| fields.contains(&CANCELED))
        {
            put_error(out, &Refusal::statement_timeout(limit).statement_fields());
            return true;
        }
        if self.is_moving && error_fields(body).is_ok_and(|fields| fields.contains(&ENDED)) {
            put_error(out, &Refusal::moved().fields());
            return true;
        }
        if self.memory.wanders() && error_fields(body).is_ok_and(|fields| is_outdated(&fields)) {
            put_error_fields(out, &CHANGED_RESULT);
            return true;
        }
        if let Some(rule) = self.guard.refused_by(body) {
            put_error(out, &Refusal::statement(rule).statement_fields());
            return true;
        }
        self.guard.put_error(body, out)
    }

    /// A notification, as its channel is called by the client.
    fn notification(&mut self, message: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        match self.guard.fitting() {
            Some(fitting) => {
                fitting.put_notification(Notification::from_body(&message[Header::BYTES..])?, out);
            }
            None => out.extend_from_slice(message),
        }
        Ok(())
    }

    fn setting(&mut self, body: &[u8]) -> Result<(), WireError> {
        let (name, value) = parse_parameter_status(body)?;
        if let Some(fitting) = self.guard.fitting() {
            fitting.setting(name, value);
        }
        if name == APPLICATION_NAME {
            self.vital.is_called(value);
        }
        Arc::make_mut(&mut self.contents.reported).take(name, value);
        Ok(())
    }

    fn command(&mut self, command: &[u8]) {
        if matches!(command, b"DISCARD ALL" | b"DEALLOCATE ALL") {
            self.memory.forget_all();
            self.contents.kept.clear();
        } else if command == b"DEALLOCATE" && !self.pipeline.deallocates() {
            self.memory.pin("deallocated");
        }
    }

    /// The answer to a message about prepared statements.
    fn stepped(&mut self, header: Header, message: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        let is_parse = header.tag == backend::tag::PARSE_COMPLETE;
        match self.pipeline.stepped() {
            Some(Step::Plain | Step::Unnamed(_)) => out.extend_from_slice(message),
            Some(Step::Parse(..)) if is_parse => out.extend_from_slice(message),
            Some(Step::Again) if is_parse => {
                // It had none after all: by a name of the front's the backend has
                // another text now than others expect.
                self.memory.pin("statement_again");
                out.extend_from_slice(message);
            }
            Some(Step::Close(_)) if !is_parse => out.extend_from_slice(message),
            Some(Step::Hidden) => {}
            Some(Step::Given(_) | Step::GivenUnnamed) if is_parse => {}
            Some(Step::KnownAlready(_)) if !is_parse => put_parse_complete(out),
            Some(Step::Dropped(_)) if !is_parse => {}
            _ => return Err(WireError::Malformed("an answer to what was not asked")),
        }
        Ok(())
    }

    /// What a statement takes is known, and now what it gives. Whether it was
    /// the front that asked.
    fn described(&mut self, rows: &[u8]) -> Result<bool, WireError> {
        let shape = Shape::new(self.memory.parameters.take().as_deref(), rows)?;
        match self.pipeline.stepped() {
            Some(Step::Check(statement)) => {
                self.contents.kept.described(&statement, shape);
                self.memory.goes_on(Some(shape));
                Ok(true)
            }
            Some(Step::Describe(Some((statement, name))) | Step::DescribePortal(Some((statement, name)))) => {
                self.contents.kept.described(&statement, shape);
                self.memory.tell(&name, &statement, shape);
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// The server has not looked at it, behind an error, or it is the error.
    fn skipped(&mut self, step: Step) {
        match step {
            Step::Parse(statement, name) => {
                self.contents.kept.remove(&statement);
                self.memory.forget(&name);
            }
            Step::KnownAlready(name) => drop(self.memory.forget(&name)),
            Step::Close(gone) => self.memory.recall(*gone),
            Step::Deallocated(gone) => {
                if gone.on_backend {
                    self.contents.kept.keeps_still(&gone.statement);
                }
                self.memory.recall(*gone);
            }
            Step::Given(statement) => self.contents.kept.remove(&statement),
            // What was sent behind it, and is not skipped, changes it too.
            Step::Unnamed(before) => match self.pipeline.behind() {
                Behind::Nothing => self.memory.unnamed = before.map(|before| *before).unwrap_or_default(),
                Behind::Step(later) => *later = before,
                Behind::Query => {}
            },
            Step::GivenUnnamed => match self.pipeline.behind() {
                Behind::Nothing => self.memory.unnamed.is_there = false,
                Behind::Step(Some(later)) => later.is_there = false,
                Behind::Step(None) | Behind::Query => {}
            },
            Step::Dropped(dropped) => self.contents.kept.keeps(dropped),
            Step::Plain
            | Step::Hidden
            | Step::Again
            | Step::Describe(_)
            | Step::DescribePortal(_)
            | Step::Check(_) => {}
        }
    }

    /// An answer to what the front itself has asked.
    fn own(&mut self, own: Own, header: Header, message: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        let body = &message[Header::BYTES..];
        match (own, header.tag) {
            (_, backend::tag::PARAMETER_STATUS) => self.setting(body)?,
            (Own::Restore | Own::Forget, backend::tag::ERROR_RESPONSE) => {
                return Err(WireError::Malformed("it does not take the session's settings"));
            }
            (_, backend::tag::NOTIFICATION_RESPONSE) => return self.notification(message, out),
            (Own::Ask | Own::PutBack, backend::tag::ERROR_RESPONSE) => {
                let is_cut_short = error_fields(body).is_ok_and(|fields| fields.contains(&CANCELED));
                self.memory.not_answered(is_cut_short);
            }
            (Own::Ask, backend::tag::DATA_ROW) => {
                let taken = self.memory.answer.as_mut().map(|answer| answer.take_row(body)).transpose()?;
                if taken == Some(false) {
                    self.memory.answer = None;
                }
            }
            (_, backend::tag::READY_FOR_QUERY) => {
                let _ = self.pipeline.server_ready(parse_ready_for_query(body)?);
                match own {
                    Own::Restore => self.contents.settings = Arc::clone(&self.memory.settings),
                    Own::Ask => self.contents.settings = self.memory.answered(),
                    Own::PutBack => self.memory.was_put_back(),
                    Own::Forget => {}
                }
                self.tell_news(out);
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells the client what the backend reports otherwise than the last one.
    pub fn tell_news(&mut self, out: &mut BytesMut) {
        if *self.contents.reported != *self.memory.reported {
            self.contents.reported.put_news(&self.memory.reported, out);
        }
        self.memory.reported = Arc::clone(&self.contents.reported);
    }
}
