//! Who applies a stream: one applier at a time, whose sessions go by the
//! stream's name. A new one ends those of another; one that comes back gives way.

use tokio::time::{Instant, sleep};

use super::super::StreamName;
use super::super::wire::Wire;
use super::fault::StreamFault;
use super::target::PAUSE;

/// Who is let in.
#[derive(Debug)]
pub(super) struct Entry {
    /// Whether it is a new applier, for which whoever applies the stream is
    /// ended; for one that comes back, only what is left of itself is.
    pub takes_over: bool,
    /// The processes that have served the applier, the newest last.
    formers: Vec<i32>,
}

/// So many former processes are remembered: more cannot linger.
const FORMERS_MAX: usize = 64;

impl Entry {
    /// The entry of a new applier.
    pub fn new() -> Self {
        Self { takes_over: true, formers: Vec::new() }
    }

    /// Whether the applier was served by a process.
    pub fn was(&self, pid: i32) -> bool {
        self.formers.contains(&pid)
    }

    /// Notes a process that serves the applier.
    pub fn note(&mut self, pid: i32) {
        if self.formers.len() >= FORMERS_MAX {
            self.formers.remove(0);
        }
        self.formers.push(pid);
    }
}

/// The other sessions that apply a stream, as the rest of a query.
fn others(name: StreamName) -> String {
    format!(
        "from pg_stat_activity where application_name = '{name}' and backend_type = 'client backend'
           and usename = current_user and pid <> pg_backend_pid()"
    )
}

/// Ends other sessions that apply the stream, until there is none, or finds that
/// somebody else has some. Who connects later does the same, and finds this one.
pub(super) async fn fence(
    wire: &mut Wire,
    name: StreamName,
    entry: &Entry,
    until: Instant,
) -> Result<(), StreamFault> {
    let others = others(name);
    loop {
        let pids = wire.simple(&format!("select pid {others}")).await?;
        let pids: Vec<String> = pids.into_iter().flatten().flatten().collect();
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(StreamFault::Away("a former session of the stream does not end".to_owned()));
        }
        for pid in pids {
            if !entry.takes_over && !pid.parse().is_ok_and(|pid| entry.was(pid)) {
                return Err(StreamFault::Superseded);
            }
            wire.simple(&format!("select pg_terminate_backend(pid, 5000) {others} and pid = {pid}")).await?;
        }
        sleep(PAUSE).await;
    }
}

/// Finds that nobody applies the stream besides the applier itself.
pub(super) async fn is_alone(wire: &mut Wire, name: StreamName, entry: &Entry) -> Result<(), StreamFault> {
    let pids = wire.simple(&format!("select pid {}", others(name))).await?;
    let is_own = |pid: String| pid.parse().is_ok_and(|pid| entry.was(pid));
    if pids.into_iter().flatten().flatten().all(is_own) { Ok(()) } else { Err(StreamFault::Superseded) }
}
