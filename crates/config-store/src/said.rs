//! What tenants' clients say of one version: who of them runs with it and who
//! refuses it, in pages, so that whoever asks can pass over those that do not count.

use insula_config_model::{ConfigKey, Scope, Version};
use insula_domain::TenantId;
use insula_problem::Problem;

use crate::ConfigStore;
use crate::rows;

const RUNNING: &str = "select scope, count(*), null::text from config_client_runs
    where key = $1 and set_in = $2 and version = $3 and rejection is null and scope > $4
    group by scope order by scope limit $5";

const REFUSING: &str = "select scope, count(*), min(rejection) from config_client_runs
    where key = $1 and set_in = $2 and version = $3 and rejection is not null and scope > $4
    group by scope order by scope limit $5";

/// One version of a key, where it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneVersion {
    /// Of which key.
    pub key: ConfigKey,
    /// Where it is set.
    pub set_in: Scope,
    /// The version.
    pub version: Version,
}

/// What is said of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// That it is run with.
    Runs,
    /// That it is not.
    Refuses,
}

/// A tenant of whose clients some say something of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    /// Which tenant.
    pub tenant: TenantId,
    /// How many of its clients.
    pub clients: u64,
    /// Why one of them refuses it; none where they run with it.
    pub rejection: Option<String>,
}

impl ConfigStore {
    /// Tenants of whose clients some say this of a version: so many tenants at the
    /// most, in their order, behind one of them.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn saying(
        &self,
        (says, of): (Says, &OneVersion),
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<Saying>, Problem> {
        let sql = match says {
            Says::Runs => RUNNING,
            Says::Refuses => REFUSING,
        };
        let set_in = of.set_in.to_string();
        let after = after.map_or_else(String::new, |tenant| Scope::Tenant(tenant).to_string());
        let limit = i64::from(limit);
        let rows = self.lines.query(sql, &[&of.key.as_str(), &set_in, &of.version, &after, &limit]).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            // Only tenants have clients.
            let Some(tenant) = rows::scope(row.get(0))?.tenant() else { continue };
            let clients = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
            found.push(Saying { tenant, clients, rejection: row.get(2) });
        }
        Ok(found)
    }
}
