//! What is still to be said to the server about what was taken over. The newest
//! word on a key counts; a server that does not listen holds up nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insula_config_proto::v1;
use insula_domain::Entropy;
use tokio::sync::Notify;
use tonic::Status;
use v1::acknowledge_request::State;

use crate::dial::{Dialer, Stub};
use crate::follow::Report;
use crate::session::random;

/// The most keys in one call.
const STATES_MAX: usize = 500;

/// The most keys that wait. What is beyond is said with the next snapshot.
const WAITING_MAX: usize = 20_000;

/// Words are collected for half of this to all of it, so that a change for
/// everybody does not bring everybody back at once.
const COLLECTING: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Said {
    version: i64,
    set_in: Box<str>,
    rejection: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Waiting {
    revision: i64,
    client_id: String,
    states: BTreeMap<Arc<str>, Said>,
}

/// The words that wait.
#[derive(Debug, Default)]
pub(crate) struct Acknowledgements {
    waiting: Mutex<Waiting>,
    more: Notify,
}

impl Acknowledgements {
    pub(crate) fn add(&self, revision: i64, client_id: &str, reports: Vec<Report>) {
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.revision = revision;
            client_id.clone_into(&mut waiting.client_id);
            for report in reports {
                let is_known = waiting.states.contains_key(&report.key);
                if is_known || waiting.states.len() < WAITING_MAX {
                    let Report { key, version, set_in, rejection } = report;
                    waiting.states.insert(key, Said { version, set_in, rejection });
                }
            }
        }
        self.more.notify_one();
    }

    fn next(&self) -> Option<v1::AcknowledgeRequest> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.states.is_empty() || waiting.client_id.is_empty() {
            return None;
        }
        let mut states = Vec::new();
        while states.len() < STATES_MAX {
            let Some((key, said)) = waiting.states.pop_first() else { break };
            let rejection = said.rejection.map(|reason| reason.to_string()).unwrap_or_default();
            let (key, set_in) = (key.to_string(), said.set_in.into());
            states.push(State { key, version: said.version, rejection, set_in });
        }
        let (client_id, revision) = (waiting.client_id.clone(), waiting.revision);
        Some(v1::AcknowledgeRequest { client_id, revision, states, scope: String::new() })
    }

    /// Puts back what did not get through, where nothing newer is known.
    fn put_back(&self, states: Vec<State>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for state in states {
            let rejection = (!state.rejection.is_empty()).then(|| state.rejection.into());
            let said = Said { version: state.version, set_in: state.set_in.into(), rejection };
            waiting.states.entry(state.key.into()).or_insert(said);
        }
    }

    /// Says them as they come, for as long as it is let.
    pub(crate) async fn say(
        &self,
        mut stub: Stub,
        dialer: &Dialer,
        scope: &str,
        entropy: &dyn Entropy,
    ) -> Infallible {
        loop {
            self.more.notified().await;
            let share = 0.5 + 0.5 * (random(entropy) >> 11) as f64 / (1_u64 << 53) as f64;
            tokio::time::sleep(COLLECTING.mul_f64(share)).await;
            while let Some(mut words) = self.next() {
                scope.clone_into(&mut words.scope);
                let states = words.states.clone();
                let call = stub.acknowledge(dialer.request(words));
                let said = tokio::time::timeout(CALL_TIMEOUT, call).await;
                if !matches!(said, Ok(Ok(_))) {
                    tracing::debug!(?said, "the configuration service did not take an acknowledgement");
                    if matches!(&said, Ok(Err(status)) if is_kept_but_for_some(status)) {
                        continue;
                    }
                    self.put_back(states);
                    // With the next change, or the next stream.
                    break;
                }
            }
        }
    }
}

/// Whether the server has kept what can be kept: the rest would be refused again,
/// and those behind it would never be said.
fn is_kept_but_for_some(status: &Status) -> bool {
    status.metadata().get("insula-code").is_some_and(|code| code == "config_version_not_found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(key: &str, version: i64) -> Report {
        Report { key: key.into(), version, set_in: "platform".into(), rejection: None }
    }

    #[test]
    fn the_newest_word_counts_and_all_of_it_is_bounded() {
        let words = Acknowledgements::default();
        words.add(1, "me", vec![report("a", 1)]);
        words.add(2, "me", vec![report("a", 2), report("b", 1)]);
        let said = words.next().unwrap();
        assert_eq!((said.revision, said.states.len(), said.states[0].version), (2, 2, 2));
        words.add(3, "me", vec![report("a", 3)]);
        words.put_back(said.states);
        assert_eq!(
            words.next().unwrap().states.iter().map(|state| state.version).collect::<Vec<_>>(),
            [3, 1]
        );
        assert!(words.next().is_none());
        words.add(4, "me", (0..50_000).map(|number| report(&number.to_string(), 1)).collect());
        assert_eq!(
            std::iter::from_fn(|| words.next()).map(|said| said.states.len()).sum::<usize>(),
            WAITING_MAX
        );
    }

    #[test]
    fn a_client_without_a_name_says_nothing_yet() {
        let words = Acknowledgements::default();
        words.add(1, "", vec![report("a", 1)]);
        assert!(words.next().is_none());
        words.add(1, "named", vec![]);
        assert_eq!(words.next().unwrap().client_id, "named");
    }
}
