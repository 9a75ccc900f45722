//! What the fuzz targets call, and the tests with the same corpus: each takes any
//! bytes, and panics where something is not as it must be.

// They fail as tests do.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[cfg(test)]
mod conversation;
#[cfg(test)]
mod replay;
mod statements;
mod wire;

pub use self::statements::statements;
pub use self::wire::{startup, stream};

/// Two clients that share servers are told what each would have been told by a
/// server of its own, and no server is let go that owes something. The bytes are
/// those of [`crate::session::trial`].
///
/// # Panics
/// Where that is not so.
pub fn session(data: &[u8]) {
    crate::session::trial::run(data);
}
