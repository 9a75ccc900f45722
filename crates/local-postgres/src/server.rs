//! A PostgreSQL server as its owner sees it: started, asked for its address
//! and its state, and stopped.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::error::StartError;
use crate::installation::Installation;
use crate::launch::Launcher;
use crate::postmaster::Patience;
use crate::sockets;
use crate::spec::{SUPERUSER, ServerSpec};
use crate::supervisor::{StopWish, Supervisor};

const HOST: &str = "127.0.0.1";

/// What a server is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerStatus {
    /// It accepts connections.
    Running {
        /// The process.
        pid: u32,
    },
    /// It died and is being started again.
    Restarting {
        /// How it died.
        reason: String,
    },
    /// It died and is not started again: because that was not wanted, or
    /// because it died five times in a minute.
    Dead {
        /// How it died.
        reason: String,
    },
    /// It was stopped.
    Stopped,
}

/// A PostgreSQL server of this process. It ends with the process, however that
/// ends; [`Server::stop`] stops it in order, and a drop does so with less
/// patience, blocking for some seconds at most.
pub struct Server {
    name: String,
    data_dir: PathBuf,
    port: u16,
    password: Zeroizing<String>,
    stop: Arc<StopWish>,
    thread: Option<JoinHandle<()>>,
    status: watch::Receiver<ServerStatus>,
}

impl Server {
    /// Starts a server, and makes its data folder where it is missing or empty.
    /// A server that an earlier process left in the folder is stopped first.
    ///
    /// # Errors
    /// [`StartError`], with the end of the server's log where it has one;
    /// nothing is left running then, and no half-made folder left behind.
    pub async fn start(installation: &Installation, spec: ServerSpec) -> Result<Self, StartError> {
        let installation = installation.clone();
        let data_dir = spec.data_dir.clone();
        let stop = Arc::new(StopWish::default());
        // If the caller loses interest, so does the thread that starts.
        let mut interest = Interest(Some(Arc::clone(&stop)));
        let work = tokio::task::spawn_blocking(move || Self::start_blocking(installation, spec, stop));
        let started = work
            .await
            .unwrap_or_else(|error| Err(StartError::io("start a server in", &data_dir)(error.into())));
        interest.0 = None;
        started
    }

    fn start_blocking(
        installation: Installation,
        spec: ServerSpec,
        stop: Arc<StopWish>,
    ) -> Result<Self, StartError> {
        let (name, port, password) = (spec.name.clone(), spec.port, spec.superuser_password.clone());
        let launcher = Launcher::new(installation, spec)?;
        let data_dir = launcher.data_dir().to_path_buf();
        let (supervisor, postmaster, status) = Supervisor::start(launcher, Arc::clone(&stop))?;
        let thread = thread::Builder::new()
            .name(format!("pg-{name}"))
            .spawn(move || supervisor.run(postmaster))
            .map_err(StartError::io("start the supervisor of", &data_dir))?;
        Ok(Self { name, data_dir, port, password, stop, thread: Some(thread), status })
    }

    /// Stops the server in order: a fast shutdown, then by growing force after
    /// 30 s. Returns when it is gone.
    pub async fn stop(mut self) {
        self.stop.ask(Patience::LONG);
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// The name from its [`ServerSpec`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address that it listens on, besides `::1`.
    #[must_use]
    pub fn host(&self) -> &'static str {
        HOST
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket, by which every role may connect.
    #[must_use]
    pub fn socket_folder(&self) -> PathBuf {
        sockets::place_of_canonical(&self.data_dir)
    }

    /// The data folder, without links in its path.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The process, while it accepts connections.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match *self.status.borrow() {
            ServerStatus::Running { pid } => Some(pid),
            _ => None,
        }
    }

    /// What it is doing now.
    #[must_use]
    pub fn status(&self) -> ServerStatus {
        self.status.borrow().clone()
    }

    /// What it is doing, as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<ServerStatus> {
        self.status.clone()
    }

    /// A URL that reaches the database as the superuser. It holds the
    /// password: for drivers, not for logs.
    #[must_use]
    pub fn superuser_url(&self, database: &str) -> String {
        let (password, database) = (escape(&self.password), escape(database));
        format!("postgres://{SUPERUSER}:{}@{HOST}:{}/{}", *password, self.port, *database)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.name)
            .field("data_dir", &self.data_dir)
            .field("port", &self.port)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop.ask(Patience::SHORT);
            let _ = thread.join();
        }
    }
}

/// Asks for a stop when it is dropped with something in it.
struct Interest(Option<Arc<StopWish>>);

impl Drop for Interest {
    fn drop(&mut self) {
        if let Some(stop) = &self.0 {
            stop.ask(Patience::LONG);
        }
    }
}

/// Percent-encodes all but what RFC 3986 calls unreserved.
fn escape(text: &str) -> Zeroizing<String> {
    let mut escaped = Zeroizing::new(String::with_capacity(text.len() * 3));
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_url_is_escaped() {
        assert_eq!(escape("a-b_c.d~9").as_str(), "a-b_c.d~9");
        assert_eq!(escape("p@ss/w:rd?é%").as_str(), "p%40ss%2Fw%3Ard%3F%C3%A9%25");
    }
}
