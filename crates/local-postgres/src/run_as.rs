//! The user that PostgreSQL runs as. It refuses root, so a server that root
//! starts belongs to the user `postgres`, else `nobody`, and that user must be
//! able to reach its data folder and the programs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Uid, User};

use crate::command::{postgres_command, run_bounded};
use crate::error::StartError;

const CANDIDATES: [&str; 2] = ["postgres", "nobody"];
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// Prints the first of its arguments that the user cannot pass, if any. Asked
/// of the system and not worked out from mode bits, so that access lists count.
const FIRST_BLOCKED: &str = r#"for step; do test -x "$step" || { printf %s "$step"; exit 0; }; done"#;

/// An unprivileged user, for root to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunAs {
    name: String,
    uid: u32,
    gid: u32,
}

impl RunAs {
    /// Whom to run a server in this folder as: `None` is ourselves, since we
    /// are not root. A folder that an ordinary user made stays that user's.
    pub(crate) fn for_folder(data_dir: &Path) -> Result<Option<Self>, StartError> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let owner = fs::metadata(data_dir.join("PG_VERSION")).ok().map(|file| Uid::from_raw(file.uid()));
        let user = match owner.filter(|owner| !owner.is_root()) {
            Some(owner) => User::from_uid(owner).ok().flatten(),
            None => CANDIDATES.iter().find_map(|name| User::from_name(name).ok().flatten()),
        };
        let user = user.ok_or(StartError::NoUnprivilegedUser)?;
        Ok(Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// The user's id.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// The user's main group's id.
    pub(crate) fn gid(&self) -> u32 {
        self.gid
    }

    /// Checks that the user can enter every folder down to `wanted`.
    pub(crate) fn check_reach(&self, wanted: &Path) -> Result<(), StartError> {
        match self.first_blocked(wanted).map_err(StartError::io("check the way to", wanted))? {
            None => Ok(()),
            Some(blocked) => Err(StartError::Unreachable {
                user: self.name.clone(),
                blocked,
                wanted: wanted.to_path_buf(),
            }),
        }
    }

    fn first_blocked(&self, wanted: &Path) -> io::Result<Option<PathBuf>> {
        let mut steps: Vec<&Path> = wanted.ancestors().collect();
        steps.reverse();
        let mut command = postgres_command("/bin/sh", Some(self));
        command.args(["-c", FIRST_BLOCKED, "sh"]).args(steps);
        let outcome = run_bounded(command, CHECK_LIMIT)?;
        Ok((!outcome.stdout.is_empty()).then(|| outcome.stdout.into()))
    }
}

/// Gives a file or folder to the user, where there is one to give it to.
pub(crate) fn give(path: &Path, run_as: Option<&RunAs>) -> io::Result<()> {
    match run_as {
        Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_folder_that_blocks_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        let Some(user) = RunAs::for_folder(root.path()).unwrap() else {
            return; // Only root becomes somebody else.
        };
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let wanted = root.path().join("a/b/c");
        fs::create_dir_all(&wanted).unwrap();
        open(root.path(), 0o711);
        user.check_reach(&wanted).expect("canary: open folders are passed");

        open(&root.path().join("a/b"), 0o700);
        let error = user.check_reach(&wanted).unwrap_err();
        assert!(
            matches!(&error, StartError::Unreachable { blocked, .. } if *blocked == root.path().join("a/b"))
        );
        let text = error.to_string();
        assert!(text.contains(&user.name) && text.contains("chmod a+x"), "{text}");
    }

    #[test]
    fn a_folder_that_a_user_made_stays_that_users() {
        let root = tempfile::tempdir().unwrap();
        let Some(default) = RunAs::for_folder(root.path()).unwrap() else {
            return;
        };
        assert!(CANDIDATES.contains(&default.name.as_str()));
        fs::write(root.path().join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(RunAs::for_folder(root.path()).unwrap(), Some(default), "root's own file changes nothing");
        let daemon = User::from_name("daemon").unwrap().unwrap();
        std::os::unix::fs::chown(root.path().join("PG_VERSION"), Some(daemon.uid.as_raw()), None).unwrap();
        assert_eq!(RunAs::for_folder(root.path()).unwrap().unwrap().uid(), daemon.uid.as_raw());
    }
}
