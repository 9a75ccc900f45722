//! What a live move does on tenant clusters, at either end: looking at what
//! there is, copying it, bringing what is written meanwhile, comparing it,
//! setting sequences, and closing and opening the tenant's entry. When to do
//! which is decided elsewhere.

mod apply;
mod copy;
mod entry;
mod load;
mod manifest;
mod objects;
mod pgoutput;
mod pieces;
mod preflight;
mod progress;
mod seat;
mod sequences;
mod slots;
mod small;
mod stream_name;
mod strip;
mod tables;
mod told_key;
mod verify;
mod wire;

use insula_domain::{Placement, TenantId};
use insula_problem::Problem;

use crate::access::{ClusterAccess, Connection};
use crate::roles::search_path;
use crate::{db, literal};

pub use apply::{
    CHUNKS_ABOVE_KB, FALLEN_BACK, Hold, InWhole, Marker, STREAMED, Stream, StreamFault, StreamProgress,
    StreamSpec,
};
pub use copy::{Copied, CopyOptions, copy};
pub use entry::{admit_roles, close, is_open, open, sessions_at};
pub use load::{Look, Looks, Pace};
pub use manifest::{Manifest, manifest};
pub use objects::{
    ReplicationObjects, ReplicationRoom, StreamSlot, drop_publication, replication_objects, replication_room,
};
pub use preflight::{Inventory, Obstacle, survey};
pub use progress::{CopyProgress, Throttle};
pub use seat::{At, Seat};
pub use sequences::{Sequence, SequenceReader, move_sequences, raise_sequences, sequences, set_sequences};
pub use slots::{
    Exported, create_origin, create_slot, drop_origin, drop_slot, publish, remove_stream, remove_streams_at,
    temporary_slot, unpublish,
};
pub use small::{Shown, export_snapshot, forget_settings, is_there, standby_lag, write_marker};
pub use stream_name::{NotAStream, StreamName, Way};
pub use tables::{MovedColumn, MovedTable, ReplicaIdentity, are_alike, tables};
pub use verify::{CompareOptions, Compared, Comparison, Difference, Differs, Verified, verify};

/// A place in a server's write-ahead log.
pub use tokio_postgres::types::PgLsn as Lsn;

/// One end of a move.
#[derive(Debug, Clone)]
pub struct Place {
    /// The way to the server.
    pub access: ClusterAccess,
    /// Where on the server the tenant is, or will be.
    pub placement: Placement,
    /// Whose rows they are.
    pub tenant: TenantId,
}

impl Place {
    /// A connection of its own to the placement's database, as administrator,
    /// that reads and writes values as every connection of a move does.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn connect(&self) -> Result<Connection, Problem> {
        let client = self.access.own(&self.placement.database).await?;
        client.batch_execute(&self.session()).await.map_err(db)?;
        Ok(client)
    }

    /// The same beside a seat on the server.
    pub(super) async fn beside(&self, seat: &Seat) -> Result<Connection, Problem> {
        let client = seat.beside(&self.placement.database).await?;
        client.batch_execute(&self.settings()).await.map_err(db)?;
        Ok(client)
    }

    /// Whether the tables there are shared and have the tenant's column.
    #[must_use]
    pub fn is_pool_form(&self) -> bool {
        self.placement.isolation.is_pool_form()
    }

    /// What is set for a connection, with its name.
    fn session(&self) -> String {
        format!("set application_name = {}; {}", literal(&session_name(self.tenant)), self.settings())
    }

    /// Values are written the same way at both ends; no row is hidden without an
    /// error; the waits are bounded by who waits, whose end ends the statement, and
    /// a lock is not waited for for ever. What an application's functions warn of may
    /// be of rows, and would come to our log.
    fn settings(&self) -> String {
        let path = search_path(insula_domain::Isolation::Schema, &self.placement.schema, None);
        format!(
            "set search_path = {path};
             set standard_conforming_strings = on;
             set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres';
             set extra_float_digits = 3; set bytea_output = 'hex'; set xmloption = 'content';
             set row_security = off; set jit = off; set client_min_messages = 'error';
             set client_connection_check_interval = '1s';
             select set_config(name, case name when 'lock_timeout' then '30s' else '0' end, false)
             from pg_settings where name in ('lock_timeout', 'statement_timeout', 'transaction_timeout',
                                             'idle_in_transaction_session_timeout', 'idle_session_timeout')"
        )
    }

    /// A condition, from `where` on, that is true of the tenant's rows alone;
    /// nothing where the tables are its own.
    pub(crate) fn filter(&self) -> String {
        self.conditions().first().map_or_else(String::new, |condition| format!(" where {condition}"))
    }

    /// The conditions of [`Self::filter`].
    pub(crate) fn conditions(&self) -> Vec<String> {
        if self.is_pool_form() {
            return vec![format!("tenant_id = '{}'::uuid", self.tenant.as_uuid())];
        }
        Vec::new()
    }
}

/// What the sessions of a tenant's move are called.
fn session_name(tenant: TenantId) -> String {
    format!("insula move {tenant}")
}

/// A name as an SQL identifier, whatever is in it.
#[must_use]
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names as SQL identifiers, with commas between.
#[must_use]
pub fn identifiers<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(identifier).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        for (name, quoted) in [
            ("orders", r#""orders""#),
            ("Order Lines", r#""Order Lines""#),
            (r#"a"; drop table b; --"#, r#""a""; drop table b; --""#),
            (r"back\slash'", r#""back\slash'""#),
            ("ünï😀", "\"ünï😀\""),
        ] {
            assert_eq!(identifier(name), quoted);
        }
        assert_eq!(identifiers(["a", "b\""]), r#""a", "b""""#);
    }
}
