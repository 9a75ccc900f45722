//! What processes and the machine have used so far, from Linux's `/proc`
//! (proc(5)).

use std::fs;

/// Linux's unit of CPU time in `/proc`, per second.
const TICKS: f64 = 100.0;

/// CPU seconds at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    pub at: f64,
    pub proxy: f64,
    pub server: f64,
    pub pgbench: f64,
    pub machine: f64,
}

impl Used {
    /// By now. `server` is PostgreSQL's first process.
    pub fn now(proxy: Option<u32>, server: u32, pgbench: u32) -> Self {
        let mut used = Self { at: seconds_now(), machine: machine(), ..Self::default() };
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Some((parent, seconds)) = process(pid) else { continue };
            if pid == server || parent == server {
                used.server += seconds;
            } else if Some(pid) == proxy {
                used.proxy += seconds;
            } else if pid == pgbench {
                used.pgbench += seconds;
            }
        }
        used
    }

    /// Between then and now.
    pub fn since(&self, then: &Self) -> Self {
        Self {
            at: self.at - then.at,
            proxy: self.proxy - then.proxy,
            server: self.server - then.server,
            pgbench: self.pgbench - then.pgbench,
            machine: self.machine - then.machine,
        }
    }
}

/// The time since 1970, as pgbench writes it.
pub fn seconds_now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// A process's parent, and its CPU seconds.
fn process(pid: u32) -> Option<(u32, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name may hold anything, and ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok());
    Some((fields.get(1)?.parse().ok()?, (ticks(11)? + ticks(12)?) / TICKS))
}

/// CPU seconds of everything, waiting for disks not among it.
fn machine() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<f64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).map(|text| text.parse().unwrap()).collect();
    // user nice system idle iowait irq softirq steal
    (fields[..3].iter().sum::<f64>() + fields[5..8].iter().sum::<f64>()) / TICKS
}

/// How many processors there are.
pub fn processors() -> f64 {
    std::thread::available_parallelism().unwrap().get() as f64
}

/// A process's resident memory, in kB.
pub fn resident_kb(pid: u32) -> i64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
