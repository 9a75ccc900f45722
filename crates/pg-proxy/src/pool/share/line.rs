//! Sessions that stand in line for a place among those that are at work on the
//! cluster (`crowd.rs`): first come, first served within a tenant, and between
//! tenants who has had the least.

use std::time::{Duration, Instant};

use insula_domain::TenantId;
use tokio::sync::oneshot;

use super::{Crowd, Grant, PoolKey, Share, Task, Tenant, Usable};

/// A tenant in line none of whose sessions has begun or ended its work for so
/// long gets a place more. They may be waiting for each other's locks, or for a
/// client that waits for one of those in line.
const STALL: Duration = Duration::from_millis(250);

/// A session in line.
#[derive(Debug)]
pub(super) struct Held<B> {
    key: PoolKey,
    waiting: oneshot::Sender<Grant<B>>,
}

impl<B> Held<B> {
    pub fn new(key: PoolKey, waiting: oneshot::Sender<Grant<B>>) -> Self {
        Self { key, waiting }
    }

    pub fn is_gone(&self) -> bool {
        self.waiting.is_closed()
    }
}

impl<B> Tenant<B> {
    /// Counts a session out that was at work.
    pub(super) fn has_rested(&mut self, crowd: &mut Crowd, now: Instant) {
        self.at_work = self.at_work.saturating_sub(1);
        self.moved = Some(now);
        crowd.end(1);
    }

    pub(super) fn stands_in_line(&mut self, held: Held<B>, is_next: bool, now: Instant) {
        if self.line.is_empty() {
            self.moved = Some(now);
        }
        if is_next {
            self.line.push_front(held);
        } else {
            self.line.push_back(held);
        }
    }
}

impl<B: Usable> Share<B> {
    /// A session has a backend and is at work with it again.
    pub fn works(&mut self, id: TenantId) {
        if let Some(tenant) = self.tenants.get_mut(&id) {
            tenant.at_work += 1;
            self.crowd.begin(1);
            self.crowd.sees(&mut tenant.seen, tenant.terms.weight);
        }
    }

    /// A session that was at work with its backend is not, and keeps it.
    #[must_use]
    pub fn rests(&mut self, id: TenantId, now: Instant) -> Vec<Task<B>> {
        if let Some(tenant) = self.tenants.get_mut(&id) {
            tenant.has_rested(&mut self.crowd, now);
        }
        self.call_up(id, None, now)
    }

    /// Time has passed: who is alone by now has no bound, and who is stuck goes
    /// on. To be called now and then.
    #[must_use]
    pub fn relieve(&mut self, now: Instant) -> Vec<Task<B>> {
        if self.crowd.tick(now) {
            let crowd = &mut self.crowd;
            for tenant in self.tenants.values_mut().filter(|tenant| tenant.at_work + tenant.waiting > 0) {
                crowd.sees(&mut tenant.seen, tenant.terms.weight);
            }
        }
        let mut tasks = Vec::new();
        let in_line: Vec<TenantId> = self.in_line.iter().map(|(_, _, id)| *id).collect();
        for id in in_line {
            tasks.extend(self.call_up(id, None, now));
            let is_stuck = |moved: Instant| now.saturating_duration_since(moved) >= STALL;
            if self.tenants.get(&id).is_some_and(|tenant| tenant.moved.is_none_or(is_stuck)) {
                tasks.extend(self.lets_one_begin(id, &mut None, now));
                self.line_up(id);
            }
        }
        tasks
    }

    /// Lets those in line begin for whom there is a place: of who has had the
    /// least, and of the tenant. One of them may wait for a backend that is about
    /// to come back to this pool.
    pub(super) fn call_up(
        &mut self,
        id: TenantId,
        mut coming: Option<PoolKey>,
        now: Instant,
    ) -> Vec<Task<B>> {
        let mut tasks = Vec::new();
        while let Some(&(_, _, first)) = self.in_line.first() {
            let next = [first, id].into_iter().find(|id| self.may_begin(*id));
            let Some(next) = next else { break };
            tasks.extend(self.lets_one_begin(next, &mut coming, now));
            self.line_up(next);
        }
        tasks
    }

    pub(super) fn may_begin(&self, id: TenantId) -> bool {
        self.tenants.get(&id).is_some_and(|tenant| {
            let own = tenant.at_work + tenant.waiting;
            !tenant.line.is_empty() && self.crowd.has_place(tenant.seen, own, self.limits.at_work)
        })
    }

    /// The first of the tenant's line begins: with an idle backend, or in the
    /// queue for one. The tenant has to be lined up anew.
    pub(super) fn lets_one_begin(
        &mut self,
        id: TenantId,
        coming: &mut Option<PoolKey>,
        now: Instant,
    ) -> Vec<Task<B>> {
        let Some(tenant) = self.tenants.get_mut(&id) else { return Vec::new() };
        let Some(Held { key, waiting }) = tenant.line.pop_front() else { return Vec::new() };
        if waiting.is_closed() {
            return Vec::new();
        }
        tenant.moved = Some(now);
        tenant.waiting += 1;
        self.crowd.begin(1);
        self.crowd.sees(&mut tenant.seen, tenant.terms.weight);
        tenant.pool(key).waiting.push_back(waiting);
        if *coming == Some(key) {
            *coming = None;
            return Vec::new();
        }
        let mut tasks = Vec::new();
        while let Some(idle) = self.tenants.get_mut(&id).and_then(|tenant| tenant.pool(key).idle.pop()) {
            self.idle.remove(&idle.mark);
            if idle.backend.is_usable() {
                self.give(key, idle.backend, now, now);
                return tasks;
            }
            tasks.push(Task::Close(key, idle.backend));
        }
        self.enter(id);
        tasks.extend(self.dispatch(now));
        tasks.extend(self.swap_own(id));
        tasks
    }

    /// Puts the tenant where it belongs among those in line.
    pub(super) fn line_up(&mut self, id: TenantId) {
        let Some(tenant) = self.tenants.get_mut(&id) else { return };
        let before = tenant.in_line.take();
        if let Some((had, number)) = before {
            self.in_line.remove(&(had, number, id));
        }
        if !tenant.line.is_empty() {
            let number = before.map_or(self.next, |(_, number)| number);
            self.next += 1;
            tenant.in_line = Some((tenant.had, number));
            self.in_line.insert((tenant.had, number, id));
        }
    }
}
