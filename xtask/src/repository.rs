//! The files of the repository: those that git tracks or would add.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A text file of ours.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Its path from the root, with `/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// How long a file of ours is, text or not.
#[derive(Debug, Clone)]
pub struct FileSize {
    /// Its path from the root, with `/`.
    pub path: String,
    /// In bytes.
    pub bytes: u64,
}

/// All files of the repository.
#[derive(Debug)]
pub struct Repository {
    root: PathBuf,
    files: Vec<SourceFile>,
    sizes: Vec<FileSize>,
}

impl Repository {
    /// The repository that this program was built from.
    pub fn here() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask is in a folder of the repository")?;
        Self::read(root)
    }

    /// Reads the files under a root.
    fn read(root: &Path) -> Result<Self> {
        let listed = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(root)
            .output()
            .context("git cannot be run")?;
        ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim());
        let (mut files, mut sizes) = (Vec::new(), Vec::new());
        for path in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|path| !path.is_empty()) {
            // A file that was deleted and not yet committed is listed too, and
            // what is not UTF-8 is no text.
            if let Ok(file) = std::fs::metadata(root.join(path)) {
                sizes.push(FileSize { path: path.to_owned(), bytes: file.len() });
            }
            if let Ok(text) = std::fs::read_to_string(root.join(path)) {
                files.push(SourceFile { path: path.to_owned(), text });
            }
        }
        ensure!(!files.is_empty(), "{} has no files", root.display());
        Ok(Self { root: root.to_owned(), files, sizes })
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The text files.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// How long all files are.
    pub fn sizes(&self) -> &[FileSize] {
        &self.sizes
    }
}
