//! Writing: what a caller asks for becomes a transaction of the store that has
//! the scope, once it was checked.

use bytes::Bytes;
use insula_config_model::{
    ConfigValue, Kind, Limits, Rollout, Scope, TagTable, Transaction, Version, WRITES_MAX, Write, WriteOp,
    Written,
};
use insula_config_store::Writer;
use insula_problem::{Code, Problem};

use crate::caller::Caller;
use crate::directory::Named;
use crate::service::Service;
use crate::tags::{Tagged, tagged};
use crate::validate::{self, Proposed};

/// The backend that keeps its values beside the log.
const OWN_BACKEND: &str = "postgres";

/// Which version is rolled back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// By its number.
    Version(Version),
    /// By a label that is on it.
    Label(String),
}

/// What is to be done to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewOp {
    /// A JSON document, of secrets too.
    Put(Bytes),
    /// A large value.
    PutLarge {
        /// Its bytes.
        bytes: Bytes,
        /// Its media type.
        media_type: String,
    },
    /// No value any more.
    Remove,
    /// The value of an older version again.
    Rollback(To),
    /// A label on a version, or nowhere.
    Label {
        /// Which.
        label: String,
        /// On which.
        version: Option<Version>,
    },
}

/// A write that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWrite {
    /// The scope; empty is the caller's own.
    pub scope: String,
    /// The key.
    pub key: String,
    /// What.
    pub op: NewOp,
    /// Only where the newest version is this one; 0 is where there is none.
    pub if_version: Option<Version>,
    /// What its author says of it.
    pub note: String,
}

impl Service {
    /// Does all of the writes, or none; once under a token.
    ///
    /// # Errors
    /// What is wrong with one of them; a conflict; where the store is away.
    pub async fn transact(
        &self,
        caller: &Caller,
        writes: Vec<NewWrite>,
        token: Option<String>,
    ) -> Result<Vec<Written>, Problem> {
        if writes.is_empty() || writes.len() > WRITES_MAX {
            let detail = format!("There are 1 to {WRITES_MAX} writes at once, not {}.", writes.len());
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
        let table = self.tags.known()?;
        let mut checked = Vec::with_capacity(writes.len());
        for write in writes {
            checked.push(self.checked(caller, &table, write).await?);
        }
        let first = checked.first().map(|(named, ..)| named.clone());
        let home = |named: &Named| match named {
            Named::Tenant(lineage) => Some(lineage.region.clone()),
            Named::Provider(_) => None,
        };
        if checked.iter().any(|(named, ..)| Some(home(named)) != first.as_ref().map(home)) {
            let detail =
                "The writes of a transaction are all the provider's, or all of tenants of one region.";
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
        let Some(named) = first else { return Ok(Vec::new()) };
        let mut ready = Vec::with_capacity(checked.len());
        for (named, tagged, write) in checked {
            ready.push(self.ready(&named, tagged, write).await?);
        }
        let token = token.filter(|token| !token.is_empty());
        let transaction = Transaction { writes: ready, token, author: caller.name() };
        self.writer_of(&named)?.write(transaction).await
    }

    /// Writes what is set in a scope.
    pub(crate) fn writer_of(&self, named: &Named) -> Result<&Writer, Problem> {
        match named {
            Named::Tenant(lineage) => self.region(&lineage.region).map(|region| &region.writer),
            Named::Provider(_) => Ok(&self.provider.1),
        }
    }

    /// What can be said of a write without a store.
    pub(crate) async fn checked(
        &self,
        caller: &Caller,
        table: &TagTable,
        write: NewWrite,
    ) -> Result<(Named, Tagged, NewWrite), Problem> {
        let tagged = tagged(table, &write.key)?;
        let named = self.directory.named(caller, &write.scope)?;
        caller.check_write(table, &tagged.key)?;
        self.directory.check_writable(&named)?;
        if tagged.key.as_str().starts_with(Rollout::KEYS) {
            let detail = "Where a staged rollout is, is not written by hand: start, pause or abort it.";
            return Err(Problem::new(Code::Forbidden, detail).at("/key", "is kept by Insula"));
        }
        if tagged.tag.backend != OWN_BACKEND {
            let detail = format!("This process has no backend {}.", tagged.tag.backend);
            return Err(Problem::new(Code::ConfigBackendUnavailable, detail));
        }
        let json = match &write.op {
            NewOp::Put(json) => {
                validate::json(&tagged, json)?;
                check_own(&named, &tagged, json)?;
                Some(json.as_ref())
            }
            NewOp::PutLarge { bytes, media_type } => {
                validate::check_large(&tagged, bytes, media_type)?;
                None
            }
            NewOp::Remove | NewOp::Rollback(_) | NewOp::Label { .. } => return Ok((named, tagged, write)),
        };
        let proposed = Proposed { named: &named, tagged: &tagged, json };
        for validator in &self.validators {
            validator.validate(&proposed).await?;
        }
        Ok((named, tagged, write))
    }

    pub(crate) async fn ready(
        &self,
        named: &Named,
        tagged: Tagged,
        write: NewWrite,
    ) -> Result<Write, Problem> {
        let (scope, key) = (named.scope(), tagged.key.clone());
        let op = match write.op {
            NewOp::Put(json) => WriteOp::Put(validate::json(&tagged, &json)?),
            NewOp::PutLarge { bytes, media_type } => {
                let blob = self.store_of(named)?.put_blob(&scope, &bytes, &media_type).await?;
                WriteOp::Put(ConfigValue::Blob(blob))
            }
            NewOp::Remove => WriteOp::Remove,
            NewOp::Rollback(To::Version(version)) => WriteOp::Rollback(version),
            NewOp::Rollback(To::Label(label)) => WriteOp::RollbackTo(label),
            NewOp::Label { label, version } => {
                let invalid = |error: insula_config_model::InvalidLabel| {
                    Problem::new(Code::ConfigLabelInvalid, format!("{error}.")).at("/label", "is no label")
                };
                WriteOp::Label(label.parse().map_err(invalid)?, version)
            }
        };
        let (history, is_secret) = (tagged.tag.history, tagged.tag.kind == Kind::Secret);
        Ok(Write { scope, key, op, if_version: write.if_version, note: write.note, history, is_secret })
    }
}

/// Insula's own values have meanings of their own.
fn check_own(named: &Named, tagged: &Tagged, json: &[u8]) -> Result<(), Problem> {
    if tagged.key.as_str() == Limits::KEY {
        let unusable = |error: insula_config_model::InvalidLimits| {
            Problem::new(Code::ConfigValueInvalid, format!("{error}.")).at("/value", "are no limits")
        };
        return Limits::parse(json).map(drop).map_err(unusable);
    }
    if tagged.key.as_str() != TagTable::KEY {
        return Ok(());
    }
    if named.scope() != Scope::Platform {
        let detail = "The table of tags is the platform's: there is one for all.";
        return Err(Problem::new(Code::ConfigTagsInvalid, detail).at("/scope", "expected platform"));
    }
    let invalid = |error: insula_config_model::InvalidTags| {
        Problem::new(Code::ConfigTagsInvalid, format!("{error}.")).at("/value", "is no table of tags")
    };
    TagTable::parse(json).map(drop).map_err(invalid)
}
