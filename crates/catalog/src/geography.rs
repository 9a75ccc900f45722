//! Regions and region groups.

use std::collections::BTreeSet;

use insula_domain::{RegionGroup, RegionName};
use insula_problem::Problem;

use crate::change::{CatalogClient, Change};
use crate::db;
use crate::rows::parsed;

/// A region and the groups that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: RegionName,
    /// The boundaries of residency that enclose it.
    pub groups: BTreeSet<RegionGroup>,
}

impl CatalogClient {
    /// All regions by name.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn regions(&self) -> Result<Vec<Region>, Problem> {
        let rows = self
            .raw()
            .query(
                "select r.name, m.region_group from regions r
                 join region_group_members m on m.region = r.name order by r.name, m.region_group",
                &[],
            )
            .await
            .map_err(db)?;
        let mut regions: Vec<Region> = Vec::new();
        for row in rows {
            let name: RegionName = parsed(&row, "name")?;
            let group = parsed(&row, "region_group")?;
            match regions.last_mut() {
                Some(last) if last.name == name => {
                    last.groups.insert(group);
                }
                _ => regions.push(Region { name, groups: BTreeSet::from([group]) }),
            }
        }
        Ok(regions)
    }
}

impl Change<'_> {
    /// Adds a region, or adds groups to one that is there.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn put_region(&self, region: &Region) -> Result<(), Problem> {
        let name = region.name.as_str();
        self.raw()
            .execute(
                "insert into regions (name, created_at) values ($1, $2) on conflict do nothing",
                &[&name, &self.at()],
            )
            .await
            .map_err(db)?;
        for group in &region.groups {
            self.raw()
                .execute(
                    "insert into region_groups (name) values ($1) on conflict do nothing",
                    &[&group.as_str()],
                )
                .await
                .map_err(db)?;
            self.raw()
                .execute(
                    "insert into region_group_members (region, region_group) values ($1, $2) on conflict do nothing",
                    &[&name, &group.as_str()],
                )
                .await
                .map_err(db)?;
        }
        Ok(())
    }
}
