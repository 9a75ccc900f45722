//! Creating a tenant: everything is checked and reserved in one transaction,
//! and the rest is the workflow's.

use std::collections::BTreeSet;

use insula_api::CreateTenant;
use insula_catalog::{Author, CatalogClient, Change, NewTenant, Region};
use insula_domain::{
    ClusterName, Isolation, LoginId, OperationId, RegionGroup, RegionName, Slug, TenantId, TenantStatus,
    Tier, TierName, choose_cluster, may_reside,
};
use insula_problem::{Code, Problem};
use serde_json::json;

use super::find::find;
use crate::Control;
use crate::repeats::answer_operation;
use crate::workflows::create::CreateInput;

/// How deep the tree of tenants may be.
const DEPTH: usize = 32;

/// The most characters of a tenant's name for people.
pub const NAME_MAX: usize = 200;

/// What the call asks for, with every name looked up.
struct Wanted {
    slug: Slug,
    name: String,
    tier: Tier,
    region: RegionName,
    residency: RegionGroup,
    parent: Option<TenantId>,
}

/// Accepts a tenant to be created.
///
/// # Errors
/// For everything that is wrong with the request; nothing is left behind then.
pub async fn create(
    control: &Control,
    author: Author,
    request: &CreateTenant,
) -> Result<OperationId, Problem> {
    let mut client = control.catalog.client().await?;
    let wanted = look_up(&client, request).await?;
    let tenant = TenantId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let operation = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());

    let change = client.change(author).await?;
    if let Some(parent) = wanted.parent {
        check_parent(&change, parent).await?;
    }
    let cluster = reserve(&change, &wanted.region, wanted.tier.isolation).await?;
    if wanted.tier.isolation == Isolation::Cluster && control.provisioner.is_none() {
        return Err(Problem::new(
            Code::ProvisionerMissing,
            "A tenant with a server of its own needs a provisioner, and none is set: [provisioner] in insula.toml.",
        ));
    }
    change
        .add_tenant(&NewTenant {
            id: tenant,
            slug: wanted.slug.clone(),
            name: wanted.name.clone(),
            parent: wanted.parent,
            tier: wanted.tier.name.clone(),
            region: wanted.region.clone(),
            residency: wanted.residency.clone(),
            isolation: wanted.tier.isolation,
            cluster,
            key_generation: control.keys.current_generation(),
        })
        .await?;
    let detail = json!({"tier": wanted.tier.name, "region": wanted.region, "residency": wanted.residency});
    change.audit("tenant.create", Some(tenant), wanted.slug.as_str(), &detail).await?;
    let login = LoginId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let input = CreateInput { tenant, login };
    let run = crate::workflows::create::kind().new_run(operation, tenant.to_string(), &input, change.at());
    control.operations.start(&change, run).await?;
    answer_operation(&change, operation).await?;
    change.commit().await?;
    control.operations.wake();
    Ok(operation)
}

async fn look_up(client: &CatalogClient, request: &CreateTenant) -> Result<Wanted, Problem> {
    let slug: Slug = request.slug.parse().map_err(|error: insula_domain::InvalidName| {
        Problem::new(Code::InvalidSlug, sentence(&error.to_string())).at("/slug", error.rule)
    })?;
    let name = request.name.clone().unwrap_or_else(|| slug.to_string());
    check_name(&name)?;
    let tier = find_tier(client, &request.tier).await?;
    let regions = client.regions().await?;
    let region = find_region(&regions, &request.region)?;
    let residency = match &request.residency {
        Some(group) => find_group(&regions, group)?,
        None => narrowest_group(&regions, region),
    };
    may_reside(&residency, &region.name, &region.groups).map_err(|error| {
        Problem::new(Code::ResidencyViolation, sentence(&error.to_string())).at("/region", "outside")
    })?;
    let parent = match &request.parent {
        None => None,
        Some(parent) => Some(find(client, parent).await.map_err(|problem| {
            match problem.code() {
                Code::TenantNotFound => {
                    Problem::new(Code::ParentNotFound, format!("There is no tenant {}.", shorten(parent)))
                        .at("/parent", "not found")
                }
                _ => problem,
            }
        })?),
    };
    Ok(Wanted {
        slug,
        name,
        tier,
        region: region.name.clone(),
        residency,
        parent: parent.map(|parent| parent.id),
    })
}

/// The parent must be there to have children, and not too deep in the tree.
///
/// # Errors
/// `parent_not_usable` where it is not.
pub async fn check_parent(change: &Change<'_>, parent: TenantId) -> Result<(), Problem> {
    let record =
        change.lock_tenant(parent).await?.ok_or_else(|| Problem::internal("a parent that is gone"))?;
    if !matches!(record.status, TenantStatus::Active | TenantStatus::Suspended) {
        return Err(Problem::new(
            Code::ParentNotUsable,
            format!("The tenant {} is {} and cannot have children now.", record.slug, record.status),
        )
        .at("/parent", "not usable"));
    }
    if change.ancestors(parent).await?.len() + 1 >= DEPTH {
        return Err(Problem::new(
            Code::ParentNotUsable,
            format!("The tree of tenants may be {DEPTH} deep at the most."),
        )
        .at("/parent", "too deep"));
    }
    Ok(())
}

/// The cluster with room in the region; none for a cluster of its own.
async fn reserve(
    change: &Change<'_>,
    region: &RegionName,
    isolation: Isolation,
) -> Result<Option<ClusterName>, Problem> {
    if isolation == Isolation::Cluster {
        return Ok(None);
    }
    let clusters = change.lock_cluster_room(region, isolation).await?;
    let chosen = choose_cluster(region, isolation, &clusters)
        .map_err(|error| Problem::new(Code::NoCapacity, sentence(&error.to_string())))?;
    Ok(Some(chosen.name.clone()))
}

/// A tier by what the caller wrote.
///
/// # Errors
/// `unknown_tier` with the tiers that there are.
pub async fn find_tier(client: &CatalogClient, text: &str) -> Result<Tier, Problem> {
    let tier = match text.parse::<TierName>() {
        Ok(name) => client.tier(&name).await?,
        Err(_) => None,
    };
    if let Some(tier) = tier {
        return Ok(tier);
    }
    let names: Vec<_> = client.tiers().await?.into_iter().map(|tier| tier.name.to_string()).collect();
    Err(Problem::new(
        Code::UnknownTier,
        format!("There is no tier {}. There are: {}.", shorten(text), names.join(", ")),
    )
    .at("/tier", "unknown"))
}

/// A region by what the caller wrote.
///
/// # Errors
/// `unknown_region` with the regions that there are.
pub fn find_region<'r>(regions: &'r [Region], text: &str) -> Result<&'r Region, Problem> {
    regions.iter().find(|region| region.name.as_str() == text).ok_or_else(|| {
        let names: Vec<_> = regions.iter().map(|region| region.name.as_str()).collect();
        Problem::new(
            Code::UnknownRegion,
            format!("There is no region {}. There are: {}.", shorten(text), names.join(", ")),
        )
        .at("/region", "unknown")
    })
}

/// A region group by what the caller wrote.
///
/// # Errors
/// `unknown_region_group` with the groups that there are.
pub fn find_group(regions: &[Region], text: &str) -> Result<RegionGroup, Problem> {
    let groups: BTreeSet<_> = regions.iter().flat_map(|region| &region.groups).collect();
    groups.iter().find(|group| group.as_str() == text).map(|group| (*group).clone()).ok_or_else(|| {
        let names: Vec<_> = groups.iter().map(|group| group.as_str()).collect();
        Problem::new(
            Code::UnknownRegionGroup,
            format!("There is no region group {}. There are: {}.", shorten(text), names.join(", ")),
        )
        .at("/residency", "unknown")
    })
}

/// The group of the region that holds the fewest regions, so that a tenant
/// that says nothing is bound as tightly as its region allows.
fn narrowest_group(regions: &[Region], region: &Region) -> RegionGroup {
    let size = |group: &RegionGroup| regions.iter().filter(|other| other.groups.contains(group)).count();
    region
        .groups
        .iter()
        .min_by_key(|group| (size(group), (*group).clone()))
        .cloned()
        .unwrap_or_else(|| unreachable!("a region is in a group"))
}

/// A tenant's name for people: 1 to 200 characters, none of them a control.
///
/// # Errors
/// `invalid_request` where it is not.
pub fn check_name(name: &str) -> Result<(), Problem> {
    let length = name.chars().count();
    if (1..=NAME_MAX).contains(&length) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let rule = format!("The name has 1 to {NAME_MAX} characters and no control characters.");
    Err(Problem::new(Code::InvalidRequest, rule.clone()).at("/name", rule))
}

fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

/// An error's text as a sentence.
#[must_use]
pub fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first: String = characters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", characters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str, groups: &[&str]) -> Region {
        Region {
            name: name.parse().unwrap(),
            groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_tenant_that_says_nothing_is_bound_to_the_narrowest_group() {
        let regions = [
            region("us-east-1", &["global", "us"]),
            region("us-west-2", &["global", "us"]),
            region("eu-west-1", &["eu", "global"]),
        ];
        assert_eq!(narrowest_group(&regions, &regions[0]).as_str(), "us");
        assert_eq!(narrowest_group(&regions, &regions[2]).as_str(), "eu");
    }

    #[test]
    fn what_there_is_is_said() {
        let regions = [region("us-east-1", &["us"])];
        let problem = find_region(&regions, "mars").unwrap_err();
        assert_eq!(problem.code(), Code::UnknownRegion);
        assert!(problem.detail().contains("us-east-1"));
        assert_eq!(find_group(&regions, "eu").unwrap_err().code(), Code::UnknownRegionGroup);
        assert!(
            check_name("").is_err() && check_name("a\nb").is_err() && check_name(&"x".repeat(201)).is_err()
        );
    }
}
