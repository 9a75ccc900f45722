//! The flags of those tenants that ask for them, kept ready while they do: one
//! question costs no look at a store, and all streams of a tenant share one set.
//! A set is made anew when the hub has told of any change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use insula_config_model::{ConfigKey, ConfigValue, KeyPrefix, Lineage};
use insula_domain::TenantId;
use insula_problem::{Code, Problem};
use tokio::sync::Mutex;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::Instant;

use super::Flagd;
use super::set::{Entry, FLAGS, FlagSet, RULES};
use crate::caller::{Caller, Reach};
use crate::directory::Named;
use crate::hub::{Feed, Item, Signal};

/// The most sets that are kept ready for which no stream is open.
const SETS_MAX: usize = 1_000;

/// The bytes of all sets together, as they are written; in memory they are some
/// times that.
const ALL_BYTES: usize = 64 << 20;

/// The most flags and shared rules of a tenant, and their bytes. Usual clients of
/// gRPC take no message that is longer than 4 MiB.
const FLAGS_MAX: usize = 5_000;
const FLAGS_BYTES: usize = 2 << 20;

/// What may be on its way to the streams of a tenant: each may have the whole set
/// before it, and not read it.
const STREAMS_BYTES: usize = 128 << 20;

/// For so long flags are kept ready for which nobody asks.
const IDLE: Duration = Duration::from_secs(120);

/// The flags of a tenant, as far as a key reaches them.
#[derive(Debug, Clone)]
pub(super) struct Flags {
    /// Evaluated here: shared rules count that the key does not reach.
    pub evaluated: Arc<FlagSet>,
    /// Shown to those who evaluate themselves: nothing that it does not reach.
    pub shown: Arc<FlagSet>,
}

impl Flags {
    fn of(items: &[Item], reach: Option<&Reach>) -> Result<Self, Problem> {
        let read: Vec<_> = items.iter().filter_map(|item| entry(item).map(|read| (item, read))).collect();
        let bytes: usize = read.iter().map(|(_, (_, json))| json.len()).sum();
        if read.len() > FLAGS_MAX || bytes > FLAGS_BYTES {
            let detail =
                format!("There are more flags than {FLAGS_MAX}, or than {FLAGS_BYTES} bytes of them.");
            return Err(Problem::new(Code::ConfigQuotaExceeded, detail));
        }
        let entries = |reach: Option<&Reach>| {
            let is_reached = |key: &ConfigKey| reach.is_none_or(|reach| reach.covers(key));
            let reached = read.iter().filter(|(item, _)| is_reached(&item.stored.key));
            let entries = reached.map(|(item, (scope, json))| Entry {
                key: item.stored.key.as_str(),
                json,
                scope,
                version: item.stored.version,
            });
            FlagSet::new(entries)
        };
        let whole = entries(None);
        let Some(reach) = reach else {
            let whole = Arc::new(whole);
            return Ok(Self { evaluated: whole.clone(), shown: whole });
        };
        Ok(Self { evaluated: Arc::new(whole.reached(reach)), shown: Arc::new(entries(Some(reach))) })
    }

    fn bytes(&self) -> usize {
        let shown = if Arc::ptr_eq(&self.evaluated, &self.shown) { 0 } else { self.shown.bytes() };
        self.evaluated.bytes() + shown
    }
}

/// A set with what says when it has changed.
#[derive(Debug)]
pub(super) struct Kept {
    lineage: Lineage,
    feed: Feed,
    flags: Flags,
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

/// Whose flags: a tenant's, as far as a key reaches them.
type Whose = (TenantId, Option<KeyPrefix>);

/// A set, for as long as somebody has it.
pub(super) type Slot = Arc<Mutex<Option<Kept>>>;

#[derive(Debug)]
struct Place {
    slot: Slot,
    used: Instant,
    bytes: usize,
}

impl Place {
    /// Whether nobody has it: no stream, and no call that is under way.
    fn is_free(&self) -> bool {
        Arc::strong_count(&self.slot) == 1
    }

    fn is_left(&self, now: Instant) -> bool {
        self.is_free() && now.duration_since(self.used) >= IDLE
    }
}

/// The sets that are kept ready.
#[derive(Debug, Default)]
pub(super) struct Sets {
    places: Lock<HashMap<Whose, Place>>,
}

impl Sets {
    fn lock(&self) -> MutexGuard<'_, HashMap<Whose, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, whose: &Whose) -> Slot {
        let (mut places, now) = (self.lock(), Instant::now());
        if !places.contains_key(whose) && places.len() >= SETS_MAX {
            drop_oldest(&mut places, |_| true);
        }
        let new = || Place { slot: Slot::default(), used: now, bytes: 0 };
        let place = places.entry(whose.clone()).or_insert_with(new);
        place.used = now;
        place.slot.clone()
    }

    /// Takes the room for a set; those go for which nobody asks right now.
    fn weigh(&self, whose: &Whose, bytes: usize) -> Result<(), Problem> {
        let mut places = self.lock();
        if let Some(place) = places.get_mut(whose) {
            place.bytes = bytes;
        }
        while places.values().map(|place| place.bytes).sum::<usize>() > ALL_BYTES {
            if !drop_oldest(&mut places, |place| place.bytes > 0) {
                if let Some(place) = places.get_mut(whose) {
                    place.bytes = 0;
                }
                let detail = "As many flags as may be are in use. Try again shortly.";
                return Err(Problem::new(Code::Overloaded, detail).retry_after(5));
            }
        }
        Ok(())
    }

    /// Forgets those for which nobody asks, and with them what they are made of.
    fn sweep(&self, now: Instant) {
        self.lock().retain(|_, place| !place.is_left(now));
    }
}

/// Forgets the one of those that nobody has that was not asked for for the
/// longest time; whether there was one.
fn drop_oldest(places: &mut HashMap<Whose, Place>, is_wanted: impl Fn(&Place) -> bool) -> bool {
    let free = places.iter().filter(|(_, place)| place.is_free() && is_wanted(place));
    let oldest = free.min_by_key(|(_, place)| place.used).map(|(whose, _)| whose.clone());
    oldest.is_some_and(|whose| places.remove(&whose).is_some())
}

/// Forgets what nobody asks for any more, as long as the sets are served.
pub(super) async fn sweep(sets: Weak<Sets>) {
    let mut look = tokio::time::interval(IDLE / 4);
    loop {
        look.tick().await;
        match sets.upgrade() {
            Some(sets) => sets.sweep(Instant::now()),
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

impl Flagd {
    fn lineage(&self, caller: &Caller) -> Result<Lineage, Problem> {
        match self.service.directory().named(caller, "")? {
            Named::Tenant(lineage) => Ok(lineage),
            Named::Provider(_) => Err(Problem::internal("a tenant's key names no tenant")),
        }
    }

    /// The flags that a caller sees, and what keeps them ready as long as it is held.
    pub(super) async fn flags(&self, caller: &Caller) -> Result<(Flags, Slot), Problem> {
        let own = self.lineage(caller)?;
        let reach = caller.reach(&*self.service.tags.known()?)?;
        let whose = (own.tenant, reach.as_ref().map(|reach| reach.prefix().clone()));
        let slot = self.sets.slot(&whose);
        let mut kept = slot.lock().await;
        if let Some(kept) = kept.as_mut().filter(|kept| kept.lineage == own)
            && kept.is_current()
        {
            return Ok((kept.flags.clone(), slot.clone()));
        }
        // What it was told is not told again, so that it is not looked at once more.
        // Its seat is given up after the new one is taken.
        let _old = kept.take();
        let (lineage, mut feed) = self.service.feed(|| self.lineage(caller)).await?;
        let flags = Flags::of(&std::mem::take(&mut feed.items), reach.as_ref())?;
        self.sets.weigh(&whose, flags.bytes())?;
        *kept = Some(Kept { lineage, feed, flags: flags.clone() });
        Ok((flags, slot.clone()))
    }
}

/// Whether one more stream of a tenant may be sent these flags.
pub(super) fn check_streams(flags: &Flags, slot: &Slot) -> Result<(), Problem> {
    // Beside the streams the table has it.
    if (Arc::strong_count(slot) - 1).saturating_mul(flags.shown.bytes()) <= STREAMS_BYTES {
        return Ok(());
    }
    let detail = "The tenant has as many streams of flags as may be with so many bytes of them.";
    Err(Problem::new(Code::QuotaExceeded, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(number: u128) -> Whose {
        (TenantId::from(uuid::Uuid::from_u128(number)), None)
    }

    #[tokio::test]
    async fn what_nobody_asks_for_is_forgotten_without_another_question() {
        let sets = Sets::default();
        drop(sets.slot(&whose(1)));
        let held = sets.slot(&whose(2));
        sets.sweep(Instant::now() + IDLE / 2);
        assert_eq!(sets.lock().len(), 2, "canary: it may be asked for again");
        sets.sweep(Instant::now() + IDLE);
        assert_eq!(sets.lock().keys().collect::<Vec<_>>(), [&whose(2)], "a stream has it");
        drop(held);
        sets.sweep(Instant::now() + IDLE);
        assert!(sets.lock().is_empty());
    }

    #[test]
    fn a_tenants_streams_are_bounded_by_what_they_are_sent() {
        let json = format!("\"{}\"", "x".repeat(STREAMS_BYTES / 4));
        let one = Entry { key: "tenant_config_flag/a", json: json.as_bytes(), scope: "platform", version: 1 };
        let set = Arc::new(FlagSet::new([one]));
        let (flags, slot) = (Flags { evaluated: set.clone(), shown: set }, Slot::default());
        let mut streams = Vec::new();
        while check_streams(&flags, &slot).is_ok() {
            streams.push(slot.clone());
        }
        assert_eq!(streams.len(), 4, "with this many bytes there are three, and the one that asks");
        streams.pop();
        assert!(check_streams(&flags, &slot).is_ok());
    }

    #[tokio::test]
    async fn sets_are_bounded_in_number_and_in_bytes() {
        let sets = Sets::default();
        let held = sets.slot(&whose(0));
        for number in 1..3_000 {
            drop(sets.slot(&whose(number)));
        }
        assert_eq!(sets.lock().len(), SETS_MAX);
        assert!(Arc::ptr_eq(&held, &sets.slot(&whose(0))), "what a stream has stays");
        // A third one makes room; where all are in use there is none.
        let half = ALL_BYTES / 2;
        sets.weigh(&whose(0), half).unwrap();
        sets.weigh(&whose(2_999), half).unwrap();
        let third = sets.slot(&whose(2_998));
        sets.weigh(&whose(2_998), half).unwrap();
        assert!(!sets.lock().contains_key(&whose(2_999)));
        let fourth = sets.slot(&whose(2_997));
        let refused = sets.weigh(&whose(2_997), half).unwrap_err();
        assert_eq!(refused.code(), Code::Overloaded);
        drop(third);
        sets.weigh(&whose(2_997), half).unwrap();
        drop(fourth);
    }
}
