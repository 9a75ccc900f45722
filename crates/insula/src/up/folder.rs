//! The data folder of `insula up`: one process at a time, and the secrets that
//! a restart must find again, each in a file that its owner alone can read.

use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use insula_credentials::{MasterKeys, OperatorToken, Secret};
use insula_domain::OsEntropy;
use nix::fcntl::{Flock, FlockArg};

use super::ready::Credentials;
use crate::offline::new_operator_token;
use crate::provisioner::write_whole;
use crate::serve::Operator;

/// The e-mail address of the local operator.
const EMAIL: &str = "operator@insula.test";

/// The folder, locked for as long as this lives.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    _lock: Flock<File>,
}

impl Folder {
    /// Opens the folder, or makes it. `fresh` throws away what is in it first.
    pub async fn open(root: &Path, fresh: bool) -> anyhow::Result<Self> {
        make(root)?;
        let lock_path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .with_context(|| lock_path.display().to_string())?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            nix::errno::Errno::EWOULDBLOCK => {
                anyhow!(
                    "another insula up runs on {}; stop it first, or give another --data-dir",
                    root.display()
                )
            }
            other => anyhow!("{}: {other}", lock_path.display()),
        })?;
        let root = root.canonicalize().with_context(|| root.display().to_string())?;
        let folder = Self { root, _lock: lock };
        if fresh {
            folder.empty().await?;
        }
        Ok(folder)
    }

    /// Leaves nothing behind of a folder that has no key yet: nothing was begun in it.
    pub fn leave_if_new(&self) {
        if !self.path("master.key").exists() {
            let _ = std::fs::remove_file(self.path("lock"));
            // Only an empty one goes.
            let _ = std::fs::remove_dir(&self.root);
        }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Removes the servers with their data, then the secrets. Anything that is
    /// not ours stays.
    async fn empty(&self) -> anyhow::Result<()> {
        for group in ["postgres", "clusters"] {
            let group = self.path(group);
            let Ok(entries) = std::fs::read_dir(&group) else { continue };
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    insula_local_postgres::remove(&path).await?;
                }
            }
            std::fs::remove_dir_all(&group).with_context(|| group.display().to_string())?;
        }
        for file in ["master.key", "operator.token", "operator.password", "ready.json", "client.toml"] {
            remove(&self.path(file))?;
        }
        Ok(())
    }

    /// The master keys, made at the first start.
    pub fn master_keys(&self) -> anyhow::Result<MasterKeys> {
        let text = self.secret("master.key", || MasterKeys::generate(&OsEntropy).to_text())?;
        MasterKeys::parse(text.expose()).with_context(|| self.path("master.key").display().to_string())
    }

    /// The local operator, made at the first start.
    pub fn operator(&self) -> anyhow::Result<(Operator, Credentials)> {
        let token = self.secret("operator.token", || new_operator_token(&OsEntropy).to_text())?;
        let password = self.secret("operator.password", || Secret::random(&OsEntropy))?;
        let parsed = OperatorToken::parse(token.expose().trim())
            .with_context(|| self.path("operator.token").display().to_string())?;
        let operator =
            Operator { email: EMAIL.to_owned(), token: parsed, password: Some(trimmed(&password)) };
        let credentials = Credentials { email: EMAIL, token: trimmed(&token), password: trimmed(&password) };
        Ok((operator, credentials))
    }

    /// A secret that is kept in a file.
    fn secret(&self, name: &str, make: impl FnOnce() -> Secret) -> anyhow::Result<Secret> {
        let path = self.path(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Secret::new(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let secret = make();
                write_whole(&path, secret.expose().as_bytes()).with_context(|| path.display().to_string())?;
                Ok(secret)
            }
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Removes the files that say that all is up.
    pub fn remove_ready(&self, other: Option<&Path>) {
        for path in [Some(self.path("ready.json")), other.map(Path::to_owned)].into_iter().flatten() {
            if let Err(error) = remove(&path) {
                tracing::warn!(%error, "the ready file stays");
            }
        }
    }
}

fn trimmed(secret: &Secret) -> Secret {
    Secret::new(secret.expose().trim().to_owned())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Makes the folder. As root, the servers run as another user, who has to get
/// through it to their data: it may be passed, and not be read.
fn make(root: &Path) -> anyhow::Result<()> {
    if root.exists() && !root.is_dir() {
        bail!("{} is not a folder", root.display());
    }
    if root.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(root).with_context(|| root.display().to_string())?;
    std::fs::set_permissions(root, Permissions::from_mode(0o711)).with_context(|| root.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_in_which_nothing_was_begun_is_left_as_it_was() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("new");
        let folder = Folder::open(&root, false).await.unwrap();
        let mode = std::fs::metadata(root.join("lock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        folder.leave_if_new();
        assert!(!root.exists());
        drop(folder);
        // One with something in it keeps that, and one with a key keeps everything.
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("mine"), "x").unwrap();
        Folder::open(&root, false).await.unwrap().leave_if_new();
        assert!(root.join("mine").exists() && !root.join("lock").exists());
        let folder = Folder::open(&root, false).await.unwrap();
        folder.master_keys().unwrap();
        folder.leave_if_new();
        assert!(root.join("lock").exists() && root.join("master.key").exists());
    }
}
