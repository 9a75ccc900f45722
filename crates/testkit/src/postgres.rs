//! The one server of a test run. Where nobody has started it, this process
//! does; it ends with the process, together with its folder, since the server's
//! watchdog waits for the end of a pipe and not for a drop.

use std::path::PathBuf;

use insula_domain::{Entropy, OsEntropy};
use insula_local_postgres::{Installation, Server, ServerSpec, StartError, TcpAccess};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::folder::passable_folder;
use crate::port::unused_port;
use crate::template;
use crate::url::{with_database, with_user};

/// Names the server of the run, by a superuser's URL.
pub const SHARED_URL: &str = "INSULA_TEST_PG_URL";
/// Names the folder of the PostgreSQL programs to test with.
pub const PROGRAMS: &str = "INSULA_PG_BIN";

/// A port that was free may be taken when the server starts.
const TRIES: usize = 5;

/// The PostgreSQL server of the test run.
#[derive(Debug)]
pub struct TestPostgres {
    url: String,
    // Never dropped, since this lives in a static.
    own: Option<Server>,
}

static POSTGRES: OnceCell<TestPostgres> = OnceCell::const_new();

/// The PostgreSQL server of the test run: the one that `INSULA_TEST_PG_URL`
/// names, else one that the first call starts for this process (about 0.8 s).
///
/// # Panics
/// Where there is no PostgreSQL, or it does not start.
pub async fn postgres() -> &'static TestPostgres {
    POSTGRES.get_or_init(TestPostgres::new).await
}

impl TestPostgres {
    async fn new() -> Self {
        if let Ok(url) = std::env::var(SHARED_URL) {
            return Self { url: with_database(&url, "postgres"), own: None };
        }
        let (server, _, folder) = start_new(|_| {}).await;
        // The watchdog removes it.
        let _ = folder.keep();
        Self { url: server.superuser_url("postgres"), own: Some(server) }
    }

    /// The superuser's URL of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        with_database(&self.url, database)
    }

    /// Another user's URL of a database. Names and passwords that need
    /// escapes in a URL are refused with a panic.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        with_user(&self.url(database), user, password)
    }

    /// The folder of its Unix socket.
    ///
    /// # Panics
    /// Where it cannot be asked.
    pub async fn socket_folder(&self) -> String {
        let answer = self.connect("postgres").await.query_one("show unix_socket_directories", &[]).await;
        let folder: String = answer.expect("a setting can be shown").get(0);
        folder.trim_matches('"').to_owned()
    }

    /// A superuser's session in a database.
    ///
    /// # Panics
    /// Where it cannot connect.
    pub async fn connect(&self, database: &str) -> Client {
        connect(&self.url(database)).await
    }

    /// Whether the server ends with this process, and what is on it.
    pub(crate) fn ends_with_us(&self) -> bool {
        self.own.is_some()
    }
}

/// A session; its connection runs as a task of the current runtime, and ends
/// when the client is dropped.
///
/// # Panics
/// Where it cannot connect.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("PostgreSQL can be reached");
    // How a session ends is the business of whoever uses the client.
    tokio::spawn(async move { drop(connection.await) });
    client
}

/// The PostgreSQL programs to test with.
///
/// # Panics
/// Where there are none; the text says what to install.
#[must_use]
pub fn installation() -> Installation {
    let named = std::env::var_os(PROGRAMS).filter(|named| !named.is_empty()).map(PathBuf::from);
    Installation::find(named.as_deref()).unwrap_or_else(|error| panic!("{error}"))
}

/// Starts a server without durability in a new folder on a free port.
pub(crate) async fn start_new(change: impl Fn(&mut ServerSpec)) -> (Server, ServerSpec, TempDir) {
    let folder = passable_folder();
    let installation = installation();
    let data = folder.path().join("pg");
    let password = template::fill(&data).unwrap_or_else(new_password);
    for _ in 0..TRIES {
        let mut spec = spec_in(&folder, data.clone(), password.clone());
        change(&mut spec);
        match Server::start(&installation, spec.clone()).await {
            Ok(server) => return (server, spec, folder),
            Err(StartError::PortTaken { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("{TRIES} free ports were taken before the server could use them");
}

/// A server on a free port, without durability.
pub(crate) fn spec_in(folder: &TempDir, data: PathBuf, password: String) -> ServerSpec {
    let mut spec = ServerSpec::new("test", data, unused_port(), password);
    spec.durable = false;
    spec.tcp = TcpAccess::Everybody;
    spec.restart_when_dead = false;
    spec.max_connections = 400;
    spec.remove_when_orphaned = Some(folder.path().to_path_buf());
    spec
}

pub(crate) fn new_password() -> String {
    let mut password = [0; 16];
    OsEntropy.fill(&mut password);
    password.iter().map(|byte| format!("{byte:02x}")).collect()
}
