//! What slows the reading of a move down: standbys that are far behind stop it,
//! and where others feel it on the source's server it rests for a part of its time.

use std::convert::Infallible;
use std::time::Duration;

use insula_tenant_cluster::moving::{Looks, MovedTable, Pace, Place, standby_lag};
use tokio::sync::watch;

use crate::moves::measure;

/// How far behind a standby of either end may be, in bytes of the log, while
/// rows are copied.
const STANDBY_LAG_MAX: i64 = 64 << 20;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);

/// Pauses while a standby of either end is far behind, since what reads there, or
/// takes over, is not to be of long ago, and for a part of the time while the source's
/// server is slow for others. A server that does not say so has no standby, and is
/// not slow.
pub(super) async fn heed(
    ends: [&Place; 2],
    tables: &[MovedTable],
    pause: &watch::Sender<bool>,
) -> Infallible {
    let (mut looks, mut pace) = (Looks::new(ends[0], tables), Pace::default());
    let (mut was_far, mut rested) = (false, Duration::ZERO);
    loop {
        let mut furthest = 0;
        for end in ends {
            furthest = furthest.max(standby_lag(&end.access).await.unwrap_or(0));
        }
        let is_far = furthest > STANDBY_LAG_MAX;
        if is_far != was_far {
            was_far = is_far;
            tracing::info!(bytes = furthest, is_far, "a copy heeds the standbys");
        }
        if let Ok(look) = looks.look().await {
            pace.take(look);
            if pace.rest(LOOK) != rested {
                rested = pace.rest(LOOK);
                tracing::info!(?look, ?rested, of = ?LOOK, "a copy heeds the load of its source");
            }
        }
        pause.send_replace(is_far || !rested.is_zero());
        tokio::time::sleep(rested).await;
        pause.send_replace(is_far);
        measure::rested(rested);
        tokio::time::sleep(LOOK - rested).await;
    }
}
