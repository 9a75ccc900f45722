//! `GET /v1/tenants`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use insula_api::{Page, Tenant};
use insula_catalog::TenantFilter;
use insula_problem::{Code, Problem};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::Control;
use crate::http::auth::Operator;
use crate::http::error::ApiError;
use crate::http::extract::Values;
use crate::http::paging::{PageQuery, page};
use crate::tenants::find::{find, shown};

/// Which tenants.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TenantQuery {
    /// Only those in this status; without it, all but the deleted.
    status: Option<String>,
    /// Only the children of this tenant, by slug or id.
    parent: Option<String>,
    /// Only those of this region.
    region: Option<String>,
    /// Only those of this tier.
    tier: Option<String>,
    /// How many items at the most.
    limit: Option<u32>,
    /// Where the page begins.
    cursor: Option<String>,
}

/// List tenants
///
/// By slug. The deleted ones are not among them unless they are asked for.
#[utoipa::path(
    get, path = "/v1/tenants", tag = "tenants", security(("operator" = [])), params(TenantQuery),
    responses((status = 200, body = Page<Tenant>))
)]
pub async fn list_tenants(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Values(query): Values<TenantQuery>,
) -> Result<Json<Page<Tenant>>, ApiError> {
    let paging = PageQuery { limit: query.limit, cursor: query.cursor };
    let client = control.catalog.client().await?;
    let invalid = |what: &str, why: String| Problem::new(Code::InvalidRequest, format!("{what}: {why}."));
    let status =
        query.status.map(|text| text.parse().map_err(|error| invalid("status", error))).transpose()?;
    let region = query
        .region
        .map(|text| {
            text.parse().map_err(|error: insula_domain::InvalidName| invalid("region", error.to_string()))
        })
        .transpose()?;
    let tier = query
        .tier
        .map(|text| {
            text.parse().map_err(|error: insula_domain::InvalidName| invalid("tier", error.to_string()))
        })
        .transpose()?;
    let parent = match query.parent {
        Some(parent) => Some(find(&client, &parent).await?.id),
        None => None,
    };
    let filter = TenantFilter { status, parent, region, tier, after: paging.after()? };
    let limit = paging.limit();
    let tenants = client.tenants(&filter, i64::try_from(limit + 1).unwrap_or(i64::MAX)).await?;
    Ok(Json(page(tenants, limit, |tenant| tenant.slug.to_string(), shown)))
}
