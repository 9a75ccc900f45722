//! Running a helper program (`postgres --version`, `initdb`) for a bounded time
//! and keeping a bounded part of what it prints.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::run_as::RunAs;

const KEPT_BYTES: usize = 64 * 1024;
const POLL: Duration = Duration::from_millis(5);

/// A command for one of PostgreSQL's programs. It gets next to nothing of our
/// environment, since that may hold keys which any superuser of the database
/// could read; it is in a process group of its own, so that Ctrl-C at the
/// terminal does not reach it before we have stopped it in order; and it stands
/// in `/`, since the unprivileged user may not enter our own folder.
pub(crate) fn postgres_command(program: impl AsRef<OsStr>, run_as: Option<&RunAs>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/").process_group(0);
    if let Some(libraries) = std::env::var_os("LD_LIBRARY_PATH") {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    if let Some(user) = run_as {
        // The standard library empties the supplementary groups when root
        // gives up its user id.
        command.uid(user.uid()).gid(user.gid());
    }
    command
}

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How it ended; `None` where it was killed after the deadline.
    pub(crate) status: Option<ExitStatus>,
    /// The first 64 KiB of its standard output.
    pub(crate) stdout: String,
    /// The first 64 KiB of its standard error.
    pub(crate) stderr: String,
}

impl Outcome {
    /// Whether it ended by itself, and well.
    pub(crate) fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }
}

/// Runs the command, kills it when `limit` has passed. Blocks.
pub(crate) fn run_bounded(mut command: Command, limit: Duration) -> io::Result<Outcome> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().map(keep_start);
    let stderr = child.stderr.take().map(keep_start);
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(POLL);
    };
    Ok(Outcome { status, stdout: text(stdout), stderr: text(stderr) })
}

/// Reads to the end, so that the program never waits for a full pipe, and
/// keeps the start.
fn keep_start(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut buffer = [0_u8; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let room = KEPT_BYTES.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..read.min(room)]);
        }
        kept
    })
}

fn text(reader: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = postgres_command("/bin/sh", None);
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_outputs_are_kept_and_bounded() {
        let outcome = run_bounded(sh("echo out; echo err >&2"), Duration::from_secs(10)).unwrap();
        assert!(outcome.success());
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
        let loud = run_bounded(sh("head -c 300000 /dev/zero"), Duration::from_secs(10)).unwrap();
        assert!(loud.success());
        assert_eq!(loud.stdout.len(), KEPT_BYTES);
    }

    #[test]
    fn a_program_that_hangs_is_killed_after_the_limit() {
        let outcome = run_bounded(sh("exec sleep 600"), Duration::from_millis(50)).unwrap();
        assert!(outcome.status.is_none());
        assert!(!outcome.success());
    }

    #[test]
    fn our_environment_is_not_handed_on() {
        // Cargo and nextest both set this for the tests of a package.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "canary: it is there to be handed on");
        let outcome = run_bounded(sh("env"), Duration::from_secs(10)).unwrap();
        assert!(outcome.stdout.contains("LC_ALL=C"));
        assert!(!outcome.stdout.contains("CARGO"), "{}", outcome.stdout);
    }
}
