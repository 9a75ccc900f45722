//! Where a cluster listens: a host and a port, or a Unix socket, where the host
//! is the absolute path of the socket's folder (PostgreSQL's manual, libpq's
//! parameter `host`).

use std::fmt;
use std::path::PathBuf;

/// Where a cluster listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address<'a> {
    /// Over TCP: a host name or an IP address, and a port.
    Tcp(&'a str, u16),
    /// The Unix socket's own path.
    Socket(PathBuf),
}

impl<'a> Address<'a> {
    /// Reads a host as libpq does: one that begins with `/` is a folder.
    #[must_use]
    pub fn new(host: &'a str, port: u16) -> Self {
        if host.starts_with('/') {
            Self::Socket(PathBuf::from(format!("{}/.s.PGSQL.{port}", host.trim_end_matches('/'))))
        } else {
            Self::Tcp(host, port)
        }
    }
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_begins_with_a_slash_is_the_folder_of_a_socket() {
        for (host, text) in [
            ("pg.internal", "pg.internal:7441"),
            ("127.0.0.1", "127.0.0.1:7441"),
            ("::1", "[::1]:7441"),
            ("/srv/pg", "/srv/pg/.s.PGSQL.7441"),
            ("/srv/pg/", "/srv/pg/.s.PGSQL.7441"),
            ("/", "/.s.PGSQL.7441"),
        ] {
            let address = Address::new(host, 7441);
            assert_eq!(address.to_string(), text);
            assert_eq!(matches!(address, Address::Socket(_)), host.starts_with('/'));
        }
    }
}
