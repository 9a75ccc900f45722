//! Whether a server can be a tenant cluster: its version, its settings, and
//! the rights of the role that was given. All that is missing is said at once.

use insula_problem::{Code, Problem};
use tokio_postgres::Client;

use crate::db;

/// The oldest PostgreSQL that is served: 15, for `security_invoker` views,
/// `ON DELETE SET NULL (columns)` and databases cloned through the log.
const OLDEST: u32 = 150_000;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Given at initdb, and the same for as long as the server lives.
    pub system_identifier: String,
    /// As `server_version_num` has it.
    pub server_version: u32,
    /// What keeps it from being used, each in a sentence.
    pub missing: Vec<String>,
}

impl Inspection {
    /// The inspection, where nothing is missing.
    ///
    /// # Errors
    /// `cluster_unsuitable` with all that is missing.
    pub fn suitable(self) -> Result<Self, Problem> {
        if self.missing.is_empty() {
            return Ok(self);
        }
        Err(Problem::new(
            Code::ClusterUnsuitable,
            format!("The server cannot be used yet. {}", self.missing.join(" ")),
        ))
    }
}

/// Asks a server what it is. It changes nothing.
///
/// # Errors
/// Where the server does not answer.
pub async fn inspect(client: &Client) -> Result<Inspection, Problem> {
    let row = client
        .query_one(
            "select (select system_identifier::text from pg_control_system()) as system_identifier,
                    current_setting('server_version_num')::int as version,
                    current_setting('server_version') as version_text,
                    current_setting('wal_level') as wal_level,
                    current_setting('max_replication_slots')::int as slots,
                    current_setting('max_wal_senders')::int as senders,
                    current_setting('max_prepared_transactions')::int as prepared,
                    current_setting('server_encoding') as encoding,
                    pg_is_in_recovery() as standby,
                    current_user::text as role,
                    (select rolsuper from pg_roles where rolname = current_user) as superuser",
            &[],
        )
        .await
        .map_err(db)?;
    let mut missing = Vec::new();
    let version: i32 = row.get("version");
    let server_version = u32::try_from(version).unwrap_or(0);
    if server_version < OLDEST {
        let found: &str = row.get("version_text");
        missing.push(format!("It is PostgreSQL {found}; 15 or newer is needed."));
    }
    if row.get::<_, bool>("standby") {
        missing.push("It is a standby; register the primary.".to_owned());
    }
    if !row.get::<_, bool>("superuser") {
        let role: &str = row.get("role");
        missing.push(format!(
            "The role {role} is no superuser; Insula makes roles and databases and takes rights of PUBLIC away: \
             ALTER ROLE {role} SUPERUSER."
        ));
    }
    let wal_level: &str = row.get("wal_level");
    if wal_level != "logical" {
        missing.push(format!(
            "wal_level is {wal_level}; tenants are moved with wal_level = logical (needs a restart)."
        ));
    }
    for (column, setting) in [("slots", "max_replication_slots"), ("senders", "max_wal_senders")] {
        let value: i32 = row.get(column);
        if value < 4 {
            missing.push(format!("{setting} is {value}; at least 4 are needed (needs a restart)."));
        }
    }
    let prepared: i32 = row.get("prepared");
    if prepared > 0 {
        missing.push(format!(
            "max_prepared_transactions is {prepared}; a prepared transaction would outlive a tenant's fence, so it \
             must be 0 (needs a restart)."
        ));
    }
    let encoding: &str = row.get("encoding");
    if encoding != "UTF8" {
        missing.push(format!("Its encoding is {encoding}; UTF8 is needed."));
    }
    Ok(Inspection { system_identifier: row.get("system_identifier"), server_version, missing })
}
