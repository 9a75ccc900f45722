//! Clients that begin with TLS at once, as PostgreSQL 17's do with
//! `sslnegotiation=direct`, and what has to be agreed upon there.

use std::path::Path;
use std::sync::Arc;

use insula_pg_proxy::PgProxyConfig;
use insula_pg_wire::startup::put_ssl_request;
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::raw::Raw;
use crate::support::{PATIENCE, World, one};
use crate::tls::{certificate, client_config};

/// A client's TLS that offers these protocols.
fn offering(trusted: &CertificateDer<'static>, protocols: &[&str]) -> ClientConfig {
    let mut config = client_config(trusted);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// Connects and shakes hands, having asked first or not.
async fn shake_hands(
    world: &World,
    config: ClientConfig,
    asks: bool,
) -> Result<TlsStream<TcpStream>, std::io::Error> {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    if asks {
        let mut request = bytes::BytesMut::new();
        put_ssl_request(&mut request);
        stream.write_all(&request).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'S');
    }
    let handshake = TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream);
    timeout(PATIENCE, handshake).await.expect("the handshake ends")
}

/// The alert with which a handshake was refused.
fn alert(error: &std::io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[tokio::test]
async fn clients_may_begin_with_tls() {
    let certificate = certificate();
    let world = World::start_with(PgProxyConfig::default(), Some(certificate.front.clone())).await;
    let tenant = world.tenant("acme").await;
    for negotiation in [SslNegotiation::Direct, SslNegotiation::Postgres] {
        let mut config = Config::new();
        config.host("localhost").hostaddr("127.0.0.1".parse().unwrap()).port(world.address.port());
        config.user("acme").password(&tenant.secret).dbname("app");
        config
            .ssl_mode(SslMode::Require)
            .ssl_negotiation(negotiation)
            .channel_binding(ChannelBinding::Require);
        let tls = || MakeRustlsConnect::new(offering(&certificate.der, &["postgresql"]));
        let (client, connection) = config.connect(tls()).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        assert_eq!(one(&client, "show insula.tenant").await, "acme");
        assert_eq!(one(&client, "select repeat('y', 3000000)").await.len(), 3_000_000);
        let cancel = client.cancel_token();
        let (slept, ()) = tokio::join!(client.batch_execute("select pg_sleep(600)"), async {
            world.until_backends(&tenant, "wait_event = 'PgSleep'", 1).await;
            cancel.cancel_query(tls()).await.unwrap();
        });
        assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
    }
}

#[tokio::test]
async fn who_begins_with_tls_has_to_name_the_protocol() {
    let certificate = certificate();
    let world = World::start_with(PgProxyConfig::default(), Some(certificate.front.clone())).await;
    // What is offered, and whether it serves one who asks first, and one who does not.
    let cases: [(&[&str], bool, bool); 4] = [
        (&["postgresql"], true, true),
        (&["http/1.1", "postgresql"], true, true),
        (&[], true, false),
        (&["http/1.1"], false, false),
    ];
    for (offered, when_asked, directly) in cases {
        for (asks, is_taken) in [(true, when_asked), (false, directly)] {
            match shake_hands(&world, offering(&certificate.der, offered), asks).await {
                Ok(stream) => {
                    assert!(is_taken, "{offered:?} {asks}");
                    let expected = (!offered.is_empty()).then_some(&b"postgresql"[..]);
                    assert_eq!(stream.get_ref().1.alpn_protocol(), expected, "{offered:?} {asks}");
                }
                Err(error) => {
                    assert!(!is_taken, "{offered:?} {asks}: {error}");
                    assert_eq!(
                        alert(&error),
                        Some(AlertDescription::NoApplicationProtocol),
                        "{offered:?} {asks}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn encryption_is_not_asked_for_within_tls() {
    let certificate = certificate();
    let world = World::start_with(PgProxyConfig::default(), Some(certificate.front.clone())).await;
    let mut stream = shake_hands(&world, offering(&certificate.der, &["postgresql"]), false).await.unwrap();
    let mut request = bytes::BytesMut::new();
    put_ssl_request(&mut request);
    stream.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the front hangs up").unwrap();
    assert_eq!(answer.first(), Some(&b'E'));
    assert!(String::from_utf8_lossy(&answer).contains("asked for twice"));
}

#[tokio::test]
async fn without_a_certificate_there_is_no_handshake() {
    let world = World::start().await;
    let mut raw = Raw::connect(&world).await;
    raw.send(&[22, 3, 1, 2, 0, 1]).await;
    assert_eq!(raw.refusal().await.0, "08P01");
}

/// libpq as psycopg brings it, of PostgreSQL 18: `make deps` sets it up.
const LIBPQ: &str = "
import sys, psycopg
assert psycopg.pq.version() >= 170000, psycopg.pq.version()
with psycopg.connect(sys.argv[1]) as connection:
    print(connection.execute('show insula.tenant').fetchone()[0])
";

#[tokio::test]
async fn libpq_begins_with_tls_and_binds_to_it() {
    let certificate = certificate();
    let world = World::start_with(PgProxyConfig::default(), Some(certificate.front.clone())).await;
    let tenant = world.tenant("acme").await;
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    assert!(python.exists(), "{} is not there: make deps sets it up", python.display());
    for negotiation in ["direct", "postgres"] {
        let url = format!(
            "{}?sslmode=require&sslnegotiation={negotiation}&channel_binding=require",
            world.url(&tenant)
        );
        let output = Command::new(&python).args(["-c", LIBPQ, &url]).output().await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.stdout, output.status.success()),
            (b"acme\n".to_vec(), true),
            "{negotiation}: {error}"
        );
    }
}
