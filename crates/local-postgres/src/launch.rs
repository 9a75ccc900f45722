//! One start of a server, from an unknown state of the folder to a server that
//! accepts connections: end leftovers, check the port, make the folder, write
//! the settings, start, wait. The first start and every restart go through here.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tracing::info;

use crate::command::postgres_command;
use crate::conf;
use crate::data_folder::DataFolder;
use crate::error::StartError;
use crate::files;
use crate::hba;
use crate::installation::Installation;
use crate::leftovers;
use crate::pid_file::PidFile;
use crate::port;
use crate::postmaster::{Patience, Postmaster};
use crate::sockets;
use crate::spec::ServerSpec;
use crate::watchdog::Watchdog;

const READY_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
const LOG: &str = "server.log";
const LOG_LIMIT_BYTES: u64 = 16 * 1024 * 1024;

/// All that a start needs, with the folder locked.
#[derive(Debug)]
pub(crate) struct Launcher {
    spec: ServerSpec,
    installation: Installation,
    folder: DataFolder,
}

impl Launcher {
    /// Checks what can be checked before anything is changed.
    pub(crate) fn new(installation: Installation, spec: ServerSpec) -> Result<Self, StartError> {
        spec.check()?;
        let folder = DataFolder::take(&spec.data_dir)?;
        folder.check_reach(&installation)?;
        Ok(Self { spec, installation, folder })
    }

    /// What was asked for.
    pub(crate) fn spec(&self) -> &ServerSpec {
        &self.spec
    }

    /// The data folder's canonical path.
    pub(crate) fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a server and waits until it accepts connections, or until
    /// `stopped` says that nobody wants it any more.
    pub(crate) fn launch(
        &self,
        watchdog: &mut Watchdog,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Postmaster, StartError> {
        let began = Instant::now();
        leftovers::clear(self.data_dir())?;
        self.check_port()?;
        self.folder.fill(&self.installation, &self.spec)?;
        self.write_settings()?;
        let log_start = fs::metadata(self.log()).map(|log| log.len()).unwrap_or(0);
        let postmaster = self.spawn()?;
        watchdog.server_runs(postmaster.pid());
        let started = self.wait_until_ready(postmaster, log_start, stopped);
        match &started {
            Ok(postmaster) => info!(
                server = %self.spec.name, port = self.spec.port, pid = postmaster.pid(),
                ms = began.elapsed().as_millis(), "PostgreSQL server is ready"
            ),
            Err(_) => watchdog.server_ended(),
        }
        started
    }

    /// Keeps the log within its bounds.
    pub(crate) fn bound_log(&self) {
        if let Err(error) = files::bound_log(&self.log(), LOG_LIMIT_BYTES, self.folder.run_as()) {
            tracing::warn!(server = %self.spec.name, %error, "cannot bound the log of the PostgreSQL server");
        }
    }

    fn check_port(&self) -> Result<(), StartError> {
        let port = self.spec.port;
        if !port::is_taken(port) {
            return Ok(());
        }
        Err(StartError::PortTaken { name: self.spec.name.clone(), port, holder: port::holder(port) })
    }

    fn write_settings(&self) -> Result<(), StartError> {
        let settings = conf::render(&self.spec, self.installation.version());
        for (file, text) in [(conf::FILE, settings), (hba::FILE, hba::render(self.spec.tcp))] {
            let path = self.data_dir().join(file);
            files::replace_owned(&path, text.as_bytes(), self.folder.run_as())
                .map_err(StartError::io("write", &path))?;
        }
        Ok(())
    }

    fn spawn(&self) -> Result<Postmaster, StartError> {
        let log = self.log();
        let output = files::open_log(&log, self.folder.run_as()).map_err(StartError::io("open", &log))?;
        let copy = output.try_clone().map_err(StartError::io("open", &log))?;
        let sockets = sockets::folder(self.data_dir(), self.folder.run_as())?;
        let mut command = self.command(&sockets);
        command.stdin(Stdio::null()).stdout(copy).stderr(output);
        let program = self.installation.program("postgres");
        command.spawn().map(Postmaster::new).map_err(StartError::io("run", &program))
    }

    /// What we depend on is set on the command line, where no `ALTER SYSTEM`
    /// wins over it.
    fn command(&self, sockets: &Path) -> Command {
        let addresses = if port::has_ipv6() { "127.0.0.1,::1" } else { "127.0.0.1" };
        let mut command = postgres_command(self.installation.program("postgres"), self.folder.run_as());
        command.arg("-D").arg(self.data_dir());
        command.arg("-c").arg(format!("port={}", self.spec.port));
        command.arg("-c").arg(format!("listen_addresses={addresses}"));
        let mut hba = OsString::from("hba_file=");
        hba.push(self.data_dir().join(hba::FILE));
        command.arg("-c").arg(hba);
        // A folder with quotes or spaces in its name is one folder all the same.
        let quoted =
            format!("unix_socket_directories=\"{}\"", sockets.display().to_string().replace('"', "\"\""));
        command.arg("-c").arg(quoted);
        command
    }

    fn wait_until_ready(
        &self,
        mut postmaster: Postmaster,
        log_start: u64,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Postmaster, StartError> {
        let name = || self.spec.name.clone();
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            if let Some(status) = postmaster.ended().map_err(StartError::io("wait for", self.data_dir()))? {
                // Somebody may have taken the port since we looked.
                self.check_port()?;
                let log_tail = files::log_tail(&self.log(), log_start);
                return Err(StartError::Ended { name: name(), status: status.to_string(), log_tail });
            }
            let ours = |file: &PidFile| u32::try_from(file.pid) == Ok(postmaster.pid());
            if PidFile::read(self.data_dir()).is_some_and(|file| file.ready && ours(&file)) {
                return Ok(postmaster);
            }
            if stopped() {
                postmaster.stop(Patience::LONG);
                return Err(StartError::Stopped { name: name() });
            }
            if Instant::now() >= deadline {
                postmaster.stop(Patience::SHORT);
                let log_tail = files::log_tail(&self.log(), log_start);
                return Err(StartError::NotReady { name: name(), seconds: READY_LIMIT.as_secs(), log_tail });
            }
            thread::sleep(POLL);
        }
    }

    fn log(&self) -> PathBuf {
        self.data_dir().join(LOG)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        sockets::remove(self.data_dir());
    }
}
