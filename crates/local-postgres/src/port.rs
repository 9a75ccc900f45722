//! Whether a port is free on loopback, and who has it if not. The tables are
//! described in Linux' `Documentation/networking/proc_net_tcp.rst`.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

/// Who has a port, as far as this machine tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// The process; unknown where it is another user's and we are not root.
    pub pid: Option<u32>,
    /// The name of its program.
    pub command: Option<String>,
    /// The user that it belongs to.
    pub uid: u32,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.command, self.pid) {
            (Some(command), Some(pid)) => write!(f, "`{command}` (pid {pid})"),
            (None, Some(pid)) => write!(f, "the process {pid}"),
            _ => write!(f, "a process of the user with id {}", self.uid),
        }
    }
}

/// Whether this machine has the IPv6 loopback address.
pub(crate) fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Whether both loopback addresses leave the port to us. Errors other than
/// "taken" are left to PostgreSQL, which says in its log what is wrong.
pub(crate) fn is_taken(port: u16) -> bool {
    let mut addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    if has_ipv6() {
        addresses.push(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    }
    addresses.iter().any(|address| {
        TcpListener::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    })
}

/// Who has the port.
pub fn holder(port: u16) -> Option<PortHolder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let sockets = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let mut sockets: Vec<Socket> = sockets.flat_map(|text| sockets_on(&text, port)).collect();
    sockets.sort_by_key(|socket| !socket.listens);
    let socket = sockets.first()?;
    let pid = pid_of_inode(socket.inode);
    let command = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    Some(PortHolder { pid, command: command.map(|name| name.trim().to_owned()), uid: socket.uid })
}

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    inode: u64,
    uid: u32,
    listens: bool,
}

/// The sockets of one of the tables that have the port as their own.
fn sockets_on(table: &str, port: u16) -> Vec<Socket> {
    table.lines().filter_map(|line| socket_on(line, port)).collect()
}

fn socket_on(line: &str, port: u16) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    if u16::from_str_radix(local_port, 16).ok()? != port {
        return None;
    }
    let inode = fields.get(9)?.parse().ok().filter(|inode| *inode != 0)?;
    Some(Socket { inode, uid: fields.get(7)?.parse().ok()?, listens: *fields.get(3)? == "0A" })
}

fn pid_of_inode(inode: u64) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files
            .into_iter()
            .any(|file| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == &*wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder_on_both_addresses() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                assert!(address.contains("::") && !has_ipv6());
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            assert!(is_taken(port), "{address}");
            if cfg!(target_os = "linux") {
                let holder = holder(port).unwrap();
                assert_eq!(holder.pid, Some(std::process::id()), "{address}");
                assert!(holder.to_string().contains(&format!("(pid {})", std::process::id())));
            }
            drop(listener);
            assert!(!is_taken(port), "canary: a free port is free");
        }
    }

    #[test]
    fn the_tables_are_read_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             \x20  0: 0100007F:1D10 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 4242 1 0\n\
             \x20  1: 0100007F:1D10 0100007F:9C40 06 00000000:00000000 03:00000F1E 00000000     0        0 0 3 0\n\
             \x20  2: 0100007F:1D11 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0\n";
        assert_eq!(sockets_on(table, 7440), [Socket { inode: 4242, uid: 101, listens: true }]);
        assert_eq!(sockets_on(table, 7442), []);
        let unknown = PortHolder { pid: None, command: None, uid: 101 };
        assert_eq!(unknown.to_string(), "a process of the user with id 101");
    }
}
