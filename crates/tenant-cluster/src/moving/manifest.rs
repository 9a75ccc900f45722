//! What a tenant has in a placement, to be written down before it is removed.

use std::collections::BTreeMap;

use insula_problem::Problem;
use serde::{Deserialize, Serialize};

use super::{Place, tables};
use crate::db;

/// The tenant's rows in a placement, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Each table with its rows.
    pub tables: BTreeMap<String, u64>,
    /// All of them.
    pub rows: u64,
}

/// Counts the tenant's rows in a placement.
///
/// # Errors
/// Where the cluster is away.
pub async fn manifest(place: &Place) -> Result<Manifest, Problem> {
    let client = place.connect().await?;
    let mut counted = Manifest::default();
    for table in tables(&client, place).await? {
        let query =
            format!("select count(*) from {}{}", table.source(&place.placement.schema), place.filter());
        let rows: i64 = client.query_one(&query, &[]).await.map_err(db)?.get(0);
        counted.rows += rows.unsigned_abs();
        counted.tables.insert(table.name, rows.unsigned_abs());
    }
    Ok(counted)
}
