//! What backends outside still have of tenants that are gone: it is found when a
//! backend is gone through, and removed then. What fails is found the next time.

use std::collections::BTreeSet;

use insula_config_model::{Backend, Held, Scope};
use insula_domain::TenantId;
use insula_problem::Problem;

use super::align::PAGE;
use super::problem;
use crate::service::Service;

impl Service {
    /// Removes from a backend what it has of those of the tenants that are gone
    /// for good, by the catalog. One that is being deleted may be taken back, and
    /// one that the catalog never had is somebody else's.
    pub(super) async fn reap(&self, backend: &dyn Backend, held: &[Held]) -> Result<(), Problem> {
        let tenants = held.iter().filter_map(|held| held.scope.tenant());
        let strays: BTreeSet<TenantId> =
            tenants.filter(|tenant| self.directory.lineage(*tenant).is_none()).collect();
        if strays.is_empty() {
            return Ok(());
        }
        let strays: Vec<TenantId> = strays.into_iter().collect();
        for tenant in self.catalog.client().await?.buried_of(&strays).await? {
            backend.forget(&Scope::Tenant(tenant)).await.map_err(problem)?;
            tracing::info!(%tenant, backend = backend.name(), "removed what a backend had of a deleted tenant");
        }
        Ok(())
    }

    /// Goes through a backend that keeps no tag now: a tag may have been there.
    pub(super) async fn reap_all(&self, backend: &dyn Backend) -> Result<(), Problem> {
        let mut from = None;
        loop {
            let part = backend.sweep(from.as_deref(), PAGE).await.map_err(problem)?;
            self.reap(backend, &part.held).await?;
            match part.next {
                Some(next) => from = Some(next),
                None => return Ok(()),
            }
        }
    }
}
