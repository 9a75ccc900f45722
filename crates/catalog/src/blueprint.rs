//! Where the blueprint is kept.

use insula_domain::ClusterName;
use insula_problem::Problem;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::change::{CatalogClient, Change};
use crate::db;
use crate::rows::{parsed, unsigned};

/// Where the blueprint is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlueprintRecord {
    /// The cluster.
    pub cluster: ClusterName,
    /// The generation of the master key from which its password is derived.
    pub key_generation: u32,
    /// How it differed from the versions when it was last compared.
    pub drift: Vec<BlueprintDrift>,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// A difference between the blueprint and what the versions make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueprintDrift {
    /// The object.
    pub object: String,
    /// What is different about it.
    pub detail: String,
}

impl CatalogClient {
    /// Where the blueprint is; none where nobody has asked for it yet.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn blueprint(&self) -> Result<Option<BlueprintRecord>, Problem> {
        let row = self
            .raw()
            .query_opt("select cluster, key_generation, drift, created_at from blueprint", &[])
            .await
            .map_err(db)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(BlueprintRecord {
            cluster: parsed(&row, "cluster")?,
            key_generation: unsigned("key_generation", row.get::<_, i32>("key_generation"))?,
            drift: serde_json::from_value(row.get("drift")).map_err(Problem::internal)?,
            created_at: row.get("created_at"),
        }))
    }
}

impl Change<'_> {
    /// Notes where the blueprint is, and the generation of its password.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_blueprint(&self, cluster: &ClusterName, key_generation: u32) -> Result<(), Problem> {
        let generation = i32::try_from(key_generation).map_err(Problem::internal)?;
        self.raw()
            .execute(
                "insert into blueprint (cluster, key_generation, created_at) values ($1, $2, $3)
                 on conflict (the_one) do update set cluster = excluded.cluster,
                     key_generation = excluded.key_generation",
                &[&cluster.as_str(), &generation, &self.at()],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Notes how the blueprint differs from the versions.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_blueprint_drift(&self, drift: &[BlueprintDrift]) -> Result<(), Problem> {
        let drift = serde_json::to_value(drift).map_err(Problem::internal)?;
        self.raw().execute("update blueprint set drift = $1", &[&drift]).await.map_err(db)?;
        Ok(())
    }
}
