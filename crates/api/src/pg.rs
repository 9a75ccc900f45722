//! What the PostgreSQL front of a process is at: its clients, its backends, and
//! its tenants. Counts begin with the process.

use std::collections::BTreeMap;

use insula_domain::{ClusterName, PoolMode, RoleName, Slug, TenantId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A part of what there is, the most telling first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PgList<T> {
    /// As many as were asked for.
    pub items: Vec<T>,
    /// How many there are in all.
    pub total: u64,
    /// The process that this is told of, by its number on its machine.
    pub process_id: u32,
    /// Clients that the processes before it still serve, from which it has taken
    /// over. They and what they have are not among the items.
    pub draining_clients: u64,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PgClientState {
    /// It waits for a backend.
    Waiting,
    /// A statement of it is under way.
    Active,
    /// It has a transaction open, and has asked nothing.
    InTransaction,
    /// It has asked nothing, and has no transaction.
    Idle,
}

impl PgClientState {
    /// Its name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::InTransaction => "in_transaction",
            Self::Idle => "idle",
        }
    }
}

/// A session of the front.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PgClient {
    /// As which tenant it runs; `None` where the tenant is gone.
    pub tenant: Option<Slug>,
    /// The id of that tenant.
    pub tenant_id: TenantId,
    /// The name of its login, or `token`.
    pub login: String,
    /// What it calls itself.
    pub application_name: String,
    /// From where it comes.
    #[schema(example = "10.0.0.7:50412")]
    pub address: String,
    /// Whether its connection is encrypted.
    pub tls: bool,
    /// What it does.
    pub state: PgClientState,
    /// Since when it does that; exact to 100 ms.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// When it was let in.
    #[serde(with = "time::serde::rfc3339")]
    pub connected_at: OffsetDateTime,
    /// How long it keeps a backend.
    pub pool_mode: PoolMode,
    /// Why it keeps its backend although it would not have to.
    pub pinned: Option<String>,
    /// Transactions that have ended.
    pub transactions: u64,
}

/// What a backend does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PgBackendState {
    /// A session has it.
    InUse,
    /// It waits for one.
    Idle,
}

impl PgBackendState {
    /// Its name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::Idle => "idle",
        }
    }
}

/// A connection of the front to a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PgBackend {
    /// Where it leads.
    pub cluster: ClusterName,
    /// For which tenant; `None` where the tenant is gone.
    pub tenant: Option<Slug>,
    /// The id of that tenant.
    pub tenant_id: TenantId,
    /// As which role.
    pub role: RoleName,
    /// The process on the server.
    pub process_id: u32,
    /// What it does.
    pub state: PgBackendState,
    /// When it was opened.
    #[serde(with = "time::serde::rfc3339")]
    pub opened_at: OffsetDateTime,
    /// When it was given to a session the last time, or came back from it.
    #[serde(with = "time::serde::rfc3339")]
    pub used_at: OffsetDateTime,
    /// Transactions that have ended on it.
    pub transactions: u64,
}

/// Waits of a tenant's sessions for backends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PgWaits {
    /// How many there were.
    pub count: u64,
    /// All of them together, in milliseconds.
    pub total_ms: u64,
    /// The longest, in milliseconds.
    pub longest_ms: u64,
}

/// A tenant in the front.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PgTenant {
    /// Its short name; `None` where it is gone.
    pub tenant: Option<Slug>,
    /// Its id.
    pub tenant_id: TenantId,
    /// Sessions that are open.
    pub clients: u32,
    /// Of them, those that wait for a backend.
    pub waiting: u32,
    /// Whether its transactions wait at this moment because it is being moved.
    pub held: bool,
    /// Backends, those that are being opened or closed among them.
    pub backends: u32,
    /// Of them, those that nobody uses.
    pub backends_idle: u32,
    /// Its weight among those that want backends.
    pub weight: u32,
    /// The most backends that it may have on its cluster.
    pub backends_max: Option<u32>,
    /// Transactions that have ended.
    pub transactions: u64,
    /// Waits for backends that are over.
    pub waits: PgWaits,
    /// Sessions that had to keep their backend, by what they did.
    pub pins: BTreeMap<String, u64>,
    /// Bytes that its clients have sent.
    pub bytes_from_clients: u64,
    /// Bytes that were sent to them.
    pub bytes_to_clients: u64,
    /// Errors that they were sent, by the server or by the front.
    pub errors: u64,
}
