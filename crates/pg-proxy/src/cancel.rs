//! Cancel requests. Clients get keys of our own; a key leads to the one backend
//! of the one session to which it was given, and nowhere else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insula_domain::Entropy;
use insula_pg_wire::WireError;
use insula_pg_wire::startup::{CancelKey, CancelSecret, put_cancel_request};
use insula_route_map::ClusterEndpoint;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::backend::{BackendError, connect};
use tokio_rustls::TlsConnector;

/// Tries to find a number that no session has: with 31 bits and ten thousand
/// sessions one is nearly always enough.
const NUMBER_TRIES: usize = 100;

/// Bytes of the secrets that clients of protocol 3.2 get, as many as
/// PostgreSQL 18 gives.
const LONG_BYTES: usize = 32;

/// Where a session's queries run.
#[derive(Debug, Clone)]
pub(crate) struct CancelTarget {
    /// The server.
    pub endpoint: Arc<ClusterEndpoint>,
    /// The key that the server gave to the backend.
    pub key: CancelKey,
}

impl CancelTarget {
    /// Asks the server to cancel what the backend is doing, and waits until it
    /// has taken note.
    pub async fn cancel(&self, tls: &TlsConnector, within: Duration) -> Result<(), BackendError> {
        let request = async {
            let mut link = connect(&self.endpoint, tls).await?.link;
            link.put(|out| put_cancel_request(out, &self.key));
            link.flush().await?;
            // The server answers by closing.
            link.drain(usize::MAX).await;
            Ok(())
        };
        timeout(within, request).await.unwrap_or(Err(BackendError::TimedOut))
    }
}

/// What a session's key leads to: the backend that works for it now.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    state: Mutex<SlotState>,
}

/// What a cancel of a session finds. What it may reach is the client's own.
#[derive(Debug, Default)]
enum Way {
    /// Nothing of the client's is under way.
    #[default]
    Nowhere,
    /// What the client has asked waits for a backend, or for the front's own
    /// on it, and a cancel waits with it.
    Later { is_asked: bool },
    /// The backend that works for it.
    There(CancelTarget),
}

/// Why a cancel is not on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotNow {
    /// It goes when that begins for which it is meant.
    Later,
    /// There is nothing to cancel.
    Idle,
}

#[derive(Debug, Default)]
struct SlotState {
    way: Way,
    /// The cancels to that backend, and to those before it to which there were none.
    passage: Arc<Passage>,
}

/// The cancels that were sent to one backend.
#[derive(Debug, Default)]
pub(crate) struct Passage {
    state: Mutex<PassageState>,
    /// Told when one has been through, or has got lost.
    done: Notify,
}

#[derive(Debug, Default)]
struct PassageState {
    under_way: usize,
    has_lost: bool,
}

/// A cancel on its way. As long as it lives, the backend is not given to
/// another session; nor after that, unless it was seen to arrive.
#[derive(Debug)]
pub(crate) struct UnderWay {
    passage: Arc<Passage>,
    has_arrived: bool,
    pub target: CancelTarget,
}

impl Slot {
    /// The session's queries run there from here on. Whether one of them was to
    /// be cancelled before it could begin.
    #[must_use]
    pub fn lead_to(&self, target: CancelTarget) -> bool {
        let before = std::mem::replace(&mut self.lock().way, Way::There(target));
        matches!(before, Way::Later { is_asked: true })
    }

    /// What the client has asked cannot begin yet.
    pub fn lead_later(&self) {
        let mut state = self.lock();
        if !matches!(state.way, Way::Later { .. }) {
            state.way = Way::Later { is_asked: false };
        }
    }

    /// The session keeps its backend, and nothing of the client's is under way.
    pub fn lead_nowhere(&self) {
        self.lock().way = Way::Nowhere;
    }

    /// The session has no backend any more. Gives the cancels that are on their
    /// way to the one that it had, or have got lost on it, where there are any.
    #[must_use]
    pub fn leave(&self) -> Option<Arc<Passage>> {
        let mut state = self.lock();
        state.way = Way::Nowhere;
        let is_clear = state.passage.is_clear();
        (!is_clear).then(|| std::mem::take(&mut state.passage))
    }

    /// A cancel of what the session does now, if it does anything.
    pub fn begin(&self) -> Result<UnderWay, NotNow> {
        let mut state = self.lock();
        let target = match &mut state.way {
            Way::Nowhere => return Err(NotNow::Idle),
            Way::Later { is_asked } => {
                *is_asked = true;
                return Err(NotNow::Later);
            }
            Way::There(target) => target.clone(),
        };
        let passage = Arc::clone(&state.passage);
        passage.lock().under_way += 1;
        Ok(UnderWay { passage, has_arrived: false, target })
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        // Nothing in here can be left half-changed by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passage {
    /// Waits until no cancel is on its way. False where one has got lost: it may
    /// come to the backend yet.
    pub async fn all_through(&self) -> bool {
        loop {
            let done = self.done.notified();
            {
                let state = self.lock();
                if state.under_way == 0 {
                    return !state.has_lost;
                }
            }
            done.await;
        }
    }

    fn is_clear(&self) -> bool {
        let state = self.lock();
        state.under_way == 0 && !state.has_lost
    }

    fn lock(&self) -> MutexGuard<'_, PassageState> {
        // Nothing in here can be left half-changed by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// Sends it, and waits until the server has taken note. Where that fails, or
    /// is given up half way, it was sent or not, and may come to the backend yet.
    pub async fn send(mut self, tls: &TlsConnector, within: Duration) -> Result<(), BackendError> {
        self.target.cancel(tls, within).await?;
        self.has_arrived = true;
        Ok(())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.passage.lock();
        state.under_way -= 1;
        state.has_lost |= !self.has_arrived;
        drop(state);
        self.passage.done.notify_waiters();
    }
}

/// The keys that are out.
#[derive(Debug, Default)]
pub(crate) struct CancelKeys {
    /// By process number: the secret that goes with it, and where it leads.
    given: Mutex<HashMap<u32, (CancelSecret, Arc<Slot>)>>,
}

/// A key that is good as long as this lives.
#[derive(Debug)]
pub(crate) struct GivenKey {
    keys: Arc<CancelKeys>,
    /// The key to show to the client.
    pub key: CancelKey,
    pub slot: Arc<Slot>,
}

impl CancelKeys {
    /// A key for a session that speaks this minor version of the protocol; it
    /// leads nowhere yet. `None` where no free number was found.
    pub fn give(self: &Arc<Self>, entropy: &dyn Entropy, minor_version: u16) -> Option<GivenKey> {
        let secret = random_secret(entropy, minor_version).ok()?;
        let mut given = self.lock();
        let process_id = std::iter::repeat_with(|| random_number(entropy))
            .take(NUMBER_TRIES)
            .find(|process_id| *process_id != 0 && !given.contains_key(process_id))?;
        let key = CancelKey { process_id, secret };
        let slot = Arc::new(Slot::default());
        given.insert(process_id, (key.secret.clone(), Arc::clone(&slot)));
        drop(given);
        Some(GivenKey { keys: Arc::clone(self), key, slot })
    }

    /// Where a key leads; `None` where no session has it.
    pub fn find(&self, key: &CancelKey) -> Option<Arc<Slot>> {
        self.lock()
            .get(&key.process_id)
            .filter(|(secret, _)| *secret == key.secret)
            .map(|(_, slot)| Arc::clone(slot))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, (CancelSecret, Arc<Slot>)>> {
        // Nothing in here can be left half-changed by a panic.
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for GivenKey {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key.process_id);
    }
}

/// A process number of 31 bits, because drivers read it with a sign.
fn random_number(entropy: &dyn Entropy) -> u32 {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes);
    u32::from_be_bytes(bytes) & 0x7fff_ffff
}

/// As long as the version of the protocol takes it.
fn random_secret(entropy: &dyn Entropy, minor_version: u16) -> Result<CancelSecret, WireError> {
    let mut bytes = [0; LONG_BYTES];
    let secret = if minor_version >= 2 { &mut bytes[..] } else { &mut bytes[..CancelSecret::SHORT_BYTES] };
    entropy.fill(secret);
    CancelSecret::new(secret)
}

#[cfg(test)]
mod tests {
    use insula_domain::OsEntropy;

    use super::*;

    fn target(process_id: u32) -> CancelTarget {
        let endpoint = ClusterEndpoint {
            name: "c".parse().unwrap(),
            host: "127.0.0.1".into(),
            port: 1,
            tls: false,
            system_identifier: None,
            max_connections: None,
            revision: 1,
        };
        let secret = CancelSecret::new(&[0; 4]).unwrap();
        CancelTarget { endpoint: Arc::new(endpoint), key: CancelKey { process_id, secret } }
    }

    #[test]
    fn a_key_leads_to_its_own_backend_alone_and_only_while_it_lives() {
        let keys = Arc::new(CancelKeys::default());
        let given: Vec<_> = (0..100).map(|number| keys.give(&OsEntropy, number % 2 * 2).unwrap()).collect();
        for (number, given) in given.iter().enumerate() {
            assert!(keys.find(&given.key).unwrap().begin().is_err(), "it has no backend yet");
            assert!(!given.slot.lead_to(target(u32::try_from(number).unwrap())));
        }
        for (number, given) in given.iter().enumerate() {
            let under_way = keys.find(&given.key).unwrap().begin().unwrap();
            assert_eq!(under_way.target.key.process_id as usize, number);
            let secret = given.key.secret.as_bytes();
            assert_eq!(secret.len(), [4, 32][number % 2]);
            let mut changed = secret.to_vec();
            changed[number % secret.len()] ^= 1;
            let longer = [secret, &[0]].concat();
            for wrong in [&changed[..], &secret[..4].repeat(2), &longer] {
                let wrong = CancelKey { secret: CancelSecret::new(wrong).unwrap(), ..given.key.clone() };
                assert!(keys.find(&wrong).is_none());
            }
            assert!(given.key.process_id <= i32::MAX as u32);
        }
        let key = given[0].key.clone();
        drop(given);
        assert!(keys.find(&key).is_none() && keys.lock().is_empty());
    }

    #[tokio::test]
    async fn a_backend_is_kept_until_a_cancel_has_been_through() {
        let slot = Slot::default();
        assert!(!slot.lead_to(target(1)));
        assert!(slot.leave().is_none(), "nothing is on its way");
        assert!(slot.begin().is_err());
        assert!(!slot.lead_to(target(2)));
        let mut under_way = slot.begin().unwrap();
        let passage = slot.leave().unwrap();
        let waiting = tokio::spawn(async move { passage.all_through().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        under_way.has_arrived = true;
        drop(under_way);
        assert!(waiting.await.unwrap(), "it goes to others then");
    }

    #[tokio::test]
    async fn a_backend_to_which_a_cancel_got_lost_goes_to_nobody_and_the_next_one_does() {
        let slot = Slot::default();
        assert!(!slot.lead_to(target(1)));
        let late = slot.begin().unwrap();
        let first = slot.leave().unwrap();
        // The session has its next backend before it is known.
        assert!(!slot.lead_to(target(2)));
        assert!(slot.leave().is_none(), "the next one has nothing to do with it");
        drop(late);
        assert!(!first.all_through().await && !first.all_through().await, "whoever asks");
    }

    #[tokio::test]
    async fn a_cancel_that_is_given_up_half_way_has_got_lost() {
        // A server that takes it and does not answer.
        let server = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let slot = Slot::default();
        let mut target = target(1);
        Arc::make_mut(&mut target.endpoint).port = server.local_addr().unwrap().port();
        assert!(!slot.lead_to(target));
        let tls = crate::tls::connector().unwrap();
        let sent = slot.begin().unwrap().send(&tls, Duration::from_secs(600));
        let accepted = async { server.accept().await.unwrap().0 };
        let stream = tokio::select! {
            _ = sent => panic!("nobody has answered"),
            stream = accepted => stream,
        };
        assert!(!slot.leave().unwrap().all_through().await);
        drop(stream);
    }

    #[test]
    fn a_cancel_waits_for_what_it_is_meant_for_and_is_dropped_where_that_is_nothing() {
        let slot = Slot::default();
        assert_eq!(slot.begin().unwrap_err(), NotNow::Idle);
        slot.lead_later();
        assert!(!slot.lead_to(target(1)), "nobody has asked");
        slot.lead_later();
        assert_eq!(slot.begin().unwrap_err(), NotNow::Later);
        slot.lead_later();
        assert!(slot.lead_to(target(1)) && !slot.lead_to(target(1)), "it is told once");
        slot.lead_later();
        assert_eq!(slot.begin().unwrap_err(), NotNow::Later);
        // What it was meant for is over without having begun.
        slot.lead_nowhere();
        assert_eq!(slot.begin().unwrap_err(), NotNow::Idle);
        assert!(!slot.lead_to(target(1)) && slot.leave().is_none());
    }

    #[test]
    fn a_number_is_never_given_twice() {
        #[derive(Debug)]
        struct Always(u8);
        impl Entropy for Always {
            fn fill(&self, bytes: &mut [u8]) {
                bytes.fill(self.0);
            }
        }
        let keys = Arc::new(CancelKeys::default());
        let first = keys.give(&Always(7), 0).unwrap();
        assert!(keys.give(&Always(7), 0).is_none(), "the only number is taken");
        assert!(keys.give(&Always(0), 0).is_none(), "zero names no process");
        assert!(keys.find(&first.key).is_some());
        drop(first);
        assert!(keys.give(&Always(7), 0).is_some());
    }
}
