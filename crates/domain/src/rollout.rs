//! How a version of the app schema goes over the fleet: first to the canaries,
//! then tier by tier, in waves. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::app_tables::AppTables;
use crate::ids::TenantId;
use crate::isolation::Isolation;
use crate::text::{ClusterName, TierName};

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStatus {
    /// Under way.
    Rolling,
    /// Asked to pause: what is being brought is brought to its end.
    Pausing,
    /// At rest between two placements, until it is resumed.
    Paused,
    /// Ended, and not every placement has the version. It can be tried again.
    Failed,
    /// Ended: every placement has the version.
    Done,
    /// A newer rollout has taken over what was left of it.
    Superseded,
}

/// Where a placement is in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutPlacementStatus {
    /// Not begun.
    Waiting,
    /// Being brought.
    Running,
    /// It has the version.
    Done,
    /// It could not be brought.
    Failed,
}

/// A word that is no such status.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no status of a rollout")]
pub struct UnknownRolloutStatus(String);

macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// The word as it stands in the API and the catalog.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = UnknownRolloutStatus;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownRolloutStatus(word.to_owned())),
                }
            }
        }
    };
}

words!(RolloutStatus {
    Rolling => "rolling",
    Pausing => "pausing",
    Paused => "paused",
    Failed => "failed",
    Done => "done",
    Superseded => "superseded",
});

words!(RolloutPlacementStatus {
    Waiting => "waiting",
    Running => "running",
    Done => "done",
    Failed => "failed",
});

/// A tenant that is behind, as far as its wave depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BehindTenant {
    /// Which.
    pub id: TenantId,
    /// What it has bought.
    pub tier: TierName,
    /// How it is kept apart.
    pub isolation: Isolation,
    /// Where its tables are.
    pub cluster: ClusterName,
}

impl BehindTenant {
    fn tables(&self) -> AppTables {
        match self.isolation {
            Isolation::Pool => AppTables::Pool(self.cluster.clone()),
            Isolation::Schema | Isolation::Database | Isolation::Cluster => AppTables::Silo(self.id),
        }
    }
}

/// Tables that are to be brought, and in which wave. Wave 0 is the canaries'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What is brought as a whole.
    pub tables: AppTables,
    /// Its cluster.
    pub cluster: ClusterName,
    /// From 0.
    pub wave: u32,
}

/// Divides what is behind into waves: the canaries, then the shared tables,
/// then the silos, tier by tier, the lighter isolation models first, in waves
/// of at most `wave_size` (at least 1). Shared tables have one version for all
/// tenants in them: they go with the canaries where one of those is in them.
#[must_use]
pub fn plan_waves(
    pools: &BTreeSet<ClusterName>,
    tenants: &[BehindTenant],
    canaries: &BTreeSet<TenantId>,
    wave_size: u32,
) -> Vec<Planned> {
    let shared = tenants.iter().filter(|tenant| tenant.isolation == Isolation::Pool);
    let mut groups: BTreeMap<(bool, Isolation, Option<&TierName>), BTreeMap<AppTables, &ClusterName>> =
        BTreeMap::new();
    let early: BTreeSet<AppTables> =
        tenants.iter().filter(|tenant| canaries.contains(&tenant.id)).map(BehindTenant::tables).collect();
    let mut add = |tables: AppTables, isolation, tier, cluster| {
        let group =
            if early.contains(&tables) { (false, Isolation::Pool, None) } else { (true, isolation, tier) };
        groups.entry(group).or_default().insert(tables, cluster);
    };
    for cluster in pools.iter().chain(shared.map(|tenant| &tenant.cluster)) {
        add(AppTables::Pool(cluster.clone()), Isolation::Pool, None, cluster);
    }
    for tenant in tenants.iter().filter(|tenant| tenant.isolation != Isolation::Pool) {
        add(tenant.tables(), tenant.isolation, Some(&tenant.tier), &tenant.cluster);
    }

    let wave_size = usize::try_from(wave_size).unwrap_or(usize::MAX).max(1);
    let mut wave = 0;
    let mut planned = Vec::new();
    for ((is_late, ..), group) in groups {
        let members: Vec<_> = group.into_iter().collect();
        // All canaries together, however many: they are there to fail first.
        for part in members.chunks(if is_late { wave_size } else { usize::MAX }) {
            wave += u32::from(is_late);
            planned.extend(part.iter().map(|(tables, cluster)| Planned {
                tables: tables.clone(),
                cluster: (*cluster).clone(),
                wave,
            }));
        }
    }
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: u8, tier: &str, isolation: Isolation, cluster: &str) -> BehindTenant {
        let id = format!("01900000-0000-7000-8000-0000000000{number:02x}").parse().unwrap();
        BehindTenant { id, tier: tier.parse().unwrap(), isolation, cluster: cluster.parse().unwrap() }
    }

    fn waves(planned: &[Planned]) -> Vec<(u32, String)> {
        planned.iter().map(|planned| (planned.wave, planned.tables.to_string())).collect()
    }

    #[test]
    fn canaries_then_pools_then_silos_tier_by_tier() {
        let tenants = [
            tenant(1, "business", Isolation::Database, "a"),
            tenant(2, "standard", Isolation::Schema, "a"),
            tenant(3, "free", Isolation::Pool, "a"),
            tenant(4, "free", Isolation::Pool, "b"),
            tenant(5, "standard", Isolation::Schema, "b"),
            tenant(6, "standard", Isolation::Schema, "b"),
        ];
        let silo = |index: usize| format!("silo/{}", tenants[index].id);
        let pools = BTreeSet::from(["c".parse().unwrap()]);
        let canaries = BTreeSet::from([tenants[0].id, tenants[3].id]);
        let planned = plan_waves(&pools, &tenants, &canaries, 2);
        assert_eq!(
            waves(&planned),
            [
                (0, "pool/b".to_owned()),
                (0, silo(0)),
                (1, "pool/a".to_owned()),
                (1, "pool/c".to_owned()),
                (2, silo(1)),
                (2, silo(4)),
                (3, silo(5)),
            ]
        );
        assert_eq!(planned[0].cluster.as_str(), "b");
    }

    #[test]
    fn without_canaries_the_first_wave_is_the_pools() {
        let tenants = [tenant(1, "free", Isolation::Pool, "a"), tenant(2, "free", Isolation::Pool, "a")];
        let planned = plan_waves(&BTreeSet::new(), &tenants, &BTreeSet::new(), 0);
        assert_eq!(waves(&planned), [(1, "pool/a".to_owned())]);
        assert_eq!(plan_waves(&BTreeSet::new(), &[], &BTreeSet::new(), 5), []);
    }

    #[test]
    fn the_words_are_read_as_they_are_written() {
        for word in ["rolling", "pausing", "paused", "failed", "done", "superseded"] {
            assert_eq!(word.parse::<RolloutStatus>().unwrap().as_str(), word);
        }
        for word in ["waiting", "running", "done", "failed"] {
            assert_eq!(word.parse::<RolloutPlacementStatus>().unwrap().as_str(), word);
        }
        assert!("Done".parse::<RolloutStatus>().is_err());
    }
}
