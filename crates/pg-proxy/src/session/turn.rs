//! A session's turn with a backend, for one transaction: what has to be done
//! before the first statement, and when it is over.

use std::sync::Arc;

use insula_pg_wire::WireError;
use insula_pg_wire::frontend::{BindNames, put_query};

use super::lane::Lane;
use super::memory::Memory;
use crate::backend::Contents;
use crate::pipeline::{Own, Pipeline};
use crate::prepared::OUTDATED;
use crate::settings::SessionSettings;

/// What a turn is decided by.
pub(super) struct Turn<'a> {
    pub memory: &'a mut Memory,
    pub pipeline: &'a mut Pipeline,
    pub to_server: &'a mut Lane,
    pub to_client: &'a mut Lane,
}

/// How far a turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It goes on.
    No,
    /// The server is asked first for what is set.
    Asked,
    /// The backend may go to another session.
    Over,
}

impl Turn<'_> {
    /// Makes the backend be as the session has left its last one. Prepared
    /// statements of older definitions are not of use any more.
    pub fn begin(&mut self, contents: &mut Contents, definitions: u64) {
        let mut restores = Vec::new();
        if contents.definitions != definitions {
            contents.definitions = definitions;
            contents.kept.clear();
            restores.push("DEALLOCATE ALL".to_owned());
        }
        if !SessionSettings::are_same(&contents.settings, &self.memory.settings) {
            restores.push(self.memory.settings.restore());
        }
        if !restores.is_empty() {
            self.ask(&restores.join("; "), Own::Restore);
        } else if !Arc::ptr_eq(&contents.reported, &self.memory.reported) {
            if *contents.reported != *self.memory.reported {
                self.to_client.put(|out| contents.reported.put_news(&self.memory.reported, out));
                self.memory.reported = Arc::clone(&contents.reported);
            } else if Arc::as_ptr(&contents.reported) < Arc::as_ptr(&self.memory.reported) {
                // Among those that have the same one is left in the end, and the next
                // comparison is one of addresses.
                self.memory.reported = Arc::clone(&contents.reported);
            } else {
                contents.reported = Arc::clone(&self.memory.reported);
            }
        }
        self.memory.unnamed.is_there = false;
    }

    /// Whether it is over: between two transactions, when nothing is on its way.
    pub fn end(&mut self) -> Ending {
        if !self.pipeline.is_idle()
            // The backend ends with the goodbye that it has or gets.
            || self.pipeline.is_terminated()
            || !self.to_server.is_at_a_bound()
            || !self.to_client.has_all_cut()
        {
            return Ending::No;
        }
        if self.memory.stays() {
            let put_back = self.memory.put_back();
            return put_back.map_or(Ending::No, |sql| {
                self.ask(&sql, Own::PutBack);
                Ending::Asked
            });
        }
        self.memory.watches_commands = false;
        self.memory.reads_otherwise = false;
        if self.memory.settings_in_doubt() {
            let sql = self.memory.ask();
            self.ask(&sql, Own::Ask);
            return Ending::Asked;
        }
        Ending::Over
    }

    /// Whether what the client has sent waits to know what a statement gives; it
    /// goes on when that is known.
    pub fn holds(&mut self) -> Result<bool, WireError> {
        let Some(held) = &self.memory.held else { return Ok(false) };
        let Some(fits) = held.fits else { return Ok(true) };
        let statement = if fits { held.statement.name().as_bytes() } else { OUTDATED };
        let names = BindNames { portal: &held.portal, statement, rest: &held.rest };
        let mut put = Ok(());
        self.to_server.put(|out| put = names.put(held.missing, out));
        put?;
        self.memory.held = None;
        Ok(false)
    }

    /// Has the server run statements of the front's own, which hold no zero
    /// bytes.
    fn ask(&mut self, sql: &str, own: Own) {
        self.to_server.put(|out| {
            let _ = put_query(out, sql.as_bytes());
        });
        self.pipeline.asks(own);
    }
}
