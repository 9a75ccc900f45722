//! The cutover: the acts between the last transaction at the source and the
//! first one at the target.
//!
//! What holds at every moment, whoever dies: at most one end can be written to,
//! and as long as the commit is not known to have failed nothing is opened
//! again. A try that does not come through is taken back, and the tenant goes
//! on where it was.

mod plan;
#[cfg(test)]
mod simulation;

use std::time::Duration;

use insula_problem::{Code, Problem};
use tokio::time::{Instant, timeout_at};

pub use plan::{Act, PLAN, Phase, tidying};

/// How long beginning may take, and an act that takes something back.
const TIDY_WITHIN: Duration = Duration::from_secs(15);

/// How a try begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// The tenant is at the target already.
    Committed,
    /// As with a try, and an operator wants the move to end.
    Cancelled(i32),
    /// It is where it was, and no earlier try can commit any more, nor change
    /// anything on a server. With the number of the try that begins.
    Try(i32),
}

/// How a cutover ended.
#[derive(Debug)]
pub enum Outcome {
    /// The tenant is at the target.
    Committed,
    /// The tenant is where it was, and is served; a later try may come through.
    /// With what stood in the way.
    TakenBack(Problem),
    /// The tenant is where it was, and is to stay there.
    Cancelled,
}

/// What the cutover acts on.
pub trait World: Send + Sync {
    /// Begins a try. When it returns no earlier one has any effect from here
    /// on, by whichever process it is made, and a commit that was under way is
    /// decided.
    ///
    /// The number comes after all that keeps earlier tries from the servers:
    /// otherwise whoever was given a number and then waited would take the
    /// servers from a later try, and change them behind its commit.
    fn begin(&self) -> impl Future<Output = Result<Begun, Problem>> + Send;

    /// Carries out an act of a try. Each may be repeated, and taking back what
    /// was never done changes nothing. An error says nothing about whether the
    /// act has had its effect.
    fn act(&self, act: Act, number: i32, until: Instant) -> impl Future<Output = Result<(), Problem>> + Send;
}

/// Makes one try at a cutover, which may hold the tenant for so long.
///
/// # Errors
/// Where it is not known how the try ended, or it could not be taken back: the
/// next call finds out, and takes it back first.
pub async fn cut_over<W: World>(world: &W, hold: Duration) -> Result<Outcome, Problem> {
    // Whatever a try of somebody who died has left is taken back first.
    let number = match begin_tidily(world).await? {
        Begun::Committed => return Ok(Outcome::Committed),
        Begun::Cancelled(_) => return Ok(Outcome::Cancelled),
        Begun::Try(number) => number,
    };
    let until = Instant::now() + hold;
    for phase in PLAN {
        let act = phase.act;
        if let Err(problem) = within(until, act.what(), world.act(act, number, until)).await {
            tracing::info!(act = act.as_str(), problem = problem.chain(), "a cutover is taken back");
            return take_back(world, problem).await;
        }
    }
    Ok(Outcome::Committed)
}

/// Takes a try back, unless it has committed after all.
///
/// # Errors
/// As [`cut_over`].
pub async fn take_back<W: World>(world: &W, why: Problem) -> Result<Outcome, Problem> {
    Ok(match begin_tidily(world).await? {
        Begun::Committed => Outcome::Committed,
        Begun::Cancelled(_) => Outcome::Cancelled,
        Begun::Try(_) => Outcome::TakenBack(why),
    })
}

/// Begins a try, and takes back what earlier ones have left.
async fn begin_tidily<W: World>(world: &W) -> Result<Begun, Problem> {
    let until = Instant::now() + TIDY_WITHIN;
    let begun = within(until, "a try was being begun", world.begin()).await?;
    if let Begun::Cancelled(number) | Begun::Try(number) = begun {
        tidy(world, number).await?;
    }
    Ok(begun)
}

/// The target is closed before the source is opened, and the fronts are told last.
async fn tidy<W: World>(world: &W, number: i32) -> Result<(), Problem> {
    for act in tidying() {
        let until = Instant::now() + TIDY_WITHIN;
        within(until, act.what(), world.act(act, number, until)).await?;
    }
    Ok(())
}

async fn within<T>(
    until: Instant,
    what: &'static str,
    effect: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    timeout_at(until, effect).await.unwrap_or_else(|_| {
        Err(Problem::new(Code::Unavailable, format!("The cutover ran out of time: {what}.")))
    })
}
