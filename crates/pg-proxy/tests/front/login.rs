//! Who gets in, and that nobody else does or learns anything.

use std::io::Write;
use std::sync::{Arc, Mutex};

use insula_credentials::{ContextTokens, MasterKeys, NewContext};
use insula_domain::{OsEntropy, RoleName, SystemClock};
use insula_pg_wire::backend::{parse_error, tag};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::raw::Raw;
use crate::support::{World, connect, one, pair, refused};

#[tokio::test]
async fn a_login_is_the_tenants_own_role() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = world.connect(&tenant).await;
    let role = one(&client, "select current_user::text").await;
    assert_eq!(role, RoleName::of_tenant(tenant.id).as_str());
    assert_eq!(one(&client, "select session_user::text").await, role);
    assert_eq!(
        one(&client, "select current_schema()::text").await,
        tenant.route.placement.unwrap().schema.as_str()
    );
}

#[tokio::test]
async fn a_read_only_login_is_the_role_that_may_only_read() {
    let world = World::start().await;
    let mut tenant = world.tenant("acme").await;
    world.change_login(&mut tenant, |login| login.read_only = true);
    let client = world.connect(&tenant).await;
    let role = one(&client, "select current_user::text").await;
    assert_eq!(role, RoleName::read_only_of_tenant(tenant.id).as_str());
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_so_is_another_tenants() {
    let world = World::start().await;
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    assert!(connect(&world.config(&acme)).await.is_ok(), "the canary: the right one gets in");
    for secret in ["", "wrong", &globex.secret, acme.login.verifier.as_str()] {
        let config = world.config_as("acme", secret, "app");
        if secret.is_empty() {
            assert!(connect(&config).await.is_err());
        } else {
            assert_eq!(refused(&config).await, pair("28P01", "login_refused"));
        }
    }
    // The role's own name and password are no way around the login.
    let role = RoleName::of_tenant(acme.id);
    let password = world.keys.role_password(acme.id, false, world.keys.current_generation()).unwrap();
    let config = world.config_as(role.as_str(), password.expose(), "app");
    assert_eq!(refused(&config).await, pair("28P01", "login_refused"));
}

#[tokio::test]
async fn an_unknown_login_cannot_be_told_from_a_wrong_secret() {
    let world = World::start().await;
    let mut broken = world.tenant("broken").await;
    world.change_login(&mut broken, |login| login.verifier = "not a verifier".to_owned());
    world.tenant("known").await;
    let attempt = async |user: &str| {
        let mut raw = Raw::connect(&world).await;
        raw.start(&[("user", user), ("database", "app")]).await;
        let (server_first, answer) = raw.scram("wrong").await;
        assert_eq!(answer.tag, tag::ERROR_RESPONSE);
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(raw.next().await.is_none());
        let salt = server_first.split(',').nth(1).unwrap().to_owned();
        let rest = server_first.split(',').nth(2).unwrap().to_owned();
        (body.replace(&format!("\"{user}\""), "\"USER\""), rest, salt)
    };
    let known = attempt("known").await;
    for user in ["unknown", "broken", "Robert'); drop table x;--", "postgres", "insula"] {
        let other = attempt(user).await;
        assert_eq!((&other.0, &other.1), (&known.0, &known.1), "{user}");
        assert_eq!(other.2.len(), known.2.len(), "the salts look alike");
        assert_eq!(attempt(user).await.2, other.2, "the salt of a name stays the same");
        assert_ne!(other.2, known.2);
    }
    assert_eq!(attempt("known").await.2, known.2);
}

#[tokio::test]
async fn a_token_gets_in_and_nothing_that_looks_like_one() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for read_only in [false, true] {
        let client =
            connect(&world.config_as("token", &world.token(&tenant, read_only), "app")).await.unwrap();
        let role =
            if read_only { RoleName::read_only_of_tenant(tenant.id) } else { RoleName::of_tenant(tenant.id) };
        assert_eq!(one(&client, "select current_user::text").await, role.as_str());
    }
    let context = NewContext {
        subject: "user-1".to_owned(),
        tenant_id: tenant.id,
        tenant: tenant.route.slug.clone(),
        roles: vec![],
        read_only: false,
        life: time::Duration::seconds(60),
    };
    let foreign = ContextTokens::new(&MasterKeys::generate(&OsEntropy)).mint(context, &SystemClock).unwrap();
    let good = world.token(&tenant, false);
    for bad in [foreign.expose(), &good[..good.len() - 2], "x", &tenant.secret] {
        let config = world.config_as("token", bad, "app");
        assert_eq!(refused(&config).await, pair("28P01", "login_refused"));
    }
    // A token reaches its own tenant alone.
    let config = world.config_as("token", &good, "app/child");
    assert_eq!(refused(&config).await, pair("3D000", "unknown_scope"));
}

/// The log of all tests of this process. Threads of their own would not do:
/// `tracing` remembers for each line of code whether anybody listens at all.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let ours = Targets::new().with_target("insula_pg_proxy", tracing::Level::TRACE);
        tracing_subscriber::registry().with(layer.with_filter(ours)).init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_refused_login_is_in_the_log_and_no_secret_is() {
    let log = Log::listen();
    let world = World::start().await;
    let mut tenant = world.tenant("logged").await;
    let good = world.token(&tenant, false);
    let bad = &good[..good.len() - 3];
    refused(&world.config_as("logged", "a-wrong-secret", "app")).await;
    refused(&world.config_as("nobody\n2026 INFO forged", "a-wrong-secret", "app")).await;
    refused(&world.config_as("token", bad, "app")).await;
    refused(&world.config_as("logged", &tenant.secret, "app/child")).await;
    world.connect(&tenant).await;
    connect(&world.config_as("token", &good, "app")).await.unwrap();
    // What SCRAM says is no secret, but with a guess of one it can be checked.
    let mut raw = Raw::connect(&world).await;
    raw.start(&[("user", "logged"), ("database", "app")]).await;
    let (challenge, _) = raw.scram("a-wrong-secret").await;
    world.change(&mut tenant, |route| route.max_connections = Some(0));
    refused(&world.config_as("token", &good, "app")).await;

    let text = log.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("a login was refused")).collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("peer=127.0.0.1:")), "{lines:?}");
    let said = |line: usize, parts: &[&str]| {
        for part in parts {
            assert!(lines[line].contains(part), "{part} is not in {}", lines[line]);
        }
    };
    let wrong = "reason=\"the SCRAM proof is wrong\"";
    said(0, &["user=\"logged\"", "tenant=\"logged\"", "code=login_refused", wrong]);
    said(1, &["user=\"nobody?2026 INFO forged\"", "code=login_refused"]);
    assert!(!lines[1].contains("tenant="), "nobody's name says no tenant");
    said(2, &["user=\"token\"", "code=login_refused", "reason="]);
    said(3, &["user=\"logged\"", "tenant=\"logged\"", "code=unknown_scope"]);
    said(4, &["user=\"logged\"", wrong]);
    said(5, &["user=\"token\"", "tenant=\"logged\"", "code=too_many_connections"]);
    assert!(!text.contains("\n2026 INFO forged"));

    let password = world.keys.role_password(tenant.id, false, world.keys.current_generation()).unwrap();
    let signature = bad.rsplit('.').next().unwrap();
    let nonce = challenge.strip_prefix("r=").and_then(|rest| rest.split(',').next()).unwrap();
    let salt = challenge.split(",s=").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    let verifier = &tenant.login.verifier;
    let secrets =
        ["a-wrong-secret", &tenant.secret, signature, password.expose(), verifier, nonce, &nonce[..18], salt];
    let found = |text: &str| secrets.iter().filter(|secret| text.contains(**secret)).count();
    assert_eq!(found(&text), 0, "{text}");
    // The canary: in the log they would have been found.
    for secret in secrets {
        tracing::info!(target: "insula_pg_proxy", secret, "a canary");
    }
    assert_eq!(found(&log.text()), secrets.len());

    // Nobody fills the disk; how many are not there is there in the end.
    let flood = 300;
    for _ in 0..flood {
        let mut raw = Raw::connect(&world).await;
        raw.start(&[("user", "flood"), ("database", "app"), ("replication", "true")]).await;
        raw.refusal().await;
    }
    world.shutdown.cancel();
    world.served.await.unwrap();
    let text = log.text();
    let written = text.lines().filter(|line| line.contains("user=\"flood\"")).count();
    let left_out: usize = text
        .lines()
        .filter_map(|line| line.split_once("left_out=")?.1.split(' ').next()?.parse::<usize>().ok())
        .sum();
    assert!((50..200).contains(&written), "{written}");
    assert_eq!(written + left_out, flood);
}

#[tokio::test]
async fn a_packet_without_a_user_is_refused() {
    let world = World::start().await;
    for parameters in [&[("database", "app")][..], &[("user", ""), ("database", "app")]] {
        let mut raw = Raw::connect(&world).await;
        raw.start(parameters).await;
        assert_eq!(raw.refusal().await.0, "08P01");
    }
}

#[tokio::test]
async fn nobody_gets_in_before_the_map_has_come() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    assert!(connect(&world.config(&tenant)).await.is_ok(), "the canary");
    let empty = World::with_an_empty_map().await;
    let mut raw = Raw::connect(&empty).await;
    raw.start(&[("user", "acme"), ("database", "app")]).await;
    let message = raw.next().await.unwrap();
    assert_eq!(parse_error(&message.body).unwrap().0, "57P03");
}
