//! The log as JSON, one object a line: time, level, target, message, then the
//! fields of the event and of the spans around it side by side, so that
//! `request_id` and `tenant` are in the same place on every line.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use insula_domain::Clock;
use serde_json::{Map, Value};
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// The longest text of a field, in bytes; a longer one is cut.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// What every line has; a field of one of these names gets a `_` behind it.
const OWN: [&str; 4] = ["timestamp", "level", "target", "message"];

/// Writes events as JSON.
pub struct JsonLog<W> {
    writer: W,
    clock: Arc<dyn Clock>,
}

impl<W> JsonLog<W> {
    /// Writes to what `writer` makes.
    pub fn new(writer: W, clock: Arc<dyn Clock>) -> Self {
        Self { writer, clock }
    }
}

/// The fields of a span, kept with it.
struct SpanFields(Map<String, Value>);

/// Collects fields.
struct Collector<'a>(&'a mut Map<String, Value>);

impl Collector<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }

    fn put_text(&mut self, field: &Field, mut text: String) {
        if text.len() > TEXT_BYTES_MAX {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
            text.push('…');
        }
        self.put(field, Value::String(text));
    }
}

impl Visit for Collector<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        self.put_text(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, format!("{value:?}"));
    }
}

impl<S, W> Layer<S> for JsonLog<W>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Map::new();
        attributes.record(&mut Collector(&mut fields));
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<SpanFields>()
        {
            values.record(&mut Collector(&mut fields.0));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Map::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(SpanFields(of_span)) = span.extensions().get::<SpanFields>() {
                fields.extend(of_span.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
        }
        let mut own = Map::new();
        event.record(&mut Collector(&mut own));
        let message = own.remove("message");
        fields.extend(own);
        let mut line = self.head(event, message);
        for (name, value) in fields {
            let name = if OWN.contains(&name.as_str()) { format!("{name}_") } else { name };
            line.insert(name, value);
        }
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        // There is nowhere left to tell that the log cannot be written.
        let _ = self.writer.make_writer_for(event.metadata()).write_all(text.as_bytes());
    }
}

impl<W> JsonLog<W> {
    fn head(&self, event: &Event<'_>, message: Option<Value>) -> Map<String, Value> {
        let metadata = event.metadata();
        let now = self.clock.now().format(&Rfc3339).unwrap_or_default();
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), now.into());
        line.insert("level".to_owned(), metadata.level().as_str().into());
        line.insert("target".to_owned(), metadata.target().into());
        line.extend(message.map(|message| ("message".to_owned(), message)));
        line
    }
}
