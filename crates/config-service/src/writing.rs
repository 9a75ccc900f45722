//! Writing: what a caller asks for becomes a transaction of the store that has
//! the scope, once it was checked.

use std::time::Duration;

use bytes::Bytes;
use insula_config_model::{
    ConfigKey, ConfigValue, Kind, Limits, OWN_BACKEND, Rollout, Room, SCHEMA_KEYS, Scope, TagTable,
    Transaction, Version, WRITES_MAX, Write, WriteOp, Written,
};
use insula_config_store::{Writer, is_by_old_schemas, is_by_old_tags};
use insula_problem::{Code, Problem};
use tokio::time::{Instant, timeout_at};

use crate::backends::{Begun, ByTags};
use crate::caller::Caller;
use crate::directory::Named;
use crate::service::Service;
use crate::tags::{Tagged, tagged};
use crate::validate::{self, HeldAgainst, Proposed, Schemas};

/// How long a write waits for its tag to be where it goes.
const HELD_WITHIN: Duration = Duration::from_secs(5);

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

/// A write, whose it is, and what its tag says.
type Checked = (Named, Tagged, NewWrite);

/// Why a write is not done.
enum Refused {
    /// It would be by a table of tags that is about to be another one.
    Passing(Problem),
    /// Its values were held against schemas that are not the newest.
    BySchemas(Problem),
    /// Its author is told.
    Told(Problem),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        match problem {
            problem if is_by_old_tags(&problem) => Self::Passing(problem),
            problem if is_by_old_schemas(&problem) => Self::BySchemas(problem),
            problem => Self::Told(problem),
        }
    }
}

impl Service {
    /// Does all of the writes, or none; once under a token. While the tag of one
    /// goes to another backend it waits for a moment.
    ///
    /// # Errors
    /// What is wrong with one of them; a conflict; where the store or the
    /// backend is away; `config_moving` where the wait was too long.
    pub async fn transact(
        &self,
        caller: &Caller,
        writes: Vec<NewWrite>,
        token: Option<String>,
    ) -> Result<Vec<Written>, Problem> {
        check_count(writes.len())?;
        let token = token.filter(|token| !token.is_empty());
        let until = Instant::now() + HELD_WITHIN;
        let (mut begun, mut schemas) = (None, Schemas::Known);
        loop {
            let by = self.by_tags()?;
            match self.transact_by(caller, &writes, token.clone(), (&by, schemas), &mut begun).await {
                Ok(written) => return Ok(written),
                Err(Refused::Told(problem)) => return Err(problem),
                Err(Refused::BySchemas(problem)) => {
                    if Instant::now() >= until {
                        return Err(problem);
                    }
                    schemas = Schemas::Newest;
                }
                Err(Refused::Passing(problem)) => {
                    let newer = self.tags.newer_than(by.version);
                    if timeout_at(until, newer).await.is_err() {
                        return Err(if begun.is_some() { may_be_done() } else { problem });
                    }
                }
            }
        }
    }

    async fn transact_by(
        &self,
        caller: &Caller,
        writes: &[NewWrite],
        token: Option<String>,
        (by, schemas): (&ByTags, Schemas),
        begun: &mut Option<Begun>,
    ) -> Result<Vec<Written>, Refused> {
        let (mut checked, mut held_against) = (Vec::with_capacity(writes.len()), Vec::new());
        for write in writes {
            let (checked_one, by_schemas) = self.checked(caller, (&by.table, schemas), write.clone()).await?;
            checked.push(checked_one);
            held_against.extend(by_schemas);
        }
        let Some((named, first)) = checked.first().map(|(named, tagged, _)| (named.clone(), tagged.clone()))
        else {
            return Ok(Vec::new());
        };
        check_together(&checked)?;
        if let Some((_, held, _)) = checked.iter().find(|(_, tagged, _)| tagged.tag.is_held()) {
            let detail = format!("Values of {} are just going to another backend.", held.prefix);
            return Err(Refused::Passing(Problem::new(Code::ConfigMoving, detail).retry_after(1)));
        }
        let mut ready = Vec::with_capacity(checked.len());
        for (named, tagged, write) in checked {
            ready.push(self.ready(&named, tagged, write).await?);
        }
        let tags = Some(by.version);
        let (author, schemas) = (caller.name(), held_against);
        let transaction = Transaction { writes: ready, token, author, tags, schemas };
        let outside = self.backends.outside(&first.tag.backend)?;
        // It stays begun until it was looked for to the end: the table may have
        // changed once more.
        if let Some(begun) = &*begun {
            if let Some(backend) = outside {
                self.align(&named, &first, &**backend, tags).await?;
            }
            if let Some(written) = begun.found(self.store_of(&named)?).await? {
                return Ok(vec![written]);
            }
        }
        *begun = None;
        if let Some(written) = self.done_before((&named, &first), &transaction).await? {
            return Ok(written);
        }
        let written = match outside {
            Some(backend) => self.write_outside((&named, &first), transaction, backend, begun).await?,
            None => self.writer_of(&named)?.write(transaction).await?,
        };
        Ok(written)
    }

    /// Writes what is set in a scope.
    pub(crate) fn writer_of(&self, named: &Named) -> Result<&Writer, Problem> {
        match named {
            Named::Tenant(lineage) => self.region(&lineage.region).map(|region| &region.writer),
            Named::Provider(_) => Ok(&self.provider.1),
        }
    }

    /// What can be said of a write before it is decided, and which schemas its value
    /// was held against.
    pub(crate) async fn checked(
        &self,
        caller: &Caller,
        (table, schemas): (&TagTable, Schemas),
        write: NewWrite,
    ) -> Result<(Checked, HeldAgainst), Problem> {
        let tagged = tagged(table, &write.key)?;
        let named = self.directory.named(caller, &write.scope)?;
        caller.check_write(table, &tagged.key)?;
        self.directory.check_writable(&named)?;
        if tagged.key.as_str().starts_with(Rollout::KEYS) {
            let detail = "Where a staged rollout is, is not written by hand: start, pause or abort it.";
            return Err(Problem::new(Code::Forbidden, detail).at("/key", "is kept by Insula"));
        }
        self.backends.outside(&tagged.tag.backend)?;
        check_table(table, &tagged, &write.op)?;
        let json = match &write.op {
            NewOp::Put(json) => {
                validate::json(&tagged, json)?;
                check_own(&named, &tagged, json)?;
                self.check_there(&named).await?;
                Some(json.as_ref())
            }
            NewOp::PutLarge { bytes, media_type } => {
                validate::check_large(&tagged, bytes, media_type)?;
                self.check_there(&named).await?;
                None
            }
            NewOp::Remove | NewOp::Rollback(_) | NewOp::Label { .. } => {
                return Ok(((named, tagged, write), HeldAgainst::new()));
            }
        };
        let proposed = Proposed { named: &named, tagged: &tagged, json, schemas };
        let mut held_against = HeldAgainst::new();
        for validator in &self.validators {
            held_against.extend(validator.validate(&proposed).await?);
        }
        Ok(((named, tagged, write), held_against))
    }

    /// Whether the tier or the region is there for which something is set.
    async fn check_there(&self, named: &Named) -> Result<(), Problem> {
        let (code, what, name, all) = match named {
            Named::Provider(Scope::Tier(tier)) => {
                let tiers = self.catalog.client().await?.tiers().await?;
                let all: Vec<_> = tiers.into_iter().map(|tier| tier.name.to_string()).collect();
                (Code::UnknownTier, "tier", tier.as_str(), all)
            }
            Named::Provider(Scope::Region(region)) if !self.regions.contains_key(region) => {
                let regions = self.catalog.client().await?.regions().await?;
                let all: Vec<_> = regions.into_iter().map(|region| region.name.to_string()).collect();
                (Code::UnknownRegion, "region", region.as_str(), all)
            }
            Named::Provider(_) | Named::Tenant(_) => return Ok(()),
        };
        if all.iter().any(|one| one == name) {
            return Ok(());
        }
        let detail = format!("There is no {what} {name}. There are: {}.", all.join(", "));
        Err(Problem::new(code, detail).at("/scope", "unknown"))
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
        let (if_version, note) = (write.if_version, write.note);
        Ok(Write { scope, key, op, if_version, note, history, is_secret, room: Room::Usual, made: None })
    }
}

/// What is said where a write had reached the backend of before when its tag
/// went on its way.
fn may_be_done() -> Problem {
    let detail = "The tag is going to another backend. The change may have been made.";
    Problem::new(Code::Unavailable, detail).retry_after(2)
}

/// Whether so many writes are done at once.
///
/// # Errors
/// `invalid_request`.
pub(crate) fn check_count(writes: usize) -> Result<(), Problem> {
    if (1..=WRITES_MAX).contains(&writes) {
        return Ok(());
    }
    let detail = format!("There are 1 to {WRITES_MAX} writes at once, not {writes}.");
    Err(Problem::new(Code::InvalidRequest, detail))
}

/// What is done at once is kept in one place: by one store, or by a backend
/// outside, which takes one write at a time.
fn check_together(checked: &[Checked]) -> Result<(), Problem> {
    let home = |named: &Named| match named {
        Named::Tenant(lineage) => Some(lineage.region.clone()),
        Named::Provider(_) => None,
    };
    let mut homes = checked.iter().map(|(named, ..)| home(named));
    let first = homes.next();
    if homes.any(|home| Some(home) != first) {
        let detail = "The writes of a transaction are all the provider's, or all of tenants of one region.";
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let outside = checked.iter().find(|(_, tagged, _)| tagged.tag.backend != OWN_BACKEND);
    if let Some((_, tagged, _)) = outside.filter(|_| checked.len() > 1) {
        let backend = &tagged.tag.backend;
        let detail = format!("Values that the backend {backend} keeps are written one at a time.");
        return Err(Problem::new(Code::InvalidRequest, detail).at("/writes", "has one that stands alone"));
    }
    Ok(())
}

/// The table of tags leaves values where they are: a tag is moved for that.
fn check_table(table: &TagTable, tagged: &Tagged, op: &NewOp) -> Result<(), Problem> {
    if tagged.key.as_str() != TagTable::KEY {
        return Ok(());
    }
    let next = match op {
        NewOp::Put(json) => match TagTable::parse(json) {
            Ok(next) => next,
            // It is said elsewhere what is wrong with it.
            Err(_) => return Ok(()),
        },
        NewOp::Remove => TagTable::default(),
        NewOp::Rollback(_) => {
            let detail = "The table of tags is put anew instead: where values are does not go back with it.";
            return Err(Problem::new(Code::ConfigTagsInvalid, detail));
        }
        NewOp::PutLarge { .. } | NewOp::Label { .. } => return Ok(()),
    };
    next.keeps_places(table).map_err(|(tag, expected)| {
        let detail = format!(
            "The table says of {tag} where its values are kept: {expected}. To change that, move the tag."
        );
        Problem::new(Code::ConfigTagsInvalid, detail).at(format!("/value/{tag}"), expected)
    })
}

/// A name of Insula's own that nothing reads is a typing error.
fn check_own_name(key: &ConfigKey) -> Result<(), Problem> {
    let key = key.as_str();
    if !key.starts_with(TagTable::OWN) || key.starts_with(SCHEMA_KEYS) {
        return Ok(());
    }
    let detail = format!(
        "Insula has no value {key}. There are: {}, {}, and {SCHEMA_KEYS}<key>.",
        Limits::KEY,
        TagTable::KEY
    );
    Err(Problem::new(Code::ConfigKeyInvalid, detail).at("/key", "is none of Insula's own"))
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
        return check_own_name(&tagged.key);
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
