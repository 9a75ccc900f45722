//! PgBouncer with a pool of transactions, in front of the same database.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use insula_testkit::unused_port;

use crate::Target;

/// The user as which it runs where the bench runs as root, whom it refuses.
const USER: &str = "postgres";

/// The first version with prepared statements in transactions.
const KNOWS_PREPARED: (u32, u32) = (1, 21);

/// A PgBouncer that ends with this.
pub struct PgBouncer {
    process: Child,
    target: Target,
}

impl PgBouncer {
    pub fn start(folder: &Path, to: &Target, backends: u32) -> Self {
        let (port, knows_prepared) = (unused_port(), number() >= KNOWS_PREPARED);
        let (users, settings) = (folder.join("users.txt"), folder.join("pgbouncer.ini"));
        fs::write(&users, format!("\"{}\" \"{}\"\n", to.user, to.password)).unwrap();
        let prepared = if knows_prepared { "max_prepared_statements = 100\n" } else { "" };
        let text = format!(
            "[databases]\n{database} = host={} port={} dbname={database}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = {backends}\n\
             max_client_conn = 2000\nlog_connections = 0\nlog_disconnections = 0\n{prepared}",
            to.host,
            to.port,
            users.display(),
            database = to.database,
        );
        fs::write(&settings, text).unwrap();
        let mut command = Command::new(program());
        if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
            command.args(["-u", USER]);
        }
        let process =
            command.arg("-q").arg(&settings).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let target =
            Target { name: "pgbouncer", port, pid: Some(process.id()), knows_prepared, ..to.clone() };
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < until, "PgBouncer does not start");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Self { process, target }
    }

    pub fn target(&self) -> Target {
        self.target.clone()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> &'static str {
    if Path::new("/usr/sbin/pgbouncer").exists() { "/usr/sbin/pgbouncer" } else { "pgbouncer" }
}

/// What it calls itself.
pub fn version() -> String {
    let output = Command::new(program()).arg("--version").output().expect("PgBouncer is installed");
    String::from_utf8(output.stdout).unwrap().lines().next().unwrap().to_owned()
}

fn number() -> (u32, u32) {
    let version = version();
    let mut parts = version.split([' ', '.']).filter_map(|part| part.parse().ok());
    (parts.next().unwrap(), parts.next().unwrap())
}
