//! The store as a backend like the others: the one that keeps a tag's values
//! where nothing else is said, and from which they are brought to another. Its
//! writes go through the writer, and so have their place in the log.

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use insula_config_model::{
    Backend, BackendFault, BackendLimits, ConfigKey, ConfigValue, KEY_BYTES_MAX, KeyPrefix, Kind, Label,
    Made, NewVersion, OWN_BACKEND, Revision, Room, Scope, Stored, Sweep, Transaction, Version, Write,
    WriteOp, meaning, sealed_letters, sealed_text,
};
use insula_problem::{Code, Problem};
use tokio_postgres::types::ToSql;
use zeroize::Zeroizing;

use crate::line::{Line, Pace};
use crate::usage;
use crate::{ConfigStore, Writer};

/// The longest value that is no large one.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// How often a write is tried again because somebody else was faster.
const TRIES_MAX: usize = 64;

/// Bytes of the mark of a request.
const MARK_BYTES: usize = 8;

const MADE: &str =
    "select author, revision from config_versions where scope = $1 and key = $2 and version = $3";

const FORGET: [&str; 4] = [
    "delete from config_labels where scope = $1",
    "delete from config_values where scope = $1",
    "delete from config_versions where scope = $1",
    "delete from config_usage where scope = $1",
];

const TRIM: &str = "delete from config_versions v where v.scope = $1 and v.key = $2
    and v.version not in (select n.version from config_versions n where n.scope = $1 and n.key = $2
        order by n.version desc limit $3)
    and not exists (
        select from config_labels l where l.scope = v.scope and l.key = v.key and l.version = v.version)";

/// The store as a backend.
#[derive(Debug, Clone)]
pub struct Mirror {
    store: ConfigStore,
    writer: Writer,
}

impl Mirror {
    /// The tables of a store, written by this writer.
    #[must_use]
    pub fn new(store: ConfigStore, writer: Writer) -> Self {
        Self { store, writer }
    }

    async fn write_one(&self, write: Write, author: &str) -> Result<(), Problem> {
        let author = author.to_owned();
        self.writer
            .write(Transaction { writes: vec![write], token: None, author, tags: None, schemas: Vec::new() })
            .await
            .map(drop)
    }

    /// Whether a version is there as it is to be written; none where there is none.
    async fn has(&self, new: &NewVersion) -> Result<Option<bool>, BackendFault> {
        let there = self.version(&new.scope, &new.key, new.version).await?;
        Ok(there.map(|there| {
            let text = match &there.value {
                Some(ConfigValue::Json(text)) => Some(text.as_ref()),
                _ => None,
            };
            text == new.value.as_deref() && there.author == new.author
        }))
    }

    /// Does statements under the clock, so that no write is decided in between.
    async fn under_the_clock(
        &self,
        work: impl AsyncFnOnce(&Line) -> Result<u64, Problem>,
    ) -> Result<u64, Problem> {
        let line = Line::open(self.store.store, &self.store.connector, Pace::Patient).await?;
        let db = |error| line.problem(error);
        let locked = "begin; select revision from config_clock for update";
        line.client().batch_execute(locked).await.map_err(db)?;
        let done = work(&line).await?;
        line.client().batch_execute("commit").await.map_err(db)?;
        Ok(done)
    }
}

/// A value as a backend keeps it: text.
///
/// # Errors
/// Where it is a large one, which the store alone keeps.
pub fn backend_text(value: &ConfigValue) -> Result<Vec<u8>, Problem> {
    match value {
        ConfigValue::Json(text) => Ok(text.to_vec()),
        ConfigValue::Sealed(envelope) => Ok(sealed_text(&STANDARD.encode(envelope)).into_bytes()),
        ConfigValue::Blob(_) => Err(Problem::internal("a large value was given to a backend outside")),
        ConfigValue::Secret(_) => Err(Problem::internal("a secret was given to a backend in clear")),
    }
}

impl ConfigStore {
    /// What a backend's text is as a value of a tag. A secret that others have
    /// written is in clear, and to be sealed.
    #[must_use]
    pub fn value_of_text(
        &self,
        kind: Kind,
        (scope, key, version): (&Scope, &ConfigKey, Version),
        text: &[u8],
    ) -> ConfigValue {
        if kind != Kind::Secret {
            return ConfigValue::Json(meaning(text));
        }
        let envelope = sealed_letters(text).and_then(|letters| STANDARD.decode(letters).ok());
        let sealed = envelope.map(|envelope| ConfigValue::Sealed(Bytes::from(envelope)));
        // One that does not open here was copied from somewhere else.
        sealed
            .filter(|sealed| self.ambient.open(scope, key, version, sealed.clone()).is_ok())
            .unwrap_or_else(|| ConfigValue::Secret(Zeroizing::new(meaning(text).to_vec())))
    }

    /// The mark of a request: the same for each try under one token, and another
    /// for every other request.
    #[must_use]
    pub fn mark(&self, transaction: &Transaction) -> String {
        let mut bytes = [0; MARK_BYTES];
        let scope = transaction.writes.first().map(|write| write.scope.to_string());
        match (&transaction.token, scope) {
            (Some(token), Some(scope)) => {
                let request = format!("{scope}\0{}\0{token}", transaction.author);
                let whole = digest(&SHA256, request.as_bytes());
                bytes.iter_mut().zip(whole.as_ref()).for_each(|(byte, of)| *byte = *of);
            }
            _ => self.ambient.entropy.fill(&mut bytes),
        }
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The author of a version, with the mark of the request, and the change that
    /// made it.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn made(
        &self,
        (scope, key, version): (&Scope, &ConfigKey, Version),
    ) -> Result<Option<(String, Revision)>, Problem> {
        let of: [&(dyn ToSql + Sync); 3] = [&scope.to_string(), &key.as_str(), &version];
        let found = self.lines.query(MADE, &of).await?;
        Ok(found.first().map(|row| (row.get(0), row.get(1))))
    }
}

/// A version as every backend gives it.
fn as_text(stored: Stored) -> Result<Stored, BackendFault> {
    let text = stored.value.as_ref().map(backend_text).transpose().map_err(fault)?;
    Ok(Stored { revision: 0, value: text.map(|text| ConfigValue::Json(Bytes::from(text))), ..stored })
}

fn fault(problem: Problem) -> BackendFault {
    match problem.code() {
        Code::ConfigQuotaExceeded | Code::ConfigLabelInvalid => {
            BackendFault::Refused(problem.detail().to_owned())
        }
        _ => BackendFault::Away { backend: OWN_BACKEND.to_owned(), source: Box::new(problem) },
    }
}

#[async_trait]
impl Backend for Mirror {
    fn name(&self) -> &str {
        OWN_BACKEND
    }

    fn limits(&self) -> BackendLimits {
        BackendLimits {
            value_bytes_max: VALUE_BYTES_MAX,
            key_bytes_max: KEY_BYTES_MAX,
            versions_max: None,
            labels_max: None,
        }
    }

    async fn newest(&self, scope: &Scope, key: &ConfigKey) -> Result<Option<Stored>, BackendFault> {
        let found = self.store.newest(std::slice::from_ref(scope), key).await.map_err(fault)?;
        found.layers.into_iter().find_map(|layer| layer.stored).map(as_text).transpose()
    }

    async fn version(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Option<Stored>, BackendFault> {
        self.store.version(scope, key, version).await.map_err(fault)?.map(as_text).transpose()
    }

    async fn list(
        &self,
        scope: &Scope,
        prefix: &KeyPrefix,
        after: Option<&ConfigKey>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        let (mut listed, mut after) = (Vec::new(), after.cloned());
        while listed.len() < limit as usize {
            let missing = limit - u32::try_from(listed.len()).unwrap_or(limit);
            let of = std::slice::from_ref(scope);
            let page = self.store.list(of, prefix, after.as_ref(), missing).await.map_err(fault)?;
            let found = page.keys.into_iter().flat_map(|key| key.layers).filter_map(|layer| layer.stored);
            listed.extend(found.map(as_text).collect::<Result<Vec<_>, _>>()?);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(listed)
    }

    async fn history(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<Stored>, BackendFault> {
        let (mut history, mut before) = (Vec::new(), before);
        while history.len() < limit as usize {
            let missing = limit - u32::try_from(history.len()).unwrap_or(limit);
            let page = self.store.history(scope, key, before, missing).await.map_err(fault)?;
            history.extend(page.versions.into_iter().map(as_text).collect::<Result<Vec<_>, _>>()?);
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        Ok(history)
    }

    async fn write(&self, new: &NewVersion, expected: Version) -> Result<(), BackendFault> {
        if new.value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
            let told = format!("{OWN_BACKEND} holds values of {VALUE_BYTES_MAX} bytes");
            return Err(BackendFault::Refused(told));
        }
        for _ in 0..TRIES_MAX {
            // The newest is looked at last: it is what a conflict is told with.
            let has = self.has(new).await?;
            let newest = self.newest(&new.scope, &new.key).await?.map_or(0, |newest| newest.version);
            match has {
                Some(true) => return Ok(()),
                None if newest == expected && new.version > expected => {}
                // It may have come between the two looks.
                None if self.has(new).await? == Some(true) => return Ok(()),
                _ => return Err(BackendFault::Conflict { newest, expected }),
            }
            let value = new.value.clone().map(|text| ConfigValue::Json(Bytes::from(text)));
            let op = value.clone().map_or(WriteOp::Remove, WriteOp::Put);
            let write = Write {
                scope: new.scope.clone(),
                key: new.key.clone(),
                op,
                if_version: None,
                note: new.note.clone(),
                history: u32::MAX,
                is_secret: false,
                room: Room::Usual,
                made: Some(Made { version: new.version, value, at: Some(new.at), behind: Some(expected) }),
            };
            match self.write_one(write, &new.author).await {
                Ok(()) => return Ok(()),
                Err(problem) if problem.code() == Code::ConfigVersionConflict => {}
                Err(problem) => return Err(fault(problem)),
            }
        }
        let source = "others kept writing in between".into();
        Err(BackendFault::Away { backend: OWN_BACKEND.to_owned(), source })
    }

    async fn label(
        &self,
        scope: &Scope,
        key: &ConfigKey,
        label: &Label,
        version: Option<Version>,
    ) -> Result<(), BackendFault> {
        let write = Write {
            scope: scope.clone(),
            key: key.clone(),
            op: WriteOp::Label(label.clone(), version),
            if_version: None,
            note: String::new(),
            history: u32::MAX,
            is_secret: false,
            room: Room::Usual,
            made: None,
        };
        match (self.write_one(write, OWN_BACKEND).await, version) {
            (Ok(()), _) => Ok(()),
            (Err(problem), None) if problem.code() == Code::ConfigKeyNotFound => Ok(()),
            (Err(problem), Some(version))
                if [Code::ConfigKeyNotFound, Code::ConfigVersionNotFound].contains(&problem.code()) =>
            {
                Err(BackendFault::NoVersion(version))
            }
            (Err(problem), _) => Err(fault(problem)),
        }
    }

    async fn trim(&self, scope: &Scope, key: &ConfigKey, keep: u32) -> Result<u32, BackendFault> {
        let (scope, keep) = (scope.to_string(), i64::from(keep.max(1)));
        let trimmed = self.under_the_clock(async |line| {
            let db = |error| line.problem(error);
            let dropped = line.client().execute(TRIM, &[&scope, &key.as_str(), &keep]).await.map_err(db)?;
            line.client().execute(usage::COUNT, &[&scope]).await.map_err(db)?;
            Ok(dropped)
        });
        Ok(u32::try_from(trimmed.await.map_err(fault)?).unwrap_or(u32::MAX))
    }

    async fn forget(&self, scope: &Scope) -> Result<(), BackendFault> {
        let scope = scope.to_string();
        let forgotten = self.under_the_clock(async |line| {
            let mut count = 0;
            for sql in FORGET {
                count += line.client().execute(sql, &[&scope]).await.map_err(|error| line.problem(error))?;
            }
            Ok(count)
        });
        forgotten.await.map(drop).map_err(fault)
    }

    fn place_of(&self, _: &str) -> Option<(Scope, ConfigKey)> {
        None
    }

    async fn sweep(&self, from: Option<&str>, limit: u32) -> Result<Sweep, BackendFault> {
        let invalid = || BackendFault::Refused("the place to go on from is none of ours".to_owned());
        let after = match from {
            Some(from) => {
                let (scope, key) = from.split_once('\n').ok_or_else(invalid)?;
                Some((scope.parse().map_err(|_| invalid())?, key.parse().map_err(|_| invalid())?))
            }
            None => None,
        };
        let everything: KeyPrefix = "".parse().map_err(|_| invalid())?;
        let held = self.store.held(&everything, after.as_ref(), limit).await.map_err(fault)?;
        let is_full = held.len() >= limit as usize;
        let next = held.last().filter(|_| is_full).map(|last| format!("{}\n{}", last.scope, last.key));
        Ok(Sweep { held, next })
    }
}
