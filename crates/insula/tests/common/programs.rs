//! Programs that the tests of the binary start: PostgreSQL's own, and those of
//! the environments that `make deps` sets up.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of these tests.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// What `make deps` has set up.
fn set_up(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    assert!(path.exists(), "{} is not there: make deps sets it up", path.display());
    path
}

/// A program of the environment for Python.
pub fn python(program: &str) -> Command {
    let mut command = Command::new(set_up(&format!(".venv/bin/{program}")));
    // Nothing is written beside the tests.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Node, with the packages that are set up.
pub fn node() -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", set_up(".npm/node_modules"));
    command
}

/// A program of PostgreSQL's, beside the server's programs or in PATH.
pub fn of_postgres(name: &str) -> Command {
    let beside = insula_testkit::installation().program(name);
    Command::new(if beside.exists() { beside } else { name.into() })
}

/// psql, which reads no file of the user's and stops at the first error.
pub fn psql(url: &str) -> Command {
    let mut command = of_postgres("psql");
    command.arg(url).args(["-X", "-v", "ON_ERROR_STOP=1"]);
    command
}

/// What a program prints that must end well.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out.into_owned()
}
