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

/// No server is let go that owes something, and where nothing fails, two clients
/// that share servers are told what each would have been told by one of its own. The bytes are
/// those of [`crate::session::trial`].
///
/// # Panics
/// Where that is not so.
pub fn session(data: &[u8]) {
    crate::session::trial::run(data);
}
