//! After a new generation of the master key: everything that is derived from
//! the key or sealed with it is brought to the newest generation. The secrets
//! of default logins stay as they are, since applications hold them: a login
//! keeps the generation that it was made with.

use insula_credentials::Secret;
use insula_domain::TenantStatus;
use insula_problem::Problem;
use serde_json::json;

use crate::schema::blueprint;
use crate::{Control, placements};

/// How much was brought to the newest generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rekeyed {
    /// Passwords of clusters that were sealed anew.
    pub clusters: u32,
    /// Tenants whose roles got new passwords.
    pub tenants: u32,
}

/// Brings everything to the newest generation; what is there already is left
/// alone, so that it can be repeated after an interruption.
///
/// # Errors
/// Where the catalog or a cluster is away, or an earlier key is not here.
pub async fn rekey(control: &Control) -> Result<Rekeyed, Problem> {
    let newest = control.keys.current_generation();
    let mut done = Rekeyed::default();
    let mut client = control.catalog.client().await?;
    for cluster in client.clusters().await? {
        if cluster.admin_secret.key_generation == newest {
            continue;
        }
        let password: Secret = control.clusters.password(&cluster)?;
        let sealed = control.clusters.seal(&cluster.name, &password, control.entropy.as_ref())?;
        let change = client.change(control.worker()).await?;
        change.set_cluster_secret(&cluster.name, &sealed).await?;
        change
            .audit("cluster.rekey", None, cluster.name.as_str(), &json!({"key_generation": newest}))
            .await?;
        change.commit().await?;
        done.clusters += 1;
    }
    blueprint::rekey(control).await?;
    for mut tenant in client.all_tenants().await? {
        let settled = matches!(tenant.status, TenantStatus::Active | TenantStatus::Suspended);
        if tenant.key_generation == newest || !settled {
            continue;
        }
        // The fronts learn of the generation by the commit; between the two,
        // for some milliseconds, new sessions of this tenant are refused.
        tenant.key_generation = newest;
        placements::set_passwords(control, &tenant).await?;
        let change = client.change(control.worker()).await?;
        change.set_tenant_key_generation(tenant.id, newest).await?;
        change
            .audit("tenant.rekey", Some(tenant.id), tenant.slug.as_str(), &json!({"key_generation": newest}))
            .await?;
        change.commit().await?;
        done.tenants += 1;
    }
    Ok(done)
}
