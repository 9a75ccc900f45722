//! What the front counts. No label has a value that a client or a tenant
//! chooses, so that the number of series is fixed.

use std::time::Duration;

use insula_problem::Code;
use metrics::{Counter, Gauge, Histogram};

use crate::pool::Tally;

const HOLD_PARTS: &str = "insula_pg_hold_part_seconds";

/// The front's metrics, registered once.
#[derive(Debug, Clone)]
pub(crate) struct Measures {
    pub authenticating: Gauge,
    pub relaying: Gauge,
    pub bytes_from_clients: Counter,
    pub bytes_to_clients: Counter,
    pub cancels_forwarded: Counter,
    pub cancels_unknown: Counter,
    pub cancels_idle: Counter,
    pub held_clients: Gauge,
    backend_open_seconds: Histogram,
    hold_wait_seconds: Histogram,
}

/// With what a hold of a tenant has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldOutcome {
    /// The tenant was let go.
    Released,
    /// Its time was over.
    TimedOut,
}

/// What became of a connection that was begun ahead of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialledOutcome {
    /// It was taken, and the server has answered.
    Used,
    /// Nobody took it.
    Unused,
    /// It could not be begun, or had ended when it was taken.
    Failed,
}

/// What a hold of a tenant is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldPart {
    /// Until nothing was under way any more.
    Quiet,
    /// All of it.
    Held,
    /// From its end until the first that has waited had a backend.
    FirstBackend,
    /// The same until the last one had.
    LastBackend,
}

impl HoldPart {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Held => "held",
            Self::FirstBackend => "first_backend",
            Self::LastBackend => "last_backend",
        }
    }
}

impl Measures {
    /// Registers the metrics with the recorder that is installed by then.
    pub fn register() -> Self {
        metrics::describe_gauge!("insula_pg_sessions", "Sessions of the PostgreSQL front, by state");
        metrics::describe_gauge!(
            "insula_pg_draining_clients",
            "Clients that the processes still serve from which this one has taken over"
        );
        metrics::describe_counter!("insula_pg_refused_total", "Clients turned away, by problem code");
        metrics::describe_counter!("insula_pg_ended_total", "Sessions ended by the front, by problem code");
        metrics::describe_counter!("insula_pg_bytes_total", metrics::Unit::Bytes, "Bytes relayed");
        metrics::describe_counter!("insula_pg_cancels_total", "Cancel requests, by what came of them");
        metrics::describe_counter!(
            "insula_pg_timeouts_total",
            "Statements and idle transactions that took longer than their plan allows, by problem code"
        );
        metrics::describe_counter!(
            "insula_pg_statements_refused_total",
            "Statements refused, by what they are"
        );
        metrics::describe_counter!(
            "insula_pg_pins_total",
            "Sessions that had to keep their backend, by what they did"
        );
        metrics::describe_gauge!("insula_pg_pinned_sessions", "Sessions that keep their backend, by reason");
        metrics::describe_gauge!("insula_pg_backends", "Backends of the PostgreSQL front, by state");
        metrics::describe_gauge!("insula_pg_waiting_sessions", "Sessions that wait for a backend");
        metrics::describe_histogram!(
            "insula_pg_backend_open_seconds",
            metrics::Unit::Seconds,
            "Time to open a backend"
        );
        metrics::describe_counter!(
            "insula_pg_holds_total",
            "Tenants whose transactions had to wait for a move, by what ended that"
        );
        metrics::describe_counter!(
            "insula_pg_dialled_ahead_total",
            "Connections begun to where a tenant was about to go, by what became of them"
        );
        metrics::describe_gauge!("insula_pg_held_clients", "Clients that wait for their tenant to be moved");
        metrics::describe_histogram!(
            "insula_pg_hold_wait_seconds",
            metrics::Unit::Seconds,
            "Time that a client has waited for its tenant to be moved"
        );
        metrics::describe_histogram!(
            HOLD_PARTS,
            metrics::Unit::Seconds,
            "Parts of a hold at this front: quiet and held from its begin, first_backend and last_backend from its end"
        );
        Self {
            authenticating: metrics::gauge!("insula_pg_sessions", "state" => "authenticating"),
            relaying: metrics::gauge!("insula_pg_sessions", "state" => "relaying"),
            bytes_from_clients: metrics::counter!("insula_pg_bytes_total", "direction" => "from_clients"),
            bytes_to_clients: metrics::counter!("insula_pg_bytes_total", "direction" => "to_clients"),
            cancels_forwarded: metrics::counter!("insula_pg_cancels_total", "outcome" => "forwarded"),
            cancels_unknown: metrics::counter!("insula_pg_cancels_total", "outcome" => "unknown_key"),
            cancels_idle: metrics::counter!("insula_pg_cancels_total", "outcome" => "nothing_under_way"),
            held_clients: metrics::gauge!("insula_pg_held_clients"),
            backend_open_seconds: metrics::histogram!("insula_pg_backend_open_seconds"),
            hold_wait_seconds: metrics::histogram!("insula_pg_hold_wait_seconds"),
        }
    }

    pub fn refused(&self, code: Code) {
        metrics::counter!("insula_pg_refused_total", "code" => code.as_str()).increment(1);
    }

    /// A session has reached a limit of its plan.
    pub fn timed_out(&self, code: Code) {
        metrics::counter!("insula_pg_timeouts_total", "code" => code.as_str()).increment(1);
    }

    pub fn ended(&self, code: Code) {
        metrics::counter!("insula_pg_ended_total", "code" => code.as_str()).increment(1);
    }

    /// What the pools hold now.
    pub fn pools(&self, tally: Tally) {
        let set = |state: &'static str, count: u32| {
            metrics::gauge!("insula_pg_backends", "state" => state).set(f64::from(count));
        };
        set("used", tally.open.saturating_sub(tally.idle));
        set("idle", tally.idle);
        metrics::gauge!("insula_pg_waiting_sessions").set(f64::from(tally.waiting));
    }

    /// What the processes before this one still have.
    pub fn clients_before(&self, clients: u64) {
        // Exact up to 2^53.
        metrics::gauge!("insula_pg_draining_clients").set(clients as f64);
    }

    /// A client has waited for its tenant to be moved.
    pub fn held(&self, waited: Duration) {
        self.hold_wait_seconds.record(waited.as_secs_f64());
    }

    /// A tenant is held no more.
    pub fn hold_over(&self, outcome: HoldOutcome) {
        let outcome = match outcome {
            HoldOutcome::Released => "released",
            HoldOutcome::TimedOut => "timed_out",
        };
        metrics::counter!("insula_pg_holds_total", "outcome" => outcome).increment(1);
    }

    /// How long a part of a hold took.
    pub fn hold_part(&self, part: HoldPart, took: Duration) {
        metrics::histogram!(HOLD_PARTS, "part" => part.as_str()).record(took.as_secs_f64());
    }

    /// A connection that was begun ahead is no more.
    pub fn dialled(&self, outcome: DialledOutcome) {
        let outcome = match outcome {
            DialledOutcome::Used => "used",
            DialledOutcome::Unused => "unused",
            DialledOutcome::Failed => "failed",
        };
        metrics::counter!("insula_pg_dialled_ahead_total", "outcome" => outcome).increment(1);
    }

    pub fn backend_opened(&self, took: Duration) {
        self.backend_open_seconds.record(took.as_secs_f64());
    }
}

/// Counts a statement that was refused, by one of the names of the front's own
/// table.
pub(crate) fn statement_refused(statement: &'static str) {
    metrics::counter!("insula_pg_statements_refused_total", "statement" => statement).increment(1);
}

/// A session that keeps its backend, counted as long as it does, by one of the
/// front's own reasons.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub reason: &'static str,
    _counted: Counted,
}

impl Pinned {
    pub fn new(reason: &'static str) -> Self {
        metrics::counter!("insula_pg_pins_total", "reason" => reason).increment(1);
        let counted = Counted::new(&metrics::gauge!("insula_pg_pinned_sessions", "reason" => reason));
        Self { reason, _counted: counted }
    }
}

/// Counts one in a gauge as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    pub fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
