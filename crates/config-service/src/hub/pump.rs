//! The pump reads the log of a region behind the last revision that it has, and
//! takes it in. It is woken by notifications, and every few seconds, so that a
//! notification that is lost costs seconds. What this process commits is taken in
//! without the log, by its writer.

use std::convert::Infallible;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use insula_config_model::{ConfigValue, Revision, Rollout, Scope, Stored, TagTable};
use insula_config_proto::v1::watch_event::Reason;
use insula_config_store::{CHANNEL, Hears, LogChange, LogRow};
use insula_problem::Problem;
use insula_sql_store::Listener;
use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::state::{Change, Item, News, Presence};
use super::{Hub, Inner, rollout_of};

/// Changes that are read at once.
const AT_ONCE: u32 = 1_000;

/// How often the log is looked at, whatever was notified.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Wait before another try where the store is away.
const RETRY: Duration = Duration::from_millis(500);

/// What a change is known by, whatever its revision means later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    revision: Revision,
    scope: Scope,
    at: OffsetDateTime,
}

impl Mark {
    fn of(row: &LogRow) -> Self {
        Self { revision: row.revision, scope: row.scope.clone(), at: row.at }
    }

    /// Times are kept in microseconds, and have nanoseconds before.
    fn is(&self, row: &LogRow) -> bool {
        let apart = (self.at - row.at).abs();
        self.revision == row.revision && self.scope == row.scope && apart < time::Duration::milliseconds(1)
    }
}

impl Hub {
    /// Follows the log until it is told to stop. With the store away watchers
    /// keep what they have, are told of no freshness, and the pump catches up
    /// when it is back.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                end = self.follow() => {
                    let Err(problem) = end;
                    let region = self.region.as_str();
                    tracing::warn!(region, cause = problem.chain(), "changes of configuration cannot be followed");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn follow(&self) -> Result<Infallible, Problem> {
        let mut listener =
            Listener::open(self.store.connector(), &[CHANNEL]).await.map_err(Problem::internal)?;
        self.catch_up().await?;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notice = listener.next() => {
                    let notice = notice.ok_or_else(|| Problem::internal("the listening connection ended"))?;
                    let revision: Revision = notice.payload.parse().unwrap_or(Revision::MAX);
                    if revision > self.applied() {
                        self.catch_up().await?;
                    }
                }
                () = self.nudged.notified() => self.catch_up().await?,
                _ = look.tick() => {
                    self.catch_up().await?;
                    self.lock().state.sweep();
                }
            }
        }
    }

    fn applied(&self) -> Revision {
        self.known().map_or(0, |(revision, _)| revision)
    }

    /// Reads the log up to its end. The last change that is known is read again:
    /// where it is another one now, or gone, the store was set back to an older
    /// state, and its revisions mean other changes.
    async fn catch_up(&self) -> Result<(), Problem> {
        if self.known().is_none() {
            return self.begin().await;
        }
        loop {
            let applied = self.applied();
            let last = self.lock().last.clone();
            let from = last.as_ref().map_or(applied, |last| last.revision - 1);
            let log = self.store.log_after(from, AT_ONCE).await?;
            let is_same = last.is_none_or(|last| {
                log.compacted >= last.revision || log.rows.first().is_some_and(|first| last.is(first))
            });
            if log.revision < applied || !is_same {
                tracing::warn!(
                    region = self.region.as_str(),
                    "the store is at an older state; beginning anew"
                );
                return self.begin().await;
            }
            if log.compacted > applied {
                tracing::warn!(region = self.region.as_str(), "the log was compacted before it was read");
                return self.begin().await;
            }
            self.take(&log.rows, log.revision);
            if log.is_all {
                return Ok(());
            }
        }
    }

    /// Begins at the end of the log: what watchers have is read again.
    async fn begin(&self) -> Result<(), Problem> {
        let revision = self.store.clocks().await?.revision;
        let key = TagTable::KEY.parse().map_err(Problem::internal)?;
        let set = self.store.newest(&[Scope::Platform], &key).await?;
        let set = set.layers.into_iter().find_map(|layer| layer.stored);
        let mut inner = self.lock();
        self.end_all_topics(&mut inner, Reason::Compacted);
        inner.state.reset(revision);
        inner.last = None;
        self.set_tags(&mut inner, set.as_ref());
        self.know(revision);
        Ok(())
    }

    fn know(&self, revision: Revision) {
        self.known.send_replace(Some((revision, Instant::now())));
    }

    /// Takes changes in and tells of them.
    fn take(&self, rows: &[LogRow], revision: Revision) {
        self.take_in(self.lock(), rows, revision);
    }

    fn take_in(&self, mut inner: MutexGuard<'_, Inner>, rows: &[LogRow], revision: Revision) {
        let began = Instant::now();
        let mut changes = Vec::new();
        let applied = inner.state.applied;
        for row in rows.iter().filter(|row| row.revision > applied) {
            match &row.change {
                LogChange::Version { key, version, stored, .. } => {
                    if row.scope == Scope::Platform
                        && key.as_str() == TagTable::KEY
                        && self.set_tags(&mut inner, stored.as_deref())
                    {
                        self.end_all_topics(&mut inner, Reason::Moved);
                    }
                    // A version that was dropped since has a newer one behind it.
                    let Some(stored) = stored else { continue };
                    if inner.state.presence(&row.scope) == Presence::Absent {
                        continue;
                    }
                    let (revision, scope) = (row.revision, row.scope.clone());
                    let Some(subject) = Rollout::subject(key) else {
                        let news = News::Version(*version, Item::of((**stored).clone()));
                        changes.push(Change { revision, scope, key: key.clone(), news });
                        continue;
                    };
                    let rollout = rollout_of(stored);
                    let lacks = |rollout: &Arc<Rollout>| {
                        inner.state.lacks_before(&scope, &subject, rollout, &changes)
                    };
                    if rollout.as_ref().is_some_and(lacks) {
                        self.home_changed(&mut inner, &scope);
                        changes.retain(|change| change.scope != scope);
                    } else {
                        changes.push(Change { revision, scope, key: subject, news: News::Rollout(rollout) });
                    }
                }
                LogChange::Arrived | LogChange::Left => {
                    self.home_changed(&mut inner, &row.scope);
                    changes.retain(|change| change.scope != row.scope);
                }
                LogChange::Label { .. } => {}
            }
        }
        if let Some(row) = rows.last().filter(|row| row.revision > applied) {
            inner.last = Some(Mark::of(row));
        }
        let meanings = inner.state.apply(&changes, revision);
        let told = meanings.len();
        self.tell(&inner, meanings);
        // Under the lock, so that it never goes back.
        self.know(inner.state.applied);
        drop(inner);
        if told > 0 {
            metrics::histogram!(crate::measure::FANOUT_SECONDS).record(began.elapsed().as_secs_f64());
        }
    }

    /// A tenant's configuration has come or gone: its watchers, and those of
    /// the tenants below it, look for it again.
    fn home_changed(&self, inner: &mut Inner, scope: &Scope) {
        let concerned: Vec<_> = inner
            .state
            .tenants()
            .filter(|known| known.scopes().contains(scope))
            .map(|known| known.tenant)
            .collect();
        concerned.into_iter().for_each(|tenant| self.end_topic(inner, tenant, Reason::Moved));
        inner.state.drop_values(scope);
    }

    /// Whether tenants may see something else by the new table.
    fn set_tags(&self, inner: &mut Inner, set: Option<&Stored>) -> bool {
        let version = set.map_or(0, |stored| stored.version);
        let table = match set.and_then(|stored| stored.value.as_ref()) {
            Some(ConfigValue::Json(json)) => TagTable::parse(json),
            _ => Ok(TagTable::default()),
        };
        match table {
            Ok(table) => {
                let table = Arc::new(table);
                let shows_more = inner.state.set_tags(table.clone());
                self.tags.set(version, table);
                shows_more
            }
            Err(error) => {
                tracing::error!(%error, "the table of tags cannot be used; the one before it stays");
                false
            }
        }
    }
}

impl Hears for Hub {
    /// Takes them in where they stand right behind what is known; else the log is
    /// read, but for what was read in it before this was heard.
    fn committed(&self, rows: &[LogRow]) {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return };
        let inner = self.lock();
        // What it begins with is read from the log.
        if self.known().is_none() {
            return;
        }
        let applied = inner.state.applied;
        if first.revision == applied + 1 {
            self.take_in(inner, rows, last.revision);
        } else if last.revision > applied || inner.is_unheard(last) {
            drop(inner);
            self.nudged.notify_one();
        }
    }
}

impl Inner {
    /// Whether a change that has an old revision is younger than the last one
    /// that is known: the store has begun again at an older state.
    fn is_unheard(&self, row: &LogRow) -> bool {
        self.last.as_ref().is_some_and(|last| row.at > last.at && !last.is(row))
    }
}
