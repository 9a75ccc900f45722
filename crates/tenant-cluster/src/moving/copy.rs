//! The copy of a tenant's rows from one placement to another, as they are in a
//! snapshot: several tables and parts of tables at once, piped from server to
//! server without being kept, indexes last.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{try_join, try_join_all};
use futures_util::{SinkExt, StreamExt};
use insula_problem::{Code, Problem};
use insula_sql_store::{Discreet, Report};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, CopyInSink};
use tokio_util::sync::CancellationToken;

use super::pieces::{Piece, pieces};
use super::progress::{CopyProgress, Gate, Throttle, until_stopped};
use super::seat::Held;
use super::strip::{restore, run, strip};
use super::{MovedTable, Place, Seat};
use crate::access::Connection;
use crate::{db, literal};

/// What is sent at once, in bytes, unless a row is larger.
const CHUNK: usize = 1 << 16;

/// From so many rows of one tenant on, a shared table's statistics are made anew.
const MANY_ROWS: u64 = 10_000;

/// How a copy is made.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// How many parts are copied at once; each has a connection at both ends.
    pub parallel: usize,
    /// How many rows a part has, about.
    pub rows_per_range: i64,
    /// What slows it down.
    pub throttle: Throttle,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { parallel: 2, rows_per_range: 1_000_000, throttle: Throttle::default() }
    }
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rows of each table.
    pub tables: BTreeMap<String, u64>,
    /// Rows in all.
    pub rows: u64,
    /// Bytes over the wire.
    pub bytes: u64,
    /// How long the rows took, without the indexes.
    pub copying: Duration,
    /// How long all of it took.
    pub elapsed: Duration,
}

/// The target of a copy, and the seat from which it is made.
pub(super) struct Seated<'a> {
    place: &'a Place,
    held: Held,
}

impl Seated<'_> {
    /// A connection that may write there.
    pub async fn connect(&self) -> Result<Connection, Problem> {
        let client = self.place.connect().await?;
        self.held.vouch(&client).await?;
        Ok(client)
    }
}

/// What the workers of one copy share.
struct Work<'a> {
    source: &'a Place,
    target: &'a Seated<'a>,
    tables: &'a [MovedTable],
    snapshot: &'a str,
    gate: Gate,
    queue: Mutex<VecDeque<Piece>>,
    /// For each table: parts that are not done, and rows that are.
    done: Mutex<Vec<(usize, u64)>>,
    progress: &'a CopyProgress,
}

/// Copies the tenant's rows as they are in a snapshot of the source. The target
/// must be closed and have the same version of the app schema; a silo is emptied
/// first, and in shared tables there must be no row of the tenant. When it
/// returns, all is on the target's disk. Everything is done from the seat in the
/// target's database: nothing is from the moment on that another has taken it.
///
/// A copy that fails leaves a target without indexes behind, which is to be
/// made anew.
///
/// # Errors
/// `move_blocked` where the rows do not fit into the target's tables, `no_capacity`
/// where its disk is full; or where a cluster is away, the snapshot is gone, or it is to stop.
pub async fn copy(
    (source, snapshot): (&Place, &str),
    (place, seat): (&Place, &mut Seat),
    tables: &[MovedTable],
    how: CopyOptions,
    progress: &CopyProgress,
    stop: &CancellationToken,
) -> Result<Copied, Problem> {
    let begun = Instant::now();
    let target = Seated { place, held: seat.held().await? };
    let work = Work {
        source,
        target: &target,
        tables,
        snapshot,
        gate: Gate::new(how.throttle),
        queue: Mutex::default(),
        done: Mutex::new(vec![(0, 0); tables.len()]),
        progress,
    };
    let parallel = how.parallel.max(1);
    let empty = async {
        match place.is_pool_form() {
            true => Ok(None),
            false => strip(seat, place, tables).await.map(Some),
        }
    };
    let (_, stripped) = try_join(work.cut(how.rows_per_range), empty).await?;
    let made_ready = begun.elapsed();
    let workers = parallel.min(lock(&work.queue).len());
    until_stopped(stop, try_join_all((0..workers).map(|_| work.worker()))).await?;
    let copying = begun.elapsed();
    let (parts, bytes) = (lock(&work.done).len(), progress.bytes());
    if let Some(stripped) = stripped {
        restore(&target, stripped, parallel, progress, stop).await?;
    }
    let indexed = begun.elapsed();
    let counts: Vec<u64> = lock(&work.done).iter().map(|(_, rows)| *rows).collect();
    run(&target, analyze(place, tables, &counts), parallel, &CopyProgress::default(), stop).await?;
    let analyzed = begun.elapsed();
    flush(&target).await?;
    tracing::debug!(?made_ready, ?copying, ?indexed, ?analyzed, flushed = ?begun.elapsed(), parts, bytes, "copied");
    Ok(Copied {
        rows: counts.iter().sum(),
        tables: tables.iter().map(|table| table.name.clone()).zip(counts).collect(),
        bytes: progress.bytes(),
        copying,
        elapsed: begun.elapsed(),
    })
}

impl Work<'_> {
    /// Cuts the tables into parts, the largest first.
    async fn cut(&self, rows_per_range: i64) -> Result<(), Problem> {
        let client = self.reader().await?;
        let mut parts = Vec::new();
        for (number, table) in self.tables.iter().enumerate() {
            let of_table = pieces(&client, self.source, (number, table), rows_per_range).await?;
            lock(&self.done)[number].0 = of_table.len();
            parts.extend(of_table);
        }
        parts.sort_by_key(|piece| std::cmp::Reverse(piece.weight));
        *lock(&self.queue) = parts.into();
        Ok(())
    }

    /// Copies parts until there is none left.
    async fn worker(&self) -> Result<(), Problem> {
        let (source, target) = (self.reader().await?, self.target.connect().await?);
        let settings = "set session_replication_role = replica; set synchronous_commit = off";
        target.batch_execute(settings).await.map_err(db)?;
        loop {
            let Some(piece) = lock(&self.queue).pop_front() else { return Ok(()) };
            let rows = self.copy_piece(&source, &target, &piece).await?;
            let mut done = lock(&self.done);
            let (left, all) = &mut done[piece.table];
            *left -= 1;
            *all += rows;
            if *left == 0 {
                self.progress.add_table();
            }
        }
    }

    /// A connection to the source that sees the snapshot.
    async fn reader(&self) -> Result<Connection, Problem> {
        let client = self.source.connect().await?;
        let begin = format!(
            "begin isolation level repeatable read read only; set transaction snapshot {}",
            literal(self.snapshot)
        );
        client.batch_execute(&begin).await.map_err(db)?;
        Ok(client)
    }

    async fn copy_piece(&self, source: &Client, target: &Client, piece: &Piece) -> Result<u64, Problem> {
        let table = &self.tables[piece.table];
        let (mut values, mut columns) = (table.column_list(), table.column_list());
        let place = self.target.place;
        if place.is_pool_form() {
            let comma = if columns.is_empty() { "" } else { ", " };
            values.push_str(&format!("{comma}'{}'::uuid", place.tenant.as_uuid()));
            columns.push_str(&format!("{comma}tenant_id"));
        }
        let format = if is_better_in_binary(table) { " (format binary)" } else { "" };
        let from = format!("copy (select {values} from {}{}) to stdout{format}", piece.from, piece.filter());
        let into =
            format!("copy {} ({columns}) from stdin{format}", table.qualified(&place.placement.schema));
        let mut rows = std::pin::pin!(source.copy_out(&from).await.map_err(db)?);
        let mut sink = std::pin::pin!(target.copy_in(&into).await.map_err(does_not_fit)?);
        let (mut buffer, mut seen, mut counted) = (BytesMut::with_capacity(2 * CHUNK), 0, 0);
        while let Some(row) = rows.next().await {
            buffer.extend_from_slice(&row.map_err(db)?);
            // Each message is a row; the few that are none are put right below.
            seen += 1;
            if buffer.len() >= CHUNK {
                self.send(sink.as_mut(), buffer.split().freeze()).await?;
                self.progress.add_rows(seen - counted);
                counted = seen;
                buffer.reserve(2 * CHUNK);
            }
        }
        self.send(sink.as_mut(), buffer.freeze()).await?;
        let copied = sink.finish().await.map_err(does_not_fit)?;
        self.progress.add_rows(copied.saturating_sub(counted));
        Ok(copied)
    }

    async fn send(
        &self,
        mut sink: std::pin::Pin<&mut CopyInSink<Bytes>>,
        bytes: Bytes,
    ) -> Result<(), Problem> {
        self.gate.pass(bytes.len()).await;
        self.progress.add_bytes(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        sink.send(bytes).await.map_err(does_not_fit)
    }
}

/// Whole numbers and texts are no larger as text, and PostgreSQL is no slower
/// with them: a million rows of six numbers took 0.54 s as text from server to
/// server and 0.56 s in binary, which is three times as long.
fn is_better_in_binary(table: &MovedTable) -> bool {
    const AS_WELL_AS_TEXT: [&str; 6] = ["bigint", "integer", "smallint", "text", "boolean", "jsonb"];
    table.binary && !table.columns.iter().all(|column| AS_WELL_AS_TEXT.contains(&column.type_name.as_str()))
}

/// What makes the planner's statistics of what has come, a list for each table.
fn analyze(target: &Place, tables: &[MovedTable], counts: &[u64]) -> Vec<Vec<String>> {
    let is_worth_it = |rows: u64| rows >= if target.is_pool_form() { MANY_ROWS } else { 1 };
    let named = tables.iter().zip(counts).filter(|(_, rows)| is_worth_it(**rows));
    named.map(|(table, _)| vec![format!("analyze {}", table.qualified(&target.placement.schema))]).collect()
}

/// Has all that was written so far on disk: a commit that waits for the log has
/// waited for everything before it, and one that has written nothing would not
/// (`RecordTransactionCommit` in `src/backend/access/transam/xact.c`).
async fn flush(target: &Seated<'_>) -> Result<(), Problem> {
    let client = target.connect().await?;
    let commit = "set synchronous_commit = on; select pg_logical_emit_message(true, 'insula copied', '')";
    client.batch_execute(commit).await.map_err(db)
}

/// What the target says to rows that it does not take.
pub(super) fn does_not_fit(error: tokio_postgres::Error) -> Problem {
    let Some(refused) = error.as_db_error() else { return db(error) };
    let report = Report::from(refused);
    if *refused.code() == SqlState::DISK_FULL {
        let detail = format!("The disk of the target's server is full: {}.", report.in_words());
        return Problem::new(Code::NoCapacity, detail).caused_by(Discreet::from(error));
    }
    // Classes 22 and 23: data exceptions and violated constraints.
    if !["22", "23"].contains(&refused.code().code().get(..2).unwrap_or_default()) {
        return db(error);
    }
    let place = report.of_table().map_or(String::new(), |table| format!(" of {table}"));
    let (why, code) = (report.in_names(), report.sqlstate);
    let detail = format!("Rows{place} do not fit into the target's tables: {why} ({code}).");
    Problem::new(Code::MoveBlocked, detail)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
