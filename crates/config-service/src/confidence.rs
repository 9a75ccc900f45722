//! What is shown to some alone: secrets in clear.

use insula_config_model::Stored;
use insula_problem::Problem;

use crate::caller::Caller;
use crate::directory::Named;
use crate::service::Service;

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
}
