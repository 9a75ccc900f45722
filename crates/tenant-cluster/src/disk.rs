//! How much room the disk of a server has. PostgreSQL does not say it: it is
//! read where the server is on this machine and its data folder may be looked
//! into, and is not known elsewhere.

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use insula_problem::Problem;

use crate::access::ClusterAccess;
use crate::db;

/// The room of a server's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskRoom {
    /// So many bytes are free, for whom the server runs as.
    Free(u64),
    /// The server is on another machine.
    Elsewhere,
    /// The server's data folder is not to be read by this process.
    Unreadable,
}

/// Looks at the disk on which a server keeps its tables.
///
/// # Errors
/// Where the cluster is away.
pub async fn disk_room(access: &ClusterAccess) -> Result<DiskRoom, Problem> {
    // Roles that may not see the setting see no row.
    let asked = "select (select setting from pg_settings where name = 'data_directory'),
                        (select system_identifier from pg_control_system())";
    let row = access.maintenance().await?.query_one(asked, &[]).await.map_err(db)?;
    if !access.hosts().iter().all(|host| is_here(host)) {
        return Ok(DiskRoom::Elsewhere);
    }
    let (Some(folder), Some(identifier)) = (row.get::<_, Option<String>>(0), row.get::<_, Option<i64>>(1))
    else {
        return Ok(DiskRoom::Unreadable);
    };
    let looking = tokio::task::spawn_blocking(move || free(&PathBuf::from(folder), identifier));
    Ok(looking.await.ok().flatten().map_or(DiskRoom::Unreadable, DiskRoom::Free))
}

/// Whether a host is this machine: the folder of a socket, or a loopback address.
fn is_here(host: &str) -> bool {
    let is_loopback = || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    host.starts_with('/') || host == "localhost" || is_loopback()
}

/// The bytes that are free where a data folder has its tables, if it is that of
/// the server: what is forwarded to another machine, or is in a container, has
/// another folder, or none, under that name.
fn free(folder: &Path, identifier: i64) -> Option<u64> {
    let mut found = [0; 8];
    std::fs::File::open(folder.join("global/pg_control")).ok()?.read_exact(&mut found).ok()?;
    if i64::from_ne_bytes(found) != identifier {
        return None;
    }
    let disk = rustix::fs::statvfs(folder.join("base")).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_and_loopback_are_this_machine() {
        for host in ["/var/run/postgresql", "localhost", "127.0.0.1", "127.9.9.9", "::1"] {
            assert!(is_here(host), "{host}");
        }
        for host in ["db.example", "10.0.0.1", "localhost.example", "", "fe80::1"] {
            assert!(!is_here(host), "{host}");
        }
    }

    #[test]
    fn only_the_servers_own_folder_is_believed() {
        let folder = std::env::temp_dir().join(format!("insula-disk-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("global")).unwrap();
        std::fs::create_dir_all(folder.join("base")).unwrap();
        assert_eq!(free(&folder, 7), None, "it says nothing of a server");
        std::fs::write(folder.join("global/pg_control"), [&7_i64.to_ne_bytes()[..], &[1; 100]].concat())
            .unwrap();
        assert_eq!(free(&folder, 8), None, "another server's");
        let found = free(&folder, 7);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(found.is_some_and(|bytes| bytes > 0), "{found:?}");
    }
}
