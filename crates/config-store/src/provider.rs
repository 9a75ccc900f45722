//! The provider's values in a region: copied from the catalog's log in their
//! order, each once. How far that is, is kept with what was copied, so that any
//! process may go on, and two at once do no harm. A region that has them serves
//! them with the catalog away.

use std::collections::{BTreeMap, BTreeSet};

use insula_config_model::{ConfigValue, Label, Revision, Scope, Stored, Version};
use insula_problem::Problem;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::ConfigStore;
use crate::blobs::CHUNK_BYTES;
use crate::decide::{Change, Place, What};
use crate::line::{Line, Pace};
use crate::log::{LogChange, LogRow};
use crate::rows::{self, version_columns};
use crate::state::{Ready, commit};

/// How many changes are copied at once.
const AT_ONCE: u32 = 200;

const IMPORTED: &str = "select revision, imported from config_clock for update";

const IMPORTED_NOW: &str = "update config_clock set imported = $1";

const LOCAL: &str = "select k.scope, k.key, n.version from unnest($1::text[], $2::text[]) as k (scope, key)
    join config_values n on n.scope = k.scope and n.key = k.key";

/// A page of all that a catalog has: newest versions, those with a label, and
/// those that some tenants see while the newest one is rolled out. The keys of
/// rollouts come before most of what is rolled out.
const ALL: &str = concat!(
    "select n.history, ",
    version_columns!(),
    " from config_versions v join config_values n on n.scope = v.scope and n.key = v.key
      where (v.scope, v.key, v.version) > ($1, $2, $3) and (n.version = v.version or exists (
        select from config_labels l where l.scope = v.scope and l.key = v.key and l.version = v.version)
        or (n.version = v.version + 1 and exists (
            select from config_values r where r.scope = v.scope and r.key = 'insula_rollout/' || v.key)))
      order by v.scope, v.key, v.version limit $4"
);

const LOCAL_LABELS: &str = "select scope, key, label from config_labels
    where scope not like 'tenant/%' and (scope, key, label) > ($1, $2, $3)
    order by scope, key, label limit $4";

const LABELS_THERE: &str = "select l.scope, l.key, l.label
    from unnest($1::text[], $2::text[], $3::text[]) as k (scope, key, label)
    join config_labels l on l.scope = k.scope and l.key = k.key and l.label = k.label";

/// How much of it is copied at once: versions, and labels.
const VERSIONS_AT_ONCE: i64 = 50;
const LABELS_AT_ONCE: i64 = 1_000;

/// How far all that the catalog has is copied: its log does not go back far
/// enough. What changes meanwhile is in the log behind the revision.
#[derive(Debug, Clone)]
struct Whole {
    /// From which change of the catalog the region has come.
    before: Revision,
    /// The catalog's revision when this began.
    revision: Revision,
    part: Part,
}

#[derive(Debug, Clone)]
enum Part {
    /// Versions behind this one: a scope, a key, a version.
    Versions(String, String, Version),
    /// Labels that are not there any more, behind this one.
    Labels(String, String, String),
}

/// Copies the provider's values into a region.
#[derive(Debug)]
pub struct Replicator {
    catalog: ConfigStore,
    region: ConfigStore,
    line: Option<Line>,
    whole: Option<Whole>,
}

impl Replicator {
    /// From the catalog into a region's store.
    #[must_use]
    pub fn new(catalog: ConfigStore, region: ConfigStore) -> Self {
        Self { catalog, region, line: None, whole: None }
    }

    /// Copies what is new, a bounded part of it. True where there is more.
    ///
    /// # Errors
    /// Where one of the stores is away.
    pub async fn step(&mut self) -> Result<bool, Problem> {
        let before = self.region.clocks().await?.imported;
        // Where somebody else has come further, it is that from which it goes on.
        let (rows, revision, whole) = match self.whole.clone().filter(|whole| whole.before == before) {
            Some(whole) => self.part(whole).await?,
            None => {
                let log = self.catalog.log_after(before, AT_ONCE).await?;
                if log.revision <= before {
                    return Ok(false);
                }
                if before < log.compacted {
                    self.part(self.begun(before).await?).await?
                } else {
                    (log.rows, log.revision, None)
                }
            }
        };
        for row in &rows {
            if let LogChange::Version { stored: Some(stored), .. } = &row.change {
                self.bring_blob(stored).await?;
            }
        }
        let line = match self.line.take().filter(|line| !line.is_broken()) {
            Some(line) => line,
            None => Line::open(self.region.store, &self.region.connector, Pace::Patient).await?,
        };
        // Dropped where this fails, and with it what was begun.
        self.import(&line, before, revision, &rows).await?;
        self.line = Some(line);
        self.whole = whole;
        Ok(self.whole.is_some() || self.catalog.clocks().await?.revision > revision)
    }

    async fn begun(&self, before: Revision) -> Result<Whole, Problem> {
        let revision = self.catalog.clocks().await?.revision;
        Ok(Whole { before, revision, part: Part::Versions(String::new(), String::new(), 0) })
    }

    /// The next part of all that the catalog has, as if it were its log; up to
    /// which revision the region has everything with it, and what is left.
    async fn part(&self, whole: Whole) -> Result<(Vec<LogRow>, Revision, Option<Whole>), Problem> {
        let Whole { before, revision, part } = whole;
        let (rows, next) = match part {
            Part::Versions(scope, key, version) => self.versions(&scope, &key, version).await?,
            Part::Labels(scope, key, label) => self.labels(&scope, &key, &label, revision).await?,
        };
        let known = if next.is_some() { before } else { revision };
        Ok((rows, known, next.map(|part| Whole { before, revision, part })))
    }

    async fn import(
        &self,
        line: &Line,
        before: Revision,
        revision: Revision,
        rows: &[LogRow],
    ) -> Result<(), Problem> {
        let db = |error| line.problem(error);
        let client = line.client();
        client.batch_execute("begin").await.map_err(db)?;
        let clock = client.query_one(IMPORTED, &[]).await.map_err(db)?;
        let (now, imported): (Revision, Revision) = (clock.get(0), clock.get(1));
        if imported != before {
            // Somebody else has copied in between.
            return client.batch_execute("rollback").await.map_err(db);
        }
        let there = local(line, rows).await?;
        let ready = ready(rows, now, there)?;
        client.execute(IMPORTED_NOW, &[&revision]).await.map_err(db)?;
        if ready.is_empty() {
            return client.batch_execute("commit").await.map_err(db);
        }
        commit(line, &ready, &[], self.region.ambient.clock.now()).await?;
        let last = ready.last().map_or(now, |last| last.change.revision);
        if let Err(problem) = self.region.notify(last).await {
            // It is done, and found by whoever looks.
            tracing::info!(cause = problem.chain(), "what was copied was not told of");
        }
        Ok(())
    }

    async fn versions(
        &self,
        scope: &str,
        key: &str,
        version: Version,
    ) -> Result<(Vec<LogRow>, Option<Part>), Problem> {
        let of: [&(dyn ToSql + Sync); 4] = [&scope, &key, &version, &VERSIONS_AT_ONCE];
        let found = self.catalog.chores.query(ALL, &of).await?;
        let (mut rows, mut next) = (Vec::new(), None);
        for row in &found {
            let Some(stored) = rows::version_at(row, 1)? else { continue };
            next = Some(Part::Versions(stored.scope.to_string(), stored.key.to_string(), stored.version));
            let history = u32::try_from(row.get::<_, i32>(0)).unwrap_or(1);
            let labels: Vec<LogRow> = stored
                .labels
                .iter()
                .map(|label| label_row(&stored, label.clone(), Some(stored.version)))
                .collect();
            let (at, scope, revision) = (stored.at, stored.scope.clone(), stored.revision);
            let (key, version) = (stored.key.clone(), stored.version);
            let change = LogChange::Version { key, version, stored: Some(Box::new(stored)), history };
            rows.push(LogRow { revision, scope, at, change });
            rows.extend(labels);
        }
        let is_last = (found.len() as i64) < VERSIONS_AT_ONCE;
        let labels = Part::Labels(String::new(), String::new(), String::new());
        Ok((rows, Some(next.filter(|_| !is_last).unwrap_or(labels))))
    }

    /// Labels that the region has and the catalog has not.
    async fn labels(
        &self,
        scope: &str,
        key: &str,
        label: &str,
        revision: Revision,
    ) -> Result<(Vec<LogRow>, Option<Part>), Problem> {
        let of: [&(dyn ToSql + Sync); 4] = [&scope, &key, &label, &LABELS_AT_ONCE];
        let here = self.region.chores.query(LOCAL_LABELS, &of).await?;
        let column = |number: usize| here.iter().map(|row| row.get(number)).collect::<Vec<&str>>();
        let columns = [column(0), column(1), column(2)];
        let there = self.catalog.chores.query(LABELS_THERE, &[&columns[0], &columns[1], &columns[2]]).await?;
        let name = |row: &Row| (row.get::<_, String>(0), row.get::<_, String>(1), row.get::<_, String>(2));
        let there: BTreeSet<(String, String, String)> = there.iter().map(name).collect();
        let mut rows = Vec::new();
        for (scope, key, label) in here.iter().map(name).filter(|label| !there.contains(label)) {
            let (scope, key) = (rows::scope(&scope)?, rows::key(&key)?);
            let label: Label = label.parse().map_err(Problem::internal)?;
            let change = LogChange::Label { key, label, version: None };
            rows.push(LogRow { revision, scope, at: self.region.ambient.clock.now(), change });
        }
        let is_last = (here.len() as i64) < LABELS_AT_ONCE;
        let next = here.last().filter(|_| !is_last).map(name);
        Ok((rows, next.map(|(scope, key, label)| Part::Labels(scope, key, label))))
    }

    async fn bring_blob(&self, stored: &Stored) -> Result<(), Problem> {
        let Some(ConfigValue::Blob(blob)) = &stored.value else { return Ok(()) };
        let mut bytes = Vec::new();
        for number in 0.. {
            let Some(chunk) = self.catalog.blob_chunk(&stored.scope, &blob.sha256, number).await? else {
                break;
            };
            bytes.extend_from_slice(&chunk);
            if chunk.len() < CHUNK_BYTES {
                break;
            }
        }
        self.region.put_blob(&stored.scope, &bytes, &blob.media_type).await.map(drop)
    }
}

fn label_row(stored: &Stored, label: Label, version: Option<Version>) -> LogRow {
    let change = LogChange::Label { key: stored.key.clone(), label, version };
    LogRow { revision: stored.revision, scope: stored.scope.clone(), at: stored.at, change }
}

/// The newest versions that are here already.
async fn local(line: &Line, rows: &[LogRow]) -> Result<BTreeMap<Place, Version>, Problem> {
    let (mut scopes, mut keys) = (Vec::new(), Vec::new());
    for row in rows {
        if let LogChange::Version { key, .. } = &row.change {
            scopes.push(row.scope.to_string());
            keys.push(key.as_str());
        }
    }
    let found = line.query(LOCAL, &[&scopes, &keys]).await?;
    found.iter().map(|row| Ok(((rows::scope(row.get(0))?, rows::key(row.get(1))?), row.get(2)))).collect()
}

/// The changes with the region's own revisions, without those that are here.
fn ready(
    rows: &[LogRow],
    mut revision: Revision,
    mut there: BTreeMap<Place, Version>,
) -> Result<Vec<Ready>, Problem> {
    let mut ready = Vec::new();
    for row in rows.iter().filter(|row| !matches!(row.scope, Scope::Tenant(_))) {
        let (key, what, kept, author, at) = match &row.change {
            LogChange::Version { key, version, stored: Some(stored), history } => {
                let newest = there.entry((row.scope.clone(), key.clone())).or_insert(0);
                if *version <= *newest {
                    continue;
                }
                *newest = *version;
                let (value, note) = (stored.value.clone(), stored.note.clone());
                let kept = rows::kept(value.as_ref())?;
                let (version, history, made_at) = (*version, *history, None);
                let what = What::Version { version, value, note, history, made_at };
                (key, what, Some(kept), stored.author.clone(), stored.at)
            }
            LogChange::Label { key, label, version } => {
                let what = What::Label { label: label.clone(), version: *version };
                (key, what, None, String::new(), row.at)
            }
            _ => continue,
        };
        revision += 1;
        let change = Change { revision, place: (row.scope.clone(), key.clone()), what };
        ready.push(Ready { change, kept, author, at });
    }
    Ok(ready)
}
