//! Files that we, perhaps as root, write into folders of the unprivileged user.
//! A link that somebody put there is never followed, so that a superuser of a
//! database cannot make root write elsewhere.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::libc::O_NOFOLLOW;

use crate::run_as::RunAs;

const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 20;

/// Makes a new file that its owner alone can read; the file must not be there.
pub(crate) fn create_owned(path: &Path, bytes: &[u8], run_as: Option<&RunAs>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    give_file(&file, run_as)?;
    file.write_all(bytes)?;
    file.sync_data()
}

/// Replaces a file whole: readers see the old text or the new.
pub(crate) fn replace_owned(path: &Path, bytes: &[u8], run_as: Option<&RunAs>) -> io::Result<()> {
    let fresh = path.with_extension("fresh");
    remove_if_there(&fresh)?;
    create_owned(&fresh, bytes, run_as)?;
    fs::rename(&fresh, path)
}

/// Opens a log to append to.
pub(crate) fn open_log(path: &Path, run_as: Option<&RunAs>) -> io::Result<File> {
    let file =
        OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW).open(path)?;
    give_file(&file, run_as)?;
    Ok(file)
}

/// Keeps a log that grew past `limit_bytes` small: its content becomes
/// `PATH.1`, and it starts anew. Whoever writes to it goes on doing so.
pub(crate) fn bound_log(path: &Path, limit_bytes: u64, run_as: Option<&RunAs>) -> io::Result<()> {
    if fs::symlink_metadata(path)?.len() <= limit_bytes {
        return Ok(());
    }
    let older = path.with_extension("log.1");
    remove_if_there(&older)?;
    let mut from = OpenOptions::new().read(true).write(true).custom_flags(O_NOFOLLOW).open(path)?;
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&older)?;
    give_file(&to, run_as)?;
    io::copy(&mut (&mut from).take(limit_bytes.saturating_mul(2)), &mut to)?;
    from.set_len(0)
}

/// The last lines of a log, from byte `start` on.
pub(crate) fn log_tail(path: &Path, start: u64) -> String {
    read_tail(path, start).unwrap_or_else(|error| format!("(the log cannot be read: {error})"))
}

fn read_tail(path: &Path, start: u64) -> io::Result<String> {
    let mut file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

/// Makes a folder and what is missing above it. Where another user has to pass
/// through, the new folders let everybody pass (and nobody list them).
pub(crate) fn create_passable(folder: &Path, run_as: Option<&RunAs>) -> io::Result<()> {
    let mut missing: Vec<&Path> = folder.ancestors().take_while(|step| !step.exists()).collect();
    missing.reverse();
    for step in missing {
        match fs::create_dir(step) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) if run_as.is_some() => fs::set_permissions(step, fs::Permissions::from_mode(0o711))?,
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Makes a folder that its owner alone can enter; it must not be there.
pub(crate) fn create_private(folder: &Path, run_as: Option<&RunAs>) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)?;
    crate::run_as::give(folder, run_as)
}

/// Removes a file, if it is there.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn give_file(file: &File, run_as: Option<&RunAs>) -> io::Result<()> {
    match run_as {
        Some(user) => fchown(file, Some(user.uid()), Some(user.gid())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_in_the_way_is_replaced_or_refused_and_never_followed() {
        let root = tempfile::tempdir().unwrap();
        let victim = root.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        for name in ["insula.conf", "insula.fresh", "server.log"] {
            symlink(&victim, root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("insula.conf"), "untouched").expect("canary: a plain write follows");
        replace_owned(&root.path().join("insula.conf"), b"new", None).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("insula.conf")).unwrap(), "new");
        assert!(open_log(&root.path().join("server.log"), None).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    }

    #[test]
    fn a_log_stays_bounded_while_it_is_written_to() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("server.log");
        let mut log = open_log(&path, None).unwrap();
        log.write_all(&[b'x'; 100]).unwrap();
        bound_log(&path, 100, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 100, "at the limit it stays");
        log.write_all(b"y").unwrap();
        bound_log(&path, 100, None).unwrap();
        log.write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(root.path().join("server.log.1")).unwrap().len(), 101);
    }

    #[test]
    fn the_tail_is_the_last_lines_since_a_place() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("server.log");
        fs::write(&path, (0..1000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        let tail = log_tail(&path, 0);
        assert_eq!((tail.lines().count(), tail.lines().last()), (TAIL_LINES, Some("line 999")));
        let length = fs::metadata(&path).unwrap().len();
        assert_eq!(log_tail(&path, length), "");
        assert!(log_tail(&root.path().join("none"), 0).contains("cannot be read"));
    }
}
