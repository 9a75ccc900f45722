//! Whether the servers of a move still answer while something long works on
//! them. One that is frozen or cut off says nothing, and from a socket alone it
//! cannot be told from one that works; but it takes no new connection either.

use std::time::Duration;

use insula_problem::{Code, Problem};
use insula_tenant_cluster::moving::Place;
use tokio::time::{Instant, sleep, timeout};

use super::{OfMove, hand};

/// How often they are asked.
const EVERY: Duration = Duration::from_secs(10);

/// How long an answer may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A server that has given no answer for so long is away.
const AWAY_AFTER: Duration = Duration::from_secs(30);

/// Ends when one of the move's servers is away.
pub(super) async fn until_away(run: &OfMove) -> Problem {
    let mut heard = [Instant::now(); 2];
    loop {
        sleep(EVERY).await;
        // With the catalog away nothing is known of the servers.
        let Ok(hand) = hand(run).await else { continue };
        let (source, target) = tokio::join!(hand.source(run.deps()), hand.target(run.deps()));
        for (end, heard) in [source, target].into_iter().zip(&mut heard) {
            let Ok(place) = end else { continue };
            if answers(&place).await {
                *heard = Instant::now();
            } else if heard.elapsed() >= AWAY_AFTER {
                let name = place.access.name();
                let detail = format!("The cluster {name} has not answered for {} s.", AWAY_AFTER.as_secs());
                return Problem::new(Code::PlacementUnavailable, detail);
            }
        }
    }
}

async fn answers(place: &Place) -> bool {
    matches!(timeout(ANSWERS_WITHIN, place.connect()).await, Ok(Ok(_)))
}
