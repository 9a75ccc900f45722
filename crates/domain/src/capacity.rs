//! The choice of a cluster for a new placement: in the region, with room, the
//! emptiest first. Residency is decided before, by [`crate::may_reside`].

use thiserror::Error;

use crate::isolation::Isolation;
use crate::text::{ClusterName, RegionName};

/// What the choice needs to know of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRoom {
    /// The cluster.
    pub name: ClusterName,
    /// Where it stands.
    pub region: RegionName,
    /// Whether it takes new placements of several tenants; a cluster that
    /// belongs to one tenant, or that is being emptied, does not.
    pub shared: bool,
    /// Placements that it has, or has promised, of the model in question.
    pub used: u32,
    /// Placements of that model that it may have.
    pub capacity: u32,
}

impl ClusterRoom {
    fn has_room(&self) -> bool {
        self.shared && self.used < self.capacity
    }
}

/// No cluster of the region can take the placement.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "no cluster in {region} has room for one more tenant of the isolation model {isolation} \
     ({clusters} clusters looked at)"
)]
pub struct NoCluster {
    /// The region that was asked for.
    pub region: RegionName,
    /// The isolation model that was asked for.
    pub isolation: Isolation,
    /// How many shared clusters the region has.
    pub clusters: usize,
}

/// The cluster of the region with the most room in proportion to its size;
/// among equals the first by name, so that the choice can be foretold.
///
/// # Errors
/// [`NoCluster`] where none has room.
pub fn choose_cluster<'a>(
    region: &RegionName,
    isolation: Isolation,
    clusters: &'a [ClusterRoom],
) -> Result<&'a ClusterRoom, NoCluster> {
    let shared = || clusters.iter().filter(|cluster| cluster.shared && cluster.region == *region);
    shared()
        .filter(|cluster| cluster.has_room())
        .min_by(|a, b| {
            // used_a / capacity_a < used_b / capacity_b, without a division.
            let left = u64::from(a.used) * u64::from(b.capacity);
            let right = u64::from(b.used) * u64::from(a.capacity);
            left.cmp(&right).then_with(|| a.name.cmp(&b.name))
        })
        .ok_or_else(|| NoCluster { region: region.clone(), isolation, clusters: shared().count() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str, region: &str, shared: bool, used: u32, capacity: u32) -> ClusterRoom {
        ClusterRoom { name: name.parse().unwrap(), region: region.parse().unwrap(), shared, used, capacity }
    }

    #[test]
    fn the_emptiest_in_proportion_wins_and_full_ones_never_do() {
        let region = "us".parse().unwrap();
        let clusters = [
            room("full", "us", true, 10, 10),
            room("half", "us", true, 500, 1000),
            room("third", "us", true, 3, 9),
            room("elsewhere", "eu", true, 0, 10),
            room("dedicated", "us", false, 0, 10),
        ];
        let chosen = choose_cluster(&region, Isolation::Pool, &clusters).unwrap();
        assert_eq!(chosen.name.as_str(), "third");
        let refused = choose_cluster(&region, Isolation::Pool, &clusters[..1]).unwrap_err();
        assert_eq!(refused.clusters, 1);
        let nowhere = choose_cluster(&"eu".parse().unwrap(), Isolation::Pool, &clusters[..3]).unwrap_err();
        assert_eq!(nowhere.clusters, 0);
    }
}
