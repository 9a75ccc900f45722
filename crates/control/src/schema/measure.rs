//! How far the fleet is, for whoever watches: the newest version, and how many
//! placements have it. Versions are no labels, as there is no end to them.

use insula_catalog::CatalogClient;
use insula_problem::Problem;
use metrics::{Unit, describe_gauge, gauge};

const NEWEST: &str = "insula_schema_newest_version";
const PLACEMENTS: &str = "insula_schema_placements";
const FAILURES: &str = "insula_schema_failures";

/// Says what the figures mean.
pub fn describe() {
    describe_gauge!(NEWEST, "The newest published version of the app schema");
    describe_gauge!(
        PLACEMENTS,
        Unit::Count,
        "Tenants whose tables have the newest version, and those behind"
    );
    describe_gauge!(FAILURES, Unit::Count, "Placements that a version could not be brought to");
}

/// Reads the figures.
///
/// # Errors
/// Where the catalog is away.
pub async fn placements(client: &CatalogClient) -> Result<(), Problem> {
    let newest = client.newest_schema_version().await?;
    let (mut current, mut behind) = (0, 0);
    for (version, tenants) in client.placements_by_version().await? {
        *if version == newest { &mut current } else { &mut behind } += tenants;
    }
    gauge!(NEWEST).set(f64::from(newest.0));
    gauge!(PLACEMENTS, "state" => "current").set(f64::from(current));
    gauge!(PLACEMENTS, "state" => "behind").set(f64::from(behind));
    gauge!(FAILURES).set(f64::from(client.count_schema_failures().await?));
    Ok(())
}
