//! API keys of a tenant, for the HTTP gateway.

use insula_api::{ApiKey, CreateApiKey, CreatedApiKey};
use insula_catalog::{ApiKeyRecord, Author};
use insula_domain::{ApiKeyId, TenantStatus};
use insula_problem::{Code, Problem};
use serde_json::json;

use crate::Control;
use crate::tenants::find::find;

/// The most keys of a tenant that are not revoked.
const MOST: usize = 200;

/// A tenant's keys.
///
/// # Errors
/// `tenant_not_found` where there is no such tenant.
pub async fn list(control: &Control, tenant: &str) -> Result<Vec<ApiKey>, Problem> {
    let client = control.catalog.client().await?;
    let tenant = find(&client, tenant).await?;
    Ok(client.api_keys(tenant.id).await?.into_iter().map(shown).collect())
}

/// Creates a key.
///
/// # Errors
/// `invalid_request` for a role or a scope that is none.
pub async fn create(
    control: &Control,
    author: Author,
    tenant: &str,
    request: &CreateApiKey,
) -> Result<CreatedApiKey, Problem> {
    let role = request.role.clone().unwrap_or_else(|| "tenant_user".to_owned());
    check_role(&role)?;
    if let Some(scope) = &request.scope {
        check_scope(scope)?;
    }
    let mut client = control.catalog.client().await?;
    let tenant = find(&client, tenant).await?;
    if !matches!(tenant.status, TenantStatus::Active | TenantStatus::Suspended) {
        return Err(Problem::new(
            Code::TenantStatusConflict,
            format!("The tenant {} is {} and gets no new keys.", tenant.slug, tenant.status),
        ));
    }
    if client.api_keys(tenant.id).await?.len() >= MOST {
        return Err(Problem::new(Code::QuotaExceeded, format!("A tenant has {MOST} keys at the most.")));
    }
    let id = ApiKeyId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let key = insula_credentials::ApiKey::generate(id, control.entropy.as_ref());
    let record = ApiKeyRecord {
        id,
        tenant: tenant.id,
        role,
        scope: request.scope.clone(),
        secret_hash: key.hash().as_bytes().to_vec(),
        created_at: author.at,
        revoked_at: None,
    };
    let change = client.change(author).await?;
    change.add_api_key(&record).await?;
    let detail = json!({"role": record.role, "scope": record.scope});
    change.audit("key.create", Some(tenant.id), &id.to_string(), &detail).await?;
    let created = CreatedApiKey { key: shown(record), secret: key.to_text().expose().to_owned() };
    control.answer_body(&change, 201, &created).await?;
    change.commit().await?;
    Ok(created)
}

/// Revokes a key by its id, or by the key itself.
///
/// # Errors
/// `key_not_found` where there is none that is not revoked.
pub async fn revoke(control: &Control, author: Author, key: &str) -> Result<(), Problem> {
    let missing = || Problem::new(Code::KeyNotFound, "There is no such key, or it is revoked already.");
    let id = match key.parse::<ApiKeyId>() {
        Ok(id) => id,
        Err(_) => insula_credentials::ApiKey::parse(key).map_err(|_| missing())?.id(),
    };
    let mut client = control.catalog.client().await?;
    let record = client.api_key(id).await?.ok_or_else(missing)?;
    let change = client.change(author).await?;
    if !change.revoke_api_key(id).await? {
        return Err(missing());
    }
    change.audit("key.revoke", Some(record.tenant), &id.to_string(), &json!({})).await?;
    change.commit().await
}

fn check_role(role: &str) -> Result<(), Problem> {
    let word = (1..=40).contains(&role.len())
        && role.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let rule = "1 to 40 lower-case letters, digits and underscores";
    if !word {
        return Err(Problem::new(Code::InvalidRequest, format!("The role has {rule}.")).at("/role", rule));
    }
    if role == "system_admin" {
        return Err(Problem::new(Code::Forbidden, "The role system_admin is the provider's own."));
    }
    Ok(())
}

fn check_scope(scope: &str) -> Result<(), Problem> {
    if scope.starts_with('/') && scope.len() <= 500 && !scope.chars().any(char::is_control) {
        return Ok(());
    }
    let rule = "a path that begins with a slash, 500 bytes at the most";
    Err(Problem::new(Code::InvalidRequest, format!("The scope is {rule}.")).at("/scope", rule))
}

fn shown(record: ApiKeyRecord) -> ApiKey {
    ApiKey { id: record.id, role: record.role, scope: record.scope, created_at: record.created_at }
}
