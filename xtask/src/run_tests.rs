//! All tests under nextest, with one PostgreSQL server for the whole run
//! instead of one for each test process, and with data folders to copy for the
//! servers that tests start themselves. The server and they go with us, however we
//! end: on Ctrl-C nextest ends first, and a kill leaves the stop to the
//! server's watchdog.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};
use insula_local_postgres::Installation;
use insula_testkit::{PROGRAMS, SHARED_URL, TEMPLATES, TestServer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// How many tests run at once, for nextest.
const THREADS: &str = "NEXTEST_TEST_THREADS";
/// With one test for each processor, a quarter of their time was left over: tests
/// of the whole program wait for ends, leases and restarts.
const TESTS_PER_PROCESSOR: usize = 2;

/// Runs the tests. A server that [`SHARED_URL`] names already is used instead.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run_with_server(arguments))
}

async fn run_with_server(arguments: &[&str]) -> Result<ExitCode> {
    if let Some(url) = std::env::var_os(SHARED_URL) {
        println!("tests: PostgreSQL of {SHARED_URL}");
        return nextest(arguments, &[(SHARED_URL, url)]).await;
    }
    // First, so that a machine without PostgreSQL gets a plain message.
    let named = std::env::var_os(PROGRAMS).filter(|named| !named.is_empty());
    let installation = Installation::find(named.as_deref().map(std::path::Path::new))?;
    let mut server = TestServer::start().await;
    println!(
        "tests: PostgreSQL {} from {} on port {}",
        installation.version(),
        installation.bin_dir().display(),
        server.port()
    );
    let places =
        [(SHARED_URL, server.url("postgres").into()), (TEMPLATES, server.templates().await.into_os_string())];
    let ended = nextest(arguments, &places).await;
    server.stop().await;
    ended
}

async fn nextest(arguments: &[&str], places: &[(&str, OsString)]) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    if std::env::var_os(THREADS).is_none() {
        let processors = std::thread::available_parallelism()?.get();
        command.env(THREADS, (processors * TESTS_PER_PROCESSOR).to_string());
    }
    command.args(["nextest", "run", "--workspace", "--locked"]).args(arguments);
    command.envs(places.iter().map(|(name, place)| (*name, place)));
    let ended = supervise(command.spawn().context("cargo nextest cannot be run")?).await?;
    Ok(ExitCode::from(ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Waits for the end. Ctrl-C reaches the child by the terminal, and we only
/// wait for it; a SIGTERM reaches us alone and is handed on.
async fn supervise(mut child: Child) -> Result<std::process::ExitStatus> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            ended = child.wait() => return Ok(ended?),
            _ = interrupts.recv() => eprintln!("tests: waiting for the tests under way to end"),
            _ = terminations.recv() => {
                if let Some(pid) = child.id() {
                    // It may have ended in this moment.
                    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
                }
            }
        }
    }
}
