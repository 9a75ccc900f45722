//! Looks after rollouts that are under way: in every process, once a second and
//! whenever a client refuses a version. What comes of it is written on condition
//! of what was read, so that several processes do each step once; what one has
//! not finished, any other does.

use std::sync::Arc;
use std::time::Duration;

use insula_config_model::Move;
use insula_problem::{Code, Problem};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::health::Counting;
use super::{Kept, LISTED_MAX};
use crate::service::Service;

/// How often rollouts are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// In whose name steps are taken.
const AUTHOR: &str = "insula:rollout";

impl Service {
    /// Takes rollouts from step to step, until it is told to stop.
    pub(crate) async fn roll_out(self: Arc<Self>, stop: CancellationToken) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
                () = self.refused.notified() => {}
            }
            if let Err(problem) = self.look_at_rollouts().await {
                tracing::warn!(cause = problem.chain(), "staged rollouts were not looked at");
            }
        }
    }

    /// Looks once at all rollouts that are under way.
    ///
    /// # Errors
    /// Where a store is away; rollouts in the others were looked at.
    pub async fn look_at_rollouts(&self) -> Result<(), Problem> {
        let mut failed = Ok(());
        let stores = self.regions.values().map(|region| &region.store).chain([&self.provider.0]);
        for store in stores {
            let under_way = match store.rollouts(None, LISTED_MAX).await {
                Ok(under_way) => under_way,
                Err(problem) => {
                    failed = Err(problem);
                    continue;
                }
            };
            for stored in under_way {
                let looked = match self.kept_of(&stored).await {
                    Ok(Some(kept)) => self.look_at(&kept).await,
                    Ok(None) => Ok(()),
                    Err(problem) => Err(problem),
                };
                match looked {
                    // Another process was faster.
                    Err(problem) if problem.code() == Code::ConfigVersionConflict => {}
                    Err(problem) => failed = Err(problem),
                    Ok(()) => {}
                }
            }
        }
        failed
    }

    async fn look_at(&self, kept: &Kept) -> Result<(), Problem> {
        let health = self.health(kept, Counting::Deciding).await?;
        let (key, scope) = (kept.tagged.key.as_str(), kept.named.scope());
        match kept.rollout.next(self.clock.now(), kept.newest, &health) {
            None => Ok(()),
            Some(Move::On(next)) => {
                self.put_on(kept, &next, AUTHOR.to_owned(), next.cause.clone()).await?;
                let (state, percent) = (next.state.as_str(), next.share().percent());
                tracing::info!(key, %scope, state, percent, "a staged rollout goes on");
                Ok(())
            }
            Some(Move::Back(next)) => {
                self.take_back(kept, &next, AUTHOR.to_owned(), next.cause.clone()).await?;
                tracing::warn!(key, %scope, cause = next.cause, "a staged rollout was rolled back");
                Ok(())
            }
        }
    }
}
