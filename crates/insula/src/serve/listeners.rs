//! The sockets of this process, bound before anything else is done: a port that
//! is taken is said at once, with who has it.

use std::net::SocketAddr;

use anyhow::anyhow;
use insula_local_postgres::port_holder;
use insula_settings::{Role, Settings};
use tokio::net::TcpListener;

/// The sockets.
#[derive(Debug)]
pub struct Listeners {
    /// HTTP.
    pub http: Vec<TcpListener>,
    /// The PostgreSQL front.
    pub pg: Vec<TcpListener>,
    /// The configuration service.
    pub config: Vec<TcpListener>,
}

impl Listeners {
    /// Binds what the roles need.
    pub fn bind(settings: &Settings) -> anyhow::Result<Self> {
        Self::bind_or_take(settings, Vec::new())
    }

    /// Takes what there is at the addresses that the roles need, and binds the
    /// rest.
    pub fn bind_or_take(settings: &Settings, mut there: Vec<std::net::TcpListener>) -> anyhow::Result<Self> {
        let mut bind_all = |addresses: &[SocketAddr], what| bind_all(addresses, what, &mut there);
        let front = settings.server.roles.contains(&Role::PgProxy);
        let config = settings.server.roles.contains(&Role::Config);
        Ok(Self {
            http: bind_all(&settings.http.listen, "HTTP")?,
            pg: if front { bind_all(&settings.pg.listen, "the PostgreSQL front")? } else { Vec::new() },
            config: if config {
                bind_all(&settings.config.listen, "the configuration service")?
            } else {
                Vec::new()
            },
        })
    }
}

fn bind_all(
    addresses: &[SocketAddr],
    what: &str,
    there: &mut Vec<std::net::TcpListener>,
) -> anyhow::Result<Vec<TcpListener>> {
    let mut bound = Vec::new();
    for address in addresses {
        let is_it = |one: &std::net::TcpListener| one.local_addr().is_ok_and(|local| local == *address);
        if let Some(index) = there.iter().position(is_it) {
            let taken = there.swap_remove(index);
            taken.set_nonblocking(true)?;
            bound.push(TcpListener::from_std(taken)?);
            continue;
        }
        match bind(*address) {
            Ok(listener) => bound.push(listener),
            // A machine without IPv6 has no [::1]; the IPv4 loopback does.
            Err(error)
                if address.is_ipv6()
                    && address.ip().is_loopback()
                    && !bound.is_empty()
                    && !in_use(&error) => {}
            Err(error) if in_use(&error) => {
                let holder =
                    port_holder(address.port()).map_or_else(String::new, |holder| format!(" by {holder}"));
                return Err(anyhow!("the port {} for {what} is taken{holder}", address.port()));
            }
            Err(error) => return Err(anyhow!("{what} cannot listen on {address}: {error}")),
        }
    }
    Ok(bound)
}

fn in_use(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AddrInUse
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    // A restart must not wait for the connections of the last run to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1_024)
}
