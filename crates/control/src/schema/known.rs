//! What the plain migrations alone make on a cluster's server, to compare
//! placements with: catalogs print differently from one PostgreSQL version to
//! the next. It takes a scratch database to know it, and so is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use insula_app_schema::PlainMigration;
use insula_catalog::ClusterRecord;
use insula_domain::{ClusterName, SchemaName, SchemaVersion};
use insula_problem::Problem;
use insula_tenant_cluster::schema::{self, SchemaFingerprint};
use insula_tenant_cluster::{ClusterAccess, Scratch};

use super::fleet::Forms;
use crate::Control;

/// How many fingerprints are kept, of all clusters together.
const KEPT_MAX: usize = 64;

/// A server that was upgraded is another one here, and so are migrations of
/// which one was drafted anew.
type Key = (ClusterName, u32, Vec<String>);

/// The fingerprints that were read.
#[derive(Debug, Default)]
pub struct KnownForms {
    read: Mutex<HashMap<Key, Arc<SchemaFingerprint>>>,
}

/// What the versions up to one make on a cluster.
///
/// # Errors
/// Where the cluster is away, or a migration fails.
pub async fn expected(
    control: &Control,
    record: &ClusterRecord,
    forms: &Forms,
    version: SchemaVersion,
) -> Result<Arc<SchemaFingerprint>, Problem> {
    let access = control.clusters.access_of(record)?;
    let server = insula_tenant_cluster::inspect(&*access.maintenance().await?).await?.server_version;
    let known = forms.plain.iter().take_while(|migration| migration.version() <= version).count();
    let plain = &forms.plain[..known];
    let texts = plain.iter().map(|migration| migration.applied().sha256).collect();
    let key = (record.name.clone(), server, texts);
    let kept = &control.versions.known.read;
    if let Some(known) = kept.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Ok(known.clone());
    }
    let made = Arc::new(make(&access, plain).await?);
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() >= KEPT_MAX {
        kept.clear();
    }
    kept.insert(key, made.clone());
    Ok(made)
}

async fn make(access: &ClusterAccess, plain: &[PlainMigration]) -> Result<SchemaFingerprint, Problem> {
    let scratch = Scratch::plain(access, plain).await?;
    let client = access.own(scratch.database()).await?;
    schema::fingerprint(&client, &SchemaName::of_silo()).await
}
