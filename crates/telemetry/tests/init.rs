//! Setting up a whole process: once, and a second time refused.

use std::sync::Arc;

use insula_domain::SystemClock;
use insula_settings::{Log, Otel};
use insula_telemetry::{TelemetryError, init};

#[test]
fn a_process_has_one_log() {
    let log = Log::default();
    let _guard = init(&log, &Otel::default(), "1.2.3", Arc::new(SystemClock)).unwrap();
    let again = init(&log, &Otel::default(), "1.2.3", Arc::new(SystemClock));
    assert!(matches!(again, Err(TelemetryError::AlreadySet)));
}
