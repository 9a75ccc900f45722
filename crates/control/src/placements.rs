//! What the steps of workflows do to a tenant's placement, by isolation model.

use insula_catalog::TenantRecord;
use insula_credentials::ScramVerifier;
use insula_domain::{Isolation, Placement, RoleName};
use insula_problem::Problem;
use insula_tenant_cluster::{self as cluster, ClusterAccess, NewRole, TenantRoles, Through};

use crate::Control;
use crate::own_objects;
use crate::schema::fleet;

/// The placement and the way to its cluster; none where the tenant has (still,
/// or any more) no cluster.
async fn placed(
    control: &Control,
    tenant: &TenantRecord,
) -> Result<Option<(Placement, ClusterAccess)>, Problem> {
    let Some(placement) = tenant.placement.clone() else { return Ok(None) };
    let access = control.clusters.access(&placement.cluster).await?;
    Ok(Some((placement, access)))
}

async fn must_be_placed(
    control: &Control,
    tenant: &TenantRecord,
) -> Result<(Placement, ClusterAccess), Problem> {
    placed(control, tenant).await?.ok_or_else(|| Problem::internal("the tenant has no placement"))
}

/// The roles as they are to be, their passwords derived from the master key of
/// the tenant's generation.
///
/// # Errors
/// Where that key is not here.
pub fn tenant_roles(control: &Control, tenant: &TenantRecord) -> Result<TenantRoles, Problem> {
    let role = |name, read_only| {
        let password = control
            .keys
            .role_password(tenant.id, read_only, tenant.key_generation)
            .map_err(Problem::internal)?;
        let verifier = ScramVerifier::for_random_secret(&password, control.entropy.as_ref()).to_text();
        Ok::<_, Problem>(NewRole { name, verifier })
    };
    Ok(TenantRoles {
        read_write: role(RoleName::of_tenant(tenant.id), false)?,
        read_only: role(RoleName::read_only_of_tenant(tenant.id), true)?,
    })
}

/// Makes the tenant's roles.
///
/// # Errors
/// Where the cluster is away.
pub async fn create_roles(control: &Control, tenant: &TenantRecord) -> Result<(), Problem> {
    let (placement, access) = must_be_placed(control, tenant).await?;
    let roles = tenant_roles(control, tenant)?;
    let maintenance = access.maintenance().await?;
    cluster::create_roles(&maintenance, &roles, placement.isolation, &placement.database, &placement.schema)
        .await
}

/// Gives the tenant's roles the passwords of its key generation, and changes
/// nothing else: a suspended tenant stays out.
///
/// # Errors
/// Where the cluster is away.
pub async fn set_passwords(control: &Control, tenant: &TenantRecord) -> Result<(), Problem> {
    let (_, access) = must_be_placed(control, tenant).await?;
    let roles = tenant_roles(control, tenant)?;
    let maintenance = access.maintenance().await?;
    cluster::set_passwords(&maintenance, &roles).await
}

/// Removes the tenant's roles.
///
/// # Errors
/// Where the cluster is away.
pub async fn drop_roles(control: &Control, tenant: &TenantRecord) -> Result<(), Problem> {
    let Some((placement, access)) = placed(control, tenant).await? else { return Ok(()) };
    if placement.isolation == Isolation::Cluster {
        // They go with the server.
        return Ok(());
    }
    cluster::drop_roles(&access, tenant.id).await
}

/// Makes the schema or the database that the tables go into.
///
/// # Errors
/// Where the cluster is away.
pub async fn create_space(control: &Control, tenant: &TenantRecord) -> Result<(), Problem> {
    let (_, access) = must_be_placed(control, tenant).await?;
    create_space_through(control, &access, tenant).await
}

/// The same over connections of which it is known whose they are.
///
/// # Errors
/// Where the cluster is away, or a seat has been taken.
pub async fn create_space_through(
    control: &Control,
    through: impl Into<Through<'_>>,
    tenant: &TenantRecord,
) -> Result<(), Problem> {
    let (placement, access) = must_be_placed(control, tenant).await?;
    let through = through.into();
    match placement.isolation {
        Isolation::Pool => Ok(()),
        Isolation::Schema => {
            let client = through.shared(&placement.database).await?;
            cluster::create_schema(&client, &placement.schema, tenant.id).await
        }
        Isolation::Database => {
            let forms = fleet::forms(control).await?;
            cluster::publish_template(&access, forms.newest(), &forms.plain).await?;
            let maintenance = through.maintenance().await?;
            cluster::create_database(&maintenance, &placement.database, forms.newest()).await?;
            cluster::open_database(&maintenance, &placement.database, tenant.id).await
        }
        Isolation::Cluster => {
            let maintenance = through.maintenance().await?;
            cluster::open_database(&maintenance, &placement.database, tenant.id).await
        }
    }
}

/// Removes what [`create_space`] made, and what is in it.
///
/// # Errors
/// Where the cluster is away.
pub async fn drop_space(control: &Control, tenant: &TenantRecord) -> Result<(), Problem> {
    remove_rows(control, tenant).await.map(drop)
}

/// Removes the tenant's rows, schema or database; how many rows of shared
/// tables there were.
///
/// # Errors
/// Where the cluster is away.
pub async fn remove_rows(control: &Control, tenant: &TenantRecord) -> Result<u64, Problem> {
    let Some((_, access)) = placed(control, tenant).await? else { return Ok(0) };
    remove_rows_through(&access, tenant).await
}

/// The same over connections of which it is known whose they are.
///
/// # Errors
/// Where the cluster is away, or a seat has been taken.
pub async fn remove_rows_through(
    through: impl Into<Through<'_>>,
    tenant: &TenantRecord,
) -> Result<u64, Problem> {
    let (through, Some(placement)) = (through.into(), &tenant.placement) else { return Ok(0) };
    match placement.isolation {
        Isolation::Pool => {
            let mut client = through.shared(&placement.database).await?;
            cluster::purge_pool_rows(&mut client, tenant.id).await
        }
        Isolation::Schema => {
            let own = tenant.own_schema();
            cluster::drop_schemas(through, &placement.database, &placement.schema, own.as_ref())
                .await
                .map(|()| 0)
        }
        Isolation::Database => {
            let maintenance = through.maintenance().await?;
            cluster::drop_database(&maintenance, &placement.database).await.map(|()| 0)
        }
        // It goes with the server.
        Isolation::Cluster => Ok(0),
    }
}

/// Keeps the tenant out of its cluster; how many sessions were ended.
///
/// # Errors
/// Where the cluster is away.
pub async fn fence(control: &Control, tenant: &TenantRecord) -> Result<i64, Problem> {
    let Some((_, access)) = placed(control, tenant).await? else { return Ok(0) };
    let maintenance = access.maintenance().await?;
    cluster::fence(&maintenance, tenant.id).await
}

/// Lets the tenant into its cluster again. The roles are brought to their
/// proper state as well, so that a password that the tenant has changed for
/// itself is as it must be again.
///
/// # Errors
/// Where the cluster is away.
pub async fn unfence(control: &Control, tenant: &TenantRecord) -> Result<(), Problem> {
    create_roles(control, tenant).await?;
    own_objects::settle(control, tenant.id).await?;
    let (_, access) = must_be_placed(control, tenant).await?;
    let maintenance = access.maintenance().await?;
    cluster::unfence(&maintenance, tenant.id).await
}
