//! What clients say of what they have received: the last word of each on each
//! key. How many clients a tenant has here, and keys a client, is bounded.

use std::collections::BTreeSet;
use std::time::Duration;

use insula_config_model::{ConfigKey, Revision, Scope, Version};
use insula_domain::TenantId;
use insula_problem::Problem;
use time::OffsetDateTime;

use crate::ConfigStore;
use crate::rows;

/// The most clients of a tenant.
pub const CLIENTS_MAX: i64 = 5_000;
/// The most keys of a client: those of which it has spoken last.
const KEYS_MAX: i64 = 200;

/// A client that has said nothing for so long makes room where there is none.
const SILENT_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// With what a client runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Of which key.
    pub key: ConfigKey,
    /// Where the version is set.
    pub set_in: Scope,
    /// The version.
    pub version: Version,
    /// Why it does not run with it; none where it does.
    pub rejection: Option<String>,
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Whose client.
    pub tenant: TenantId,
    /// Which of them.
    pub client_id: String,
    /// Up to where it has taken over what it has received.
    pub revision: Revision,
    /// When.
    pub at: OffsetDateTime,
    /// Of each key once.
    pub runs: Vec<Run>,
}

/// A client and what it runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRun {
    /// Whose client.
    pub tenant: TenantId,
    /// Which of them.
    pub client_id: String,
    /// Up to where it has taken over what it has received.
    pub revision: Revision,
    /// What it runs with.
    pub run: Run,
    /// When it said so.
    pub at: OffsetDateTime,
}

/// How many clients run with a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRuns {
    /// Where the version is set.
    pub set_in: Scope,
    /// The version.
    pub version: Version,
    /// Clients that run with it.
    pub running: i64,
    /// Clients that refuse it.
    pub refusing: i64,
}

/// Answers with the clients that are taken, and how many keys each had.
const SAY: &str = "with new as (
        select * from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[])
        as n (scope, client_id, revision, at)
    ), full_scopes as (
        select s.scope from (select distinct scope from new) as s
        where (select count(*) from config_clients c where c.scope = s.scope) >= $11
    ), put as (
        insert into config_clients as c (scope, client_id, revision, at)
        select n.* from new n
        where n.scope not in (select scope from full_scopes)
            or exists (select from config_clients k where k.scope = n.scope and k.client_id = n.client_id)
        on conflict (scope, client_id) do update
            set revision = greatest(c.revision, excluded.revision), at = excluded.at
        returning c.scope, c.client_id, c.at
    ), runs as (
        insert into config_client_runs as r (scope, client_id, key, set_in, version, rejection, at)
        select n.scope, n.client_id, n.key, n.set_in, n.version, n.rejection, p.at
        from unnest($5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::text[])
            as n (scope, client_id, key, set_in, version, rejection)
        join put p on p.scope = n.scope and p.client_id = n.client_id
        on conflict (scope, client_id, key) do update
            set set_in = excluded.set_in, version = excluded.version, rejection = excluded.rejection,
                at = excluded.at
            where (r.set_in, r.version, r.rejection)
                is distinct from (excluded.set_in, excluded.version, excluded.rejection)
    )
    select p.scope, p.client_id, (
        select count(*) from config_client_runs k where k.scope = p.scope and k.client_id = p.client_id)
    from put p";

const TRIM: &str = "delete from config_client_runs r using (
        select o.scope, o.client_id, o.key from unnest($1::text[], $2::text[]) as c (scope, client_id),
        lateral (
            select k.scope, k.client_id, k.key from config_client_runs k
            where k.scope = c.scope and k.client_id = c.client_id
            order by k.rejection is null, k.at desc, k.key offset $3
        ) as o
    ) as o where r.scope = o.scope and r.client_id = o.client_id and r.key = o.key";

const RUNS: &str = "select r.scope, r.client_id, c.revision, r.key, r.set_in, r.version, r.rejection, r.at
    from config_client_runs r join config_clients c on c.scope = r.scope and c.client_id = r.client_id
    where r.key = $1 and ($2::text is null or r.scope = $2)
    order by r.rejection is null, r.scope, r.client_id limit $3";

const VERSIONS: &str = "select r.set_in, r.version, count(*) filter (where r.rejection is null),
        count(*) filter (where r.rejection is not null)
    from config_client_runs r where r.key = $1 and ($2::text is null or r.scope = $2)
    group by r.set_in, r.version order by r.set_in, r.version desc limit $3";

impl ConfigStore {
    /// Keeps what clients say, each of them once. Answers with those that are
    /// not taken: their tenants have as many clients as may be.
    ///
    /// # Errors
    /// Where the store is away: nothing of it was kept.
    pub async fn say(&self, words: &[Word]) -> Result<BTreeSet<(TenantId, String)>, Problem> {
        let scopes: Vec<String> = words.iter().map(|word| Scope::Tenant(word.tenant).to_string()).collect();
        let ids: Vec<&str> = words.iter().map(|word| word.client_id.as_str()).collect();
        let revisions: Vec<Revision> = words.iter().map(|word| word.revision).collect();
        let times: Vec<OffsetDateTime> = words.iter().map(|word| word.at).collect();
        let runs: Vec<(usize, &Run)> = words
            .iter()
            .enumerate()
            .flat_map(|(place, word)| word.runs.iter().map(move |run| (place, run)))
            .collect();
        let of: Vec<&str> = runs.iter().map(|(place, _)| scopes[*place].as_str()).collect();
        let by: Vec<&str> = runs.iter().map(|(place, _)| ids[*place]).collect();
        let keys: Vec<&str> = runs.iter().map(|(_, run)| run.key.as_str()).collect();
        let set_in: Vec<String> = runs.iter().map(|(_, run)| run.set_in.to_string()).collect();
        let versions: Vec<Version> = runs.iter().map(|(_, run)| run.version).collect();
        let rejections: Vec<Option<&str>> = runs.iter().map(|(_, run)| run.rejection.as_deref()).collect();
        let taken = self
            .lines
            .query(
                SAY,
                &[
                    &scopes,
                    &ids,
                    &revisions,
                    &times,
                    &of,
                    &by,
                    &keys,
                    &set_in,
                    &versions,
                    &rejections,
                    &CLIENTS_MAX,
                ],
            )
            .await?;
        let mut left: BTreeSet<(&str, &str)> =
            scopes.iter().map(String::as_str).zip(ids.iter().copied()).collect();
        let (mut long_scopes, mut long_ids) = (Vec::new(), Vec::new());
        for row in &taken {
            let (scope, id, had): (&str, &str, i64) = (row.get(0), row.get(1), row.get(2));
            left.remove(&(scope, id));
            let said = by.iter().zip(&of).filter(|(by, of)| **by == id && **of == scope).count();
            if had + i64::try_from(said).unwrap_or(KEYS_MAX) > KEYS_MAX {
                long_scopes.push(scope);
                long_ids.push(id);
            }
        }
        if !long_scopes.is_empty() {
            self.lines.query(TRIM, &[&long_scopes, &long_ids, &KEYS_MAX]).await?;
        }
        if !left.is_empty() {
            let is_left = |word: &Word, scope: &str| left.contains(&(scope, word.client_id.as_str()));
            let full = words.iter().zip(&scopes).filter(|(word, scope)| is_left(word, scope));
            let full: Vec<TenantId> = full.map(|(word, _)| word.tenant).collect();
            self.forget_silent(&full, SILENT_AFTER).await?;
        }
        let refused =
            words.iter().zip(&scopes).filter(|(word, scope)| left.contains(&(scope, &word.client_id)));
        Ok(refused.map(|(word, _)| (word.tenant, word.client_id.clone())).collect())
    }

    /// The clients that have spoken of a key, of one tenant or of all; those that
    /// refuse what they have received first.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn client_runs(
        &self,
        key: &ConfigKey,
        of: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<ClientRun>, Problem> {
        let scope = of.map(|tenant| Scope::Tenant(tenant).to_string());
        let rows = self.lines.query(RUNS, &[&key.as_str(), &scope, &i64::from(limit)]).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let Some(tenant) = rows::scope(row.get(0))?.tenant() else { continue };
            let run = Run {
                key: rows::key(row.get(3))?,
                set_in: rows::scope(row.get(4))?,
                version: row.get(5),
                rejection: row.get(6),
            };
            let (client_id, revision, at) = (row.get(1), row.get(2), row.get(7));
            found.push(ClientRun { tenant, client_id, revision, run, at });
        }
        Ok(found)
    }

    /// How many clients run with which version of a key, of one tenant or of all.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn version_runs(
        &self,
        key: &ConfigKey,
        of: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<VersionRuns>, Problem> {
        let scope = of.map(|tenant| Scope::Tenant(tenant).to_string());
        let rows = self.lines.query(VERSIONS, &[&key.as_str(), &scope, &i64::from(limit)]).await?;
        let read = rows.iter().map(|row| {
            let set_in = rows::scope(row.get(0))?;
            Ok(VersionRuns { set_in, version: row.get(1), running: row.get(2), refusing: row.get(3) })
        });
        read.collect()
    }
}
