//! After a new generation of the master key: everything that is derived from
//! the key or sealed with it is brought to the newest generation. The secrets
//! of default logins stay as they are, since applications hold them: a login
//! keeps the generation that it was made with.

use insula_credentials::Secret;
use insula_domain::{MoveStatus, TenantStatus};
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
    /// Tenants that are left as they are because they are on a move: their roles
    /// are at two places, of which one is to have them soon.
    pub moving: u32,
    /// Versions of configured secrets whose keys were sealed anew.
    pub config_secrets: u64,
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
    for seen in client.all_tenants().await? {
        if seen.key_generation == newest {
            continue;
        }
        let change = client.change(control.worker()).await?;
        // No move of the tenant begins and none is committed meanwhile: its roles are where they are seen to be.
        let Some(mut tenant) = change.lock_tenant(seen.id).await? else { continue };
        let settled = matches!(tenant.status, TenantStatus::Active | TenantStatus::Suspended);
        if tenant.key_generation == newest || !settled {
            continue;
        }
        let open = change.open_move(tenant.id).await?;
        if open.is_some_and(|open| matches!(open.status, MoveStatus::Running | MoveStatus::RollingBack)) {
            done.moving += 1;
            continue;
        }
        // The fronts learn of the generation by the commit; between the two,
        // for some milliseconds, new sessions of this tenant are refused.
        tenant.key_generation = newest;
        placements::set_passwords(control, &tenant).await?;
        change.set_tenant_key_generation(tenant.id, newest).await?;
        change
            .audit("tenant.rekey", Some(tenant.id), tenant.slug.as_str(), &json!({"key_generation": newest}))
            .await?;
        change.commit().await?;
        done.tenants += 1;
    }
    done.config_secrets = config_secrets(control).await?;
    Ok(done)
}

/// Those of the provider, and of the tenants in every region. One that does not
/// open is in the log, and hinders no other. What was on its way from one store
/// to another meanwhile is found when all are looked through again, until there
/// is nothing left.
async fn config_secrets(control: &Control) -> Result<u64, Problem> {
    let mut done = 0;
    loop {
        let mut found = control.providers_configuration().rekey().await?.versions;
        for (region, _) in control.regions.iter() {
            found += control.configuration(region)?.rekey().await?.versions;
        }
        if found == 0 {
            return Ok(done);
        }
        done += found;
    }
}
