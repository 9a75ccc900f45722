//! Backends that sessions keep: they never come back, so their time is charged
//! while they are kept, a slice at a time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use insula_domain::TenantId;

use super::{PoolKey, Share, Task, Usable, nanos};

/// How long a slice is at least. Nothing is decided in between that another
/// quantum would not decide otherwise.
const SLICE: Duration = Duration::from_millis(20);

/// Who keeps backends, and when all were charged last.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    tenants: BTreeSet<TenantId>,
    charged: Option<Instant>,
}

/// What one tenant keeps.
#[derive(Debug, Default)]
pub(super) struct Kept {
    backends: u32,
    /// Until when they are charged.
    charged: Option<Instant>,
}

impl Kept {
    /// How many backends are kept.
    pub fn backends(&self) -> u32 {
        self.backends
    }

    /// The time of all of them together since this was asked last.
    fn since(&mut self, now: Instant) -> Duration {
        let charged = self.charged.replace(now).unwrap_or(now);
        now.saturating_duration_since(charged).saturating_mul(self.backends)
    }
}

impl<B: Usable> Share<B> {
    /// A session keeps its backend from here on, and has had it for so long. Who
    /// is narrowed may have another one for its others.
    #[must_use]
    pub fn keeps(&mut self, key: PoolKey, held: Duration, now: Instant) -> Vec<Task<B>> {
        self.charge_tenant(key.tenant, now);
        let Some(tenant) = self.tenants.get_mut(&key.tenant) else { return Vec::new() };
        tenant.charge(held);
        tenant.kept.backends += 1;
        self.keeping.tenants.insert(key.tenant);
        self.enter(key.tenant);
        self.dispatch(now)
    }

    /// One that was kept is about to be closed.
    pub fn keeps_no_more(&mut self, key: PoolKey, now: Instant) {
        self.charge_tenant(key.tenant, now);
        if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
            tenant.kept.backends = tenant.kept.backends.saturating_sub(1);
            if tenant.kept.backends == 0 {
                self.keeping.tenants.remove(&key.tenant);
            }
        }
    }

    /// A backend is about to be closed that was in use for so long.
    pub fn ends(&mut self, key: PoolKey, held: Duration) {
        if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
            tenant.charge(held);
        }
    }

    /// Charges all that is kept, where a slice has passed. To be called before
    /// tenants are compared.
    pub(super) fn charge_kept(&mut self, now: Instant) {
        if self.keeping.tenants.is_empty()
            || self.keeping.charged.is_some_and(|charged| now.saturating_duration_since(charged) < SLICE)
        {
            return;
        }
        self.keeping.charged = Some(now);
        let keeping: Vec<TenantId> = self.keeping.tenants.iter().copied().collect();
        keeping.into_iter().for_each(|tenant| self.charge_tenant(tenant, now));
    }

    fn charge_tenant(&mut self, id: TenantId, now: Instant) {
        let Some(tenant) = self.tenants.get_mut(&id) else { return };
        let kept = nanos(tenant.kept.since(now)) / u64::from(tenant.terms.weight.max(1));
        if kept > 0 {
            tenant.had = tenant.had.saturating_add(kept);
            self.enter(id);
            self.line_up(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{OPENING, Waiting, given, key, limits, weight};
    use super::super::{Acquired, Task};
    use super::*;

    const TICK: Duration = Duration::from_millis(5);
    const TICKS: u32 = 4_000;

    /// Tenants that always want more than there is, the first of which keeps some.
    struct Rush {
        share: Share<u32>,
        now: Instant,
        tenants: Vec<(PoolKey, u32)>,
        waiting: Vec<(usize, Waiting)>,
        /// Whose, which, since when, until when.
        running: Vec<(usize, u32, Instant, Instant)>,
        had: Vec<Duration>,
        look: Option<Instant>,
        next: u32,
    }

    impl Rush {
        fn asks(&mut self, index: usize) {
            let (key, by) = self.tenants[index];
            match self.share.acquire(key, weight(by), self.now, |_| true) {
                Acquired::Now(backend) => self.runs(index, backend),
                Acquired::Later(waiting, tasks) => {
                    self.waiting.push((index, waiting));
                    self.does(tasks);
                }
                Acquired::Full => panic!("nobody has so many"),
            }
        }

        fn runs(&mut self, index: usize, backend: u32) {
            self.next += 1;
            let takes = TICK * (1 + self.next % 7);
            self.running.push((index, backend, self.now, self.now + takes));
        }

        fn does(&mut self, tasks: Vec<Task<u32>>) {
            for task in tasks {
                self.next += 1;
                let more = match task {
                    Task::Open(key) | Task::Replace(_, key) => {
                        self.share.opened(key, self.next, OPENING, self.now)
                    }
                    Task::Close(key, _) => self.share.closed(key, self.now),
                    Task::LookAt(at) => {
                        self.look = Some(at);
                        continue;
                    }
                };
                self.does(more);
            }
        }

        fn ticks(&mut self) {
            self.now += TICK;
            if self.look.is_some_and(|at| at <= self.now) {
                self.look = None;
                let tasks = self.share.look(self.now);
                self.does(tasks);
            }
            let now = self.now;
            let done: Vec<_> = self.running.extract_if(.., |(.., until)| *until <= now).collect();
            for (index, backend, since, _) in done {
                let held = self.now - since;
                self.had[index] += held;
                let tasks = self.share.release(self.tenants[index].0, backend, held, self.now);
                self.does(tasks);
            }
            let granted: Vec<_> = self
                .waiting
                .iter_mut()
                .enumerate()
                .filter_map(|(at, (index, waiting))| Some((at, *index, given(waiting)?)))
                .collect();
            for (at, index, backend) in granted.into_iter().rev() {
                drop(self.waiting.remove(at));
                self.runs(index, backend);
            }
            for index in 0..self.tenants.len() {
                while self.waiting.iter().filter(|(other, _)| *other == index).count() < 2 {
                    self.asks(index);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Who keeps backends gets no more than its share besides, and where it keeps
        /// more than that, nothing.
        #[test]
        fn what_is_kept_is_paid_for(kept in 1_u32..4, others in 1_usize..4, by in 1_u32..3) {
            let backends = 4;
            let tenants: Vec<_> = std::iter::once((key(), by)).chain((0..others).map(|_| (key(), 1))).collect();
            let mut rush = Rush {
                share: Share::new(limits(backends, backends)),
                now: Instant::now(),
                had: vec![Duration::ZERO; tenants.len()],
                tenants,
                waiting: Vec::new(),
                running: Vec::new(),
                look: None,
                next: 0,
            };
            for _ in 0..kept {
                rush.asks(0);
            }
            for (_, mut waiting) in rush.waiting.drain(..) {
                prop_assert!(given(&mut waiting).is_some());
            }
            let pinner = rush.tenants[0].0;
            for _ in 0..kept {
                let tasks = rush.share.keeps(pinner, TICK, rush.now);
                rush.does(tasks);
            }
            (0..TICKS).for_each(|_| rush.ticks());

            let all = (TICK * TICKS * backends).as_secs_f64();
            let has_kept = (TICK * TICKS * kept).as_secs_f64();
            let had = rush.had[0].as_secs_f64() + has_kept;
            let due = all * f64::from(by) / (f64::from(by) + others as f64);
            prop_assert!(had <= due.max(has_kept) * 1.1, "{had} s of {all} s, {has_kept} s kept, {due} s are due");
            prop_assert!(had >= due.max(has_kept) * 0.9, "{had} s of {all} s, {due} s are due");
            // At the end of its sessions nothing of them is charged any more.
            (0..kept).for_each(|_| rush.share.keeps_no_more(pinner, rush.now));
            let before = rush.share.tenants[&pinner.tenant].had;
            rush.share.charge_kept(rush.now + Duration::from_secs(60));
            prop_assert_eq!(rush.share.tenants[&pinner.tenant].had, before);
        }
    }
}
