//! Scratch databases: made to try or to read something, and removed by a task
//! of its own: PostgreSQL writes a checkpoint before it removes a database, and
//! nobody is to wait for that. Their maker holds a lock for as long as they are
//! used: one without is what a crash left behind, and goes when the next one is
//! made, or with [`drop_abandoned_scratch`].

use insula_app_schema::PlainMigration;
use insula_domain::{DatabaseName, SchemaName};
use insula_problem::Problem;
use tokio::runtime::Handle;
use tokio_postgres::Client;

use crate::access::{ClusterAccess, Connection, MAINTENANCE};
use crate::schema::RowsDoNotFit;
use crate::spaces::{drop_database, ensure_closed_database};
use crate::{db, schema};

/// The names of scratch databases, as a pattern of PostgreSQL.
pub(crate) const NAMES: &str = "^insula_scratch_[0-9a-f]{32}$";

/// A scratch database. It is removed some time after it is let go of.
#[derive(Debug)]
pub struct Scratch {
    database: DatabaseName,
    /// The session that has the lock; none when the database is being removed.
    keeper: Option<Connection>,
}

impl Scratch {
    /// An empty one.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn empty(access: &ClusterAccess) -> Result<Self, Problem> {
        // The lock is of the session: it is given back with it, however it ends.
        let keeper = access.own(&DatabaseName::from_stored(MAINTENANCE.to_owned())).await?;
        drop_abandoned(&keeper).await?;
        let row = keeper
            .query_one(
                "with made as (
                     select 'insula_scratch_' || replace(gen_random_uuid()::text, '-', '') as name)
                 select name, pg_advisory_lock(hashtextextended(name, 0)) from made",
                &[],
            )
            .await
            .map_err(db)?;
        let scratch = Self { database: DatabaseName::from_stored(row.get(0)), keeper: Some(keeper) };
        if let Some(keeper) = &scratch.keeper {
            ensure_closed_database(keeper, &scratch.database).await?;
        }
        Ok(scratch)
    }

    /// One with the migrations in the plain form. Where one fails, nothing is left.
    ///
    /// # Errors
    /// Where the cluster is away, or a migration fails.
    pub async fn plain(access: &ClusterAccess, migrations: &[PlainMigration]) -> Result<Self, Problem> {
        let scratch = Self::empty(access).await?;
        {
            let mut client = access.own(&scratch.database).await?;
            let schema = SchemaName::of_silo();
            for migration in migrations {
                let applied = schema::apply_plain(&mut client, &schema, migration).await;
                applied.map_err(RowsDoNotFit::in_full)?;
            }
        }
        Ok(scratch)
    }

    /// Its name.
    #[must_use]
    pub fn database(&self) -> &DatabaseName {
        &self.database
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (Some(keeper), Ok(runtime)) = (self.keeper.take(), Handle::try_current()) else { return };
        let database = self.database.clone();
        runtime.spawn(async move {
            if let Err(problem) = drop_database(&keeper, &database).await {
                tracing::warn!(%database, error = problem.chain(), "a scratch database is left for the next");
            }
        });
    }
}

/// Scratch databases whose maker is gone.
///
/// # Errors
/// Where the cluster is away.
pub(crate) async fn abandoned(maintenance: &Client) -> Result<Vec<DatabaseName>, Problem> {
    let rows = maintenance
        .query(
            "select d.datname::text from pg_database d
             where d.datname ~ $1
               and not exists (select from pg_stat_activity a where a.datid = d.oid)
               and not exists (
                   select from pg_locks l
                   where l.locktype = 'advisory' and l.objsubid = 1
                     and l.database = (select oid from pg_database where datname = current_database())
                     and (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(d.datname::text, 0))
             order by 1",
            &[&NAMES],
        )
        .await
        .map_err(db)?;
    Ok(rows.iter().map(|row| DatabaseName::from_stored(row.get(0))).collect())
}

/// Removes what a crash has left; this one waits until it is gone.
///
/// # Errors
/// Where the cluster is away.
pub async fn drop_abandoned_scratch(access: &ClusterAccess) -> Result<(), Problem> {
    if abandoned(&*access.maintenance().await?).await?.is_empty() {
        return Ok(());
    }
    drop_abandoned(&*access.own(&DatabaseName::from_stored(MAINTENANCE.to_owned())).await?).await
}

/// Removes them. `session` must be no pooled one: it keeps a lock of each.
pub(crate) async fn drop_abandoned(session: &Client) -> Result<(), Problem> {
    for database in abandoned(session).await? {
        // A second one at it at the same time leaves it to the first.
        let locked = session
            .query_one("select pg_try_advisory_lock(hashtextextended($1, 0))", &[&database.as_str()])
            .await
            .map_err(db)?;
        if locked.get(0) {
            drop_database(session, &database).await?;
        }
    }
    Ok(())
}
