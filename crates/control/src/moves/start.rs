//! Asking for a move: everything is checked and reserved in one transaction,
//! and the rest is the workflow's. A plan is the same without the transaction.

use insula_api::StartMove;
use insula_catalog::{Author, CatalogClient, Change, MoveRecord, TenantRecord};
use insula_domain::{
    ClusterName, Isolation, MoveEnd, MoveProgress, MoveStatus, MoveTerms, OperationId, Placement, RegionName,
    TenantStatus, TierName, choose_cluster, may_reside,
};
use insula_problem::{Code, Problem};
use serde_json::json;

use super::{preflight, refusals};
use crate::Control;
use crate::repeats::answer_operation;
use crate::tenants::create::{find_region, find_tier, sentence};
use crate::tenants::find::find;
use crate::workflows::moving::{MoveInput, move_kind};

/// What the call asks for, with every name looked up.
#[derive(Debug)]
pub(super) struct Wanted {
    tier: TierName,
    isolation: Isolation,
    region: RegionName,
    cluster: Option<ClusterName>,
    /// Why the tenant may not be there.
    outside: Option<Problem>,
}

/// A plan's ends, and what of the target is refused.
#[derive(Debug)]
pub(super) struct Ends {
    pub tenant: TenantRecord,
    pub from: MoveEnd,
    pub to: MoveEnd,
    pub refusals: Vec<(&'static str, Problem)>,
}

/// Accepts a move.
///
/// # Errors
/// For everything that is wrong with the request; nothing is left behind then.
pub async fn start(
    control: &Control,
    author: Author,
    slug_or_id: &str,
    request: &StartMove,
) -> Result<OperationId, Problem> {
    let terms = terms(request)?;
    let mut client = control.catalog.client().await?;
    let seen = find(&client, slug_or_id).await?;
    let mut wanted = look_up(&client, &seen, request).await?;
    refused(wanted.outside.take())?;
    refused(refusals::rollout(&client).await?)?;
    // What is known already is said before anything is begun; the first step
    // looks again.
    preflight::check(control, &seen, preflight::To { isolation: wanted.isolation, cluster: None }).await?;

    let id = OperationId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let change = client.change(author).await?;
    let tenant =
        change.lock_tenant(seen.id).await?.ok_or_else(|| Problem::internal("a tenant that is gone"))?;
    if tenant.residency != seen.residency {
        return Err(Problem::new(
            Code::PreconditionFailed,
            "The tenant's residency has just been changed. Ask again.",
        ));
    }
    let (source, placement) = source_of(&tenant)?;
    let open = change.open_move(tenant.id).await?;
    refused(refusals::open_move(&tenant, open.as_ref()))?;
    let newest = change.hold_newest_schema_version().await?;
    refused(refusals::version(&tenant, newest))?;
    refused(same_place(&tenant, &source, &wanted))?;
    let target = end_of(&tenant, &source, &wanted, room(&change, &wanted, &source).await?);
    refused(refusals::provisioner(control, wanted.isolation))?;
    if let Some(cluster) = &target.cluster {
        refused(refusals::left(&tenant, &target, change.left_on(tenant.id, cluster).await?))?;
    }
    let record = MoveRecord {
        id,
        tenant: tenant.id,
        slug: Some(tenant.slug.clone()),
        status: MoveStatus::Running,
        operation: id,
        source,
        target,
        schema_version: newest,
        terms,
        progress: MoveProgress::default(),
        cancel: false,
        error: None,
        manifest: None,
        created_at: change.at(),
        committed_at: None,
        window_ends_at: None,
        ended_at: None,
        keeper_until: None,
    };
    change.add_move(&record).await?;
    let detail = json!({"move": id, "from": record.source, "to": record.target, "terms": terms,
        "epoch": placement.epoch});
    change.audit("tenant.move", Some(tenant.id), tenant.slug.as_str(), &detail).await?;
    let input = MoveInput { tenant: tenant.id, tenant_move: id };
    control
        .operations
        .start(&change, move_kind().new_run(id, tenant.id.to_string(), &input, change.at()))
        .await?;
    answer_operation(&change, id).await?;
    change.commit().await?;
    control.operations.wake();
    Ok(id)
}

fn refused(refusal: Option<Problem>) -> Result<(), Problem> {
    refusal.map_or(Ok(()), Err)
}

/// Where the tenant would go; nothing is reserved. What only keeps it from going
/// there is no error.
///
/// # Errors
/// As [`start`], as far as it is wrong with the request.
pub(super) async fn ends(
    control: &Control,
    author: Author,
    slug_or_id: &str,
    request: &StartMove,
) -> Result<Ends, Problem> {
    terms(request)?;
    let mut client = control.catalog.client().await?;
    let tenant = find(&client, slug_or_id).await?;
    let mut wanted = look_up(&client, &tenant, request).await?;
    let mut refusals: Vec<_> = wanted.outside.take().map(|problem| ("region", problem)).into_iter().collect();
    let (from, _) = source_of(&tenant)?;
    refused(same_place(&tenant, &from, &wanted))?;
    // The locks of the reservation end with the change, which is dropped.
    let change = client.change(author).await?;
    let cluster = match room(&change, &wanted, &from).await {
        Ok(cluster) => cluster,
        Err(problem) if problem.code() == Code::NoCapacity => {
            refusals.push(("cluster", problem));
            wanted.cluster.clone()
        }
        Err(problem) => return Err(problem),
    };
    let to = end_of(&tenant, &from, &wanted, cluster);
    Ok(Ends { tenant, from, to, refusals })
}

fn terms(request: &StartMove) -> Result<MoveTerms, Problem> {
    let usual = MoveTerms::default();
    let hold_ms = request.hold_ms.unwrap_or(usual.hold_ms);
    if !MoveTerms::HOLD_MS.contains(&hold_ms) {
        let (least, most) = (MoveTerms::HOLD_MS.start(), MoveTerms::HOLD_MS.end());
        let rule = format!("A tenant is held for {least} to {most} ms.");
        return Err(Problem::new(Code::InvalidRequest, rule.clone()).at("/hold_ms", rule));
    }
    let rollback_window_s = request.rollback_window_seconds.unwrap_or(usual.rollback_window_s);
    if rollback_window_s > MoveTerms::ROLLBACK_WINDOW_S_MAX {
        let rule = format!("A rollback window has {} seconds at the most.", MoveTerms::ROLLBACK_WINDOW_S_MAX);
        return Err(Problem::new(Code::InvalidRequest, rule.clone()).at("/rollback_window_seconds", rule));
    }
    if request.copy_bytes_per_second == Some(0) {
        let rule = "A copy needs at least one byte a second.";
        return Err(Problem::new(Code::InvalidRequest, rule).at("/copy_bytes_per_second", rule));
    }
    Ok(MoveTerms {
        hold_ms,
        long_transactions: request.long_transactions.unwrap_or(usual.long_transactions),
        rollback_window_s,
        copy_bytes_per_second: request.copy_bytes_per_second,
    })
}

/// Where the tenant is; it can be moved when it is settled there.
fn source_of(tenant: &TenantRecord) -> Result<(MoveEnd, Placement), Problem> {
    if !matches!(tenant.status, TenantStatus::Active | TenantStatus::Suspended) {
        return Err(Problem::new(
            Code::TenantStatusConflict,
            format!("The tenant {} is {} and cannot be moved.", tenant.slug, tenant.status),
        ));
    }
    let placement =
        tenant.placement.clone().ok_or_else(|| Problem::internal("a tenant without a placement"))?;
    let end = MoveEnd {
        tier: tenant.tier.clone(),
        region: tenant.region.clone(),
        cluster: Some(placement.cluster.clone()),
        isolation: placement.isolation,
        database: placement.database.clone(),
        schema: placement.schema.clone(),
        epoch: placement.epoch,
    };
    Ok((end, placement))
}

async fn look_up(
    client: &CatalogClient,
    tenant: &TenantRecord,
    request: &StartMove,
) -> Result<Wanted, Problem> {
    let (source, _) = source_of(tenant)?;
    let tier = match &request.tier {
        Some(tier) => Some(find_tier(client, tier).await?),
        None => None,
    };
    let isolation = match &request.isolation {
        Some(text) => text.parse().map_err(|error: insula_domain::UnknownIsolation| {
            Problem::new(Code::InvalidRequest, sentence(&error.to_string())).at("/isolation", "unknown")
        })?,
        None => tier.as_ref().map_or(source.isolation, |tier| tier.isolation),
    };
    let cluster = match &request.cluster {
        Some(text) => Some(find_cluster(client, text, isolation).await?),
        None => None,
    };
    let regions = client.regions().await?;
    let region = match (&request.region, &cluster) {
        (Some(region), _) => find_region(&regions, region)?,
        (None, Some((_, region))) => find_region(&regions, region.as_str())?,
        (None, None) => find_region(&regions, source.region.as_str())?,
    };
    if let Some((name, of_cluster)) = &cluster
        && *of_cluster != region.name
    {
        let detail = format!("The cluster {name} is in {of_cluster}, and not in {}.", region.name);
        return Err(Problem::new(Code::InvalidRequest, detail).at("/cluster", "another region"));
    }
    let outside = may_reside(&tenant.residency, &region.name, &region.groups).err().map(|error| {
        Problem::new(Code::ResidencyViolation, sentence(&error.to_string())).at("/region", "outside")
    });
    Ok(Wanted {
        tier: tier.map_or(source.tier, |tier| tier.name),
        isolation,
        region: region.name.clone(),
        cluster: cluster.map(|(name, _)| name),
        outside,
    })
}

async fn find_cluster(
    client: &CatalogClient,
    text: &str,
    isolation: Isolation,
) -> Result<(ClusterName, RegionName), Problem> {
    let shown: String = text.chars().take(60).collect();
    let unknown = || {
        Problem::new(Code::UnknownCluster, format!("There is no cluster {shown}: insula cluster list."))
            .at("/cluster", "unknown")
    };
    let name: ClusterName = text.parse().map_err(|_| unknown())?;
    let cluster = client.cluster(&name).await?.ok_or_else(unknown)?;
    if isolation == Isolation::Cluster || cluster.tenant.is_some() {
        let detail = "A server of a tenant's own is made for it: no cluster can be named for that, nor one that \
                      belongs to a tenant.";
        return Err(
            Problem::new(Code::InvalidRequest, detail).at("/cluster", "not with this isolation model")
        );
    }
    Ok((name, cluster.region))
}

/// The tenant would go to where it is.
fn same_place(tenant: &TenantRecord, source: &MoveEnd, wanted: &Wanted) -> Option<Problem> {
    let here = wanted.isolation == source.isolation && wanted.region == source.region;
    let there = wanted.cluster.as_ref().is_some_and(|wanted| Some(wanted) != source.cluster.as_ref());
    (here && !there).then(|| {
        let detail = format!(
            "The tenant {} is in {} with the isolation model {} already. Another tier of the same model is set with \
             insula tenant set.",
            tenant.slug, source.region, source.isolation
        );
        Problem::new(Code::MoveToSamePlace, detail)
    })
}

fn end_of(tenant: &TenantRecord, source: &MoveEnd, wanted: &Wanted, cluster: Option<ClusterName>) -> MoveEnd {
    let (database, schema) = Placement::names(tenant.id, wanted.isolation);
    MoveEnd {
        tier: wanted.tier.clone(),
        region: wanted.region.clone(),
        cluster,
        isolation: wanted.isolation,
        database,
        schema,
        epoch: source.epoch.next(),
    }
}

/// The cluster, with room for the tenant kept until the end of the transaction;
/// none where a server is made for it.
async fn room(
    change: &Change<'_>,
    wanted: &Wanted,
    source: &MoveEnd,
) -> Result<Option<ClusterName>, Problem> {
    let isolation = wanted.isolation;
    if isolation == Isolation::Cluster {
        return Ok(None);
    }
    let mut clusters = change.lock_cluster_room(&wanted.region, isolation).await?;
    match &wanted.cluster {
        Some(name) => clusters.retain(|cluster| cluster.name == *name),
        // On its own cluster it would be where it is.
        None if isolation == source.isolation => {
            clusters.retain(|cluster| Some(&cluster.name) != source.cluster.as_ref());
        }
        None => {}
    }
    let chosen = choose_cluster(&wanted.region, isolation, &clusters)
        .map_err(|error| Problem::new(Code::NoCapacity, sentence(&error.to_string())))?;
    Ok(Some(chosen.name.clone()))
}
