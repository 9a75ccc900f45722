//! A tenant's configuration from one region's store into another's. What never
//! changes (versions, large values, tokens, who was shown which secret) is copied
//! ahead while the tenant works. Then it is closed here, what is missing is
//! copied, and it is opened there, behind every revision of before. Between the
//! two it is neither read nor written: nothing that was acknowledged is lost, and
//! nothing is ever seen twice.
//!
//! Everything is copied in pages, so that no amount makes a statement fail, and
//! each page holds the home that it is for: one that is late changes nothing.

mod arrival;
mod large;
mod newest;
mod notes;
mod versions;
mod words;

use insula_config_model::{Revision, Scope};
use insula_domain::{Epoch, TenantId};
use insula_problem::Problem;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::ConfigStore;
use crate::homes::FOR_UPDATE;
use crate::line::{Line, Pace};
use crate::log::{ARRIVED, LEFT};

/// The home that a page is for, held while it is put there.
macro_rules! awaited {
    () => {
        "home as materialized (
            select 1 from config_homes where scope = $1 and state = 'arriving' and epoch = $2 for share)"
    };
}
use awaited;

/// What is compared before it is opened.
const KEPT: &str = "select
    (select count(*) from config_versions where scope = $1),
    (select coalesce(sum(version), 0)::text from config_versions where scope = $1),
    (select count(*) from config_values where scope = $1),
    (select count(*) from config_labels where scope = $1)";

/// Values and labels without the version that they show. Each is looked up by
/// itself: a join would be planned for as few as there were when the plan was made.
const TORN: &str = "select count(*) from (
        select key, version from config_values where scope = $1
        union all select key, version from config_labels where scope = $1) as n
    where (select true from config_versions v
        where v.scope = $1 and v.key = n.key and v.version = n.version limit 1) is null";

const OPEN: &str = "update config_homes set state = 'open', since = $2, at = $3 where scope = $1";

/// A tenant on its way.
struct Transfer<'s> {
    from: &'s ConfigStore,
    to: &'s ConfigStore,
    scope: String,
    epoch: i64,
}

impl ConfigStore {
    /// Copies what does not change, while the tenant is read and written at the
    /// other store, and awaits it with the placement of this epoch. Where there
    /// is something more afterwards, it is copied by [`ConfigStore::receive`].
    ///
    /// # Errors
    /// Where one of the stores is away.
    pub async fn copy_ahead(&self, from: &Self, tenant: TenantId, epoch: Epoch) -> Result<(), Problem> {
        let transfer = Transfer::new(from, self, tenant, epoch);
        if !transfer.is_due().await? || !transfer.is_there().await? {
            return Ok(());
        }
        transfer.await_it().await?;
        transfer.ahead().await
    }

    /// Brings a tenant's configuration here, with the placement of this epoch: it
    /// is closed there, copied, and opened here. May be repeated, by several at
    /// once, and after an interruption at any point; one with an epoch that is
    /// not newer than that of where it is changes nothing.
    ///
    /// # Errors
    /// Where one of the stores is away.
    pub async fn receive(&self, from: &Self, tenant: TenantId, epoch: Epoch) -> Result<(), Problem> {
        let transfer = Transfer::new(from, self, tenant, epoch);
        if !transfer.is_due().await? {
            return Ok(());
        }
        match transfer.bring().await {
            // Somebody else was faster.
            Err(_) if !transfer.is_due().await? => Ok(()),
            done => done,
        }
    }
}

impl<'s> Transfer<'s> {
    fn new(from: &'s ConfigStore, to: &'s ConfigStore, tenant: TenantId, epoch: Epoch) -> Self {
        Self { from, to, scope: Scope::Tenant(tenant).to_string(), epoch: epoch.0 }
    }

    /// Where one store says of it what is not to be: another move has come since.
    fn late() -> Problem {
        Problem::internal("a tenant's configuration has gone elsewhere since")
    }

    /// A page into the store where it is awaited.
    async fn put(&self, sql: &'static str, of: &[&(dyn ToSql + Sync)]) -> Result<(), Problem> {
        let done = self.to.chores.query(sql, of).await?;
        if done.is_empty() { Err(Self::late()) } else { Ok(()) }
    }

    async fn bring(&self) -> Result<(), Problem> {
        if self.is_there().await? {
            self.await_it().await?;
            // Once more: much may have been written since.
            self.ahead().await?;
        }
        let last = self.close().await?;
        self.await_it().await?;
        self.rest().await?;
        self.open(last).await
    }

    async fn ahead(&self) -> Result<(), Problem> {
        self.bring_large().await?;
        self.bring_versions(false).await?;
        self.bring_requests().await?;
        self.bring_reads().await?;
        self.bring_words().await
    }

    /// All of it, when nothing of it is written any more.
    async fn rest(&self) -> Result<(), Problem> {
        self.bring_large().await?;
        self.bring_versions(true).await?;
        self.bring_requests().await?;
        self.bring_reads().await?;
        self.bring_values().await?;
        self.bring_labels().await
    }

    /// Closes a tenant's configuration where it was; the last revision behind
    /// which nothing of it is written any more.
    async fn close(&self) -> Result<Revision, Problem> {
        let (from, scope) = (self.from, &self.scope);
        let line = Line::open(from.store, &from.connector, Pace::Brisk).await?;
        let (client, db) = (line.client(), |error| line.problem(error));
        client.batch_execute("begin").await.map_err(db)?;
        let home = client.query_opt(FOR_UPDATE, &[scope]).await.map_err(db)?;
        let home = home.ok_or_else(|| Problem::internal("a tenant's configuration is not where it was"))?;
        if home.get::<_, i64>(1) >= self.epoch {
            return Err(Self::late());
        }
        let lock = client.query_one("select revision from config_clock for update", &[]).await.map_err(db)?;
        let revision: Revision = lock.get(0);
        match home.get(0) {
            "open" => {}
            "closed" => {
                client.batch_execute("rollback").await.map_err(db)?;
                return Ok(revision);
            }
            _ => {
                return Err(Problem::internal(
                    "a tenant's configuration has not come to where it is to go from",
                ));
            }
        }
        let at = from.ambient.clock.now();
        let sql = "update config_homes set state = 'closed', at = $2 where scope = $1";
        client.execute(sql, &[scope, &at]).await.map_err(db)?;
        log_home(&line, scope, revision + 1, LEFT, at).await?;
        client.batch_execute("commit").await.map_err(db)?;
        Ok(revision + 1)
    }

    /// Opens it where it has come to, if all of it is there: the clock is held
    /// for no more than that.
    async fn open(&self, last: Revision) -> Result<(), Problem> {
        let (to, scope) = (self.to, &self.scope);
        let wanted = kept(&self.from.chores.query(KEPT, &[scope]).await?)?;
        let line = Line::open(to.store, &to.connector, Pace::Patient).await?;
        let (client, db) = (line.client(), |error| line.problem(error));
        client.batch_execute("begin").await.map_err(db)?;
        // Behind every page that somebody else is putting, and before the next one.
        let home = client.query_opt(FOR_UPDATE, &[scope]).await.map_err(db)?;
        let Some(home) = home else { return Err(Self::late()) };
        if home.get::<_, i64>(1) > self.epoch || home.get::<_, &str>(0) != "arriving" {
            // Somebody else has done it in between, or more.
            return client.batch_execute("rollback").await.map_err(db);
        }
        let there = kept(&client.query(KEPT, &[scope]).await.map_err(db)?)?;
        let torn: i64 = client.query_one(TORN, &[scope]).await.map_err(db)?.get(0);
        if there != wanted || torn > 0 {
            let text =
                format!("a configuration is not whole where it came: {there:?} of {wanted:?}, {torn} torn");
            return Err(Problem::internal(text));
        }
        client.execute(crate::usage::COUNT, &[scope]).await.map_err(db)?;
        let lock = client.query_one("select revision from config_clock for update", &[]).await.map_err(db)?;
        let (since, at) = (lock.get::<_, Revision>(0).max(last) + 1, to.ambient.clock.now());
        client.execute(OPEN, &[scope, &since, &at]).await.map_err(db)?;
        log_home(&line, scope, since, ARRIVED, at).await?;
        client.batch_execute("commit").await.map_err(db)
    }
}

/// How much there is: versions and their sum, values, labels.
fn kept(rows: &[Row]) -> Result<(i64, String, i64, i64), Problem> {
    let row = rows.first().ok_or_else(|| Problem::internal("nothing was counted"))?;
    Ok((row.get(0), row.get(1), row.get(2), row.get(3)))
}

/// A change of a tenant's home, for those who follow the log.
async fn log_home(
    line: &Line,
    scope: &String,
    revision: Revision,
    kind: i16,
    at: time::OffsetDateTime,
) -> Result<(), Problem> {
    let sql = "with clock as (update config_clock set revision = $1), logged as (
            insert into config_log (revision, scope, key, kind, at) values ($1, $2, '', $3, $4))
        select pg_notify('insula_config', $1::bigint::text)";
    let of: [&(dyn ToSql + Sync); 4] = [&revision, scope, &kind, &at];
    line.client().execute(sql, &of).await.map_err(|error| line.problem(error)).map(drop)
}
