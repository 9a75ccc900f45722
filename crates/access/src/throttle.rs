//! The throttle of credentials: how many wrong ones an address may present,
//! how many may be presented for one operator, and how much password hashing
//! goes on at once. Counted as GCRA does (ITU-T I.371, a token bucket that is
//! one time): an attempt takes its place before it is looked at, and gives it
//! back where it was right, so that many at once are no way around it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use insula_problem::{Code, Problem, RateLimit};
use time::{Duration, OffsetDateTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most buckets that are remembered.
const BUCKETS: usize = 8_192;

/// The most pairs of an operator and an address from which he has come in.
const KNOWN: usize = 1_024;

/// The most passwords that are hashed at once, and of those from one address.
const HASHES: usize = 4;
const HASHES_OF_ONE: usize = 2;

const WINDOW: Duration = Duration::MINUTE;

/// Who somebody says that he is, as a hash: of bounded size, whatever is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    digest: [u8; 32],
    password: bool,
}

impl Claim {
    /// An operator, by a password.
    #[must_use]
    pub fn password(email: &str) -> Self {
        Self::new(b"password ", email.as_bytes(), true)
    }

    /// The bearer of a token. Its secret has 256 random bits, so that only the
    /// address counts.
    #[must_use]
    pub fn token(id: &[u8]) -> Self {
        Self::new(b"token ", id, false)
    }

    fn new(kind: &[u8], who: &[u8], password: bool) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &[kind, who].concat()).as_ref());
        Self { digest: bytes, password }
    }
}

/// An address as far as it is one caller's: of IPv6 the network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Bucket {
    Address(IpAddr),
    Operator(Claim),
    /// An operator at an address from which he has come in before: what others
    /// get wrong elsewhere, or here, is not his.
    Known(Claim, IpAddr),
}

#[derive(Debug, Default)]
struct State {
    /// When each bucket is full again; one that is full is forgotten.
    full_at: HashMap<Bucket, OffsetDateTime>,
    /// When a pair last came in.
    known: HashMap<(Claim, IpAddr), OffsetDateTime>,
    hashing: HashMap<IpAddr, usize>,
}

/// The throttle of one process.
#[derive(Debug)]
pub struct Throttle {
    /// How many wrong credentials a minute; 0 is no limit.
    quota: u32,
    state: Arc<Mutex<State>>,
    hashes: Arc<Semaphore>,
}

/// An attempt under way. Dropped, it was a wrong one.
#[derive(Debug)]
#[must_use]
pub struct Attempt<'t> {
    throttle: &'t Throttle,
    claim: Claim,
    from: IpAddr,
    taken: Vec<Bucket>,
}

/// The right to hash one password.
#[derive(Debug)]
pub struct Hashing {
    state: Arc<Mutex<State>>,
    from: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Throttle {
    /// A throttle that lets each address, and each operator's name, be wrong
    /// so often a minute; 0 is no limit.
    #[must_use]
    pub fn new(quota: u32) -> Self {
        Self { quota, state: Arc::default(), hashes: Arc::new(Semaphore::new(HASHES)) }
    }

    /// Whether there is a place for an attempt, which is not taken.
    ///
    /// # Errors
    /// `too_many_attempts` where the address or the claim has none left.
    pub fn room(&self, claim: Claim, from: IpAddr, now: OffsetDateTime) -> Result<(), Problem> {
        self.attempt(claim, from, now).map(Attempt::void)
    }

    /// Takes the place of an attempt.
    ///
    /// # Errors
    /// `too_many_attempts` where the address or the claim has none left.
    pub fn attempt(&self, claim: Claim, from: IpAddr, now: OffsetDateTime) -> Result<Attempt<'_>, Problem> {
        let from = network(from);
        let mut attempt = Attempt { throttle: self, claim, from, taken: Vec::new() };
        if self.quota == 0 {
            return Ok(attempt);
        }
        let mut state = lock(&self.state);
        let buckets = state.buckets_of(claim, from);
        state.not_beyond_the_window(&buckets, now);
        let wait = buckets.iter().map(|bucket| self.wait(&state, bucket, now)).max().unwrap_or_default();
        if wait > Duration::ZERO {
            return Err(self.refused(wait));
        }
        for bucket in &buckets {
            let full_at = state.full_at(bucket, now) + self.one();
            state.full_at.insert(*bucket, full_at);
        }
        state.forget(now);
        drop(state);
        attempt.taken = buckets;
        Ok(attempt)
    }

    /// Takes the right to hash a password for the address.
    ///
    /// # Errors
    /// `overloaded` where as many are hashed as may be.
    pub fn hashing(&self, from: IpAddr) -> Result<Hashing, Problem> {
        let refused = || {
            Problem::new(
                Code::Overloaded,
                "As many passwords are being checked as may be. Try again shortly.",
            )
            .retry_after(1)
        };
        let from = network(from);
        let permit = self.hashes.clone().try_acquire_owned().map_err(|_| refused())?;
        let mut state = lock(&self.state);
        let of_one = state.hashing.entry(from).or_default();
        if *of_one >= HASHES_OF_ONE {
            return Err(refused());
        }
        *of_one += 1;
        drop(state);
        Ok(Hashing { state: self.state.clone(), from, _permit: permit })
    }

    /// The time in which one place comes back.
    fn one(&self) -> Duration {
        WINDOW / self.quota
    }

    /// How long until the bucket has a place.
    fn wait(&self, state: &State, bucket: &Bucket, now: OffsetDateTime) -> Duration {
        let missing = state.full_at(bucket, now) - now;
        (missing + self.one() - WINDOW).max(Duration::ZERO)
    }

    fn refused(&self, wait: Duration) -> Problem {
        let seconds = u32::try_from(wait.whole_seconds() + 1).unwrap_or(u32::MAX);
        let detail = format!("Too many wrong credentials were presented. Try again in {seconds} s.");
        Problem::new(Code::TooManyAttempts, detail).retry_after(seconds).limited_by(RateLimit {
            policy: "failed-logins",
            quota: self.quota,
            window_seconds: 60,
        })
    }
}

impl Attempt<'_> {
    /// It was right: it costs nothing, and from now on this operator has
    /// places of his own at this address.
    pub fn right(mut self, now: OffsetDateTime) {
        let mut state = lock(&self.throttle.state);
        state.give_back(&std::mem::take(&mut self.taken), self.throttle);
        if self.throttle.quota == 0 {
            return;
        }
        state.known.insert((self.claim, self.from), now);
        while state.known.len() > KNOWN {
            let oldest = state.known.iter().min_by_key(|(_, at)| **at).map(|(pair, _)| *pair);
            oldest.map(|pair| state.known.remove(&pair));
        }
    }

    /// It was neither right nor wrong: it could not be looked at.
    pub fn void(mut self) {
        lock(&self.throttle.state).give_back(&std::mem::take(&mut self.taken), self.throttle);
    }
}

impl State {
    fn buckets_of(&self, claim: Claim, from: IpAddr) -> Vec<Bucket> {
        if self.known.contains_key(&(claim, from)) {
            return vec![Bucket::Known(claim, from)];
        }
        let operator = claim.password.then_some(Bucket::Operator(claim));
        [Bucket::Address(from)].into_iter().chain(operator).collect()
    }

    fn full_at(&self, bucket: &Bucket, now: OffsetDateTime) -> OffsetDateTime {
        self.full_at.get(bucket).map_or(now, |at| (*at).max(now))
    }

    /// A clock that was set back shuts nobody out for longer than the window.
    fn not_beyond_the_window(&mut self, buckets: &[Bucket], now: OffsetDateTime) {
        for bucket in buckets {
            if let Some(at) = self.full_at.get_mut(bucket) {
                *at = (*at).min(now + WINDOW);
            }
        }
    }

    fn give_back(&mut self, buckets: &[Bucket], throttle: &Throttle) {
        for bucket in buckets {
            if let Some(at) = self.full_at.get_mut(bucket) {
                *at -= throttle.one();
            }
        }
    }

    /// Keeps the map in its bounds: full buckets go first, then those that
    /// miss the least, half of all at a time.
    fn forget(&mut self, now: OffsetDateTime) {
        if self.full_at.len() <= BUCKETS {
            return;
        }
        self.full_at.retain(|_, at| *at > now);
        if self.full_at.len() <= BUCKETS / 2 {
            return;
        }
        let mut all: Vec<_> = self.full_at.drain().collect();
        all.sort_unstable_by_key(|(_, at)| std::cmp::Reverse(*at));
        self.full_at.extend(all.into_iter().take(BUCKETS / 2));
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some(of_one) = state.hashing.get_mut(&self.from) {
            *of_one -= 1;
            if *of_one == 0 {
                state.hashing.remove(&self.from);
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn fail(throttle: &Throttle, who: &str, from: IpAddr, now: OffsetDateTime) -> bool {
        throttle.attempt(Claim::password(who), from, now).is_ok()
    }

    #[test]
    fn an_address_has_its_places_and_gets_them_back() {
        let throttle = Throttle::new(3);
        let tries = |now| (0..9).filter(|try_| fail(&throttle, &try_.to_string(), address(1), now)).count();
        assert_eq!(tries(NOW), 3);
        let refused = throttle.attempt(Claim::token(b"t"), address(1), NOW).unwrap_err();
        assert_eq!((refused.code(), refused.retry_after_seconds()), (Code::TooManyAttempts, Some(21)));
        assert_eq!(tries(NOW + Duration::seconds(21)), 1, "one in twenty seconds");
        assert_eq!(tries(NOW + Duration::hours(1)), 3, "never more than the quota");
        assert_eq!(tries(NOW - Duration::days(1)), 0, "a clock that was set back");
        assert_eq!(tries(NOW - Duration::days(1) + WINDOW), 3, "shuts nobody out for long");
        // Without a limit the same goes on for ever.
        let off = Throttle::new(0);
        assert!((0..1_000).all(|_| fail(&off, "ada", address(1), NOW)));
    }

    #[test]
    fn an_operator_is_not_guessed_at_from_many_addresses() {
        let throttle = Throttle::new(3);
        let let_in = (1..100).filter(|last| fail(&throttle, "ada", address(*last), NOW)).count();
        assert_eq!(let_in, 3);
        assert!(fail(&throttle, "grace", address(200), NOW), "another one");
        // Of IPv6 a whole network is one address.
        let in_network = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let let_in = (0..9).filter(|last| fail(&throttle, &last.to_string(), in_network(*last), NOW)).count();
        assert_eq!(let_in, 3);
    }

    #[test]
    fn who_came_in_before_is_not_slowed_by_others() {
        let throttle = Throttle::new(3);
        let ada = || throttle.attempt(Claim::password("ada"), address(1), NOW);
        ada().unwrap().right(NOW);
        for last in 1..100 {
            let _ = fail(&throttle, "ada", address(last.max(2)), NOW);
            let _ = fail(&throttle, "someone", address(1), NOW);
        }
        assert!(!fail(&throttle, "new", address(1), NOW), "the address is shut to others");
        (0..100).for_each(|_| ada().unwrap().right(NOW));
        // And yet his own address is no way to guess at him.
        assert_eq!((0..9).filter(|_| ada().is_ok()).count(), 3);
    }

    #[test]
    fn right_ones_and_void_ones_cost_nothing() {
        let throttle = Throttle::new(2);
        for number in 0..50_u8 {
            let attempt = throttle.attempt(Claim::token(&[number]), address(1), NOW).unwrap();
            if number % 2 == 0 { attempt.right(NOW) } else { attempt.void() }
        }
        assert!(fail(&throttle, "a", address(1), NOW) && fail(&throttle, "b", address(1), NOW));
        assert!(!fail(&throttle, "c", address(1), NOW));
    }

    #[test]
    fn memory_is_bounded_and_the_worst_are_remembered() {
        let throttle = Throttle::new(2);
        while fail(&throttle, "ada", address(1), NOW) {}
        for number in 0..30_000_u32 {
            let from = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            assert!(fail(&throttle, &number.to_string(), from, NOW));
            throttle.attempt(Claim::token(&number.to_be_bytes()), from, NOW).unwrap().right(NOW);
        }
        let state = lock(&throttle.state);
        assert!(state.full_at.len() <= BUCKETS + 2, "{}", state.full_at.len());
        assert!(state.known.len() <= KNOWN, "{}", state.known.len());
        drop(state);
        assert!(!fail(&throttle, "ada", address(1), NOW));
    }

    #[test]
    fn hashing_is_bounded_for_one_address_and_for_all() {
        let throttle = Throttle::new(0);
        let held: Vec<_> = (0..9).filter_map(|_| throttle.hashing(address(1)).ok()).collect();
        assert_eq!(held.len(), HASHES_OF_ONE);
        let more: Vec<_> = (2..99).filter_map(|last| throttle.hashing(address(last)).ok()).collect();
        assert_eq!(held.len() + more.len(), HASHES);
        assert_eq!(throttle.hashing(address(99)).unwrap_err().code(), Code::Overloaded);
        drop((held, more));
        assert!(throttle.hashing(address(1)).is_ok());
        assert!(lock(&throttle.state).hashing.is_empty());
    }
}
