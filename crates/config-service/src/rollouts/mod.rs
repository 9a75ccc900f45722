//! Staged rollouts: an operator begins one, looks at it, pauses, resumes or ends
//! it. Where it is, stands in the store beside the key; the looker
//! ([`look`]) takes it from step to step, in whichever process.

mod health;
mod look;

use bytes::Bytes;
use insula_config_model::{
    ConfigKey, ConfigValue, Health, InvalidPlan, Kind, Layer, OWN_BACKEND, Plan, Rollout, RolloutState, Room,
    Scope, Share, Stored, TagTable, Transaction, Version, Write, WriteOp,
};
use insula_domain::TenantId;
use insula_problem::{Code, Problem};
use time::OffsetDateTime;

use crate::caller::Caller;
use crate::directory::Named;
use crate::service::Service;
use crate::tags::{Tagged, tagged};
use crate::validate::{HeldAgainst, Schemas};
use crate::writing::{NewOp, NewWrite};
use health::Counting;

/// How many states of a key's rollouts are kept.
const HISTORY: u32 = 100;

/// The most rollouts of a store that are listed or looked at.
const LISTED_MAX: u32 = 1_000;

/// Each of two versions is seen by some: the store has both under its log.
fn is_kept_here(tagged: &Tagged) -> bool {
    tagged.tag.backend == OWN_BACKEND
}

/// A rollout that somebody asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRollout {
    /// What is rolled out, as it would be written at once.
    pub write: NewWrite,
    /// How; its tenants are left out here.
    pub plan: Plan,
    /// Slugs or ids of those who see it from the first step on.
    pub tenants: Vec<String>,
}

/// What is asked of a rollout that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// It stays where it is.
    Pause,
    /// It goes on.
    Resume,
    /// It ends, and the version before is set again.
    Abort,
}

impl Steer {
    /// By its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "pause" => Some(Self::Pause),
            "resume" => Some(Self::Resume),
            "abort" => Some(Self::Abort),
            _ => None,
        }
    }
}

/// A rollout as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Where.
    pub scope: Scope,
    /// Of which key.
    pub key: ConfigKey,
    /// How far.
    pub rollout: Rollout,
    /// Who changed it last.
    pub author: String,
    /// When.
    pub at: OffsetDateTime,
    /// What clients say.
    pub health: Health,
}

/// A rollout with what a change of it has to know.
pub(crate) struct Kept {
    pub named: Named,
    pub tagged: Tagged,
    pub rollout: Rollout,
    /// The version of the rollout's own key.
    pub version: Version,
    pub newest: Version,
    author: String,
    at: OffsetDateTime,
}

impl Kept {
    /// Writes down where the rollout is now, which has room whenever it has begun.
    fn record(&self, next: &Rollout, note: String) -> Result<Write, Problem> {
        let place = (self.named.scope(), own_key(&self.tagged.key)?);
        Ok(Write { room: Room::Always, ..record(place, next, self.version, note)? })
    }
}

/// Writes down where a rollout is, on condition of where it was.
fn record(
    (scope, key): (Scope, ConfigKey),
    rollout: &Rollout,
    version: Version,
    note: String,
) -> Result<Write, Problem> {
    let json = serde_json::to_vec(rollout).map_err(Problem::internal)?;
    let op = WriteOp::Put(ConfigValue::Json(Bytes::from(json)));
    Ok(Write {
        scope,
        key,
        op,
        if_version: Some(version),
        note,
        history: HISTORY,
        is_secret: false,
        room: Room::Usual,
        made: None,
    })
}

/// The key under which the rollouts of a key are.
fn own_key(key: &ConfigKey) -> Result<ConfigKey, Problem> {
    Rollout::key_of(key).ok_or_else(too_long)
}

fn none(key: &ConfigKey) -> Problem {
    Problem::new(Code::RolloutNotFound, format!("{key} was never rolled out in stages here."))
}

fn status(detail: String) -> Problem {
    Problem::new(Code::RolloutStatusConflict, detail)
}

fn too_long() -> Problem {
    let detail = "The key is too long to be rolled out in stages.";
    Problem::new(Code::ConfigKeyInvalid, detail).at("/key", "has 497 bytes at the most")
}

fn invalid(error: InvalidPlan) -> Problem {
    Problem::new(Code::InvalidRequest, format!("In a rollout {}.", error.rule))
        .at(format!("/{}", error.member), error.rule)
}

/// A share of the tenants, as people say it.
pub(crate) fn share(percent: f64) -> Result<Share, Problem> {
    let invalid = || {
        let detail = format!("A step reaches 0.01 to 100 percent of the tenants, not {percent}.");
        Problem::new(Code::InvalidRequest, detail).at("/steps", "expected 0.01 to 100")
    };
    Share::of_percent(percent).ok_or_else(invalid)
}

pub(crate) fn read(stored: &Stored) -> Result<Option<Rollout>, Problem> {
    match &stored.value {
        Some(ConfigValue::Json(json)) => serde_json::from_slice(json).map(Some).map_err(Problem::internal),
        _ => Ok(None),
    }
}

impl Service {
    fn place(&self, caller: &Caller, scope: &str, key: &str) -> Result<(Named, Tagged), Problem> {
        caller.check_operator("Staged rollouts are")?;
        let found = self.read_of(caller, scope, key)?;
        if found.1.key.as_str().starts_with(TagTable::OWN) {
            let detail = "Insula's own values are not rolled out in stages.";
            return Err(Problem::new(Code::InvalidRequest, detail).at("/key", "is one of Insula's own"));
        }
        if !is_kept_here(&found.1) {
            let detail = format!(
                "Values that the backend {} keeps are not rolled out in stages: those of {OWN_BACKEND} are.",
                found.1.tag.backend
            );
            return Err(Problem::new(Code::InvalidRequest, detail).at("/key", "is kept elsewhere"));
        }
        Ok(found)
    }

    async fn layer(&self, named: &Named, key: &ConfigKey) -> Result<Layer, Problem> {
        let scope = named.scope();
        let mut layers = self.store_of(named)?.newest(std::slice::from_ref(&scope), key).await?.layers;
        Ok(layers.pop().unwrap_or_else(|| Layer::of(scope, None)))
    }

    async fn kept(&self, named: Named, tagged: Tagged) -> Result<Kept, Problem> {
        let own = own_key(&tagged.key)?;
        let stored = self.layer(&named, &own).await?.stored.ok_or_else(|| none(&tagged.key))?;
        let rollout = read(&stored)?.ok_or_else(|| none(&tagged.key))?;
        let newest = self.layer(&named, &tagged.key).await?.stored.map_or(0, |newest| newest.version);
        let (version, author, at) = (stored.version, stored.author, stored.at);
        Ok(Kept { named, tagged, rollout, version, newest, author, at })
    }

    async fn progress(&self, kept: Kept) -> Result<Progress, Problem> {
        let health = self.health(&kept, Counting::Showing).await?;
        let (scope, key) = (kept.named.scope(), kept.tagged.key);
        Ok(Progress { scope, key, rollout: kept.rollout, author: kept.author, at: kept.at, health })
    }

    /// Begins a staged rollout.
    ///
    /// # Errors
    /// What is wrong with the value or the plan; `rollout_status_conflict` where
    /// one is under way; a conflict; where the store is away.
    pub async fn start_rollout(&self, caller: &Caller, asked: NewRollout) -> Result<Progress, Problem> {
        // Where the tag is on its way behind this, the store refuses it.
        let by = self.by_tags()?;
        let (_, tagged) = self.place(caller, &asked.write.scope, &asked.write.key)?;
        let NewRollout { mut write, mut plan, tenants } = asked;
        if matches!(write.op, NewOp::Label { .. }) {
            return Err(Problem::new(Code::InvalidRequest, "Labels are not rolled out in stages."));
        }
        for name in tenants {
            match self.directory.named(caller, &format!("tenant/{name}"))? {
                Named::Tenant(lineage) => plan.tenants.push(lineage.tenant),
                Named::Provider(_) => return Err(Problem::internal("a tenant's scope is the provider's")),
            }
        }
        plan.check().map_err(invalid)?;
        let own = own_key(&tagged.key)?;
        let wanted = write.if_version.take();
        self.check_not_moving(&by.table, &tagged.prefix)?;
        let asked = (&*by.table, Schemas::Newest);
        let ((named, tagged, write), schemas) = self.checked(caller, asked, write).await?;
        let newest = self.layer(&named, &tagged.key).await?.stored;
        let version = newest.as_ref().map_or(0, |newest| newest.version);
        let before = self.layer(&named, &own).await?.stored;
        if let Some(rollout) = before.as_ref().map(read).transpose()?.flatten()
            && rollout.is_about(version)
        {
            let detail = format!("Version {version} of {} is being rolled out already.", tagged.key);
            return Err(status(detail));
        }
        let now = self.clock.now();
        let scope = named.scope();
        let rollout = Rollout::begin(plan, (&scope, &tagged.key), version + 1, now);
        self.check_confirmable(&scope, &tagged, &rollout)?;
        let own_version = before.map_or(0, |before| before.version);
        let record = record((scope, own), &rollout, own_version, write.note.clone())?;
        let mut first = self.ready(&named, tagged.clone(), write).await?;
        // What the others see stays, whatever else the tag forgets.
        first.history = first.history.max(2);
        first.room = Room::BesideBefore;
        let is_none = newest.is_none_or(|newest| newest.value.is_none());
        first.if_version = match wanted {
            Some(0) if is_none => Some(version),
            Some(wanted) if wanted != version => Some(wanted),
            _ => Some(version),
        };
        // Where it is comes first: whoever has the version knows for whom it is.
        let decided_by = (Some(by.version), schemas);
        self.commit(&named, vec![record, first], caller.name(), decided_by).await?;
        self.progress(self.kept(named, tagged).await?).await
    }

    /// Whether those whom the first step reaches can be enough to confirm it.
    fn check_confirmable(&self, scope: &Scope, tagged: &Tagged, rollout: &Rollout) -> Result<(), Problem> {
        let wanted = rollout.plan.confirmations as usize;
        let can = |tenant: &TenantId| {
            let lineage = self.directory.lineage(*tenant);
            lineage.is_some_and(|one| one.scopes_under(&tagged.tag).contains(scope))
        };
        let all = self.directory.tenants().into_iter();
        let confirming = all.filter(|tenant| rollout.reaches(*tenant)).filter(can);
        // Of the scope's own tenant each client counts, and there may be many.
        let few = confirming
            .take(wanted)
            .try_fold(0, |few, tenant| (scope.tenant() != Some(tenant)).then_some(few + 1));
        let Some(few) = few.filter(|few| *few < wanted) else { return Ok(()) };
        let detail = format!(
            "{wanted} confirmations are asked for, and the first step reaches {few} who count: each tenant \
             counts once. Name more of them, begin with a larger share, or ask for fewer."
        );
        Err(Problem::new(Code::InvalidRequest, detail)
            .at("/confirmations", "are more than the first step can give"))
    }

    /// A rollout, the last one of the key.
    ///
    /// # Errors
    /// `rollout_not_found`, and what is wrong with the question.
    pub async fn rollout(&self, caller: &Caller, scope: &str, key: &str) -> Result<Progress, Problem> {
        let (named, tagged) = self.place(caller, scope, key)?;
        self.progress(self.kept(named, tagged).await?).await
    }

    /// The rollouts that are under way in a scope.
    ///
    /// # Errors
    /// What is wrong with the question; where the store is away.
    pub async fn rollouts(&self, caller: &Caller, scope: &str) -> Result<Vec<Progress>, Problem> {
        caller.check_operator("Staged rollouts are")?;
        let named = self.directory.named(caller, scope)?;
        let mut all = Vec::new();
        for stored in self.store_of(&named)?.rollouts(Some(&named.scope()), LISTED_MAX).await? {
            if let Some(kept) = self.kept_of(&stored).await? {
                all.push(self.progress(kept).await?);
            }
        }
        Ok(all)
    }

    /// Pauses, resumes or ends a rollout.
    ///
    /// # Errors
    /// `rollout_not_found`; `rollout_status_conflict` where it has ended or is
    /// so already.
    pub async fn steer_rollout(
        &self,
        caller: &Caller,
        (scope, key): (&str, &str),
        steer: Steer,
        cause: String,
    ) -> Result<Progress, Problem> {
        let (named, tagged) = self.place(caller, scope, key)?;
        let kept = self.kept(named.clone(), tagged.clone()).await?;
        let now = self.clock.now();
        let state = kept.rollout.state;
        let is_about = kept.rollout.is_about(kept.newest);
        let next = match steer {
            Steer::Pause => kept.rollout.paused(now, cause.clone()),
            Steer::Resume => kept.rollout.resumed(now),
            Steer::Abort => kept.rollout.aborted(now, cause.clone()),
        };
        let Some(next) = next.filter(|_| is_about) else {
            let state = if state.is_under_way() { RolloutState::Superseded } else { state };
            return Err(status(format!("The rollout of {} is {}.", tagged.key, state.as_str())));
        };
        match steer {
            Steer::Abort => self.take_back(&kept, &next, caller.name(), cause).await?,
            Steer::Pause | Steer::Resume => self.put_on(&kept, &next, caller.name(), cause).await?,
        }
        self.progress(self.kept(named, tagged).await?).await
    }

    /// Has a rollout go on as this.
    pub(crate) async fn put_on(
        &self,
        kept: &Kept,
        next: &Rollout,
        author: String,
        note: String,
    ) -> Result<(), Problem> {
        let record = kept.record(next, note)?;
        self.commit(&kept.named, vec![record], author, (None, HeldAgainst::new())).await
    }

    /// Has a rollout end as this, with the version before set again.
    pub(crate) async fn take_back(
        &self,
        kept: &Kept,
        next: &Rollout,
        author: String,
        note: String,
    ) -> Result<(), Problem> {
        let Tagged { key, tag, .. } = &kept.tagged;
        let before = kept.rollout.candidate - 1;
        let back = Write {
            scope: kept.named.scope(),
            key: key.clone(),
            op: if before > 0 { WriteOp::Rollback(before) } else { WriteOp::Remove },
            if_version: Some(kept.rollout.candidate),
            note: note.clone(),
            history: tag.history,
            is_secret: tag.kind == Kind::Secret,
            room: Room::Always,
            made: None,
        };
        let record = kept.record(next, note)?;
        // The value comes first: nobody sees for a moment what is taken back.
        self.commit(&kept.named, vec![back, record], author, (None, HeldAgainst::new())).await
    }

    /// By a table of tags where a rollout begins. One that is under way keeps its
    /// tag from being moved, and needs none.
    async fn commit(
        &self,
        named: &Named,
        writes: Vec<Write>,
        author: String,
        (tags, schemas): (Option<Version>, HeldAgainst),
    ) -> Result<(), Problem> {
        let transaction = Transaction { writes, token: None, author, tags, schemas };
        self.writer_of(named)?.write(transaction).await.map(drop)
    }
}

impl Service {
    /// By the key that keeps a rollout, for those who look after all of them.
    pub(crate) async fn kept_of(&self, stored: &Stored) -> Result<Option<Kept>, Problem> {
        let Some(subject) = Rollout::subject(&stored.key) else { return Ok(None) };
        let named = match stored.scope.tenant() {
            Some(tenant) => match self.directory.lineage(tenant) {
                Some(lineage) => Named::Tenant(lineage),
                None => return Ok(None),
            },
            None => Named::Provider(stored.scope.clone()),
        };
        let Ok(tagged) = tagged(&*self.tags.known()?, subject.as_str()) else { return Ok(None) };
        if !is_kept_here(&tagged) {
            return Ok(None);
        }
        match self.kept(named, tagged).await {
            Ok(kept) => Ok(Some(kept)),
            Err(problem) if problem.code() == Code::RolloutNotFound => Ok(None),
            Err(problem) => Err(problem),
        }
    }
}
