//! Emulators of AWS from PyPI, which `make test-aws` installs in `.venv-aws`.

use std::path::{Path, PathBuf};

use crate::folder::passable_folder;
use crate::port::unused_port;
use crate::program::TestProgram;

/// An emulator of AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulator {
    /// moto (<https://docs.getmoto.org/>).
    Moto,
    /// ministack (<https://pypi.org/project/ministack/>).
    Ministack,
    /// roto-aws (<https://pypi.org/project/roto-aws/>).
    Roto,
}

/// Starts an emulator on a port of the system's, and gives its URL. It ends
/// when the program is dropped.
///
/// # Panics
/// Where it is not installed, or does not start.
#[must_use]
pub fn emulator(kind: Emulator) -> (String, TestProgram) {
    let programs = installed();
    let (folder, port) = (passable_folder().keep(), unused_port());
    let digits = port.to_string();
    let env = Path::new("/usr/bin/env");
    let started = |setting: String, program: &str, arguments: &[&str]| {
        let program = programs.join(program).display().to_string();
        let all: Vec<&str> = [&setting[..], &program].into_iter().chain(arguments.iter().copied()).collect();
        TestProgram::start(&folder, port, env, &all)
    };
    let program = match kind {
        Emulator::Moto => {
            started("MOTO_PORT=".to_owned() + &digits, "moto_server", &["-H", "127.0.0.1", "-p", &digits])
        }
        Emulator::Ministack => started("GATEWAY_PORT=".to_owned() + &digits, "ministack", &[]),
        Emulator::Roto => {
            started("ROTO_DATA_DIR=none".to_owned(), "roto-server", &["--ephemeral", "--port", &digits])
        }
    };
    (format!("http://127.0.0.1:{port}"), program)
}

/// `.venv-aws/bin` of the repository.
fn installed() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a crate in a workspace");
    root.join(".venv-aws/bin")
}
