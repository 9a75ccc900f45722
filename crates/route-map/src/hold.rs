//! A tenant that is held: its transactions wait at the fronts for a moment, in
//! which it gets another placement. What fronts say of that is here too, since
//! whoever carries it to the mover knows no more of it.

use std::time::Duration;

use uuid::Uuid;

/// A tenant's transactions are to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Which try of which move. Another one begins another wait.
    pub id: Uuid,
    /// So long at the most, from when a front hears of it, by its own clock. Then
    /// the tenant goes on where it was.
    pub within: Duration,
}

/// What a front says of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldReport {
    /// No transaction of the tenant is under way here, and none begins before
    /// the hold is over. It is said once.
    Quiet {
        /// The hold's id.
        hold: Uuid,
    },
    /// The hold is over, and all who have waited for that go on, or have left.
    Released {
        /// The hold's id.
        hold: Uuid,
        /// How long the one has waited that waited longest, from when it wanted
        /// to begin until it had a backend.
        longest_wait: Duration,
        /// How many have waited.
        clients: u32,
    },
}
