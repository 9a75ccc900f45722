//! A small shell beside each server that outlives us by a moment. It holds one
//! end of a pipe; when we are gone, however we went (even by SIGKILL), the pipe
//! is closed, and it stops the server.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Arguments: the data folder (for whoever reads the process list), the first
/// signal, then folders to remove. The words on the pipe say which server
/// runs. Its pid comes from us and not from the pid file, where by now the
/// server of a new process may stand. A process that only waits to be reaped
/// (there are containers where nobody does) counts as gone.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM PIPE
first=$2
shift 2
pid=
while read -r word argument; do
  case $word in
    running) pid=$argument ;;
    ended) pid= ;;
    done) exit 0 ;;
  esac
done
is_there() {
  kill -0 "$pid" 2>/dev/null || return 1
  stat=
  [ -r "/proc/$pid/stat" ] && read -r stat <"/proc/$pid/stat"
  case $stat in *') Z '*) return 1 ;; esac
}
ask() {
  is_there && kill -s "$1" "$pid" || return 0
  tries=$2
  while [ "$tries" -gt 0 ] && is_there; do sleep 0.05; tries=$((tries - 1)); done
}
if [ -n "$pid" ]; then
  ask "$first" 600
  ask QUIT 100
  ask KILL 100
fi
for folder; do rm -rf -- "$folder"; done
"#;

/// The watchdog of one server. Dropped, it stops the server; see
/// [`Watchdog::dismiss`].
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
    pipe: ChildStdin,
}

impl Watchdog {
    /// Starts it, beside a server that does not run yet. With `remove`, the
    /// data is worthless afterwards: the server is stopped without writing
    /// what it has in memory, and the folder removed.
    pub(crate) fn start(data_dir: &Path, remove: Option<&Path>) -> io::Result<Self> {
        let first_signal = if remove.is_some() { "QUIT" } else { "INT" };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "insula-watchdog"]).arg(data_dir).arg(first_signal).args(remove);
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let pipe = child.stdin.take().ok_or_else(|| io::Error::other("the watchdog has no pipe"))?;
        Ok(Self { child, pipe })
    }

    /// The server that runs from now on.
    pub(crate) fn server_runs(&mut self, pid: u32) {
        self.say(&format!("running {pid}\n"));
    }

    /// The server has ended.
    pub(crate) fn server_ended(&mut self) {
        self.say("ended\n");
    }

    /// Sends it home: the server was stopped in order.
    pub(crate) fn dismiss(mut self) {
        self.say("done\n");
        let _ = self.child.wait();
    }

    /// A watchdog that somebody killed cannot be told anything. The server is
    /// no worse for it; the next start takes care of what it would have done.
    fn say(&mut self, word: &str) {
        let _ = self.pipe.write_all(word.as_bytes());
    }
}
