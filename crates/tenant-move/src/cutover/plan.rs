//! The plan of a cutover, to be read like a table of contents.

/// One thing that a cutover does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// The fronts begin no transaction of the tenant.
    Hold,
    /// Every front has said that none is under way.
    Quiet,
    /// PostgreSQL lets nobody of the tenant into the source, and nobody is in it.
    CloseSource,
    /// Everything that the source has ever committed is applied at the target.
    Drain,
    /// The target's sequences go on where the source's ended.
    Sequences,
    /// PostgreSQL lets the tenant into the target.
    OpenTarget,
    /// The compare-and-swap of the placement.
    Commit,
    /// PostgreSQL lets nobody of the tenant into the target.
    CloseTarget,
    /// PostgreSQL lets the tenant into the source again.
    OpenSource,
    /// The fronts begin transactions again.
    LetGo,
}

impl Act {
    /// The act's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Quiet => "quiet",
            Self::CloseSource => "close_source",
            Self::Drain => "drain",
            Self::Sequences => "sequences",
            Self::OpenTarget => "open_target",
            Self::Commit => "commit",
            Self::CloseTarget => "close_target",
            Self::OpenSource => "open_source",
            Self::LetGo => "let_go",
        }
    }

    /// What was being done, for people.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Hold => "the fronts were being told to hold the tenant",
            Self::Quiet => "transactions of the tenant were still open",
            Self::CloseSource => "sessions at the source did not end",
            Self::Drain => "the last changes were not applied yet",
            Self::Sequences => "the sequences were being set",
            Self::OpenTarget => "the target was being opened",
            Self::Commit => "the catalog did not answer",
            Self::CloseTarget => "the target was being closed",
            Self::OpenSource => "the source was being opened again",
            Self::LetGo => "the fronts were being told to go on",
        }
    }
}

/// An act of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// What is done.
    pub act: Act,
    /// What takes it back.
    pub undo: Option<Act>,
}

impl Phase {
    const fn new(act: Act) -> Self {
        Self { act, undo: None }
    }

    const fn undone_by(self, undo: Act) -> Self {
        Self { undo: Some(undo), ..self }
    }
}

/// The acts in their order, each with why it stands where it stands; the last
/// one commits.
pub const PLAN: [Phase; 7] = [
    // A client that waits sees a pause, and one whose session is ended sees an error.
    Phase::new(Act::Hold).undone_by(Act::LetGo),
    // What has begun may come to its end.
    Phase::new(Act::Quiet),
    // A front that has heard of nothing must not write either: PostgreSQL keeps it out.
    Phase::new(Act::CloseSource).undone_by(Act::OpenSource),
    // Only behind the closed door is there a last change, and a marker behind it.
    Phase::new(Act::Drain),
    // Their values are in no stream; raising them is harmless where the try is taken back.
    Phase::new(Act::Sequences),
    // The first transaction finds the door open; nobody is sent there before the commit.
    Phase::new(Act::OpenTarget).undone_by(Act::CloseTarget),
    // From here on there is only forward.
    Phase::new(Act::Commit),
];

/// What takes a try back, whatever of it was done, in this order: the plan's
/// undos backwards.
pub fn tidying() -> impl Iterator<Item = Act> {
    PLAN.iter().rev().filter_map(|phase| phase.undo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_closed_before_the_source_is_opened_and_nothing_follows_the_commit() {
        let undos: Vec<_> = tidying().collect();
        assert_eq!(undos, [Act::CloseTarget, Act::OpenSource, Act::LetGo]);
        assert_eq!(PLAN.last().map(|phase| phase.act), Some(Act::Commit));
    }
}
