//! The flags of those tenants that ask for them, kept ready while they do: one
//! question costs no look at a store. A set is made anew when the hub has told
//! of any change.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use insula_config_model::{ConfigKey, ConfigValue, Lineage};
use insula_domain::TenantId;
use insula_problem::Problem;
use tokio::sync::Mutex;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::Instant;

use super::Flagd;
use super::set::{Entry, FLAGS, FlagSet, RULES};
use crate::caller::Caller;
use crate::directory::Named;
use crate::hub::{Feed, Item, Signal};

/// The most tenants whose flags are kept ready.
const TENANTS_MAX: usize = 1_000;

/// For so long flags are kept ready for which nobody asks.
const IDLE: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct Kept {
    lineage: Lineage,
    feed: Feed,
    set: Arc<FlagSet>,
}

impl Kept {
    /// Whether nothing has changed that flags are made of.
    fn is_current(&mut self) -> bool {
        loop {
            match self.feed.signals.try_recv() {
                Err(TryRecvError::Empty) => return true,
                Ok(Signal::Told(told)) if !told.single.iter().any(|one| is_part(&one.key)) => {}
                _ => return false,
            }
        }
    }
}

/// Whether flags are made of what is under the key.
fn is_part(key: &ConfigKey) -> bool {
    key.as_str().starts_with(FLAGS) || key.as_str().starts_with(RULES)
}

type Slot = Arc<Mutex<Option<Kept>>>;

/// The sets that are kept ready.
#[derive(Debug, Default)]
pub(super) struct Sets {
    slots: Mutex<HashMap<TenantId, (Slot, Instant)>>,
}

impl Sets {
    async fn slot(&self, tenant: TenantId) -> Slot {
        let (mut slots, now) = (self.slots.lock().await, Instant::now());
        if !slots.contains_key(&tenant) && slots.len() >= TENANTS_MAX {
            slots.retain(|_, (_, used)| now.duration_since(*used) < IDLE);
            let oldest = slots.iter().min_by_key(|(_, (_, used))| *used).map(|(tenant, _)| *tenant);
            if let Some(oldest) = oldest.filter(|_| slots.len() >= TENANTS_MAX) {
                slots.remove(&oldest);
            }
        }
        let (slot, used) = slots.entry(tenant).or_insert_with(|| (Slot::default(), now));
        *used = now;
        slot.clone()
    }

    /// Forgets those for which nobody asks, and with them what they are made of.
    async fn sweep(&self, now: Instant) {
        self.slots.lock().await.retain(|_, (_, used)| now.duration_since(*used) < IDLE);
    }
}

/// Forgets what nobody asks for any more, as long as the sets are served.
pub(super) async fn sweep(sets: Weak<Sets>) {
    let mut look = tokio::time::interval(IDLE / 4);
    loop {
        look.tick().await;
        match sets.upgrade() {
            Some(sets) => sets.sweep(Instant::now()).await,
            None => return,
        }
    }
}

/// A value of a feed as one of a set.
fn entry(item: &Item) -> Option<(String, &[u8])> {
    match &item.stored.value {
        Some(ConfigValue::Json(json)) if is_part(&item.stored.key) => {
            Some((item.stored.scope.to_string(), json.as_ref()))
        }
        _ => None,
    }
}

fn set_of(items: &[Item]) -> FlagSet {
    let read: Vec<_> = items.iter().filter_map(|item| entry(item).map(|read| (item, read))).collect();
    FlagSet::new(read.iter().map(|(item, (scope, json))| Entry {
        key: item.stored.key.as_str(),
        json,
        scope,
        version: item.stored.version,
    }))
}

impl Flagd {
    /// The flags that a caller's tenant sees.
    pub(super) async fn set(&self, caller: &Caller) -> Result<Arc<FlagSet>, Problem> {
        let lineage = || match self.service.directory().named(caller, "")? {
            Named::Tenant(lineage) => Ok(lineage),
            Named::Provider(_) => Err(Problem::internal("a tenant's key names no tenant")),
        };
        let own = lineage()?;
        let slot = self.sets.slot(own.tenant).await;
        let mut slot = slot.lock().await;
        if let Some(kept) = slot.as_mut().filter(|kept| kept.lineage == own)
            && kept.is_current()
        {
            return Ok(kept.set.clone());
        }
        // The old seat is given up after the new one is taken.
        let (lineage, mut feed) = self.service.feed(lineage).await?;
        let set = Arc::new(set_of(&std::mem::take(&mut feed.items)));
        *slot = Some(Kept { lineage, feed, set: set.clone() });
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_asks_for_is_forgotten_without_another_question() {
        let sets = Sets::default();
        sets.slot(TenantId::from(uuid::Uuid::from_u128(1))).await;
        sets.sweep(Instant::now() + IDLE / 2).await;
        assert_eq!(sets.slots.lock().await.len(), 1, "canary: it may be asked for again");
        sets.sweep(Instant::now() + IDLE).await;
        assert!(sets.slots.lock().await.is_empty());
    }
}
