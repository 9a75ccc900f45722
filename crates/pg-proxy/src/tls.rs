//! TLS on both sides of the front, and the binding of SCRAM to it.

use std::sync::Arc;

use insula_credentials::scram::EndPoint;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use thiserror::Error;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// TLS towards clients.
#[derive(Clone)]
pub struct FrontTls {
    acceptor: TlsAcceptor,
    end_point: EndPoint,
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
    /// of its chain.
    ///
    /// # Errors
    /// [`NoChannelBinding`] where SCRAM cannot be bound to the certificate.
    pub fn new(
        config: Arc<ServerConfig>,
        certificate: &CertificateDer<'_>,
    ) -> Result<Self, NoChannelBinding> {
        let end_point = EndPoint::of_certificate(certificate).ok_or(NoChannelBinding)?;
        Ok(Self { acceptor: TlsAcceptor::from(config), end_point })
    }

    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    pub(crate) fn end_point(&self) -> &EndPoint {
        &self.end_point
    }
}

impl std::fmt::Debug for FrontTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrontTls").finish_non_exhaustive()
    }
}

/// TLS towards servers. Sessions are not resumed, so that every handshake
/// shows the server's certificate.
pub(crate) fn connector() -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(BoundByScram { provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes every certificate whose key the server proves to have. That it is the
/// right server's certificate is proved afterwards, by an authentication that
/// is bound to it (`SCRAM-SHA-256-PLUS`, which the backend insists on): only
/// who knows the role's verifier can finish that for this very certificate. So
/// no authority has to be trusted, and no name has to fit.
#[derive(Debug)]
struct BoundByScram {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for BoundByScram {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
