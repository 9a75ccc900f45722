//! The log and the traces, read back as their readers would.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use insula_domain::{Clock, OsEntropy};
use insula_settings::{HumanDuration, Log, LogFormat, Otel, SecretText, Settings};
use serde_json::Value;
use time::OffsetDateTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;

use crate::log::Sink;
use crate::start::{Guard, LogFilter};
use crate::{TelemetryError, log, trace};

#[derive(Debug)]
struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_millis(1_500)
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const NO_TERMINAL: Sink = Sink { is_terminal: false, colours: false };

/// What `say` logs in this format.
fn logged(format: LogFormat, filter: &str, sink: Sink, say: impl FnOnce()) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let settings = Log { format, filter: filter.to_owned() };
    let (layer, _) = log::layer(&settings, sink, move || writer.clone(), Arc::new(StillClock)).unwrap();
    tracing::subscriber::with_default(registry().with(layer), say);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn json_lines(filter: &str, say: impl FnOnce()) -> Vec<Value> {
    let text = logged(LogFormat::Json, filter, NO_TERMINAL, say);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn json_has_the_fields_of_all_spans_side_by_side() {
    let lines = json_lines("info", || {
        let request = tracing::info_span!("request", request_id = "r1", tenant = tracing::field::Empty);
        let _in_request = request.enter();
        tracing::info!("before the tenant is known");
        request.record("tenant", "acme");
        let _in_step = tracing::info_span!("step", name = "copy", attempt = 2).entered();
        tracing::warn!(rows = 5_u64, name = "nearer", level = "mine", share = 0.5, ok = true, "slow\nstep");
        tracing::debug!("not logged");
    });
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["tenant"], Value::Null);
    let line = &lines[1];
    for (name, value) in [
        ("timestamp", Value::from("1970-01-01T00:00:01.5Z")),
        ("level", "WARN".into()),
        ("target", "insula_telemetry::tests".into()),
        ("message", "slow\nstep".into()),
        ("request_id", "r1".into()),
        ("tenant", "acme".into()),
        ("attempt", 2.into()),
        ("name", "nearer".into()),
        ("level_", "mine".into()),
        ("rows", 5.into()),
        ("share", 0.5.into()),
        ("ok", true.into()),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
}

#[test]
fn statements_with_their_values_are_never_logged() {
    let lines = json_lines("trace", || {
        tracing::debug!(target: "tokio_postgres::query", "executing statement with parameters: [ada]");
        tracing::trace!(target: "tokio_postgres", "ada");
        tracing::info!(target: "tokio_postgres::connection", "canary");
        tracing::trace!(target: "insula_catalog", "canary");
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| line["message"] == "canary"), "{lines:?}");
}

#[test]
fn an_error_is_logged_with_its_causes_and_long_texts_are_cut() {
    let error = insula_settings::SettingsError { faults: Vec::new() };
    let problem = TelemetryError::Export("outer".to_owned());
    let long = "é".repeat(20_000);
    let lines = json_lines("info", || {
        let error: &dyn std::error::Error = &error;
        tracing::error!(error, problem = &problem as &dyn std::error::Error, %long, "failed");
    });
    assert_eq!(lines[0]["problem"], "the export of traces cannot be set up: outer");
    let cut = lines[0]["long"].as_str().unwrap();
    assert!(cut.len() < 17_000 && cut.ends_with("é…"), "{}", cut.len());
}

#[test]
fn a_terminal_gets_text_and_the_rest_json() {
    let say = || tracing::info!(tenant = "acme", "hello");
    let is_json = |text: &str| serde_json::from_str::<Value>(text).is_ok();
    let terminal = Sink { is_terminal: true, colours: true };
    let plain = logged(LogFormat::Auto, "info", Sink { colours: false, ..terminal }, say);
    assert_eq!(plain, "1970-01-01T00:00:01.5Z  INFO insula_telemetry::tests: hello tenant=\"acme\"\n");
    assert!(logged(LogFormat::Auto, "info", terminal, say).contains("\u{1b}["), "colours");
    assert!(is_json(&logged(LogFormat::Auto, "info", NO_TERMINAL, say)));
    assert!(is_json(&logged(LogFormat::Json, "info", terminal, say)));
    assert!(!is_json(&logged(LogFormat::Text, "info", NO_TERMINAL, say)));
}

#[test]
fn the_filter_can_be_changed_while_lines_are_logged() {
    let lines = Lines::default();
    let writer = lines.clone();
    let settings = Log { format: LogFormat::Text, filter: "warn".to_owned() };
    let (layer, filter) =
        log::layer(&settings, NO_TERMINAL, move || writer.clone(), Arc::new(StillClock)).unwrap();
    let filter = LogFilter(filter);
    let say = |number: u32| tracing::debug!(number, "said");
    tracing::subscriber::with_default(registry().with(layer), || {
        say(1);
        filter.set("debug").unwrap();
        say(2);
        assert!(filter.set("insula=loud").is_err() && LogFilter::check("insula=loud").is_err());
        say(3);
        filter.set("info").unwrap();
        say(4);
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let said: Vec<_> = (1..=4).filter(|number| text.contains(&format!("number={number}"))).collect();
    assert_eq!(said, [2, 3]);
}

#[test]
fn a_filter_that_is_none_is_told() {
    let settings = Log { format: LogFormat::Json, filter: "insula=loud".to_owned() };
    let refused = log::layer::<tracing_subscriber::Registry, _>(
        &settings,
        NO_TERMINAL,
        std::io::sink,
        Arc::new(StillClock),
    );
    let text = refused.err().unwrap().to_string();
    assert!(text.contains("log.filter \"insula=loud\" is not valid"), "{text}");
}

#[test]
fn secrets_are_in_no_line_of_the_log() {
    use insula_credentials::{ApiKey, MasterKeys, Secret};
    let master = MasterKeys::generate(&OsEntropy);
    let clock = StillClock;
    let key = ApiKey::generate(insula_domain::ApiKeyId::generate(&clock, &OsEntropy), &OsEntropy);
    let secret = Secret::new("s3cret-1".to_owned());
    let text = SecretText::new("s3cret-2");
    let mut settings = Settings::default();
    settings.catalog.url = SecretText::new("postgres://u:s3cret-3@h/d");
    let add = insula_api::AddCluster {
        name: "a".to_owned(),
        region: "r".to_owned(),
        url: "postgres://u:s3cret-4@h/d".to_owned(),
        capacity: None,
    };
    let master_text = master.to_text();
    let (_, master_key) = master_text.expose().trim().split_once(':').unwrap();
    let key_text = key.to_text();
    let key_secret = &key_text.expose()[key_text.expose().len() - 20..];
    for format in [LogFormat::Json, LogFormat::Text] {
        let lines = logged(format, "trace", NO_TERMINAL, || {
            tracing::info!(?master, ?key, ?secret, ?text, ?settings, ?add, "as fields");
            tracing::info!("in the message: {master:?} {key:?} {secret:?} {text:?} {settings:#?} {add:#?}");
            let _span = tracing::info_span!("span", ?master, ?key, ?secret, ?text, ?settings, ?add).entered();
            tracing::info!(canary = "s5cret", "in a span");
        });
        assert!(lines.contains("s5cret") && lines.contains("in the message"), "canary: all was logged");
        for hidden in ["s3cret", master_key, key_secret] {
            assert!(!lines.contains(hidden), "{hidden} shows in {format:?}: {lines}");
        }
    }
}

/// Reads one HTTP request, and answers it where it is told to.
fn read_request(mut stream: TcpStream, answers: bool) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let count = stream.read(&mut buffer).unwrap();
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        let length =
            text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let (Some(head), Some(length)) = (head, length)
            && bytes.len() >= head + 4 + length
        {
            if answers {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .unwrap();
            } else {
                // Held open until the other side gives up.
                let _ = stream.read_to_end(&mut Vec::new());
            }
            return (String::from_utf8_lossy(&bytes[..head]).into_owned(), bytes[head + 4..].to_vec());
        }
        assert!(count > 0, "the request ended early: {text}");
    }
}

fn collector(answers: bool) -> (Otel, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if sender.send(read_request(stream.unwrap(), answers)).is_err() {
                return;
            }
        }
    });
    let otel = Otel {
        endpoint: Some(endpoint),
        timeout: HumanDuration::from_millis(if answers { 10_000 } else { 300 }),
        ..Otel::default()
    };
    (otel, receiver)
}

/// Makes a span, and one of a library, then ends the export.
fn one_span(otel: &Otel) -> Duration {
    let provider = trace::provider(otel, "1.2.3").unwrap().unwrap();
    let (_, filter) = log::layer(&Log::default(), NO_TERMINAL, std::io::sink, Arc::new(StillClock)).unwrap();
    let filter = LogFilter(filter);
    let guard = Guard { provider: Some(provider.clone()), timeout: otel.timeout.get(), filter };
    tracing::subscriber::with_default(registry().with(trace::layer(&provider)), || {
        tracing::info_span!("tenant-create", tenant = "acme").in_scope(|| {
            tracing::info_span!(target: "hyper", "of-a-library").in_scope(|| ());
        });
    });
    let begun = Instant::now();
    drop(guard);
    begun.elapsed()
}

#[test]
fn the_end_sends_the_last_spans_to_the_collector() {
    let (otel, received) = collector(true);
    one_span(&otel);
    let (head, body) = received.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
    let body = String::from_utf8_lossy(&body);
    for part in ["tenant-create", "acme", "insula", "service.version", "1.2.3"] {
        assert!(body.contains(part), "{part} is not in {body}");
    }
    assert!(!body.contains("of-a-library"), "{body}");
}

#[test]
fn the_end_works_inside_a_runtime_too() {
    let (otel, received) = collector(true);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { one_span(&otel) });
    assert!(received.recv_timeout(Duration::from_secs(10)).is_ok());
}

#[test]
fn a_collector_that_does_not_answer_holds_the_end_up_for_a_bounded_time() {
    let (otel, _received) = collector(false);
    let took = one_span(&otel);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn nothing_is_exported_without_an_endpoint() {
    assert!(trace::provider(&Otel::default(), "1").unwrap().is_none());
    let missing = Otel {
        endpoint: Some("https://127.0.0.1:1".to_owned()),
        ca_file: Some("/nowhere.pem".into()),
        ..Otel::default()
    };
    let text = trace::provider(&missing, "1").unwrap_err().to_string();
    assert!(text.contains("otel.ca_file /nowhere.pem cannot be used"), "{text}");
}
