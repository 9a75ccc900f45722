//! Traces: our own spans, sampled by trace, sent in batches by OTLP over HTTP.

use insula_settings::Otel;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use tracing::Subscriber;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::TelemetryError;
use crate::export::ExportClient;

/// Spans that wait to be sent; more are dropped, and the drop is logged.
const QUEUE: usize = 4_096;

/// Sets the export up, where an endpoint is given. Nothing is sent yet, so a
/// collector that is not there does not hold anybody up.
pub fn provider(otel: &Otel, version: &'static str) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    let Some(endpoint) = &otel.endpoint else { return Ok(None) };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(ExportClient::start(otel.ca_file.as_deref(), otel.timeout.get())?)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(otel.timeout.get())
        .build()
        .map_err(|error| TelemetryError::Export(error.to_string()))?;
    let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
    let resource = Resource::builder()
        .with_service_name(otel.service_name.clone())
        .with_attribute(KeyValue::new("service.version", version))
        .build();
    Ok(Some(
        SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(otel.sample_ratio))))
            .with_resource(resource)
            .build(),
    ))
}

/// The export as a layer. Only our own spans go out: those of the HTTP client
/// that sends them would make new ones for ever.
pub fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    tracing_opentelemetry::layer().with_tracer(provider.tracer("insula")).with_filter(own_spans())
}

fn own_spans() -> FilterFn {
    filter_fn(|metadata| metadata.target().starts_with("insula") && *metadata.level() <= tracing::Level::INFO)
}
