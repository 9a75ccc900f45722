//! Idempotency keys: the same creating request, sent again, gets the same
//! answer and makes nothing new; another request under the same key is refused.

use insula_domain::{OperationId, TenantId};
use insula_problem::{Code, Problem};
use uuid::Uuid;

use crate::change::Change;
use crate::db;

/// A key with the request that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// What the caller sent.
    pub key: String,
    /// SHA-256 of the request in its canonical form.
    pub request_hash: Vec<u8>,
}

/// What the first request under a key made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// The tenant.
    pub tenant: Option<TenantId>,
    /// The operation.
    pub operation: Option<OperationId>,
}

impl Change<'_> {
    /// Takes a key for this request, or finds what the first request made. Of
    /// two at once, the second waits for the first one's transaction.
    ///
    /// # Errors
    /// `idempotency_key_reused` where the key stands for another request.
    pub async fn take_idempotency_key(
        &self,
        key: &IdempotencyKey,
        makes: Remembered,
    ) -> Result<Option<Remembered>, Problem> {
        let actor = &self.author().actor;
        let taken = self
            .raw()
            .execute(
                "insert into idempotency_keys (actor, key, request_hash, tenant_id, operation_id, created_at)
                 values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
                &[
                    actor,
                    &key.key,
                    &key.request_hash,
                    &makes.tenant.map(TenantId::as_uuid),
                    &makes.operation.map(OperationId::as_uuid),
                    &self.at(),
                ],
            )
            .await
            .map_err(db)?;
        if taken == 1 {
            return Ok(None);
        }
        let row = self
            .raw()
            .query_one(
                "select request_hash, tenant_id, operation_id from idempotency_keys where actor = $1 and key = $2",
                &[actor, &key.key],
            )
            .await
            .map_err(db)?;
        if row.get::<_, Vec<u8>>(0) != key.request_hash {
            return Err(Problem::new(
                Code::IdempotencyKeyReused,
                "This idempotency key was used before, for a request with another content.",
            ));
        }
        Ok(Some(Remembered {
            tenant: row.get::<_, Option<Uuid>>(1).map(TenantId::from),
            operation: row.get::<_, Option<Uuid>>(2).map(OperationId::from),
        }))
    }

    /// Forgets keys older than the time; how many there were.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn forget_idempotency_keys(&self, older_than: time::OffsetDateTime) -> Result<u64, Problem> {
        self.raw()
            .execute("delete from idempotency_keys where created_at < $1", &[&older_than])
            .await
            .map_err(db)
    }
}
