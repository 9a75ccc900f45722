//! Connections on which nobody is known yet. Their time is short, and where the
//! house is full the oldest of them goes: whoever takes up connections and says
//! nothing keeps nobody out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insula_access::Arrival;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
struct Places {
    /// By the order in which they came.
    all: BTreeMap<u64, CancellationToken>,
    came: u64,
}

/// The strangers at a door. Clones are the same.
#[derive(Debug, Clone)]
pub struct Strangers {
    stay: Duration,
    places: Arc<Mutex<Places>>,
}

/// One of them, until somebody is known or the connection ends.
#[derive(Debug)]
pub struct Stranger {
    arrival: Arrival,
    until: Instant,
    number: u64,
    has_to_go: CancellationToken,
    places: Arc<Mutex<Places>>,
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Strangers {
    /// Each may stay so long.
    pub fn new(stay: Duration) -> Self {
        Self { stay, places: Arc::default() }
    }

    /// One more.
    pub fn came(&self) -> Stranger {
        let has_to_go = CancellationToken::new();
        let mut places = lock(&self.places);
        places.came += 1;
        let number = places.came;
        places.all.insert(number, has_to_go.clone());
        drop(places);
        let until = Instant::now() + self.stay;
        Stranger { arrival: Arrival::default(), until, number, has_to_go, places: self.places.clone() }
    }

    /// The oldest has to go: its place is needed.
    pub fn give_way(&self) {
        if let Some((_, oldest)) = lock(&self.places).all.pop_first() {
            oldest.cancel();
        }
    }
}

impl Stranger {
    /// For those who let it in.
    pub fn arrival(&self) -> Arrival {
        self.arrival.clone()
    }

    /// Waits until it has to go: where somebody is known, until that is said.
    pub async fn has_to_go(&self) {
        tokio::select! {
            biased;
            () = self.arrival.is_let_in() => {
                self.leave();
                self.arrival.has_to_end().await;
            }
            () = self.has_to_go.cancelled() => {}
            () = sleep_until(self.until) => {}
        }
    }

    fn leave(&self) {
        lock(&self.places).all.remove(&self.number);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(20);

    /// Whether it has to go within this time.
    async fn goes(stranger: &Stranger, within: Duration) -> bool {
        tokio::time::timeout(within, stranger.has_to_go()).await.is_ok()
    }

    #[tokio::test]
    async fn a_stranger_stays_for_a_time_and_who_is_known_for_ever() {
        assert!(!goes(&Strangers::new(LONG).came(), SHORT).await, "canary: there is a time for it");
        let strangers = Strangers::new(SHORT);
        let (stranger, known) = (strangers.came(), strangers.came());
        known.arrival().let_in();
        assert!(goes(&stranger, LONG).await);
        assert!(!goes(&known, SHORT * 5).await);
        assert_eq!(lock(&strangers.places).all.len(), 1, "one is no stranger any more");
        drop(stranger);
        assert!(lock(&strangers.places).all.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_gives_way_and_nobody_who_is_known() {
        let strangers = Strangers::new(LONG);
        let [known, first, second] = [strangers.came(), strangers.came(), strangers.came()];
        known.arrival().let_in();
        assert!(!goes(&known, Duration::ZERO).await && !goes(&first, Duration::ZERO).await, "canary");
        strangers.give_way();
        assert!(goes(&first, Duration::ZERO).await);
        assert!(!goes(&known, Duration::ZERO).await && !goes(&second, Duration::ZERO).await);
        strangers.give_way();
        assert!(goes(&second, Duration::ZERO).await);
        strangers.give_way();
        assert!(!goes(&known, Duration::ZERO).await, "there is nobody any more who could");
    }
}
