//! The move of a living tenant from one placement to another: its ends, its
//! states, its terms, and how far it is. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::ids::TenantId;
use crate::isolation::Isolation;
use crate::names::{DatabaseName, RoleName, SchemaName};
use crate::placement::{Epoch, Placement};
use crate::text::{ClusterName, RegionName, TierName};

/// Where a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MoveStatus {
    /// Under way: the tenant is served from where it was.
    Running,
    /// The tenant is served from the target; the source is kept current, so
    /// that the move can be taken back without a loss.
    Moved,
    /// On the way back.
    RollingBack,
    /// The source is being removed.
    Completing,
    /// The tenant is at the target, and nothing is left of it at the source.
    Completed,
    /// The tenant is at the source again, and nothing is left of it at the target.
    RolledBack,
    /// It did not come to the cutover: the tenant is where it was, and nothing
    /// is left of it at the target.
    Failed,
    /// As failed, at an operator's word.
    Cancelled,
}

impl MoveStatus {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Running,
        Self::Moved,
        Self::RollingBack,
        Self::Completing,
        Self::Completed,
        Self::RolledBack,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Whether something of the tenant may be in two places.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Running | Self::Moved | Self::RollingBack | Self::Completing)
    }

    /// The word as it stands in the API and the catalog.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Moved => "moved",
            Self::RollingBack => "rolling_back",
            Self::Completing => "completing",
            Self::Completed => "completed",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for MoveStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no status of a move.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no status of a move")]
pub struct UnknownMoveStatus(String);

impl FromStr for MoveStatus {
    type Err = UnknownMoveStatus;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|status| status.as_str() == word);
        named.ok_or_else(|| UnknownMoveStatus(word.to_owned()))
    }
}

/// One end of a move: a placement, and what comes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveEnd {
    /// What the tenant has bought there.
    pub tier: TierName,
    /// The region.
    pub region: RegionName,
    /// The cluster; none before a server of the tenant's own is there.
    pub cluster: Option<ClusterName>,
    /// The isolation model.
    pub isolation: Isolation,
    /// The database.
    pub database: DatabaseName,
    /// The schema.
    pub schema: SchemaName,
    /// The epoch under which the tenant is, or will be, served there.
    pub epoch: Epoch,
}

impl MoveEnd {
    /// The placement, once its cluster is there.
    #[must_use]
    pub fn placement(&self, tenant: TenantId) -> Option<Placement> {
        Some(Placement {
            cluster: self.cluster.clone()?,
            isolation: self.isolation,
            database: self.database.clone(),
            schema: self.schema.clone(),
            role: RoleName::of_tenant(tenant),
            epoch: self.epoch,
        })
    }
}

/// What is done with transactions that are open when the tenant is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LongTransactions {
    /// They are waited for: where they outlast the hold, the cutover is tried
    /// again later.
    #[default]
    Wait,
    /// They are ended when the hold's time is over.
    End,
}

impl LongTransactions {
    /// The word as it stands in the API and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::End => "end",
        }
    }
}

/// On what terms a tenant is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveTerms {
    /// How long the tenant may be held at a time, in milliseconds.
    pub hold_ms: u32,
    /// What is done with open transactions.
    pub long_transactions: LongTransactions,
    /// For how many seconds after the cutover it can be taken back.
    pub rollback_window_s: u32,
    /// The most bytes a second that are copied; none is no limit.
    pub copy_bytes_per_second: Option<u64>,
}

impl MoveTerms {
    /// The bounds of a hold, in milliseconds: shorter ones end before every
    /// front has answered, and longer ones are an outage.
    pub const HOLD_MS: std::ops::RangeInclusive<u32> = 50..=10_000;

    /// The longest rollback window, in seconds: 30 days. The source's room is
    /// taken until then.
    pub const ROLLBACK_WINDOW_S_MAX: u32 = 30 * 86_400;
}

impl Default for MoveTerms {
    /// A second, patience, and an hour.
    fn default() -> Self {
        Self {
            hold_ms: 1_000,
            long_transactions: LongTransactions::Wait,
            rollback_window_s: 3_600,
            copy_bytes_per_second: None,
        }
    }
}

/// How it stands with the way back of a move that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WayBack {
    /// The source is kept current: a rollback is quick and loses nothing.
    Kept,
    /// The source is behind, because a server is away or as many streams run as
    /// may; the target's server keeps its log for it. A rollback brings it up to
    /// date first.
    Waiting,
    /// The source will not be current again: the move can only be completed.
    Closed,
}

impl WayBack {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kept, Self::Waiting, Self::Closed];

    /// The word as it stands in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Waiting => "waiting",
            Self::Closed => "closed",
        }
    }
}

/// What a move is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MovePhase {
    /// What would stop it is looked for.
    #[default]
    Preflight,
    /// The target is made.
    Target,
    /// Rows are copied from a snapshot.
    Copy,
    /// What was written since is applied.
    Follow,
    /// Both ends are compared.
    Verify,
    /// The way back is prepared.
    Reverse,
    /// The tenant is held and switched over.
    Cutover,
    /// The switch is done.
    Done,
}

impl MovePhase {
    /// All of them, in their order.
    pub const ALL: [Self; 8] = [
        Self::Preflight,
        Self::Target,
        Self::Copy,
        Self::Follow,
        Self::Verify,
        Self::Reverse,
        Self::Cutover,
        Self::Done,
    ];

    /// The word as it stands in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Target => "target",
            Self::Copy => "copy",
            Self::Follow => "follow",
            Self::Verify => "verify",
            Self::Reverse => "reverse",
            Self::Cutover => "cutover",
            Self::Done => "done",
        }
    }
}

/// How far a move is. What is not known yet is zero or none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MoveProgress {
    /// What it is at.
    pub phase: MovePhase,
    /// Tables of the app schema.
    pub tables: u32,
    /// Tables that are copied.
    pub tables_done: u32,
    /// Rows that are copied.
    pub rows: u64,
    /// About how many there are to copy.
    pub rows_total: u64,
    /// Bytes that are copied.
    pub bytes: u64,
    /// About how many there are to copy.
    pub bytes_total: u64,
    /// Rows that were changed meanwhile and applied.
    pub rows_applied: u64,
    /// Bytes of the source's log that are not applied yet.
    pub lag_bytes: u64,
    /// Rows that were compared.
    pub rows_verified: u64,
    /// The checksum in which both ends agree.
    pub checksum: Option<String>,
    /// How often the cutover was tried.
    pub cutovers: u32,
    /// Why the last one was taken back.
    pub held_up_by: Option<String>,
    /// How long transactions waited at the cutover, in microseconds: the
    /// longest wait that a front has seen.
    pub pause_us: Option<u64>,
    /// How many clients waited.
    pub clients_waited: Option<u32>,
    /// For how long the tenant had to do with few backends around the last try at
    /// the cutover, in microseconds.
    pub narrowed_us: Option<u64>,
    /// How fast it goes on, while rows are copied, followed or compared.
    pub pace: Option<MovePace>,
}

/// How fast a move goes on, by its last ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovePace {
    /// Rows a second that are copied, applied or compared: what the move is at.
    pub rows_per_second: u64,
    /// Bytes a second: in the copy those that are copied; while it follows, by how
    /// many it comes nearer to the end of the source's log. None while ends are compared.
    pub bytes_per_second: Option<u64>,
    /// About how many seconds until the copy, the following or the comparison that it
    /// is at is done. None where it does not go on.
    pub seconds_left: Option<u64>,
    /// What that is reckoned from.
    pub estimated_from: EstimatedFrom,
}

/// What it is reckoned from how long a move still takes for what it is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EstimatedFrom {
    /// The rows that the statistics of the tables say there are to copy.
    TableStatistics,
    /// The bytes of the source's log that are not applied yet.
    LogLag,
    /// The rows that were copied, and are not compared yet.
    RowsCopied,
}

/// How it stands with the checksums of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// The ends were not compared, or not yet.
    NotYet,
    /// They are being compared.
    UnderWay,
    /// Both ends had the same checksum at one place of the source's log.
    Equal,
    /// They differed, and the move was undone.
    Different,
}

impl Comparison {
    /// The word as it stands in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotYet => "not_yet",
            Self::UnderWay => "under_way",
            Self::Equal => "equal",
            Self::Different => "different",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_read_as_they_are_written() {
        for status in MoveStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        for phase in MovePhase::ALL {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
        }
        for way in WayBack::ALL {
            assert_eq!(serde_json::to_value(way).unwrap(), way.as_str());
        }
        assert!("Moved".parse::<MoveStatus>().is_err());
    }

    #[test]
    fn only_what_may_be_in_two_places_is_open() {
        let open: Vec<_> = MoveStatus::ALL.into_iter().filter(|status| status.is_open()).collect();
        use MoveStatus::{Completing, Moved, RollingBack, Running};
        assert_eq!(open, [Running, Moved, RollingBack, Completing]);
    }

    #[test]
    fn progress_of_an_older_program_is_read() {
        let read: MoveProgress = serde_json::from_str(r#"{"phase":"copy","rows":3}"#).unwrap();
        assert_eq!((read.phase, read.rows, read.checksum), (MovePhase::Copy, 3, None));
        assert_eq!((read.narrowed_us, read.pace), (None, None));
    }
}
