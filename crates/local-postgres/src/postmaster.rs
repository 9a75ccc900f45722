//! The running `postgres` process: waited for, and stopped in three steps of
//! growing force (PostgreSQL's manual, "Shutting Down the Server").

use std::io;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const POLL: Duration = Duration::from_millis(10);

/// How long each step of a stop is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// For a fast shutdown: sessions are ended, what is in memory is written.
    pub(crate) fast: Duration,
    /// For an immediate shutdown: the next start recovers from the log.
    pub(crate) immediate: Duration,
}

impl Patience {
    /// For a stop in order.
    pub(crate) const LONG: Self = Self { fast: Duration::from_secs(30), immediate: Duration::from_secs(5) };

    /// For a drop, which blocks whoever drops.
    pub(crate) const SHORT: Self = Self { fast: Duration::from_secs(5), immediate: Duration::from_secs(2) };
}

/// A child process, stopped at the latest when it is dropped.
#[derive(Debug)]
pub(crate) struct Postmaster {
    child: Child,
}

impl Postmaster {
    /// Takes charge of the process.
    pub(crate) fn new(child: Child) -> Self {
        Self { child }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Stops it, by force if need be, and waits until it is gone.
    pub(crate) fn stop(&mut self, patience: Patience) {
        let _ = self.ask(Signal::SIGINT, patience.fast)
            || self.ask(Signal::SIGQUIT, patience.immediate)
            || self.child.kill().and_then(|()| self.child.wait()).is_ok();
    }

    fn ask(&mut self, signal: Signal, patience: Duration) -> bool {
        // The pid cannot be another process's: it stays taken until `try_wait`
        // has reaped the child, and only this thread calls that.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return true;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            thread::sleep(POLL);
        }
        false
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.stop(Patience::SHORT);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// A shell that ignores some signals, started when it says so.
    fn stubborn(ignored: &str) -> Postmaster {
        let script = format!("trap '' {ignored}; echo; while :; do sleep 0.01; done");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut [0]).unwrap();
        Postmaster::new(child)
    }

    #[test]
    fn each_step_is_harder_than_the_one_before() {
        let patience = Patience { fast: Duration::from_millis(200), immediate: Duration::from_millis(200) };
        for (ignored, last) in [("TERM", 2), ("INT", 3), ("INT QUIT", 9)] {
            let mut process = stubborn(ignored);
            process.stop(patience);
            assert_eq!(process.ended().unwrap().unwrap().signal(), Some(last), "ignoring {ignored}");
        }
    }
}
