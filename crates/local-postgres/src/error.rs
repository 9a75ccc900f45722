//! Why a server could not be started, in sentences that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::port::PortHolder;

/// Why a server could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// What was asked for makes no sense.
    #[error("PostgreSQL server {name}: {reason}")]
    InvalidSpec {
        /// The server.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// We are root, PostgreSQL refuses root, and there is nobody to run it as.
    #[error(
        "PostgreSQL does not run as root, and this machine has neither a user `postgres` nor `nobody`; \
         add one (`useradd --system postgres`) or start Insula as an ordinary user"
    )]
    NoUnprivilegedUser,
    /// The unprivileged user cannot get to something that PostgreSQL needs.
    #[error(
        "PostgreSQL runs as the user `{user}`, who cannot enter {}, which is on the way to {}; \
         `chmod a+x` the former, or choose another folder",
        blocked.display(), wanted.display()
    )]
    Unreachable {
        /// The user that PostgreSQL runs as.
        user: String,
        /// The first folder (or program) on the way that lets the user not through.
        blocked: PathBuf,
        /// What has to be reached.
        wanted: PathBuf,
    },
    /// Another process keeps a server in this folder, and lives.
    #[error("the data folder {} is in use by another Insula process{}", data_dir.display(), in_words(*pid))]
    InUse {
        /// The data folder.
        data_dir: PathBuf,
        /// The process, where it is known.
        pid: Option<u32>,
    },
    /// The folder has something in it that is no PostgreSQL data folder.
    #[error(
        "{} is neither empty nor a PostgreSQL data folder ({missing} is missing); it was left as it is",
        data_dir.display()
    )]
    NotADataFolder {
        /// The folder.
        data_dir: PathBuf,
        /// The file that every data folder has.
        missing: &'static str,
    },
    /// The data folder is another major version's.
    #[error(
        "the data folder {} was made by PostgreSQL {made_by}, and {} is PostgreSQL {installed}; let \
         INSULA_PG_BIN name the programs of version {made_by}, or start with a new folder",
        data_dir.display(), bin_dir.display()
    )]
    OtherMajor {
        /// The data folder.
        data_dir: PathBuf,
        /// The major version that made it.
        made_by: String,
        /// The folder of the programs.
        bin_dir: PathBuf,
        /// Their version.
        installed: String,
    },
    /// `initdb` failed.
    #[error("`initdb` failed for the PostgreSQL server {name} ({status}):\n{output}")]
    Initdb {
        /// The server.
        name: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// A server that an earlier process left behind does not go away.
    #[error(
        "a PostgreSQL server that an earlier process left in {} (pid {pid}) does not stop; \
         end it by hand (`kill -9 {pid}`)",
        data_dir.display()
    )]
    LeftoverStays {
        /// The data folder.
        data_dir: PathBuf,
        /// The process.
        pid: i32,
    },
    /// The pid file names a living process that is something else, and this
    /// machine does not let us see whether a server still uses the folder.
    #[error(
        "{} names the process {pid}, which is no PostgreSQL server of this folder; \
         if no PostgreSQL server runs in it, delete that file",
        pid_file.display()
    )]
    StalePidFile {
        /// The pid file.
        pid_file: PathBuf,
        /// The process that it names.
        pid: i32,
    },
    /// Somebody else listens on the port.
    #[error(
        "the PostgreSQL server {name} cannot listen on port {port}: it is taken by {}",
        holder.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string)
    )]
    PortTaken {
        /// The server.
        name: String,
        /// The port.
        port: u16,
        /// Who has it, where this machine tells.
        holder: Option<PortHolder>,
    },
    /// The server ended before it was ready.
    #[error(
        "the PostgreSQL server {name} ended while it was starting ({status}); the end of its log:\n{log_tail}"
    )]
    Ended {
        /// The server.
        name: String,
        /// How it ended.
        status: String,
        /// The last lines of its log.
        log_tail: String,
    },
    /// The server was not ready in time, and was stopped.
    #[error(
        "the PostgreSQL server {name} was not ready after {seconds} s and was stopped; \
         the end of its log:\n{log_tail}"
    )]
    NotReady {
        /// The server.
        name: String,
        /// How long it was waited for, in seconds.
        seconds: u64,
        /// The last lines of its log.
        log_tail: String,
    },
    /// The server was told to stop before it was ready.
    #[error("the PostgreSQL server {name} was stopped before it was ready")]
    Stopped {
        /// The server.
        name: String,
    },
    /// The machine refused something.
    #[error("could not {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the machine said.
        source: io::Error,
    },
}

impl StartError {
    /// For `map_err`: what was tried, with which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { doing, path, source }
    }
}

fn in_words(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}
