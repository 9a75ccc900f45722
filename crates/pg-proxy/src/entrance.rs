//! Who may be on the way in at the same time. Nobody is known there yet but by
//! address, so one address has half of the places that it leaves to others at
//! the most, and who has not said anything makes room for who comes next.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Clients on the way in, with their bound.
#[derive(Debug)]
pub(crate) struct Entrance {
    most: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Grows by one with each; the order in which they came.
    next: u64,
    clients: BTreeMap<u64, Client>,
    of_address: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Client {
    address: IpAddr,
    /// Whether its first packet is complete: it is not sent away for others then.
    has_asked: bool,
    sent_away: CancellationToken,
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    entrance: Arc<Entrance>,
    number: u64,
    sent_away: CancellationToken,
}

impl Entrance {
    /// One with so many places.
    pub fn new(most: usize) -> Self {
        Self { most, inside: Mutex::default() }
    }

    /// A place for a client from this address. Where the address has its share,
    /// or nothing is free, the oldest one that has not asked for anything makes
    /// room: of the same address, or of all. None where everyone has asked.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Ticket> {
        let address = counted_as(peer);
        let mut inside = self.lock();
        let free = self.most.saturating_sub(inside.clients.len());
        let has = inside.of_address.get(&address).copied().unwrap_or(0);
        if free == 0 {
            inside.make_room(|_| true)?;
        } else if has > free {
            inside.make_room(|client| client.address == address)?;
        }
        let (number, sent_away) = (inside.next, CancellationToken::new());
        inside.next += 1;
        *inside.of_address.entry(address).or_default() += 1;
        let client = Client { address, has_asked: false, sent_away: sent_away.clone() };
        inside.clients.insert(number, client);
        drop(inside);
        Some(Ticket { entrance: Arc::clone(self), number, sent_away })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nothing in here can be left half-changed by a panic.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn make_room(&mut self, of: impl Fn(&Client) -> bool) -> Option<()> {
        let silent = |(_, client): &(&u64, &Client)| !client.has_asked && of(client);
        let number = *self.clients.iter().find(silent)?.0;
        if let Some(client) = self.remove(number) {
            client.sent_away.cancel();
        }
        Some(())
    }

    fn remove(&mut self, number: u64) -> Option<Client> {
        let client = self.clients.remove(&number)?;
        if let Some(count) = self.of_address.get_mut(&client.address) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&client.address);
            }
        }
        Some(client)
    }
}

impl Ticket {
    /// Its first packet is complete: from here on it keeps its place.
    pub fn has_asked(&self) {
        if let Some(client) = self.entrance.lock().clients.get_mut(&self.number) {
            client.has_asked = true;
        }
    }

    /// Ends when another one was given its place.
    pub fn sent_away(&self) -> CancellationToken {
        self.sent_away.clone()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.entrance.lock().remove(self.number);
    }
}

/// What counts as one address: this machine by whichever of its own, and of
/// IPv6 the network of 64 bits that one customer has (RFC 6177).
fn counted_as(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        own if own.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_leaves_half_to_others_and_makes_room_for_itself() {
        let entrance = Arc::new(Entrance::new(500));
        let silent: Vec<_> = (0..500).map(|_| entrance.admit(ip("10.0.0.1")).unwrap()).collect();
        let kept = silent.iter().filter(|ticket| !ticket.sent_away().is_cancelled()).count();
        assert!((250..=251).contains(&kept), "{kept}");
        assert!(silent[0].sent_away().is_cancelled() && !silent[499].sent_away().is_cancelled());
        let other: Vec<_> = (0..100).map(|_| entrance.admit(ip("10.0.0.2")).unwrap()).collect();
        let kept = silent.iter().filter(|ticket| !ticket.sent_away().is_cancelled()).count();
        assert!((250..=251).contains(&kept), "another one's places were free: {kept}");
        assert!(other.iter().all(|ticket| !ticket.sent_away().is_cancelled()));
        drop((silent, other));
        let inside = entrance.lock();
        assert!(inside.clients.is_empty() && inside.of_address.is_empty(), "nothing is kept");
    }

    #[test]
    fn a_busy_machine_that_speaks_gets_two_hundred_in() {
        let entrance = Arc::new(Entrance::new(500));
        let busy: Vec<_> = (0..200).map(|_| entrance.admit(ip("127.0.0.1")).unwrap()).collect();
        busy.iter().for_each(Ticket::has_asked);
        assert!(busy.iter().all(|ticket| !ticket.sent_away().is_cancelled()));
        // Who has asked is never sent away: the share is what there is.
        let more: Vec<_> =
            (0..200).filter_map(|_| entrance.admit(ip("::1")).inspect(Ticket::has_asked)).collect();
        assert!((50..=51).contains(&more.len()), "{}", more.len());
    }

    #[test]
    fn with_nothing_free_the_oldest_silent_one_goes() {
        let entrance = Arc::new(Entrance::new(2));
        let first = entrance.admit(ip("10.0.0.1")).unwrap();
        let second = entrance.admit(ip("10.0.0.2")).unwrap();
        first.has_asked();
        let _third = entrance.admit(ip("10.0.0.3")).inspect(Ticket::has_asked).unwrap();
        assert!(second.sent_away().is_cancelled() && !first.sent_away().is_cancelled());
        assert!(entrance.admit(ip("10.0.0.4")).is_none(), "all have asked");
        drop(second);
        assert!(entrance.admit(ip("10.0.0.4")).is_none(), "its place is the other's by now");
        drop(first);
        assert!(entrance.admit(ip("10.0.0.4")).is_some());
    }

    #[test]
    fn a_network_and_a_machine_count_as_one() {
        for (one, other, same) in [
            ("127.0.0.1", "::1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("10.0.0.1", "10.0.0.2", false),
        ] {
            assert_eq!(counted_as(ip(one)) == counted_as(ip(other)), same, "{one} {other}");
        }
    }
}
