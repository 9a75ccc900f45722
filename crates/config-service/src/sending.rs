//! How many bytes are on their way to watchers: what one is sent counts from
//! when it is made until the connection has let go of it. One tenant has no more than its share; where others wait for room in
//! vain, the connections that have not taken theirs for as long are ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use insula_access::Arrival;
use insula_problem::{Code, Problem};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// What is so short does not count: each watcher may have one of those.
const SHORT: usize = 4 << 10;

/// The part of all that one tenant may have.
const SHARE: usize = 8;

/// How long room is waited for, and how long something may be on its way
/// meanwhile.
const ROOM_WITHIN: Duration = Duration::from_secs(10);

/// The room for what is on its way to all.
#[derive(Debug)]
pub(crate) struct Sending {
    all: Share,
    bytes: usize,
    holders: Arc<Mutex<Holders>>,
}

/// The room of one tenant.
pub(crate) type Share = Arc<Semaphore>;

#[derive(Debug, Default)]
struct Holders {
    last: u64,
    by_number: BTreeMap<u64, Holder>,
}

/// Who has not taken what it was sent.
#[derive(Debug)]
struct Holder {
    since: Instant,
    share: Share,
    arrival: Option<Arrival>,
}

/// What is on its way; it counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Sent {
    holders: Arc<Mutex<Holders>>,
    number: u64,
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// Bytes that have room.
struct Held {
    bytes: Bytes,
    _sent: Sent,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Sent {
    /// These have the room for as long as anybody has them.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _sent: self })
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        lock(&self.holders).by_number.remove(&self.number);
    }
}

fn lock(holders: &Mutex<Holders>) -> MutexGuard<'_, Holders> {
    holders.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sending {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        let bytes = bytes.clamp(SHARE * SHORT, u32::MAX as usize);
        Self { all: Arc::new(Semaphore::new(bytes)), bytes, holders: Arc::default() }
    }

    /// What one tenant may have of it.
    pub fn share(&self) -> Share {
        Arc::new(Semaphore::new(self.bytes / SHARE))
    }

    /// How many bytes are on their way.
    pub fn under_way(&self) -> usize {
        self.bytes - self.all.available_permits()
    }

    /// Waits for room for something; none is needed where it is short. What is
    /// longer than a share has to wait for the whole of it.
    ///
    /// # Errors
    /// `overloaded` where others do not take what they were sent.
    pub async fn room(
        &self,
        share: &Share,
        arrival: Option<&Arrival>,
        bytes: usize,
    ) -> Result<Option<Sent>, Problem> {
        if bytes <= SHORT {
            return Ok(None);
        }
        let permits = u32::try_from(bytes.min(self.bytes / SHARE)).unwrap_or(u32::MAX);
        let until = Instant::now() + ROOM_WITHIN;
        // A tenant's own first: whoever waits there is in nobody else's way.
        let own = self.permits(share, permits, until).await?;
        let of_all = self.permits(&self.all, permits, until).await?;
        let mut holders = lock(&self.holders);
        holders.last += 1;
        let number = holders.last;
        let holder = Holder { since: Instant::now(), share: Arc::clone(share), arrival: arrival.cloned() };
        holders.by_number.insert(number, holder);
        drop(holders);
        Ok(Some(Sent { holders: Arc::clone(&self.holders), number, _own: own, _of_all: of_all }))
    }

    async fn permits(
        &self,
        of: &Share,
        permits: u32,
        until: Instant,
    ) -> Result<OwnedSemaphorePermit, Problem> {
        let begun = Instant::now();
        if let Ok(Ok(permits)) = timeout_at(until, Arc::clone(of).acquire_many_owned(permits)).await {
            return Ok(permits);
        }
        // Who has waited elsewhere for most of the time says nothing of this.
        if begun.elapsed() >= ROOM_WITHIN / 2 {
            self.end_stalled(of);
        }
        let detail = "As much as may be is on its way to watchers that do not take it.";
        Err(Problem::new(Code::Overloaded, detail).retry_after(5))
    }

    /// Ends the connections that have not taken what counts there for as long as
    /// somebody has waited for room.
    fn end_stalled(&self, of: &Share) {
        let holders = lock(&self.holders);
        let is_stalled = |holder: &&Holder| {
            (Arc::ptr_eq(of, &self.all) || Arc::ptr_eq(of, &holder.share))
                && holder.since.elapsed() >= ROOM_WITHIN
        };
        let arrivals =
            holders.by_number.values().filter(is_stalled).filter_map(|holder| holder.arrival.clone());
        let stalled: Vec<Arrival> = arrivals.filter(|arrival| !arrival.is_ended()).collect();
        drop(holders);
        stalled.iter().for_each(Arrival::end);
        if !stalled.is_empty() {
            tracing::warn!(ended = stalled.len(), "watchers do not take what they are sent, and others wait");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn room(sending: &Sending, share: &Share, bytes: usize) -> Result<Option<Sent>, Code> {
        sending.room(share, None, bytes).await.map_err(|problem| problem.code())
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_has_its_share_and_others_have_theirs() {
        let sending = Sending::new(80 << 10);
        let (one, other) = (sending.share(), sending.share());
        assert!(room(&sending, &one, SHORT).await.unwrap().is_none(), "it does not count");
        let held = room(&sending, &one, 8 << 10).await.unwrap().unwrap();
        let held = held.hold(Bytes::from_static(b"data"));
        let part = held.slice(1..2);
        drop(held);
        assert_eq!((sending.under_way(), &part[..]), (8 << 10, b"a".as_slice()));
        assert_eq!(room(&sending, &one, SHORT + 1).await.unwrap_err(), Code::Overloaded);
        let others = room(&sending, &other, 1 << 20).await.unwrap();
        assert_eq!(sending.under_way(), 18 << 10, "what is longer than a share has the whole of it");
        drop(part);
        assert!(room(&sending, &one, SHORT + 1).await.unwrap().is_some());
        drop(others);
        assert_eq!(sending.under_way(), 0);
        assert!(lock(&sending.holders).by_number.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_in_vain_leaves_nothing_behind() {
        let sending = Sending::new(SHARE * SHORT * 2);
        let shares: Vec<Share> = (0..=SHARE).map(|_| sending.share()).collect();
        let mut held = Vec::new();
        for share in &shares[..SHARE] {
            held.push(room(&sending, share, 2 * SHORT).await.unwrap());
        }
        // There is room in its own share, and none in all.
        room(&sending, &shares[SHARE], 2 * SHORT).await.unwrap_err();
        assert_eq!(shares[SHARE].available_permits(), 2 * SHORT);
        held.pop();
        room(&sending, &shares[SHARE], 2 * SHORT).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_ended_where_others_wait_for_that() {
        let sending = Sending::new(SHARE * SHORT * 2);
        let (one, other) = (sending.share(), sending.share());
        let [stalled, elsewhere, late] = [(); 3].map(|()| Arrival::default());
        let _stalled = sending.room(&one, Some(&stalled), SHORT + 1).await.unwrap();
        let _elsewhere = sending.room(&other, Some(&elsewhere), SHORT + 1).await.unwrap();
        tokio::time::advance(ROOM_WITHIN * 2).await;
        assert!(!stalled.is_ended(), "nobody waits");
        room(&sending, &one, SHORT + 1).await.unwrap_err();
        assert!(stalled.is_ended() && !elsewhere.is_ended());

        // Where all of it is taken, everybody's counts; but not what was sent just now.
        let shares = [(); SHARE - 1].map(|()| sending.share());
        let mut held = Vec::new();
        for share in &shares {
            held.push(sending.room(share, Some(&late), 2 * SHORT - 2).await.unwrap());
        }
        room(&sending, &sending.share(), 2 * SHORT).await.unwrap_err();
        assert!(elsewhere.is_ended());
    }
}
