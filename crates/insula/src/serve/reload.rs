//! Settings that are read again on SIGHUP. What a running process can take over
//! holds at once, and the log says which keys want a restart. Settings that are
//! not valid change nothing, and the log says why.

use std::collections::BTreeSet;
use std::path::PathBuf;

use insula_pg_proxy::PgProxy;
use insula_settings::{Metrics, Role, Settings, is_taken_at_once, process_environment};
use insula_telemetry::LogFilter;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::front;
use crate::args::Serve;

/// Where the settings of this process are.
#[derive(Debug, Clone)]
pub struct Source {
    file: Option<PathBuf>,
    roles: Option<BTreeSet<Role>>,
}

impl Source {
    /// As the command line says.
    pub fn new(arguments: &Serve) -> anyhow::Result<Self> {
        let roles: BTreeSet<Role> =
            arguments.roles.iter().map(|role| role.trim().parse()).collect::<Result<_, _>>()?;
        Ok(Self { file: arguments.config.clone(), roles: (!roles.is_empty()).then_some(roles) })
    }

    /// The settings as they are there now.
    pub fn read(&self) -> anyhow::Result<Settings> {
        let mut settings = Settings::load(self.file.as_deref(), process_environment())?;
        if let Some(roles) = &self.roles {
            settings.server.roles.clone_from(roles);
        }
        Ok(settings)
    }
}

/// Takes new settings over.
#[derive(Debug)]
pub struct Reload {
    pub source: Source,
    pub filter: LogFilter,
    /// With what the process was started.
    pub started: Settings,
    /// What was read last.
    pub last: Settings,
    pub proxy: Option<PgProxy>,
    pub metrics: watch::Sender<Metrics>,
}

impl Reload {
    /// Reads whenever it is asked to, until the token is cancelled.
    pub async fn follow(mut self, mut asked: Signal, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                asked = asked.recv() => if asked.is_none() { return },
            }
            // The file may be on something slow.
            let read = tokio::task::spawn_blocking(move || {
                self.take();
                self
            });
            match read.await {
                Ok(reload) => self = reload,
                Err(_) => return,
            }
        }
    }

    fn take(&mut self) {
        let read = self.source.read().and_then(|settings| {
            LogFilter::check(&settings.log.filter)?;
            Ok(settings)
        });
        match read {
            Ok(settings) => self.take_over(settings),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the new settings cannot be used; those before them stay");
            }
        }
    }

    fn take_over(&mut self, settings: Settings) {
        let keys = |of: BTreeSet<String>, at_once: bool| {
            of.into_iter().filter(|key| is_taken_at_once(key) == at_once).collect::<Vec<_>>().join(", ")
        };
        let taken = keys(self.last.keys_changed_in(&settings), true);
        tracing::info!(taken, "the settings were read again");
        let left = keys(self.started.keys_changed_in(&settings), false);
        if !left.is_empty() {
            tracing::warn!(keys = left, "new values of these settings hold from a restart on");
        }
        if let Some(proxy) = &self.proxy {
            proxy.set_config(front::taken_over(&self.started, &settings));
        }
        let _ = self.metrics.send(settings.metrics.clone());
        if settings.log.filter != self.last.log.filter
            && let Err(error) = self.filter.set(&settings.log.filter)
        {
            tracing::error!(%error, "the log's filter cannot be used");
        }
        self.last = settings;
    }
}
