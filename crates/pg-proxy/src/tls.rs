//! TLS on both sides of the front, and the binding of SCRAM to it.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use insula_credentials::scram::{EndPoint, client_config_bound_later};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{Acceptor, NoServerSessionStorage};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};

/// The name of the protocol in TLS (ALPN), which a client has to offer that
/// begins with TLS at once, so that nobody can lead it to a server of another
/// protocol that trusts the same certificate.
/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>
const PROTOCOL: &[u8] = b"postgresql";

/// The alert `no_application_protocol` as a fatal one, before anything is
/// encrypted (RFC 8446 §5.1 and §6; RFC 7301 §3.2).
const NO_APPLICATION_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

/// TLS towards clients, with the certificate of the moment. Clones have the
/// same one.
#[derive(Clone)]
pub struct FrontTls {
    current: Arc<ArcSwap<Served>>,
}

/// A certificate with its key, and what SCRAM is bound to where it is shown.
struct Served {
    config: Arc<ServerConfig>,
    end_point: Arc<EndPoint>,
}

/// How a client came to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It asked for it.
    Asked,
    /// It began with it.
    Direct,
}

/// What a handshake has settled.
#[derive(Debug, Clone)]
pub(crate) struct Encryption {
    /// Of the certificate that this very handshake has shown.
    pub end_point: Arc<EndPoint>,
    /// The host name that the client has connected to, where it says so.
    pub host: Option<Box<str>>,
}

/// The front's certificate has a signature for which no channel binding is
/// defined (RFC 5929 §4.1), so `SCRAM-SHA-256-PLUS` could not be offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the certificate's signature algorithm has no hash of its own, so that channel binding is not \
     defined for it: use a certificate signed with RSA (PKCS #1) or ECDSA"
)]
pub struct NoChannelBinding;

impl FrontTls {
    /// TLS with a configuration that always presents `certificate`, the first
    /// of its chain. Sessions are not resumed, as in PostgreSQL, so that every
    /// handshake shows its certificate.
    ///
    /// # Errors
    /// [`NoChannelBinding`] where SCRAM cannot be bound to the certificate.
    pub fn new(
        config: Arc<ServerConfig>,
        certificate: &CertificateDer<'_>,
    ) -> Result<Self, NoChannelBinding> {
        let served = Served::new(config, certificate)?;
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(served)) })
    }

    /// Shows another certificate from the next handshake on. Sessions that are
    /// there, and handshakes that have begun, go on as they are.
    ///
    /// # Errors
    /// [`NoChannelBinding`], and everything is as it was.
    pub fn replace(
        &self,
        config: Arc<ServerConfig>,
        certificate: &CertificateDer<'_>,
    ) -> Result<(), NoChannelBinding> {
        self.current.store(Arc::new(Served::new(config, certificate)?));
        Ok(())
    }

    /// The handshake.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        way: Way,
    ) -> io::Result<(TlsStream<TcpStream>, Encryption)> {
        let served = self.current.load_full();
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        if way == Way::Direct && start.client_hello().alpn().is_none() {
            let mut stream = start.io;
            stream.write_all(&NO_APPLICATION_PROTOCOL).await?;
            stream.shutdown().await?;
            return Err(io::Error::other("a client began with TLS and did not name the protocol (ALPN)"));
        }
        let stream = start.into_stream(Arc::clone(&served.config)).await?;
        let host = stream.get_ref().1.server_name().map(Box::from);
        Ok((TlsStream::Server(stream), Encryption { end_point: Arc::clone(&served.end_point), host }))
    }
}

impl Served {
    fn new(config: Arc<ServerConfig>, certificate: &CertificateDer<'_>) -> Result<Self, NoChannelBinding> {
        let end_point = EndPoint::of_certificate(certificate).ok_or(NoChannelBinding)?;
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), end_point: Arc::new(end_point) })
    }
}

impl std::fmt::Debug for FrontTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrontTls").finish_non_exhaustive()
    }
}

/// TLS towards servers.
pub(crate) fn connector() -> Result<TlsConnector, rustls::Error> {
    Ok(TlsConnector::from(Arc::new(client_config_bound_later()?)))
}
