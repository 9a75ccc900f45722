//! The server of a tenant that has one of its own: started by the provisioner,
//! inspected, prepared, registered; and the way back.

use insula_catalog::{Capacity, Change, ClusterRecord, MoveRecord, TenantRecord};
use insula_domain::{ClusterName, MoveEnd, OperationId, RegionName, SchemaVersion};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::{Inspection, inspect};
use serde_json::json;

use crate::clusters::NewCluster;
use crate::provisioner::ClusterProvisioner;
use crate::{Control, registration};

/// The name of a tenant's own cluster: its slug for people, and of its id what
/// was random when it was made.
fn cluster_name(tenant: &TenantRecord) -> Result<ClusterName, Problem> {
    let id = tenant.id.simple();
    format!("{}-{}", tenant.slug, &id[id.len() - 12..]).parse().map_err(Problem::internal)
}

fn provisioner(control: &Control) -> Result<&dyn ClusterProvisioner, Problem> {
    control
        .provisioner
        .as_deref()
        .ok_or_else(|| Problem::new(Code::Unavailable, "This process has no provisioner in its settings."))
}

/// The name of the server to which a move brings a tenant: it may have one
/// already, in another region.
fn name_for_move(tenant: &TenantRecord, id: OperationId) -> Result<ClusterName, Problem> {
    let id = id.as_uuid().simple().to_string();
    format!("{}-{}", cluster_name(tenant)?, &id[id.len() - 6..]).parse().map_err(Problem::internal)
}

/// Starts the tenant's server and makes it the tenant's placement.
///
/// # Errors
/// Where the server does not start or is not suitable.
pub async fn provision(control: &Control, tenant: &TenantRecord) -> Result<(), Problem> {
    let server = start(control, tenant, cluster_name(tenant)?, &tenant.region).await?;
    let mut client = control.catalog.client().await?;
    let known = client.cluster(&server.new.name).await?.is_some();
    let change = client.change(control.worker()).await?;
    register(control, &change, &server, known).await?;
    change.set_placement_cluster(tenant.id, Some(&server.new.name)).await?;
    change.commit().await
}

/// Starts the server that a move brings the tenant to, and makes it the move's
/// target.
///
/// # Errors
/// As [`provision`].
pub async fn provision_target(
    control: &Control,
    tenant: &TenantRecord,
    tenant_move: &MoveRecord,
) -> Result<(), Problem> {
    let name = name_for_move(tenant, tenant_move.id)?;
    let server = start(control, tenant, name, &tenant_move.target.region).await?;
    let mut client = control.catalog.client().await?;
    let known = client.cluster(&server.new.name).await?.is_some();
    let change = client.change(control.worker()).await?;
    register(control, &change, &server, known).await?;
    change.set_move_target_cluster(tenant_move.id, Some(&server.new.name)).await?;
    change.commit().await
}

/// A server that runs and is suitable.
struct Server {
    new: NewCluster,
    inspection: Inspection,
}

async fn start(
    control: &Control,
    tenant: &TenantRecord,
    name: ClusterName,
    region: &RegionName,
) -> Result<Server, Problem> {
    let provisioner = provisioner(control)?;
    let started = provisioner.provision(&name, region).await?;
    let new = NewCluster {
        name,
        region: region.clone(),
        host: started.host,
        port: started.port,
        tls: false,
        admin_user: started.admin_user,
        admin_password: started.admin_password,
        tenant: Some(tenant.id),
        provisioned: Some(provisioner.kind().to_owned()),
        capacity: Capacity { pool: 0, schema: 0, database: 0 },
    };
    let access = control.clusters.access_new(&new)?;
    let inspection = {
        let maintenance = access.maintenance().await?;
        inspect(&maintenance).await?.suitable()?
    };
    insula_tenant_cluster::prepare_dedicated(&access).await?;
    Ok(Server { new, inspection })
}

async fn register(
    control: &Control,
    change: &Change<'_>,
    server: &Server,
    known: bool,
) -> Result<(), Problem> {
    let Server { new, inspection } = server;
    if !known {
        let entropy = control.entropy.as_ref();
        control.clusters.register(change, new, inspection, SchemaVersion(0), entropy).await?;
    }
    let detail = json!({"kind": new.provisioned});
    change.audit("cluster.provision", new.tenant, new.name.as_str(), &detail).await
}

/// Writes down where the provisioner starts its servers from now on, where that
/// is not what the catalog says: it has other ports or another folder, or the
/// servers are reached by their sockets now. What cannot be reached is left for
/// the next start.
///
/// # Errors
/// Where the catalog is away.
pub async fn find_all_again(control: &Control) -> Result<(), Problem> {
    let Some(provisioner) = control.provisioner.as_deref() else { return Ok(()) };
    let clusters = control.catalog.client().await?.clusters().await?;
    let ours = |cluster: &&ClusterRecord| cluster.provisioned.as_deref() == Some(provisioner.kind());
    for cluster in clusters.iter().filter(ours) {
        if let Some((host, port)) = provisioner.address(&cluster.name).await? {
            registration::find_again(control, control.worker(), cluster, &host, port).await?;
        }
        if let Err(problem) = enroll_tenants(control, &cluster.name).await {
            tracing::warn!(cluster = %cluster.name, problem = %problem.chain(), "the tenant's server is away");
        }
    }
    Ok(())
}

async fn enroll_tenants(control: &Control, name: &ClusterName) -> Result<(), Problem> {
    let access = control.clusters.access(name).await?;
    insula_tenant_cluster::enroll_tenants(&*access.maintenance().await?).await
}

/// Takes the tenant's server out of the catalog, stops it and removes its data.
///
/// # Errors
/// Where the catalog or the provisioner is away.
pub async fn remove(control: &Control, tenant: &TenantRecord) -> Result<(), Problem> {
    let placed = tenant.placement.as_ref().map(|placement| placement.cluster.clone());
    let name = placed.map_or_else(|| cluster_name(tenant), Ok)?;
    control.clusters.forget(&name);
    provisioner(control)?.remove(&name).await?;
    let mut client = control.catalog.client().await?;
    if client.cluster(&name).await?.is_none() {
        return Ok(());
    }
    let change = client.change(control.worker()).await?;
    change.set_placement_cluster(tenant.id, None).await?;
    forget(control, change, tenant, &name).await
}

/// Takes a server at an end of a move, to which the tenant does not come, or
/// from which it has gone, out of the catalog, stops it and removes its data.
///
/// # Errors
/// As [`remove`].
pub async fn remove_end(
    control: &Control,
    tenant: &TenantRecord,
    tenant_move: &MoveRecord,
    end: &MoveEnd,
) -> Result<(), Problem> {
    let name = match &end.cluster {
        Some(name) => name.clone(),
        None => name_for_move(tenant, tenant_move.id)?,
    };
    control.clusters.forget(&name);
    provisioner(control)?.remove(&name).await?;
    let mut client = control.catalog.client().await?;
    if client.cluster(&name).await?.is_none() {
        return Ok(());
    }
    let change = client.change(control.worker()).await?;
    forget(control, change, tenant, &name).await
}

async fn forget(
    control: &Control,
    change: Change<'_>,
    tenant: &TenantRecord,
    name: &ClusterName,
) -> Result<(), Problem> {
    let kind = provisioner(control)?.kind();
    change.remove_cluster(name).await?;
    change.audit("cluster.remove", Some(tenant.id), name.as_str(), &json!({"kind": kind})).await?;
    change.commit().await
}
