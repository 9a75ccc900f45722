//! What needs both sides at the same time.

use crate::attempt::{Attempt, steps};
use crate::routines;

pub(super) const ATTEMPTS: &[Attempt] = &[
    steps("listen", "Hear what the victim notifies.", routines::hears_the_victim),
    steps("notify", "Notify the victim.", routines::speaks_to_the_victim),
    steps("advisory-lock-seen", "See that the victim has an advisory lock.", routines::sees_a_lock),
    steps(
        "advisory-lock-of-transaction",
        "See that the victim has an advisory lock in a transaction.",
        routines::sees_a_lock_of_a_transaction,
    ),
    steps(
        "advisory-lock-in-the-way",
        "Have the victim wait for an advisory lock.",
        routines::stops_by_a_lock,
    ),
    steps("advisory-lock-listed", "Read the number of the victim's advisory lock.", routines::lists_locks),
    steps(
        "cancel-guessed",
        "Cancel the victim's statement with guessed secrets.",
        routines::cancels_by_guess,
    ),
    steps(
        "cancel-own-key",
        "Cancel with the attacker's own key what runs on a backend given back.",
        routines::cancels_by_own_key,
    ),
    steps(
        "cancel-neighbours",
        "Cancel the victim's statement with keys beside its own.",
        routines::cancels_by_neighbours,
    ),
    steps(
        "cancel-process-number",
        "Cancel the victim's statement by the number of its server process.",
        routines::cancels_by_the_servers_number,
    ),
];
