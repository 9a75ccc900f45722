//! Ends of moves whose servers do not come back: a move comes to its end
//! without them, and what is there is left for later. Only where the tenant is
//! not, and where nobody is sent: at a target before the cutover, and at the
//! end that the cutover has left.

use insula_domain::{Isolation, MoveEnd};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::moving::is_there;
use insula_workflow::StepError;

use super::{Hand, OfMove};
use crate::moves::ends::place;
use crate::moves::left;
use crate::workflows::retried;

/// How often an undo looks for the server, some seconds in all: the move has
/// waited for it before, and what is left is removed as soon as it is back.
pub(in crate::workflows) const UNDO: u32 = 7;

/// How often it is looked for after the cutover, about a minute in all.
pub(in crate::workflows) const AFTER: u32 = 10;

/// Whether the server of the end that the tenant has left by a cutover is there
/// right now. Where it has been looked for often enough, the move goes on without
/// it: what is to be done there is done by what removes that end, later.
pub(super) async fn is_there_after(run: &OfMove, hand: &Hand, end: &MoveEnd) -> Result<bool, StepError> {
    let looked = async { is_there(&place(run.deps(), &hand.record, end).await?.access).await };
    match looked.await {
        Ok(()) => Ok(true),
        Err(problem) if problem.code() == Code::UnknownCluster => Ok(false),
        Err(problem) if waits(run, hand, &problem, AFTER) => Err(retried(problem)),
        Err(problem) => {
            tracing::warn!(tenant_move = %hand.record.id, cause = problem.chain(), "a move goes on without its source");
            Ok(false)
        }
    }
}

/// Whether the server of an end, where the tenant is not, is there to be worked
/// on. Where it has been looked for often enough, what is there is left.
pub(in crate::workflows) async fn is_at_hand(
    run: &OfMove,
    hand: &Hand,
    end: &MoveEnd,
    looks: u32,
) -> Result<bool, StepError> {
    let control = run.deps();
    if left::of(&hand.record).is_some() {
        return Ok(false);
    }
    let looked = async { is_there(&place(control, &hand.record, end).await?.access).await };
    match looked.await {
        Ok(()) => Ok(true),
        // A server of the tenant's own that is removed already.
        Err(problem) if problem.code() == Code::UnknownCluster => Ok(false),
        Err(problem) => {
            leave(run, hand, end, problem, looks).await?;
            Ok(false)
        }
    }
}

/// Leaves what is at an end for later, where its server has been looked for
/// often enough.
pub(in crate::workflows) async fn leave(
    run: &OfMove,
    hand: &Hand,
    end: &MoveEnd,
    problem: Problem,
    looks: u32,
) -> Result<(), StepError> {
    if waits(run, hand, &problem, looks) {
        return Err(retried(problem));
    }
    // A server of the tenant's own goes with all that is on it.
    if end.isolation != Isolation::Cluster {
        left::note(run.deps(), &hand.record, end, &problem).await.map_err(retried)?;
    }
    Ok(())
}

/// Whether it is tried again: not for ever where a server is away.
fn waits(run: &OfMove, hand: &Hand, problem: &Problem, looks: u32) -> bool {
    let is_away = matches!(problem.code(), Code::PlacementUnavailable | Code::Unavailable);
    // On one server both ends are away, and the tenant with them.
    let shares_its_server = hand.record.source.cluster == hand.record.target.cluster;
    !is_away || shares_its_server || run.attempt() < looks
}
