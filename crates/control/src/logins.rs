//! Database logins of a tenant.

use insula_api::{CreateLogin, CreatedLogin, Login, LoginUrl, MintToken, MintedToken};
use insula_catalog::{Author, LoginRecord};
use insula_credentials::{CONTEXT_TOKEN_LIFE_MAX_SECONDS, ContextTokens, NewContext, ScramVerifier, Secret};
use insula_domain::{LoginId, LoginName, Slug, TenantStatus};
use insula_problem::{Code, Problem};
use serde_json::json;

use crate::Control;
use crate::clusters::percent;
use crate::tenants::create::sentence;
use crate::tenants::find::find;

/// The most logins of a tenant.
const MOST: usize = 100;

/// A tenant's logins.
///
/// # Errors
/// `tenant_not_found` where there is no such tenant.
pub async fn list(control: &Control, tenant: &str) -> Result<Vec<Login>, Problem> {
    let client = control.catalog.client().await?;
    let tenant = find(&client, tenant).await?;
    Ok(client.logins(tenant.id).await?.into_iter().map(shown).collect())
}

/// Creates a named login with a random secret.
///
/// # Errors
/// `login_taken` where the name is there already.
pub async fn create(
    control: &Control,
    author: Author,
    tenant: &str,
    request: &CreateLogin,
) -> Result<CreatedLogin, Problem> {
    let mut client = control.catalog.client().await?;
    let tenant = find(&client, tenant).await?;
    if !matches!(tenant.status, TenantStatus::Active | TenantStatus::Suspended) {
        return Err(Problem::new(
            Code::TenantStatusConflict,
            format!("The tenant {} is {} and gets no new logins.", tenant.slug, tenant.status),
        ));
    }
    let name = named(&tenant.slug, &request.name)?;
    if client.logins(tenant.id).await?.len() >= MOST {
        return Err(Problem::new(Code::QuotaExceeded, format!("A tenant has {MOST} logins at the most.")));
    }
    let id = LoginId::generate(control.clock.as_ref(), control.entropy.as_ref());
    let secret = random_secret(control);
    let record = LoginRecord {
        id,
        tenant: tenant.id,
        name,
        verifier: ScramVerifier::for_login(&secret, control.entropy.as_ref()).to_text(),
        read_only: request.read_only,
        descendants: request.descendants,
        is_default: false,
        pool_mode: request.pool_mode,
        key_generation: control.keys.current_generation(),
        secret_generation: 1,
        created_at: author.at,
    };
    let change = client.change(author).await?;
    change.add_login(&record).await?;
    let detail = json!({
        "read_only": record.read_only,
        "descendants": record.descendants,
        "pool_mode": record.pool_mode,
    });
    change.audit("login.create", Some(tenant.id), record.name.as_str(), &detail).await?;
    let url = url(control, &record.name, &secret);
    let created = CreatedLogin { login: shown(record), secret: secret.expose().to_owned(), url };
    control.answer_body(&change, 201, &created).await?;
    change.commit().await?;
    control.front_knows(|snapshot| snapshot.login_by_id(id).is_some()).await;
    Ok(created)
}

/// Revokes a named login.
///
/// # Errors
/// `login_not_found` where there is none; the default login cannot be revoked.
pub async fn revoke(control: &Control, author: Author, tenant: &str, login: &str) -> Result<(), Problem> {
    let mut client = control.catalog.client().await?;
    let tenant = find(&client, tenant).await?;
    let short = login.strip_prefix(&format!("{}.", tenant.slug)).unwrap_or(login);
    let missing =
        || Problem::new(Code::LoginNotFound, format!("The tenant {} has no such login.", tenant.slug));
    let name = named(&tenant.slug, short).map_err(|_| missing())?;
    let change = client.change(author).await?;
    if !change.revoke_login(tenant.id, &name).await? {
        return Err(missing());
    }
    change.audit("login.revoke", Some(tenant.id), name.as_str(), &json!({})).await?;
    change.commit().await
}

/// The URL of the default login, whose secret is derived.
///
/// # Errors
/// `login_not_found` where the tenant has none (yet).
pub async fn default_url(control: &Control, author: Author, tenant: &str) -> Result<LoginUrl, Problem> {
    let mut client = control.catalog.client().await?;
    let tenant = find(&client, tenant).await?;
    let missing = || {
        Problem::new(
            Code::LoginNotFound,
            format!("The tenant {} is {} and has no default login.", tenant.slug, tenant.status),
        )
    };
    let login =
        client.logins(tenant.id).await?.into_iter().find(|login| login.is_default).ok_or_else(missing)?;
    let change = client.change(author).await?;
    change.audit("login.show", Some(tenant.id), login.name.as_str(), &json!({})).await?;
    change.commit().await?;
    let secret = control
        .keys
        .login_secret(login.id, login.key_generation, login.secret_generation)
        .map_err(Problem::internal)?;
    Ok(LoginUrl { url: url(control, &login.name, &secret) })
}

/// The name of the login of [`read_only_url`], behind the tenant's.
const READ_ONLY: &str = "read-only";

/// The URL of the tenant's login that only reads, whose secret is derived. The
/// first call makes it.
///
/// # Errors
/// `login_taken` where somebody has made a login of that name with a secret of
/// its own; `tenant_status_conflict` where the tenant gets no logins now.
pub async fn read_only_url(control: &Control, author: Author, tenant: &str) -> Result<LoginUrl, Problem> {
    let mut client = control.catalog.client().await?;
    let tenant = find(&client, tenant).await?;
    let name = named(&tenant.slug, READ_ONLY)?;
    let there = client.logins(tenant.id).await?.into_iter().find(|login| login.name == name);
    let derived = |login: &LoginRecord| {
        control
            .keys
            .login_secret(login.id, login.key_generation, login.secret_generation)
            .map_err(Problem::internal)
    };
    let Some(login) = there else {
        if !matches!(tenant.status, TenantStatus::Active | TenantStatus::Suspended) {
            return Err(Problem::new(
                Code::TenantStatusConflict,
                format!("The tenant {} is {} and gets no new logins.", tenant.slug, tenant.status),
            ));
        }
        let id = LoginId::generate(control.clock.as_ref(), control.entropy.as_ref());
        let login = LoginRecord {
            name,
            read_only: true,
            descendants: false,
            is_default: false,
            ..default_login(control, id, tenant.id, &tenant.slug)?
        };
        let change = client.change(author).await?;
        change.add_login(&login).await?;
        let detail = json!({"read_only": true, "descendants": false});
        change.audit("login.create", Some(tenant.id), login.name.as_str(), &detail).await?;
        change.commit().await?;
        control.front_knows(|snapshot| snapshot.login_by_id(id).is_some()).await;
        return Ok(LoginUrl { url: url(control, &login.name, &derived(&login)?) });
    };
    let secret = derived(&login)?;
    let is_ours = login.read_only
        && login.verifier.parse::<ScramVerifier>().is_ok_and(|verifier| verifier.verifies(&secret));
    if !is_ours {
        let detail = format!(
            "The login {} was made with a secret of its own, which was shown once. Revoke it, and ask again.",
            login.name
        );
        return Err(Problem::new(Code::LoginTaken, detail));
    }
    let change = client.change(author).await?;
    change.audit("login.show", Some(tenant.id), login.name.as_str(), &json!({})).await?;
    change.commit().await?;
    Ok(LoginUrl { url: url(control, &login.name, &secret) })
}

/// Mints a token for the front: a statement, signed and short-lived, that its
/// bearer may work as the tenant.
///
/// # Errors
/// `tenant_status_conflict` where the tenant is not active.
pub async fn mint_token(
    control: &Control,
    author: Author,
    tenant: &str,
    request: &MintToken,
) -> Result<MintedToken, Problem> {
    let mut client = control.catalog.client().await?;
    let tenant = find(&client, tenant).await?;
    if tenant.status != TenantStatus::Active {
        let detail = format!("The tenant {} is {} and gets no tokens.", tenant.slug, tenant.status);
        return Err(Problem::new(Code::TenantStatusConflict, detail));
    }
    let seconds = request.seconds.map_or(CONTEXT_TOKEN_LIFE_MAX_SECONDS, i64::from);
    if !(1..=CONTEXT_TOKEN_LIFE_MAX_SECONDS).contains(&seconds) {
        let rule = format!("from 1 to {CONTEXT_TOKEN_LIFE_MAX_SECONDS}");
        return Err(
            Problem::new(Code::InvalidRequest, format!("A token lives {rule} seconds.")).at("/seconds", rule)
        );
    }
    let context = NewContext {
        subject: author.actor.clone(),
        tenant_id: tenant.id,
        tenant: tenant.slug.clone(),
        roles: Vec::new(),
        read_only: request.read_only,
        life: time::Duration::seconds(seconds),
    };
    let change = client.change(author).await?;
    let detail = json!({"read_only": request.read_only, "seconds": seconds});
    change.audit("token.mint", Some(tenant.id), tenant.slug.as_str(), &detail).await?;
    let expires_at = change.at() + time::Duration::seconds(seconds);
    let token =
        ContextTokens::new(&control.keys).mint(context, control.clock.as_ref()).map_err(Problem::internal)?;
    let url = url_of(control, "token", &token);
    let minted = MintedToken { url, token: token.expose().to_owned(), expires_at };
    control.answer_body(&change, 201, &minted).await?;
    change.commit().await?;
    Ok(minted)
}

/// The default login of a new tenant.
///
/// # Errors
/// In practice never.
pub fn default_login(
    control: &Control,
    id: LoginId,
    tenant: insula_domain::TenantId,
    slug: &Slug,
) -> Result<LoginRecord, Problem> {
    let generation = control.keys.current_generation();
    let secret = control.keys.login_secret(id, generation, 1).map_err(Problem::internal)?;
    Ok(LoginRecord {
        id,
        tenant,
        name: LoginName::default_of(slug),
        verifier: ScramVerifier::for_login(&secret, control.entropy.as_ref()).to_text(),
        read_only: false,
        descendants: true,
        is_default: true,
        pool_mode: None,
        key_generation: generation,
        secret_generation: 1,
        created_at: control.clock.now(),
    })
}

fn named(slug: &Slug, name: &str) -> Result<LoginName, Problem> {
    LoginName::named(slug, name).map_err(|error| {
        Problem::new(Code::InvalidRequest, sentence(&error.to_string())).at("/name", error.rule)
    })
}

fn random_secret(control: &Control) -> Secret {
    insula_credentials::Secret::random(control.entropy.as_ref())
}

fn url(control: &Control, name: &LoginName, secret: &Secret) -> String {
    url_of(control, name.as_str(), secret)
}

fn url_of(control: &Control, user: &str, secret: &Secret) -> String {
    let mode = if control.settings.pg_tls { "?sslmode=require" } else { "" };
    format!(
        "postgres://{}:{}@{}/app{mode}",
        percent(user),
        percent(secret.expose()),
        control.settings.pg_address
    )
}

fn shown(record: LoginRecord) -> Login {
    Login {
        id: record.id,
        name: record.name,
        read_only: record.read_only,
        descendants: record.descendants,
        is_default: record.is_default,
        pool_mode: record.pool_mode,
        created_at: record.created_at,
    }
}
