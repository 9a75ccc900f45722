//! Where a server's Unix socket is: in the data folder, or, where that path
//! would be too long for a socket address, in a short folder of its own.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::data_folder;
use crate::error::StartError;
use crate::files::create_private;
use crate::run_as::RunAs;

/// `sun_path` without its final zero: 107 bytes on Linux, 103 on macOS.
const LONGEST_PATH: usize = 103;

/// What PostgreSQL adds to the folder: `/.s.PGSQL.65535`, and `.lock` for the
/// file beside the socket is longer, but no socket.
const LONGEST_NAME: usize = "/.s.PGSQL.65535".len();

/// The folder in which the socket of the server in `data_dir` is while it runs.
/// The data folder need not be there yet.
///
/// # Errors
/// Where the way to the data folder cannot be followed.
pub fn place(data_dir: &Path) -> io::Result<PathBuf> {
    Ok(place_of_canonical(&data_folder::canonical(&std::path::absolute(data_dir)?)?))
}

/// [`place`], where the path has no links.
pub(crate) fn place_of_canonical(data_dir: &Path) -> PathBuf {
    if fits(data_dir) { data_dir.to_path_buf() } else { short_folder(data_dir) }
}

/// The folder for the socket of the server in `data_dir`; made where it is not
/// the data folder itself.
pub(crate) fn folder(data_dir: &Path, run_as: Option<&RunAs>) -> Result<PathBuf, StartError> {
    let short = place_of_canonical(data_dir);
    if short == data_dir {
        return Ok(short);
    }
    match create_private(&short, run_as) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_ours(&short, run_as),
        made => made,
    }
    .map_err(StartError::io("make the folder for the socket", &short))?;
    Ok(short)
}

/// Removes what [`folder`] made, if it made something. For when no server runs
/// in the data folder; a failure costs an empty folder in `/tmp`.
pub(crate) fn remove(data_dir: &Path) {
    if !fits(data_dir) {
        let _ = std::fs::remove_dir_all(short_folder(data_dir));
    }
}

/// A short folder for this data folder, always the same.
fn short_folder(data_dir: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    data_dir.hash(&mut hasher);
    Path::new("/tmp").join(format!("insula-{:016x}", hasher.finish()))
}

fn fits(folder: &Path) -> bool {
    let bytes = folder.as_os_str().as_encoded_bytes();
    // A comma would part the setting into two folders, and what is no UTF-8
    // cannot stand in a URL.
    bytes.len() + LONGEST_NAME <= LONGEST_PATH && !bytes.contains(&b',') && folder.to_str().is_some()
}

/// Everybody can make folders in `/tmp`: one that is not the server's own and
/// private might be a trap.
fn check_ours(folder: &Path, run_as: Option<&RunAs>) -> io::Result<()> {
    let owner = run_as.map_or_else(|| nix::unistd::geteuid().as_raw(), RunAs::uid);
    let found = std::fs::symlink_metadata(folder)?;
    if found.is_dir() && found.uid() == owner && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is there and is not the server's own"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_short_path_is_used_and_a_long_one_replaced() {
        let short = Path::new("/srv/insula/pg/catalog");
        assert_eq!(folder(short, None).unwrap(), short);
        let long = PathBuf::from(format!("/srv/{}", "x".repeat(100)));
        let replaced = folder(&long, None).unwrap();
        assert!(fits(&replaced));
        assert_eq!(folder(&long, None).unwrap(), replaced, "a second time it is there already");
        fs::set_permissions(&replaced, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(folder(&long, None).is_err(), "what everybody may write to is not taken");
        remove(&long);
        assert!(!replaced.exists());
        remove(short);
    }

    #[test]
    fn the_place_is_known_before_the_server_runs_and_without_links() {
        let root = tempfile::tempdir().unwrap();
        let canonical = root.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&canonical, canonical.join("link")).unwrap();
        assert_eq!(place(&canonical.join("link/pg")).unwrap(), canonical.join("pg"));
        let long = canonical.join("x".repeat(100));
        assert_eq!(place(&long).unwrap(), short_folder(&long));
        assert!(place(Path::new("/nowhere/at/all")).is_err());
    }
}
