//! Servers that are not PostgreSQL: started, waited for, and ended with us,
//! however we end.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to listen.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// Runs the program beside a pipe from us: when we are gone, however we went,
/// the pipe ends, and the program and its folder with it.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM PIPE
folder=$1
shift
"$@" </dev/null >"$folder/said" 2>&1 &
program=$!
cat >/dev/null
kill -9 "$program" 2>/dev/null
wait "$program" 2>/dev/null
rm -rf -- "$folder"
"#;

/// A server that runs for as long as this lives, or the process.
#[derive(Debug)]
pub struct TestProgram {
    shell: Child,
}

impl TestProgram {
    /// Starts a program and waits until its port listens. The folder goes with it.
    ///
    /// # Panics
    /// Where there is no shell, or it does not listen in time.
    #[must_use]
    pub fn start(folder: &Path, port: u16, program: &Path, arguments: &[&str]) -> Self {
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(folder)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell can be started");
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if began.elapsed() > START_TIME_MAX {
                let said = std::fs::read_to_string(folder.join("said")).unwrap_or_default();
                panic!("{} does not listen:\n{said}", program.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { shell }
    }
}

impl Drop for TestProgram {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().ok();
    }
}
