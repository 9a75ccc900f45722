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
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::raw::Raw;
use crate::support::{Tenant, World, one, pair, psql_program, refused};

pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub struct Certificate {
    pub der: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: String,
    pub front: FrontTls,
    pub config: Arc<ServerConfig>,
    acceptor: TlsAcceptor,
}

/// The plain host, and those of tenants.
const NAMES: [&str; 2] = ["localhost", "*.db.example.com"];

pub fn certificate() -> Certificate {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(NAMES.map(str::to_owned)).unwrap();
    let der = cert.der().clone();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key)
        .unwrap();
    let config = Arc::new(config);
    Certificate {
        certificate_pem: cert.pem(),
        key_pem: signing_key.serialize_pem(),
        front: FrontTls::new(Arc::clone(&config), &der).unwrap(),
        acceptor: TlsAcceptor::from(Arc::clone(&config)),
        config,
        der,
    }
}

pub fn client_tls(trusted: &CertificateDer<'static>) -> MakeRustlsConnect {
    MakeRustlsConnect::new(client_config(trusted))
}

pub fn client_config(trusted: &CertificateDer<'static>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
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

/// A server with the tenant's role and database, and TLS with a certificate.
pub async fn tls_server(world: &World, tenant: &Tenant, certificate: &Certificate) -> TestServer {
    let mut server = TestServer::start().await;
    let admin = server.connect("postgres").await;
    let placement = tenant.route.placement.as_ref().unwrap();
    let password = world.keys.role_password(tenant.id, false, world.keys.current_generation()).unwrap();
    let verifier = ScramVerifier::for_random_secret(&password, &OsEntropy).to_text();
    let role = &placement.role;
    admin.batch_execute(&format!("create role {role} login password '{verifier}'")).await.unwrap();
    admin.batch_execute(&format!("create database {}", placement.database)).await.unwrap();
    let folder: String = admin.query_one("show data_directory", &[]).await.unwrap().get(0);
    hand_over(Path::new(&folder), "server.crt", &certificate.certificate_pem);
    hand_over(Path::new(&folder), "server.key", &certificate.key_pem);
    admin.batch_execute("alter system set ssl = on").await.unwrap();
    drop(admin);
    server.start_again().await;
    server
}

fn at(world: &World, port: u16, tls: bool) -> Rows {
    Rows { endpoints: vec![world.endpoint("localhost", port, tls)], ..Rows::default() }
}

const ENCRYPTED: &str = "select ssl::text from pg_stat_ssl where pid = pg_backend_pid()";

#[tokio::test]
async fn backends_use_tls_where_the_endpoint_says_so() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let server = tls_server(&world, &tenant, &certificate()).await;
    world.push(at(&world, server.port(), false));
    assert_eq!(one(&world.connect(&tenant).await, ENCRYPTED).await, "false");
    world.push(at(&world, server.port(), true));
    let client = world.connect(&tenant).await;
    assert_eq!(one(&client, ENCRYPTED).await, "true");
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

/// Stands between the front and a server: ends the front's TLS with a
/// certificate, and has TLS of its own with the server, or none.
async fn stand_between(
    listener: &TcpListener,
    certificate: &Certificate,
    port: u16,
    server: Option<&Certificate>,
) {
    let (mut front, _) = listener.accept().await.unwrap();
    let mut request = [0; 8];
    front.read_exact(&mut request).await.unwrap();
    front.write_all(b"S").await.unwrap();
    let Ok(mut front) = certificate.acceptor.accept(front).await else { return };
    let mut behind = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    match server {
        None => drop(copy_bidirectional(&mut front, &mut behind).await),
        Some(server) => {
            behind.write_all(&request).await.unwrap();
            behind.read_exact(&mut [0]).await.unwrap();
            let connector = TlsConnector::from(Arc::new(client_config(&server.der)));
            let mut behind = connector.connect("localhost".try_into().unwrap(), behind).await.unwrap();
            drop(copy_bidirectional(&mut front, &mut behind).await);
        }
    }
}

#[tokio::test]
async fn nobody_in_between_can_pass_the_servers_proof_on() {
    let (real, other) = (certificate(), certificate());
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let server = tls_server(&world, &tenant, &real).await;
    let listener = TcpListener::bind(("localhost", 0)).await.unwrap();
    world.push(at(&world, listener.local_addr().unwrap().port(), true));
    // The canary: who has the server's own certificate is the server.
    let asked = async { one(&world.connect(&tenant).await, "select 1::text").await };
    tokio::select! {
        () = stand_between(&listener, &real, server.port(), Some(&real)) => panic!("the relay ended"),
        answer = asked => assert_eq!(answer, "1"),
    }
    for behind in [Some(&real), None] {
        let between = stand_between(&listener, &other, server.port(), behind);
        let config = world.config(&tenant);
        let ((), found) = tokio::join!(between, refused(&config));
        assert_eq!(found, pair("57P03", "placement_unavailable"));
    }
    // Nor is a server taken that has no TLS where the endpoint says that it has.
    let plain: tokio_postgres::Config = insula_testkit::postgres().await.url("postgres").parse().unwrap();
    world.push(at(&world, plain.get_ports()[0], true));
    assert_eq!(refused(&world.config(&tenant)).await, pair("57P03", "placement_unavailable"));
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

    /// Says all that a server says after it has let somebody in.
    async fn greet(&mut self) {
        let mut out = bytes::BytesMut::new();
        put_backend_key_data(&mut out, &CancelKey { process_id: 1, secret: [1; 4].into() });
        put_ready_for_query(&mut out, TransactionStatus::Idle);
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
                let asks = eager != Authentication::Ok;
                impostor.say(eager).await;
                if asks {
                    impostor.say(Authentication::Ok).await;
                }
                impostor.greet().await;
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
            impostor.say(Authentication::Ok).await;
            impostor.greet().await;
            assert!(impostor.was_left().await);
        },
        refused(&config)
    );
    assert_eq!(found, pair("57P03", "placement_unavailable"));
}

#[tokio::test]
async fn a_server_that_dies_without_a_word_is_reported_by_the_front() {
    let world = World::start_in_session_mode().await;
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
            server.greet().await;
        },
        Raw::session(&world, &tenant)
    );
    assert_eq!(raw.refusal().await.0, "08006");
}
