//! The file `postmaster.pid` in a data folder: who runs there and how far it
//! is. Its lines are described in PostgreSQL's `src/include/utils/pidfile.h`
//! (1 pid, 2 data folder, 4 port, 8 status).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const MOST_BYTES: u64 = 8192;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PidFile {
    /// The process.
    pub(crate) pid: i32,
    /// Whether it accepts connections.
    pub(crate) ready: bool,
}

impl PidFile {
    /// Where it is in a data folder.
    pub(crate) fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("postmaster.pid")
    }

    /// Reads it; `None` where it is not there, or not (yet) whole.
    pub(crate) fn read(data_dir: &Path) -> Option<Self> {
        let mut text = String::new();
        File::open(Self::path(data_dir)).ok()?.take(MOST_BYTES).read_to_string(&mut text).ok()?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        // A server in single-user mode writes its pid with a minus.
        let pid = lines.next()?.trim().parse::<i32>().ok()?.checked_abs().filter(|pid| *pid > 1)?;
        let ready = lines.nth(6).is_some_and(|status| status.trim() == "ready");
        Some(Self { pid, ready })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = "4711\n/data\n1763693712\n7440\n/data\n127.0.0.1\n  1048591    131\nready   \n";

    #[test]
    fn the_status_is_the_eighth_line() {
        assert_eq!(PidFile::parse(READY), Some(PidFile { pid: 4711, ready: true }));
        let starting = READY.replace("ready   ", "starting");
        assert_eq!(PidFile::parse(&starting), Some(PidFile { pid: 4711, ready: false }));
    }

    #[test]
    fn a_half_written_file_is_no_news() {
        assert_eq!(PidFile::parse("4711\n/data\n"), Some(PidFile { pid: 4711, ready: false }));
        assert_eq!(PidFile::parse("-4711\n").map(|file| file.pid), Some(4711));
        for text in ["", "\n", "x\n", "0\n", "1\n", "-2147483648\n"] {
            assert_eq!(PidFile::parse(text), None, "{text:?}");
        }
    }
}
