//! Database logins of tenants. Only verifiers are kept, never secrets.

use insula_domain::{LoginId, LoginName, PoolMode, TenantId};
use insula_problem::{Code, Problem};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::change::{CatalogClient, Change};
use crate::db;
use crate::rows::{parsed, parsed_opt, unsigned};

/// A database login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginRecord {
    /// Which one.
    pub id: LoginId,
    /// Whose.
    pub tenant: TenantId,
    /// As its user types it.
    pub name: LoginName,
    /// The SCRAM verifier, as PostgreSQL writes it.
    pub verifier: String,
    /// Whether its sessions may only read.
    pub read_only: bool,
    /// Whether it may open the databases of descendants.
    pub descendants: bool,
    /// Whether its secret is derived from the master key, to be shown again.
    pub is_default: bool,
    /// How long its sessions keep a backend; `None` is as the front is set.
    pub pool_mode: Option<PoolMode>,
    /// The generation of the master key behind a derived secret.
    pub key_generation: u32,
    /// The generation of the secret itself.
    pub secret_generation: u32,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

fn login_of(row: &Row) -> Result<LoginRecord, Problem> {
    Ok(LoginRecord {
        id: row.get::<_, Uuid>("id").into(),
        tenant: row.get::<_, Uuid>("tenant_id").into(),
        name: parsed(row, "name")?,
        verifier: row.get("verifier"),
        read_only: row.get("read_only"),
        descendants: row.get("descendants"),
        is_default: row.get("is_default"),
        pool_mode: parsed_opt(row, "pool_mode")?,
        key_generation: unsigned("key_generation", row.get::<_, i32>("key_generation"))?,
        secret_generation: unsigned("secret_generation", row.get::<_, i32>("secret_generation"))?,
        created_at: row.get("created_at"),
    })
}

impl CatalogClient {
    /// A tenant's logins that are not revoked, by name.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn logins(&self, tenant: TenantId) -> Result<Vec<LoginRecord>, Problem> {
        let rows = self
            .raw()
            .query(
                "select * from logins where tenant_id = $1 and revoked_at is null order by name",
                &[&tenant.as_uuid()],
            )
            .await
            .map_err(db)?;
        rows.iter().map(login_of).collect()
    }

    /// One of a tenant's logins by its name.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn login(&self, tenant: TenantId, name: &LoginName) -> Result<Option<LoginRecord>, Problem> {
        let row = self
            .raw()
            .query_opt(
                "select * from logins where tenant_id = $1 and name = $2 and revoked_at is null",
                &[&tenant.as_uuid(), &name.as_str()],
            )
            .await
            .map_err(db)?;
        row.as_ref().map(login_of).transpose()
    }
}

impl Change<'_> {
    /// Adds a login. Adding the same one again, by its id, changes nothing, so
    /// that a step that was interrupted can be repeated.
    ///
    /// # Errors
    /// `login_taken` where another login has the name.
    pub async fn add_login(&self, login: &LoginRecord) -> Result<(), Problem> {
        let signed = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let inserted = self
            .raw()
            .execute(
                "insert into logins (id, tenant_id, name, verifier, read_only, descendants, is_default,
                     key_generation, secret_generation, created_at, pool_mode)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict (id) do nothing",
                &[
                    &login.id.as_uuid(),
                    &login.tenant.as_uuid(),
                    &login.name.as_str(),
                    &login.verifier,
                    &login.read_only,
                    &login.descendants,
                    &login.is_default,
                    &signed(login.key_generation),
                    &signed(login.secret_generation),
                    &login.created_at,
                    &login.pool_mode.map(PoolMode::as_str),
                ],
            )
            .await;
        match inserted {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                Err(Problem::new(Code::LoginTaken, format!("A login named {} is there already.", login.name))
                    .caused_by(error))
            }
            Err(error) => Err(db(error)),
        }
    }

    /// Gives a login another secret, by its verifier.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn set_login_verifier(
        &self,
        id: LoginId,
        verifier: &str,
        key_generation: u32,
        secret_generation: u32,
    ) -> Result<(), Problem> {
        let signed = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        self.raw()
            .execute(
                "update logins set verifier = $2, key_generation = $3, secret_generation = $4 where id = $1",
                &[&id.as_uuid(), &verifier, &signed(key_generation), &signed(secret_generation)],
            )
            .await
            .map_err(db)?;
        Ok(())
    }

    /// Revokes a login; `false` where there is none.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn revoke_login(&self, tenant: TenantId, name: &LoginName) -> Result<bool, Problem> {
        let changed = self
            .raw()
            .execute(
                "update logins set revoked_at = $3 where tenant_id = $1 and name = $2 and revoked_at is null",
                &[&tenant.as_uuid(), &name.as_str(), &self.at()],
            )
            .await
            .map_err(db)?;
        Ok(changed > 0)
    }
}
