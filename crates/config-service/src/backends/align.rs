//! What a backend outside and the log have of a key becomes the same: what others
//! wrote there becomes versions, and what the backend lacks is brought to it.
//! All keys are compared now and then, and single ones when somebody says so.

use std::sync::Arc;
use std::time::Duration;

use insula_config_model::{
    Backend, BackendFault, ConfigKey, Held, Kind, Made, Room, Scope, Stored, Tag, TagTable, Transaction,
    Version, Write, WriteOp, carry,
};
use insula_config_store::Mirror;
use insula_problem::{Code, Problem};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::problem;
use crate::directory::Named;
use crate::service::Service;
use crate::tags::Tagged;

/// How often a key is looked at again because somebody else was faster.
const TRIES_MAX: usize = 8;
/// Keys that a backend is asked for at once, and versions of one.
pub(super) const PAGE: u32 = 200;

/// In how many rounds a backend that keeps no tag is gone through once.
const UNUSED_ROUNDS: u64 = 20;

/// By which table of tags something is compared.
#[derive(Debug, Clone)]
pub(crate) struct ByTags {
    pub version: Version,
    pub table: Arc<TagTable>,
}

impl ByTags {
    /// The key with its tag, where this backend keeps it.
    pub(super) fn kept_by(&self, backend: &str, key: &ConfigKey) -> Option<Tagged> {
        // What others write under an alias is under no key of ours.
        let canonical = self.table.canonical(key).ok().filter(|canonical| canonical == key)?;
        let tag = self.table.of(key).ok().filter(|tag| tag.backend == backend)?.clone();
        let prefix = self.table.prefix_of(key).ok()?.to_owned();
        Some(Tagged { key: canonical, prefix, tag })
    }

    fn has(&self, backend: &str, is_wanted: impl Fn(&Tag) -> bool) -> bool {
        self.table.iter().any(|(_, tag)| tag.backend == backend && is_wanted(tag))
    }
}

impl Service {
    /// The scope as this process serves it; none where another one does, or where
    /// there is no such tenant.
    pub(crate) fn served(&self, scope: &Scope) -> Option<Named> {
        match scope.tenant() {
            None => Some(Named::Provider(scope.clone())),
            Some(tenant) => {
                let lineage = self.directory.lineage(tenant)?;
                self.regions.contains_key(&lineage.region).then_some(Named::Tenant(lineage))
            }
        }
    }

    /// Makes the log and a backend have the same versions of a key.
    pub(crate) async fn align(
        &self,
        named: &Named,
        tagged: &Tagged,
        backend: &dyn Backend,
        tags: Option<Version>,
    ) -> Result<(), Problem> {
        let (scope, key) = (named.scope(), &tagged.key);
        let (store, writer) = (self.store_of(named)?, self.writer_of(named)?);
        let number = |stored: Option<Stored>| stored.map_or(0, |stored| stored.version);
        for _ in 0..TRIES_MAX {
            let here = store.newest(std::slice::from_ref(&scope), key).await?.layers;
            let here = number(here.into_iter().find_map(|layer| layer.stored));
            let there = number(backend.newest(&scope, key).await.map_err(problem)?);
            if there > here {
                return self.take_over(named, tagged, backend, (here, tags)).await;
            }
            if there == here {
                return Ok(());
            }
            let mirror = Mirror::new(store.clone(), writer.clone());
            match carry(&mirror, backend, &scope, key).await {
                Ok(_) => return Ok(()),
                Err(BackendFault::Conflict { .. }) => {}
                Err(fault) => return Err(problem(fault)),
            }
        }
        let detail = format!("{key} is being written too often to be compared.");
        Err(Problem::new(Code::Overloaded, detail).retry_after(1))
    }

    /// Takes the versions that a backend has behind one, as many as the tag keeps.
    async fn take_over(
        &self,
        named: &Named,
        tagged: &Tagged,
        backend: &dyn Backend,
        (behind, tags): (Version, Option<Version>),
    ) -> Result<(), Problem> {
        let (scope, key, tag) = (named.scope(), &tagged.key, &tagged.tag);
        let (mut missing, mut before): (Vec<Stored>, _) = (Vec::new(), None);
        while missing.len() < tag.history as usize {
            let page = backend.history(&scope, key, before, PAGE.min(tag.history)).await.map_err(problem)?;
            let Some(last) = page.last() else { break };
            before = Some(last.version);
            let is_end = last.version <= behind;
            missing.extend(page.into_iter().filter(|stored| stored.version > behind));
            if is_end {
                break;
            }
        }
        let (store, writer) = (self.store_of(named)?, self.writer_of(named)?);
        for stored in missing.into_iter().rev() {
            let place = (&scope, key, stored.version);
            let value = match &stored.value {
                Some(insula_config_model::ConfigValue::Json(text)) => {
                    Some(store.value_of_text(tag.kind, place, text))
                }
                _ => None,
            };
            let write = Write {
                scope: scope.clone(),
                key: key.clone(),
                op: value.clone().map_or(WriteOp::Remove, WriteOp::Put),
                if_version: None,
                note: stored.note,
                history: tag.history,
                is_secret: tag.kind == Kind::Secret,
                room: Room::Usual,
                made: Some(Made { version: stored.version, value, at: Some(stored.at), behind: None }),
            };
            // With the mark, by which its request finds it.
            let author = stored.author;
            writer
                .write(Transaction { writes: vec![write], token: None, author, tags, schemas: Vec::new() })
                .await?;
        }
        Ok(())
    }

    /// Compares all keys of a backend with the log, those of some tags and scopes.
    /// One key that cannot be taken over does not hinder the others; what was
    /// wrong with the last such is said.
    pub(crate) async fn compare(
        &self,
        backend: &dyn Backend,
        by: &ByTags,
        is_wanted: impl Fn(&Named, &Tagged) -> bool,
    ) -> Result<(), Problem> {
        let (mut from, mut failed) = (None, Ok(()));
        loop {
            let part = backend.sweep(from.as_deref(), PAGE).await.map_err(problem)?;
            for (named, tagged) in self.differing(backend, by, &part.held, &is_wanted).await? {
                if let Err(problem) = self.align(&named, &tagged, backend, Some(by.version)).await {
                    let (scope, key, cause) = (named.scope(), tagged.key.as_str(), problem.chain());
                    tracing::warn!(%scope, key, cause, "what a backend has was not taken over");
                    failed = Err(problem);
                }
            }
            if let Err(problem) = self.reap(backend, &part.held).await {
                failed = Err(problem);
            }
            match part.next {
                Some(next) => from = Some(next),
                None => return failed,
            }
        }
    }

    /// Those of the keys that a backend has of which the log has another version.
    async fn differing(
        &self,
        backend: &dyn Backend,
        by: &ByTags,
        held: &[Held],
        is_wanted: &impl Fn(&Named, &Tagged) -> bool,
    ) -> Result<Vec<(Named, Tagged)>, Problem> {
        let mut wanted = Vec::new();
        for Held { scope, key, version } in held {
            if let (Some(named), Some(tagged)) = (self.served(scope), by.kept_by(backend.name(), key))
                && is_wanted(&named, &tagged)
            {
                wanted.push((named, tagged, *version));
            }
        }
        let mut differing = Vec::new();
        let stores = self.regions.values().map(|region| &region.store).chain([&self.provider.0]);
        for store in stores {
            let is_of = |named: &Named| self.store_of(named).is_ok_and(|of| std::ptr::eq(of, store));
            let (of, rest): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(named, ..)| is_of(named));
            wanted = rest;
            if of.is_empty() {
                continue;
            }
            let places: Vec<_> =
                of.iter().map(|(named, tagged, _)| (named.scope(), tagged.key.clone())).collect();
            let known = store.versions_of(&places).await?;
            let differs = of
                .into_iter()
                .zip(places)
                .filter(|((.., version), place)| known.get(place).copied().unwrap_or(0) != *version);
            differing.extend(differs.map(|((named, tagged, _), _)| (named, tagged)));
        }
        Ok(differing)
    }

    /// Looks at single keys by what a backend calls them; how many were ours.
    ///
    /// # Errors
    /// Where a store or a backend is away.
    pub(crate) async fn look_at_names(&self, names: &[String]) -> Result<usize, Problem> {
        let by = self.by_tags()?;
        let mut count = 0;
        for name in names {
            for backend in self.backends.iter() {
                let Some((scope, key)) = backend.place_of(name) else { continue };
                let kept = by.kept_by(backend.name(), &key).filter(|tagged| !tagged.tag.is_held());
                if let (Some(named), Some(tagged)) = (self.served(&scope), kept) {
                    self.align(&named, &tagged, &**backend, Some(by.version)).await?;
                    count += 1;
                }
            }
        }
        Ok(count)
    }

    pub(crate) fn by_tags(&self) -> Result<ByTags, Problem> {
        let (version, table) = self.tags.known_version()?;
        Ok(ByTags { version, table })
    }

    /// Compares every backend with the log, again and again, until it is told to stop.
    pub(crate) async fn reconcile(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        if self.backends.is_empty() {
            return;
        }
        let mut look = interval(every);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 0_u64.. {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.reconcile_all(round % UNUSED_ROUNDS == 0) => {}
            }
        }
    }

    async fn reconcile_all(&self, with_unused: bool) {
        for backend in self.backends.iter() {
            let Ok(by) = self.by_tags() else { return };
            let is_used = by.has(backend.name(), |tag| !tag.is_held());
            if !is_used && !with_unused {
                continue;
            }
            let done = if is_used {
                self.compare(&**backend, &by, |_, tagged| !tagged.tag.is_held()).await
            } else {
                self.reap_all(&**backend).await
            };
            let is_away = |problem: &Problem| problem.code() == Code::ConfigBackendUnavailable;
            self.backends.answered(backend.name(), !done.as_ref().is_err_and(is_away));
            if let Err(problem) = done {
                let (name, cause) = (backend.name(), problem.chain());
                tracing::warn!(backend = name, cause, "a backend was not compared with the log");
            }
        }
    }
}
