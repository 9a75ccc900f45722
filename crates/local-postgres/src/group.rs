//! Several servers of one process by name: started a few at a time, started
//! again when asked for again, and all stopped at the end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, future, stream};
use tokio::sync::Mutex as AsyncMutex;

use crate::error::StartError;
use crate::installation::Installation;
use crate::server::{Server, ServerStatus};
use crate::spec::ServerSpec;

/// `initdb` and recovery keep a core busy each.
const STARTS_AT_ONCE: usize = 4;

/// Where a server of the group is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address, over TCP.
    pub host: &'static str,
    /// The folder of its Unix socket.
    pub socket_folder: PathBuf,
    /// The port, of both.
    pub port: u16,
}

type Slot = Arc<AsyncMutex<Option<Server>>>;

/// Servers by name. All methods may be called at the same time.
#[derive(Debug)]
pub struct Servers {
    installation: Installation,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    closed: bool,
    by_name: BTreeMap<String, Slot>,
}

impl Servers {
    /// A group without servers.
    #[must_use]
    pub fn new(installation: Installation) -> Self {
        Self { installation, slots: Mutex::default() }
    }

    /// The programs that all of them run.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Sees to it that the server of this name runs. One that runs, or is just
    /// restarting, stays as it is, whatever else the spec says; one that was
    /// given up gets a new try.
    ///
    /// # Errors
    /// As [`Server::start`], and [`StartError::Stopped`] after
    /// [`Servers::stop_all`].
    pub async fn start(&self, spec: ServerSpec) -> Result<Address, StartError> {
        let name = spec.name.clone();
        let stopped = || StartError::Stopped { name: name.clone() };
        let slot = self.slot(&name).ok_or_else(stopped)?;
        let mut server = slot.lock().await;
        if let Some(running) = server.as_ref().filter(|server| is_up(&server.status())) {
            return Ok(address(running));
        }
        if let Some(dead) = server.take() {
            dead.stop().await;
        }
        let started = Server::start(&self.installation, spec).await?;
        let address = address(&started);
        *server = Some(started);
        // `stop_all` may have run while we waited for the slot.
        if self.is_closed() {
            if let Some(late) = server.take() {
                late.stop().await;
            }
            return Err(stopped());
        }
        Ok(address)
    }

    /// Starts several, a few at a time.
    ///
    /// # Errors
    /// The first error of [`Servers::start`]; the others go on running.
    pub async fn start_all(&self, specs: Vec<ServerSpec>) -> Result<(), StartError> {
        let starts = stream::iter(specs).map(|spec| self.start(spec)).buffer_unordered(STARTS_AT_ONCE);
        let results: Vec<Result<Address, StartError>> = starts.collect().await;
        results.into_iter().try_for_each(|started| started.map(drop))
    }

    /// Stops the server of this name, if there is one.
    pub async fn stop(&self, name: &str) {
        let slot = self.lock().by_name.remove(name);
        if let Some(slot) = slot {
            stop_slot(&slot).await;
        }
    }

    /// Stops all servers, at the same time, and starts none from now on.
    pub async fn stop_all(&self) {
        let slots: Vec<Slot> = {
            let mut slots = self.lock();
            slots.closed = true;
            slots.by_name.values().cloned().collect()
        };
        future::join_all(slots.iter().map(stop_slot)).await;
    }

    /// A URL that reaches a database as the superuser; `None` where there is
    /// no such server. It holds the password.
    pub async fn superuser_url(&self, name: &str, database: &str) -> Option<String> {
        let slot = self.lock().by_name.get(name).cloned()?;
        let server = slot.lock().await;
        server.as_ref().map(|server| server.superuser_url(database))
    }

    /// What each server is doing. One that is just being started, or was
    /// stopped, is left out.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<String, ServerStatus> {
        let slots = self.lock();
        let statuses = slots.by_name.iter().filter_map(|(name, slot)| {
            let server = slot.try_lock().ok()?;
            Some((name.clone(), server.as_ref()?.status()))
        });
        statuses.collect()
    }

    fn slot(&self, name: &str) -> Option<Slot> {
        let mut slots = self.lock();
        (!slots.closed).then(|| Arc::clone(slots.by_name.entry(name.to_owned()).or_default()))
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn stop_slot(slot: &Slot) {
    if let Some(server) = slot.lock().await.take() {
        server.stop().await;
    }
}

fn is_up(status: &ServerStatus) -> bool {
    matches!(status, ServerStatus::Running { .. } | ServerStatus::Restarting { .. })
}

fn address(server: &Server) -> Address {
    Address { host: server.host(), socket_folder: server.socket_folder(), port: server.port() }
}
