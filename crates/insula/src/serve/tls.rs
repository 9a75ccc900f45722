//! TLS towards clients: certificate chains and keys from files in PEM.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use insula_pg_proxy::FrontTls;
use insula_settings::Tls;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// TLS of the PostgreSQL front.
pub fn front(tls: Option<&Tls>) -> anyhow::Result<Option<FrontTls>> {
    let Some(tls) = tls else { return Ok(None) };
    let (mut config, certificate) = load(tls).context("pg.tls")?;
    // https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Some(FrontTls::new(Arc::new(config), &certificate).context("pg.tls")?))
}

/// TLS of HTTP.
pub fn http(tls: Option<&Tls>) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    let Some(tls) = tls else { return Ok(None) };
    let (mut config, _) = load(tls).context("http.tls")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

fn load(tls: &Tls) -> anyhow::Result<(ServerConfig, CertificateDer<'static>)> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&tls.cert_file)
        .and_then(Iterator::collect)
        .with_context(|| format!("{} cannot be read", tls.cert_file.display()))?;
    let first =
        chain.first().cloned().ok_or_else(|| anyhow!("{} holds no certificate", tls.cert_file.display()))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key_file)
        .with_context(|| format!("{} cannot be read", tls.key_file.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the certificate and the key do not fit")?;
    Ok((config, first))
}
