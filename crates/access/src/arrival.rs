//! Connections before and behind the first credential: on which nobody is known
//! yet, and how many each tenant has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use insula_domain::TenantId;
use tokio_util::sync::CancellationToken;

/// A connection on which nobody is known yet. Whoever serves connections puts it
/// into the extensions of each request and ends the connection after a short
/// time, unless whoever verifies credentials has let somebody in.
#[derive(Debug, Clone, Default)]
pub struct Arrival {
    known: CancellationToken,
    ended: CancellationToken,
    /// Whose connection it is: of whom was known on it first.
    guest: Arc<OnceLock<Guest>>,
}

impl Arrival {
    /// Somebody is known on it: it may stay.
    pub fn let_in(&self) {
        self.known.cancel();
    }

    /// A tenant is known on it: it may stay, and is one of the tenant's until it
    /// ends. False where the tenant has as many as may be.
    #[must_use]
    pub fn let_in_as(&self, guests: &Arc<Guests>, tenant: TenantId) -> bool {
        if self.guest.get().is_none() {
            let Some(guest) = guests.come(tenant) else { return false };
            // Another call may have been faster, for which it is counted.
            let _ = self.guest.set(guest);
        }
        self.let_in();
        true
    }

    /// The connection is to end, whoever is known on it.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Whether it was said that the connection is to end.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until it is said that the connection is to end.
    pub async fn has_to_end(&self) {
        self.ended.cancelled().await;
    }

    /// Waits until somebody was let in.
    pub async fn is_let_in(&self) {
        self.known.cancelled().await;
    }
}

/// How many connections each tenant has, and may have.
#[derive(Debug)]
pub struct Guests {
    most: usize,
    by_tenant: Mutex<HashMap<TenantId, usize>>,
}

impl Guests {
    /// So many each.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), by_tenant: Mutex::default() })
    }

    fn come(self: &Arc<Self>, tenant: TenantId) -> Option<Guest> {
        let mut by_tenant = self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner);
        let own = by_tenant.entry(tenant).or_default();
        if *own >= self.most {
            return None;
        }
        *own += 1;
        Some(Guest { guests: Arc::clone(self), tenant })
    }
}

/// A connection that is counted.
#[derive(Debug)]
struct Guest {
    guests: Arc<Guests>,
    tenant: TenantId,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut by_tenant = self.guests.by_tenant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = by_tenant.get_mut(&self.tenant) {
            *own -= 1;
            if *own == 0 {
                by_tenant.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_connection_is_counted_once_until_it_ends_and_others_are_others() {
        let guests = Guests::new(2);
        let [one, other] = [1, 2].map(|number| TenantId::from(Uuid::from_u128(number)));
        let [first, second, third] = [Arrival::default(), Arrival::default(), Arrival::default()];
        for _ in 0..3 {
            assert!(first.let_in_as(&guests, one));
        }
        // A call holds it too.
        let call = second.clone();
        assert!(call.let_in_as(&guests, one) && second.let_in_as(&guests, one));
        assert!(!third.let_in_as(&guests, one) && !third.known.is_cancelled(), "it has no place");
        assert!(Arrival::default().let_in_as(&guests, other));
        drop(second);
        assert!(!third.let_in_as(&guests, one), "canary: the call goes on");
        drop(call);
        assert!(third.let_in_as(&guests, one) && third.known.is_cancelled());
        drop((first, third));
        assert!(guests.by_tenant.lock().unwrap().is_empty());
    }
}
