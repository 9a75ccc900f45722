//! Ending the process at a point of a workflow, as `kill -9` would: the tests
//! of the binary set `INSULA_CRASH_AT`, for example to
//! `tenant.create:roles:inside`, and look what becomes of the run afterwards.
//! With `INSULA_CRASH_PID` it is another process that ends there, once: a
//! PostgreSQL server. With `INSULA_CRASH_SIGNAL=STOP` it does not end, and stands
//! still until it is told to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use insula_workflow::{CrashPoint, CrashPoints, NoCrash};
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;

/// Ends a process at one point, or has it stand still there.
#[derive(Debug)]
pub struct CrashAt {
    point: String,
    /// Which one, where it is not this one.
    other: Option<Pid>,
    signal: Signal,
    done: AtomicBool,
}

impl CrashAt {
    /// The point that the environment names, if it names one.
    pub fn from_environment() -> Arc<dyn CrashPoints> {
        match std::env::var("INSULA_CRASH_AT") {
            Ok(point) if !point.is_empty() => {
                tracing::warn!(point, "a process will be ended at a point of a workflow");
                let other = std::env::var("INSULA_CRASH_PID").ok().and_then(|pid| pid.parse().ok());
                let stands_still = std::env::var("INSULA_CRASH_SIGNAL").is_ok_and(|name| name == "STOP");
                let signal = if stands_still { Signal::SIGSTOP } else { Signal::SIGKILL };
                let other = other.map(Pid::from_raw);
                Arc::new(Self { point, other, signal, done: AtomicBool::new(false) })
            }
            _ => Arc::new(NoCrash),
        }
    }
}

impl CrashPoints for CrashAt {
    fn reached(&self, point: &CrashPoint<'_>) {
        if point.to_string() == self.point && !self.done.swap(true, Ordering::SeqCst) {
            // No destructor runs and nothing is flushed. A signal to this thread, so
            // that it goes no further, where one to the process may reach another first.
            let _ = match self.other {
                Some(other) => kill(other, self.signal),
                None => raise(self.signal),
            };
        }
    }
}
