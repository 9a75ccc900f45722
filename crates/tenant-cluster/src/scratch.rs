//! Scratch databases: made to try or to read something, and removed. A crash
//! may leave one behind; whoever makes a server ready removes those.

use insula_app_schema::PlainMigration;
use insula_domain::{DatabaseName, SchemaName};
use insula_problem::Problem;
use tokio_postgres::Client;

use crate::access::ClusterAccess;
use crate::schema::RowsDoNotFit;
use crate::spaces::{drop_database, ensure_closed_database};
use crate::{db, schema};

/// A scratch database.
#[derive(Debug)]
pub struct Scratch {
    database: DatabaseName,
}

impl Scratch {
    /// An empty one.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn empty(access: &ClusterAccess) -> Result<Self, Problem> {
        let maintenance = access.maintenance().await?;
        let row = maintenance
            .query_one("select 'insula_scratch_' || replace(gen_random_uuid()::text, '-', '')", &[])
            .await
            .map_err(db)?;
        let database = DatabaseName::from_stored(row.get(0));
        ensure_closed_database(&maintenance, &database).await?;
        Ok(Self { database })
    }

    /// One with the migrations in the plain form. Where one fails, nothing is left.
    ///
    /// # Errors
    /// Where the cluster is away, or a migration fails.
    pub async fn plain(access: &ClusterAccess, migrations: &[PlainMigration]) -> Result<Self, Problem> {
        let scratch = Self::empty(access).await?;
        let applied = async {
            let mut client = access.own(&scratch.database).await?;
            let schema = SchemaName::of_silo();
            for migration in migrations {
                schema::apply_plain(&mut client, &schema, migration).await?;
            }
            Ok(())
        };
        match applied.await {
            Ok(()) => Ok(scratch),
            Err(problem) => {
                scratch.drop(access).await?;
                Err(RowsDoNotFit::in_full(problem))
            }
        }
    }

    /// Its name.
    #[must_use]
    pub fn database(&self) -> &DatabaseName {
        &self.database
    }

    /// Removes it.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn drop(self, access: &ClusterAccess) -> Result<(), Problem> {
        let maintenance = access.maintenance().await?;
        drop_database(&maintenance, &self.database).await
    }
}

/// Removes scratch databases in which nobody is.
pub(crate) async fn drop_abandoned(maintenance: &Client) -> Result<(), Problem> {
    let rows = maintenance
        .query(
            "select datname::text from pg_database d where datname ~ '^insula_scratch_[0-9a-f]{32}$'
             and not exists (select from pg_stat_activity a where a.datname = d.datname)",
            &[],
        )
        .await
        .map_err(db)?;
    for row in rows {
        drop_database(maintenance, &DatabaseName::from_stored(row.get(0))).await?;
    }
    Ok(())
}
