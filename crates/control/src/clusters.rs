//! The way to each registered cluster, opened once and kept: the catalog says
//! where a cluster is, and its administrator's password is unsealed here.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use insula_api::{Cluster, ClusterCapacity};
use insula_catalog::{Capacity, Catalog, Change, ClusterRecord, ClusterStatus, SealedSecret};
use insula_credentials::{MasterKeys, Secret};
use insula_domain::{ClusterName, Entropy, RegionName, SchemaVersion, TenantId};
use insula_problem::{Code, Problem};
use insula_sql_store::Connector;
use insula_tenant_cluster::{ClusterAccess, Inspection};

use crate::Control;
use crate::provisioner::ClusterProvisioner;

/// How a cluster is reached, as far as a kept connection depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
    secret: Vec<u8>,
}

/// All clusters that were used so far.
#[derive(Debug)]
pub struct ClusterDirectory {
    catalog: Catalog,
    keys: Arc<MasterKeys>,
    ca_file: Option<PathBuf>,
    open: Mutex<HashMap<ClusterName, (Address, ClusterAccess)>>,
}

/// How a new cluster is reached.
#[derive(Debug)]
pub struct NewCluster {
    /// Its name.
    pub name: ClusterName,
    /// Where it stands.
    pub region: RegionName,
    /// Host name, address, or the absolute path of a socket's folder.
    pub host: String,
    /// The port, which a socket has in its name.
    pub port: u16,
    /// Whether connections to it are encrypted.
    pub tls: bool,
    /// A superuser.
    pub admin_user: String,
    /// That superuser's password.
    pub admin_password: Secret,
    /// The tenant whose own it is.
    pub tenant: Option<TenantId>,
    /// The provisioner that started it.
    pub provisioned: Option<String>,
    /// How many tenants it may have.
    pub capacity: Capacity,
}

impl NewCluster {
    /// The URL with the password. It is made only to be read by the driver.
    fn url(&self) -> Secret {
        cluster_url(&self.host, self.port, self.tls, &self.admin_user, &self.admin_password)
    }
}

fn cluster_url(host: &str, port: u16, tls: bool, user: &str, password: &Secret) -> Secret {
    let host = match host {
        folder if folder.starts_with('/') => percent(folder),
        address if address.contains(':') => format!("[{address}]"),
        name => name.to_owned(),
    };
    let mode = if tls { "require" } else { "disable" };
    Secret::new(format!(
        "postgres://{}:{}@{host}:{port}/postgres?sslmode={mode}",
        percent(user),
        percent(password.expose())
    ))
}

/// Percent-encodes what is not unreserved (RFC 3986 §2.3).
pub fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The cluster as the API shows it, with what the provisioner of this process knows.
#[must_use]
pub fn shown_now(control: &Control, record: ClusterRecord, tenants: u32) -> Cluster {
    let is_down = |provisioner: &Arc<dyn ClusterProvisioner>| provisioner.down().contains_key(&record.name);
    let down = control.provisioner.as_ref().is_some_and(is_down);
    let mut cluster = shown(record, tenants);
    if down {
        cluster.status = "unreachable".to_owned();
    }
    cluster
}

/// The cluster as the API shows it, as far as the catalog knows it.
#[must_use]
pub fn shown(record: ClusterRecord, tenants: u32) -> Cluster {
    Cluster {
        name: record.name,
        region: record.region,
        host: record.host,
        port: record.port,
        tls: record.tls,
        server_version: format!("{}.{}", record.server_version / 10_000, record.server_version % 10_000),
        tenant_id: record.tenant,
        status: record.status.as_str().to_owned(),
        capacity: ClusterCapacity {
            pool: record.capacity.pool,
            schema: record.capacity.schema,
            database: record.capacity.database,
        },
        tenants,
        schema_version: record.schema_version,
        created_at: record.created_at,
    }
}

fn place(name: &ClusterName) -> String {
    format!("clusters/{name}/admin_secret")
}

impl ClusterDirectory {
    /// Nothing is opened yet. `ca_file` adds trusted certificates for clusters with TLS.
    #[must_use]
    pub fn new(catalog: Catalog, keys: Arc<MasterKeys>, ca_file: Option<PathBuf>) -> Self {
        Self { catalog, keys, ca_file, open: Mutex::default() }
    }

    /// The way to a cluster by its name.
    ///
    /// # Errors
    /// `unknown_cluster` where the catalog has none of that name.
    pub async fn access(&self, name: &ClusterName) -> Result<ClusterAccess, Problem> {
        let record = self
            .catalog
            .client()
            .await?
            .cluster(name)
            .await?
            .ok_or_else(|| Problem::new(Code::UnknownCluster, format!("There is no cluster {name}.")))?;
        self.access_of(&record)
    }

    /// The way to a cluster whose record is at hand.
    ///
    /// # Errors
    /// Where its password does not unseal with the keys of this process.
    pub fn access_of(&self, record: &ClusterRecord) -> Result<ClusterAccess, Problem> {
        let address = Address {
            host: record.host.clone(),
            port: record.port,
            secret: record.admin_secret.sealed.clone(),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, access)) = open.get(&record.name)
            && *known == address
        {
            return Ok(access.clone());
        }
        let password = self.password(record)?;
        let url = cluster_url(&record.host, record.port, record.tls, &record.admin_user, &password);
        let access = ClusterAccess::new(record.name.clone(), self.connector(&url)?);
        open.insert(record.name.clone(), (address, access.clone()));
        Ok(access)
    }

    /// The password of a cluster's administrator.
    ///
    /// # Errors
    /// Where it does not unseal with the keys of this process.
    pub fn password(&self, record: &ClusterRecord) -> Result<Secret, Problem> {
        self.keys
            .open(&place(&record.name), &record.admin_secret.sealed, record.admin_secret.key_generation)
            .map_err(Problem::internal)
    }

    /// Forgets the connections to a cluster that is gone.
    pub fn forget(&self, name: &ClusterName) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The way to a cluster that is not registered yet.
    ///
    /// # Errors
    /// Where the address is not valid.
    pub fn access_new(&self, new: &NewCluster) -> Result<ClusterAccess, Problem> {
        Ok(ClusterAccess::new(new.name.clone(), self.connector(&new.url())?))
    }

    fn connector(&self, url: &Secret) -> Result<Connector, Problem> {
        Connector::new(url.expose(), self.ca_file.as_deref()).map_err(|error| {
            Problem::new(Code::ClusterUnreachable, "The cluster's address is not valid.").caused_by(error)
        })
    }

    /// Registers a cluster that was inspected and prepared.
    ///
    /// # Errors
    /// `cluster_name_taken` where it is registered already.
    pub async fn register(
        &self,
        change: &Change<'_>,
        new: &NewCluster,
        inspection: &Inspection,
        version: SchemaVersion,
        entropy: &dyn Entropy,
    ) -> Result<ClusterRecord, Problem> {
        let record = ClusterRecord {
            name: new.name.clone(),
            region: new.region.clone(),
            host: new.host.clone(),
            port: new.port,
            tls: new.tls,
            admin_user: new.admin_user.clone(),
            admin_secret: self.seal(&new.name, &new.admin_password, entropy)?,
            system_identifier: inspection.system_identifier.clone(),
            server_version: inspection.server_version,
            tenant: new.tenant,
            provisioned: new.provisioned.clone(),
            status: ClusterStatus::Active,
            capacity: new.capacity,
            schema_version: version,
            created_at: change.at(),
        };
        change.add_cluster(&record).await?;
        Ok(record)
    }

    /// Seals a cluster's password with the current key.
    ///
    /// # Errors
    /// In practice never.
    pub fn seal(
        &self,
        name: &ClusterName,
        password: &Secret,
        entropy: &dyn Entropy,
    ) -> Result<SealedSecret, Problem> {
        Ok(SealedSecret {
            sealed: self.keys.seal(&place(name), password, entropy).map_err(Problem::internal)?,
            key_generation: self.keys.current_generation(),
        })
    }
}
