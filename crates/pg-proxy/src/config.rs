//! The front's bounds.

use std::time::Duration;

/// The front's bounds. Everything has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgProxyConfig {
    /// From the first byte until the client is authenticated; a client that
    /// takes longer is hung up on.
    pub startup_timeout: Duration,
    /// For opening a backend: connection, TLS, authentication.
    pub connect_timeout: Duration,
    /// How long sessions in a transaction may go on after a stop was asked for.
    pub drain_timeout: Duration,
    /// Sessions at once, those being authenticated among them.
    pub sessions_max: usize,
    /// Sessions being authenticated at once. One address has as many places of
    /// these as it leaves free at the most, so half of them.
    pub authenticating_max: usize,
    /// Whether clients that are not on this machine must use TLS. The user
    /// `token`, whose password travels as it is, must in any case.
    pub require_tls: bool,
}

impl Default for PgProxyConfig {
    fn default() -> Self {
        Self {
            startup_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
            sessions_max: 10_000,
            authenticating_max: 500,
            require_tls: false,
        }
    }
}
