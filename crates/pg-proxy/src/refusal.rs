//! Why a client is turned away, in PostgreSQL's words: SQLSTATEs that drivers
//! know, and Insula's code in the hint.

use std::fmt;
use std::time::Duration;

use insula_domain::{ClusterName, Slug, TenantStatus};
use insula_pg_wire::{ErrorFields, Severity};
use insula_problem::Code;

use crate::guard::Rule;

/// SQLSTATEs (PostgreSQL's documentation, appendix A).
mod sqlstate {
    pub const CONNECTION_FAILURE: &str = "08006";
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    pub const INVALID_AUTHORIZATION_SPECIFICATION: &str = "28000";
    pub const INVALID_PASSWORD: &str = "28P01";
    pub const INVALID_CATALOG_NAME: &str = "3D000";
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    pub const IDLE_IN_TRANSACTION_TIMEOUT: &str = "25P03";
    pub const TOO_MANY_CONNECTIONS: &str = "53300";
    pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    pub const QUERY_CANCELED: &str = "57014";
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
}

/// What the client is told, and what the log counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub code: Code,
    sqlstate: &'static str,
    message: String,
    detail: Option<String>,
    /// For the log alone.
    reason: Option<String>,
}

impl Refusal {
    fn new(code: Code, sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { code, sqlstate, message: message.into(), detail: None, reason: None }
    }

    fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Why it is so, for the log alone: a client could learn from it.
    pub fn because(mut self, reason: impl fmt::Display) -> Self {
        self.reason = Some(reason.to_string());
        self
    }

    /// What the log says beside the words that the client is told.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The same words for an unknown login, a wrong secret and a bad token.
    pub fn login(user: &[u8]) -> Self {
        let message = format!("password authentication failed for user \"{}\"", printable(user));
        Self::new(Code::LoginRefused, sqlstate::INVALID_PASSWORD, message)
    }

    /// Something between the client and the front changed what was offered.
    pub fn channel_binding() -> Self {
        let message = "the channel binding of the authentication does not fit this connection";
        Self::new(Code::LoginRefused, sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message)
    }

    /// The same words for a scope that does not exist and one out of reach.
    pub fn unknown_scope(database: &[u8]) -> Self {
        let message = format!("database \"{}\" does not exist", printable(database));
        Self::new(Code::UnknownScope, sqlstate::INVALID_CATALOG_NAME, message)
            .with_detail("A tenant's database is called \"app\", a tenant's below it \"app/child\".")
    }

    /// The same words for a host name of another tenant and of none.
    pub fn host(user: &[u8], name: &str) -> Self {
        let message = format!(
            "the user \"{}\" is not one of the host \"{}\"",
            printable(user),
            printable(name.as_bytes())
        );
        Self::new(Code::HostRefused, sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message).with_detail(
            "A tenant's host name serves the tenant's own logins, and those that reach it from above.",
        )
    }

    pub fn tls_required() -> Self {
        let message = "this connection needs TLS";
        Self::new(Code::TlsRequired, sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message)
            .with_detail("Connect with sslmode=require or stronger.")
    }

    pub fn replication() -> Self {
        let message = "replication connections are not served here";
        Self::new(Code::ReplicationRefused, sqlstate::FEATURE_NOT_SUPPORTED, message)
    }

    pub fn parameter(name: &str, why: &str) -> Self {
        let message = format!("the startup parameter \"{}\" {why}", printable(name.as_bytes()));
        Self::new(Code::InvalidRequest, sqlstate::INVALID_PARAMETER_VALUE, message)
    }

    pub fn protocol(what: impl fmt::Display) -> Self {
        Self::new(Code::ProtocolViolation, sqlstate::PROTOCOL_VIOLATION, what.to_string())
    }

    /// The client has stopped sending within its first packet. PostgreSQL has
    /// this SQLSTATE and these words too, for its log alone.
    pub fn incomplete_startup() -> Self {
        Self::protocol("incomplete startup packet")
    }

    /// PostgreSQL's words and SQLSTATE for a client that does not authenticate
    /// in time.
    pub fn too_slow() -> Self {
        let message = "canceling authentication due to timeout";
        Self::new(Code::ProtocolViolation, sqlstate::QUERY_CANCELED, message)
            .with_detail("The client did not finish connecting in time.")
    }

    pub fn unsupported_version(what: impl fmt::Display) -> Self {
        Self::new(Code::ProtocolViolation, sqlstate::FEATURE_NOT_SUPPORTED, what.to_string())
    }

    /// The tenant may not be served because of its status.
    pub fn status(slug: &Slug, status: TenantStatus) -> Self {
        let message = format!("the tenant \"{slug}\" is {status}");
        match status {
            TenantStatus::Suspended => {
                Self::new(Code::TenantSuspended, sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message)
            }
            TenantStatus::Provisioning => {
                Self::new(Code::TenantStatusConflict, sqlstate::CANNOT_CONNECT_NOW, message)
            }
            TenantStatus::Active | TenantStatus::Deleting | TenantStatus::Deleted => {
                Self::new(Code::TenantStatusConflict, sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message)
            }
        }
    }

    pub fn too_many_for_tenant(slug: &Slug, limit: u32) -> Self {
        let message = format!("the tenant \"{slug}\" has all its {limit} connections in use");
        Self::new(Code::TooManyConnections, sqlstate::TOO_MANY_CONNECTIONS, message)
    }

    pub fn too_many_for_login(name: &str, limit: u32) -> Self {
        let message = format!("the login \"{name}\" has all its {limit} connections in use");
        Self::new(Code::TooManyConnections, sqlstate::TOO_MANY_CONNECTIONS, message)
    }

    pub fn too_many_for_cluster(cluster: &ClusterName) -> Self {
        let message = format!("the cluster \"{cluster}\" has all its connections in use");
        Self::new(Code::Overloaded, sqlstate::TOO_MANY_CONNECTIONS, message)
    }

    /// A session has waited for a backend for too long, or too many wait.
    pub fn no_backend(slug: &Slug) -> Self {
        let message = format!("no connection to the database became free for the tenant \"{slug}\"");
        Self::new(Code::Overloaded, sqlstate::TOO_MANY_CONNECTIONS, message)
            .with_detail("All that it may have are in transactions.")
    }

    pub fn overloaded() -> Self {
        let message = "sorry, too many clients already";
        Self::new(Code::Overloaded, sqlstate::TOO_MANY_CONNECTIONS, message)
    }

    pub fn not_ready() -> Self {
        Self::new(Code::Unavailable, sqlstate::CANNOT_CONNECT_NOW, "the front is starting up")
    }

    pub fn stopping() -> Self {
        Self::new(Code::Unavailable, sqlstate::CANNOT_CONNECT_NOW, "the front is shutting down")
    }

    pub fn placement_unavailable() -> Self {
        let message = "the tenant's cluster cannot be reached now";
        Self::new(Code::PlacementUnavailable, sqlstate::CANNOT_CONNECT_NOW, message)
    }

    /// The tenant's database takes no connections, and was not opened again in
    /// time.
    pub fn closed(slug: &Slug) -> Self {
        let message = format!("the database of the tenant \"{slug}\" takes no connections now");
        Self::new(Code::PlacementUnavailable, sqlstate::CANNOT_CONNECT_NOW, message)
            .with_detail("It is being moved, or an operator has closed it.")
    }

    /// The session has something on its backend that cannot go along with its
    /// tenant.
    pub fn moved() -> Self {
        let why = "the tenant is moved to another place";
        Self::ended(Code::Unavailable, why)
            .with_detail("The session kept its connection to the database. Connect again.")
    }

    /// The server does not know the tenant's role by the password that it was
    /// given.
    pub fn role_refused() -> Self {
        let message = "the tenant's cluster refuses the tenant's role";
        Self::new(Code::PlacementUnavailable, sqlstate::CANNOT_CONNECT_NOW, message).with_detail(
            "The password of the role was changed on the cluster. An operator sets the role right with \
             \"insula tenant suspend\" and \"insula tenant resume\".",
        )
    }

    /// A statement reaches past its tenant, or is one too many.
    pub fn statement(rule: &Rule) -> Self {
        let message = format!("{} is not allowed here", rule.statement);
        let sqlstate =
            if rule.is_limit { sqlstate::PROGRAM_LIMIT_EXCEEDED } else { sqlstate::INSUFFICIENT_PRIVILEGE };
        Self::new(Code::StatementRefused, sqlstate, message).with_detail(rule.reason)
    }

    /// A statement takes longer than the tenant's plan allows.
    pub fn statement_timeout(limit: Duration) -> Self {
        let message = "canceling statement due to statement timeout";
        Self::new(Code::StatementTimeout, sqlstate::QUERY_CANCELED, message)
            .with_detail(format!("The tenant's plan allows a statement {} ms.", limit.as_millis()))
    }

    /// It goes on although it was cancelled.
    pub fn endless_statement(limit: Duration) -> Self {
        let message = "terminating connection because a statement did not end when it was cancelled";
        Self { message: message.to_owned(), ..Self::statement_timeout(limit) }
    }

    /// A transaction stands open with nothing asked for longer than the tenant's
    /// plan allows.
    pub fn idle_in_transaction(limit: Duration) -> Self {
        let message = "terminating connection due to idle-in-transaction timeout";
        Self::new(Code::IdleInTransaction, sqlstate::IDLE_IN_TRANSACTION_TIMEOUT, message).with_detail(
            format!("The tenant's plan allows a transaction to be idle {} ms.", limit.as_millis()),
        )
    }

    /// The backend went away under a session.
    pub fn backend_lost() -> Self {
        let message = "the tenant's cluster closed the connection unexpectedly";
        Self::new(Code::PlacementUnavailable, sqlstate::CONNECTION_FAILURE, message)
    }

    /// A session that was in use is ended by the front.
    pub fn ended(code: Code, why: impl fmt::Display) -> Self {
        let message = format!("terminating connection because {why}");
        Self::new(code, sqlstate::ADMIN_SHUTDOWN, message)
    }

    /// What ends a statement and not the session.
    pub fn statement_fields(&self) -> ErrorFields {
        ErrorFields { severity: Severity::Error, ..self.fields() }
    }

    pub fn fields(&self) -> ErrorFields {
        ErrorFields {
            severity: Severity::Fatal,
            sqlstate: self.sqlstate,
            message: self.message.clone(),
            detail: self.detail.clone(),
            hint: Some(format!("insula: {}", self.code)),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Bytes from outside as they may stand in a message and in the log: at most
/// 63 characters, as many as a PostgreSQL name has bytes, none of them control
/// characters.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(4 * 63)];
    let readable = |character: char| if character.is_control() { '?' } else { character };
    String::from_utf8_lossy(head).chars().take(63).map(readable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_names_its_code_in_the_hint() {
        let slug: Slug = "acme".parse().unwrap();
        let refusals = [
            (Refusal::login(b"acme"), "28P01", "login_refused"),
            (Refusal::unknown_scope(b"x"), "3D000", "unknown_scope"),
            (Refusal::host(b"x", "y.example.com"), "28000", "host_refused"),
            (Refusal::status(&slug, TenantStatus::Suspended), "28000", "tenant_suspended"),
            (Refusal::status(&slug, TenantStatus::Provisioning), "57P03", "tenant_status_conflict"),
            (Refusal::too_many_for_tenant(&slug, 3), "53300", "too_many_connections"),
            (Refusal::replication(), "0A000", "replication_refused"),
            (Refusal::placement_unavailable(), "57P03", "placement_unavailable"),
        ];
        for (refusal, sqlstate, code) in refusals {
            let fields = refusal.fields();
            assert_eq!((fields.sqlstate, fields.hint), (sqlstate, Some(format!("insula: {code}"))));
        }
        let full = Refusal::too_many_for_tenant(&slug, 3).fields().message;
        assert!(full.contains("acme") && full.contains('3'), "{full}");
    }

    #[test]
    fn what_clients_send_cannot_write_into_the_log() {
        assert_eq!(printable(b"a\nb\x1b[31m\0\xff"), "a?b?[31m?\u{fffd}");
        assert_eq!(printable("é".repeat(500).as_bytes()).chars().count(), 63);
    }
}
