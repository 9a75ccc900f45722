//! Setting up logs and traces of a process, and flushing them at its end.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use insula_domain::Clock;
use insula_settings::{Log, Otel};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, registry};

use crate::{TelemetryError, log, trace};

/// Sets up the log on standard error and, where an endpoint is given, the
/// export of traces, for the whole process. `version` is that of the binary.
///
/// # Errors
/// Where the filter or the export is not valid, or something else has set up a
/// log for this process.
pub fn init(
    log: &Log,
    otel: &Otel,
    version: &'static str,
    clock: Arc<dyn Clock>,
) -> Result<Guard, TelemetryError> {
    let is_terminal = std::io::stderr().is_terminal();
    // A variable that people set for all programs: https://no-color.org
    let colours = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (lines, filter) = log::layer(log, log::Sink { is_terminal, colours }, std::io::stderr, clock)?;
    let provider = trace::provider(otel, version)?;
    registry()
        .with(lines)
        .with(provider.as_ref().map(trace::layer))
        .try_init()
        .map_err(|_| TelemetryError::AlreadySet)?;
    log_panics();
    Ok(Guard { provider, timeout: otel.timeout.get(), filter: LogFilter(filter) })
}

/// A panic is a line of the log like all others.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        tracing::error!(place, thread = thread.name().unwrap_or("unnamed"), "panic: {message}");
    }));
}

/// Sends the last traces when it is dropped, within `otel.timeout`.
#[derive(Debug)]
#[must_use = "dropping it ends the export of traces"]
pub struct Guard {
    pub(crate) provider: Option<SdkTracerProvider>,
    pub(crate) timeout: Duration,
    pub(crate) filter: LogFilter,
}

impl Guard {
    /// What decides which lines are logged.
    #[must_use]
    pub fn filter(&self) -> LogFilter {
        self.filter.clone()
    }
}

/// Decides which lines are logged, and can be changed while the process runs.
#[derive(Debug, Clone)]
pub struct LogFilter(pub(crate) Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Whether a text describes a filter.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(text: &str) -> Result<(), TelemetryError> {
        log::filter(text).map(drop)
    }

    /// Takes the filter that a text describes, in the place of the one before.
    ///
    /// # Errors
    /// Where the text is not valid; the one before stays.
    pub fn set(&self, text: &str) -> Result<(), TelemetryError> {
        // It fails where the log is gone, and there is nothing to be filtered.
        self.0.reload(log::filter(text)?).or(Ok(()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = &self.provider
            && let Err(error) = provider.shutdown_with_timeout(self.timeout)
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}
