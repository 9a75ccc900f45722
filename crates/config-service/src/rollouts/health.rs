//! What clients say of a version that is being rolled out. A tenant counts as
//! long as the step reaches it and it sees the version where it is being rolled
//! out, and once however many clients it has: no tenant can say more than that it
//! runs with it, or refuses it. Those that run with it count each in its own scope.

use std::collections::{BTreeMap, BTreeSet};

use insula_config_model::{Explained, Health, Layer, Lineage, Scope, Stored};
use insula_config_store::{ConfigStore, OneVersion, Saying, Says};
use insula_domain::{RegionName, TenantId};
use insula_problem::{Code, Problem};

use super::Kept;
use crate::directory::Named;
use crate::service::Service;

/// Tenants of which is read at once what their clients say.
const PAGE: u32 = 500;
/// Tenants of which is looked at once whether they see a version.
const LOOKED_AT: usize = 50;

/// How many are counted, where there are more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counting {
    /// As many as decide what becomes of the rollout.
    Deciding,
    /// As many as that, and 200 for those who want to know.
    Showing,
}

impl Counting {
    fn up_to(self, deciding: u64) -> u64 {
        match self {
            Self::Deciding => deciding,
            Self::Showing => deciding.max(200),
        }
    }
}

impl Service {
    pub(super) async fn health(&self, kept: &Kept, counting: Counting) -> Result<Health, Problem> {
        let plan = &kept.rollout.plan;
        let enough = counting.up_to(u64::from(plan.rejections) + 1);
        let refusing = self.counted(kept, Says::Refuses, enough).await?;
        let enough = counting.up_to(u64::from(plan.confirmations));
        let running = self.counted(kept, Says::Runs, enough).await?;
        Ok(Health {
            confirmed: running.iter().map(|saying| kept.weight(saying)).sum(),
            rejecting: refusing.len() as u64,
            rejection: refusing.into_iter().find_map(|saying| saying.rejection),
        })
    }

    /// Those who say this of the version, and count; not many more than are enough.
    async fn counted(&self, kept: &Kept, says: Says, enough: u64) -> Result<Vec<Saying>, Problem> {
        let stores: Vec<&ConfigStore> = match &kept.named {
            Named::Tenant(_) => vec![self.store_of(&kept.named)?],
            Named::Provider(_) => self.regions.values().map(|region| &region.store).collect(),
        };
        let of = kept.candidate();
        let weight = |saying: &Saying| if says == Says::Runs { kept.weight(saying) } else { 1 };
        // One that has moved has clients in the store that it left, too.
        let (mut known, mut counted, mut weighed) = (BTreeSet::new(), Vec::new(), 0);
        for store in stores {
            let mut after = None;
            while weighed < enough {
                let page = store.saying((says, &of), after, PAGE).await?;
                let is_last = page.len() < PAGE as usize;
                after = page.last().map(|saying| saying.tenant);
                let is_reached = |saying: &Saying| kept.rollout.reaches(saying.tenant);
                let reached: Vec<Saying> = page.into_iter().filter(is_reached).collect();
                for part in reached.chunks(LOOKED_AT) {
                    if weighed >= enough {
                        break;
                    }
                    let seeing = self.seeing(kept, says, part).await?;
                    for saying in part.iter().filter(|saying| seeing.contains(&saying.tenant)) {
                        if known.insert(saying.tenant) {
                            weighed += weight(saying);
                            counted.push(saying.clone());
                        }
                    }
                }
                if is_last {
                    break;
                }
            }
        }
        Ok(counted)
    }

    /// Which of them see the version where it is rolled out.
    async fn seeing(&self, kept: &Kept, says: Says, part: &[Saying]) -> Result<BTreeSet<TenantId>, Problem> {
        let is_moving = |problem: &Problem| problem.code() == Code::ConfigMoving;
        let all = part.iter().map(|saying| saying.tenant);
        match self.seeing_together(kept, all).await {
            // Who runs with it counts again when it has come; for one that
            // refuses it, the rollout waits.
            Err(problem) if is_moving(&problem) && says == Says::Runs => {}
            seeing => return seeing,
        }
        let mut seeing = BTreeSet::new();
        for saying in part {
            match self.seeing_together(kept, [saying.tenant]).await {
                Err(problem) if is_moving(&problem) => {}
                one => seeing.append(&mut one?),
            }
        }
        Ok(seeing)
    }

    async fn seeing_together(
        &self,
        kept: &Kept,
        tenants: impl IntoIterator<Item = TenantId>,
    ) -> Result<BTreeSet<TenantId>, Problem> {
        let mut by_region: BTreeMap<RegionName, Vec<Lineage>> = BTreeMap::new();
        for lineage in tenants.into_iter().filter_map(|tenant| self.directory.lineage(tenant)) {
            by_region.entry(lineage.region.clone()).or_default().push(lineage);
        }
        let mut seeing = BTreeSet::new();
        for (region, lineages) in by_region {
            // One that went to a region of another process is asked there.
            let Some(region) = self.regions.get(&region) else { continue };
            let tag = &kept.tagged.tag;
            let scopes: BTreeSet<Scope> = lineages.iter().flat_map(|one| one.scopes_under(tag)).collect();
            let scopes: Vec<Scope> = scopes.into_iter().collect();
            let newest = region.store.newest(&scopes, &kept.tagged.key).await?.layers;
            let newest: BTreeMap<&Scope, &Layer> = newest.iter().map(|layer| (&layer.scope, layer)).collect();
            let sees = |lineage: &Lineage| {
                let mut scopes = lineage.scopes_under(tag);
                scopes.reverse();
                let layers = scopes.iter().filter_map(|scope| newest.get(scope));
                let layers = layers.map(|layer| (*layer).clone().seen_by(lineage.tenant)).collect();
                kept.is_seen_in(&Explained { layers })
            };
            seeing.extend(lineages.iter().filter(|lineage| sees(lineage)).map(|lineage| lineage.tenant));
        }
        Ok(seeing)
    }
}

impl Kept {
    fn candidate(&self) -> OneVersion {
        let (key, set_in) = (self.tagged.key.clone(), self.named.scope());
        OneVersion { key, set_in, version: self.rollout.candidate }
    }

    /// For how many counts a tenant whose clients run with the version.
    fn weight(&self, saying: &Saying) -> u64 {
        if self.named.scope().tenant() == Some(saying.tenant) { saying.clients } else { 1 }
    }

    /// Whether what is rolled out is what counts of these.
    fn is_seen_in(&self, layers: &Explained) -> bool {
        let (scope, version) = (self.named.scope(), self.rollout.candidate);
        let is_it = |seen: &Stored| seen.scope == scope && seen.version == version;
        // A removal is refused by those who see nothing in its place.
        let of_scope = layers.layers.iter().find(|layer| layer.scope == scope);
        layers.value().or_else(|| of_scope.and_then(|layer| layer.stored.as_ref())).is_some_and(is_it)
    }
}
