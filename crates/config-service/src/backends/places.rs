//! Where tags are kept, and the beginning of a move: what operators ask for.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use insula_config_model::{
    BackendName, ConfigKey, ConfigValue, MoveRefused, OWN_BACKEND, Rollout, Room, Scope, TagMove, TagTable,
    Transaction, Version, Write, WriteOp,
};
use insula_config_store::ConfigStore;
use insula_problem::{Code, Problem};

use super::align::ByTags;
use crate::caller::Caller;
use crate::service::Service;

/// The part of a move that is the provider's values.
pub(super) const PROVIDER: &str = "provider";

/// How many versions of the table of tags are kept.
const HISTORY: u32 = 100;
/// How often the table is read again because somebody else has changed it.
const TRIES_MAX: usize = 8;
/// The most rollouts that are looked at.
const ROLLOUTS_MAX: u32 = 1_000;

/// Where a tag is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPlace {
    /// The tag.
    pub tag: String,
    /// The backend that keeps its values.
    pub backend: BackendName,
    /// Whether this process has it, and it has answered.
    pub is_reached: bool,
    /// The move to another, also one that has failed.
    pub moving: Option<TagMove>,
}

fn check_operator(caller: &Caller) -> Result<(), Problem> {
    match caller.tenant() {
        Some(_) => Err(Problem::new(Code::Forbidden, "Where values are kept is for operators.")),
        None => Ok(()),
    }
}

fn refused(refused: MoveRefused) -> Problem {
    let detail = format!("{refused}.");
    match refused {
        MoveRefused::Unknown { .. } => Problem::new(Code::ConfigTagUnknown, detail).at("/tag", "is no tag"),
        MoveRefused::Bound(_) => Problem::new(Code::InvalidRequest, detail).at("/tag", "cannot be moved"),
        MoveRefused::There { .. } => Problem::new(Code::InvalidRequest, detail).at("/to", "is where it is"),
        MoveRefused::UnderWay { .. } => Problem::new(Code::ConfigTagMoving, detail),
    }
}

impl Service {
    /// Where the tags are kept.
    ///
    /// # Errors
    /// `forbidden` for tenants; where the catalog is away.
    pub async fn tag_places(&self, caller: &Caller) -> Result<Vec<TagPlace>, Problem> {
        check_operator(caller)?;
        let by = self.newest_tags().await?;
        Ok(by.table.iter().map(|(prefix, _)| self.place_of_tag(prefix, &by.table)).collect())
    }

    fn place_of_tag(&self, prefix: &str, table: &TagTable) -> TagPlace {
        let tag = table.iter().find(|(known, _)| *known == prefix).map(|(_, tag)| tag);
        let backend = tag.map_or_else(|| OWN_BACKEND.to_owned(), |tag| tag.backend.clone());
        let is_reached = self.backends.outside(&backend).is_ok() && !self.backends.is_away(&backend);
        let moving = tag.and_then(|tag| tag.moving.clone());
        TagPlace { tag: prefix.to_owned(), backend, is_reached, moving }
    }

    /// Begins to move a tag to another backend.
    ///
    /// # Errors
    /// `forbidden` for tenants; what is wrong with the tag or the backend;
    /// `config_tag_moving` during another move, `rollout_status_conflict` while
    /// a value of the tag is rolled out in stages; where the catalog is away.
    pub async fn move_tag(&self, caller: &Caller, prefix: &str, to: &str) -> Result<TagPlace, Problem> {
        check_operator(caller)?;
        let names = self.backends.names();
        if !names.contains(&to) {
            let shown: String = to.chars().take(60).collect();
            let detail = format!("There is no backend {shown:?}; there are {}.", names.join(", "));
            return Err(Problem::new(Code::InvalidRequest, detail).at("/to", "is no backend"));
        }
        for _ in 0..TRIES_MAX {
            let by = self.newest_tags().await?;
            let begun = by.table.begin_move(prefix, to, self.parts(), (&caller.name(), self.clock.now()));
            let begun = begun.map_err(refused)?;
            let from = by.table.iter().find(|(known, _)| *known == prefix).map(|(_, tag)| &tag.backend);
            self.backends.outside(from.map_or(OWN_BACKEND, String::as_str))?;
            self.check_no_rollout(&by.table, prefix).await?;
            let note = format!("{prefix} is moved to {to}");
            match self.put_table(by.version, &begun, &caller.name(), note).await {
                Ok(()) => return Ok(self.place_of_tag(prefix, &begun)),
                Err(problem) if problem.code() == Code::ConfigVersionConflict => {}
                Err(problem) => return Err(problem),
            }
        }
        Err(Problem::new(Code::Overloaded, "The table of tags is changed too often.").retry_after(1))
    }

    /// Looks at what events say has changed; how many keys were looked at, and how
    /// many events were of nothing that is here.
    ///
    /// # Errors
    /// `forbidden` for tenants; what is wrong with an event; where a store or a
    /// backend is away.
    pub async fn take_events(&self, caller: &Caller, body: &[u8]) -> Result<(usize, usize), Problem> {
        check_operator(caller)?;
        let names = super::events::names(body)?;
        let looked_at = self.look_at_names(&names).await?;
        Ok((looked_at, names.len().saturating_sub(looked_at)))
    }

    /// The stores with values of their own: the provider's, and the regions that
    /// are served here or have tenants.
    fn parts(&self) -> BTreeSet<String> {
        let snapshot = self.directory.routes().snapshot();
        let served = self.regions.keys().map(ToString::to_string);
        let homes = snapshot.routes().map(|route| route.region.to_string());
        served.chain(homes).chain([PROVIDER.to_owned()]).collect()
    }

    /// Refuses where the newest version of a key of the tag is not for all yet.
    pub(super) async fn check_no_rollout(&self, table: &TagTable, prefix: &str) -> Result<(), Problem> {
        let stores = self.regions.values().map(|region| &region.store).chain([&self.provider.0]);
        for store in stores {
            check_no_rollout_in(store, table, prefix).await?;
        }
        Ok(())
    }

    /// The table of tags as the catalog has it.
    pub(super) async fn newest_tags(&self) -> Result<ByTags, Problem> {
        let found = self.provider.0.newest(&[Scope::Platform], &table_key()?).await?;
        let set = found.layers.into_iter().find_map(|layer| layer.stored);
        let version = set.as_ref().map_or(0, |stored| stored.version);
        let table = match set.and_then(|stored| stored.value) {
            Some(ConfigValue::Json(json)) => TagTable::parse(&json).map_err(Problem::internal)?,
            _ => TagTable::default(),
        };
        Ok(ByTags { version, table: Arc::new(table) })
    }

    /// Puts a table in the place of a version of it: who did what stands in its
    /// history.
    pub(super) async fn put_table(
        &self,
        version: Version,
        table: &TagTable,
        author: &str,
        note: String,
    ) -> Result<(), Problem> {
        let json = serde_json::to_vec(table).map_err(Problem::internal)?;
        let write = Write {
            scope: Scope::Platform,
            key: table_key()?,
            op: WriteOp::Put(ConfigValue::Json(Bytes::from(json))),
            if_version: Some(version),
            note: note.chars().take(200).collect(),
            history: HISTORY,
            is_secret: false,
            room: Room::Usual,
            made: None,
        };
        let author = author.to_owned();
        let transaction =
            Transaction { writes: vec![write], token: None, author, tags: None, schemas: Vec::new() };
        self.provider.1.write(transaction).await.map(drop)
    }
}

async fn check_no_rollout_in(store: &ConfigStore, table: &TagTable, prefix: &str) -> Result<(), Problem> {
    let under_way = store.rollouts(None, ROLLOUTS_MAX).await?;
    if under_way.len() >= ROLLOUTS_MAX as usize {
        let detail =
            format!("{ROLLOUTS_MAX} values and more are rolled out in stages: end some of them first.");
        return Err(Problem::new(Code::RolloutStatusConflict, detail));
    }
    for stored in under_way {
        let Some(subject) = Rollout::subject(&stored.key) else { continue };
        if table.prefix_of(&subject).is_ok_and(|tag| tag == prefix) {
            let detail = format!("{subject} is being rolled out in stages: end that first.");
            return Err(Problem::new(Code::RolloutStatusConflict, detail));
        }
    }
    Ok(())
}

pub(super) fn table_key() -> Result<ConfigKey, Problem> {
    TagTable::KEY.parse().map_err(Problem::internal)
}
