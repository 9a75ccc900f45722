//! Time and randomness, handed in. Everything that needs the time takes a
//! [`Clock`], everything that needs random bytes an [`Entropy`], so that tests
//! can hold both still. The two implementations here are the only places that
//! reach for the machine's own.

use std::fmt::Debug;

use time::OffsetDateTime;

/// A source of wall-clock time in UTC.
pub trait Clock: Debug + Send + Sync {
    /// The time now, in UTC.
    fn now(&self) -> OffsetDateTime;
}

/// A source of cryptographically secure random bytes.
pub trait Entropy: Debug + Send + Sync {
    /// Fills `bytes` with random bytes.
    fn fill(&self, bytes: &mut [u8]);
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}

/// The operating system's random generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    /// # Panics
    /// Where the operating system has no randomness to give: nothing secret
    /// can be made then, and going on would be worse than stopping.
    #[allow(clippy::disallowed_methods, clippy::expect_used)] // the one place
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }
}
