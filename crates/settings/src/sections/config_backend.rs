//! `[[config.backends]]`: what keeps values of the configuration outside of the
//! stores.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::list::{self, OneOrMany};
use crate::secret::SecretText;

/// What a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConfigBackendKind {
    /// etcd 3.4 or newer.
    Etcd,
    /// A table of Amazon DynamoDB; with the cargo feature `aws`.
    Dynamodb,
    /// AWS Systems Manager Parameter Store; with the cargo feature `aws`.
    ParameterStore,
}

impl ConfigBackendKind {
    /// Whether it is one of AWS's.
    #[must_use]
    pub fn is_aws(self) -> bool {
        self != Self::Etcd
    }
}

/// `[[config.backends]]`: a backend, by the name that tags give it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigBackend {
    /// Its name, as tags give it; not `postgres`, which is the stores'.
    pub name: String,
    /// What it is: `etcd`, `dynamodb` or `parameter_store`.
    pub kind: ConfigBackendKind,
    /// The URLs of an etcd cluster; several in a list, or in one text with commas.
    #[serde(default, deserialize_with = "list::texts")]
    #[schemars(with = "OneOrMany")]
    pub endpoints: Vec<String>,
    /// What all names in etcd begin with.
    #[serde(default = "root")]
    pub root: String,
    /// The user, where etcd asks for one.
    pub user: Option<String>,
    /// The user's password.
    #[serde(default)]
    pub password: SecretText,
    /// A file that holds the password, instead of `password`.
    pub password_file: Option<PathBuf>,
    /// Certificates to which etcd's own must lead; the public authorities where
    /// there is none.
    pub ca_file: Option<PathBuf>,
    /// The region of AWS, for example `eu-west-1`.
    pub region: Option<String>,
    /// Another endpoint than that of the region.
    pub endpoint: Option<String>,
    /// The table of DynamoDB.
    pub table: Option<String>,
    /// The id of the access key.
    pub access_key_id: Option<String>,
    /// The secret access key.
    #[serde(default)]
    pub secret_access_key: SecretText,
    /// A file that holds the secret access key, instead of `secret_access_key`.
    pub secret_access_key_file: Option<PathBuf>,
}

fn root() -> String {
    "/insula/config".to_owned()
}
