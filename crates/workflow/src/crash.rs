//! Points at which a test may end the process, to see that a run survives it.

use std::fmt;

use crate::state::Direction;

/// When in an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// The log says that the attempt has begun; the step has not run.
    Before,
    /// The step has run; the log does not know it.
    Inside,
    /// The log knows that the attempt has ended.
    After,
}

/// A point in a run. As text: `tenant.create:create_role:inside` for the do,
/// `tenant.create:create_role:undo_inside` for the undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CrashPoint<'a> {
    /// The workflow's name.
    pub workflow: &'a str,
    /// The step's name.
    pub step: &'a str,
    /// Which half of the step.
    pub direction: Direction,
    /// When in the attempt.
    pub moment: Moment,
}

impl fmt::Display for CrashPoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Do => "",
            Direction::Undo => "undo_",
        };
        let moment = match self.moment {
            Moment::Before => "before",
            Moment::Inside => "inside",
            Moment::After => "after",
        };
        write!(f, "{}:{}:{direction}{moment}", self.workflow, self.step)
    }
}

/// Is told of every point that a run passes, and may end the process there.
pub trait CrashPoints: fmt::Debug + Send + Sync {
    /// The run is at the point.
    fn reached(&self, point: &CrashPoint<'_>);
}

/// Never ends the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCrash;

impl CrashPoints for NoCrash {
    fn reached(&self, _point: &CrashPoint<'_>) {}
}
