//! Staged rollouts: a new version that more and more tenants see, step by step,
//! while the others go on seeing the one before. Where a rollout is, is itself a
//! value of the configuration, beside the key in the same scope, so that it has
//! the same order, the same log and the same copies as what it is about.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;

use insula_domain::TenantId;

use crate::key::ConfigKey;
use crate::scope::Scope;
use crate::stored::Version;

/// The most steps of a rollout.
pub const STEPS_MAX: usize = 20;
/// The most tenants that are named in a plan.
pub const NAMED_MAX: usize = 100;
/// The longest time between two steps, in seconds: 30 days.
pub const BAKE_MAX: u32 = 30 * 24 * 3_600;

/// All tenants, in hundredths of a percent.
const ALL: u16 = 10_000;

/// A share of the tenants, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(u16);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(ALL);

    /// So many percent; none where it is not between 0.01 and 100.
    #[must_use]
    pub fn of_percent(percent: f64) -> Option<Self> {
        let hundredths = (percent * 100.0).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 1 to 10,000
        (1.0..=f64::from(ALL)).contains(&hundredths).then_some(Self(hundredths as u16))
    }

    /// In percent.
    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// How a version is rolled out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Growing shares of the tenants, the last one all of them.
    pub steps: Vec<Share>,
    /// Those who see it from the first step on, whatever their share.
    #[serde(default)]
    pub tenants: Vec<TenantId>,
    /// How long each step is looked at before the next one, in seconds.
    pub bake_seconds: u32,
    /// Tenants of whose clients some may refuse the version; one more, and it is
    /// taken back.
    #[serde(default)]
    pub rejections: u32,
    /// Tenants of whose clients some have to run with the version before a step is
    /// over. In a tenant's scope each of that tenant's clients counts.
    #[serde(default)]
    pub confirmations: u32,
}

/// A plan that cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{rule}")]
pub struct InvalidPlan {
    /// What of it, as a member of the plan.
    pub member: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl Plan {
    /// Whether it can be followed.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<(), InvalidPlan> {
        let broken = |member, rule| Err(InvalidPlan { member, rule });
        if !(1..=STEPS_MAX).contains(&self.steps.len()) {
            return broken("steps", "there are 1 to 20 steps");
        }
        if !self.steps.windows(2).all(|two| two[0] < two[1]) {
            return broken("steps", "each step is more than the one before");
        }
        if self.steps.last() != Some(&Share::ALL) {
            return broken("steps", "the last step is 100");
        }
        if self.tenants.len() > NAMED_MAX {
            return broken("tenants", "100 tenants are named at the most");
        }
        if self.bake_seconds > BAKE_MAX {
            return broken("bake_seconds", "a step is looked at for 30 days at the most");
        }
        Ok(())
    }
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// It goes on by itself.
    Running,
    /// It stays where it is until it is told to go on.
    Paused,
    /// Everybody sees the version.
    Completed,
    /// Clients refused it, and nobody sees it any more.
    RolledBack,
    /// Somebody ended it, and nobody sees the version any more.
    Aborted,
    /// The key was written anew: what was written counts for everybody.
    Superseded,
}

impl RolloutState {
    /// Whether some see another version than others.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// As text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::RolledBack => "rolled_back",
            Self::Aborted => "aborted",
            Self::Superseded => "superseded",
        }
    }
}

/// A staged rollout, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// How.
    pub plan: Plan,
    /// The version that is rolled out; the one before is what the others see.
    pub candidate: Version,
    /// Makes each rollout begin with other tenants.
    seed: u32,
    /// Where it is.
    pub state: RolloutState,
    /// The number of the step, from 0 on.
    pub step: usize,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub began: OffsetDateTime,
    /// When this step began, or went on.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// How long this step was looked at before it was paused, in seconds.
    #[serde(default)]
    pub baked_seconds: u32,
    /// Why it ended, or stays.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
}

/// What clients say of the version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Tenants of whose clients some run with it, or that tenant's clients in whose
    /// scope it is.
    pub confirmed: u64,
    /// Tenants of whose clients some refuse it.
    pub rejecting: u64,
    /// What one of them says.
    pub rejection: Option<String>,
}

/// What is to become of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// It goes on as this.
    On(Rollout),
    /// It ends as this, and the version before is set again.
    Back(Rollout),
}

impl Rollout {
    /// What the keys begin with under which rollouts are kept.
    pub const KEYS: &'static str = "insula_rollout/";

    /// The first step of a rollout.
    #[must_use]
    pub fn begin(plan: Plan, place: (&Scope, &ConfigKey), candidate: Version, now: OffsetDateTime) -> Self {
        let seed = fnv(format!("{}\n{}\n{candidate}", place.0, place.1).as_bytes());
        Self {
            plan,
            candidate,
            seed: (seed >> 32) as u32 ^ seed as u32,
            state: RolloutState::Running,
            step: 0,
            began: now,
            since: now,
            baked_seconds: 0,
            cause: String::new(),
        }
    }

    /// The key under which the rollout of a key is kept; none where it would be
    /// too long.
    #[must_use]
    pub fn key_of(key: &ConfigKey) -> Option<ConfigKey> {
        format!("{}{key}", Self::KEYS).parse().ok()
    }

    /// The key whose rollout is kept under this one.
    #[must_use]
    pub fn subject(key: &ConfigKey) -> Option<ConfigKey> {
        key.as_str().strip_prefix(Self::KEYS)?.parse().ok()
    }

    /// The share of the tenants that this step reaches.
    #[must_use]
    pub fn share(&self) -> Share {
        self.plan.steps.get(self.step).copied().unwrap_or(Share::ALL)
    }

    /// Whether this step reaches a tenant. Whom one step reaches, every later
    /// one does.
    #[must_use]
    pub fn reaches(&self, tenant: TenantId) -> bool {
        self.plan.tenants.contains(&tenant) || place(self.seed, tenant) < self.share()
    }

    /// Whether a tenant still sees the version before the newest. This alone
    /// decides which of the two is read, listed, watched, explained and
    /// evaluated: the newest one counts for all as soon as it is not the one
    /// that is rolled out.
    #[must_use]
    pub fn holds_back(&self, newest: Version, tenant: TenantId) -> bool {
        self.is_about(newest) && !self.reaches(tenant)
    }

    /// Whether some see another version than others, this one being the newest.
    #[must_use]
    pub fn is_about(&self, newest: Version) -> bool {
        self.state.is_under_way() && newest == self.candidate
    }

    /// How long this step has been looked at, in seconds. A clock that went
    /// back counts as one that stood.
    #[must_use]
    pub fn baked(&self, now: OffsetDateTime) -> u64 {
        let since = match self.state {
            RolloutState::Running => u64::try_from((now - self.since).whole_seconds()).unwrap_or(0),
            _ => 0,
        };
        u64::from(self.baked_seconds) + since
    }

    fn ended(&self, state: RolloutState, now: OffsetDateTime, cause: String) -> Self {
        Self { state, since: now, baked_seconds: 0, cause, ..self.clone() }
    }

    /// What is to become of it now; nothing where it stays as it is.
    #[must_use]
    pub fn next(&self, now: OffsetDateTime, newest: Version, health: &Health) -> Option<Move> {
        if !self.state.is_under_way() {
            return None;
        }
        if newest != self.candidate {
            let cause = format!("version {newest} was written, which counts for everybody");
            return Some(Move::On(self.ended(RolloutState::Superseded, now, cause)));
        }
        if health.rejecting > u64::from(self.plan.rejections) {
            let said = health.rejection.as_deref().unwrap_or_default();
            let tenants = match health.rejecting {
                1 => "one tenant".to_owned(),
                many => format!("{many} tenants"),
            };
            let cause = format!("clients of {tenants} refuse it: {said}");
            return Some(Move::Back(self.ended(RolloutState::RolledBack, now, cause)));
        }
        let is_baked = self.baked(now) >= u64::from(self.plan.bake_seconds);
        let is_confirmed = health.confirmed >= u64::from(self.plan.confirmations);
        if self.state == RolloutState::Paused || !is_baked || !is_confirmed {
            return None;
        }
        if self.step + 1 < self.plan.steps.len() {
            let step = self.step + 1;
            return Some(Move::On(Self { step, since: now, baked_seconds: 0, ..self.clone() }));
        }
        Some(Move::On(self.ended(RolloutState::Completed, now, String::new())))
    }

    /// The same, paused; none where it is not running.
    #[must_use]
    pub fn paused(&self, now: OffsetDateTime, cause: String) -> Option<Self> {
        (self.state == RolloutState::Running).then(|| {
            let baked_seconds = u32::try_from(self.baked(now)).unwrap_or(u32::MAX);
            Self { state: RolloutState::Paused, since: now, baked_seconds, cause, ..self.clone() }
        })
    }

    /// The same, running again; none where it is not paused.
    #[must_use]
    pub fn resumed(&self, now: OffsetDateTime) -> Option<Self> {
        (self.state == RolloutState::Paused).then(|| Self {
            state: RolloutState::Running,
            since: now,
            cause: String::new(),
            ..self.clone()
        })
    }

    /// The same, ended by somebody; none where it has ended.
    #[must_use]
    pub fn aborted(&self, now: OffsetDateTime, cause: String) -> Option<Self> {
        self.state.is_under_way().then(|| self.ended(RolloutState::Aborted, now, cause))
    }
}

/// FNV-1a: <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Where a tenant stands among all, from 0 on.
fn place(seed: u32, tenant: TenantId) -> Share {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&seed.to_be_bytes());
    bytes[4..].copy_from_slice(tenant.as_uuid().as_bytes());
    // FNV's upper bits are weak in what came last: mixed as splitmix64 ends.
    let mut mixed = fnv(&bytes);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    Share(((u128::from(mixed) * u128::from(ALL)) >> 64) as u16)
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
