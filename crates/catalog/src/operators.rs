//! The provider's operators: passwords and tokens, of which only verifiers and
//! hashes are kept.

use insula_problem::Problem;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::change::{CatalogClient, Change};
use crate::db;

/// An operator's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorToken {
    /// Which one.
    pub id: Uuid,
    /// Whose.
    pub email: String,
    /// SHA-256 of its secret.
    pub secret_hash: Vec<u8>,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

fn token_of(row: Row) -> OperatorToken {
    OperatorToken { id: row.get(0), email: row.get(1), secret_hash: row.get(2), created_at: row.get(3) }
}

impl CatalogClient {
    /// What an operator's password is checked against.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn operator_verifier(&self, email: &str) -> Result<Option<String>, Problem> {
        let row = self
            .raw()
            .query_opt("select verifier from operators where email = $1", &[&email])
            .await
            .map_err(db)?;
        Ok(row.map(|row| row.get(0)))
    }

    /// One token by its id, where it is not revoked.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn operator_token(&self, id: Uuid) -> Result<Option<OperatorToken>, Problem> {
        let row = self
            .raw()
            .query_opt(
                "select id, email, secret_hash, created_at from operator_tokens
                 where id = $1 and revoked_at is null",
                &[&id],
            )
            .await
            .map_err(db)?;
        Ok(row.map(token_of))
    }

    /// All tokens that are not revoked.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn operator_tokens(&self) -> Result<Vec<OperatorToken>, Problem> {
        let rows = self
            .raw()
            .query(
                "select id, email, secret_hash, created_at from operator_tokens
                 where revoked_at is null order by created_at",
                &[],
            )
            .await
            .map_err(db)?;
        Ok(rows.into_iter().map(token_of).collect())
    }

    /// Which of these tokens hold no more.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn ended_operator_tokens(&self, ids: &[Uuid]) -> Result<Vec<Uuid>, Problem> {
        let rows = self
            .raw()
            .query(
                "select one from unnest($1::uuid[]) as asked (one)
                 where not exists (select from operator_tokens t where t.id = one and t.revoked_at is null)",
                &[&ids],
            )
            .await
            .map_err(db)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

impl Change<'_> {
    /// Adds an operator, or gives one another password.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn put_operator(&self, email: &str, verifier: &str) -> Result<(), Problem> {
        self.raw()
            .execute(
                "insert into operators (email, verifier, created_at) values ($1, $2, $3)
                 on conflict (email) do update set verifier = excluded.verifier",
                &[&email, &verifier, &self.at()],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Adds a token.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn add_operator_token(&self, token: &OperatorToken) -> Result<(), Problem> {
        self.raw()
            .execute(
                "insert into operator_tokens (id, email, secret_hash, created_at) values ($1, $2, $3, $4)",
                &[&token.id, &token.email, &token.secret_hash, &token.created_at],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Revokes a token; `false` where there is none that is not revoked.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn revoke_operator_token(&self, id: Uuid) -> Result<bool, Problem> {
        let changed = self
            .raw()
            .query(
                "with revoked as (
                     update operator_tokens set revoked_at = $2
                     where id = $1 and revoked_at is null returning id)
                 select pg_notify('insula_access', id::text) from revoked",
                &[&id, &self.at()],
            )
            .await
            .map_err(db)?;
        Ok(!changed.is_empty())
    }
}
