//! The server of a tenant that has one of its own: started by the provisioner,
//! inspected, prepared, registered; and the way back.

use insula_catalog::{Capacity, ClusterRecord, TenantRecord};
use insula_domain::{ClusterName, SchemaVersion};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::inspect;
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

/// Starts the tenant's server and makes it the tenant's placement.
///
/// # Errors
/// Where the server does not start or is not suitable.
pub async fn provision(control: &Control, tenant: &TenantRecord) -> Result<(), Problem> {
    let provisioner = provisioner(control)?;
    let name = cluster_name(tenant)?;
    let started = provisioner.provision(&name, &tenant.region).await?;
    let new = NewCluster {
        name: name.clone(),
        region: tenant.region.clone(),
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
    let mut client = control.catalog.client().await?;
    let known = client.cluster(&name).await?;
    let change = client.change(control.worker()).await?;
    if known.is_none() {
        control
            .clusters
            .register(&change, &new, &inspection, SchemaVersion(0), control.entropy.as_ref())
            .await?;
    }
    change.set_placement_cluster(tenant.id, Some(&name)).await?;
    change
        .audit("cluster.provision", Some(tenant.id), name.as_str(), &json!({"kind": provisioner.kind()}))
        .await?;
    change.commit().await
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
    let provisioner = provisioner(control)?;
    let name = cluster_name(tenant)?;
    control.clusters.forget(&name);
    provisioner.remove(&name).await?;
    let mut client = control.catalog.client().await?;
    if client.cluster(&name).await?.is_none() {
        return Ok(());
    }
    let change = client.change(control.worker()).await?;
    change.set_placement_cluster(tenant.id, None).await?;
    change.remove_cluster(&name).await?;
    change
        .audit("cluster.remove", Some(tenant.id), name.as_str(), &json!({"kind": provisioner.kind()}))
        .await?;
    change.commit().await
}
