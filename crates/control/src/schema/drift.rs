//! Drift: what differs between the tables that a tenant has for itself and the
//! version that it has, and, apart from that, what it made itself. Everything
//! is read from the clusters' catalogs; what cannot be read hides nobody else.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures_util::{StreamExt, stream};
use insula_api::{DriftDifference, TenantDrift};
use insula_catalog::{ClusterRecord, TenantRecord};
use insula_domain::{ClusterName, Isolation, Placement, TenantStatus, in_the_way};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::schema::fingerprint;
use insula_tenant_cluster::{Inventory, own_objects as cluster_objects};

use super::fleet::{Forms, forms};
use super::known::expected;
use crate::tenants::find::find;
use crate::{Control, own_objects};

/// How many tenants are read at a time.
const AT_ONCE: usize = 4;

/// The drift of tenants in the order of their slugs, after one, or of a single
/// tenant. Tenants that share tables are left out: the audit proves those.
///
/// # Errors
/// Where the catalog is away; `invalid_request` for a single tenant that shares
/// tables.
pub async fn list(
    control: &Control,
    only: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<TenantDrift>, Problem> {
    let client = control.catalog.client().await?;
    let clusters = client.clusters().await?;
    let forms = forms(control).await?;
    let mut tenants = match only {
        Some(slug_or_id) => vec![has_its_own_tables(find(&client, slug_or_id).await?)?],
        None => client.all_tenants().await?,
    };
    drop(client);
    tenants
        .retain(|tenant| is_settled_silo(tenant) && after.is_none_or(|after| tenant.slug.as_str() > after));
    tenants.sort_by(|a, b| a.slug.cmp(&b.slug));
    tenants.truncate(limit);
    let away = Away::default();
    let read = stream::iter(tenants).map(|tenant| read(control, &clusters, &forms, &away, tenant));
    Ok(read.buffered(AT_ONCE).filter_map(|drift| async { drift }).collect().await)
}

/// The clusters that were found away: they are not tried again for each tenant.
#[derive(Debug, Default)]
struct Away(Mutex<HashMap<ClusterName, String>>);

impl Away {
    fn is_known(&self, cluster: &ClusterName) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(cluster).cloned()
    }

    fn note(&self, cluster: &ClusterName, problem: &Problem) {
        if matches!(problem.code(), Code::PlacementUnavailable | Code::Unavailable) {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(cluster.clone(), problem.detail().to_owned());
        }
    }
}

fn has_its_own_tables(tenant: TenantRecord) -> Result<TenantRecord, Problem> {
    if tenant.isolation != Some(Isolation::Pool) {
        return Ok(tenant);
    }
    let detail =
        format!("The tenant {} shares tables with others: insula schema audit proves those.", tenant.slug);
    Err(Problem::new(Code::InvalidRequest, detail))
}

fn is_settled_silo(tenant: &TenantRecord) -> bool {
    matches!(tenant.status, TenantStatus::Active | TenantStatus::Suspended | TenantStatus::Deleting)
        && tenant.isolation.is_some_and(|isolation| isolation != Isolation::Pool)
}

async fn read(
    control: &Control,
    clusters: &[ClusterRecord],
    forms: &Forms,
    away: &Away,
    tenant: TenantRecord,
) -> Option<TenantDrift> {
    let placement = tenant.placement.clone()?;
    let read = match away.is_known(&placement.cluster) {
        Some(why) => Err(Problem::new(Code::PlacementUnavailable, why)),
        None => read_placement(control, clusters, forms, &tenant, &placement).await,
    };
    let (differences, inventory, unread) = match read {
        Ok((differences, inventory)) => (differences, inventory, None),
        Err(problem) => {
            away.note(&placement.cluster, &problem);
            tracing::warn!(tenant = %tenant.slug, cause = problem.chain(), "the drift of a tenant could not be read");
            (Vec::new(), Inventory::default(), Some(format!("{}: {}", problem.code(), problem.detail())))
        }
    };
    let told = in_the_way(&inventory.objects, Isolation::Pool);
    Some(TenantDrift {
        may_own: tenant.may_own(),
        in_the_way_of_a_pool: told.iter().map(|object| format!("{} {}", object.kind, object.name)).collect(),
        tenant: tenant.slug,
        isolation: placement.isolation,
        cluster: placement.cluster,
        version: tenant.schema_version,
        differences,
        own: inventory.objects,
        own_more: inventory.more,
        unread,
    })
}

async fn read_placement(
    control: &Control,
    clusters: &[ClusterRecord],
    forms: &Forms,
    tenant: &TenantRecord,
    placement: &Placement,
) -> Result<(Vec<DriftDifference>, Inventory), Problem> {
    let record = clusters.iter().find(|cluster| cluster.name == placement.cluster);
    let record = record.ok_or_else(|| Problem::internal("the cluster of a placement is gone"))?;
    let expected = expected(control, record, forms, tenant.schema_version).await?;
    let Some((space, client)) = own_objects::space(control, tenant).await? else {
        return Err(Problem::internal("a tenant with its own tables has no place for its own objects"));
    };
    let found = fingerprint(&client, &placement.schema).await?;
    let differences = expected.differences(&found).into_iter();
    let differences =
        differences.map(|found| DriftDifference { object: found.object, detail: found.detail }).collect();
    Ok((differences, cluster_objects(&client, &space.own).await?))
}
