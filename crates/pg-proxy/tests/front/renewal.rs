//! A certificate that is replaced while the front runs.

use std::sync::Arc;

use bytes::BytesMut;
use insula_credentials::Secret;
use insula_credentials::scram::{EndPoint, ScramClient};
use insula_domain::OsEntropy;
use insula_pg_proxy::PgProxyConfig;
use insula_pg_wire::backend::{Authentication, tag};
use insula_pg_wire::startup::put_session_start;
use insula_pg_wire::{Message, frontend, read_message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Tenant, World, one};
use crate::tls::{Certificate, certificate, client_config};

/// A session that trusts one certificate, and is bound to it.
async fn bound(
    world: &World,
    tenant: &Tenant,
    trusted: &Certificate,
    negotiation: SslNegotiation,
) -> Result<Client, Error> {
    let mut tls = client_config(&trusted.der);
    tls.alpn_protocols = vec![b"postgresql".to_vec()];
    let mut config = Config::new();
    config.host("localhost").hostaddr("127.0.0.1".parse().unwrap()).port(world.address.port());
    config.user("acme").password(&tenant.secret).dbname("app");
    config.ssl_mode(SslMode::Require).ssl_negotiation(negotiation).channel_binding(ChannelBinding::Require);
    let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// A connection after its handshake, before anything is said.
struct Shaken {
    stream: TlsStream<TcpStream>,
    inbox: BytesMut,
}

impl Shaken {
    async fn hands(world: &World, trusted: &Certificate) -> Self {
        let mut tls = client_config(&trusted.der);
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
        let stream = TcpStream::connect(world.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(tls));
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        Self { stream, inbox: BytesMut::new() }
    }

    async fn say(&mut self, put: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        put(&mut out);
        self.stream.write_all(&out).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn hear(&mut self) -> Message {
        loop {
            if let Some(message) = read_message(&mut self.inbox, 100_000).unwrap() {
                return message;
            }
            assert_ne!(self.stream.read_buf(&mut self.inbox).await.unwrap(), 0, "the front hung up");
        }
    }

    /// Authenticates, bound to a certificate; the type of the front's answer to
    /// the proof.
    async fn authenticate(mut self, tenant: &Tenant, bound_to: &Certificate) -> u8 {
        let parameters: [(&[u8], &[u8]); 2] = [(b"user", b"acme"), (b"database", b"app")];
        self.say(|out| put_session_start(out, &parameters).unwrap()).await;
        assert_eq!(self.hear().await.tag, tag::AUTHENTICATION);
        let end_point = EndPoint::of_certificate(&bound_to.der).unwrap();
        let client = ScramClient::new(Secret::new(tenant.secret.clone()), Some(end_point), &OsEntropy);
        let first = client.first_message();
        self.say(|out| {
            frontend::put_sasl_initial_response(out, "SCRAM-SHA-256-PLUS", first.as_bytes()).unwrap();
        })
        .await;
        let message = self.hear().await;
        let Ok(Authentication::SaslContinue(server_first)) = Authentication::from_body(&message.body) else {
            panic!("{message:?}")
        };
        let (_, last) = client.server_first(server_first).unwrap();
        self.say(|out| frontend::put_sasl_response(out, last.as_bytes())).await;
        self.hear().await.tag
    }
}

#[tokio::test]
async fn new_handshakes_show_the_new_certificate_and_sessions_go_on() {
    let (old, new) = (certificate(), certificate());
    let world = World::start_with(PgProxyConfig::default(), Some(old.front.clone())).await;
    let tenant = world.tenant("acme").await;
    let both = [SslNegotiation::Postgres, SslNegotiation::Direct];
    let mut sessions = Vec::new();
    for negotiation in both {
        sessions.push(bound(&world, &tenant, &old, negotiation).await.unwrap());
        assert!(bound(&world, &tenant, &new, negotiation).await.is_err(), "the canary");
    }
    old.front.replace(Arc::clone(&new.config), &new.der).unwrap();
    for negotiation in both {
        let session = bound(&world, &tenant, &new, negotiation).await.unwrap();
        assert_eq!(one(&session, "show insula.tenant").await, "acme");
        assert!(bound(&world, &tenant, &old, negotiation).await.is_err());
    }
    for session in sessions {
        assert_eq!(one(&session, "select 'goes on'").await, "goes on");
    }
}

#[tokio::test]
async fn an_authentication_is_bound_to_the_certificate_of_its_own_handshake() {
    let (old, new) = (certificate(), certificate());
    let world = World::start_with(PgProxyConfig::default(), Some(old.front.clone())).await;
    let tenant = world.tenant("acme").await;
    let (first, second) = (Shaken::hands(&world, &old).await, Shaken::hands(&world, &old).await);
    old.front.replace(Arc::clone(&new.config), &new.der).unwrap();
    let third = Shaken::hands(&world, &new).await;
    assert_eq!(first.authenticate(&tenant, &old).await, tag::AUTHENTICATION);
    // The canary: bound to another certificate than the one that was shown.
    assert_eq!(second.authenticate(&tenant, &new).await, tag::ERROR_RESPONSE);
    assert_eq!(third.authenticate(&tenant, &new).await, tag::AUTHENTICATION);
}
