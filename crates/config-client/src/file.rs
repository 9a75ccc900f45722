//! The last good values in a file, for a start while the server is away. It is
//! written beside and put in place at once, carries a checksum, and belongs to
//! one key and one choice of prefixes: a file of somebody else's is not read.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, digest};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::shared::Origin;
use crate::value::{Content, Large, Value};
use crate::view::View;

const FIRST_LINE: &str = "insula-config 1 ";

/// What is wrong with the file.
#[derive(Debug, Error)]
pub(crate) enum FileTrouble {
    #[error("{path} cannot be {done}: {source}")]
    Io { path: PathBuf, done: &'static str, source: io::Error },
    #[error("{path} is ignored: {why}")]
    Ignored { path: PathBuf, why: &'static str },
}

/// Where the values are kept, and whose they are.
#[derive(Debug, Clone)]
pub(crate) struct KeptFile {
    pub path: PathBuf,
    pub secrets: bool,
    pub whose: String,
    pub bytes_max: usize,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    whose: String,
    revision: i64,
    values: Vec<KeptValue>,
}

#[derive(Serialize, Deserialize)]
struct KeptValue {
    key: String,
    scope: String,
    version: i64,
    revision: i64,
    #[serde(flatten)]
    content: KeptContent,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeptContent {
    Json(String),
    Secret(#[serde(with = "in_clear")] Zeroizing<String>),
    Large { sha256: String, bytes: u64, media_type: String },
    Sealed(bool),
}

/// Secrets as text, wiped on both sides.
mod in_clear {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(text: &Zeroizing<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(from).map(Zeroizing::new)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What tells one client's file from another's, and gives nothing away.
pub(crate) fn whose(key: &str, scope: &str, prefixes: &[String]) -> String {
    let mut context = Context::new(&SHA256);
    for part in ["insula-config", key, scope].into_iter().chain(prefixes.iter().map(String::as_str)) {
        context.update(&part.len().to_le_bytes());
        context.update(part.as_bytes());
    }
    hex(context.finish().as_ref())
}

impl KeptFile {
    /// The last good values; none where there is no file.
    pub(crate) fn load(&self) -> Result<Option<View>, FileTrouble> {
        // The file has escapes and its own names besides the values.
        let bytes_max = self.bytes_max.saturating_mul(4) as u64;
        let mut text = Zeroizing::new(String::new());
        match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("opened", error)),
            Ok(file) => {
                file.take(bytes_max).read_to_string(&mut text).map_err(|error| self.io("read", error))?
            }
        };
        self.parse(&text).map(Some).map_err(|why| FileTrouble::Ignored { path: self.path.clone(), why })
    }

    fn parse(&self, text: &str) -> Result<View, &'static str> {
        let (first, body) = text.split_once('\n').ok_or("it is cut off")?;
        let sum = first.strip_prefix(FIRST_LINE).ok_or("it is of another kind")?;
        if sum != hex(digest(&SHA256, body.as_bytes()).as_ref()) {
            return Err("its checksum is wrong");
        }
        let kept: Kept = serde_json::from_str(body).map_err(|_| "it cannot be read")?;
        if kept.whose != self.whose {
            return Err("it was written with another key, scope or choice of prefixes");
        }
        let values: HashMap<_, _> = kept.values.into_iter().map(restored).collect();
        let view =
            View { generation: 1, revision: kept.revision, origin: Origin::Disk, values, ..View::default() };
        if view.memory_bytes() > self.bytes_max { Err("it has more than may be kept") } else { Ok(view) }
    }

    /// Puts the values in the place of those before, durably.
    pub(crate) fn save(&self, view: &View, random: u64) -> Result<(), FileTrouble> {
        let values = view.under("").iter().filter_map(|value| self.kept(value)).collect();
        let kept = Kept { whose: self.whose.clone(), revision: view.revision, values };
        let body = serde_json::to_string(&kept).map_err(|error| self.io("written", error.into()))?;
        let body = Zeroizing::new(body);
        let sum = hex(digest(&SHA256, body.as_bytes()).as_ref());
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{random:016x}.new"));
        let beside = self.path.with_file_name(name);
        let written = write_durably(&beside, &[FIRST_LINE, &sum, "\n", &body])
            .and_then(|()| std::fs::rename(&beside, &self.path))
            .and_then(|()| sync_folder(&self.path));
        written.map_err(|error| {
            let _ = std::fs::remove_file(&beside);
            self.io("written", error)
        })
    }

    fn kept(&self, value: &Value) -> Option<KeptValue> {
        let content = match &value.content {
            Content::Json(text) => KeptContent::Json(text.to_string()),
            Content::Secret(text) if self.secrets => KeptContent::Secret(text.clone()),
            Content::Secret(_) => return None,
            Content::Large(Large { sha256, bytes, media_type }) => {
                KeptContent::Large { sha256: sha256.clone(), bytes: *bytes, media_type: media_type.clone() }
            }
            Content::Sealed => KeptContent::Sealed(true),
        };
        let (key, scope) = (value.key.to_string(), value.scope.to_string());
        Some(KeptValue { key, scope, version: value.version, revision: value.revision, content })
    }

    fn io(&self, done: &'static str, source: io::Error) -> FileTrouble {
        FileTrouble::Io { path: self.path.clone(), done, source }
    }
}

fn restored(kept: KeptValue) -> (Arc<str>, Arc<Value>) {
    let content = match kept.content {
        KeptContent::Json(text) => Content::Json(text.into()),
        KeptContent::Secret(text) => Content::Secret(text),
        KeptContent::Large { sha256, bytes, media_type } => {
            Content::Large(Large { sha256, bytes, media_type })
        }
        KeptContent::Sealed(_) => Content::Sealed,
    };
    let key: Arc<str> = kept.key.into();
    let (scope, version, revision) = (kept.scope.into(), kept.version, kept.revision);
    (Arc::clone(&key), Arc::new(Value { key, scope, version, revision, content }))
}

fn write_durably(path: &Path, parts: &[&str]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    for part in parts {
        file.write_all(part.as_bytes())?;
    }
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, secrets: bool, key: &str) -> KeptFile {
        let path = folder.join("config");
        KeptFile { path, secrets, whose: whose(key, "", &["a".to_owned()]), bytes_max: 1 << 20 }
    }

    fn view() -> View {
        let value = |key: &str, content| {
            let key: Arc<str> = key.into();
            (
                Arc::clone(&key),
                Arc::new(Value { key, scope: "platform".into(), version: 3, revision: 8, content }),
            )
        };
        let large = Large { sha256: "ab".to_owned(), bytes: 9, media_type: "image/png".to_owned() };
        let values = HashMap::from([
            value("a/json", Content::Json("{\"x\":\"ü\"}".into())),
            value("a/secret", Content::Secret("\"hunter2\"".to_owned().into())),
            value("a/large", Content::Large(large)),
            value("a/sealed", Content::Sealed),
        ]);
        View { revision: 8, values, ..View::default() }
    }

    #[test]
    fn values_read_back_and_secrets_only_where_they_were_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        assert!(file(folder.path(), true, "k").load().unwrap().is_none());
        for (secrets, expected) in [(true, 4), (false, 3)] {
            let file = file(folder.path(), secrets, "k");
            file.save(&view(), u64::from(secrets)).unwrap();
            let read = file.load().unwrap().unwrap();
            assert_eq!((read.values.len(), read.revision, read.origin), (expected, 8, Origin::Disk));
            for value in read.values.values() {
                assert_eq!(Some(value), view().values.get(&value.key));
            }
            let text = std::fs::read_to_string(&file.path).unwrap();
            assert_eq!(text.contains("hunter2"), secrets);
        }
        let entries = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(entries, 1, "nothing is left beside it");
    }

    #[test]
    fn no_byte_of_it_can_change_unseen() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path(), true, "k");
        file.save(&view(), 1).unwrap();
        let good = std::fs::read(&file.path).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            std::fs::write(&file.path, &bad).unwrap();
            assert!(file.load().is_err(), "byte {position}");
            std::fs::write(&file.path, &good[..position]).unwrap();
            assert!(file.load().is_err(), "cut at {position}");
        }
        std::fs::write(&file.path, &good).unwrap();
        assert!(file.load().unwrap().is_some());
    }

    #[test]
    fn a_file_of_another_key_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        file(folder.path(), true, "mine").save(&view(), 1).unwrap();
        let trouble = file(folder.path(), true, "yours").load().unwrap_err();
        assert!(trouble.to_string().contains("another key"), "{trouble}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&folder.path().join("none"), true, "k");
        assert!(file.save(&view(), 1).unwrap_err().to_string().contains("cannot be written"));
    }
}
