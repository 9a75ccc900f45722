//! Credentials of a tenant: database logins and API keys. A secret is in the
//! answer that creates it, and in no other.

use insula_domain::{ApiKeyId, LoginId, LoginName, PoolMode};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A database login.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Login {
    /// Which one.
    pub id: LoginId,
    /// As its user types it.
    pub name: LoginName,
    /// Whether its sessions may only read.
    pub read_only: bool,
    /// Whether it may open the databases of descendants.
    pub descendants: bool,
    /// Whether it is the one that every tenant has from the start.
    pub is_default: bool,
    /// How long its sessions keep a connection to the database; none is as the
    /// front is set, which is for a transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_mode: Option<PoolMode>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A login to be created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateLogin {
    /// Its name under the tenant: `reporting` makes the login `acme.reporting`.
    pub name: String,
    /// Whether its sessions may only read.
    #[serde(default)]
    pub read_only: bool,
    /// Whether it may open the databases of descendants.
    #[serde(default)]
    pub descendants: bool,
    /// How long its sessions keep a connection to the database. `session` is for
    /// programs that keep something in their session: session advisory locks,
    /// temporary tables, LISTEN.
    #[serde(default)]
    pub pool_mode: Option<PoolMode>,
}

/// A login that was just created, with its secret.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CreatedLogin {
    /// The login.
    #[serde(flatten)]
    pub login: Login,
    /// Its secret: shown here and never again.
    pub secret: String,
    /// The whole URL for the PostgreSQL front.
    pub url: String,
}

/// The URL of a login whose secret is derived.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LoginUrl {
    /// For the PostgreSQL front, with the secret.
    pub url: String,
}

/// A token to be minted for the PostgreSQL front.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MintToken {
    /// Whether its sessions may only read.
    #[serde(default)]
    pub read_only: bool,
    /// For how many seconds it is valid: 300 where it is not given, and at the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
}

/// A token that was just minted.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MintedToken {
    /// The token: the password of the user `token`.
    pub token: String,
    /// The whole URL for the PostgreSQL front.
    pub url: String,
    /// Until when it is accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// An API key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// Which one.
    pub id: ApiKeyId,
    /// The role of a request that carries it.
    pub role: String,
    /// The path that it is bound to.
    pub scope: Option<String>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A key to be created.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    /// `tenant_user` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The path that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// A key that was just created, with its secret.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CreatedApiKey {
    /// The key.
    #[serde(flatten)]
    pub key: ApiKey,
    /// The whole key: shown here and never again.
    pub secret: String,
}
