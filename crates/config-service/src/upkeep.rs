//! What goes on beside the calls: the provider's values are copied into the
//! regions, and what is old is removed.

use std::sync::Arc;
use std::time::Duration;

use insula_config_store::{CHANNEL, ConfigStore, Replicator, Retention};
use insula_problem::Problem;
use insula_sql_store::Listener;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::service::Service;

/// How often the catalog is looked at, whatever was notified.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often what is old is removed.
const TIDY_EVERY: Duration = Duration::from_secs(600);
/// Wait before another try where a store is away.
const RETRY: Duration = Duration::from_millis(500);

impl Service {
    /// Copies the provider's values into a region's store, until it is told to stop.
    pub(crate) async fn replicate(self: Arc<Self>, region: ConfigStore, stop: CancellationToken) {
        let mut replicator = Replicator::new(self.provider.0.clone(), region);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                end = self.replicated(&mut replicator) => {
                    if let Err(problem) = end {
                        tracing::warn!(cause = problem.chain(), "the provider's values cannot be copied; they are later");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn replicated(&self, replicator: &mut Replicator) -> Result<(), Problem> {
        let mut committed = self.provider.1.committed();
        let mut listener =
            Listener::open(self.provider.0.connector(), &[CHANNEL]).await.map_err(Problem::internal)?;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while replicator.step().await? {}
            tokio::select! {
                _ = look.tick() => {}
                batch = committed.recv() => {
                    if matches!(batch, Err(RecvError::Closed)) {
                        return Ok(());
                    }
                }
                notice = listener.next() => {
                    if notice.is_none() {
                        return Err(Problem::internal("the listening connection ended"));
                    }
                    listener.drain();
                }
            }
        }
    }

    /// Removes what is old, until it is told to stop.
    pub(crate) async fn tidy(self: Arc<Self>, stop: CancellationToken) {
        let retention = Retention::default();
        let mut look = interval(TIDY_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
            }
            let stores = self.regions.values().map(|region| &region.store).chain([&self.provider.0]);
            for store in stores {
                if let Err(problem) = store.tidy(&retention).await {
                    tracing::warn!(cause = problem.chain(), "old changes of configuration were not removed");
                }
            }
        }
    }
}
