//! What is counted of the streams of a process. No label names a tenant.

use metrics::counter;

/// Transactions that were applied while they ran.
pub const STREAMED: &str = "insula_move_streamed_total";

/// How often transactions that ran were rolled back at the target, because they could
/// not be applied before their commit.
pub const FALLEN_BACK: &str = "insula_move_fallen_back_total";

/// One was applied while it ran.
pub(super) fn streamed() {
    counter!(STREAMED).increment(1);
}

/// An applier has fallen back to whole transactions.
pub(super) fn fallen_back() {
    counter!(FALLEN_BACK).increment(1);
}
