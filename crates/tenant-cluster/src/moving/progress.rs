//! How far a copy or a comparison is, to be looked at while it runs, and what
//! slows it down or ends it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use insula_problem::{Code, Problem};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Counters that only go up while one copy or comparison runs.
#[derive(Debug, Default)]
pub struct CopyProgress {
    rows: AtomicU64,
    bytes: AtomicU64,
    tables: AtomicU64,
    indexes: AtomicU64,
}

impl CopyProgress {
    /// Rows that are done.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes that have gone over the wire.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Tables of which all rows are done.
    #[must_use]
    pub fn tables(&self) -> u64 {
        self.tables.load(Ordering::Relaxed)
    }

    /// Indexes and constraints that have been made again.
    #[must_use]
    pub fn indexes(&self) -> u64 {
        self.indexes.load(Ordering::Relaxed)
    }

    pub(super) fn add_rows(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    pub(super) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_table(&self) {
        self.tables.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_index(&self) {
        self.indexes.fetch_add(1, Ordering::Relaxed);
    }
}

/// What slows a copy down.
#[derive(Debug, Clone, Default)]
pub struct Throttle {
    /// So many bytes a second at the most, over all tables.
    pub bytes_per_second: Option<u64>,
    /// Nothing is sent while it says so.
    pub pause: Option<watch::Receiver<bool>>,
}

/// A throttle at work: when the next bytes may go.
#[derive(Debug)]
pub(super) struct Gate {
    throttle: Throttle,
    next: Mutex<Instant>,
}

impl Gate {
    pub(super) fn new(throttle: Throttle) -> Self {
        Self { throttle, next: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes may go.
    pub(super) async fn pass(&self, bytes: usize) {
        until_unpaused(self.throttle.pause.as_ref()).await;
        if let Some(rate) = self.throttle.bytes_per_second {
            let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            let mut next = self.next.lock().await;
            let begins = Instant::now().max(*next);
            *next = begins + takes;
            drop(next);
            sleep_until(begins).await;
        }
    }
}

/// Waits as long as something is paused.
pub(super) async fn until_unpaused(pause: Option<&watch::Receiver<bool>>) {
    if let Some(pause) = pause {
        // Whoever has gone away pauses nothing any more.
        let _ = pause.clone().wait_for(|is_paused| !*is_paused).await;
    }
}

/// Runs something until it is done or is to stop.
pub(super) async fn until_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Problem::new(Code::Unavailable, "The move was stopped.")),
        done = work => done,
    }
}
