//! What clients say of what they have received. It is kept in the store of the
//! tenant's region before it is answered; what comes together is kept together.

use std::collections::BTreeMap;

use insula_config_model::{ConfigKey, Scope};
use insula_config_proto::v1;
use insula_config_store::{ClientRun, ConfigStore, Run, VersionRuns, Word};
use insula_domain::TenantId;
use insula_problem::{Code, Problem};
use tokio::sync::{mpsc, oneshot};

use crate::caller::Caller;
use crate::directory::Named;
use crate::service::Service;
use crate::tags::Tagged;

/// Keys of which a client says something at once.
const STATES_MAX: usize = 500;
/// The longest text, in bytes.
const TEXT_MAX: usize = 500;
/// Words that may wait.
const WAITING_MAX: usize = 4_096;
/// Words that are kept at once, and keys of which they speak, where there are several.
const BATCH: (usize, usize) = (1_000, 5_000);
/// Versions of which is said how many clients run with them.
const VERSIONS_MAX: u32 = 100;

struct Waiting {
    word: Word,
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
    pub fn new(store: ConfigStore) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(keep(store, waiting));
        Self { queue }
    }

    async fn keep(&self, word: Word) -> Result<(), Problem> {
        let (answer, answered) = oneshot::channel();
        let full = |_| {
            let detail = "As many clients as may say something at once have done so. Say it again shortly.";
            Problem::new(Code::Overloaded, detail).retry_after(1)
        };
        self.queue.try_send(Waiting { word, answer }).map_err(full)?;
        answered.await.map_err(Problem::internal)?
    }
}

async fn keep(store: ConfigStore, mut queue: mpsc::Receiver<Waiting>) {
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
        let kept = store.say(&merged(batch.iter().map(|waiting| &waiting.word))).await;
        for Waiting { word, answer } in batch {
            let answered = match &kept {
                Ok(full) if full.contains(&(word.tenant, word.client_id.clone())) => {
                    let detail = "The tenant has as many clients as are remembered.";
                    Err(Problem::new(Code::Overloaded, detail).retry_after(60))
                }
                Ok(_) => Ok(()),
                Err(problem) => Err(Problem::new(problem.code(), problem.detail().to_owned()).retry_after(2)),
            };
            // Whoever has gone does not want to know.
            let _ = answer.send(answered);
        }
    }
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

/// Who runs with which version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// How many clients run with each version, or refuse it.
    pub versions: Vec<VersionRuns>,
    /// The clients, those that refuse what they have received first.
    pub clients: Vec<ClientRun>,
}

impl Service {
    /// Takes what a client says of what it has received, and keeps it.
    ///
    /// # Errors
    /// What is wrong with it; `overloaded`; where the store is away.
    pub async fn acknowledge(&self, caller: &Caller, request: v1::AcknowledgeRequest) -> Result<(), Problem> {
        let Named::Tenant(lineage) = self.directory.named(caller, &request.scope)? else {
            let detail = "Clients are a tenant's: name one, as in tenant/acme.";
            return Err(Problem::new(Code::InvalidRequest, detail).at("/scope", "expected a tenant"));
        };
        let id = &request.client_id;
        if id.is_empty() || id.len() > 100 || id.chars().any(char::is_control) {
            return Err(invalid("/client_id", "1 to 100 bytes without control characters"));
        }
        if request.states.len() > STATES_MAX {
            return Err(invalid("/states", "500 states at the most"));
        }
        let (table, scopes) = (self.tags.known()?, lineage.scopes());
        let mut runs = BTreeMap::new();
        for state in request.states {
            if state.rejection.len() > TEXT_MAX || state.rejection.contains('\0') {
                return Err(invalid("/states", "a rejection of 500 bytes at the most, without a zero"));
            }
            let tagged = crate::tags::tagged(&table, &state.key)?;
            caller.check_reach(&table, &tagged.key)?;
            let set_in = match state.set_in.as_str() {
                // It runs with nothing: what is set nowhere is the tenant's own.
                "" if state.version == 0 => Some(Scope::Tenant(lineage.tenant)),
                "" => self.seen_in(&lineage, &tagged).await?,
                text => text.parse().ok().filter(|scope| scopes.contains(scope)),
            };
            let Some(set_in) = set_in else {
                return Err(invalid("/states", "a key and the scope in which the tenant sees it"));
            };
            let rejection = Some(state.rejection).filter(|text| !text.is_empty());
            let run = Run { key: tagged.key.clone(), set_in, version: state.version, rejection };
            runs.insert(tagged.key, run);
        }
        let is_refusal = runs.values().any(|run| run.rejection.is_some());
        let word = Word {
            tenant: lineage.tenant,
            client_id: request.client_id,
            revision: request.revision,
            at: self.clock.now(),
            runs: runs.into_values().collect(),
        };
        self.region(&lineage.region)?.acknowledged.keep(word).await?;
        if is_refusal {
            self.refused.notify_one();
        }
        Ok(())
    }

    async fn seen_in(
        &self,
        lineage: &insula_config_model::Lineage,
        tagged: &Tagged,
    ) -> Result<Option<Scope>, Problem> {
        let layers = self.layers(lineage, tagged).await?;
        // Of a key that is gone the tenant itself.
        let own = Scope::Tenant(lineage.tenant);
        Ok(Some(layers.value().map_or(own, |seen| seen.scope.clone())))
    }

    /// Which clients run with which version of a key: of the tenant, or of all
    /// tenants of the regions that this process serves where an operator names
    /// no tenant.
    ///
    /// # Errors
    /// What is wrong with the question; where a store is away.
    pub async fn clients(
        &self,
        caller: &Caller,
        (scope, key): (&str, &str),
        limit: u32,
    ) -> Result<Clients, Problem> {
        let (named, tagged) = self.read_of(caller, scope, key)?;
        let (stores, of): (Vec<&ConfigStore>, _) = match &named {
            Named::Tenant(lineage) => (vec![&self.region(&lineage.region)?.store], Some(lineage.tenant)),
            Named::Provider(_) => (self.regions.values().map(|region| &region.store).collect(), None),
        };
        let mut versions: BTreeMap<(Scope, i64), (i64, i64)> = BTreeMap::new();
        let mut clients = Vec::new();
        for store in stores {
            for runs in store.version_runs(&tagged.key, of, VERSIONS_MAX).await? {
                let known = versions.entry((runs.set_in, runs.version)).or_default();
                *known = (known.0 + runs.running, known.1 + runs.refusing);
            }
            let room = limit.saturating_sub(u32::try_from(clients.len()).unwrap_or(limit));
            clients.extend(store.client_runs(&tagged.key, of, room).await?);
        }
        let runs =
            |((set_in, version), (running, refusing))| VersionRuns { set_in, version, running, refusing };
        Ok(Clients { versions: versions.into_iter().map(runs).collect(), clients })
    }
}

fn invalid(pointer: &'static str, rule: &str) -> Problem {
    Problem::new(Code::InvalidRequest, format!("Expected {rule}.")).at(pointer, rule)
}
