//! Logs, metrics and traces. Secrets are kept out of all three by their types,
//! which redact themselves; a test here logs each of them and looks.

mod export;
mod json;
mod log;
mod metric;
mod start;
#[cfg(test)]
mod tests;
mod trace;

pub use metric::{METRICS, Metric, MetricKind, Metrics, MetricsNotInstalled, names};
pub use start::{Guard, LogFilter, init};

use std::path::PathBuf;

use thiserror::Error;

/// Logs or traces cannot be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// `log.filter` is not a list of directives.
    #[error(
        "log.filter {filter:?} is not valid: {reason}; expected a level, as in \"info\", or directives, as in \"info,insula_pg_proxy=debug\""
    )]
    Filter {
        /// The filter as it was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something has set up the log of this process already.
    #[error("the log of this process is set up already")]
    AlreadySet,
    /// `otel.ca_file` cannot be used.
    #[error("otel.ca_file {} cannot be used: {reason}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The export of traces cannot be set up.
    #[error("the export of traces cannot be set up: {0}")]
    Export(String),
}
