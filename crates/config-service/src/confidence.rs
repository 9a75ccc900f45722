//! What is shown to some alone: secrets in clear, and to whom they were shown.

use std::cmp::Reverse;

use insula_config_model::Stored;
use insula_config_store::{ConfigStore, SecretRead};
use insula_problem::Problem;

use crate::caller::Caller;
use crate::directory::Named;
use crate::service::Service;
use crate::tags::tagged;

impl Service {
    /// Versions with their secrets in clear, which is written down. Whether the
    /// caller may see them was asked before.
    pub(crate) async fn reveal_all(
        &self,
        caller: &Caller,
        named: &Named,
        versions: &mut [Stored],
    ) -> Result<(), Problem> {
        caller.check_reveal()?;
        self.store_of(named)?.reveal(versions, &caller.name()).await
    }

    /// One version with its secret in clear, as [`Service::reveal_all`].
    pub(crate) async fn reveal(
        &self,
        caller: &Caller,
        named: &Named,
        mut stored: Stored,
    ) -> Result<Stored, Problem> {
        self.reveal_all(caller, named, std::slice::from_mut(&mut stored)).await?;
        Ok(stored)
    }

    /// Who was shown the secrets of a scope, or the one under a key there, the
    /// latest first; for operators. The provider's are looked for in all regions
    /// that this process serves, since it is written down where a secret is read.
    ///
    /// # Errors
    /// What is wrong with the question; where a store is away.
    pub async fn reads(
        &self,
        caller: &Caller,
        (scope, key): (&str, Option<&str>),
        limit: u32,
    ) -> Result<Vec<SecretRead>, Problem> {
        caller.check_operator("Who was shown which secret is")?;
        let table = self.tags.known()?;
        let key = key.map(|key| tagged(&table, key)).transpose()?.map(|tagged| tagged.key);
        let named = self.directory.named(caller, scope)?;
        let stores: Vec<&ConfigStore> = match &named {
            Named::Tenant(_) => vec![self.store_of(&named)?],
            Named::Provider(_) => {
                let regions = self.regions.values().map(|region| &region.store);
                regions.chain([&self.provider.0]).collect()
            }
        };
        let mut reads = Vec::new();
        for store in stores {
            reads.extend(store.reads(&named.scope(), key.as_ref(), limit).await?);
        }
        reads.sort_by_key(|read| Reverse(read.at));
        reads.truncate(limit as usize);
        Ok(reads)
    }
}
