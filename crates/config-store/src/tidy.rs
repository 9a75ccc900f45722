//! What goes with time: the log's beginning, tokens, the notes of who read
//! secrets, and large values that no version refers to any more.

use std::time::Duration;

use insula_config_model::Revision;
use insula_problem::Problem;
use insula_sql_store::Store;
use time::OffsetDateTime;
use tokio_postgres::types::ToSql;

use crate::ConfigStore;

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Changes in the log.
    pub log: Duration,
    /// At most so many changes in the log, however young.
    pub log_changes: u32,
    /// Tokens under which something was done.
    pub tokens: Duration,
    /// Notes of who was shown which secret.
    pub reads: Duration,
    /// Large values to which no version refers.
    pub blobs: Duration,
    /// Clients that say nothing any more.
    pub clients: Duration,
}

impl Default for Retention {
    /// A day of changes and tokens, 400 days of reads, an hour for large values,
    /// a week for clients.
    fn default() -> Self {
        const DAY: u64 = 24 * 3_600;
        Self {
            log: Duration::from_secs(DAY),
            log_changes: 500_000,
            tokens: Duration::from_secs(DAY),
            reads: Duration::from_secs(400 * DAY),
            blobs: Duration::from_secs(3_600),
            clients: Duration::from_secs(7 * DAY),
        }
    }
}

/// How much is removed at once.
const AT_ONCE: i64 = 5_000;

/// At how many large values is looked at once.
const BLOBS_AT_ONCE: i64 = 500;

const OLD_LOG: &str = "select greatest(
        (select c.revision - $2 from config_clock c),
        (select l.revision from config_log l where l.at < $1 order by l.at desc limit 1))";

const COMPACT: &str = "update config_clock set compacted = greatest(compacted, $1) where revision >= $1";

const DROP_LOG: &str = "delete from config_log where revision in (
        select l.revision from config_log l
        where l.revision <= (select compacted from config_clock) order by l.revision limit $1)
    returning 1";

const DROP_TOKENS: &str = "delete from config_requests where (scope, token) in (
        select scope, token from config_requests where at < $1 order by at limit $2)
    returning 1";

const DROP_CLIENTS: &str = "delete from config_clients where (scope, client_id) in (
        select scope, client_id from config_clients where at < $1 order by at limit $2)
    returning 1";

const DROP_READS: &str = "delete from config_reads where id in (
        select id from config_reads where at < $1 order by at limit $2)
    returning 1";

/// A page of all large values: of those, the ones go to which no version refers.
const DROP_BLOBS: &str = "with page as (
        select scope, sha256 from config_blobs where (scope, sha256) > ($2, $3)
        order by scope, sha256 limit $4
    ), gone as (
        delete from config_blobs b using page p
        where b.scope = p.scope and b.sha256 = p.sha256 and b.at < $1 and (
            select true from config_versions v
            where v.scope = b.scope and v.kind = 3 and v.sha256 = b.sha256 limit 1) is null
    )
    select scope, sha256 from page order by scope desc, sha256 desc limit 1";

impl ConfigStore {
    /// Removes what is older than it is to be kept. May be repeated, and by
    /// several at once.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn tidy(&self, retention: &Retention) -> Result<(), Problem> {
        let now = self.ambient.clock.now();
        let found =
            self.chores.query(OLD_LOG, &[&(now - retention.log), &i64::from(retention.log_changes)]).await?;
        let last: Option<Revision> = found.first().and_then(|row| row.get(0));
        if let Some(last) = last.filter(|last| *last > 0) {
            // Said first: a reader never takes a gap for the whole.
            self.chores.query(COMPACT, &[&last]).await?;
            self.drop_all(DROP_LOG, &[&AT_ONCE]).await?;
        }
        self.drop_all(DROP_TOKENS, &[&(now - retention.tokens), &AT_ONCE]).await?;
        self.drop_all(DROP_READS, &[&(now - retention.reads), &AT_ONCE]).await?;
        self.drop_blobs(now - retention.blobs).await?;
        if self.store == Store::Region {
            self.drop_all(DROP_CLIENTS, &[&(now - retention.clients), &AT_ONCE]).await?;
        }
        Ok(())
    }

    async fn drop_blobs(&self, before: OffsetDateTime) -> Result<(), Problem> {
        let mut after = (String::new(), String::new());
        loop {
            let of: [&(dyn ToSql + Sync); 4] = [&before, &after.0, &after.1, &BLOBS_AT_ONCE];
            let rows = self.chores.query(DROP_BLOBS, &of).await?;
            let Some(last) = rows.first() else { return Ok(()) };
            after = (last.get(0), last.get(1));
        }
    }

    async fn drop_all(&self, sql: &'static str, of: &[&(dyn ToSql + Sync)]) -> Result<(), Problem> {
        while self.chores.query(sql, of).await?.len() as i64 == AT_ONCE {}
        Ok(())
    }
}
