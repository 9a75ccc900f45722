//! Data folders that are made once for a test run, to be copied. `initdb` keeps
//! a processor busy for half a second, and a run starts hundreds of servers.
//!
//! A server is known by the identifier that `initdb` gave it, so a process is
//! given each template once: its servers are as different as those of
//! `initdb`, which makes what it starts beyond them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use insula_local_postgres::{Installation, Server, ServerSpec};

/// Names the folder of the templates of the run.
pub const TEMPLATES: &str = "INSULA_TEST_PG_TEMPLATES";

/// The three servers of a test of the whole, and one more.
const COUNT: usize = 4;

/// What is in a template, which is a folder named by its number.
const DATA: &str = "data";
const PASSWORD: &str = "password";

/// How many this process has been given.
static GIVEN: AtomicUsize = AtomicUsize::new(0);

/// Makes the templates in a folder that is not there yet. `spec` is for a
/// server in a data folder, with a password of its own.
pub(crate) async fn make(installation: &Installation, folder: &Path, spec: impl Fn(PathBuf) -> ServerSpec) {
    for number in 0..COUNT {
        let template = folder.join(number.to_string());
        let spec = spec(template.join(DATA));
        let password = spec.superuser_password.clone();
        // One that has ended in order has nothing to recover when it starts.
        let server = Server::start(installation, spec).await.unwrap_or_else(|error| panic!("{error}"));
        server.stop().await;
        fs::write(template.join(PASSWORD), &*password).expect("a file can be written");
    }
}

/// Fills a data folder that is not there yet from a template that this process
/// has not had, and returns its superuser's password. None where there is no
/// such template.
pub(crate) fn fill(data: &Path) -> Option<String> {
    let templates = std::env::var_os(TEMPLATES)?;
    let number = GIVEN.fetch_add(1, Ordering::Relaxed).to_string();
    let template = Path::new(&templates).join(number);
    let password = fs::read_to_string(template.join(PASSWORD)).ok()?;
    // As its owner has it, whom the server runs as.
    let copied = Command::new("cp").arg("-Rp").arg(template.join(DATA)).arg(data).status();
    assert!(copied.is_ok_and(|status| status.success()), "the template of a data folder can be copied");
    Some(password)
}
