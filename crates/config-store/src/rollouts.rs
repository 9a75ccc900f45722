//! The rollouts that are under way, as the values that say where they are.

use insula_config_model::{Scope, Stored};
use insula_problem::Problem;
use insula_sql_store::Store;

use crate::ConfigStore;
use crate::rows::{self, version_columns};

/// Of what is only copied here, the store that it comes from looks after.
const UNDER_WAY: &str = concat!(
    "select ",
    version_columns!(),
    " from config_values n
      join config_versions v on v.scope = n.scope and v.key = n.key and v.version = n.version
      where n.key >= 'insula_rollout/' and n.key < 'insula_rollout0' and v.kind = 1
        and convert_from(v.value, 'UTF8')::jsonb ->> 'state' in ('running', 'paused')
        and case when $1 then exists (
                select from config_homes h where h.scope = n.scope and h.state = 'open')
            else n.scope not like 'tenant/%' end
        and ($3::text is null or n.scope = $3)
      order by n.key, n.scope limit $2"
);

impl ConfigStore {
    /// The rollouts that are under way in one scope of this store, or in all of
    /// them: where each is.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn rollouts(&self, scope: Option<&Scope>, limit: u32) -> Result<Vec<Stored>, Problem> {
        let is_of_tenants = self.store == Store::Region;
        let scope = scope.map(ToString::to_string);
        let rows = self.lines.query(UNDER_WAY, &[&is_of_tenants, &i64::from(limit), &scope]).await?;
        let read = rows.iter().map(|row| rows::version_at(row, 0));
        read.filter_map(Result::transpose).collect()
    }
}
