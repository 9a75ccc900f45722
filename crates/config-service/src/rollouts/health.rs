//! What clients say of a version that is being rolled out. A tenant counts as
//! long as it sees the version where it is being rolled out, and once however
//! many clients it has: no tenant can say more than that it refuses.

use std::collections::BTreeMap;

use insula_config_model::Health;
use insula_config_store::ConfigStore;
use insula_domain::TenantId;
use insula_problem::Problem;

use super::Kept;
use crate::directory::Named;
use crate::service::Service;

/// Tenants of a region that refuse a version, of which is looked whether they see it.
const LOOKED_AT: u32 = 200;

impl Service {
    pub(super) async fn health(&self, kept: &Kept) -> Result<Health, Problem> {
        let mut health = Health::default();
        let (scope, key, version) = (kept.named.scope(), &kept.tagged.key, kept.rollout.candidate);
        let stores: Vec<&ConfigStore> = match &kept.named {
            Named::Tenant(_) => vec![self.store_of(&kept.named)?],
            Named::Provider(_) => self.regions.values().map(|region| &region.store).collect(),
        };
        let mut rejecting: BTreeMap<TenantId, String> = BTreeMap::new();
        for store in stores {
            let (confirmed, said) = store.said_of(key, &scope, version, LOOKED_AT).await?;
            health.confirmed += confirmed;
            rejecting.extend(said);
        }
        rejecting.retain(|tenant, _| kept.rollout.reaches(*tenant));
        for (tenant, reason) in rejecting {
            let Some(lineage) = self.directory.lineage(tenant) else { continue };
            let layers = self.layers(&lineage, &kept.tagged).await?;
            let is_it = |seen: &insula_config_model::Stored| seen.scope == scope && seen.version == version;
            // A removal is refused by those who see nothing in its place.
            let of_scope = layers.layers.iter().find(|layer| layer.scope == scope);
            if layers.value().or_else(|| of_scope.and_then(|layer| layer.stored.as_ref())).is_some_and(is_it)
            {
                health.rejecting += 1;
                health.rejection.get_or_insert(reason);
            }
        }
        Ok(health)
    }
}
