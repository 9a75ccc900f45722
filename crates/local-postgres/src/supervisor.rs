//! The thread that keeps a server running until it is told to stop. A thread
//! and not a task, so that a server depends on no runtime and can be stopped
//! from a drop.

use std::process::ExitStatus;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, warn};

use crate::error::StartError;
use crate::launch::Launcher;
use crate::postmaster::{Patience, Postmaster};
use crate::restarts::{Deaths, Next};
use crate::server::ServerStatus;
use crate::watchdog::Watchdog;

/// How soon a death is seen.
const POLL: Duration = Duration::from_millis(100);
const POLLS_PER_LOG_CHECK: u32 = 100;

/// The wish to stop, from whoever holds the server to its thread.
#[derive(Debug, Default)]
pub(crate) struct StopWish {
    wish: Mutex<Option<Patience>>,
    changed: Condvar,
}

impl StopWish {
    /// Asks for a stop.
    pub(crate) fn ask(&self, patience: Patience) {
        *self.lock() = Some(patience);
        self.changed.notify_all();
    }

    /// Whether a stop was asked for.
    pub(crate) fn asked(&self) -> bool {
        self.lock().is_some()
    }

    /// Waits for the wish, `limit` at most.
    fn wait(&self, limit: Duration) -> Option<Patience> {
        let none = |wish: &mut Option<Patience>| wish.is_none();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, none);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, Option<Patience>> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread needs.
#[derive(Debug)]
pub(crate) struct Supervisor {
    launcher: Launcher,
    watchdog: Watchdog,
    stop: Arc<StopWish>,
    status: watch::Sender<ServerStatus>,
}

impl Supervisor {
    /// Starts the server for the first time; blocks until it is ready.
    pub(crate) fn start(
        launcher: Launcher,
        stop: Arc<StopWish>,
    ) -> Result<(Self, Postmaster, watch::Receiver<ServerStatus>), StartError> {
        let remove = launcher.spec().remove_when_orphaned.clone();
        let mut watchdog = Watchdog::start(launcher.data_dir(), remove.as_deref())
            .map_err(StartError::io("start the watchdog of", launcher.data_dir()))?;
        let postmaster = match launcher.launch(&mut watchdog, &|| stop.asked()) {
            Ok(postmaster) => postmaster,
            Err(error) => {
                watchdog.dismiss();
                return Err(error);
            }
        };
        let (status, receiver) = watch::channel(ServerStatus::Running { pid: postmaster.pid() });
        Ok((Self { launcher, watchdog, stop, status }, postmaster, receiver))
    }

    /// Keeps the server running until it is told to stop.
    pub(crate) fn run(mut self, first: Postmaster) {
        let mut deaths = Deaths::default();
        let mut running = Some(first);
        while let Some(postmaster) = running {
            running = match self.watch(postmaster) {
                None => None,
                Some(death) => self.start_again(&mut deaths, death),
            };
        }
        self.status.send_replace(ServerStatus::Stopped);
        self.watchdog.dismiss();
    }

    /// Watches until the server dies, and says how; or stops it when that is
    /// asked for.
    fn watch(&mut self, mut postmaster: Postmaster) -> Option<String> {
        for polls in 1_u32.. {
            if let Some(patience) = self.stop.wait(POLL) {
                postmaster.stop(patience);
                self.watchdog.server_ended();
                return None;
            }
            match postmaster.ended() {
                Ok(None) => {}
                ended => {
                    self.watchdog.server_ended();
                    return Some(in_words(ended));
                }
            }
            if polls % POLLS_PER_LOG_CHECK == 0 {
                self.launcher.bound_log();
            }
        }
        None
    }

    /// Starts the server again after a pause, as often as that is sensible.
    /// `None` once a stop was asked for.
    fn start_again(&mut self, deaths: &mut Deaths, death: String) -> Option<Postmaster> {
        let name = self.launcher.spec().name.clone();
        let mut death = death;
        loop {
            let next = deaths.after(Instant::now());
            let Next::StartAfter(pause) = next.filter(self.launcher.spec().restart_when_dead) else {
                error!(server = %name, %death, "PostgreSQL server died and is not started again");
                self.status.send_replace(ServerStatus::Dead { reason: death });
                while self.stop.wait(Duration::MAX).is_none() {}
                return None;
            };
            warn!(server = %name, %death, pause_ms = pause.as_millis(), "PostgreSQL server died; starting it again");
            self.status.send_replace(ServerStatus::Restarting { reason: death });
            if self.stop.wait(pause).is_some() {
                return None;
            }
            match self.launcher.launch(&mut self.watchdog, &|| self.stop.asked()) {
                Ok(postmaster) => {
                    self.status.send_replace(ServerStatus::Running { pid: postmaster.pid() });
                    return Some(postmaster);
                }
                Err(StartError::Stopped { .. }) => return None,
                Err(error) => death = error.to_string(),
            }
        }
    }
}

impl Next {
    fn filter(self, may_start: bool) -> Self {
        if may_start { self } else { Self::GiveUp }
    }
}

fn in_words(ended: std::io::Result<Option<ExitStatus>>) -> String {
    match ended {
        Ok(Some(status)) => format!("it ended with {status}"),
        Ok(None) => "it runs".to_owned(),
        Err(error) => format!("it cannot be waited for: {error}"),
    }
}
