//! `PATCH /v1/tenants/{tenant}`

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::IF_MATCH;
use axum::response::Response;
use insula_api::{Tenant, UpdateTenant};
use insula_problem::{Code, Problem};

use super::show::with_etag;
use crate::http::auth::Operator;
use crate::http::error::ApiError;
use crate::http::extract::{Body, Named};
use crate::{Control, tenants};

/// Change a tenant
///
/// What is not given stays. With `If-Match` the change is made only where the
/// tenant still is as it was read.
#[utoipa::path(
    patch, path = "/v1/tenants/{tenant}", tag = "tenants", security(("operator" = [])),
    params(
        ("tenant" = String, Path, description = "Slug or id"),
        ("If-Match" = Option<String>, Header, description = "The ETag that was read"),
    ),
    request_body = UpdateTenant,
    responses(
        (status = 200, body = Tenant),
        (status = 412, body = insula_api::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn update_tenant(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(tenant): Named<String>,
    headers: HeaderMap,
    Body(request): Body<UpdateTenant>,
) -> Result<Response, ApiError> {
    let revision = expected_revision(&headers)?;
    let author = operator.author(&control);
    Ok(with_etag(tenants::update::update(&control, author, &tenant, &request, revision).await?))
}

fn expected_revision(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    if value == "*" {
        return Ok(None);
    }
    let text = value.to_str().unwrap_or_default().trim_matches('"');
    text.parse()
        .map(Some)
        .map_err(|_| Problem::new(Code::PreconditionFailed, "The ETag in If-Match is none of this tenant's."))
}
