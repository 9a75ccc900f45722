//! TLS towards clients and towards servers, and servers that are not who they
//! should be.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use insula_credentials::scram::{Mechanism, ScramError, ScramServer};
use insula_credentials::{ScramVerifier, Secret};
use insula_domain::OsEntropy;
use insula_pg_proxy::{FrontTls, NoChannelBinding, PgProxyConfig};
use insula_pg_wire::backend::{Authentication, put_backend_key_data, put_ready_for_query};
use insula_pg_wire::frontend::SaslInitialResponse;
use insula_pg_wire::startup::{CancelKey, read_packet};
use insula_pg_wire::{Message, TransactionStatus, read_message};
use insula_route_map::Rows;
use insula_testkit::TestServer;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::raw::Raw;
use crate::support::{World, one, pair, psql_program, refused};

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

struct Certificate {
    der: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: String,
    front: FrontTls,
}

fn certificate() -> Certificate {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let der = cert.der().clone();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key)
        .unwrap();
    let front = FrontTls::new(Arc::new(config), &der).unwrap();
    Certificate { der, certificate_pem: cert.pem(), key_pem: signing_key.serialize_pem(), front }
}

fn client_tls(trusted: &CertificateDer<'static>) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    MakeRustlsConnect::new(config)
}

#[tokio::test]
async fn clients_use_tls_with_and_without_channel_binding() {
    let certificate = certificate();
    let world = World::start_with(PgProxyConfig::default(), Some(certificate.front.clone())).await;
    let tenant = world.tenant("acme").await;
    for binding in [ChannelBinding::Require, ChannelBinding::Disable] {
        let mut config = Config::new();
        config.host("localhost").hostaddr("127.0.0.1".parse().unwrap()).port(world.address.port());
        config.user("acme").password(&tenant.secret).dbname("app");
        config.ssl_mode(SslMode::Require).channel_binding(binding);
        let (client, connection) = config.connect(client_tls(&certificate.der)).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        assert_eq!(one(&client, "show insula.tenant").await, "acme");
        let large: i32 = client.query_one("select length(repeat('x', 5000000))", &[]).await.unwrap().get(0);
        assert_eq!(large, 5_000_000);
        assert_eq!(one(&client, "select repeat('y', 3000000)").await.len(), 3_000_000);
        // Cancelling goes through TLS as well.
        let cancel = client.cancel_token();
        cancel.cancel_query(client_tls(&certificate.der)).await.unwrap();
    }
    // Without TLS it still works: nothing here requires it.
    assert_eq!(one(&world.connect(&tenant).await, "show insula.tenant").await, "acme");
}

#[tokio::test]
async fn libpq_binds_to_the_channel() {
    let certificate = certificate();
    let world = World::start_with(PgProxyConfig::default(), Some(certificate.front.clone())).await;
    let tenant = world.tenant("acme").await;
    for (mode, works) in [
        ("sslmode=require&channel_binding=require", true),
        ("sslmode=require&channel_binding=disable", true),
        ("sslmode=disable", true),
        ("sslmode=disable&channel_binding=require", false),
    ] {
        let url = format!("{}?{mode}", world.url(&tenant));
        let output = Command::new(psql_program())
            .args(["-X", "-A", "-t", "-c", "show insula.tenant", &url])
            .output()
            .await
            .unwrap();
        assert_eq!(output.status.success(), works, "{mode}: {}", String::from_utf8_lossy(&output.stderr));
        if works {
            assert_eq!(output.stdout, b"acme\n");
        }
    }
}

#[test]
fn a_certificate_without_channel_binding_is_refused_at_the_start() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let cert = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let der = cert.der().clone();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    assert_eq!(FrontTls::new(Arc::new(config), &der).map(drop), Err(NoChannelBinding));
}

/// Gives a file to whoever owns the folder, as PostgreSQL wants its key.
fn hand_over(folder: &Path, name: &str, content: &str) {
    let (file, owner) = (folder.join(name), std::fs::metadata(folder).unwrap());
    std::fs::write(&file, content).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
}

#[tokio::test]
async fn backends_use_tls_bound_to_the_servers_certificate() {
    let certificate = certificate();
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let mut server = TestServer::start().await;
    let admin = server.connect("postgres").await;
    let placement = tenant.route.placement.as_ref().unwrap();
    let password = world.keys.role_password(tenant.id, false, world.keys.current_generation()).unwrap();
    let verifier = ScramVerifier::for_random_secret(&password, &OsEntropy).to_text();
    let role = &placement.role;
    admin.batch_execute(&format!("create role {role} login password '{verifier}'")).await.unwrap();
    admin.batch_execute(&format!("create database {}", placement.database)).await.unwrap();
    let at =
        |tls| Rows { endpoints: vec![world.endpoint("localhost", server.port(), tls)], ..Rows::default() };
    let encrypted = "select ssl::text from pg_stat_ssl where pid = pg_backend_pid()";

    world.push(at(false));
    assert_eq!(one(&world.connect(&tenant).await, encrypted).await, "false");
    world.push(at(true));
    assert_eq!(refused(&world.config(&tenant)).await, pair("57P03", "placement_unavailable"), "no TLS there");

    let folder: String = admin.query_one("show data_directory", &[]).await.unwrap().get(0);
    hand_over(Path::new(&folder), "server.crt", &certificate.certificate_pem);
    hand_over(Path::new(&folder), "server.key", &certificate.key_pem);
    admin.batch_execute("alter system set ssl = on").await.unwrap();
    drop(admin);
    server.start_again().await;
    let client = world.connect(&tenant).await;
    assert_eq!(one(&client, encrypted).await, "true");
    // A cancel finds its way through TLS too.
    let cancel = client.cancel_token();
    let (slept, ()) = tokio::join!(client.batch_execute("select pg_sleep(600)"), async {
        let admin = server.connect("postgres").await;
        let query = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        while admin.query_one(query, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    });
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
}

/// A server at a reused address: it speaks the protocol, and knows another
/// verifier, or none.
struct Impostor {
    stream: TcpStream,
    inbox: bytes::BytesMut,
}

impl Impostor {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let mut impostor = Self { stream, inbox: bytes::BytesMut::new() };
        while read_packet(&mut impostor.inbox).unwrap().is_none() {
            impostor.stream.read_buf(&mut impostor.inbox).await.unwrap();
        }
        impostor
    }

    async fn say(&mut self, authentication: Authentication<'_>) {
        let mut out = bytes::BytesMut::new();
        authentication.put(&mut out);
        self.stream.write_all(&out).await.unwrap();
    }

    async fn hear(&mut self) -> Message {
        loop {
            if let Some(message) = read_message(&mut self.inbox, 10_000).unwrap() {
                return message;
            }
            assert_ne!(self.stream.read_buf(&mut self.inbox).await.unwrap(), 0, "the front hung up");
        }
    }

    /// Goes through the exchange with the verifier of a secret, up to the
    /// front's proof.
    async fn authenticate(&mut self, secret: &str) -> Result<String, ScramError> {
        self.say(Authentication::Sasl(vec![b"SCRAM-SHA-256"])).await;
        let message = self.hear().await;
        let first = SaslInitialResponse::from_body(&message.body).unwrap().data.unwrap();
        let verifier = ScramVerifier::for_random_secret(&Secret::new(secret.to_owned()), &OsEntropy);
        let (scram, answer) = ScramServer::start(verifier, Mechanism::Plain, None, first, &OsEntropy)?;
        self.say(Authentication::SaslContinue(answer.as_bytes())).await;
        scram.finish(&self.hear().await.body)
    }

    /// Whether the front hangs up without having sent anything more.
    async fn was_left(mut self) -> bool {
        self.inbox.is_empty() && self.stream.read(&mut [0; 100]).await.unwrap_or(0) == 0
    }
}

#[tokio::test]
async fn a_server_that_cannot_prove_who_it_is_gets_nothing() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    world.push(Rows { endpoints: vec![world.endpoint("127.0.0.1", port, false)], ..Rows::default() });
    let config = world.config(&tenant);

    // One that lets everybody in, one that asks for the password itself.
    for eager in [Authentication::Ok, Authentication::CleartextPassword, Authentication::Other(5)] {
        let ((), found) = tokio::join!(
            async {
                let mut impostor = Impostor::accept(&listener).await;
                impostor.say(eager).await;
                assert!(impostor.was_left().await);
            },
            refused(&config)
        );
        assert_eq!(found, pair("57P03", "placement_unavailable"));
    }

    // One that has a role of this name with another password, and pretends
    // that the proof was right.
    let ((), found) = tokio::join!(
        async {
            let mut impostor = Impostor::accept(&listener).await;
            assert!(impostor.authenticate("other").await.is_err());
            impostor.say(Authentication::SaslFinal(b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")).await;
            assert!(impostor.was_left().await);
        },
        refused(&config)
    );
    assert_eq!(found, pair("57P03", "placement_unavailable"));
}

#[tokio::test]
async fn a_server_that_dies_without_a_word_is_reported_by_the_front() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    world.push(Rows { endpoints: vec![world.endpoint("127.0.0.1", port, false)], ..Rows::default() });
    let password = world.keys.role_password(tenant.id, false, world.keys.current_generation()).unwrap();
    let ((), (mut raw, _)) = tokio::join!(
        async {
            let mut server = Impostor::accept(&listener).await;
            let proof = server.authenticate(password.expose()).await.unwrap();
            server.say(Authentication::SaslFinal(proof.as_bytes())).await;
            server.say(Authentication::Ok).await;
            let mut out = bytes::BytesMut::new();
            put_backend_key_data(&mut out, CancelKey { process_id: 1, secret: 1 });
            put_ready_for_query(&mut out, TransactionStatus::Idle);
            server.stream.write_all(&out).await.unwrap();
        },
        Raw::session(&world, &tenant)
    );
    assert_eq!(raw.refusal().await.0, "08006");
}
