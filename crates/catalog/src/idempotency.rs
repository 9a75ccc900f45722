//! The answers of creating requests, by idempotency key. An answer is written
//! in the transaction that made the thing, so that there is never one without
//! the other; sent again, the request gets it and makes nothing new.

use insula_domain::OperationId;
use insula_problem::{Code, Problem};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::change::{CatalogClient, Change};
use crate::db;

/// A request that its caller may send again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatableRequest {
    /// The HTTP method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The idempotency key.
    pub key: String,
    /// What identifies its content: an HMAC.
    pub request_hash: Vec<u8>,
    /// The master key of that HMAC, and of what is sealed.
    pub key_generation: u32,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The operation, as it is when it is asked for.
    Operation(OperationId),
    /// A body, sealed.
    Body(Vec<u8>),
}

/// An answer that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenAnswer {
    /// What identifies the content of the first request.
    pub request_hash: Vec<u8>,
    /// The master key of that hash, and of what is sealed.
    pub key_generation: u32,
    /// The HTTP status.
    pub status: u16,
    /// What was answered.
    pub answer: Answer,
}

impl CatalogClient {
    /// The answer that the first request of this actor under the key got.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn given_answer(
        &self,
        actor: &str,
        request: &RepeatableRequest,
    ) -> Result<Option<GivenAnswer>, Problem> {
        let row = self
            .raw()
            .query_opt(
                "select request_hash, key_generation, status, operation_id, sealed_body from idempotent_answers
                 where actor = $1 and method = $2 and path = $3 and key = $4",
                &[&actor, &request.method, &request.path, &request.key],
            )
            .await
            .map_err(db)?;
        let Some(row) = row else { return Ok(None) };
        let answer = match (row.get::<_, Option<Uuid>>(3), row.get::<_, Option<Vec<u8>>>(4)) {
            (Some(id), _) => Answer::Operation(id.into()),
            (None, body) => Answer::Body(body.unwrap_or_default()),
        };
        Ok(Some(GivenAnswer {
            request_hash: row.get(0),
            key_generation: u32::try_from(row.get::<_, i32>(1)).map_err(Problem::internal)?,
            status: u16::try_from(row.get::<_, i32>(2)).map_err(Problem::internal)?,
            answer,
        }))
    }
}

impl Change<'_> {
    /// Writes down the answer to the author's request, where it has a key. Of
    /// two at once the second waits here for the first one's transaction.
    ///
    /// # Errors
    /// `idempotency_key_in_use` where another request under the key was faster.
    pub async fn give_answer(&self, status: u16, answer: &Answer) -> Result<(), Problem> {
        let Some(request) = &self.author().request else { return Ok(()) };
        let (operation, body) = match answer {
            Answer::Operation(id) => (Some(id.as_uuid()), None),
            Answer::Body(sealed) => (None, Some(sealed)),
        };
        let generation = i32::try_from(request.key_generation).map_err(Problem::internal)?;
        let written = self
            .raw()
            .execute(
                "insert into idempotent_answers (actor, method, path, key, request_hash, key_generation, status,
                                                 operation_id, sealed_body, created_at)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing",
                &[
                    &self.author().actor,
                    &request.method,
                    &request.path,
                    &request.key,
                    &request.request_hash,
                    &generation,
                    &i32::from(status),
                    &operation,
                    &body,
                    &self.at(),
                ],
            )
            .await
            .map_err(db)?;
        if written == 1 {
            return Ok(());
        }
        Err(Problem::new(
            Code::IdempotencyKeyInUse,
            "Another request under this idempotency key is being answered. Send it again.",
        )
        .retry_after(1))
    }

    /// Forgets answers older than the time; how many there were.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn forget_answers(&self, older_than: OffsetDateTime) -> Result<u64, Problem> {
        self.raw()
            .execute("delete from idempotent_answers where created_at < $1", &[&older_than])
            .await
            .map_err(db)
    }
}
