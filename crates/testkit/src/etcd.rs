//! The etcd server of this process: real, on a port of the system's, with its
//! data in a folder that goes with it.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::folder::passable_folder;
use crate::port::unused_port;
use crate::program::TestProgram;

static ETCD: OnceLock<(String, TestProgram)> = OnceLock::new();

/// The URL of the etcd server that the first call starts for this process
/// (about 0.3 s); it ends with the process. Whoever uses it keeps below a root
/// of its own.
///
/// # Panics
/// Where there is no etcd (Debian's package is `etcd-server`), or it does not start.
pub fn etcd_url() -> &'static str {
    &ETCD.get_or_init(start).0
}

/// What etcd's own tool says, which writes past everybody: `etcdctl(&["put", …])`.
///
/// # Panics
/// Where it is not installed (Debian's package is `etcd-client`), or says no.
pub fn etcdctl(arguments: &[&str]) -> String {
    let told = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", etcd_url()])
        .args(arguments)
        .output()
        .expect("etcdctl is installed: make deps");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8(told.stdout).expect("what was asked for is text").trim_end().to_owned()
}

fn start() -> (String, TestProgram) {
    let program = ["/usr/bin/etcd", "/usr/local/bin/etcd", "/opt/homebrew/bin/etcd"].map(Path::new);
    let program = program.into_iter().find(|program| program.exists()).expect("etcd is installed: make deps");
    let folder = passable_folder().keep();
    let (port, peer_port) = (unused_port(), unused_port());
    let (url, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let data = folder.join("data");
    let arguments = [
        "--name=test",
        &format!("--data-dir={}", data.display()),
        &format!("--listen-client-urls={url}"),
        &format!("--advertise-client-urls={url}"),
        &format!("--listen-peer-urls={peer}"),
        &format!("--initial-advertise-peer-urls={peer}"),
        &format!("--initial-cluster=test={peer}"),
        "--log-level=error",
    ];
    let program = TestProgram::start(&folder, port, program, &arguments);
    (url, program)
}
