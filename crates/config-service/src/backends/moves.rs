//! Moves of tags between backends, taken from step to step: in every process,
//! whenever the table of tags changes and once a second. What comes of a step is
//! written on condition of the table that was read, so that several processes do
//! it once; what one has not finished, any other does.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use insula_config_model::{
    Backend, BackendFault, ConfigKey, KeyPrefix, Kind, LABEL_CURRENT, OWN_BACKEND, Revision, Room, Scope,
    TagMove, TagMoveState, TagTable, Transaction, Version, Write, WriteOp, carry, is_carried,
};
use insula_config_store::{ConfigStore, Mirror, Writer};
use insula_domain::RegionName;
use insula_problem::{Code, Problem};
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::align::ByTags;
use super::places::{PROVIDER, table_key};
use super::problem;
use crate::directory::Named;
use crate::service::Service;

/// How often moves are looked at, whatever was heard.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the writes of a tag may wait for the last of it to be brought.
const HELD_MAX: Duration = Duration::from_secs(10);
/// How many rounds are made while values are written, where much comes meanwhile.
const ROUNDS_MAX: usize = 20;
/// So few that came meanwhile may be brought while writes wait.
const FEW: usize = 32;
/// How often a key is brought again because it was not the same.
const TRIES_MAX: usize = 8;
/// Keys that are brought at the same time, and looked up at once.
const AT_ONCE: usize = 8;
const PAGE: u32 = 200;

/// Up to which change of a store the values of a tag were brought to a backend:
/// by the tag, the part, and when its move was begun.
pub(crate) type Brought = HashMap<(String, String, OffsetDateTime), Revision>;

/// Why values were not brought.
enum Stop {
    /// It will not be otherwise later.
    Refused(String),
    /// It may be.
    Later(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        match problem.code() {
            Code::RolloutStatusConflict => Self::Refused(problem.detail().to_owned()),
            _ => Self::Later(problem),
        }
    }
}

impl From<BackendFault> for Stop {
    fn from(fault: BackendFault) -> Self {
        match fault {
            BackendFault::Refused(detail) => Self::Refused(detail),
            fault => Self::Later(problem(fault)),
        }
    }
}

/// The move of a tag, and the part of it that is looked at.
struct Task<'a> {
    service: &'a Service,
    by: &'a ByTags,
    prefix: &'a str,
    moving: &'a TagMove,
    from: Option<&'a Arc<dyn Backend>>,
    to: Option<&'a Arc<dyn Backend>>,
    part: &'a str,
    store: &'a ConfigStore,
    writer: &'a Writer,
}

impl Task<'_> {
    fn is_ours(&self, scope: &Scope) -> bool {
        scope.tenant().is_none() == (self.part == PROVIDER)
    }

    fn keys(&self) -> Result<KeyPrefix, Problem> {
        self.prefix.parse().map_err(Problem::internal)
    }

    /// A longer tag may be a part of this one.
    fn is_of_tag(&self, key: &ConfigKey) -> bool {
        self.by.table.prefix_of(key).is_ok_and(|tag| tag == self.prefix)
    }

    fn name(&self) -> (String, String, OffsetDateTime) {
        (self.prefix.to_owned(), self.part.to_owned(), self.moving.begun)
    }

    /// Brings these keys, as far as they are the tag's.
    async fn bring(&self, places: &[(Scope, ConfigKey)], is_checked: bool) -> Result<(), Stop> {
        let Some(to) = self.to else { return Ok(()) };
        let is_wanted = |(scope, key): &&(Scope, ConfigKey)| self.is_ours(scope) && self.is_of_tag(key);
        let of_tag: Vec<_> = places.iter().filter(is_wanted).collect();
        for some in of_tag.chunks(AT_ONCE) {
            let brought = some.iter().map(|place| self.bring_one(&**to, place, is_checked));
            try_join_all(brought).await?;
        }
        Ok(())
    }

    /// Brings a key; where it is checked it is the same in both places then.
    async fn bring_one(
        &self,
        to: &dyn Backend,
        (scope, key): &(Scope, ConfigKey),
        is_checked: bool,
    ) -> Result<(), Stop> {
        let mirror = Mirror::new(self.store.clone(), self.writer.clone());
        for _ in 0..TRIES_MAX {
            match carry(&mirror, to, scope, key).await {
                // What stands there under our next number was never acknowledged.
                Err(BackendFault::Conflict { .. }) => self.put_again(scope, key).await?,
                Err(fault) => return Err(fault.into()),
                Ok(_) if is_checked && !is_carried(&mirror, to, scope, key).await? => {}
                Ok(_) => return Ok(()),
            }
        }
        Err(Stop::Refused(format!("{key} is not the same in {} afterwards", to.name())))
    }

    /// Puts the newest value again, as a version with the next number. The backend
    /// that keeps the tag until the end of the move says which that is.
    async fn put_again(&self, scope: &Scope, key: &ConfigKey) -> Result<(), Stop> {
        let tag = self.by.table.of(key).ok();
        let history = tag.map_or(1, |tag| tag.history);
        let write = Write {
            scope: scope.clone(),
            key: key.clone(),
            op: WriteOp::RollbackTo(LABEL_CURRENT.to_owned()),
            if_version: None,
            note: "above one that was never acknowledged".to_owned(),
            history,
            is_secret: tag.is_some_and(|tag| tag.kind == Kind::Secret),
            room: Room::Usual,
            made: None,
        };
        let (author, tags) = (self.moving.author.clone(), Some(self.by.version));
        let transaction = Transaction { writes: vec![write], token: None, author, tags, schemas: Vec::new() };
        let Some(from) = self.from else {
            return Ok(self.writer.write(transaction).await.map(drop)?);
        };
        let (named, tagged) = (self.service.served(scope), self.by.kept_by(from.name(), key));
        match named.zip(tagged) {
            Some((named, tagged)) => {
                let place = (&named, &tagged);
                Ok(self.service.write_outside(place, transaction, from, &mut None).await.map(drop)?)
            }
            None => Ok(()),
        }
    }

    /// Brings all keys; up to which change they were brought for certain.
    async fn bring_all(&self, is_checked: bool) -> Result<Revision, Stop> {
        let (revision, keys) = (self.store.clocks().await?.revision, self.keys()?);
        let mut after: Option<(Scope, ConfigKey)> = None;
        while self.to.is_some() {
            let page = self.store.held(&keys, after.as_ref(), PAGE).await?;
            let places: Vec<_> = page.into_iter().map(|held| (held.scope, held.key)).collect();
            self.bring(&places, is_checked).await?;
            match places.last().filter(|_| places.len() >= PAGE as usize) {
                Some(last) => after = Some(last.clone()),
                None => break,
            }
        }
        Ok(revision)
    }

    /// Brings what has changed behind a revision, or all where that is not known;
    /// up to which change, and how many keys those were.
    async fn bring_since(
        &self,
        after: Option<Revision>,
        is_checked: bool,
    ) -> Result<(Revision, usize), Stop> {
        let since = match after {
            Some(after) => Some(self.store.since(&self.keys()?, after).await?),
            None => None,
        };
        match since.filter(|since| !since.is_unknown) {
            Some(since) => {
                let places: Vec<_> = since.keys.into_iter().collect();
                self.bring(&places, is_checked).await?;
                Ok((since.revision, places.len()))
            }
            None => Ok((self.bring_all(is_checked).await?, usize::MAX)),
        }
    }
}

impl Service {
    /// Takes moves of tags from step to step, until it is told to stop: each for
    /// itself, since one that has much to bring would have the writes of another
    /// wait.
    pub(crate) async fn move_tags(self: Arc<Self>, stop: CancellationToken) {
        let (mut driven, mut brought, mut seen) = (FuturesUnordered::new(), Brought::new(), 0);
        let mut under_way = BTreeSet::new();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
                () = self.tags.newer_than(seen) => {}
                Some((prefix, of_tag, known)) = driven.next() => {
                    under_way.remove(&prefix);
                    brought.extend(of_tag);
                    // What has come while it was looked at is looked at now.
                    if self.known_tags() <= known {
                        continue;
                    }
                }
            }
            seen = self.known_tags().max(seen);
            let table = self.tags.table();
            let is_moved =
                |prefix: &str| table.iter().any(|(known, tag)| known == prefix && tag.under_way().is_some());
            brought.retain(|(prefix, ..), _| is_moved(prefix));
            for (prefix, _) in table.iter().filter(|(_, tag)| tag.under_way().is_some()) {
                if under_way.insert(prefix.to_owned()) {
                    let of_tag = brought.extract_if(|(of, ..), _| of == prefix).collect();
                    driven.push(self.moved_on(prefix.to_owned(), of_tag));
                }
            }
        }
    }

    /// The version of the table of tags that is known here.
    fn known_tags(&self) -> Version {
        self.tags.known_version().map_or(0, |(version, _)| version)
    }

    /// Takes the move of a tag as far as it goes now; what was brought, and by
    /// which table it was begun.
    async fn moved_on(&self, prefix: String, mut brought: Brought) -> (String, Brought, Version) {
        let known = self.known_tags();
        let looked: Result<(), Problem> = async {
            while self.look_once(&prefix, &mut brought).await? {}
            Ok(())
        }
        .await;
        if let Err(problem) = looked {
            tracing::warn!(tag = prefix, cause = problem.chain(), "a tag is not moved further for now");
        }
        (prefix, brought, known)
    }

    /// Does what is next of the move of a tag; whether the table is another one now.
    async fn look_once(&self, prefix: &str, brought: &mut Brought) -> Result<bool, Problem> {
        let by = self.newest_tags().await?;
        let Some(tag) = by.table.iter().find(|(known, _)| *known == prefix).map(|(_, tag)| tag) else {
            return Ok(false);
        };
        let Some(moving) = tag.under_way() else { return Ok(false) };
        if self.held_for(moving) > HELD_MAX {
            return self.let_go(&by, prefix, moving).await;
        }
        let mut failed = Ok(false);
        for part in moving.parts.difference(&moving.done) {
            match self.step(&by, prefix, (&tag.backend, moving), part, brought).await {
                Ok(false) => {}
                Ok(true) => return Ok(true),
                Err(problem) => failed = Err(problem),
            }
        }
        failed
    }

    /// How long writes have been waiting.
    fn held_for(&self, moving: &TagMove) -> Duration {
        let since = if moving.state == TagMoveState::Held { moving.since } else { self.clock.now() };
        Duration::try_from(self.clock.now() - since).unwrap_or_default()
    }

    /// Has writes go on: a process that was to bring the last values did not.
    async fn let_go(&self, by: &ByTags, prefix: &str, moving: &TagMove) -> Result<bool, Problem> {
        let waits: Vec<&str> = moving.parts.difference(&moving.done).map(String::as_str).collect();
        let cause = format!("{} did not bring its last values in time", waits.join(", "));
        let Some(next) = by.table.let_go(prefix, &cause, self.clock.now()) else { return Ok(false) };
        self.changed(by, &next, moving, format!("{prefix} to {}: {cause}", moving.to)).await
    }

    /// Puts the table of the next step; another process may have been faster.
    async fn changed(
        &self,
        by: &ByTags,
        next: &TagTable,
        moving: &TagMove,
        note: String,
    ) -> Result<bool, Problem> {
        match self.put_table(by.version, next, &moving.author, note).await {
            Err(problem) if problem.code() == Code::ConfigVersionConflict => Ok(true),
            done => done.map(|()| true),
        }
    }

    /// What has a part of a move: its store and writer.
    fn part(&self, name: &str) -> Option<(&ConfigStore, &Writer)> {
        if name == PROVIDER {
            return Some((&self.provider.0, &self.provider.1));
        }
        let region: RegionName = name.parse().ok()?;
        self.regions.get(&region).map(|region| (&region.store, &region.writer))
    }

    /// Does what is next for a part; whether the table is another one now.
    async fn step(
        &self,
        by: &ByTags,
        prefix: &str,
        (backend, moving): (&str, &TagMove),
        part: &str,
        brought: &mut Brought,
    ) -> Result<bool, Problem> {
        let Some((store, writer)) = self.part(part) else { return Ok(false) };
        // What another process has, this one may not have.
        let (from, to) = (self.backends.outside(backend)?, self.backends.outside(&moving.to)?);
        let task = Task { service: self, by, prefix, moving, from, to, part, store, writer };
        let now = self.clock.now();
        let is_held = moving.state == TagMoveState::Held;
        let done =
            if is_held { self.finished(&task, brought).await } else { self.carried(&task, brought).await };
        let (next, said) = match done {
            Ok(false) => return Ok(false),
            Ok(true) => (by.table.part_done(prefix, part, now), format!("{part} is brought")),
            Err(Stop::Refused(cause)) => {
                tracing::warn!(tag = prefix, to = moving.to, cause, "a tag is not moved");
                (by.table.fail_move(prefix, &cause, now), cause)
            }
            Err(Stop::Later(problem)) if is_held => {
                let cause = problem.detail().to_owned();
                tracing::warn!(tag = prefix, cause = problem.chain(), "writes are not held any longer");
                (by.table.let_go(prefix, &cause, now), cause)
            }
            Err(Stop::Later(problem)) => return Err(problem),
        };
        let Some(next) = next else { return Ok(false) };
        self.changed(by, &next, moving, format!("{prefix} to {}: {said}", moving.to)).await
    }

    /// Brings what there is while it is written, until little is missing.
    async fn carried(&self, task: &Task<'_>, brought: &mut Brought) -> Result<bool, Stop> {
        for _ in 0..ROUNDS_MAX {
            self.taken_over(task).await?;
            let (revision, count) = task.bring_since(brought.get(&task.name()).copied(), false).await?;
            brought.insert(task.name(), revision);
            if task.to.is_none() || count <= FEW {
                break;
            }
        }
        Ok(true)
    }

    /// Brings the last of it while writes wait. False where the store does not
    /// know yet that they do.
    async fn finished(&self, task: &Task<'_>, brought: &mut Brought) -> Result<bool, Stop> {
        let late = || {
            let detail = "The last values were not brought in time.";
            Stop::Later(Problem::new(Code::ConfigMoving, detail))
        };
        let left = HELD_MAX.checked_sub(self.held_for(task.moving)).ok_or_else(late)?;
        let work = async {
            // Behind this no write is decided in this store that does not know of it.
            let seen = task.store.newest(&[Scope::Platform], &table_key()?).await?.layers;
            let seen = seen.into_iter().find_map(|layer| layer.stored).map_or(0, |stored| stored.version);
            if seen < task.by.version {
                return Ok(false);
            }
            self.check_no_rollout(&task.by.table, task.prefix).await?;
            self.taken_over(task).await?;
            let (revision, _) = task.bring_since(brought.get(&task.name()).copied(), true).await?;
            brought.insert(task.name(), revision);
            Ok(true)
        };
        timeout(left, work).await.map_err(|_| late())?
    }

    /// Takes over what the backend of before has and the log does not.
    async fn taken_over(&self, task: &Task<'_>) -> Result<(), Stop> {
        let Some(from) = task.from else { return Ok(()) };
        let is_wanted = |named: &Named, tagged: &crate::tags::Tagged| {
            let is_of_part = match named {
                Named::Provider(_) => task.part == PROVIDER,
                Named::Tenant(lineage) => lineage.region.as_str() == task.part,
            };
            is_of_part && tagged.prefix == task.prefix
        };
        Ok(self.compare(&**from, task.by, is_wanted).await?)
    }

    /// Whether values of a key may be rolled out in stages now.
    pub(crate) fn check_not_moving(&self, table: &TagTable, prefix: &str) -> Result<(), Problem> {
        let moving = table.iter().find(|(known, _)| *known == prefix).and_then(|(_, tag)| tag.under_way());
        let Some(moving) = moving else { return Ok(()) };
        let detail = format!("{prefix} is being moved from {OWN_BACKEND} to {}.", moving.to);
        Err(Problem::new(Code::ConfigTagMoving, detail).retry_after(5))
    }
}
