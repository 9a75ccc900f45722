//! What of clients' words may be kept: of versions that there are, and so many of
//! a tenant.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use insula_config_model::{ConfigKey, Scope, Version};
use insula_domain::TenantId;
use insula_problem::Problem;

use crate::ConfigStore;
use crate::clients::Word;
use crate::rows;

const NEWEST: &str = "select p.scope, p.key, n.version
    from unnest($1::text[], $2::text[]) as p (scope, key)
    join config_values n on n.scope = p.scope and n.key = p.key";

const COUNT: &str = "select s.scope, (select count(*) from config_client_runs r where r.scope = s.scope)
    from unnest($1::text[]) as s (scope)";

const HAS: &str = "select r.scope, r.client_id, r.key
    from unnest($1::text[], $2::text[], $3::text[]) as n (scope, client_id, key)
    join config_client_runs r on r.scope = n.scope and r.client_id = n.client_id and r.key = n.key";

/// Room for those who come next: clients that have been silent for longest.
const EVICT: &str = "delete from config_clients c using (
        select distinct scope from unnest($1::text[]) as f (scope)) as f
    where c.scope = f.scope and c.at < $2";

impl ConfigStore {
    /// The numbers of the newest versions, of those that there are.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn newest_versions(
        &self,
        places: &BTreeSet<(Scope, ConfigKey)>,
    ) -> Result<BTreeMap<(Scope, ConfigKey), Version>, Problem> {
        let scopes: Vec<String> = places.iter().map(|(scope, _)| scope.to_string()).collect();
        let keys: Vec<&str> = places.iter().map(|(_, key)| key.as_str()).collect();
        let rows = self.lines.query(NEWEST, &[&scopes, &keys]).await?;
        let one = |row: &tokio_postgres::Row| {
            Ok(((rows::scope(row.get(0))?, rows::key(row.get(1))?), row.get::<_, Version>(2)))
        };
        rows.iter().map(one).collect()
    }

    /// Of how many keys the clients of each of these tenants have spoken, all of
    /// them together.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn count_words(&self, tenants: &[TenantId]) -> Result<BTreeMap<TenantId, u64>, Problem> {
        let rows = self.lines.query(COUNT, &[&scopes(tenants)]).await?;
        let mut counted = BTreeMap::new();
        for row in &rows {
            let count = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
            counted.extend(rows::scope(row.get(0))?.tenant().map(|tenant| (tenant, count)));
        }
        Ok(counted)
    }

    /// Of which of the keys of these words their clients have spoken before.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn has_words(
        &self,
        words: &[&Word],
    ) -> Result<BTreeSet<(TenantId, String, ConfigKey)>, Problem> {
        let each = || words.iter().flat_map(|word| word.runs.iter().map(move |run| (word, &run.key)));
        let scopes: Vec<String> = each().map(|(word, _)| Scope::Tenant(word.tenant).to_string()).collect();
        let ids: Vec<&str> = each().map(|(word, _)| word.client_id.as_str()).collect();
        let keys: Vec<&str> = each().map(|(_, key)| key.as_str()).collect();
        let rows = self.lines.query(HAS, &[&scopes, &ids, &keys]).await?;
        let mut found = BTreeSet::new();
        for row in &rows {
            let Some(tenant) = rows::scope(row.get(0))?.tenant() else { continue };
            found.insert((tenant, row.get(1), rows::key(row.get(2))?));
        }
        Ok(found)
    }

    /// Forgets those clients of these tenants that have been silent for so long, for
    /// those who come next.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn forget_silent(&self, tenants: &[TenantId], for_so_long: Duration) -> Result<(), Problem> {
        let silent = self.ambient.clock.now() - for_so_long;
        self.lines.query(EVICT, &[&scopes(tenants), &silent]).await.map(drop)
    }
}

fn scopes(tenants: &[TenantId]) -> Vec<String> {
    tenants.iter().map(|tenant| Scope::Tenant(*tenant).to_string()).collect()
}
