//! `/v1/tenants/{tenant}/logins`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use insula_api::{CreateLogin, CreatedLogin, Login, LoginUrl, MintToken, MintedToken, Page};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::Operator;
use super::error::ApiError;
use super::extract::{Body, Named, Values};
use crate::{Control, logins};

/// List a tenant's database logins
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/logins", tag = "logins", security(("operator" = [])),
    params(("tenant" = String, Path, description = "Slug or id")),
    responses((status = 200, body = Page<Login>))
)]
pub async fn list_logins(
    State(control): State<Arc<Control>>,
    _operator: Operator,
    Named(tenant): Named<String>,
) -> Result<Json<Page<Login>>, ApiError> {
    Ok(Json(Page { items: logins::list(&control, &tenant).await?, next_cursor: None }))
}

/// Create a database login
///
/// The secret is in this answer and in no other.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/logins", tag = "logins", security(("operator" = [])),
    params(
        ("tenant" = String, Path, description = "Slug or id"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters"),
    ), request_body = CreateLogin,
    responses((status = 201, body = CreatedLogin))
)]
pub async fn create_login(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(tenant): Named<String>,
    Body(request): Body<CreateLogin>,
) -> Result<(StatusCode, Json<CreatedLogin>), ApiError> {
    let created = logins::create(&control, operator.author(&control), &tenant, &request).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// Revoke a database login
///
/// Its sessions end at once. The default login cannot be revoked.
#[utoipa::path(
    delete, path = "/v1/tenants/{tenant}/logins/{login}", tag = "logins", security(("operator" = [])),
    params(
        ("tenant" = String, Path, description = "Slug or id"),
        ("login" = String, Path, description = "Name under the tenant"),
    ),
    responses((status = 204))
)]
pub async fn revoke_login(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named((tenant, login)): Named<(String, String)>,
) -> Result<StatusCode, ApiError> {
    logins::revoke(&control, operator.author(&control), &tenant, &login).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Mint a token for the PostgreSQL front
///
/// A signed statement that is good for five minutes at the most: the password
/// of the user `token`. Each minting is in the audit.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/token", tag = "logins", security(("operator" = [])),
    params(
        ("tenant" = String, Path, description = "Slug or id"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters"),
    ), request_body = MintToken,
    responses((status = 201, body = MintedToken))
)]
pub async fn mint_token(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(tenant): Named<String>,
    Body(request): Body<MintToken>,
) -> Result<(StatusCode, Json<MintedToken>), ApiError> {
    let minted = logins::mint_token(&control, operator.author(&control), &tenant, &request).await?;
    Ok((StatusCode::CREATED, Json(minted)))
}

/// Which login's URL.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UrlQuery {
    /// That of the login `read-only`, which the first call makes, instead of the default one's.
    #[serde(default)]
    read_only: bool,
}

/// The URL of the default login
///
/// Its secret is derived and can be shown again; each showing is in the audit.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/url", tag = "logins", security(("operator" = [])),
    params(("tenant" = String, Path, description = "Slug or id"), UrlQuery),
    responses((status = 200, body = LoginUrl))
)]
pub async fn login_url(
    State(control): State<Arc<Control>>,
    operator: Operator,
    Named(tenant): Named<String>,
    Values(query): Values<UrlQuery>,
) -> Result<Json<LoginUrl>, ApiError> {
    let author = operator.author(&control);
    let url = if query.read_only {
        logins::read_only_url(&control, author, &tenant).await
    } else {
        logins::default_url(&control, author, &tenant).await
    };
    Ok(Json(url?))
}
