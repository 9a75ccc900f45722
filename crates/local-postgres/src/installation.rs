//! Finding PostgreSQL on this machine: the folder that somebody named, else
//! the newest of what PATH, Debian's, Red Hat's and Homebrew's folders have.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::command::{postgres_command, run_bounded};
use crate::version::Version;

/// The oldest major version that Insula works with.
pub const OLDEST_MAJOR: u32 = 15;

const PROGRAMS: [&str; 2] = ["postgres", "initdb"];
const VERSION_LIMIT: Duration = Duration::from_secs(5);

/// PostgreSQL's programs in a folder, and their version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    bin_dir: PathBuf,
    version: Version,
}

impl Installation {
    /// Looks in `explicit` alone where it is given (what the user set as
    /// `INSULA_PG_BIN`; the folder of the programs, or the one above its
    /// `bin`), else everywhere, and takes the newest release.
    ///
    /// # Errors
    /// [`FindError`] says where it looked, what it found there, and what to
    /// install.
    pub fn find(explicit: Option<&Path>) -> Result<Self, FindError> {
        Self::find_in(&Places::of_this_machine(explicit))
    }

    /// Looks in these places.
    ///
    /// # Errors
    /// As [`Installation::find`].
    pub fn find_in(places: &Places) -> Result<Self, FindError> {
        let mut found: Vec<Self> = Vec::new();
        let mut refused = Vec::new();
        for folder in places.folders() {
            match look(&folder) {
                None => {}
                Some(Ok(installation)) => found.push(installation),
                Some(Err(why)) => refused.push(Looked { folder, why }),
            }
        }
        // The first of equals: what was named earlier.
        let newest = found.into_iter().rev().max_by(|a, b| a.version.cmp(&b.version));
        newest.ok_or_else(|| FindError {
            explicit: places.explicit.clone(),
            looked_in: places.described(),
            refused,
        })
    }

    /// The folder of the programs.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The version of the programs.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The path of a program, such as `pg_dump`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

/// Where to look for PostgreSQL.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The folder that the user named; then nothing else is looked at.
    pub explicit: Option<PathBuf>,
    /// The value of PATH.
    pub path: Option<OsString>,
    /// Folders whose entries are one installation each, and how the names of
    /// those entries begin.
    pub families: Vec<(PathBuf, &'static str)>,
}

impl Places {
    /// The places of this machine. The one place that reads PATH.
    #[must_use]
    pub fn of_this_machine(explicit: Option<&Path>) -> Self {
        Self {
            explicit: explicit.map(Path::to_path_buf),
            path: std::env::var_os("PATH"),
            families: vec![
                ("/usr/lib/postgresql".into(), ""),
                ("/usr".into(), "pgsql-"),
                ("/opt/homebrew/opt".into(), "postgresql"),
                ("/usr/local/opt".into(), "postgresql"),
            ],
        }
    }

    /// Every folder to look at, once, in the order of preference.
    fn folders(&self) -> Vec<PathBuf> {
        if let Some(explicit) = &self.explicit {
            return vec![explicit.clone(), explicit.join("bin")];
        }
        let path = self.path.iter().flat_map(std::env::split_paths).filter(|folder| folder.is_absolute());
        let families = self.families.iter().flat_map(|(parent, prefix)| members(parent, prefix));
        let mut seen = BTreeSet::new();
        path.chain(families).filter(|folder| seen.insert(folder.clone())).collect()
    }

    fn described(&self) -> Vec<String> {
        if let Some(explicit) = &self.explicit {
            return vec![explicit.display().to_string()];
        }
        let families =
            self.families.iter().map(|(parent, prefix)| format!("{}/{prefix}*/bin", parent.display()));
        std::iter::once("the folders of PATH".to_owned()).chain(families).collect()
    }
}

fn members(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join("bin"))
        .filter(|folder| folder.is_dir())
        .collect();
    folders.sort();
    folders
}

/// What is in a folder: nothing of PostgreSQL's, an installation, or something
/// that cannot be used and why.
fn look(folder: &Path) -> Option<Result<Installation, String>> {
    if !folder.join("postgres").is_file() {
        return None;
    }
    Some(examine(folder))
}

fn examine(folder: &Path) -> Result<Installation, String> {
    if let Some(missing) = PROGRAMS.iter().find(|program| !folder.join(program).is_file()) {
        return Err(format!("`{missing}` is missing"));
    }
    let mut command = postgres_command(folder.join("postgres"), None);
    command.arg("--version");
    let outcome = run_bounded(command, VERSION_LIMIT)
        .map_err(|error| format!("`postgres --version` cannot be run: {error}"))?;
    let version = Version::parse(&outcome.stdout)
        .filter(|_| outcome.success())
        .ok_or_else(|| "`postgres --version` does not print a version".to_owned())?;
    if version.major() < OLDEST_MAJOR {
        return Err(format!("PostgreSQL {version} is too old"));
    }
    Ok(Installation { bin_dir: folder.to_path_buf(), version })
}

/// A folder with something of PostgreSQL's in it that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The folder.
    pub folder: PathBuf,
    /// Why it cannot be used.
    pub why: String,
}

/// There is no usable PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct FindError {
    /// The folder that the user named, if any.
    pub explicit: Option<PathBuf>,
    /// Where it was looked for, in words.
    pub looked_in: Vec<String>,
    /// What was found and cannot be used.
    pub refused: Vec<Looked>,
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "No PostgreSQL {OLDEST_MAJOR} or newer was found.")?;
        writeln!(f, "Looked in: {}", self.looked_in.join(", "))?;
        for looked in &self.refused {
            writeln!(f, "Not usable: {}: {}", looked.folder.display(), looked.why)?;
        }
        if self.explicit.is_some() {
            return write!(
                f,
                "INSULA_PG_BIN must name the folder that holds `postgres` and `initdb`, \
                 such as /usr/lib/postgresql/15/bin; without it Insula looks by itself."
            );
        }
        write!(
            f,
            "Install it: on Debian and Ubuntu `apt-get install postgresql` (the package postgresql-15 or \
             newer), with Homebrew `brew install postgresql@17`. Or let INSULA_PG_BIN name the folder that \
             holds `postgres` and `initdb`."
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn fake(folder: &Path, version: &str) {
        fs::create_dir_all(folder).unwrap();
        for program in PROGRAMS {
            let path = folder.join(program);
            fs::write(&path, format!("#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn places(root: &Path) -> Places {
        Places {
            explicit: None,
            path: Some(std::env::join_paths([root.join("path"), PathBuf::from("relative")]).unwrap()),
            families: vec![(root.join("debian"), ""), (root.join("brew"), "postgresql")],
        }
    }

    #[test]
    fn the_newest_release_is_taken_wherever_it_stands() {
        let root = tempfile::tempdir().unwrap();
        fake(&root.path().join("path"), "15.2");
        fake(&root.path().join("debian/13/bin"), "13.4");
        fake(&root.path().join("debian/16/bin"), "16.1 (Debian 16.1-1)");
        fake(&root.path().join("brew/postgresql@17/bin"), "17.0");
        fake(&root.path().join("brew/postgresql@19/bin"), "19beta1");
        fake(&root.path().join("brew/other/bin"), "18.0");
        let found = Installation::find_in(&places(root.path())).unwrap();
        assert_eq!(found.bin_dir(), root.path().join("brew/postgresql@17/bin"));
        assert_eq!(found.version().as_str(), "17.0");
        assert_eq!(found.program("pg_dump"), root.path().join("brew/postgresql@17/bin/pg_dump"));
    }

    #[test]
    fn of_equals_the_one_in_path_is_taken() {
        let root = tempfile::tempdir().unwrap();
        fake(&root.path().join("debian/16/bin"), "16.1");
        fake(&root.path().join("path"), "16.1");
        let found = Installation::find_in(&places(root.path())).unwrap();
        assert_eq!(found.bin_dir(), root.path().join("path"));
    }

    #[test]
    fn a_named_folder_is_the_only_one_looked_at() {
        let root = tempfile::tempdir().unwrap();
        fake(&root.path().join("debian/17/bin"), "17.1");
        fake(&root.path().join("mine/bin"), "15.1");
        let mut places = places(root.path());
        for named in ["mine", "mine/bin"] {
            places.explicit = Some(root.path().join(named));
            let found = Installation::find_in(&places).unwrap();
            assert_eq!(found.version().as_str(), "15.1", "{named}");
        }
        places.explicit = Some(root.path().join("empty"));
        let text = Installation::find_in(&places).unwrap_err().to_string();
        assert!(text.contains("/empty\n") && text.contains("INSULA_PG_BIN"), "{text}");
    }

    #[test]
    fn the_error_says_what_was_seen_and_what_to_install() {
        let root = tempfile::tempdir().unwrap();
        fake(&root.path().join("debian/13/bin"), "13.4");
        fake(&root.path().join("debian/15/bin"), "15.1");
        fs::remove_file(root.path().join("debian/15/bin/initdb")).unwrap();
        fake(&root.path().join("debian/broken/bin"), "");
        let text = Installation::find_in(&places(root.path())).unwrap_err().to_string();
        for part in [
            "No PostgreSQL 15 or newer",
            "the folders of PATH",
            "debian/*/bin",
            "debian/13/bin: PostgreSQL 13.4 is too old",
            "debian/15/bin: `initdb` is missing",
            "debian/broken/bin: `postgres --version` does not print a version",
            "apt-get install postgresql",
            "postgresql-15 or newer",
            "INSULA_PG_BIN",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
}
