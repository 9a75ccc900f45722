//! What a session remembers while it has no backend: its settings, its prepared
//! statements, and whether it can be without one at all.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use insula_pg_wire::Header;
use insula_pg_wire::frontend::Parse;
use insula_session_sql::{Effects, Watch};
use tracing::Span;

use super::resets::Resets;
use crate::account::Account;
use crate::measure::Pinned;
use crate::pipeline::Unnamed;
use crate::prepared::{Gone, ReadUnder, Shape, Statement, Statements};
use crate::settings::{Reported, SessionSettings};

/// Prepared statements of one session, and bytes of their texts. A session with
/// more keeps its backend.
const STATEMENTS_MAX: usize = 5_000;
const STATEMENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What one counts at least.
const STATEMENT_BYTES_LEAST: usize = 128;

/// How often the server is asked what is set where the question is cut short:
/// by a cancel that was on its way before, or by a limit that the client has set.
const ASKS_MAX: u8 = 3;

/// Custom settings of one session.
const CUSTOM_MAX: usize = 100;

/// What a session remembers.
#[derive(Debug)]
pub(super) struct Memory {
    /// It gives its backend back after each transaction.
    wanders: bool,
    /// Why it cannot any more.
    pinned: Option<Pinned>,
    pub settings: Arc<SessionSettings>,
    /// What it began with: to what RESET leads.
    startup: Arc<SessionSettings>,
    /// What its client believes of the server's settings.
    pub reported: Arc<Reported>,
    /// Statements have passed after which other settings may hold.
    settings_in_doubt: bool,
    pub resets: Resets,
    /// Up to the end of the transaction other settings may hold by which texts
    /// are read.
    pub reads_otherwise: bool,
    custom: BTreeSet<String>,
    /// The server's answer to what is set, as far as it has come.
    pub answer: Option<SessionSettings>,
    /// How often in a row it was asked and did not come to an answer.
    cut_short: u8,
    asks_again: bool,
    statements: HashMap<Bytes, Known>,
    statement_bytes: usize,
    /// Its tenant's, in which they count.
    account: Arc<Account>,
    pub unnamed: Unnamed,
    /// Nothing was under way, and no transaction open, before the message that
    /// is looked at.
    pub begins_at_rest: bool,
    /// A statement is under way that may take all prepared statements away.
    pub watches_commands: bool,
    /// Statements have passed after which prepared ones may not fit any more.
    pub changed_definitions: bool,
    /// What the last `Bind` was about, where its statement has a name.
    pub bound: Option<Bound>,
    /// What the client sends next waits for this.
    pub held: Option<Box<Held>>,
    /// The parameters of the statement that the server describes.
    pub parameters: Option<Bytes>,
    /// A text that is read as it passes.
    passing: Option<Box<Watch>>,
    /// The session's.
    span: Span,
}

/// A prepared statement.
#[derive(Debug)]
struct Known {
    statement: Arc<Statement>,
    /// What the client was told that it gives, where it has asked.
    told: Option<Shape>,
    /// The client's own `Parse`, where it was changed to fit where it goes.
    own: Bytes,
}

/// A portal, and its statement with the client's name for it.
#[derive(Debug)]
pub(super) struct Bound {
    pub portal: Bytes,
    pub statement: Arc<Statement>,
    pub name: Bytes,
}

/// A `Bind` that waits until it is known what its statement gives on the
/// backend.
#[derive(Debug)]
pub(super) struct Held {
    pub statement: Arc<Statement>,
    /// What the client was told of it.
    pub told: Shape,
    /// Of the message: its portal, what follows the names in its beginning, and
    /// how many bytes are still to come.
    pub portal: Bytes,
    pub rest: Bytes,
    pub missing: usize,
    /// Whether it gives that, when it is known.
    pub fits: Option<bool>,
}

impl Memory {
    pub fn new(
        wanders: bool,
        settings: Arc<SessionSettings>,
        reported: Arc<Reported>,
        account: Arc<Account>,
    ) -> Self {
        Self {
            wanders,
            pinned: None,
            startup: Arc::clone(&settings),
            settings,
            reported,
            settings_in_doubt: false,
            resets: Resets::default(),
            reads_otherwise: false,
            custom: BTreeSet::new(),
            answer: None,
            cut_short: 0,
            asks_again: false,
            statements: HashMap::new(),
            statement_bytes: 0,
            account,
            unnamed: Unnamed::default(),
            begins_at_rest: true,
            watches_commands: false,
            changed_definitions: false,
            bound: None,
            held: None,
            parameters: None,
            passing: None,
            span: Span::current(),
        }
    }

    /// Whether its statements are followed, because it may change its backend.
    pub fn wanders(&self) -> bool {
        self.wanders
    }

    /// The session's span.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Whether it keeps the backend that it has.
    pub fn stays(&self) -> bool {
        !self.wanders || self.pinned.is_some()
    }

    /// Why it keeps its backend although it would not have to.
    pub fn pinned(&self) -> Option<&'static str> {
        self.pinned.as_ref().map(|pinned| pinned.reason)
    }

    /// It keeps its backend from here on.
    pub fn pin(&mut self, reason: &'static str) {
        if self.wanders && self.pinned.is_none() {
            tracing::debug!(parent: &self.span, reason, "a session keeps its backend");
            self.pinned = Some(Pinned::new(reason));
        }
    }

    /// The server is to be asked what is set before the backend goes to others.
    pub fn settings_in_doubt(&self) -> bool {
        self.settings_in_doubt
    }

    /// The settings under which the server reads what comes now.
    pub fn read_under(&self) -> ReadUnder {
        (!self.settings_in_doubt && !self.reads_otherwise).then(|| self.settings.read_under())
    }

    /// What is to be asked because something may have been reset on the backend
    /// that the session keeps.
    pub fn put_back(&mut self) -> Option<String> {
        if self.resets.take() { self.startup.put_back() } else { None }
    }

    /// It was, unless the server was cut short.
    pub fn was_put_back(&mut self) {
        if self.is_cut_short() {
            self.resets.runs(true);
        }
    }

    /// Whether what was asked last was cut short, and is worth to be asked again.
    fn is_cut_short(&mut self) -> bool {
        let asks_again = std::mem::take(&mut self.asks_again);
        self.cut_short = if asks_again { self.cut_short + 1 } else { 0 };
        asks_again && self.cut_short < ASKS_MAX
    }

    /// The query for it. What comes behind it is in doubt again.
    pub fn ask(&mut self) -> String {
        self.settings_in_doubt = false;
        // What was reset is found in the answer.
        self.resets.take();
        self.answer = Some(SessionSettings::default());
        SessionSettings::query(&self.custom)
    }

    /// There will be no answer, perhaps only because the question was cut short.
    pub fn not_answered(&mut self, is_cut_short: bool) {
        self.answer = None;
        self.asks_again = is_cut_short;
    }

    /// The answer is whole, or there is none. What is set on the backend: without
    /// what was reset, which is for the session again as it began.
    pub fn answered(&mut self) -> Arc<SessionSettings> {
        let is_cut_short = self.is_cut_short();
        match self.answer.take() {
            Some(settings) if settings == *self.settings => {}
            Some(settings) => {
                let there = Arc::new(settings);
                self.settings = SessionSettings::over(&there, &self.startup);
                return there;
            }
            None if is_cut_short => self.settings_in_doubt = true,
            None => self.pin("settings_unknown"),
        }
        Arc::clone(&self.settings)
    }

    /// A statement runs that leaves this behind.
    pub fn runs(&mut self, effects: &Effects) {
        if let Some(pin) = effects.pin {
            self.pin(pin.as_str());
        }
        if effects.reads_sequences {
            self.pin("sequence_value");
        }
        self.settings_in_doubt |= effects.changes_settings;
        self.resets.runs(effects.resets_settings);
        self.reads_otherwise |= effects.reads_otherwise;
        self.watches_commands |= effects.drops_prepared;
        self.changed_definitions |= effects.changes_definitions;
        for name in &effects.custom_settings {
            if self.custom.len() < CUSTOM_MAX {
                self.custom.insert(name.clone());
            } else if !self.custom.contains(name) {
                self.pin("many_settings");
            }
        }
    }

    /// A text begins that is too long to be held.
    pub fn passes(&mut self) {
        if self.wanders {
            self.passing = Some(Box::new(Watch::new()));
        }
    }

    /// A piece of it. With the last one it is known what it leaves behind.
    pub fn passes_piece(&mut self, piece: &[u8], is_last: bool) -> Option<Effects> {
        self.passing.as_mut()?.feed(piece);
        let effects = is_last.then(|| self.passing.take())??.finish();
        self.runs(&effects);
        Some(effects)
    }

    /// The statement that the client calls so.
    pub fn statement(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.statements.get(name).map(|known| &known.statement)
    }

    /// The client makes a portal of a statement that it calls so.
    pub fn binds(&mut self, portal: &[u8], name: &[u8]) {
        let known = self.statements.get_key_value(name);
        self.bound = known.map(|(name, known)| Bound {
            portal: Bytes::copy_from_slice(portal),
            statement: Arc::clone(&known.statement),
            name: name.clone(),
        });
    }

    /// What the client was told that it gives.
    pub fn told(&self, name: &[u8]) -> Option<Shape> {
        self.statements.get(name)?.told
    }

    /// The client is told this of a statement, which it may call otherwise by
    /// now.
    pub fn tell(&mut self, name: &[u8], statement: &Arc<Statement>, shape: Shape) {
        if let Some(known) = self.statements.get_mut(name)
            && Arc::ptr_eq(&known.statement, statement)
        {
            known.told = Some(shape.or(known.told));
        }
    }

    /// What waits may go on: its statement gives this, or is skipped.
    pub fn goes_on(&mut self, shape: Option<Shape>) {
        if let Some(held) = &mut self.held {
            held.fits = Some(shape.is_none_or(|shape| shape.fits(held.told)));
        }
    }

    /// The client calls a statement so.
    pub fn learn(&mut self, name: Bytes, statement: Arc<Statement>, own: Bytes) {
        self.recall(Gone { statement, name, told: None, own, on_backend: true });
    }

    /// The client has it still.
    pub fn recall(&mut self, Gone { statement, name, told, own, .. }: Gone) {
        let known = Known { statement, told, own };
        let bytes = known.bytes(&name);
        self.statement_bytes += bytes;
        self.account.remembers(bytes);
        if let Some(before) = self.statements.insert(name.clone(), known) {
            self.counts_out(before.bytes(&name));
        }
        if self.statements.len() > STATEMENTS_MAX || self.statement_bytes > STATEMENT_BYTES_MAX {
            self.pin("many_statements");
        }
    }

    /// The client has no statement of this name any more.
    pub fn forget(&mut self, name: &[u8]) -> Option<Gone> {
        let (name, known) = self.statements.remove_entry(name)?;
        self.counts_out(known.bytes(&name));
        let Known { statement, told, own } = known;
        Some(Gone { statement, name, told, own, on_backend: true })
    }

    /// The session goes to another place, where its statements may have to be
    /// otherwise: they are made anew from what the client has sent. What it was
    /// told of them it knows still.
    pub fn moves_on(&mut self, statements: &Statements, mut fit: impl FnMut(&[u8]) -> Bytes) {
        self.bound = None;
        for (name, known) in std::mem::take(&mut self.statements) {
            let Known { statement, told, own } = known;
            let own = if own.is_empty() { as_sent(&name, &statement) } else { own };
            let fitted = fit(&own);
            let Some(Ok(parse)) = fitted.get(Header::BYTES..).map(Parse::from_body) else { continue };
            let statement = statements.get(&parse, statement.read_under());
            let own = if fitted == own { Bytes::new() } else { own };
            self.statements.insert(name, Known { statement, told, own });
        }
        let bytes = self.statements.iter().map(|(name, known)| known.bytes(name)).sum();
        self.account.forgets(std::mem::replace(&mut self.statement_bytes, bytes));
        self.account.remembers(bytes);
        let Unnamed { parse, own, effects, .. } = std::mem::take(&mut self.unnamed);
        if !parse.is_empty() {
            let own = if own.is_empty() { parse } else { own };
            let parse = fit(&own);
            let own = if parse == own { Bytes::new() } else { own };
            self.unnamed = Unnamed { parse, own, is_there: false, effects };
        }
    }

    fn counts_out(&mut self, bytes: usize) {
        self.statement_bytes -= bytes;
        self.account.forgets(bytes);
    }

    /// Nor any other.
    pub fn forget_all(&mut self) {
        self.statements.clear();
        self.account.forgets(std::mem::take(&mut self.statement_bytes));
    }

    /// What the tenant's sessions remember of prepared statements, with one more
    /// of this session.
    pub fn bytes_with(&self, name: &[u8], statement: &Statement) -> u64 {
        self.account.statement_bytes().saturating_add(bytes_of(name, statement) as u64)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.forget_all();
    }
}

/// What a session's prepared statement counts, its text with each who has it.
fn bytes_of(name: &[u8], statement: &Statement) -> usize {
    STATEMENT_BYTES_LEAST + name.len() + statement.bytes()
}

impl Known {
    /// The same, with what its client has sent.
    fn bytes(&self, name: &[u8]) -> usize {
        bytes_of(name, &self.statement) + self.own.len()
    }
}

/// The `Parse` of a statement that goes out as its client has sent it.
fn as_sent(name: &[u8], statement: &Statement) -> Bytes {
    let mut out = BytesMut::new();
    // It has gone out so before.
    let _ = statement.put_parse_as(name, &mut out);
    out.freeze()
}
