//! The log: text for people on a terminal, JSON else.

use std::fmt;
use std::sync::Arc;

use insula_domain::Clock;
use insula_settings::{Log, LogFormat};
use time::format_description::well_known::Rfc3339;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::{EnvFilter, fmt as text};

use crate::TelemetryError;
use crate::json::JsonLog;

/// What the log is written to.
#[derive(Debug, Clone, Copy)]
pub struct Sink {
    /// Whether a person reads it as it comes.
    pub is_terminal: bool,
    /// Whether colours may be used there.
    pub colours: bool,
}

/// The log, whatever its lines look like.
pub type LogLayer<S> = Box<dyn Layer<S> + Send + Sync>;

/// The log as a layer, with its filter, and the filter's handle.
pub fn layer<S, W>(
    log: &Log,
    sink: Sink,
    writer: W,
    clock: Arc<dyn Clock>,
) -> Result<(LogLayer<S>, Handle<EnvFilter, S>), TelemetryError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(&log.filter)?);
    let as_text = match log.format {
        LogFormat::Auto => sink.is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let layer: LogLayer<S> = if as_text {
        let lines = text::layer().with_ansi(sink.colours).with_timer(UtcTime(clock)).with_writer(writer);
        Box::new(lines.with_filter(filter.and(filter_fn(holds_no_values))))
    } else {
        Box::new(JsonLog::new(writer, clock).with_filter(filter.and(filter_fn(holds_no_values))))
    };
    Ok((layer, handle))
}

/// Whether a line is none of those in which PostgreSQL's driver shows statements
/// with their values, which are of rows, and secrets: it does below `info`.
fn holds_no_values(line: &Metadata<'_>) -> bool {
    *line.level() <= Level::INFO || !line.target().starts_with("tokio_postgres")
}

/// The filter that a text describes.
pub fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(text).map_err(|error| TelemetryError::Filter {
        filter: text.chars().take(200).collect(),
        reason: error.to_string(),
    })
}

/// The time of a line of text: that of the clock, in UTC.
struct UtcTime(Arc<dyn Clock>);

impl FormatTime for UtcTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = self.0.now().format(&Rfc3339).map_err(|_| fmt::Error)?;
        writer.write_str(&now)
    }
}
