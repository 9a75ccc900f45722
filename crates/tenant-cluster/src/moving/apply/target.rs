//! A session of the applier at the target: changes go to it one behind the
//! other, in one open transaction, and each answer is looked at before the
//! commit. A stream has one for what comes whole, and some beside it, each for a
//! transaction that comes in chunks. What waits for its answer is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::BufMut;
use insula_pg_wire::Message;
use insula_pg_wire::backend::tag;
use insula_sql_store::Dial;
use tokio::time::{Duration, Instant, sleep};

use super::super::pgoutput::Cell;
use super::super::wire::{Wire, WireFault, server_error};
use super::super::{Lsn, Place, StreamName};
use super::entry::{Entry, fence, is_alone};
use super::fault::StreamFault;
use super::messages::{put_message, put_parse, put_text};
use super::statements::{Operation, TargetTable};
use super::witness::{IN_USE, about_to_move, has_witnesses, is_known, settle};

/// Statements that are kept prepared, at most: tables with many large columns
/// have as many kinds of updates as there are sets of columns left unchanged.
const PREPARED_MAX: usize = 1_000;

/// How long a former applier is waited for to be gone.
const FENCE_WITHIN: Duration = Duration::from_secs(5);

/// The pause from one look to the next.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// What the session begins with. Rows are found by their keys, whatever the
/// planner believes of tables that were empty a minute ago; constraints'
/// triggers do not fire for a replica, neither those of foreign keys nor those
/// that check deferrable keys at the end (`TriggerEnabled` in
/// `src/backend/commands/trigger.c`), so that rows may come in any order.
const SETTINGS: &str = "set session_replication_role = replica; set synchronous_commit = on;
    set enable_seqscan = off; set plan_cache_mode = force_generic_plan";

/// What is set besides once a stream has several sessions: one of them that
/// waits for another is not to do so for long.
const AMONG_OTHERS: &str = "set lock_timeout = '5s'";

#[derive(Debug)]
enum Expected {
    /// Its answer says nothing.
    Any,
    /// The end of a transaction.
    Ready,
    /// One row is changed.
    Row { table: usize, change: &'static str, key: Vec<Cell>, bytes: usize },
}

/// The session.
#[derive(Debug)]
pub(super) struct Target {
    wire: Wire,
    /// How another connection to it is opened.
    dial: Dial,
    /// When it last answered, or was asked something while nothing was due.
    heard: Instant,
    tables: Arc<[TargetTable]>,
    prepared: HashMap<(usize, Operation), usize>,
    expected: VecDeque<Expected>,
    waiting_bytes: usize,
    unasked: bool,
    open: bool,
    /// Rows of the open transaction.
    pub rows: u64,
    /// Whether it is told beside the stream's origin how far that can be relied on.
    has_witnesses: bool,
}

impl Target {
    /// Opens the session, the only one of the stream, and says how far the
    /// stream was applied.
    pub async fn open(
        place: &Place,
        name: StreamName,
        tables: Arc<[TargetTable]>,
        entry: &mut Entry,
    ) -> Result<(Self, Option<Lsn>), StreamFault> {
        let mut target = Self::connect(place, name, tables, entry).await?;
        let until = Instant::now() + FENCE_WITHIN;
        loop {
            fence(&mut target.wire, name, entry, until).await?;
            if target.takes(name).await? {
                break;
            }
            if Instant::now() > until {
                return Err(StreamFault::Away("a former session has not let go of the origin".to_owned()));
            }
            sleep(PAUSE).await;
        }
        target.prepare_own(name).await?;
        let rows = target.wire.simple("select pg_replication_origin_session_progress(true)").await?;
        let progress = rows.into_iter().flatten().flatten().next();
        if target.has_witnesses {
            target.wire.simple(&is_known(name)).await?;
        }
        Ok((target, progress.and_then(|text| text.parse().ok())))
    }

    /// Opens a session beside the stream's own, for a transaction that is not
    /// committed yet. It has no origin before its commit.
    pub async fn open_beside(
        place: &Place,
        name: StreamName,
        tables: Arc<[TargetTable]>,
        entry: &mut Entry,
    ) -> Result<Self, StreamFault> {
        let mut target = Self::connect(place, name, tables, entry).await?;
        // Who takes the stream over ends whom it finds; whom it has not found
        // comes later, and finds it.
        is_alone(&mut target.wire, name, entry).await?;
        target.has_witnesses = has_witnesses(&mut target.wire, name).await?;
        target.prepare_own(name).await?;
        target.is_among_others().await?;
        Ok(target)
    }

    /// A session that is known by the stream's name.
    async fn connect(
        place: &Place,
        name: StreamName,
        tables: Arc<[TargetTable]>,
        entry: &mut Entry,
    ) -> Result<Self, StreamFault> {
        let dial = place.access.dial(&place.placement.database);
        let called = name.to_string();
        let mut wire =
            Wire::open(&dial, &[("client_encoding", "UTF8"), ("application_name", called.as_str())]).await?;
        entry.note(wire.pid());
        wire.simple(&place.session()).await?;
        wire.simple(&format!("set application_name = {name}; {SETTINGS}")).await?;
        Ok(Self {
            wire,
            dial,
            heard: Instant::now(),
            tables,
            prepared: HashMap::new(),
            expected: VecDeque::new(),
            waiting_bytes: 0,
            unasked: false,
            open: false,
            rows: 0,
            has_witnesses: false,
        })
    }

    /// Takes the origin, once it is where all is committed; or finds that a former
    /// session is still ending.
    async fn takes(&mut self, name: StreamName) -> Result<bool, StreamFault> {
        self.has_witnesses = has_witnesses(&mut self.wire, name).await?;
        if self.has_witnesses && !settle(&mut self.wire, name).await? {
            return Ok(false);
        }
        match self.wire.simple(&take_origin(name)).await {
            Ok(_) => {}
            Err(fault) if fault.sqlstate() == Some(IN_USE) => return Ok(false),
            Err(fault) => return Err(fault.into()),
        }
        if has_witnesses(&mut self.wire, name).await? != self.has_witnesses {
            return Err(StreamFault::Away("the origin was made anew".to_owned()));
        }
        Ok(true)
    }

    /// Has the session wait for locks less long. Only while nothing waits for its
    /// answer.
    pub async fn is_among_others(&mut self) -> Result<(), StreamFault> {
        Ok(self.wire.simple(AMONG_OTHERS).await.map(drop)?)
    }

    async fn prepare_own(&mut self, name: StreamName) -> Result<(), StreamFault> {
        let out = self.wire.out();
        // Each statement is to see what other sessions have committed.
        put_parse(out, "begin", "begin isolation level read committed");
        put_parse(out, "take", &take_origin(name));
        put_parse(out, "leave", "select pg_replication_origin_session_reset()");
        put_parse(out, "commit", "commit");
        put_parse(
            out,
            "progress",
            "select pg_replication_origin_xact_setup($1, timestamptz '2000-01-01 00:00:00+00' \
             + $2 * interval '1 microsecond')",
        );
        if self.has_witnesses {
            put_parse(out, "about_to_move", &about_to_move(name));
            put_parse(out, "is_known", &is_known(name));
        }
        put_message(out, b'S', |_| ());
        self.wire.answer().await?;
        Ok(())
    }

    /// Whether a transaction is open.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// What waits for its answer: statements, and bytes of values in them.
    pub fn waiting(&self) -> (usize, usize) {
        (self.expected.len(), self.waiting_bytes)
    }

    /// Whether answers are to come.
    pub fn is_waiting(&self) -> bool {
        !self.expected.is_empty()
    }

    /// Whether the server still answers somebody, where an answer has been due
    /// for so long: one statement may take its time, but a server that is frozen
    /// or cut off takes no new connection either.
    pub async fn is_there(&mut self, silent: Duration) -> Result<(), StreamFault> {
        if !self.is_waiting() || self.heard.elapsed() < silent {
            return Ok(());
        }
        match Wire::open(&self.dial, &[]).await {
            // Only a server that works refuses.
            Ok(_) | Err(WireFault::Server(_)) => {
                self.heard = Instant::now();
                Ok(())
            }
            Err(fault) => Err(StreamFault::Away(format!("the target says nothing any more: {fault}"))),
        }
    }

    /// Has the server answer what it has.
    pub fn ask(&mut self) {
        if std::mem::take(&mut self.unasked) {
            put_message(self.wire.out(), b'H', |_| ());
        }
    }

    /// How many columns a table has.
    pub fn width(&self, table: usize) -> usize {
        self.tables[table].width()
    }

    /// Adds a row.
    pub fn insert(&mut self, table: usize, new: &[Cell]) {
        let key = self.key_of(table, new);
        let values = new.iter().collect::<Vec<_>>();
        self.row(table, Operation::Insert, "insert", &values, key);
    }

    /// Changes a row. The key is that of the row as it was, where it is given.
    pub fn update(&mut self, table: usize, old: Option<&[Cell]>, new: &[Cell]) {
        let unchanged: Vec<usize> = new
            .iter()
            .enumerate()
            .filter(|(_, cell)| **cell == Cell::Unchanged)
            .map(|(number, _)| number)
            .collect();
        let key = self.key_of(table, old.unwrap_or(new));
        let rekeyed = old.is_some() && key != self.key_of(table, new);
        let set = self.tables[table].set(rekeyed, &unchanged);
        let values: Vec<&Cell> = set.iter().map(|number| &new[*number]).chain(&key).collect();
        self.row(table, Operation::Update { rekeyed, unchanged }, "update", &values, key.clone());
    }

    /// Removes a row.
    pub fn delete(&mut self, table: usize, old: &[Cell]) {
        let key = self.key_of(table, old);
        self.row(table, Operation::Delete, "delete", &key.iter().collect::<Vec<_>>(), key.clone());
    }

    /// Removes all of the tenant's rows of some tables.
    pub fn truncate(&mut self, tables: &[usize]) {
        self.begin();
        let all = self.tables.clone();
        let of = || tables.iter().map(|table| &all[*table]);
        let shared: Vec<String> = of().filter_map(TargetTable::delete_all).collect();
        let own = shared.is_empty() && !tables.is_empty();
        let statements = if own { vec![TargetTable::truncate(of())] } else { shared };
        for sql in statements {
            self.run(&sql);
        }
    }

    /// Begins something inside the open transaction that may be rolled back by
    /// itself.
    pub fn savepoint(&mut self, number: u32) {
        self.begin();
        self.run(&format!("savepoint s{number}"));
    }

    /// Rolls back to where that has begun, when there were so many rows.
    pub fn roll_back_to(&mut self, number: u32, rows: u64) {
        self.run(&format!("rollback to savepoint s{number}"));
        self.run(&format!("release savepoint s{number}"));
        self.rows = rows;
    }

    /// Rolls the open transaction back.
    pub fn roll_back(&mut self) {
        self.run("rollback");
        self.sync();
    }

    /// Ends the open transaction, with how far the source is applied then. Only
    /// once every answer is there.
    pub fn commit(&mut self, applied: Lsn, committed: i64) {
        let (lsn, time) = (applied.to_string(), committed.to_string());
        let values = [Cell::Text(lsn.into()), Cell::Text(time.into())];
        if self.has_witnesses {
            self.execute("about_to_move", &[], Expected::Any);
        }
        self.execute("progress", &values.iter().collect::<Vec<_>>(), Expected::Any);
        self.execute("commit", &[], Expected::Any);
        if self.has_witnesses {
            self.execute("is_known", &[], Expected::Any);
        }
        self.sync();
    }

    /// The same for a session beside the stream's own: it has the origin for as
    /// long.
    pub fn commit_beside(&mut self, applied: Lsn, committed: i64) {
        self.execute("take", &[], Expected::Any);
        self.commit(applied, committed);
        self.leave_origin();
    }

    /// Leaves the origin to another session of the stream.
    pub fn leave_origin(&mut self) {
        self.execute("leave", &[], Expected::Any);
        self.sync();
    }

    /// Takes it back.
    pub fn take_origin(&mut self) {
        self.execute("take", &[], Expected::Any);
        self.sync();
    }

    /// Takes the next message of the server, and those behind it that are here.
    /// May be dropped and asked again without a loss.
    pub async fn answer(&mut self) -> Result<(), StreamFault> {
        let message = self.wire.message().await?;
        self.heard = Instant::now();
        self.take(&message)?;
        while self.wire.has_message() {
            let message = self.wire.message().await?;
            self.take(&message)?;
        }
        Ok(())
    }

    /// Says goodbye.
    pub async fn end(mut self) {
        put_message(self.wire.out(), b'X', |_| ());
        // Whatever comes of it, the connection ends.
        let _ = self.wire.flush().await;
    }

    fn take(&mut self, message: &Message) -> Result<(), StreamFault> {
        match message.tag {
            tag::COMMAND_COMPLETE => self.completed(&message.body),
            tag::READY_FOR_QUERY => match self.expected.pop_front() {
                Some(Expected::Ready) => {
                    (self.open, self.rows) = (false, 0);
                    Ok(())
                }
                _ => Err(WireFault::OutOfPlace('Z').into()),
            },
            tag::ERROR_RESPONSE => {
                let error = server_error(&message.body).map_err(WireFault::from)?;
                Err(match self.expected.front() {
                    Some(Expected::Row { table, change, key, .. }) => {
                        let name = &self.tables[*table].name;
                        StreamFault::of_target(&error, change, name, &self.told(*table, key))
                    }
                    _ => StreamFault::of_target(&error, "", &error.table, ""),
                })
            }
            _ => Ok(()),
        }
    }

    fn completed(&mut self, body: &[u8]) -> Result<(), StreamFault> {
        match self.expected.pop_front() {
            Some(Expected::Any) => Ok(()),
            Some(Expected::Row { table, change, key, bytes }) => {
                self.waiting_bytes -= bytes;
                if body.ends_with(b" 1\0") {
                    return Ok(());
                }
                Err(StreamFault::Diverged {
                    table: self.tables[table].name.clone(),
                    change: change.to_owned(),
                    key: self.told(table, &key),
                    found: String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into_owned(),
                })
            }
            _ => Err(WireFault::OutOfPlace('C').into()),
        }
    }

    fn told(&self, table: usize, key: &[Cell]) -> String {
        let values = key.iter().map(|cell| match cell {
            Cell::Text(text) => Some(&text[..]),
            Cell::Null | Cell::Unchanged => None,
        });
        self.tables[table].told_key(values)
    }

    fn key_of(&self, table: usize, row: &[Cell]) -> Vec<Cell> {
        self.tables[table].key.iter().map(|number| row[*number].clone()).collect()
    }

    fn begin(&mut self) {
        if !self.open {
            self.open = true;
            self.execute("begin", &[], Expected::Any);
        }
    }

    /// Runs a statement that is not prepared.
    fn run(&mut self, sql: &str) {
        put_parse(self.wire.out(), "", sql);
        self.execute("", &[], Expected::Any);
    }

    /// Has the server say that all before is done.
    fn sync(&mut self) {
        put_message(self.wire.out(), b'S', |_| ());
        self.expected.push_back(Expected::Ready);
        self.unasked = false;
    }

    fn row(
        &mut self,
        table: usize,
        operation: Operation,
        change: &'static str,
        values: &[&Cell],
        key: Vec<Cell>,
    ) {
        self.begin();
        let bytes = values.iter().map(|cell| if let Cell::Text(text) = cell { text.len() } else { 0 }).sum();
        self.waiting_bytes += bytes;
        self.rows += 1;
        let statement = self.statement(table, operation);
        self.execute(&statement, values, Expected::Row { table, change, key, bytes });
    }

    /// The name of the operation's prepared statement.
    fn statement(&mut self, table: usize, operation: Operation) -> String {
        let asked = (table, operation);
        if let Some(number) = self.prepared.get(&asked) {
            return format!("s{number}");
        }
        let sql = self.tables[table].sql(&asked.1);
        let number = self.prepared.len();
        if number >= PREPARED_MAX {
            put_parse(self.wire.out(), "", &sql);
            return String::new();
        }
        self.prepared.insert(asked, number);
        let name = format!("s{number}");
        put_parse(self.wire.out(), &name, &sql);
        name
    }

    fn execute(&mut self, statement: &str, values: &[&Cell], expected: Expected) {
        let out = self.wire.out();
        put_message(out, b'B', |out| {
            out.put_u8(0); // the portal without a name
            put_text(out, statement);
            out.put_u16(0); // all values are texts
            out.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
            for value in values {
                match value {
                    Cell::Text(text) => {
                        out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
                        out.put_slice(text);
                    }
                    Cell::Null | Cell::Unchanged => out.put_i32(-1),
                }
            }
            out.put_u16(0); // all results are texts
        });
        put_message(out, b'E', |out| out.put_slice(&[0; 5]));
        if self.expected.is_empty() {
            self.heard = Instant::now();
        }
        self.expected.push_back(expected);
        self.unasked = true;
    }
}

/// The statement by which a session takes the origin, which only one can have.
fn take_origin(name: StreamName) -> String {
    format!("select pg_replication_origin_session_setup('{name}')")
}
