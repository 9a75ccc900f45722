//! A write whose value a backend outside keeps: planned on what the store has,
//! written there on condition that nobody was faster, and then taken over into
//! the log. What ends between the two is found by comparing.

use std::sync::Arc;
use std::time::Duration;

use insula_config_model::{
    Backend, BackendFault, ConfigKey, Made, NewVersion, Scope, Transaction, Version, Write, WriteOp, Written,
    marked,
};
use insula_config_store::{ConfigStore, Next, Plan, Writer, backend_text};
use insula_problem::{Code, Problem};
use tokio::time::Instant;

use super::problem;
use crate::directory::Named;
use crate::service::Service;
use crate::tags::Tagged;

/// How long a write without a condition is tried again because others were faster.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How many versions are written between two looks at how many a key has.
const TRIM_EVERY: Version = 16;

/// What of a write may have reached a backend: the version, and the author with
/// the request's mark.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    place: (Scope, ConfigKey),
    version: Version,
    marked: String,
}

impl Begun {
    fn new(store: &ConfigStore, transaction: &Transaction, write: &Write, version: Version) -> Self {
        let place = (write.scope.clone(), write.key.clone());
        Self { place, version, marked: marked(&transaction.author, &store.mark(transaction)) }
    }

    /// What came of it, where the store has taken it over.
    pub async fn found(&self, store: &ConfigStore) -> Result<Option<Written>, Problem> {
        let made = store.made((&self.place.0, &self.place.1, self.version)).await?;
        let ours = made.filter(|(author, _)| *author == self.marked);
        Ok(ours.map(|(_, revision)| Written { version: self.version, revision }))
    }

    /// Takes over what a backend has of it now; none where the log has something
    /// else under its number.
    async fn taken_over(
        &self,
        (store, writer): (&ConfigStore, &Writer),
        transaction: &Transaction,
        write: &Write,
        made: Made,
    ) -> Result<Option<Written>, Problem> {
        let take_over = async |made: Made| {
            let writes = vec![Write { made: Some(made), ..write.clone() }];
            let (author, schemas) = (self.marked.clone(), Vec::new());
            // It is there, whatever schemas have come since.
            let taken = Transaction { writes, author, schemas, ..transaction.clone() };
            writer.write(taken).await.map(|written| written.first().copied())
        };
        match take_over(made.clone()).await {
            // Somebody has compared meanwhile.
            Err(problem) if problem.code() == Code::ConfigVersionConflict => {}
            done => return done,
        }
        match store.made((&self.place.0, &self.place.1, self.version)).await? {
            Some((author, _)) if author != self.marked => Ok(None),
            Some((_, revision)) => Ok(Some(Written { version: self.version, revision })),
            // It was dropped already: there are newer ones.
            None => take_over(Made { behind: None, ..made }).await,
        }
    }
}

impl Service {
    /// What came of a write that was begun under its token before.
    pub(crate) async fn done_before(
        &self,
        (named, tagged): (&Named, &Tagged),
        transaction: &Transaction,
    ) -> Result<Option<Vec<Written>>, Problem> {
        if transaction.token.is_none() || self.backends.is_empty() || transaction.writes.len() != 1 {
            return Ok(None);
        }
        let version = match self.writer_of(named)?.begun(transaction.clone()).await? {
            Plan::Done(written) => return Ok(Some(written)),
            Plan::Begun(version) => version,
            Plan::Nothing | Plan::Next(_) => return Ok(None),
        };
        if let Some(backend) = self.backends.outside(&tagged.tag.backend)? {
            self.align(named, tagged, &**backend, transaction.tags).await?;
        }
        let store = self.store_of(named)?;
        let Some(write) = transaction.writes.first() else { return Ok(None) };
        let found = Begun::new(store, transaction, write, version).found(store).await?;
        Ok(found.map(|written| vec![written]))
    }

    /// Writes to a backend outside, and takes it over.
    pub(crate) async fn write_outside(
        &self,
        (named, tagged): (&Named, &Tagged),
        transaction: Transaction,
        backend: &Arc<dyn Backend>,
        begun: &mut Option<Begun>,
    ) -> Result<Vec<Written>, Problem> {
        let (store, writer) = (self.store_of(named)?, self.writer_of(named)?);
        let write = transaction.writes.first().ok_or_else(|| Problem::internal("nothing is written"))?;
        let until = Instant::now() + WRITE_WITHIN;
        loop {
            let next = match writer.plan(transaction.clone()).await? {
                Plan::Done(written) => return Ok(written),
                Plan::Next(next) => next,
                Plan::Nothing | Plan::Begun(_) => {
                    return label_outside(writer, write, &transaction, &**backend).await;
                }
            };
            let of = Begun::new(store, &transaction, write, next.made.version);
            let new = self.new_version(write, of.marked.clone(), &next, &**backend)?;
            *begun = Some(of.clone());
            match backend.write(&new, next.expected).await {
                Ok(()) => {
                    self.backends.answered(backend.name(), true);
                    let made = Made { behind: Some(next.expected), ..next.made };
                    let taken = of.taken_over((store, writer), &transaction, write, made).await?;
                    if let Some(written) = taken {
                        trim(&**backend, write, written.version).await;
                        return Ok(vec![written]);
                    }
                    if Instant::now() >= until {
                        let detail = format!("{} is being written too often.", write.key);
                        return Err(Problem::new(Code::Overloaded, detail).retry_after(1));
                    }
                }
                // Whoever was faster is in the log behind this. That may be the same
                // request, of which a secret was sealed otherwise.
                Err(BackendFault::Conflict { .. }) if Instant::now() < until => {
                    *begun = None;
                    self.align(named, tagged, &**backend, transaction.tags).await?;
                    if let Some(written) = of.found(store).await? {
                        return Ok(vec![written]);
                    }
                }
                Err(fault) => {
                    self.backends.answered(backend.name(), !matches!(fault, BackendFault::Away { .. }));
                    return Err(problem(fault));
                }
            }
        }
    }

    /// The version as the backend gets it. The mark of the request makes it
    /// another one than the same value of the same author in another request.
    fn new_version(
        &self,
        write: &Write,
        author: String,
        next: &Next,
        backend: &dyn Backend,
    ) -> Result<NewVersion, Problem> {
        let value = next.made.value.as_ref().map(backend_text).transpose()?;
        let (bytes, max) = (value.as_ref().map_or(0, Vec::len), backend.limits().value_bytes_max);
        if bytes > max {
            let detail =
                format!("The value takes {bytes} bytes, and the backend {} holds {max}.", backend.name());
            return Err(Problem::new(Code::ConfigValueTooLarge, detail).at("/value", "is too long for it"));
        }
        Ok(NewVersion {
            scope: write.scope.clone(),
            key: write.key.clone(),
            version: next.made.version,
            value,
            author,
            at: self.clock.now(),
            note: write.note.clone(),
        })
    }
}

/// A label is put in both places; repeated, it changes nothing.
async fn label_outside(
    writer: &Writer,
    write: &Write,
    transaction: &Transaction,
    backend: &dyn Backend,
) -> Result<Vec<Written>, Problem> {
    if let WriteOp::Label(label, version) = &write.op {
        backend.label(&write.scope, &write.key, label, *version).await.map_err(problem)?;
    }
    writer.write(transaction.clone()).await
}

/// Drops what the tag does not keep, now and then. What is not dropped now is
/// with a later write.
async fn trim(backend: &dyn Backend, write: &Write, version: Version) {
    if version % TRIM_EVERY == 0
        && let Err(fault) = backend.trim(&write.scope, &write.key, write.history).await
    {
        tracing::debug!(%fault, "old versions were not dropped from a backend");
    }
}
