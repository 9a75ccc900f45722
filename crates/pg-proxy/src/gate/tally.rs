//! What a hold was at this front, part by part: told to the worker, measured and
//! logged when all who have waited for its end have gone on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use insula_route_map::HoldReport;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::report;
use crate::measure::{Counted, HoldPart, Measures};

/// In place of a time that there is not.
const NEVER: u64 = u64::MAX;

/// The times of a hold, in microseconds since its begin.
#[derive(Debug)]
pub(super) struct Tally {
    hold: Uuid,
    reports: mpsc::Sender<HoldReport>,
    measures: Measures,
    begun: Instant,
    quiet_us: AtomicU64,
    over_us: AtomicU64,
    first_us: AtomicU64,
    last_us: AtomicU64,
    longest_us: AtomicU64,
    clients: AtomicU32,
}

/// How long the parts of a hold took, where there were such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parts {
    /// From the begin until nothing was under way any more.
    quiet: Option<Duration>,
    /// From the begin to the end.
    held: Option<Duration>,
    /// From the end until the first that has waited had a backend.
    first_backend: Option<Duration>,
    /// The same until the last one had.
    last_backend: Option<Duration>,
}

impl Tally {
    pub fn new(hold: Uuid, reports: &mpsc::Sender<HoldReport>, measures: &Measures) -> Self {
        Self {
            hold,
            reports: reports.clone(),
            measures: measures.clone(),
            begun: Instant::now(),
            quiet_us: NEVER.into(),
            over_us: NEVER.into(),
            first_us: NEVER.into(),
            last_us: 0.into(),
            longest_us: 0.into(),
            clients: 0.into(),
        }
    }

    /// Nothing is under way any more.
    pub fn is_quiet(&self) {
        self.quiet_us.store(microseconds(self.begun.elapsed()), Ordering::Relaxed);
        report(&self.reports, HoldReport::Quiet { hold: self.hold });
    }

    /// The hold is over.
    pub fn is_over(&self) {
        self.over_us.store(microseconds(self.begun.elapsed()), Ordering::Relaxed);
    }

    /// One that has waited since then has a backend, or has gone.
    fn is_served(&self, since: Instant) {
        let now = Instant::now();
        let waited = now.saturating_duration_since(since);
        self.measures.held(waited);
        let at = microseconds(now.saturating_duration_since(self.begun));
        self.first_us.fetch_min(at, Ordering::Relaxed);
        self.last_us.fetch_max(at, Ordering::Relaxed);
        self.longest_us.fetch_max(microseconds(waited), Ordering::Relaxed);
        self.clients.fetch_add(1, Ordering::Relaxed);
    }

    fn parts(&self) -> Parts {
        let at = |time: &AtomicU64| {
            let time = time.load(Ordering::Relaxed);
            (time != NEVER).then(|| Duration::from_micros(time))
        };
        let (held, first) = (at(&self.over_us), at(&self.first_us));
        let last = first.and(at(&self.last_us));
        // Who has gone before the end is none of those who were served behind it.
        let behind = |time: Option<Duration>| time?.checked_sub(held?);
        Parts { quiet: at(&self.quiet_us), held, first_backend: behind(first), last_backend: behind(last) }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let Parts { quiet, held, first_backend, last_backend } = self.parts();
        for (part, took) in [
            (HoldPart::Quiet, quiet),
            (HoldPart::Held, held),
            (HoldPart::FirstBackend, first_backend),
            (HoldPart::LastBackend, last_backend),
        ] {
            took.into_iter().for_each(|took| self.measures.hold_part(part, took));
        }
        let clients = *self.clients.get_mut();
        let ms = |took: Option<Duration>| took.map(|took| took.as_secs_f64() * 1_000.0);
        tracing::debug!(
            hold = %self.hold,
            clients,
            quiet_ms = ms(quiet),
            held_ms = ms(held),
            first_backend_ms = ms(first_backend),
            last_backend_ms = ms(last_backend),
            "what a hold was"
        );
        let longest_wait = Duration::from_micros(*self.longest_us.get_mut());
        report(&self.reports, HoldReport::Released { hold: self.hold, longest_wait, clients });
    }
}

/// One that waits for the end of a hold, until it has a backend.
#[derive(Debug)]
pub(super) struct Waits {
    since: Instant,
    pub tally: Arc<Tally>,
    _counted: Counted,
}

impl Waits {
    pub fn new(tally: Arc<Tally>) -> Self {
        let counted = Counted::new(&tally.measures.held_clients);
        Self { since: Instant::now(), tally, _counted: counted }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.tally.is_served(self.since);
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(hold: u128) -> (Tally, mpsc::Receiver<HoldReport>) {
        let (sender, receiver) = mpsc::channel(4);
        (Tally::new(Uuid::from_u128(hold), &sender, &Measures::register()), receiver)
    }

    #[test]
    fn the_parts_of_a_hold_are_those_that_there_were() {
        let (tally, _reports) = tally(1);
        let nothing = Parts { quiet: None, held: None, first_backend: None, last_backend: None };
        assert_eq!(tally.parts(), nothing);
        tally.is_quiet();
        tally.is_over();
        for (time, us) in [(&tally.quiet_us, 2_000), (&tally.over_us, 30_000)] {
            time.store(us, Ordering::Relaxed);
        }
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(tally.parts(), Parts { quiet: ms(2), held: ms(30), ..nothing }, "nobody has waited");
        for (time, us) in [(&tally.first_us, 37_000), (&tally.last_us, 45_000)] {
            time.store(us, Ordering::Relaxed);
        }
        let served = Parts { quiet: ms(2), held: ms(30), first_backend: ms(7), last_backend: ms(15) };
        assert_eq!(tally.parts(), served);
        tally.first_us.store(10_000, Ordering::Relaxed);
        assert_eq!(tally.parts().first_backend, None, "it has gone before the end");
    }

    #[test]
    fn the_last_that_is_served_tells_the_longest_wait() {
        let (tally, mut reports) = tally(1);
        let tally = Arc::new(tally);
        let both = [Waits::new(Arc::clone(&tally)), Waits::new(Arc::clone(&tally))];
        tally.is_quiet();
        assert!(matches!(reports.try_recv(), Ok(HoldReport::Quiet { .. })));
        tally.is_over();
        drop(tally);
        assert!(reports.try_recv().is_err(), "two of them wait");
        drop(both);
        let told = reports.try_recv().unwrap();
        assert!(
            matches!(told, HoldReport::Released { clients: 2, longest_wait, .. } if !longest_wait.is_zero())
        );
    }
}
