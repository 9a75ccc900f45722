//! The log: every change in its order, with its value.

use std::collections::BTreeSet;

use insula_config_model::{ConfigKey, Label, Revision, Scope, Stored, Version, author_of};
use insula_problem::Problem;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::ConfigStore;
use crate::decide::{Change, What};
use crate::rows::{self, version_columns};
use crate::state::Ready;

/// A change.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRow {
    /// Its number. In a batch of changes they follow one another; between two
    /// batches some may be left out.
    pub revision: Revision,
    /// Where.
    pub scope: Scope,
    /// When.
    pub at: OffsetDateTime,
    /// What.
    pub change: LogChange,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq)]
pub enum LogChange {
    /// A new version of a key, a removal among them.
    Version {
        /// Of which key.
        key: ConfigKey,
        /// Its number.
        version: Version,
        /// The version, secrets as they are kept; none where it was dropped
        /// since, and so a newer one follows.
        stored: Option<Box<Stored>>,
        /// How many versions of the key are kept.
        history: u32,
    },
    /// A label was put on a version, or taken away.
    Label {
        /// Of which key.
        key: ConfigKey,
        /// Which.
        label: Label,
        /// On which version it is now.
        version: Option<Version>,
    },
    /// A tenant's configuration has come here, or come back: from now on it is
    /// read and written here.
    Arrived,
    /// A tenant's configuration is here no more.
    Left,
}

/// What the log has behind a revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// The changes in their order.
    pub rows: Vec<LogRow>,
    /// Up to which revision that is all; go on from here.
    pub revision: Revision,
    /// The log is whole behind this one: whoever asked from before it has to
    /// take a snapshot.
    pub compacted: Revision,
    /// There is no more behind these.
    pub is_all: bool,
}

/// The bytes of the values that are read at once, where there are several.
const PAGE_BYTES: i64 = 8 << 20;

/// How much of the log is looked through for what concerns some scopes.
const LOOKED_THROUGH: i64 = 5_000;

/// The log behind a revision, of that as many as may be read at once: the first
/// one, and others as long as their values are short enough together.
const AFTER: &str = concat!(
    "select c.revision, c.compacted, l.revision, l.scope, l.key, l.kind, l.version, l.label, l.at, n.history, ",
    version_columns!(),
    ", l.is_last from config_clock c
      left join lateral (
        select p.*, p.place = p.places as is_last from (
            select g.*, row_number() over ahead as place, count(*) over () as places,
                sum(coalesce(octet_length(v.value), 0)) over ahead as bytes
            from (select * from config_log where revision > $1 order by revision limit $2) g
            left join config_versions v
                on g.kind = 1 and v.scope = g.scope and v.key = g.key and v.version = g.version
            window ahead as (order by g.revision)
        ) p where p.place = 1 or p.bytes <= $3
      ) l on true
      left join config_versions v
        on l.kind = 1 and v.scope = l.scope and v.key = l.key and v.version = l.version
      left join config_values n on l.kind = 1 and n.scope = l.scope and n.key = l.key
      order by l.revision"
);

const TOUCHED: &str = "select c.revision, c.compacted, t.kind, t.scope, t.key, t.looked
    from config_clock c left join lateral (
        select g.kind, g.scope, g.key, g.looked, g.revision from (
            select l.*, count(*) over () as looked
            from (select * from config_log where revision > $1 order by revision limit $2) l
        ) g where g.scope = any($3) or g.looked >= $2 order by g.revision limit $4
    ) t on true
    order by t.revision";

/// Which keys of some scopes have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// They, each with its scope; none where that is not known, since there was
    /// too much to look through, or a scope has come or gone.
    pub keys: Option<BTreeSet<(Scope, ConfigKey)>>,
    /// Up to which revision.
    pub revision: Revision,
    /// The log is whole behind this one.
    pub compacted: Revision,
}

impl ConfigStore {
    /// The changes behind a revision, at most so many, and fewer where their
    /// values are long.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn log_after(&self, after: Revision, limit: u32) -> Result<Log, Problem> {
        let found = self.following.query(AFTER, &[&after, &i64::from(limit), &PAGE_BYTES]).await?;
        let first = found.first().ok_or_else(|| Problem::internal("the clock is gone"))?;
        let (now, compacted): (Revision, Revision) = (first.get(0), first.get(1));
        let rows: Vec<LogRow> = found
            .iter()
            .filter(|row| row.get::<_, Option<Revision>>(2).is_some())
            .map(log_row)
            .collect::<Result<_, _>>()?;
        let is_page = found.last().and_then(|row| row.get::<_, Option<bool>>(IS_LAST)) != Some(false);
        let is_all = is_page && rows.len() < limit as usize;
        let revision = rows.last().filter(|_| !is_all).map_or(now, |last| last.revision);
        Ok(Log { rows, revision, compacted, is_all })
    }

    /// Which keys of some scopes have changed behind a revision, without what
    /// they are now: it costs the same, however much others have written. At
    /// most so many.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn touched(&self, scopes: &[Scope], after: Revision, limit: u32) -> Result<Touched, Problem> {
        let texts: Vec<String> = scopes.iter().map(ToString::to_string).collect();
        let of: [&(dyn ToSql + Sync); 4] = [&after, &LOOKED_THROUGH, &texts, &(i64::from(limit) + 1)];
        let found = self.lines.query(TOUCHED, &of).await?;
        let first = found.first().ok_or_else(|| Problem::internal("the clock is gone"))?;
        let (revision, compacted): (Revision, Revision) = (first.get(0), first.get(1));
        let looked: i64 = first.get::<_, Option<i64>>(5).unwrap_or(0);
        let mut keys = BTreeSet::new();
        let rows: Vec<&Row> = found.iter().filter(|row| row.get::<_, Option<i16>>(2).is_some()).collect();
        let is_known = looked < LOOKED_THROUGH
            && rows.len() <= limit as usize
            && rows.iter().all(|row| [VERSION, LABEL].contains(&row.get(2)));
        for row in rows.iter().filter(|row| is_known && row.get::<_, i16>(2) == VERSION) {
            keys.insert((rows::scope(row.get(3))?, rows::key(row.get(4))?));
        }
        Ok(Touched { keys: is_known.then_some(keys), revision, compacted })
    }
}

/// Behind the columns of a version, in [`AFTER`]: whether no other change was
/// found behind this one.
const IS_LAST: usize = 20;

/// The kinds of changes, as they are kept.
const VERSION: i16 = 1;
const LABEL: i16 = 2;
pub(crate) const ARRIVED: i16 = 3;
pub(crate) const LEFT: i16 = 4;

fn log_row(row: &Row) -> Result<LogRow, Problem> {
    let key = || rows::key(row.get(4));
    let change = match row.get::<_, i16>(5) {
        VERSION => LogChange::Version {
            key: key()?,
            version: row.get(6),
            stored: rows::version_at(row, 10)?.map(Box::new),
            history: row.get::<_, Option<i32>>(9).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        },
        LABEL => LogChange::Label {
            key: key()?,
            label: row.get::<_, &str>(7).parse().map_err(Problem::internal)?,
            version: row.get(6),
        },
        ARRIVED => LogChange::Arrived,
        _ => LogChange::Left,
    };
    Ok(LogRow { revision: row.get(2), scope: rows::scope(row.get(3))?, at: row.get(8), change })
}

/// What was decided, as the log will have it.
pub(crate) fn decided_rows(ready: &[Ready], at: OffsetDateTime) -> Vec<LogRow> {
    let row = |one: &Ready| {
        let Change { revision, place: (scope, key), what } = &one.change;
        let change = match what {
            What::Version { version, value, note, history, .. } => {
                let stored = Stored {
                    scope: scope.clone(),
                    key: key.clone(),
                    version: *version,
                    revision: *revision,
                    value: value.clone(),
                    labels: BTreeSet::new(),
                    author: author_of(&one.author).to_owned(),
                    at: one.at,
                    note: note.clone(),
                };
                let (stored, history) = (Some(Box::new(stored)), *history);
                LogChange::Version { key: key.clone(), version: *version, stored, history }
            }
            What::Label { label, version } => {
                LogChange::Label { key: key.clone(), label: label.clone(), version: *version }
            }
        };
        LogRow { revision: *revision, scope: scope.clone(), at, change }
    };
    ready.iter().map(row).collect()
}
