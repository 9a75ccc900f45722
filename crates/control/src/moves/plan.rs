//! A move that is only planned: where it would go, what there is to move, and
//! what is in the way. Nothing is changed.

use insula_api::{MovePlan, PlannedStep, StartMove};
use insula_catalog::Author;
use insula_domain::ClusterName;
use insula_problem::Problem;

use super::{preflight, refusals, start};
use crate::Control;
use crate::workflows::moving;

/// Bytes that are copied in a second, as a first guess: what a small machine
/// copies of rows of a hundred bytes.
const BYTES_PER_SECOND: u64 = 30_000_000;

/// Plans a move.
///
/// # Errors
/// For what is wrong with the request itself: names that are not there, and a
/// place where the tenant is already. What stops a move is in the plan.
pub async fn plan(
    control: &Control,
    author: Author,
    slug_or_id: &str,
    request: &StartMove,
) -> Result<MovePlan, Problem> {
    let start::Ends { tenant, from, to, refusals } =
        start::ends(control, author, slug_or_id, request).await?;
    let look = preflight::look(control, &tenant, (&to).into()).await?;
    let mut obstacles: Vec<_> =
        refusals.iter().map(|(object, problem)| refusals::obstacle(object, problem)).collect();
    obstacles.extend(refusals::all(control, &tenant, &to).await?);
    let is_away = |(cluster, problem): &(ClusterName, Problem)| refusals::obstacle(cluster.as_str(), problem);
    obstacles.extend(look.away.iter().map(is_away));
    obstacles.extend(look.obstacles.iter().cloned());
    obstacles.sort_by_key(|obstacle| !obstacle.stops);
    let rate =
        request.copy_bytes_per_second.map_or(BYTES_PER_SECOND, |limit| limit.clamp(1, BYTES_PER_SECOND));
    let outline = moving::workflow().outline();
    let mut is_before = true;
    let step = |step: insula_workflow::OutlineStep| {
        is_before &= !step.commits;
        PlannedStep { name: step.name.to_owned(), why: step.why.to_owned(), reversible: is_before }
    };
    Ok(MovePlan {
        from,
        to,
        possible: obstacles.iter().all(|obstacle| !obstacle.stops),
        steps: outline.steps.into_iter().map(step).collect(),
        tables: u32::try_from(look.tables).unwrap_or(u32::MAX),
        rows: u64::try_from(look.rows).unwrap_or(0),
        bytes: u64::try_from(look.bytes).unwrap_or(0),
        // The copy, and the comparison, which reads as much.
        estimate_seconds: 1 + 2 * look.takes(rate).as_secs(),
        bytes_per_second: rate,
        disk: look.disk,
        obstacles,
    })
}
