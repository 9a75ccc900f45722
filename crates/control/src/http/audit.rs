//! `GET /v1/audit`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use insula_api::{AuditEntry, Page};
use insula_problem::Problem;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::Operator;
use super::error::ApiError;
use super::extract::{Named, Values};
use super::paging::{PageQuery, page};
use crate::Control;
use crate::tenants::find::find;

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only those of this tenant, by slug or id.
    tenant: Option<String>,
    /// How many items at the most.
    limit: Option<u32>,
    /// Where the page begins.
    cursor: Option<String>,
}

/// List the audit
///
/// The newest first.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit", security(("operator" = [])), params(AuditQuery),
    responses((status = 200, body = Page<AuditEntry>))
)]
pub async fn list_audit(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Values(query): Values<AuditQuery>,
) -> Result<Json<Page<AuditEntry>>, ApiError> {
    let paging = PageQuery { limit: query.limit, cursor: query.cursor };
    Ok(Json(entries(&control, query.tenant.as_deref(), &paging).await?))
}

/// List a tenant's audit
///
/// The newest first.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/audit", tag = "audit", security(("operator" = [])),
    params(("tenant" = String, Path, description = "Slug or id"), PageQuery),
    responses((status = 200, body = Page<AuditEntry>))
)]
pub async fn list_tenant_audit(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Named(tenant): Named<String>,
    Values(paging): Values<PageQuery>,
) -> Result<Json<Page<AuditEntry>>, ApiError> {
    Ok(Json(entries(&control, Some(&tenant), &paging).await?))
}

async fn entries(
    control: &Control,
    tenant: Option<&str>,
    paging: &PageQuery,
) -> Result<Page<AuditEntry>, Problem> {
    let client = control.catalog.client().await?;
    let tenant = match tenant {
        Some(tenant) => Some(find(&client, tenant).await?.id),
        None => None,
    };
    let before = paging.number()?;
    let limit = paging.limit();
    let entries = client.audit_entries(tenant, before, i64::try_from(limit + 1).unwrap_or(i64::MAX)).await?;
    Ok(page(entries, limit, |entry| entry.id.to_string(), shown))
}

fn shown(entry: insula_catalog::AuditEntry) -> AuditEntry {
    AuditEntry {
        id: entry.id,
        at: entry.at,
        actor: entry.actor,
        action: entry.action,
        tenant_id: entry.tenant,
        subject: entry.subject,
        detail: entry.detail,
        request_id: entry.request_id,
    }
}
