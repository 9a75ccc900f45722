//! Ending the process at a point of a workflow, as `kill -9` would: the tests
//! of the binary set `INSULA_CRASH_AT`, for example to
//! `tenant.create:roles:inside`, and look what becomes of the run afterwards.

use std::sync::Arc;

use insula_workflow::{CrashPoint, CrashPoints, NoCrash};

/// Ends the process at one point.
#[derive(Debug)]
pub struct CrashAt {
    point: String,
}

impl CrashAt {
    /// The point that the environment names, if it names one.
    pub fn from_environment() -> Arc<dyn CrashPoints> {
        match std::env::var("INSULA_CRASH_AT") {
            Ok(point) if !point.is_empty() => {
                tracing::warn!(point, "this process will end itself at a point of a workflow");
                Arc::new(Self { point })
            }
            _ => Arc::new(NoCrash),
        }
    }
}

impl CrashPoints for CrashAt {
    fn reached(&self, point: &CrashPoint<'_>) {
        if point.to_string() == self.point {
            // No destructor runs and nothing is flushed, as with SIGKILL.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
