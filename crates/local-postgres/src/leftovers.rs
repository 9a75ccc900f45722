//! What an earlier process left running in a data folder: a whole server whose
//! parent was killed together with its watchdog, or the backends of a
//! postmaster that was killed. Whoever holds the folder's lock may end them.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::warn;

use crate::error::StartError;
use crate::pid_file::PidFile;

const FAST: Duration = Duration::from_secs(30);
const IMMEDIATE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// Ends every PostgreSQL process of the folder (which must be a canonical
/// path), and removes a pid file that would keep a new server from starting.
pub(crate) fn clear(data_dir: &Path) -> Result<(), StartError> {
    let Some(file) = PidFile::read(data_dir) else {
        return end_backends(data_dir);
    };
    if is_alive(file.pid) && serves(file.pid, data_dir) {
        warn!(pid = file.pid, folder = %data_dir.display(), "stopping a PostgreSQL server left by an earlier process");
        let steps = [(Signal::SIGINT, FAST), (Signal::SIGQUIT, IMMEDIATE), (Signal::SIGKILL, IMMEDIATE)];
        end(file.pid, &steps, data_dir)?;
    }
    end_backends(data_dir)?;
    discard_misleading(data_dir)
}

/// A dead postmaster's backends notice its death by themselves, unless they
/// are busy; as long as one lives, its shared memory is in use, and two
/// servers in one folder would destroy it.
fn end_backends(data_dir: &Path) -> Result<(), StartError> {
    let steps = [(Signal::SIGQUIT, IMMEDIATE), (Signal::SIGKILL, IMMEDIATE)];
    processes_of(data_dir).into_iter().try_for_each(|pid| end(pid, &steps, data_dir))
}

/// A stale pid file is PostgreSQL's own business while its pid is free. Where
/// that number is meanwhile another process of the same user (another server,
/// after a restart of the machine), or the dead server was not reaped yet,
/// PostgreSQL would refuse to start.
fn discard_misleading(data_dir: &Path) -> Result<(), StartError> {
    let Some(file) = PidFile::read(data_dir).filter(|file| is_there(file.pid)) else {
        return Ok(());
    };
    let path = PidFile::path(data_dir);
    if !cfg!(target_os = "linux") {
        // Here the backends of the folder cannot be seen, so nobody knows
        // that it is safe.
        return Err(StartError::StalePidFile { pid_file: path, pid: file.pid });
    }
    warn!(pid = file.pid, file = %path.display(), "removing a stale pid file");
    fs::remove_file(&path).map_err(StartError::io("remove", &path))
}

fn end(pid: i32, steps: &[(Signal, Duration)], data_dir: &Path) -> Result<(), StartError> {
    for (signal, patience) in steps {
        // A failure shows in the waiting: it is gone, or it stays.
        let _ = kill(Pid::from_raw(pid), *signal);
        let deadline = Instant::now() + *patience;
        while is_alive(pid) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        if !is_alive(pid) {
            return Ok(());
        }
    }
    Err(StartError::LeftoverStays { data_dir: data_dir.to_path_buf(), pid })
}

/// Whether the process is there and not merely waiting to be reaped.
fn is_alive(pid: i32) -> bool {
    is_there(pid) && !is_zombie(pid)
}

fn is_there(pid: i32) -> bool {
    !matches!(kill(Pid::from_raw(pid), None), Err(nix::Error::ESRCH))
}

#[cfg(target_os = "linux")]
fn is_zombie(pid: i32) -> bool {
    // `pid (command) state …`, and the command may itself hold parentheses.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(target_os = "linux")]
fn serves(pid: i32, data_dir: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let is_postgres = fs::read_link(process.join("exe")).is_ok_and(|program| {
        // "postgres (deleted)" after an upgrade of the package.
        program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("postgres"))
    });
    // Every process of a server stands in its data folder.
    is_postgres && fs::read_link(process.join("cwd")).is_ok_and(|folder| folder == data_dir)
}

#[cfg(target_os = "linux")]
fn processes_of(data_dir: &Path) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| serves(*pid, data_dir) && is_alive(*pid)).collect()
}

#[cfg(not(target_os = "linux"))]
fn is_zombie(_pid: i32) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn serves(pid: i32, data_dir: &Path) -> bool {
    use crate::command::{postgres_command, run_bounded};
    let mut ps = postgres_command("/bin/ps", None);
    ps.args(["-ww", "-o", "command=", "-p", &pid.to_string()]);
    let line = run_bounded(ps, IMMEDIATE).map(|outcome| outcome.stdout).unwrap_or_default();
    line.contains("postgres") && line.contains(&format!("-D {}", data_dir.display()))
}

#[cfg(not(target_os = "linux"))]
fn processes_of(_data_dir: &Path) -> Vec<i32> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_is_no_server_of_the_folder_is_spared_and_its_pid_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().canonicalize().unwrap();
        // Stands in the folder, but is no PostgreSQL.
        let mut bystander =
            Command::new("sleep").arg("600").current_dir(&data_dir).stdin(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(bystander.id()).unwrap();
        fs::write(PidFile::path(&data_dir), format!("{pid}\n{}\n", data_dir.display())).unwrap();
        let cleared = clear(&data_dir);
        assert!(is_alive(pid), "it lives on");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        assert!(!is_alive(pid), "canary: a dead one is seen as dead");
        if cfg!(target_os = "linux") {
            cleared.unwrap();
            assert!(!PidFile::path(&data_dir).exists());
        } else {
            assert!(matches!(cleared, Err(StartError::StalePidFile { .. })));
        }
    }
}
