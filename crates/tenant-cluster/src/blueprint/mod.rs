//! The blueprint: a plain database of one tenant's form that Insula keeps, for
//! an application's own migration tool to work on. Everything that a tool does
//! there is recorded by triggers, in the tool's own transaction.
//!
//! Whoever has its URL may make functions, types and triggers there. So nothing
//! of an app schema ever runs there as an administrator: versions are brought,
//! tried and compared as the blueprint's own role, and the administrator reads
//! the log alone.

mod bring;
mod place;
mod record;

use std::collections::BTreeMap;

use insula_app_schema::capture::{Firing, MovedSequence};
use insula_domain::{DatabaseName, SchemaVersion};
use insula_problem::{Code, Problem};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::access::{ClusterAccess, Connection};
use crate::db;
use crate::schema::{SchemaFingerprint, fingerprint};

pub use place::{create, drop_blueprint, set_password};

/// The role as which tools work on the blueprint, and the name of its database.
pub const ROLE: &str = "insula_blueprint";
/// The database in which versions are tried as that role.
pub const CHECK_DATABASE: &str = "insula_blueprint_check";
/// The role as which the recorder writes its log. It cannot log in.
pub(crate) const RECORDER: &str = "insula_recorder";

fn database() -> DatabaseName {
    DatabaseName::from_stored(ROLE.to_owned())
}

/// The blueprint on its cluster, opened as its administrator.
#[derive(Debug)]
pub struct Blueprint<'a> {
    access: &'a ClusterAccess,
    password: &'a str,
    admin: Connection,
}

/// A version that the blueprint has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlueprintVersion {
    /// The version.
    pub version: SchemaVersion,
    /// The name in its file's name.
    pub name: String,
    /// Its text, as it was captured or brought.
    pub sql: String,
    /// Whether it was captured there, rather than brought there.
    pub captured: bool,
}

/// What is in a database, as far as it can be compared with another one.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The definitions.
    pub fingerprint: SchemaFingerprint,
    /// How many rows each table has.
    pub rows: BTreeMap<String, i64>,
}

/// Everything that was recorded and not captured.
#[derive(Debug)]
pub struct Recorded {
    /// In its order.
    pub firings: Vec<Firing>,
    /// Sequences that have moved.
    pub sequences: Vec<MovedSequence>,
    /// Where every sequence stands: its oid, and the last value drawn.
    standing: Vec<(u32, Option<i64>)>,
    /// What is in the blueprint.
    pub contents: Contents,
}

impl<'a> Blueprint<'a> {
    /// Opens the blueprint.
    ///
    /// # Errors
    /// `blueprint_missing` where it is not there, or was tampered with;
    /// `placement_unavailable` where the cluster is away.
    pub async fn open(access: &'a ClusterAccess, password: &'a str) -> Result<Self, Problem> {
        let missing = || {
            Problem::new(
                Code::BlueprintMissing,
                format!(
                    "The database {ROLE} on the cluster {} is gone, or is not the one that Insula made. `insula schema \
                     blueprint-rebuild` makes it anew from the versions; what was not captured is lost.",
                    access.name()
                ),
            )
        };
        let maintenance = access.maintenance().await?;
        if !crate::spaces::database_exists(&maintenance, &database()).await? {
            return Err(missing());
        }
        let admin = access.own(&database()).await?;
        admin.batch_execute("set search_path = pg_catalog").await.map_err(db)?;
        let whole = admin
            .query_one(
                "select count(*) from pg_event_trigger
                 where evtname in ('insula_capture_ddl', 'insula_capture_drop') and evtenabled = 'A'",
                &[],
            )
            .await
            .map_err(db)?;
        if whole.get::<_, i64>(0) != 2 {
            return Err(missing());
        }
        Ok(Self { access, password, admin })
    }

    /// Takes the blueprint for one capture, rebuild or version, until the value
    /// is dropped.
    ///
    /// # Errors
    /// `blueprint_busy` where somebody else has it.
    pub async fn take(&self) -> Result<(), Problem> {
        self.take_within("1ms").await
    }

    /// The same, and waits for a capture that is under way.
    ///
    /// # Errors
    /// `blueprint_busy` where somebody else has it for long.
    pub async fn take_in_turn(&self) -> Result<(), Problem> {
        self.take_within("60s").await
    }

    async fn take_within(&self, time: &str) -> Result<(), Problem> {
        let lock = format!(
            "set lock_timeout = '{time}';
             select pg_advisory_lock(hashtextextended('insula blueprint', 0));
             set lock_timeout = 0"
        );
        match self.admin.batch_execute(&lock).await {
            Ok(()) => return Ok(()),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {}
            Err(error) => return Err(db(error)),
        }
        let detail = "Another capture is under way, or a version is being brought to the blueprint.";
        Err(Problem::new(Code::BlueprintBusy, detail).retry_after(2))
    }

    /// The versions that it has, the oldest first.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn versions(&self) -> Result<Vec<BlueprintVersion>, Problem> {
        let rows = self
            .admin
            .query(
                "select version, name, sql, origin = 'captured' from insula_capture.versions order by version",
                &[],
            )
            .await
            .map_err(db)?;
        let version = |row: &tokio_postgres::Row| BlueprintVersion {
            version: SchemaVersion(row.get(0)),
            name: row.get(1),
            sql: row.get(2),
            captured: row.get(3),
        };
        Ok(rows.iter().map(version).collect())
    }

    /// A session as the blueprint's own role.
    async fn session(&self, database: &DatabaseName) -> Result<Connection, Problem> {
        self.access.as_role(ROLE, self.password, database).await.map_err(|problem| {
            let detail = format!(
                "The role {ROLE} does not come into its database. `insula schema blueprint-url` sets its password again."
            );
            Problem::new(problem.code(), detail).retry_after(2).caused_by(problem)
        })
    }
}

/// What is in the database of a session, which is the blueprint's own role.
async fn contents(session: &Client) -> Result<Contents, Problem> {
    let fingerprint = fingerprint(session, &insula_domain::SchemaName::of_silo()).await?;
    let tables = session
        .query(
            "select c.oid::regclass::text, c.relname::text from pg_catalog.pg_class c
             where c.relnamespace = to_regnamespace('public') and c.relkind = 'r'
               and pg_catalog.pg_has_role(c.relowner, 'usage') order by 1",
            &[],
        )
        .await
        .map_err(db)?;
    let mut rows = BTreeMap::new();
    for table in tables {
        let count = session
            .query_one(&format!("select count(*) from only {}", table.get::<_, String>(0)), &[])
            .await
            .map_err(db)?;
        rows.insert(table.get(1), count.get(0));
    }
    Ok(Contents { fingerprint, rows })
}
