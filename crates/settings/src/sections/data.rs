//! Where data is and what is done with it: `[catalog]`, `[[regions]]`,
//! `[keys]`, `[tenants]`, `[workflow]`, `[provisioner]`.

use std::path::{Path, PathBuf};

use insula_domain::{RegionGroup, RegionName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::length::HumanDuration;
use crate::secret::SecretText;

/// `[catalog]`: the global catalog. It must be the same for all processes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Catalog {
    /// `postgres://user:password@host:port/database`. Outside this machine the
    /// connection is encrypted and the server's certificate is verified,
    /// unless the URL says `sslmode=disable`.
    pub url: SecretText,
    /// A file that holds the URL, instead of `url`.
    pub url_file: Option<PathBuf>,
    /// Certificates in PEM to trust beside the public authorities.
    pub ca_file: Option<PathBuf>,
    /// Connections that this process opens at the most.
    pub pool_size: u32,
}

impl Default for Catalog {
    fn default() -> Self {
        Self { url: SecretText::default(), url_file: None, ca_file: None, pool_size: 16 }
    }
}

/// One of `[[regions]]`: a region and its store. All processes must have the same ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// The region's name, for example `us-east-1`.
    #[schemars(with = "String")]
    pub name: RegionName,
    /// The region groups that enclose it; the first is the residency of its
    /// tenants where none is asked for.
    #[schemars(with = "Vec<String>")]
    pub groups: Vec<RegionGroup>,
    /// The region store: a PostgreSQL URL as in `[catalog]`.
    #[serde(default)]
    pub store_url: SecretText,
    /// A file that holds the URL, instead of `store_url`.
    #[serde(default)]
    pub store_url_file: Option<PathBuf>,
    /// Certificates in PEM to trust beside the public authorities.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Connections to the store that this process opens at the most.
    #[serde(default = "region_pool_size")]
    pub pool_size: u32,
}

fn region_pool_size() -> u32 {
    8
}

/// `[keys]`: the master keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// The master keys: one base64 text of 32 bytes, or a line
    /// `generation:base64` for each generation, the highest being the current one.
    pub master_key: SecretText,
    /// A file that holds the master keys, instead of `master_key`.
    pub master_key_file: Option<PathBuf>,
}

/// `[tenants]`: the life of tenants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tenants {
    /// How long the data of a deleted tenant is kept before it is purged; `0s`
    /// purges at once.
    pub delete_retention: HumanDuration,
}

impl Default for Tenants {
    fn default() -> Self {
        Self { delete_retention: HumanDuration::from_days(7) }
    }
}

/// `[workflow]`: the durable workflows (role `worker`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Workflow {
    /// Workflow runs that this process carries out at once.
    pub workers: u32,
    /// How long a run stays with a worker that gives no sign of life.
    pub lease: HumanDuration,
    /// How often to look for runs that nobody announced.
    pub poll: HumanDuration,
    /// How long operations that ended are remembered. What they did is in the
    /// audit, which is not forgotten.
    pub keep_ended: HumanDuration,
}

impl Default for Workflow {
    fn default() -> Self {
        Self {
            workers: 8,
            lease: HumanDuration::from_secs(15),
            poll: HumanDuration::from_secs(5),
            keep_ended: HumanDuration::from_days(30),
        }
    }
}

/// What starts PostgreSQL servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProvisionerKind {
    /// Nothing: tenants with a server of their own are refused.
    #[default]
    None,
    /// Servers on this machine, as children of this process.
    Local,
}

/// `[provisioner]`: PostgreSQL servers for tenants that have one of their own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Provisioner {
    /// What starts them: `none` or `local`.
    pub kind: ProvisionerKind,
    /// For `local`: the folder that holds the servers' data folders.
    pub data_dir: Option<PathBuf>,
    /// For `local`: the first TCP port that may be given to a server.
    pub first_port: Option<u16>,
    /// For `local`: the last TCP port that may be given to a server.
    pub last_port: Option<u16>,
}

/// What the local provisioner needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalProvisioner<'a> {
    /// The folder that holds the servers' data folders.
    pub data_dir: &'a Path,
    /// The first TCP port that may be given to a server.
    pub first_port: u16,
    /// The last TCP port that may be given to a server.
    pub last_port: u16,
}

impl Provisioner {
    /// What the local provisioner needs, where it is chosen and set whole.
    #[must_use]
    pub fn local(&self) -> Option<LocalProvisioner<'_>> {
        match (self.kind, &self.data_dir, self.first_port, self.last_port) {
            (ProvisionerKind::Local, Some(data_dir), Some(first_port), Some(last_port)) => {
                Some(LocalProvisioner { data_dir, first_port, last_port })
            }
            _ => None,
        }
    }
}
