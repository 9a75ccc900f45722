//! A server of a test's own, to be stopped, killed and started again.

use std::path::PathBuf;

use insula_local_postgres::{Server, ServerSpec, ServerStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::postgres::{connect, installation, new_password, spec_in, start_new};
use crate::template;
use crate::url::{with_database, with_user};

/// A PostgreSQL server that is the test's alone, in a folder of its own. It
/// keeps its port and its rows when it is stopped or killed and started again;
/// what it acknowledged survives a kill, though it would not survive a crash of
/// the machine. It ends with the test.
#[derive(Debug)]
pub struct TestServer {
    server: Option<Server>,
    url: String,
    spec: ServerSpec,
    // Last: the folder goes after the server.
    folder: TempDir,
}

impl TestServer {
    /// Starts a server with the usual settings.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a server with other settings. The change may be asked for again
    /// with another port.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start_with(change: impl Fn(&mut ServerSpec)) -> Self {
        let (server, spec, folder) = start_new(change).await;
        Self { url: server.superuser_url("postgres"), server: Some(server), spec, folder }
    }

    /// Makes data folders for the servers of a test run, which go with this
    /// server, and returns where they are: [`crate::TEMPLATES`] names the place to
    /// the tests.
    ///
    /// # Panics
    /// Where they cannot be made.
    pub async fn templates(&self) -> PathBuf {
        let folder = self.folder.path().join("templates");
        let spec = |data| spec_in(&self.folder, data, new_password());
        template::make(&installation(), &folder, spec).await;
        folder
    }

    /// The superuser's URL of a database, whether the server runs or not.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        with_database(&self.url, database)
    }

    /// Another user's URL of a database; as [`crate::TestPostgres::url_as`].
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        with_user(&self.url(database), user, password)
    }

    /// The TCP port, on 127.0.0.1 and ::1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.spec.port
    }

    /// The folder of its Unix socket.
    ///
    /// # Panics
    /// Where its data folder is gone.
    #[must_use]
    pub fn socket_folder(&self) -> PathBuf {
        insula_local_postgres::socket_folder(&self.spec.data_dir).expect("the server's folder is there")
    }

    /// The superuser's name.
    #[must_use]
    pub fn superuser(&self) -> &'static str {
        insula_local_postgres::SUPERUSER
    }

    /// The process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().and_then(Server::pid)
    }

    /// A superuser's session in a database.
    ///
    /// # Panics
    /// Where it cannot connect.
    pub async fn connect(&self, database: &str) -> Client {
        connect(&self.url(database)).await
    }

    /// Stops it in order; its sessions end.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// Kills it with SIGKILL, and returns when it is dead. Sessions that are
    /// busy may live a moment longer, as they do in earnest.
    ///
    /// # Panics
    /// Where it does not run.
    pub async fn kill_9(&mut self) {
        let server = self.server.take().expect("a server that runs");
        let pid = server.pid().and_then(|pid| i32::try_from(pid).ok()).expect("a server that runs");
        let mut changes = server.watch();
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("our own server can be killed");
        let gone = |status: &ServerStatus| !matches!(status, ServerStatus::Running { .. });
        changes.wait_for(gone).await.expect("its death is seen");
        server.stop().await;
    }

    /// Stops all of its processes where they are: connections stay open, and
    /// nothing is answered.
    ///
    /// # Panics
    /// If it does not run.
    pub fn freeze(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Lets its processes go on.
    ///
    /// # Panics
    /// If it does not run.
    pub fn thaw(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    fn signal_all(&self, signal: Signal) {
        let first = self.pid().expect("the server runs").to_string();
        let is_its = |pid: &String| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            *pid == first || status.lines().any(|line| line.strip_prefix("PPid:\t") == Some(&first))
        };
        let processes = std::fs::read_dir("/proc").expect("a system with /proc").flatten();
        let names = processes.filter_map(|process| process.file_name().into_string().ok());
        for pid in names.filter(is_its).filter_map(|pid| pid.parse().ok()) {
            // One may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Starts it again on the same port; one that runs is stopped first.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start_again(&mut self) {
        self.stop().await;
        let started = Server::start(&installation(), self.spec.clone()).await;
        self.server = Some(started.unwrap_or_else(|error| panic!("{error}")));
    }
}
