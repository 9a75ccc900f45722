//! The rule of residency: a tenant's data stays in its region group.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::text::{RegionGroup, RegionName};

/// The region is outside the tenant's region group.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("region {region} is not in the region group {residency}, in which this tenant's data must stay")]
pub struct ResidencyViolation {
    /// The region that was asked for.
    pub region: RegionName,
    /// The region group that bounds the tenant.
    pub residency: RegionGroup,
}

/// Whether data of a tenant with this residency may stand in the region whose
/// groups are given. A region may belong to several groups (`us` and `global`).
///
/// # Errors
/// [`ResidencyViolation`] where the region is outside the group.
pub fn may_reside(
    residency: &RegionGroup,
    region: &RegionName,
    groups_of_region: &BTreeSet<RegionGroup>,
) -> Result<(), ResidencyViolation> {
    if groups_of_region.contains(residency) {
        Ok(())
    } else {
        Err(ResidencyViolation { region: region.clone(), residency: residency.clone() })
    }
}
