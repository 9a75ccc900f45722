//! Keeping the lease on a run while a step works: renewed three times in its
//! length, and given up by ourselves when the log could not be asked in time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insula_domain::Clock;
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};

use crate::error::LogError;
use crate::log::{Lease, StepLog};

/// The lease on a run, and how long it lasts as far as we know.
pub(crate) struct LeaseKeeper {
    log: Arc<dyn StepLog>,
    clock: Arc<dyn Clock>,
    lease: Lease,
    length: Duration,
    log_timeout: Duration,
    until: Mutex<OffsetDateTime>,
}

impl LeaseKeeper {
    pub(crate) fn new(
        log: Arc<dyn StepLog>,
        clock: Arc<dyn Clock>,
        lease: Lease,
        length: Duration,
        log_timeout: Duration,
    ) -> Self {
        let until = Mutex::new(lease.until);
        Self { log, clock, lease, length, log_timeout, until }
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Until when nobody else may take the run, as far as we know.
    pub(crate) fn until(&self) -> OffsetDateTime {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of a lease that begins now.
    pub(crate) fn new_end(&self) -> OffsetDateTime {
        self.clock.now() + self.length
    }

    /// A write has made the lease last until then.
    pub(crate) fn lasts_until(&self, until: OffsetDateTime) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Renews the lease once.
    pub(crate) async fn renew(&self) -> Result<(), LogError> {
        let until = self.new_end();
        match timeout(self.log_timeout, self.log.renew(&self.lease, until)).await {
            Ok(Ok(())) => self.lasts_until(until),
            Ok(Err(error)) => return Err(error),
            Err(elapsed) => return Err(LogError::Unavailable(elapsed.into())),
        }
        Ok(())
    }

    /// Renews the lease time and again; comes back only when it is lost, or
    /// when it has run out while the log could not be reached.
    pub(crate) async fn keep(&self) -> LogError {
        loop {
            sleep(self.length / 3).await;
            match self.renew().await {
                Ok(()) => {}
                Err(LogError::LeaseLost) => return LogError::LeaseLost,
                Err(error) if self.clock.now() >= self.until() => return error,
                Err(error) => {
                    tracing::warn!(run = %self.lease.run, error = %error, "the lease could not be renewed");
                }
            }
        }
    }
}
