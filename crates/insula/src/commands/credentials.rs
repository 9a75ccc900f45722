//! `insula login …` and `insula key …`

use insula_api::{ApiKey, CreateApiKey, CreateLogin, CreatedApiKey, CreatedLogin, Login};
use reqwest::Method;

use crate::args::{Format, KeyCommand, LoginCommand};
use crate::client::{Client, Failure, segment};
use crate::output::{self, or_dash, time};

/// `insula login …`
pub async fn logins(client: &Client, format: Format, command: LoginCommand) -> Result<(), Failure> {
    match command {
        LoginCommand::Create { slug, name, read_only, descendants, pool_mode } => {
            let request = CreateLogin { name, read_only, descendants, pool_mode };
            let path = format!("/v1/tenants/{}/logins", segment(&slug));
            let created: CreatedLogin = client.send(Method::POST, &path, &request).await?;
            output::note("The secret is shown this once.");
            let fields = [
                ("login", created.login.name.to_string()),
                ("secret", created.secret.clone()),
                ("url", created.url.clone()),
            ];
            output::one(format, &created, &fields)
        }
        LoginCommand::List { slug } => {
            let logins: Vec<Login> = client.list(&format!("/v1/tenants/{}/logins", segment(&slug))).await?;
            output::list(
                format,
                &logins,
                &["login", "read only", "descendants", "default", "pool mode", "created"],
                |login| {
                    vec![
                        login.name.to_string(),
                        login.read_only.to_string(),
                        login.descendants.to_string(),
                        login.is_default.to_string(),
                        or_dash(login.pool_mode.as_ref()),
                        time(login.created_at),
                    ]
                },
            )
        }
        LoginCommand::Revoke { slug, name } => {
            let path = format!("/v1/tenants/{}/logins/{}", segment(&slug), segment(&name));
            client.order::<()>(Method::DELETE, &path).await
        }
    }
}

/// `insula key …`
pub async fn keys(client: &Client, format: Format, command: KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::Create { slug, role, scope } => {
            let path = format!("/v1/tenants/{}/keys", segment(&slug));
            let created: CreatedApiKey =
                client.send(Method::POST, &path, &CreateApiKey { role, scope }).await?;
            output::note("The key is shown this once.");
            let fields = [
                ("id", created.key.id.to_string()),
                ("role", created.key.role.clone()),
                ("scope", or_dash(created.key.scope.as_ref())),
                ("key", created.secret.clone()),
            ];
            output::one(format, &created, &fields)
        }
        KeyCommand::List { slug } => {
            let keys: Vec<ApiKey> = client.list(&format!("/v1/tenants/{}/keys", segment(&slug))).await?;
            output::list(format, &keys, &["id", "role", "scope", "created"], |key| {
                vec![key.id.to_string(), key.role.clone(), or_dash(key.scope.as_ref()), time(key.created_at)]
            })
        }
        KeyCommand::Revoke { id } => {
            client.order::<()>(Method::DELETE, &format!("/v1/keys/{}", segment(&id))).await
        }
    }
}
