//! Free ports.

use std::collections::hash_map::{Entry, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

/// The ports that were handed out, each with the datagram socket of its number.
static TAKEN: Mutex<Option<HashMap<u16, UdpSocket>>> = Mutex::new(None);

/// A port that the system just had free on both loopback addresses, and that
/// no test on this machine is given again while this process lives: the
/// datagram port of the same number, which is another port, stands for the
/// claim. Other programs may take it at any time; what needs certainty binds
/// port 0 itself.
#[must_use]
pub fn unused_port() -> u16 {
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    (0..100)
        .find_map(|_| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
            let port = listener.local_addr().ok()?.port();
            let free = !has_ipv6 || TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok();
            (free && claim(port)).then_some(port)
        })
        .expect("the system has a free port")
}

/// Takes the port for this process, unless it is taken already.
fn claim(port: u16) -> bool {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    match taken.get_or_insert_default().entry(port) {
        Entry::Occupied(_) => false,
        Entry::Vacant(entry) => {
            UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).map(|socket| entry.insert(socket)).is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_can_be_bound() {
        TcpListener::bind((Ipv4Addr::LOCALHOST, unused_port())).unwrap();
    }

    #[test]
    fn a_port_is_claimed_once() {
        let port = unused_port();
        assert!(!claim(port));
        // Nor by another process, which finds the datagram port taken.
        assert!(UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_err());
    }
}
