//! A server's data folder: locked while a process keeps a server in it, made
//! whole or not at all, and removed. `initdb` works in a folder beside it that
//! is renamed when all is there, so a crash in the middle leaves no half.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc::O_NOFOLLOW;
use tracing::{info, warn};

use crate::command::{Outcome, postgres_command, run_bounded};
use crate::conf;
use crate::error::StartError;
use crate::files;
use crate::installation::Installation;
use crate::leftovers;
use crate::run_as::RunAs;
use crate::spec::{SUPERUSER, ServerSpec};
use crate::version::Version;

const INITDB_LIMIT: Duration = Duration::from_secs(120);

/// Written first and last by `initdb`; a folder with both is whole.
const MARKS: [&str; 2] = ["PG_VERSION", "global/pg_control"];

/// A data folder that is ours alone until this is dropped.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    run_as: Option<RunAs>,
    _lock: File,
}

impl DataFolder {
    /// Takes the folder, which need not be there yet. The lock ends with this
    /// process, however it ends.
    pub(crate) fn take(data_dir: &Path) -> Result<Self, StartError> {
        let path = std::path::absolute(data_dir).map_err(StartError::io("find", data_dir))?;
        let run_as = RunAs::for_folder(&path)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        files::create_passable(parent, run_as.as_ref()).map_err(StartError::io("make the folder", parent))?;
        let path = canonical(&path).map_err(StartError::io("find", &path))?;
        let lock = lock(&path)?;
        Ok(Self { path, run_as, _lock: lock })
    }

    /// Its canonical path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The user that its server runs as, where that is not us.
    pub(crate) fn run_as(&self) -> Option<&RunAs> {
        self.run_as.as_ref()
    }

    /// Checks that the server's user can reach the programs and the folder.
    pub(crate) fn check_reach(&self, installation: &Installation) -> Result<(), StartError> {
        let Some(user) = &self.run_as else {
            return Ok(());
        };
        user.check_reach(&installation.program("postgres"))?;
        user.check_reach(self.path.parent().unwrap_or(Path::new("/")))
    }

    /// Makes the folder where it is missing or empty, and checks it where it
    /// is not.
    pub(crate) fn fill(&self, installation: &Installation, spec: &ServerSpec) -> Result<(), StartError> {
        let mut entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.initialize(installation, spec);
            }
            entries => entries.map_err(StartError::io("read the folder", &self.path))?,
        };
        if entries.next().is_none() {
            return self.initialize(installation, spec);
        }
        if let Some(missing) = MARKS.into_iter().find(|mark| !self.path.join(mark).exists()) {
            return Err(StartError::NotADataFolder { data_dir: self.path.clone(), missing });
        }
        self.check_major(installation)
    }

    fn check_major(&self, installation: &Installation) -> Result<(), StartError> {
        let file = self.path.join(MARKS[0]);
        let made_by = fs::read_to_string(&file).map_err(StartError::io("read", &file))?;
        if made_by.trim() == installation.version().major().to_string() {
            return Ok(());
        }
        Err(StartError::OtherMajor {
            data_dir: self.path.clone(),
            made_by: made_by.trim().to_owned(),
            bin_dir: installation.bin_dir().to_path_buf(),
            installed: installation.version().to_string(),
        })
    }

    fn initialize(&self, installation: &Installation, spec: &ServerSpec) -> Result<(), StartError> {
        let began = Instant::now();
        self.remove_halves();
        // The pid keeps us apart from an `initdb` whose parent died and that
        // still writes.
        let pid = std::process::id();
        let fresh = beside(&self.path, &format!(".new-{pid}"));
        let password = RemovedAtEnd(beside(&self.path, &format!(".pwfile-{pid}")));
        files::create_private(&fresh, self.run_as()).map_err(StartError::io("make the folder", &fresh))?;
        let line = zeroize::Zeroizing::new(format!("{}\n", *spec.superuser_password));
        files::create_owned(&password.0, line.as_bytes(), self.run_as())
            .map_err(StartError::io("write", &password.0))?;

        let mut command = postgres_command(installation.program("initdb"), self.run_as());
        command.arg("--pgdata").arg(&fresh).arg("--pwfile").arg(&password.0);
        command.args(initdb_arguments(spec.durable, installation.version(), cfg!(target_os = "linux")));
        let outcome = run_bounded(command, INITDB_LIMIT)
            .map_err(StartError::io("run", &installation.program("initdb")))?;
        if !outcome.success() {
            let _ = fs::remove_dir_all(&fresh);
            return Err(initdb_failed(spec, &outcome));
        }
        self.put_in_place(&fresh, spec.durable)
            .map_err(StartError::io("finish the data folder", &self.path))?;
        info!(
            server = %spec.name, folder = %self.path.display(), ms = began.elapsed().as_millis(),
            "made the data folder"
        );
        Ok(())
    }

    fn put_in_place(&self, fresh: &Path, durable: bool) -> io::Result<()> {
        let path = fresh.join("postgresql.conf");
        let mut settings = OpenOptions::new().append(true).custom_flags(O_NOFOLLOW).open(&path)?;
        writeln!(settings, "\n{}", conf::INCLUDE)?;
        files::create_owned(&fresh.join(conf::FILE), b"", self.run_as())?;
        if durable {
            settings.sync_all()?;
            File::open(fresh)?.sync_all()?;
        }
        fs::rename(fresh, &self.path)?;
        match self.path.parent() {
            Some(parent) if durable => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    }

    /// Removes what an `initdb` that did not come to its end left behind.
    fn remove_halves(&self) {
        for path in siblings(&self.path, &[".new-", ".pwfile-"]) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Ok(()) => info!(path = %path.display(), "removed what an unfinished initdb left"),
                Err(error) => {
                    warn!(path = %path.display(), %error, "cannot remove what an unfinished initdb left")
                }
            }
        }
    }
}

/// Removes a data folder and all beside it that belongs to it, after stopping
/// a server that an earlier process left in it. It may be missing.
///
/// # Errors
/// [`StartError::InUse`] while a process, this one too, keeps a server in it.
pub async fn remove(data_dir: &Path) -> Result<(), StartError> {
    let path = data_dir.to_path_buf();
    let work = tokio::task::spawn_blocking(move || remove_blocking(&path));
    work.await.unwrap_or_else(|error| Err(StartError::io("remove the folder", data_dir)(error.into())))
}

fn remove_blocking(data_dir: &Path) -> Result<(), StartError> {
    if !data_dir.parent().is_some_and(Path::exists) {
        return Ok(());
    }
    let folder = DataFolder::take(data_dir)?;
    leftovers::clear(folder.path())?;
    folder.remove_halves();
    match fs::remove_dir_all(folder.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StartError::io("remove the folder", folder.path())(error))
        }
        // The lock's file last: it is what keeps others out.
        _ => {
            let lock = beside(folder.path(), ".lock");
            files::remove_if_there(&lock).map_err(StartError::io("remove", &lock))
        }
    }
}

/// The arguments of `initdb` besides the paths.
fn initdb_arguments(durable: bool, version: &Version, linux: bool) -> Vec<String> {
    let mut arguments = vec![
        format!("--username={SUPERUSER}"),
        "--auth=scram-sha-256".to_owned(),
        "--encoding=UTF8".to_owned(),
        "--data-checksums".to_owned(),
        "--no-instructions".to_owned(),
    ];
    // Order by code point, the same on every machine and in every version of
    // the C library, so that no index is ever out of order after an upgrade.
    arguments.push(if linux { "--locale=C.UTF-8" } else { "--locale=C" }.to_owned());
    if version.major() >= 17 {
        arguments.extend(["--locale-provider=builtin".to_owned(), "--builtin-locale=C.UTF-8".to_owned()]);
    } else if !linux {
        arguments.push("--lc-ctype=en_US.UTF-8".to_owned());
    }
    if !durable {
        arguments.push("--no-sync".to_owned());
    }
    arguments
}

fn initdb_failed(spec: &ServerSpec, outcome: &Outcome) -> StartError {
    let status = outcome
        .status
        .map_or_else(|| format!("killed after {} s", INITDB_LIMIT.as_secs()), |status| status.to_string());
    StartError::Initdb { name: spec.name.clone(), status, output: outcome.stderr.trim_end().to_owned() }
}

/// The path without links; of a folder that is not there yet, its parent's.
pub(crate) fn canonical(path: &Path) -> io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(parent.canonicalize()?.join(name))
        }
        (canonical, ..) => canonical,
    }
}

/// Takes the lock of a data folder. It is a file beside the folder, since the
/// folder itself may have to be made.
fn lock(path: &Path) -> Result<File, StartError> {
    let lock_path = beside(path, ".lock");
    loop {
        let mut file = open_lock(&lock_path).map_err(StartError::io("open", &lock_path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.take(32).read_to_string(&mut text);
                return Err(StartError::InUse {
                    data_dir: path.to_path_buf(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(StartError::io("lock", &lock_path)(error)),
        }
        // Whoever had the lock may just have removed the folder and the file:
        // then we hold a file that nobody else will see.
        if is_file_at(&file, &lock_path) {
            sign(&mut file).map_err(StartError::io("write", &lock_path))?;
            return Ok(file);
        }
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(path)
}

fn is_file_at(file: &File, path: &Path) -> bool {
    let inode = |found: fs::Metadata| (found.dev(), found.ino());
    let there = fs::symlink_metadata(path).map(inode);
    file.metadata().map(inode).is_ok_and(|ours| there.is_ok_and(|there| ours == there))
}

/// Writes our pid into the lock's file, for whoever finds it locked.
fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    path.with_file_name(name)
}

fn siblings(path: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let starts: Vec<PathBuf> = endings.iter().map(|ending| beside(path, ending)).collect();
    let starts: Vec<&[u8]> =
        starts.iter().filter_map(|start| Some(start.file_name()?.as_encoded_bytes())).collect();
    let entries = path.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    entries
        .filter(|entry| starts.iter().any(|start| entry.file_name().as_encoded_bytes().starts_with(start)))
        .map(|entry| entry.path())
        .collect()
}

struct RemovedAtEnd(PathBuf);

impl Drop for RemovedAtEnd {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_once_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pg");
        let first = DataFolder::take(&path).unwrap();
        let refused = DataFolder::take(&path).unwrap_err();
        assert!(matches!(refused, StartError::InUse { pid: Some(pid), .. } if pid == std::process::id()));
        drop(first);
        DataFolder::take(&path).expect("canary: afterwards it can be taken");
    }

    #[test]
    fn the_leavings_of_this_folder_are_told_from_those_of_others() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a", "a.new-1", "a.pwfile-2", "a.newer", "ab.new-1", "a.lock"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let mut found = siblings(&root.path().join("a"), &[".new-", ".pwfile-"]);
        found.sort();
        assert_eq!(found, [root.path().join("a.new-1"), root.path().join("a.pwfile-2")]);
    }

    #[test]
    fn a_durable_folder_is_synced_and_newer_versions_order_by_their_own_tables() {
        let version = |text: &str| Version::parse(&format!("postgres (PostgreSQL) {text}")).unwrap();
        let arguments = |durable, text, linux| initdb_arguments(durable, &version(text), linux).join(" ");
        assert!(!arguments(true, "15.1", true).contains("--no-sync"));
        assert!(arguments(false, "15.1", true).contains("--no-sync"));
        assert!(!arguments(true, "16.1", true).contains("builtin"));
        assert!(arguments(true, "17.0", false).contains("--locale=C --locale-provider=builtin"));
        assert!(arguments(true, "15.1", false).ends_with("--locale=C --lc-ctype=en_US.UTF-8"));
    }
}
