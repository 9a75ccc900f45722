//! Cancel requests. Clients get keys of our own; a key leads to the one backend
//! of the one session to which it was given, and nowhere else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insula_domain::Entropy;
use insula_pg_wire::startup::{CancelKey, put_cancel_request};
use insula_route_map::ClusterEndpoint;
use tokio::time::timeout;

use crate::backend::{BackendError, connect};
use tokio_rustls::TlsConnector;

/// Tries to find a number that no session has: with 31 bits and ten thousand
/// sessions one is nearly always enough.
const NUMBER_TRIES: usize = 100;

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
            link.put(|out| put_cancel_request(out, self.key));
            link.flush().await?;
            // The server answers by closing.
            link.drain(usize::MAX).await;
            Ok(())
        };
        timeout(within, request).await.unwrap_or(Err(BackendError::TimedOut))
    }
}

/// The keys that are out.
#[derive(Debug, Default)]
pub(crate) struct CancelKeys {
    /// By process number: the secret that goes with it, and where it leads.
    given: Mutex<HashMap<u32, (u32, CancelTarget)>>,
}

/// A key that is good as long as this lives.
#[derive(Debug)]
pub(crate) struct GivenKey {
    keys: Arc<CancelKeys>,
    /// The key to show to the client.
    pub key: CancelKey,
}

impl CancelKeys {
    /// A key for a session; `None` where no free number was found.
    pub fn give(self: &Arc<Self>, target: CancelTarget, entropy: &dyn Entropy) -> Option<GivenKey> {
        let mut given = self.lock();
        let key = std::iter::repeat_with(|| random_key(entropy))
            .take(NUMBER_TRIES)
            .find(|key| key.process_id != 0 && !given.contains_key(&key.process_id))?;
        given.insert(key.process_id, (key.secret, target));
        drop(given);
        Some(GivenKey { keys: Arc::clone(self), key })
    }

    /// Where a key leads; `None` where no session has it.
    pub fn find(&self, key: CancelKey) -> Option<CancelTarget> {
        self.lock()
            .get(&key.process_id)
            .filter(|(secret, _)| *secret == key.secret)
            .map(|(_, target)| target.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, (u32, CancelTarget)>> {
        // Nothing in here can be left half-changed by a panic.
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for GivenKey {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key.process_id);
    }
}

/// Random numbers; the process number has 31 bits, because drivers read it with
/// a sign.
fn random_key(entropy: &dyn Entropy) -> CancelKey {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    let [a, b, c, d, secret @ ..] = bytes;
    CancelKey { process_id: u32::from_be_bytes([a & 0x7f, b, c, d]), secret: u32::from_be_bytes(secret) }
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
        CancelTarget { endpoint: Arc::new(endpoint), key: CancelKey { process_id, secret: 0 } }
    }

    #[test]
    fn a_key_leads_to_its_own_backend_alone_and_only_while_it_lives() {
        let keys = Arc::new(CancelKeys::default());
        let given: Vec<_> = (0..100).map(|number| keys.give(target(number), &OsEntropy).unwrap()).collect();
        for (number, given) in given.iter().enumerate() {
            assert_eq!(keys.find(given.key).unwrap().key.process_id as usize, number);
            let wrong = CancelKey { secret: given.key.secret.wrapping_add(1), ..given.key };
            assert!(keys.find(wrong).is_none());
            assert!(given.key.process_id <= i32::MAX as u32);
        }
        let key = given[0].key;
        drop(given);
        assert!(keys.find(key).is_none() && keys.lock().is_empty());
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
        let first = keys.give(target(1), &Always(7)).unwrap();
        assert!(keys.give(target(2), &Always(7)).is_none(), "the only number is taken");
        assert!(keys.give(target(2), &Always(0)).is_none(), "zero names no process");
        assert_eq!(keys.find(first.key).unwrap().key.process_id, 1);
        drop(first);
        assert!(keys.give(target(2), &Always(7)).is_some());
    }
}
