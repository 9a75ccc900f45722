//! API keys of tenants. Only hashes are kept.

use insula_domain::{ApiKeyId, TenantId};
use insula_problem::Problem;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::change::{CatalogClient, Change};
use crate::db;

/// An API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Which one.
    pub id: ApiKeyId,
    /// Whose.
    pub tenant: TenantId,
    /// The role of a request that carries it.
    pub role: String,
    /// The path that it is bound to.
    pub scope: Option<String>,
    /// SHA-256 of its secret.
    pub secret_hash: Vec<u8>,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it was revoked.
    pub revoked_at: Option<OffsetDateTime>,
}

fn key_of(row: &Row) -> ApiKeyRecord {
    ApiKeyRecord {
        id: row.get::<_, Uuid>("id").into(),
        tenant: row.get::<_, Uuid>("tenant_id").into(),
        role: row.get("role"),
        scope: row.get("scope"),
        secret_hash: row.get("secret_hash"),
        created_at: row.get("created_at"),
        revoked_at: row.get("revoked_at"),
    }
}

impl CatalogClient {
    /// A tenant's keys that are not revoked, the newest last.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn api_keys(&self, tenant: TenantId) -> Result<Vec<ApiKeyRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                "select * from api_keys where tenant_id = $1 and revoked_at is null order by id",
                &[&tenant.as_uuid()],
            )
            .await
            .map_err(db)?;
        Ok(rows.iter().map(key_of).collect())
    }

    /// One key by its id.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKeyRecord>, Problem> {
        let row = self
            .raw()
            .query_opt("select * from api_keys where id = $1", &[&id.as_uuid()])
            .await
            .map_err(db)?;
        Ok(row.as_ref().map(key_of))
    }

    /// Which of these keys hold no more.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn ended_api_keys(&self, ids: &[Uuid]) -> Result<Vec<Uuid>, Problem> {
        let rows = self
            .raw()
            .query(
                "select one from unnest($1::uuid[]) as asked (one)
                 where not exists (select from api_keys k where k.id = one and k.revoked_at is null)",
                &[&ids],
            )
            .await
            .map_err(db)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

impl Change<'_> {
    /// Adds a key.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn add_api_key(&self, key: &ApiKeyRecord) -> Result<(), Problem> {
        self.raw()
            .execute(
                "insert into api_keys (id, tenant_id, role, scope, secret_hash, created_at)
                 values ($1, $2, $3, $4, $5, $6)",
                &[
                    &key.id.as_uuid(),
                    &key.tenant.as_uuid(),
                    &key.role,
                    &key.scope,
                    &key.secret_hash,
                    &key.created_at,
                ],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Revokes a key; `false` where there is none that is not revoked.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn revoke_api_key(&self, id: ApiKeyId) -> Result<bool, Problem> {
        let changed = self
            .raw()
            .query(
                "with revoked as (
                     update api_keys set revoked_at = $2 where id = $1 and revoked_at is null returning id)
                 select pg_notify('insula_access', id::text) from revoked",
                &[&id.as_uuid(), &self.at()],
            )
            .await
            .map_err(db)?;
        Ok(!changed.is_empty())
    }
}
