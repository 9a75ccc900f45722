//! Free ports.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

/// A port that the system just had free on both loopback addresses. Another
/// process may take it at any time; what needs certainty binds port 0 itself.
#[must_use]
pub fn unused_port() -> u16 {
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    (0..100)
        .find_map(|_| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
            let port = listener.local_addr().ok()?.port();
            (!has_ipv6 || TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok()).then_some(port)
        })
        .expect("the system has a free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_can_be_bound() {
        TcpListener::bind((Ipv4Addr::LOCALHOST, unused_port())).unwrap();
    }
}
