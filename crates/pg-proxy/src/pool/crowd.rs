//! How many sessions of a tenant may be at work on a cluster at once while other
//! tenants are there too. Pure. A server with more at work than it has
//! processors for serves all of them slowly, and knows no tenants.
//!
//! A tenant that is alone has no bound but that of its backends. Otherwise all
//! together have so many places, and who wants more than its part by weight has
//! what the others leave (work-conserving max-min fairness). Who is below its
//! part never waits, and everybody has a part of one at least.

use std::time::{Duration, Instant};

/// A tenant counts as being there until the end of the span after the one in
/// which it was at work the last time.
const SPAN: Duration = Duration::from_secs(2);

/// Who is at work on a cluster.
#[derive(Debug)]
pub(super) struct Crowd {
    /// Sessions of all tenants that are at work.
    at_work: u32,
    /// The number of the present span.
    span: u64,
    began: Option<Instant>,
    /// Tenants that were at work in it, and those that were in the one before and
    /// not since.
    present: Sum,
    before: Sum,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    tenants: u64,
    weight: u64,
}

/// When a tenant was at work the last time, as its crowd knows it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// 0 is never.
    span: u64,
    weight: u32,
}

impl Sum {
    fn add(&mut self, seen: Seen) {
        self.tenants += 1;
        self.weight += u64::from(seen.weight);
    }

    fn remove(&mut self, seen: Seen) {
        self.tenants -= 1;
        self.weight -= u64::from(seen.weight);
    }
}

impl Crowd {
    pub fn new() -> Self {
        Self { at_work: 0, span: 2, began: None, present: Sum::default(), before: Sum::default() }
    }

    /// A tenant of this weight is at work, or wants to be.
    pub fn sees(&mut self, seen: &mut Seen, weight: u32) {
        if seen.span != self.span {
            self.forgets(seen);
            *seen = Seen { span: self.span, weight: weight.max(1) };
            self.present.add(*seen);
        }
    }

    /// The tenant is forgotten, or does not count any more.
    pub fn forgets(&mut self, seen: &mut Seen) {
        if seen.span == self.span {
            self.present.remove(*seen);
        } else if seen.span + 1 == self.span {
            self.before.remove(*seen);
        }
        *seen = Seen::default();
    }

    /// So many more sessions are at work.
    pub fn begin(&mut self, sessions: usize) {
        self.at_work = self.at_work.saturating_add(u32::try_from(sessions).unwrap_or(u32::MAX));
    }

    /// So many are not any more.
    pub fn end(&mut self, sessions: usize) {
        self.at_work = self.at_work.saturating_sub(u32::try_from(sessions).unwrap_or(u32::MAX));
    }

    /// Whether one more session of a tenant may be at work beside so many of its
    /// own, where there are so many places; 0 is no bound.
    pub fn has_place(&self, seen: Seen, own: usize, places: u32) -> bool {
        if places == 0 || self.at_work < places {
            return true;
        }
        let (tenants, weight) =
            (self.present.tenants + self.before.tenants, self.present.weight + self.before.weight);
        let is_there = seen.span + 1 >= self.span;
        if tenants <= u64::from(is_there) {
            return true;
        }
        // Where there are more tenants than places each has one, and a heavy one more.
        let part = u64::from(seen.weight) * u64::from(places).max(tenants) / weight.max(1);
        (own as u64) < part.max(1)
    }

    /// The time is this. True where another span begins: tenants that still are at
    /// work have to be seen again.
    pub fn tick(&mut self, now: Instant) -> bool {
        let began = *self.began.get_or_insert(now);
        let spans = now.saturating_duration_since(began).as_nanos() / SPAN.as_nanos();
        if spans == 0 {
            return false;
        }
        let present = std::mem::take(&mut self.present);
        self.before = if spans == 1 { present } else { Sum::default() };
        self.span += if spans == 1 { 1 } else { 2 };
        self.began = Some(now);
        true
    }

    #[cfg(test)]
    pub fn at_work(&self) -> u32 {
        self.at_work
    }
}
