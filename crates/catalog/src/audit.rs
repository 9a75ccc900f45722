//! Reading the audit.

use insula_domain::TenantId;
use insula_problem::Problem;
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::change::CatalogClient;
use crate::db;

/// One row of the audit.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Grows with every entry.
    pub id: i64,
    /// When.
    pub at: OffsetDateTime,
    /// Who.
    pub actor: String,
    /// What, for example `tenant.create`.
    pub action: String,
    /// To which tenant.
    pub tenant: Option<TenantId>,
    /// To which thing, by its name.
    pub subject: String,
    /// With which values.
    pub detail: Value,
    /// On which request.
    pub request_id: Option<String>,
}

impl CatalogClient {
    /// The newest entries first, of one tenant or of all, older than `before`.
    ///
    /// # Errors
    /// Where the catalog is away.
    pub async fn audit_entries(
        &self,
        tenant: Option<TenantId>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditEntry>, Problem> {
        let rows = self
            .raw()
            .query(
                "select id, at, actor, action, tenant_id, subject, detail, request_id from audit
                 where ($1::uuid is null or tenant_id = $1) and ($2::bigint is null or id < $2)
                 order by id desc limit $3",
                &[&tenant.map(TenantId::as_uuid), &before, &limit],
            )
            .await
            .map_err(db)?;
        Ok(rows
            .into_iter()
            .map(|row| AuditEntry {
                id: row.get(0),
                at: row.get(1),
                actor: row.get(2),
                action: row.get(3),
                tenant: row.get::<_, Option<Uuid>>(4).map(TenantId::from),
                subject: row.get(5),
                detail: row.get(6),
                request_id: row.get(7),
            })
            .collect())
    }
}
