//! What a caller asks for: a server's name, folder, port and settings.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::error::StartError;

/// The superuser of every server that is started here.
pub const SUPERUSER: &str = "insula";

const DEFAULT_MAX_CONNECTIONS: u16 = 200;

/// Settings that we hold ourselves, on which stopping, finding and reaching
/// the server depend.
const RESERVED: [&str; 9] = [
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "logging_collector",
    "port",
    "unix_socket_directories",
];

/// Who may connect over TCP, from this machine and with a password. By the Unix
/// socket, in a folder that the server's user and root alone can enter,
/// everybody may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TcpAccess {
    /// [`SUPERUSER`] alone.
    #[default]
    Superuser,
    /// Every role: for tests that connect as tenants' roles.
    Everybody,
}

/// A server to be started.
#[derive(Clone)]
pub struct ServerSpec {
    /// What it is called in messages, in the process list and in
    /// [`crate::Servers`]: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// The data folder; made, and filled by `initdb`, where it is not there
    /// or empty.
    pub data_dir: PathBuf,
    /// The TCP port, on loopback alone.
    pub port: u16,
    /// Who may connect to it.
    pub tcp: TcpAccess,
    /// The password of [`SUPERUSER`]. Used when the folder is made; the
    /// caller keeps it, since an existing folder goes on with its own.
    pub superuser_password: Zeroizing<String>,
    /// Whether a commit survives a crash of the machine. Without, the server
    /// is faster, and survives crashes of processes alone: for tests.
    pub durable: bool,
    /// `max_connections`.
    pub max_connections: u16,
    /// Further settings by name; they win over ours.
    pub settings: BTreeMap<String, String>,
    /// Whether the server is started again when it dies.
    pub restart_when_dead: bool,
    /// A folder to remove when this process ends without having stopped the
    /// server; for tests, whose data nobody misses.
    pub remove_when_orphaned: Option<PathBuf>,
}

impl ServerSpec {
    /// A durable server that is started again when it dies.
    pub fn new(
        name: impl Into<String>,
        data_dir: impl Into<PathBuf>,
        port: u16,
        superuser_password: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            data_dir: data_dir.into(),
            port,
            tcp: TcpAccess::default(),
            superuser_password: Zeroizing::new(superuser_password.into()),
            durable: true,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            settings: BTreeMap::new(),
            restart_when_dead: true,
            remove_when_orphaned: None,
        }
    }

    /// Refuses what cannot work, before anything is touched.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        match self.fault() {
            None => Ok(()),
            Some(reason) => Err(StartError::InvalidSpec { name: self.name.clone(), reason }),
        }
    }

    fn fault(&self) -> Option<String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(plain) {
            return Some("a name has 1 to 63 lower-case letters, digits, `-` or `_`".to_owned());
        }
        if self.port == 0 {
            return Some("port 0 is no port to listen on".to_owned());
        }
        if self.max_connections < 10 {
            return Some("max_connections must be 10 or more".to_owned());
        }
        if self.superuser_password.is_empty() || self.superuser_password.contains(['\n', '\r', '\0']) {
            return Some("the superuser's password must be one line, and not empty".to_owned());
        }
        if self.data_dir.file_name().is_none() {
            return Some("the data folder must have a name".to_owned());
        }
        self.settings.iter().find_map(|(name, value)| setting_fault(name, value))
    }
}

fn setting_fault(name: &str, value: &str) -> Option<String> {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
    if name.is_empty() || !name.chars().all(letters) {
        return Some(format!("`{name}` is no name of a setting"));
    }
    if RESERVED.contains(&name) {
        return Some(format!("the setting {name} is Insula's own"));
    }
    value.contains(['\n', '\r', '\0']).then(|| format!("the setting {name} must be one line"))
}

impl fmt::Debug for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSpec")
            .field("name", &self.name)
            .field("data_dir", &self.data_dir)
            .field("port", &self.port)
            .field("tcp", &self.tcp)
            .field("superuser_password", &"[redacted]")
            .field("durable", &self.durable)
            .field("max_connections", &self.max_connections)
            .field("settings", &self.settings)
            .field("restart_when_dead", &self.restart_when_dead)
            .field("remove_when_orphaned", &self.remove_when_orphaned)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ServerSpec {
        ServerSpec::new("catalog", "/tmp/catalog", 7440, "s3cret")
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_touched() {
        spec().check().expect("canary: a plain one is taken");
        type Spoil = fn(&mut ServerSpec);
        let wrong: [(&str, Spoil); 9] = [
            ("a name has", |spec| spec.name = "Catalog".to_owned()),
            ("a name has", |spec| spec.name = String::new()),
            ("port 0", |spec| spec.port = 0),
            ("max_connections", |spec| spec.max_connections = 3),
            ("password", |spec| spec.superuser_password = Zeroizing::new("a\nb".to_owned())),
            ("data folder", |spec| spec.data_dir = "/".into()),
            ("no name of a setting", |spec| drop(spec.settings.insert("a b".to_owned(), String::new()))),
            ("Insula's own", |spec| drop(spec.settings.insert("port".to_owned(), "1".to_owned()))),
            ("one line", |spec| drop(spec.settings.insert("work_mem".to_owned(), "1\nport=2".to_owned()))),
        ];
        for (part, spoil) in wrong {
            let mut spec = spec();
            spoil(&mut spec);
            let text = spec.check().unwrap_err().to_string();
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn the_password_is_not_in_the_debug_text() {
        assert!(!format!("{:?}", spec()).contains("s3cret"));
    }
}
