//! One point: pgbench against one target, and what was used meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Target;
use crate::machine::{Used, processors};

/// Threads of pgbench.
const THREADS: u32 = 2;

/// Connecting takes no longer.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    Select,
    TpcB,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Simple,
    Extended,
    Prepared,
}

impl Script {
    pub fn named(name: &str) -> Self {
        match name {
            "S" => Self::Select,
            "tpcb" => Self::TpcB,
            _ => panic!("a script is S or tpcb"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Select => "S",
            Self::TpcB => "tpcb",
        }
    }
}

impl Protocol {
    pub fn named(name: &str) -> Self {
        match name {
            "simple" => Self::Simple,
            "extended" => Self::Extended,
            "prepared" => Self::Prepared,
            _ => panic!("a protocol is simple, extended or prepared"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// What is measured.
#[derive(Debug)]
pub struct Point {
    pub script: Script,
    pub protocol: Protocol,
    pub clients: u32,
}

/// What was measured.
#[derive(Debug)]
pub struct Run {
    pub tps: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU seconds per 100,000 transactions of what stands between, if anything.
    pub proxy_cpu: Option<f64>,
    /// The same of PostgreSQL.
    pub server_cpu: f64,
    /// How much of the machine other programs had.
    pub foreign_share: f64,
}

/// pgbench, beside the server's programs or in PATH.
fn pgbench(target: &Target) -> Command {
    let beside = insula_testkit::installation().program("pgbench");
    let mut command = Command::new(if beside.exists() { beside } else { PathBuf::from("pgbench") });
    command
        .args(["-h", target.host, "-p", &target.port.to_string(), "-U", &target.user])
        .env("PGPASSWORD", &target.password)
        .env("PGSSLMODE", "disable")
        .stdin(Stdio::null());
    command
}

/// Makes pgbench's tables.
pub fn initialise(target: &Target, scale: u32) {
    let output =
        pgbench(target).args(["-i", "-q", "-s", &scale.to_string(), target.database]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Measures one point.
pub fn run(
    target: &Target,
    point: &Point,
    (warm_up, measured): (Duration, Duration),
    folder: &Path,
    server: u32,
) -> Run {
    let log = folder.join("log");
    let seconds = (PATIENCE + warm_up + measured).as_secs();
    let threads = point.clients.min(THREADS);
    let mut command = pgbench(target);
    command
        .args(["-n", "-l", "--log-prefix", &log.display().to_string(), "-M", point.protocol.name()])
        .args(["-c", &point.clients.to_string(), "-j", &threads.to_string(), "-T", &seconds.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if point.script == Script::Select {
        command.arg("-S");
    }
    let child = command.arg(target.database).spawn().unwrap();
    let pid = child.id();
    let logs: Vec<PathBuf> = (0..threads).map(|thread| log_of(folder, pid, thread)).collect();
    // pgbench begins with all threads when all clients are connected.
    until(|| logs.iter().all(|log| fs::metadata(log).is_ok_and(|log| log.len() > 0)));
    sleep(warm_up);
    let begin = Used::now(target.pid, server, pid);
    sleep(measured);
    let end = Used::now(target.pid, server, pid);
    // Its own timer has counted from before its clients were connected.
    Command::new("kill").args(["-ALRM", &pid.to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}: {}", target.name, String::from_utf8_lossy(&output.stderr));
    let mut latencies: Vec<f64> = logs.iter().flat_map(|log| latencies(log, &begin, &end)).collect();
    logs.iter().for_each(|log| fs::remove_file(log).unwrap());
    latencies.sort_unstable_by(f64::total_cmp);
    let (used, count) = (end.since(&begin), latencies.len() as f64);
    let per_100k = |seconds: f64| seconds / count * 100_000.0;
    let ours = used.proxy + used.server + used.pgbench;
    let place = |share: f64| latencies[((count * share) as usize).min(latencies.len() - 1)];
    Run {
        tps: count / used.at,
        p50_ms: place(0.5),
        p99_ms: place(0.99),
        proxy_cpu: target.pid.map(|_| per_100k(used.proxy)),
        server_cpu: per_100k(used.server),
        foreign_share: ((used.machine - ours) / (used.at * processors())).max(0.0),
    }
}

fn log_of(folder: &Path, pid: u32, thread: u32) -> PathBuf {
    folder.join(if thread == 0 { format!("log.{pid}") } else { format!("log.{pid}.{thread}") })
}

fn until(is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "pgbench does not begin");
        sleep(Duration::from_millis(5));
    }
}

/// Milliseconds of the transactions that ended between two moments. A line is:
/// client, transaction, microseconds, script, seconds since 1970, microseconds
/// (PostgreSQL's manual, pgbench, "Per-Transaction Logging").
fn latencies(log: &Path, begin: &Used, end: &Used) -> Vec<f64> {
    let text = fs::read_to_string(log).unwrap();
    let line = |line: &str| {
        let fields: Vec<f64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
        let at = fields.get(4)? + fields.get(5)? / 1e6;
        (begin.at..end.at).contains(&at).then_some(fields[2] / 1_000.0)
    };
    text.lines().filter_map(line).collect()
}
