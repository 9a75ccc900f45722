//! Writes to the catalog. A [`Change`] is a transaction with an author; it
//! refuses to commit without an audit row, so that a change that nobody can
//! find later cannot be made.

use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::{Object, Transaction};
use insula_domain::TenantId;
use insula_problem::Problem;
use serde_json::Value;
use time::OffsetDateTime;

use crate::db;
use crate::idempotency::RepeatableRequest;

pub(crate) const AUDIT: &str = "insert into audit (at, actor, action, tenant_id, subject, detail, request_id)
     values ($1, $2, $3, $4, $5, $6, $7)";

/// Who makes a change, when, and on which request.
#[derive(Debug, Clone)]
pub struct Author {
    /// For example `operator:ada@example.com` or `worker`.
    pub actor: String,
    /// The time of the change.
    pub at: OffsetDateTime,
    /// The id under which the log knows the request.
    pub request_id: Option<String>,
    /// The request itself, where its caller may send it again: its answer is
    /// written down with the change.
    pub request: Option<RepeatableRequest>,
}

impl Author {
    /// An author without a request.
    #[must_use]
    pub fn new(actor: &str, at: OffsetDateTime) -> Self {
        Self { actor: actor.to_owned(), at, request_id: None, request: None }
    }
}

/// A connection to the catalog.
#[derive(Debug)]
pub struct CatalogClient {
    object: Object,
}

impl CatalogClient {
    pub(crate) fn new(object: Object) -> Self {
        Self { object }
    }

    /// The connection, for reads.
    pub(crate) fn raw(&self) -> &tokio_postgres::Client {
        &self.object
    }

    /// The connection, with the statements that it has prepared.
    pub(crate) fn prepared(&self) -> &Object {
        &self.object
    }

    /// Begins a change.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn change(&mut self, author: Author) -> Result<Change<'_>, Problem> {
        let transaction = self.object.transaction().await.map_err(db)?;
        Ok(Change { transaction, author, audited: AtomicBool::new(false) })
    }
}

/// A transaction on the catalog. Dropped, it leaves nothing behind.
pub struct Change<'c> {
    transaction: Transaction<'c>,
    author: Author,
    audited: AtomicBool,
}

impl Change<'_> {
    pub(crate) fn raw(&self) -> &tokio_postgres::Transaction<'_> {
        &self.transaction
    }

    /// The transaction, with the statements that its connection has prepared.
    pub(crate) fn prepared(&self) -> &Transaction<'_> {
        &self.transaction
    }

    /// The transaction itself, so that a workflow run can be started in it.
    pub fn transaction(&self) -> &tokio_postgres::Transaction<'_> {
        &self.transaction
    }

    /// Who makes the change.
    #[must_use]
    pub fn author(&self) -> &Author {
        &self.author
    }

    /// The time of the change.
    #[must_use]
    pub fn at(&self) -> OffsetDateTime {
        self.author.at
    }

    /// Writes the audit row: what was done, to which tenant, to which thing.
    /// The detail holds no secret and no personal data.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn audit(
        &self,
        action: &str,
        tenant: Option<TenantId>,
        subject: &str,
        detail: &Value,
    ) -> Result<(), Problem> {
        let insert = self.transaction.prepare_cached(AUDIT).await.map_err(db)?;
        self.transaction
            .execute(
                &insert,
                &[
                    &self.author.at,
                    &self.author.actor,
                    &action,
                    &tenant.map(TenantId::as_uuid),
                    &subject,
                    detail,
                    &self.author.request_id,
                ],
            )
            .await
            .map_err(db)?;
        self.audited.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the change lasting.
    ///
    /// # Errors
    /// Where no audit row was written, or the catalog is away.
    pub async fn commit(self) -> Result<(), Problem> {
        if !self.audited.load(Ordering::Relaxed) {
            return Err(Problem::internal("a change of the catalog without an audit row"));
        }
        self.transaction.commit().await.map_err(db)
    }
}
