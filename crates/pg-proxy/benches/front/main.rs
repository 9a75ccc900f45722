//! A direct connection, PgBouncer and the front beside each other, in one run
//! on one machine: pgbench's own statements, read-only (`-S`) and TPC-B-like, by
//! 1 to 500 clients. `make bench` prints a table for docs/BENCHMARKS.md;
//! `-- --only insula --script S --clients 50 --protocol simple --seconds 20`
//! runs one point, to be looked at with a profiler, and `-- --clients none
//! --idle yes` measures the memory of idle clients alone.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a program for its reader
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods)] // what is measured is real time

mod idle;
mod insula;
mod load;
mod machine;
mod pgbouncer;

use std::path::Path;
use std::time::Duration;

use insula_testkit::{TcpAccess, TestServer, passable_folder};

use crate::insula::Insula;
use crate::load::{Point, Protocol, Run, Script};
use crate::pgbouncer::PgBouncer;

/// Backends that the pooler and the front may have.
const BACKENDS: u32 = 20;

/// A bench is measured again where other programs had more than this of the
/// machine meanwhile, so often at most; the quietest counts.
const FOREIGN_SHARE_MAX: f64 = 0.03;
const TRIES: usize = 3;

/// Where pgbench connects to.
#[derive(Debug, Clone)]
struct Target {
    name: &'static str,
    host: &'static str,
    port: u16,
    user: String,
    password: String,
    database: &'static str,
    /// The process that stands between.
    pid: Option<u32>,
    knows_prepared: bool,
}

/// What to measure.
struct Plan {
    only: Option<String>,
    scripts: Vec<Script>,
    protocols: Vec<Protocol>,
    clients: Vec<u32>,
    warm_up: Duration,
    measured: Duration,
    scale: u32,
    with_idle: bool,
}

impl Plan {
    /// By the arguments, and the environment: `INSULA_BENCH_SECONDS` for each
    /// point, `INSULA_BENCH_SCALE` for pgbench's.
    fn read() -> Self {
        let arguments: Vec<String> =
            std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let mut plan = Self {
            only: None,
            scripts: vec![Script::Select, Script::TpcB],
            protocols: vec![Protocol::Simple, Protocol::Prepared],
            clients: vec![1, 8, 50, 500],
            warm_up: Duration::from_secs(2),
            measured: Duration::from_secs(number("INSULA_BENCH_SECONDS", 5)),
            scale: u32::try_from(number("INSULA_BENCH_SCALE", 20)).unwrap(),
            with_idle: arguments.is_empty(),
        };
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { panic!("an argument without its value: {pair:?}") };
            match name.as_str() {
                "--only" => plan.only = Some(value.clone()),
                "--script" => plan.scripts = value.split(',').map(Script::named).collect(),
                "--protocol" => plan.protocols = value.split(',').map(Protocol::named).collect(),
                "--clients" => {
                    plan.clients = value.split(',').filter_map(|count| count.parse().ok()).collect()
                }
                "--seconds" => plan.measured = Duration::from_secs(value.parse().unwrap()),
                "--idle" => plan.with_idle = value == "yes",
                _ => panic!("unknown argument {name}"),
            }
        }
        plan
    }

    fn wants(&self, target: &Target) -> bool {
        self.only.as_ref().is_none_or(|only| only.split(',').any(|only| only == target.name))
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number in the environment"))
}

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    if let Ok(server) = std::env::var(insula::SERVER) {
        return insula::serve(&server);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(measure(&Plan::read()));
}

async fn measure(plan: &Plan) {
    let server = TestServer::start_with(|spec| {
        spec.durable = true;
        spec.tcp = TcpAccess::Everybody;
        spec.max_connections = 600;
        for (name, value) in
            [("shared_buffers", "1GB"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "1h")]
        {
            spec.settings.insert(name.to_owned(), value.to_owned());
        }
    })
    .await;
    let admin = server.connect("postgres").await;
    admin.batch_execute(&format!("create database {}", insula::DATABASE)).await.unwrap();
    let folder = passable_folder();
    let front = Insula::start(&server.url(insula::DATABASE), BACKENDS);
    let direct = Target { name: "direct", port: server.port(), pid: None, ..front.backend() };
    load::initialise(&direct, plan.scale);
    admin.batch_execute("checkpoint").await.unwrap();
    let pooler = PgBouncer::start(folder.path(), &direct, BACKENDS);
    let targets = [direct, pooler.target(), front.target()];
    println!("{}", head(&targets));

    let postmaster = server.pid().unwrap();
    for script in &plan.scripts {
        for protocol in &plan.protocols {
            for clients in &plan.clients {
                for target in targets.iter().filter(|target| plan.wants(target)) {
                    let point = Point { script: *script, protocol: *protocol, clients: *clients };
                    if !can_run(target, &point) {
                        continue;
                    }
                    let run = quietest(target, &point, plan, folder.path(), postmaster);
                    println!("{}", row(target, &point, &run));
                }
            }
        }
    }
    if plan.with_idle {
        println!("\nproxy\tclients\tresident, kB\tkB per client");
        for target in targets.iter().filter(|target| target.pid.is_some()) {
            idle::measure(target).await;
        }
    }
    drop((front, pooler));
}

/// pgbench prepares its statements one client after the other, and lets none go
/// on meanwhile: where that client waits for a backend behind transactions of
/// the others, it waits for ever.
fn can_run(target: &Target, point: &Point) -> bool {
    let would_hang = point.script == Script::TpcB && target.pid.is_some() && point.clients > BACKENDS;
    point.protocol != Protocol::Prepared || target.knows_prepared && !would_hang
}

fn quietest(target: &Target, point: &Point, plan: &Plan, folder: &Path, postmaster: u32) -> Run {
    let mut best: Option<Run> = None;
    for _ in 0..TRIES {
        let run = load::run(target, point, (plan.warm_up, plan.measured), folder, postmaster);
        let is_quiet = run.foreign_share <= FOREIGN_SHARE_MAX;
        if best.as_ref().is_none_or(|best| run.foreign_share < best.foreign_share) {
            best = Some(run);
        }
        if is_quiet {
            break;
        }
    }
    best.unwrap()
}

fn head(targets: &[Target]) -> String {
    let names: Vec<&str> = targets.iter().map(|target| target.name).collect();
    format!(
        "{}; {}; {BACKENDS} backends behind pooler and front\n\
         script\tprotocol\tclients\tthrough\ttps\tp50, ms\tp99, ms\tproxy CPU s per 100k\tPostgreSQL CPU s per 100k\t\
         others' share of the machine",
        names.join(", "),
        pgbouncer::version(),
    )
}

fn row(target: &Target, point: &Point, run: &Run) -> String {
    let proxy = run.proxy_cpu.map_or("-".to_owned(), |seconds| format!("{seconds:.2}"));
    format!(
        "{}\t{}\t{}\t{}\t{:.0}\t{:.2}\t{:.2}\t{proxy}\t{:.2}\t{:.0} %",
        point.script.name(),
        point.protocol.name(),
        point.clients,
        target.name,
        run.tps,
        run.p50_ms,
        run.p99_ms,
        run.server_cpu,
        run.foreign_share * 100.0
    )
}
