//! `insula tenant …`

use insula_api::{
    CreateLogin, CreateTenant, CreatedLogin, LoginUrl, MintToken, MintedToken, Operation, Tenant,
    UpdateTenant,
};
use insula_domain::Placement;
use reqwest::Method;

use crate::args::{Format, TenantCommand, Wait};
use crate::client::{Client, Failure, query, segment};
use crate::output::{self, or_dash, time};

/// Runs the command.
pub async fn run(client: &Client, format: Format, command: TenantCommand) -> Result<(), Failure> {
    match command {
        TenantCommand::Create { slug, tier, region, residency, parent, name, idempotency_key, wait } => {
            let request = CreateTenant { slug, tier, region, residency, parent, name };
            create(client, format, &request, idempotency_key.as_deref(), wait).await
        }
        TenantCommand::Set { slug, residency, name, tier, parent } => {
            let request = UpdateTenant { name, residency, tier, parent };
            let path = format!("/v1/tenants/{}", segment(&slug));
            let tenant: Tenant = client.send(Method::PATCH, &path, &request).await?;
            show(format, &tenant)
        }
        TenantCommand::List { status, region, tier, parent } => {
            let query =
                query(&[("status", &status), ("region", &region), ("tier", &tier), ("parent", &parent)]);
            let tenants: Vec<Tenant> = client.list(&format!("/v1/tenants{query}")).await?;
            list(format, &tenants)
        }
        TenantCommand::Show { slug } => {
            let tenant: Tenant = client.get(&format!("/v1/tenants/{}", segment(&slug))).await?;
            show(format, &tenant)
        }
        TenantCommand::Move(arguments) => super::moves::start(client, format, *arguments).await,
        TenantCommand::Suspend { slug, wait } => act(client, format, &slug, "suspend", wait).await,
        TenantCommand::Resume { slug, wait } => act(client, format, &slug, "resume", wait).await,
        TenantCommand::Delete { slug, retention, wait } => {
            delete(client, format, &slug, retention, wait).await
        }
        TenantCommand::Token { slug, read_only } => {
            let request = MintToken { read_only, seconds: None };
            let path = format!("/v1/tenants/{}/token", segment(&slug));
            let minted: MintedToken = client.send(Method::POST, &path, &request).await?;
            match format {
                Format::Json => output::json(&minted),
                Format::Table => print_url(format, &LoginUrl { url: minted.url }),
            }
        }
        TenantCommand::Url { slug, login, read_only } => url(client, format, &slug, login, read_only).await,
    }
}

async fn create(
    client: &Client,
    format: Format,
    request: &CreateTenant,
    key: Option<&str>,
    wait: Wait,
) -> Result<(), Failure> {
    let headers: Vec<_> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
    let operation: Operation = client.call(Method::POST, "/v1/tenants", Some(request), &headers).await?;
    if wait.no_wait {
        return super::operations::show(format, &operation);
    }
    let operation = output::follow(client, operation, format).await?;
    let tenant: Tenant = client.get(&format!("/v1/tenants/{}", operation.subject)).await?;
    show(format, &tenant)
}

async fn act(client: &Client, format: Format, slug: &str, act: &str, wait: Wait) -> Result<(), Failure> {
    let path = format!("/v1/tenants/{}/{act}", segment(slug));
    let operation: Operation = client.order(Method::POST, &path).await?;
    if wait.no_wait {
        return super::operations::show(format, &operation);
    }
    let operation = output::follow(client, operation, format).await?;
    let tenant: Tenant = client.get(&format!("/v1/tenants/{}", operation.subject)).await?;
    show(format, &tenant)
}

async fn delete(
    client: &Client,
    format: Format,
    slug: &str,
    retention: Option<u64>,
    wait: Wait,
) -> Result<(), Failure> {
    let retention = retention.map(|seconds| seconds.to_string());
    let path = format!("/v1/tenants/{}{}", segment(slug), query(&[("retention_seconds", &retention)]));
    let operation: Operation = client.order(Method::DELETE, &path).await?;
    if wait.no_wait {
        return super::operations::show(format, &operation);
    }
    let operation = output::follow(client, operation, format).await?;
    let tenant: Tenant = client.get(&format!("/v1/tenants/{}", operation.subject)).await?;
    show(format, &tenant)
}

/// The default login's URL can be printed again; a named login is made, and
/// its secret is shown this once.
async fn url(
    client: &Client,
    format: Format,
    slug: &str,
    login: Option<String>,
    read_only: bool,
) -> Result<(), Failure> {
    let tenant = segment(slug);
    let Some(name) = login else {
        let query = if read_only { "?read_only=true" } else { "" };
        let url: LoginUrl = client.order(Method::POST, &format!("/v1/tenants/{tenant}/url{query}")).await?;
        return print_url(format, &url);
    };
    let request = CreateLogin { name, read_only, descendants: false, pool_mode: None };
    let created: CreatedLogin =
        client.send(Method::POST, &format!("/v1/tenants/{tenant}/logins"), &request).await?;
    output::note(&format!("The login {} is new; its secret is shown this once.", created.login.name));
    print_url(format, &LoginUrl { url: created.url })
}

fn print_url(format: Format, url: &LoginUrl) -> Result<(), Failure> {
    match format {
        Format::Json => output::json(url),
        Format::Table => {
            output::line(&url.url);
            Ok(())
        }
    }
}

fn show(format: Format, tenant: &Tenant) -> Result<(), Failure> {
    let placement = |part: fn(&Placement) -> String| tenant.placement.as_ref().map_or("-".to_owned(), part);
    let mut fields = vec![
        ("id", tenant.id.to_string()),
        ("slug", tenant.slug.to_string()),
        ("name", tenant.name.clone()),
        ("parent", or_dash(tenant.parent.as_ref())),
        ("tier", tenant.tier.to_string()),
        ("region", tenant.region.to_string()),
        ("residency", tenant.residency.to_string()),
        ("status", tenant.status.to_string()),
        ("schema version", tenant.schema_version.to_string()),
        ("isolation", placement(|placement| placement.isolation.to_string())),
        ("cluster", placement(|placement| placement.cluster.to_string())),
        ("database", placement(|placement| placement.database.to_string())),
        ("schema", placement(|placement| placement.schema.to_string())),
        ("role", placement(|placement| placement.role.to_string())),
        ("epoch", placement(|placement| placement.epoch.to_string())),
        ("created", time(tenant.created_at)),
    ];
    if let Some(at) = tenant.purge_at {
        fields.push(("purged at", time(at)));
    }
    output::one(format, tenant, &fields)
}

fn list(format: Format, tenants: &[Tenant]) -> Result<(), Failure> {
    let columns =
        ["slug", "status", "tier", "isolation", "region", "residency", "cluster", "schema", "parent"];
    output::list(format, tenants, &columns, |tenant| {
        let placement = tenant.placement.as_ref();
        vec![
            tenant.slug.to_string(),
            tenant.status.to_string(),
            tenant.tier.to_string(),
            or_dash(placement.map(|placement| &placement.isolation)),
            tenant.region.to_string(),
            tenant.residency.to_string(),
            or_dash(placement.map(|placement| &placement.cluster)),
            format!("v{}", tenant.schema_version),
            or_dash(tenant.parent.as_ref()),
        ]
    })
}
