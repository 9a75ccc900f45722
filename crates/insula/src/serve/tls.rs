//! TLS towards clients: certificate chains and keys from files in PEM, which
//! are read again when they change, and on SIGHUP. A pair that cannot be used
//! is said in the log, and the one before it stays.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context, anyhow};
use insula_pg_proxy::FrontTls;
use insula_settings::Tls;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Pause between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The certificates of this process, and from where new ones come.
#[derive(Debug, Default)]
pub struct Certificates {
    sources: Vec<Source>,
}

impl Certificates {
    /// TLS of the PostgreSQL front.
    pub fn front(&mut self, tls: Option<&Tls>) -> anyhow::Result<Option<FrontTls>> {
        let Some(tls) = tls else { return Ok(None) };
        let stamps = stamps(tls);
        let (config, certificate) = load(tls).and_then(front_config).context("pg.tls")?;
        let front = FrontTls::new(config, &certificate).context("pg.tls")?;
        self.sources.push(Source {
            key: "pg.tls",
            files: tls.clone(),
            stamps,
            user: User::Front(front.clone()),
        });
        Ok(Some(front))
    }

    /// TLS of HTTP.
    pub fn http(&mut self, tls: Option<&Tls>) -> anyhow::Result<Option<Arc<ServerConfig>>> {
        self.with_protocols("http.tls", tls, &[b"h2", b"http/1.1"])
    }

    /// TLS of the configuration service.
    pub fn config(&mut self, tls: Option<&Tls>) -> anyhow::Result<Option<Arc<ServerConfig>>> {
        self.with_protocols("config.tls", tls, &[b"h2"])
    }

    fn with_protocols(
        &mut self,
        key: &'static str,
        tls: Option<&Tls>,
        protocols: &[&[u8]],
    ) -> anyhow::Result<Option<Arc<ServerConfig>>> {
        let Some(tls) = tls else { return Ok(None) };
        let stamps = stamps(tls);
        let shown = Arc::new(Shown(RwLock::new(load(tls).context(key)?)));
        let mut config = configured(shown.clone()).context(key)?;
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        self.sources.push(Source { key, files: tls.clone(), stamps, user: User::Http(shown) });
        Ok(Some(Arc::new(config)))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Takes new certificates in until the token is cancelled: when the files
    /// have changed, and whenever it is asked to.
    pub async fn follow(mut self, mut asked: Signal, stop: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => false,
                asked = asked.recv() => asked.is_some(),
            };
            // The files may be on something slow.
            let looked = tokio::task::spawn_blocking(move || {
                self.look(is_asked);
                self
            });
            match looked.await {
                Ok(certificates) => self = certificates,
                Err(_) => return,
            }
        }
    }

    fn look(&mut self, is_asked: bool) {
        self.sources.iter_mut().for_each(|source| source.look(is_asked));
    }
}

/// The files of a certificate in use.
#[derive(Debug)]
struct Source {
    key: &'static str,
    files: Tls,
    /// Of the files before they were read.
    stamps: Stamps,
    user: User,
}

/// Who shows a certificate.
#[derive(Debug)]
enum User {
    Front(FrontTls),
    Http(Arc<Shown>),
}

impl Source {
    /// Takes the certificate in where the files have changed, or it is asked to.
    /// A pair that cannot be used is not looked at again before it changes.
    fn look(&mut self, is_asked: bool) {
        let stamps = stamps(&self.files);
        if stamps == self.stamps && !is_asked {
            return;
        }
        self.stamps = stamps;
        let key = self.key;
        match self.take() {
            Ok(()) => tracing::info!(key, "the certificate was read again"),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(key, error, "the new certificate cannot be used; the one before it stays");
            }
        }
    }

    fn take(&self) -> anyhow::Result<()> {
        let certified = load(&self.files)?;
        match &self.user {
            User::Front(front) => {
                let (config, certificate) = front_config(certified)?;
                front.replace(config, &certificate)?;
            }
            User::Http(shown) => shown.show(certified),
        }
        Ok(())
    }
}

/// What tells that a file is another one, or has another content. `None` where
/// it is not there.
type Stamp = Option<(u64, i64, i64, u64)>;

type Stamps = [Stamp; 2];

fn stamps(files: &Tls) -> Stamps {
    let of = |file: &Metadata| (file.ino(), file.ctime(), file.ctime_nsec(), file.len());
    [&files.cert_file, &files.key_file].map(|path| std::fs::metadata(path).as_ref().map(of).ok())
}

/// The certificate that new handshakes of HTTP show.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    fn show(&self, certified: Arc<CertifiedKey>) {
        // Nothing in here can be left half-changed by a panic.
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = certified;
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }
}

fn load(tls: &Tls) -> anyhow::Result<Arc<CertifiedKey>> {
    let unreadable = |file: &Path| format!("{} cannot be read", file.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&tls.cert_file)
        .and_then(Iterator::collect)
        .with_context(|| unreadable(&tls.cert_file))?;
    if chain.is_empty() {
        return Err(anyhow!("{} holds no certificate", tls.cert_file.display()));
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key_file).with_context(|| unreadable(&tls.key_file))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified =
        CertifiedKey::from_der(chain, key, &provider).context("the certificate and the key do not fit")?;
    Ok(Arc::new(certified))
}

/// A configuration of the front, which shows one certificate for ever.
fn front_config(
    certified: Arc<CertifiedKey>,
) -> anyhow::Result<(Arc<ServerConfig>, CertificateDer<'static>)> {
    let certificate = certified.cert.first().cloned().ok_or_else(|| anyhow!("there is no certificate"))?;
    let config = configured(Arc::new(SingleCertAndKey::from(certified)))?;
    Ok((Arc::new(config), certificate))
}

fn configured(resolver: Arc<dyn ResolvesServerCert>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        certificate: CertificateDer<'static>,
        certificate_pem: String,
        key_pem: String,
    }

    fn pair() -> Pair {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        Pair { certificate, certificate_pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem() }
    }

    /// Replaces a file as careful programs do, so that nobody sees half of it.
    fn put(file: &Path, content: &str) {
        let beside = file.with_extension("new");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, file).unwrap();
    }

    fn shown(certificates: &Certificates) -> CertificateDer<'static> {
        let User::Http(shown) = &certificates.sources[0].user else { panic!("of HTTP") };
        shown.0.read().unwrap().cert[0].clone()
    }

    #[test]
    fn changed_files_are_taken_and_broken_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let tls =
            Tls { cert_file: folder.path().join("server.crt"), key_file: folder.path().join("server.key") };
        let (old, new) = (pair(), pair());
        put(&tls.cert_file, &old.certificate_pem);
        put(&tls.key_file, &old.key_pem);
        let mut certificates = Certificates::default();
        certificates.http(Some(&tls)).unwrap();
        certificates.front(Some(&tls)).unwrap();

        // The key of another certificate, a file that is none, a file that is away.
        put(&tls.cert_file, &new.certificate_pem);
        certificates.look(false);
        assert_eq!(shown(&certificates), old.certificate);
        put(&tls.key_file, "nothing");
        certificates.look(false);
        assert_eq!(shown(&certificates), old.certificate);
        std::fs::remove_file(&tls.key_file).unwrap();
        certificates.look(true);
        assert_eq!(shown(&certificates), old.certificate);

        put(&tls.key_file, &new.key_pem);
        certificates.look(false);
        assert_eq!(shown(&certificates), new.certificate);
        // What has not changed is read when that is asked for, and only then.
        let User::Http(http) = &certificates.sources[0].user else { panic!("of HTTP") };
        let before = http.0.read().unwrap().clone();
        let http = http.clone();
        certificates.look(false);
        assert!(Arc::ptr_eq(&before, &http.0.read().unwrap()));
        certificates.look(true);
        assert!(!Arc::ptr_eq(&before, &http.0.read().unwrap()));
    }
}
