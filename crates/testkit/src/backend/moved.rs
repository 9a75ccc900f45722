//! Keys that go from one backend to another and back while they are written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use insula_config_model::{Backend, BackendFault, Version, carry, is_carried};
use tokio::sync::RwLock;

use super::ground::{Ground, key, value_of};

/// The keys that are written.
const KEYS: usize = 4;
/// The versions of a key that must have been written in each place.
const WRITTEN: u64 = 5;

/// How long a writer rests: one without a pace, in memory, would write more
/// than a backend on disk can be brought.
const PACE: Duration = Duration::from_millis(20);

/// Where writes go: the backend of the moment, which is held while it changes.
type Route = Arc<RwLock<Arc<dyn Backend>>>;

fn name(number: usize) -> String {
    format!("tenant_config_key/{number}")
}

/// Writes versions of a key until it is told to stop; the last one that was
/// acknowledged.
async fn writes(
    ground: Ground,
    number: usize,
    route: Route,
    (stopped, done): (Arc<AtomicBool>, Arc<AtomicU64>),
) -> Version {
    let mut version = 0;
    while !stopped.load(Ordering::Relaxed) {
        let backend = route.read().await;
        let new = ground.version(&name(number), version + 1, &value_of(version + 1));
        backend.write(&new, version).await.unwrap_or_else(|fault| panic!("{fault:?}"));
        version += 1;
        if version % 7 == 0 {
            backend.label(&ground.scope, &new.key, &"seventh".parse().unwrap(), Some(version)).await.unwrap();
        }
        done.fetch_add(1, Ordering::Relaxed);
        drop(backend);
        tokio::time::sleep(PACE).await;
    }
    version
}

/// Brings all keys while they are written, then holds the writes, brings what
/// came since, and sends them on to the other backend.
async fn change(ground: &Ground, route: &Route, to: &Arc<dyn Backend>) -> Result<(), BackendFault> {
    let from = Arc::clone(&*route.read().await);
    for number in 0..KEYS {
        carry(&*from, &**to, &ground.scope, &key(&name(number))).await?;
    }
    let mut held = route.write().await;
    for number in 0..KEYS {
        let key = key(&name(number));
        carry(&*from, &**to, &ground.scope, &key).await?;
        assert!(is_carried(&*from, &**to, &ground.scope, &key).await?, "{key} differs at the switch");
    }
    *held = Arc::clone(to);
    Ok(())
}

/// Moves keys from the one backend to the other and back under writes.
///
/// # Panics
/// Where a write that was acknowledged is missing afterwards, a version is not
/// the next one, or a label is not where it was put.
pub async fn moved_under_writes(home: Arc<dyn Backend>, away: Arc<dyn Backend>) {
    let ground = Ground::new(Arc::clone(&home));
    let route: Route = Arc::new(RwLock::new(Arc::clone(&home)));
    let (stopped, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = |number| {
        let told = (Arc::clone(&stopped), Arc::clone(&done));
        tokio::spawn(writes(ground.clone(), number, Arc::clone(&route), told))
    };
    let writers: Vec<_> = (0..KEYS).map(writer).collect();
    let some_written = async || {
        let until = done.load(Ordering::Relaxed) + WRITTEN * KEYS as u64;
        while done.load(Ordering::Relaxed) < until {
            assert!(!writers.iter().any(tokio::task::JoinHandle::is_finished), "a writer ended early");
            tokio::time::sleep(PACE).await;
        }
    };
    some_written().await;
    for to in [&away, &home] {
        change(&ground, &route, to).await.unwrap_or_else(|fault| panic!("{fault:?}"));
        some_written().await;
    }
    stopped.store(true, Ordering::Relaxed);
    for (number, writer) in writers.into_iter().enumerate() {
        let last = writer.await.unwrap();
        let history = ground.history(&name(number), None, u32::MAX).await;
        assert_eq!(history, (1..=last).rev().collect::<Vec<Version>>(), "key {number}");
        assert_eq!(ground.labels(&name(number), last / 7 * 7).await, ["seventh"], "key {number}");
    }
}
