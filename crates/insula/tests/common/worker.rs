//! A process beside `insula serve` that carries out operations and nothing else:
//! it can be suspended, and goes on where it was.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use insula_testkit::unused_port;

use super::{PATIENCE, World};

/// A worker in a process of its own, which ends with this.
pub struct Worker {
    process: Child,
    log: PathBuf,
}

impl World {
    /// Starts a worker with further variables of the environment. What it logs
    /// is in a file of this name.
    pub fn worker(&self, name: &str, environment: &[(&str, &str)]) -> Worker {
        let log = format!("{name}.log");
        let process = self
            .command(&log, Some("worker"), environment)
            .env("INSULA_HTTP__LISTEN", format!("127.0.0.1:{}", unused_port()))
            .env("INSULA_SERVER__DATA_DIR", self.folder.join(name))
            .spawn()
            .unwrap();
        Worker { process, log: self.folder.join(log) }
    }
}

impl Worker {
    /// Suspends it where it is: its connections stay open.
    pub fn suspend(&self) {
        self.signal("STOP");
        self.until_suspended();
    }

    /// Waits until it stands still.
    pub fn until_suspended(&self) {
        self.until(|| process_state(self.process.id()) == Some('T'), "it does not come to stand still");
    }

    /// Lets it go on.
    pub fn goes_on(&self) {
        self.signal("CONT");
    }

    /// Lets it go on, and waits until it has given up a run that it had: the log of
    /// the run refuses it, or what it asked when it was suspended is out of time.
    pub fn wakes_too_late(&self) {
        let said = self.log().len(); // it says nothing while it is suspended
        self.goes_on();
        let given_up = ["another worker has the run", "the run is left to another worker"];
        self.until(
            || given_up.iter().any(|text| self.log()[said..].contains(text)),
            "it does not give up the run",
        );
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn until(&self, is_so: impl Fn() -> bool, what: &str) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < 2 * PATIENCE, "{what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10)); // between two looks, not for an effect
        }
    }

    fn signal(&self, name: &str) {
        let process = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &process]).status().unwrap().success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The state of a process as `man 5 proc` has it; none where it is gone.
pub fn process_state(process: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
