//! Keeps what the clients of a region say, in its store, before it is answered:
//! what comes together is kept together. Of versions that there are not, and
//! beyond what a tenant has room for, nothing is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use insula_config_model::{ConfigKey, Scope};
use insula_config_store::{ConfigStore, Run, Word};
use insula_domain::{Clock, TenantId};
use insula_problem::{Code, Problem};
use time::{Duration, OffsetDateTime};
use tokio::sync::{mpsc, oneshot};

/// Words that may wait.
const WAITING_MAX: usize = 4_096;
/// Words that are kept at once, and keys of which they speak, where there are several.
const BATCH: (usize, usize) = (1_000, 5_000);
/// Of how many keys the clients of a tenant may have spoken, all of them together.
const SPOKEN_MAX: u64 = 200_000;
/// After so many more it is counted anew: what other processes keep is seen then.
const COUNTED_EVERY: u64 = 5_000;
/// Where there is no room it is not counted again for so long.
const FULL_FOR: Duration = Duration::seconds(5);
/// Where there is no room, who has said nothing for so long makes some: processes
/// that begin again come under new names, and those of before never speak again.
const GONE_AFTER: std::time::Duration = std::time::Duration::from_secs(3_600);
/// Tenants of which is remembered what was counted.
const TENANTS_MAX: usize = 10_000;

struct Waiting {
    word: Word,
    /// Why not all of it is kept.
    refused: Option<Problem>,
    answer: oneshot::Sender<Result<(), Problem>>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.word.fmt(f)
    }
}

/// Keeps what the clients of a region say. Clones are the same.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    queue: mpsc::Sender<Waiting>,
}

impl Acknowledged {
    /// In this store; it ends with the last clone.
    #[must_use]
    pub fn new(store: ConfigStore, clock: Arc<dyn Clock>) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(Keeper { store, clock, spoken: BTreeMap::new() }.keep(waiting));
        Self { queue }
    }

    pub(crate) async fn keep(&self, word: Word) -> Result<(), Problem> {
        let (answer, answered) = oneshot::channel();
        let full = |_| {
            let detail = "As many clients as may say something at once have done so. Say it again shortly.";
            Problem::new(Code::Overloaded, detail).retry_after(1)
        };
        self.queue.try_send(Waiting { word, refused: None, answer }).map_err(full)?;
        answered.await.map_err(Problem::internal)?
    }
}

/// Of how many keys the clients of a tenant have spoken.
#[derive(Debug, Clone, Copy)]
struct Spoken {
    counted: u64,
    at: OffsetDateTime,
    /// What has come since, whether it was new or not.
    since: u64,
}

impl Spoken {
    fn has_room(&self, more: u64) -> bool {
        self.counted + self.since + more <= SPOKEN_MAX
    }

    fn is_known(&self, more: u64, now: OffsetDateTime) -> bool {
        let is_young = (now - self.at).abs() < FULL_FOR;
        self.since < COUNTED_EVERY && (self.has_room(more) || is_young)
    }
}

struct Keeper {
    store: ConfigStore,
    clock: Arc<dyn Clock>,
    spoken: BTreeMap<TenantId, Spoken>,
}

impl Keeper {
    async fn keep(mut self, mut queue: mpsc::Receiver<Waiting>) {
        while let Some(first) = queue.recv().await {
            let mut keys = first.word.runs.len();
            let mut batch = vec![first];
            while batch.len() < BATCH.0 && keys < BATCH.1 {
                let Ok(next) = queue.try_recv() else { break };
                keys += next.word.runs.len();
                batch.push(next);
            }
            // Nobody waits for these any more.
            batch.retain(|waiting| !waiting.answer.is_closed());
            let kept = self.keep_all(&mut batch).await;
            for Waiting { word, refused, answer } in batch {
                let answered = match &kept {
                    Ok(full) if full.contains(&(word.tenant, word.client_id)) => {
                        Err(crowded("The tenant has as many clients as are remembered."))
                    }
                    Ok(_) => refused.map_or(Ok(()), Err),
                    Err(problem) => {
                        Err(Problem::new(problem.code(), problem.detail().to_owned()).retry_after(2))
                    }
                };
                // Whoever has gone does not want to know.
                let _ = answer.send(answered);
            }
        }
    }

    async fn keep_all(&mut self, batch: &mut [Waiting]) -> Result<BTreeSet<(TenantId, String)>, Problem> {
        self.leave_out_unwritten(batch).await?;
        self.leave_out_too_many(batch).await?;
        self.store.say(&merged(batch.iter().map(|waiting| &waiting.word))).await
    }

    /// What is said of a version before it is written would count as soon as it is.
    /// Versions only become more: what is there now is there when this is kept.
    async fn leave_out_unwritten(&self, batch: &mut [Waiting]) -> Result<(), Problem> {
        let place = |run: &Run| (run.set_in.clone(), run.key.clone());
        let places: BTreeSet<(Scope, ConfigKey)> =
            batch.iter().flat_map(|waiting| &waiting.word.runs).map(place).collect();
        if places.is_empty() {
            return Ok(());
        }
        let newest = self.store.newest_versions(&places).await?;
        for Waiting { word, refused, .. } in batch {
            word.runs.retain(|run| {
                let newest = newest.get(&place(run)).copied().unwrap_or(0);
                let is_there = (0..=newest).contains(&run.version);
                if !is_there {
                    let detail = format!("There is no version {} of {} there.", run.version, run.key);
                    refused.get_or_insert_with(|| Problem::new(Code::ConfigVersionNotFound, detail));
                }
                is_there
            });
        }
        Ok(())
    }

    /// Where a tenant's clients have spoken of as many keys as they may, only what
    /// was said before is said anew.
    async fn leave_out_too_many(&mut self, batch: &mut [Waiting]) -> Result<(), Problem> {
        let full = self.full(batch).await?;
        if full.is_empty() {
            return Ok(());
        }
        let of_full: Vec<&Word> =
            batch.iter().map(|waiting| &waiting.word).filter(|word| full.contains(&word.tenant)).collect();
        let had = self.store.has_words(&of_full).await?;
        for Waiting { word, refused, .. } in batch.iter_mut().filter(|one| full.contains(&one.word.tenant)) {
            let (tenant, client_id, before) = (word.tenant, &word.client_id, word.runs.len());
            word.runs.retain(|run| had.contains(&(tenant, client_id.clone(), run.key.clone())));
            if word.runs.len() < before {
                let detail = "The tenant's clients have spoken of as many keys as are remembered.";
                refused.get_or_insert_with(|| crowded(detail));
            }
        }
        Ok(())
    }

    /// The tenants without room for all that is said here.
    async fn full(&mut self, batch: &[Waiting]) -> Result<BTreeSet<TenantId>, Problem> {
        let mut said: BTreeMap<TenantId, u64> = BTreeMap::new();
        for word in batch.iter().map(|waiting| &waiting.word).filter(|word| !word.runs.is_empty()) {
            *said.entry(word.tenant).or_default() += word.runs.len() as u64;
        }
        if self.spoken.len() + said.len() > TENANTS_MAX {
            self.spoken.clear();
        }
        let now = self.clock.now();
        let is_known = |(tenant, more): &(&TenantId, &u64)| {
            self.spoken.get(tenant).is_some_and(|spoken| spoken.is_known(**more, now))
        };
        let unknown: Vec<TenantId> =
            said.iter().filter(|one| !is_known(one)).map(|(tenant, _)| *tenant).collect();
        self.count(&unknown, now).await?;
        let has_room = |tenant: &TenantId, more: u64| {
            self.spoken.get(tenant).is_some_and(|spoken| spoken.has_room(more))
        };
        let is_full = |(tenant, more): (&TenantId, &u64)| (!has_room(tenant, *more)).then_some(*tenant);
        let full: BTreeSet<TenantId> = said.iter().filter_map(is_full).collect();
        let counted_now: Vec<TenantId> = unknown.into_iter().filter(|tenant| full.contains(tenant)).collect();
        if !counted_now.is_empty() {
            // For those who come next.
            self.store.forget_silent(&counted_now, GONE_AFTER).await?;
        }
        for (tenant, more) in said {
            if let Some(spoken) = self.spoken.get_mut(&tenant) {
                spoken.since += more;
            }
        }
        Ok(full)
    }

    async fn count(&mut self, tenants: &[TenantId], at: OffsetDateTime) -> Result<(), Problem> {
        if tenants.is_empty() {
            return Ok(());
        }
        let counted = self.store.count_words(tenants).await?;
        let spoken = |(tenant, counted)| (tenant, Spoken { counted, at, since: 0 });
        self.spoken.extend(counted.into_iter().map(spoken));
        Ok(())
    }
}

fn crowded(detail: &'static str) -> Problem {
    Problem::new(Code::Overloaded, detail).retry_after(60)
}

/// Each client once, its last word on each key, in one order: two processes that
/// keep words at once do not wait for one another in a circle.
fn merged<'w>(words: impl IntoIterator<Item = &'w Word>) -> Vec<Word> {
    type Last = BTreeMap<ConfigKey, Run>;
    let mut clients: BTreeMap<(TenantId, &str), (Word, Last)> = BTreeMap::new();
    for word in words {
        let begun = || (Word { runs: Vec::new(), ..word.clone() }, Last::new());
        let (known, runs) = clients.entry((word.tenant, &word.client_id)).or_insert_with(begun);
        known.revision = known.revision.max(word.revision);
        known.at = known.at.max(word.at);
        runs.extend(word.runs.iter().map(|run| (run.key.clone(), run.clone())));
    }
    let whole = |(word, runs): (Word, Last)| Word { runs: runs.into_values().collect(), ..word };
    clients.into_values().map(whole).collect()
}
