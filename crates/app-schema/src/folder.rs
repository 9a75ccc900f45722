//! An app schema as it lies in a folder: numbered SQL files, one a version.
//! Reads them, says what is wrong with them, and compares them with the
//! versions that were applied before.

use aws_lc_rs::digest;
use insula_domain::SchemaVersion;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The largest file, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// The most that all files may have together, in bytes.
pub const MAX_TOTAL_BYTES: usize = 16 << 20;
/// The highest version: file names have four digits.
pub const MAX_VERSION: i32 = 9_999;

/// One version of an app schema, as its developer wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// The number in the file name.
    pub version: SchemaVersion,
    /// What stands between the number and `.sql`.
    pub name: String,
    /// The text, without a byte order mark and with Unix line ends.
    pub sql: String,
    /// SHA-256 of the text, in lower-case hexadecimal.
    pub sha256: String,
}

impl Migration {
    /// A version from its text.
    #[must_use]
    pub fn new(version: SchemaVersion, name: &str, sql: &str) -> Self {
        let sql = sql.strip_prefix('\u{feff}').unwrap_or(sql).replace("\r\n", "\n");
        let hash = digest::digest(&digest::SHA256, sql.as_bytes());
        Self { version, name: name.to_owned(), sha256: hex(hash.as_ref()), sql }
    }

    /// The file name: `0001_init.sql`.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{:04}_{}.sql", self.version.0, self.name)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A version that was applied before, as the catalog remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedVersion {
    /// The version.
    pub version: SchemaVersion,
    /// SHA-256 of its text, in lower-case hexadecimal.
    pub sha256: String,
}

/// What is wrong with a folder.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FolderError {
    /// There is no migration in it.
    #[error("the folder holds no migration: files are named like 0001_init.sql")]
    Empty,
    /// A `.sql` file is not named as a migration.
    #[error(
        "{file}: a migration is named by four digits, an underscore and a name of letters, digits, '_' and '-': 0001_init.sql"
    )]
    BadName {
        /// The file.
        file: String,
    },
    /// Two files have the same number.
    #[error("{first} and {second} have the same number")]
    DoubleNumber {
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// A number is missing.
    #[error(
        "version {missing:04} is missing: {file} comes after it, and numbers go up from 0001 without a gap"
    )]
    Gap {
        /// The first number that is missing.
        missing: i32,
        /// The file after the gap.
        file: String,
    },
    /// A file has no text.
    #[error("{file} is empty")]
    EmptyFile {
        /// The file.
        file: String,
    },
    /// A file is not UTF-8.
    #[error("{file}, line {line}: not UTF-8")]
    NotUtf8 {
        /// The file.
        file: String,
        /// The line of the first wrong byte, from 1.
        line: usize,
    },
    /// A file has a zero byte, which PostgreSQL cannot hold.
    #[error("{file}, line {line}: a zero byte")]
    ZeroByte {
        /// The file.
        file: String,
        /// The line of the first one, from 1.
        line: usize,
    },
    /// A file is too large.
    #[error("{file} has {bytes} bytes: a migration may have {MAX_FILE_BYTES}")]
    FileTooLarge {
        /// The file.
        file: String,
        /// Its size.
        bytes: usize,
    },
    /// All files together are too large.
    #[error("the migrations have {bytes} bytes: all together may have {MAX_TOTAL_BYTES}")]
    TooLarge {
        /// Their size.
        bytes: usize,
    },
}

/// How a folder does not continue what was applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HistoryError {
    /// A version that was applied has another text now.
    #[error("{file} has changed since it was applied: write a new version instead")]
    Changed {
        /// The file.
        file: String,
    },
    /// The folder ends before the newest version that was applied.
    #[error("version {applied} was applied, but the folder ends with version {folder}")]
    Behind {
        /// The newest version that was applied.
        applied: SchemaVersion,
        /// The newest version in the folder.
        folder: SchemaVersion,
    },
}

/// The versions of an app schema, 1 first, without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSchema {
    migrations: Vec<Migration>,
}

impl AppSchema {
    /// Reads the files of a folder: names with their contents, in any order.
    /// Files whose name does not end with `.sql` are passed over.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn from_files(files: Vec<(String, Vec<u8>)>) -> Result<Self, FolderError> {
        let mut files: Vec<_> = files.into_iter().filter(|(name, _)| name.ends_with(".sql")).collect();
        files.sort();
        let total = files.iter().map(|(_, bytes)| bytes.len()).sum();
        if total > MAX_TOTAL_BYTES {
            return Err(FolderError::TooLarge { bytes: total });
        }
        let mut migrations: Vec<Migration> = Vec::with_capacity(files.len());
        for (file, bytes) in files {
            let (version, name) = parse_name(&file).ok_or_else(|| bad_name(&file))?;
            let last = migrations.last();
            let expected = last.map_or(1, |migration| migration.version.0 + 1);
            if version < expected {
                let first = last.map_or_else(String::new, Migration::file_name);
                return Err(if version == 0 {
                    bad_name(&file)
                } else {
                    FolderError::DoubleNumber { first, second: file }
                });
            }
            if version > expected {
                return Err(FolderError::Gap { missing: expected, file });
            }
            let text = text_of(&file, &bytes)?;
            migrations.push(Migration::new(SchemaVersion(version), &name, text));
        }
        if migrations.is_empty() {
            return Err(FolderError::Empty);
        }
        Ok(Self { migrations })
    }

    /// All versions, 1 first.
    #[must_use]
    pub fn migrations(&self) -> &[Migration] {
        &self.migrations
    }

    /// The newest version.
    #[must_use]
    pub fn version(&self) -> SchemaVersion {
        self.migrations.last().map_or(SchemaVersion(0), |migration| migration.version)
    }

    /// The versions that come after what was applied (given with 1 first and
    /// without a gap).
    ///
    /// # Errors
    /// Where an applied version has another text now, or is missing here.
    pub fn pending(&self, applied: &[AppliedVersion]) -> Result<&[Migration], HistoryError> {
        if applied.len() > self.migrations.len() {
            let newest = applied.last().map_or(SchemaVersion(0), |version| version.version);
            return Err(HistoryError::Behind { applied: newest, folder: self.version() });
        }
        for (migration, before) in self.migrations.iter().zip(applied) {
            if migration.sha256 != before.sha256 {
                return Err(HistoryError::Changed { file: migration.file_name() });
            }
        }
        Ok(&self.migrations[applied.len()..])
    }
}

fn bad_name(file: &str) -> FolderError {
    FolderError::BadName { file: file.chars().take(120).collect() }
}

fn parse_name(file: &str) -> Option<(i32, String)> {
    let stem = file.strip_suffix(".sql")?;
    let (digits, name) = stem.split_once('_')?;
    let named = !name.is_empty()
        && name.len() <= 100
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let numbered = digits.len() == 4 && digits.chars().all(|c| c.is_ascii_digit());
    (named && numbered).then_some((digits.parse().ok()?, name.to_owned()))
}

fn text_of<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, FolderError> {
    let file = || file.to_owned();
    let line_at = |offset: usize| bytes[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(FolderError::FileTooLarge { file: file(), bytes: bytes.len() });
    }
    if let Some(zero) = bytes.iter().position(|byte| *byte == 0) {
        return Err(FolderError::ZeroByte { file: file(), line: line_at(zero) });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| FolderError::NotUtf8 { file: file(), line: line_at(error.valid_up_to()) })?;
    if text.trim().is_empty() {
        return Err(FolderError::EmptyFile { file: file() });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &[u8])]) -> Result<AppSchema, FolderError> {
        AppSchema::from_files(
            files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect(),
        )
    }

    #[test]
    fn files_are_taken_in_order_and_others_passed_over() {
        let schema =
            read(&[("0002_b.sql", b"b"), ("README.md", b"x"), ("0001_a-1.sql", b"\xef\xbb\xbfa\r\nc")])
                .unwrap();
        let [first, second] = schema.migrations() else { panic!("two") };
        assert_eq!((first.version.0, first.name.as_str(), first.sql.as_str()), (1, "a-1", "a\nc"));
        assert_eq!(second.file_name(), "0002_b.sql");
        assert_eq!(schema.version(), SchemaVersion(2));
        // sha256sum of the three bytes "a\nc", from coreutils.
        assert_eq!(first.sha256, "9e58d7137c654f526a7a7c9cbab79c2e859b4dfbb579d1d6dd3aa4113a8a909b");
    }

    #[test]
    fn each_thing_that_is_wrong_has_its_own_words() {
        type Case<'a> = (&'a [(&'a str, &'a [u8])], &'a str);
        let large = vec![b'x'; MAX_FILE_BYTES + 1];
        let large: &[u8] = &large;
        let cases: [Case<'_>; 13] = [
            (&[], "no migration"),
            (&[("notes.txt", b"x")], "no migration"),
            (&[("1_a.sql", b"x")], "1_a.sql: a migration is named"),
            (&[("0000_a.sql", b"x")], "0000_a.sql: a migration is named"),
            (&[("0001_.sql", b"x")], "is named by four digits"),
            (&[("0001_a b.sql", b"x")], "is named by four digits"),
            (&[("00001_a.sql", b"x")], "is named by four digits"),
            (&[("0001_a.sql", b"x"), ("0001_b.sql", b"y")], "0001_a.sql and 0001_b.sql have the same number"),
            (&[("0002_a.sql", b"x")], "version 0001 is missing: 0002_a.sql comes after it"),
            (&[("0001_a.sql", b"x"), ("0003_a.sql", b"x")], "version 0002 is missing"),
            (&[("0001_a.sql", b" \n ")], "0001_a.sql is empty"),
            (&[("0001_a.sql", b"a\nb\xff")], "0001_a.sql, line 2: not UTF-8"),
            (&[("0001_a.sql", large)], "has 1048577 bytes"),
        ];
        for (files, expected) in cases {
            let error = read(files).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let zero = read(&[("0001_a.sql", b"a\n\0")]).unwrap_err();
        assert_eq!(zero, FolderError::ZeroByte { file: "0001_a.sql".to_owned(), line: 2 });
    }

    #[test]
    fn what_was_applied_must_be_unchanged() {
        let schema = read(&[("0001_a.sql", b"a"), ("0002_b.sql", b"b")]).unwrap();
        let applied = |index: usize| AppliedVersion {
            version: schema.migrations()[index].version,
            sha256: schema.migrations()[index].sha256.clone(),
        };
        assert_eq!(schema.pending(&[]).unwrap().len(), 2);
        assert_eq!(schema.pending(&[applied(0)]).unwrap()[0].name, "b");
        assert!(schema.pending(&[applied(0), applied(1)]).unwrap().is_empty());

        let other = AppliedVersion { sha256: "00".to_owned(), ..applied(0) };
        let error = schema.pending(&[other]).unwrap_err();
        assert_eq!(error, HistoryError::Changed { file: "0001_a.sql".to_owned() });
        let third = AppliedVersion { version: SchemaVersion(3), sha256: String::new() };
        let error = schema.pending(&[applied(0), applied(1), third]).unwrap_err();
        assert_eq!(error, HistoryError::Behind { applied: SchemaVersion(3), folder: SchemaVersion(2) });
    }
}
