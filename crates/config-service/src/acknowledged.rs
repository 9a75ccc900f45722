//! What clients say of what they have received, and who says what of a key.

use std::collections::BTreeMap;

use insula_config_model::Scope;
use insula_config_proto::v1;
use insula_config_store::{ClientRun, ConfigStore, Run, VersionRuns, Word};
use insula_problem::{Code, Problem};

use crate::caller::Caller;
use crate::directory::Named;
use crate::service::Service;
use crate::tags::Tagged;

/// Keys of which a client says something at once.
const STATES_MAX: usize = 500;
/// The longest text, in bytes.
const TEXT_MAX: usize = 500;
/// Versions of which is said how many clients run with them.
const VERSIONS_MAX: u32 = 100;

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
    /// What is wrong with it; where the store is away. What there is no room for is
    /// answered with `overloaded`, and a version that there is not with
    /// `config_version_not_found`: the rest is kept all the same.
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
        let table = self.tags.known()?;
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
                text => text.parse().ok().filter(|scope| lineage.scopes_under(&tagged.tag).contains(scope)),
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
        let kept = self.region(&lineage.region)?.acknowledged.keep(word).await;
        if is_refusal {
            self.refused.notify_one();
        }
        kept
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
