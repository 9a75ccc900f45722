//! What has to be done from time to time: begin the purge of tenants whose
//! retention time is over, and forget what nobody asks for any more. Several
//! processes may do it at once; each act is taken once by its transaction.

use std::sync::Arc;
use std::time::Duration;

use insula_problem::Problem;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Control;
use crate::moves::{self, left, reaper};
use crate::schema::measure;
use crate::tenants::delete::begin_purge;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(15);

/// At every so-manieth look it looks at every cluster as well.
const CLUSTERS: u32 = 20;

/// How many ended operations it forgets at a look.
const FORGOTTEN: u32 = 1_000;

/// Works until it is told to stop.
pub async fn run(control: Arc<Control>, stop: CancellationToken) {
    measure::describe();
    moves::measure::describe();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looks = 0_u32;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {
                looks = looks.wrapping_add(1);
                if looks.is_multiple_of(CLUSTERS)
                    && let Err(problem) = reaper::reap(&control).await
                {
                    tracing::warn!(cause = problem.chain(), "the clusters could not be looked at");
                }
                if let Err(problem) = left::clear_all(&control).await {
                    tracing::warn!(cause = problem.chain(), "what moves have left could not be looked at");
                }
                if let Err(problem) = tidy(&control).await {
                    tracing::warn!(cause = problem.chain(), "the janitor could not finish; it looks again");
                }
            }
        }
    }
}

/// Does once what is due.
///
/// # Errors
/// Where the catalog is away.
pub async fn tidy(control: &Control) -> Result<(), Problem> {
    let due = control.catalog.client().await?.tenants_to_purge(control.clock.now()).await?;
    for tenant in due {
        if let Err(problem) = begin_purge(control, &tenant).await {
            tracing::info!(tenant = %tenant.slug, cause = problem.chain(), "the purge has to wait");
        }
    }
    let ended_before = control.clock.now() - control.settings.operation_retention;
    let operations = control.operations.forget_ended(ended_before, FORGOTTEN).await?;
    if operations > 0 {
        tracing::info!(operations, "forgot operations that ended long ago");
    }
    let mut client = control.catalog.client().await?;
    measure::placements(&client).await?;
    let open = client.open_moves().await?;
    moves::measure::open(&open, control.clock.now());
    let change = client.change(control.worker()).await?;
    let older_than = change.at() - control.settings.idempotency_retention;
    let forgotten = change.forget_answers(older_than).await?;
    if forgotten > 0 {
        change
            .audit("idempotency.forget", None, "idempotent_answers", &json!({"answers": forgotten}))
            .await?;
        change.commit().await?;
    }
    Ok(())
}
