//! Host names of tenants, which a client gives in its TLS handshake.

use insula_pg_proxy::PgProxyConfig;
use rustls::pki_types::CertificateDer;
use tokio::process::Command;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, Error};

use crate::support::{Tenant, World, one, pair, psql_program, words};
use crate::tls::{Certificate, certificate, client_tls};

async fn world() -> (World, Certificate) {
    let certificate = certificate();
    let config =
        PgProxyConfig { tenant_domain: Some("db.example.com".to_owned()), ..PgProxyConfig::default() };
    (World::start_with(config, Some(certificate.front.clone())).await, certificate)
}

async fn connect_to(host: &str, config: &Config, trusted: &CertificateDer<'static>) -> Result<Client, Error> {
    let mut at_host = Config::new();
    at_host.host(host).hostaddr("127.0.0.1".parse().unwrap()).port(config.get_ports()[0]);
    at_host.user(config.get_user().unwrap()).password(config.get_password().unwrap());
    at_host.dbname(config.get_dbname().unwrap()).ssl_mode(SslMode::Require);
    let (client, connection) = at_host.connect(client_tls(trusted)).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// The tenant that a login reaches, or with what it is refused.
async fn reached(
    (world, certificate): &(World, Certificate),
    (user, secret): (&str, &str),
    host: &str,
    database: &str,
) -> Result<String, (String, String)> {
    let config = world.config_as(user, secret, database);
    match connect_to(host, &config, &certificate.der).await {
        Ok(client) => Ok(one(&client, "show insula.tenant").await),
        Err(error) => {
            let (sqlstate, _, hint) = words(&error);
            Err((sqlstate, hint))
        }
    }
}

fn refusal() -> Result<String, (String, String)> {
    Err(pair("28000", "host_refused"))
}

fn of(tenant: &Tenant) -> (&str, &str) {
    (tenant.login.name.as_str(), &tenant.secret)
}

#[tokio::test]
async fn a_tenants_host_serves_the_tenant_alone() {
    let at = world().await;
    let (acme, globex) = (at.0.tenant("acme").await, at.0.tenant("globex").await);
    for host in ["acme.db.example.com", "ACME.db.example.com", "localhost"] {
        assert_eq!(reached(&at, of(&acme), host, "app").await, Ok("acme".to_owned()), "{host}");
    }
    assert_eq!(reached(&at, of(&globex), "acme.db.example.com", "app").await, refusal());
    assert_eq!(reached(&at, of(&acme), "globex.db.example.com", "app").await, refusal());
    assert_eq!(reached(&at, of(&acme), "nobody.db.example.com", "app").await, refusal());
    assert_eq!(reached(&at, of(&acme), "www.db.example.com", "app").await, refusal());
    // A token is of its tenant too.
    let token = at.0.token(&acme, false);
    assert_eq!(reached(&at, ("token", &token), "acme.db.example.com", "app").await, Ok("acme".to_owned()));
    assert_eq!(reached(&at, ("token", &token), "globex.db.example.com", "app").await, refusal());
    // Who has not shown a credential learns nothing of hosts.
    let wrong = reached(&at, ("acme", "wrong"), "globex.db.example.com", "app").await;
    assert_eq!(wrong, Err(pair("28P01", "login_refused")));
}

#[tokio::test]
async fn hosts_of_other_tenants_and_of_none_are_refused_in_the_same_words() {
    let (world, certificate) = world().await;
    let acme = world.tenant("acme").await;
    world.tenant("globex").await;
    let mut texts = Vec::new();
    for name in ["globex", "nobody"] {
        let host = format!("{name}.db.example.com");
        let error = connect_to(&host, &world.config(&acme), &certificate.der).await.map(drop).unwrap_err();
        texts.push(words(&error).1.replace(name, "NAME"));
    }
    assert_eq!(texts[0], texts[1]);
    assert!(texts[0].contains("NAME.db.example.com") && texts[0].contains("acme"), "{texts:?}");
}

#[tokio::test]
async fn a_host_leads_those_who_reach_its_tenant_from_above_to_it() {
    let at = world().await;
    let mut parent = at.0.tenant("parent").await;
    let child = at.0.tenant_below("child", Some(&parent)).await;
    at.0.tenant_below("grandchild", Some(&child)).await;
    at.0.tenant_below("sibling", Some(&parent)).await;
    let ok = |name: &str| Ok(name.to_owned());
    let (parents, childs) = ("parent.db.example.com", "child.db.example.com");
    // The canary: without the right, a child's host is another tenant's.
    assert_eq!(reached(&at, of(&parent), childs, "app").await, refusal());
    at.0.change_login(&mut parent, |login| login.descendants = true);
    for (host, database, expected) in [
        (childs, "app", ok("child")),
        ("grandchild.db.example.com", "app", ok("grandchild")),
        (childs, "app/child", ok("child")),
        (childs, "app/child/grandchild", ok("grandchild")),
        (parents, "app", ok("parent")),
        (parents, "app/child", ok("child")),
        (childs, "app/sibling", refusal()),
        ("grandchild.db.example.com", "app/child", refusal()),
    ] {
        assert_eq!(reached(&at, of(&parent), host, database).await, expected, "{host} {database}");
    }
    // The other way up there is none.
    assert_eq!(reached(&at, of(&child), parents, "app").await, refusal());
}

#[tokio::test]
async fn libpq_names_the_host() {
    let (world, _certificate) = world().await;
    let tenant = world.tenant("acme").await;
    for (host, works) in [("acme", true), ("globex", false)] {
        let url = format!(
            "host={host}.db.example.com hostaddr=127.0.0.1 port={} user=acme password={} dbname=app sslmode=require",
            world.address.port(),
            tenant.secret
        );
        let output = Command::new(psql_program())
            .args(["-X", "-A", "-t", "-c", "show insula.tenant", &url])
            .output()
            .await
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), works, "{host}: {error}");
        assert_eq!(error.contains("host_refused"), !works, "{host}: {error}");
    }
}
