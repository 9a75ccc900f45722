//! Reading what was recorded, and marking it as captured.

use std::collections::HashMap;
use std::sync::Arc;

use insula_app_schema::Migration;
use insula_app_schema::capture::{Firing, MovedSequence, What};
use insula_domain::SchemaVersion;
use insula_problem::{Code, Problem};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::{Blueprint, Recorded, contents};
use crate::db;

/// How long to wait for a tool's transaction to end.
const WAIT: &str = "10s";

/// The most statements that one capture takes.
const FIRINGS_MAX: i64 = 100_000;

impl Blueprint<'_> {
    /// Reads what was recorded and not captured, at a moment at which no
    /// transaction with changes is open. Call [`Blueprint::take`] before.
    ///
    /// # Errors
    /// `blueprint_busy` where a transaction does not end in time.
    pub async fn recorded(&mut self) -> Result<Recorded, Problem> {
        let session = self.session(&super::database()).await?;
        let transaction = self.admin.transaction().await.map_err(db)?;
        transaction.batch_execute(&format!("set local lock_timeout = '{WAIT}'")).await.map_err(db)?;
        let locked = transaction.batch_execute("lock table insula_capture.log in share mode").await;
        if let Err(error) = locked {
            drop(transaction);
            return Err(match error.code() {
                Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => self.in_use().await?,
                _ => db(error),
            });
        }
        let rows = transaction.query(TEXTS_SQL, &[]).await.map_err(db)?;
        let texts: HashMap<String, Arc<str>> =
            rows.iter().map(|row| (row.get(0), Arc::from(row.get::<_, &str>(1)))).collect();
        let rows = transaction.query(FIRINGS_SQL, &[&(FIRINGS_MAX + 1)]).await.map_err(db)?;
        let firings = rows.iter().map(|row| firing(row, &texts)).collect::<Result<Vec<_>, _>>()?;
        if firings.len() as i64 > FIRINGS_MAX {
            return Err(too_much());
        }
        let standing = standing(transaction.client()).await?;
        let sequences = transaction.query(MOVED_SQL, &[]).await.map_err(db)?;
        let sequences = sequences
            .iter()
            .map(|row| MovedSequence { name: row.get(0), last_value: row.get(1), tables: row.get(2) })
            .collect();
        // In the same moment: nobody can change anything while the log is locked.
        let contents = contents(&session).await?;
        transaction.commit().await.map_err(db)?;
        Ok(Recorded { firings, sequences, standing, contents })
    }

    async fn in_use(&self) -> Result<Problem, Problem> {
        let row = self
            .admin
            .query_opt(
                "select a.pid, coalesce(nullif(a.application_name, ''), 'unnamed'), a.state,
                        to_char(a.xact_start at time zone 'UTC', 'HH24:MI:SS')
                 from pg_locks l join pg_stat_activity a using (pid)
                 where l.relation = 'insula_capture.log'::regclass and l.granted and l.mode = 'RowExclusiveLock'
                   and a.pid <> pg_backend_pid()
                 order by a.xact_start limit 1",
                &[],
            )
            .await
            .map_err(db)?;
        let who = row.map_or_else(String::new, |row| {
            format!(
                " It is that of {} (process {}, {}), begun at {} UTC.",
                row.get::<_, String>(1),
                row.get::<_, i32>(0),
                row.get::<_, String>(2),
                row.get::<_, String>(3)
            )
        });
        let detail = format!("A transaction on the blueprint has changed something and has not ended.{who}");
        Ok(Problem::new(Code::BlueprintBusy, detail).retry_after(5))
    }

    /// The first change that was not captured, on one line and shortened.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn first_uncaptured(&self) -> Result<Option<String>, Problem> {
        let row = self
            .admin
            .query_opt(
                "select left(regexp_replace(t.text, '\\s+', ' ', 'g'), 120)
                 from insula_capture.log l
                 join insula_capture.texts t on t.xid = l.xid and t.hash = l.text_hash
                 where l.version is null order by l.seq limit 1",
                &[],
            )
            .await
            .map_err(db)?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Marks what was read as captured in a version.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn mark(&mut self, recorded: &Recorded, migration: &Migration) -> Result<(), Problem> {
        let last = recorded.firings.last().map_or(0, |firing| firing.seq);
        let version = migration.version.0;
        let transaction = self.admin.transaction().await.map_err(db)?;
        transaction
            .execute(
                "update insula_capture.log set version = $1 where version is null and seq <= $2",
                &[&version, &last],
            )
            .await
            .map_err(db)?;
        transaction
            .execute(
                "insert into insula_capture.versions (version, name, sha256, sql, origin)
                 values ($1, $2, $3, $4, 'captured')",
                &[&version, &migration.name, &migration.sha256, &migration.sql],
            )
            .await
            .map_err(db)?;
        for (sequence, last_value) in &recorded.standing {
            transaction
                .execute(
                    "insert into insula_capture.sequences (version, sequence, last_value) values ($1, $2, $3)",
                    &[&version, sequence, last_value],
                )
                .await
                .map_err(db)?;
        }
        transaction.commit().await.map_err(db)
    }

    /// Marks what was read as no part of any version.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn pass_over(&self, recorded: &Recorded) -> Result<(), Problem> {
        let last = recorded.firings.last().map_or(0, |firing| firing.seq);
        self.admin
            .execute(
                "update insula_capture.log set version = 0 where version is null and seq <= $1",
                &[&last],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Forgets what was recorded for versions that are published: they cannot be
    /// captured again.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn forget(&mut self, published: SchemaVersion) -> Result<(), Problem> {
        let transaction = self.admin.transaction().await.map_err(db)?;
        transaction
            .execute("delete from insula_capture.log where version <= $1", &[&published.0])
            .await
            .map_err(db)?;
        transaction
            .execute(
                "delete from insula_capture.texts t
                 where not exists (select from insula_capture.log l where l.xid = t.xid and l.text_hash = t.hash)",
                &[],
            )
            .await
            .map_err(db)?;
        transaction.commit().await.map_err(db)
    }

    /// Takes back captures after a version, so that they are captured again.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn take_back(&mut self, after: SchemaVersion) -> Result<(), Problem> {
        let transaction = self.admin.transaction().await.map_err(db)?;
        for table in ["versions", "sequences"] {
            transaction
                .execute(&format!("delete from insula_capture.{table} where version > $1"), &[&after.0])
                .await
                .map_err(db)?;
        }
        transaction
            .execute("update insula_capture.log set version = null where version > $1", &[&after.0])
            .await
            .map_err(db)?;
        transaction.commit().await.map_err(db)
    }
}

/// Notes where the sequences stand once a version was brought.
pub(super) async fn note_sequences(admin: &Client, version: SchemaVersion) -> Result<(), Problem> {
    admin
        .execute(
            "insert into insula_capture.sequences (version, sequence, last_value)
             select $1, seqrelid, pg_sequence_last_value(seqrelid) from pg_sequence
             on conflict (version, sequence) do nothing",
            &[&version.0],
        )
        .await
        .map_err(db)?;
    Ok(())
}

async fn standing(client: &Client) -> Result<Vec<(u32, Option<i64>)>, Problem> {
    let rows = client
        .query("select seqrelid, pg_sequence_last_value(seqrelid) from pg_sequence", &[])
        .await
        .map_err(db)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn too_much() -> Problem {
    let detail = format!(
        "There are more than {FIRINGS_MAX} statements since the last capture. Build the blueprint again, and capture more often."
    );
    Problem::new(Code::CaptureRefused, detail)
}

fn firing(row: &Row, texts: &HashMap<String, Arc<str>>) -> Result<Firing, Problem> {
    let text = texts.get(row.get::<_, &str>("text")).cloned();
    let what = What::read(row.get("kind"), row.get("detail")).map_err(Problem::internal)?;
    Ok(Firing {
        seq: row.get("seq"),
        message: Arc::from(row.get::<_, &str>("message")),
        text: text.ok_or_else(|| Problem::internal("a recorded statement has no text"))?,
        tag: row.get("tag"),
        context: row.get("context"),
        settings: row.get("settings"),
        what,
    })
}

/// A blueprint that an older program made notes no settings yet.
const FIRINGS_SQL: &str = "
select l.seq, format('%s %s %s', l.pid, l.at, l.text_hash) as message, l.text_hash as text, l.kind, l.tag,
       l.context, coalesce(to_jsonb(l) ->> 'settings', '') as settings, l.detail::text as detail
from insula_capture.log l
where l.version is null order by l.seq limit $1";

/// The texts of those, each once.
const TEXTS_SQL: &str = "
select distinct on (t.hash) t.hash, t.text
from insula_capture.texts t
where exists (select from insula_capture.log l
              where l.version is null and l.xid = t.xid and l.text_hash = t.hash)";

/// Sequences that stand elsewhere than when the last version was captured or
/// brought, with the tables that draw from them.
const MOVED_SQL: &str = "
select c.relname::text, pg_sequence_last_value(s.seqrelid),
       array(select distinct t.relname::text
             from pg_depend d
             left join pg_attrdef e on d.classid = 'pg_attrdef'::regclass and e.oid = d.objid
             join pg_class t on t.oid = case when d.classid = 'pg_attrdef'::regclass then e.adrelid else d.refobjid end
             where t.relkind in ('r', 'p')
               and (d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
                    or d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass
                       and d.deptype in ('a', 'i')))
from pg_sequence s
join pg_class c on c.oid = s.seqrelid and c.relnamespace = to_regnamespace('public')
left join lateral (
    select q.last_value from insula_capture.sequences q
    where q.sequence = c.oid order by q.version desc limit 1) before on true
where s.seqincrement > 0 and c.relpersistence <> 't'
  and pg_sequence_last_value(s.seqrelid) is distinct from before.last_value
  and pg_sequence_last_value(s.seqrelid) is not null
order by 1";
