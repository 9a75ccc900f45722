//! Metrics in the Prometheus text format: the list of all that there are, the
//! recorder, and the text of `/metrics`.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use thiserror::Error;

/// The metrics' names. Units come last.
pub mod names {
    /// 1, with the version as a label.
    pub const BUILD_INFO: &str = "insula_build_info";
    /// HTTP requests that were answered, by method, route and status.
    pub const HTTP_REQUESTS: &str = "insula_http_requests_total";
    /// Time from an HTTP request's head to the end of its answer, by method and route.
    pub const HTTP_REQUEST_SECONDS: &str = "insula_http_request_seconds";
    /// HTTP requests under way.
    pub const HTTP_IN_FLIGHT: &str = "insula_http_requests_in_flight";
    /// Tenants that the route map knows.
    pub const ROUTES: &str = "insula_routes";
    /// 1 where a store can be reached, else 0, by store: `catalog` or a region.
    pub const STORE_UP: &str = "insula_store_up";
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// Lengths of time in seconds, in buckets.
    Seconds,
}

/// A metric that Insula has.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// What it says.
    pub help: &'static str,
}

const fn metric(name: &'static str, kind: MetricKind, help: &'static str) -> Metric {
    Metric { name, kind, help }
}

/// The metrics that belong to no crate alone; the front and the workflows
/// describe their own. Labels have few values: a route is a pattern,
/// and no label names a tenant.
pub const METRICS: &[Metric] = &[
    metric(names::BUILD_INFO, MetricKind::Gauge, "1, with the version as a label"),
    metric(names::HTTP_REQUESTS, MetricKind::Counter, "HTTP requests answered, by method, route and status"),
    metric(names::HTTP_REQUEST_SECONDS, MetricKind::Seconds, "Time of an HTTP request, by method and route"),
    metric(names::HTTP_IN_FLIGHT, MetricKind::Gauge, "HTTP requests under way"),
    metric(names::ROUTES, MetricKind::Gauge, "Tenants that the route map knows"),
    metric(names::STORE_UP, MetricKind::Gauge, "1 where a store can be reached, by store"),
];

/// Upper bounds of the buckets of lengths of time, in seconds.
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// How often samples that nobody has read are put into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// The recorder could not be set up.
#[derive(Debug, Error)]
#[error("the metrics cannot be set up: {0}")]
pub struct MetricsNotInstalled(String);

/// The recorder's reading side.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    /// Its drop ends the upkeep.
    _upkeep: Arc<Sender<()>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Sets up the recorder of this process, describes every metric and says
    /// which version this is.
    ///
    /// # Errors
    /// Where the process has a recorder already.
    pub fn install(version: &'static str) -> Result<Self, MetricsNotInstalled> {
        let failed = |error: &dyn std::fmt::Display| MetricsNotInstalled(error.to_string());
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
            .map_err(|error| failed(&error))?
            .install_recorder()
            .map_err(|error| failed(&error))?;
        METRICS.iter().for_each(describe);
        metrics::gauge!(names::BUILD_INFO, "version" => version).set(1.0);
        let upkeep = start_upkeep(handle.clone()).map_err(|error| failed(&error))?;
        Ok(Self { handle, _upkeep: Arc::new(upkeep) })
    }

    /// All metrics in the Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

fn describe(metric: &Metric) {
    match metric.kind {
        MetricKind::Counter => metrics::describe_counter!(metric.name, metric.help),
        MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
        MetricKind::Seconds => metrics::describe_histogram!(metric.name, Unit::Seconds, metric.help),
    }
}

/// Samples of histograms pile up until they are read; where nobody reads, this
/// does. The thread ends when the sender is dropped.
fn start_upkeep(handle: PrometheusHandle) -> std::io::Result<Sender<()>> {
    let (alive, gone) = channel::<()>();
    std::thread::Builder::new().name("metrics-upkeep".to_owned()).spawn(move || {
        while gone.recv_timeout(UPKEEP) == Err(RecvTimeoutError::Timeout) {
            handle.run_upkeep();
        }
    })?;
    Ok(alive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are() {
        for metric in METRICS {
            let name = metric.name;
            assert!(name.starts_with("insula_"), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == MetricKind::Counter, "{name}");
            if metric.kind == MetricKind::Seconds {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            assert_eq!(METRICS.iter().filter(|other| other.name == name).count(), 1, "{name}");
        }
    }

    #[test]
    fn what_is_recorded_is_rendered_with_its_description() {
        // The one test that sets the recorder up: a process has only one.
        let installed = Metrics::install("1.2.3").unwrap();
        assert!(Metrics::install("1.2.3").is_err(), "canary: a second one is refused");
        metrics::counter!(names::HTTP_REQUESTS, "status" => "200").increment(3);
        metrics::histogram!(names::HTTP_REQUEST_SECONDS).record(0.02);
        let text = installed.render();
        for line in [
            "insula_build_info{version=\"1.2.3\"} 1",
            "# HELP insula_http_requests_total HTTP requests answered",
            "# TYPE insula_http_requests_total counter",
            "insula_http_requests_total{status=\"200\"} 3",
            "# TYPE insula_http_request_seconds histogram",
            "insula_http_request_seconds_bucket{le=\"0.025\"} 1",
            "insula_http_request_seconds_bucket{le=\"0.01\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
