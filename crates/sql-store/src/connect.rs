//! One connection to a PostgreSQL server, by URL: over TCP, or by a Unix socket
//! where the host is the absolute path of its folder. Outside this machine it is
//! encrypted and the server's certificate is verified, whatever libpq would
//! do, unless the URL says `sslmode=disable`; every wait is bounded.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long the opening of a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection could not be opened.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The text is not a PostgreSQL URL. The text itself is not shown: it may hold a secret.
    #[error("the database URL is not valid")]
    Url(#[source] tokio_postgres::Error),
    /// The URL does not name one host, a user and a password.
    #[error("the database URL does not name one host, a user and a password")]
    Incomplete,
    /// The file of trusted certificates cannot be used.
    #[error("the file of trusted certificates cannot be read: {0}")]
    CaFile(String),
    /// TLS could not be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The server did not take the connection.
    #[error("no connection to {host}")]
    Refused {
        /// Host and port, without user and password.
        host: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server did not answer in time.
    #[error("no answer from {host} within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut {
        /// Host and port, without user and password.
        host: String,
    },
}

/// What a URL says, apart.
#[derive(Clone)]
pub struct UrlParts {
    /// Host name, address, or the absolute path of a socket's folder.
    pub host: String,
    /// The port, which a socket has in its name.
    pub port: u16,
    /// The role.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl std::fmt::Debug for UrlParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UrlParts({}@{}:{})", self.user, self.host, self.port)
    }
}

/// Where to connect to and how: a parsed URL and the trust for TLS.
#[derive(Clone)]
pub struct Connector {
    pub(crate) config: Config,
    pub(crate) tls: Option<MakeRustlsConnect>,
    trust: Option<Arc<ClientConfig>>,
}

/// What a connection needs that is made without the driver, which does not
/// speak PostgreSQL's replication protocol.
#[derive(Clone)]
pub struct Dial {
    /// Hosts, or absolute paths of sockets' folders, each with its port; to be
    /// tried in this order.
    pub hosts: Vec<(String, u16)>,
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Option<Vec<u8>>,
    /// The database.
    pub database: String,
    /// What to trust, where the connection is to be encrypted.
    pub tls: Option<Arc<ClientConfig>>,
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dial({}@{:?}/{})", self.user, self.hosts, self.database)
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connector({})", self.host())
    }
}

impl Connector {
    /// Reads a URL. `ca_file` adds trusted certificates in PEM to the public ones.
    ///
    /// # Errors
    /// Where the URL or the file is not valid.
    pub fn new(url: &str, ca_file: Option<&Path>) -> Result<Self, ConnectError> {
        let mut config: Config = url.parse().map_err(ConnectError::Url)?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("insula");
        }
        config.keepalives_idle(Duration::from_secs(30));
        let trust = match config.get_ssl_mode() {
            SslMode::Disable => None,
            // Nobody is in between, and PostgreSQL has no TLS there.
            _ if is_socket(&config) => {
                config.ssl_mode(SslMode::Disable);
                None
            }
            SslMode::Prefer if ca_file.is_none() && is_local(&config) => {
                config.ssl_mode(SslMode::Disable);
                None
            }
            _ => {
                config.ssl_mode(SslMode::Require);
                Some(Arc::new(tls_config(ca_file)?))
            }
        };
        let tls = trust.as_ref().map(|trust| MakeRustlsConnect::new(ClientConfig::clone(trust)));
        Ok(Self { config, tls, trust })
    }

    /// What a connection without the driver needs.
    #[must_use]
    pub fn dial(&self) -> Dial {
        let ports = self.config.get_ports();
        let host = |(number, host): (usize, &Host)| {
            let host = match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(folder) => folder.to_string_lossy().into_owned(),
            };
            (host, ports.get(number).or(ports.first()).copied().unwrap_or(5432))
        };
        let user = self.config.get_user().unwrap_or("postgres").to_owned();
        Dial {
            hosts: self.config.get_hosts().iter().enumerate().map(host).collect(),
            password: self.config.get_password().map(<[u8]>::to_vec),
            database: self.config.get_dbname().unwrap_or(&user).to_owned(),
            tls: self.trust.clone(),
            user,
        }
    }

    /// What a URL says, apart: one host or folder of a socket, a user and a password.
    ///
    /// # Errors
    /// Where the URL is not valid, or says less or more than that.
    pub fn parts(url: &str) -> Result<UrlParts, ConnectError> {
        let connector = Self::new(url, None)?;
        let config = &connector.config;
        let (Some(user), Some(password), [host]) =
            (config.get_user(), config.get_password(), config.get_hosts())
        else {
            return Err(ConnectError::Incomplete);
        };
        let host = match host {
            Host::Tcp(host) => Some(host.as_str()),
            Host::Unix(path) => path.to_str(),
        };
        let host = host.ok_or(ConnectError::Incomplete)?;
        let password = std::str::from_utf8(password).map_err(|_| ConnectError::Incomplete)?;
        Ok(UrlParts {
            host: host.to_owned(),
            port: config.get_ports().first().copied().unwrap_or(5432),
            user: user.to_owned(),
            password: password.to_owned(),
            tls: connector.tls.is_some(),
        })
    }

    /// The same server and user, another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        let mut other = self.clone();
        other.config.dbname(database);
        other
    }

    /// The same server, another role and database.
    #[must_use]
    pub fn with_role(&self, role: &str, password: &str, database: &str) -> Self {
        let mut other = self.with_database(database);
        other.config.user(role).password(password);
        other
    }

    /// The same, with another name among the server's sessions.
    #[must_use]
    pub fn named(&self, application_name: &str) -> Self {
        let mut other = self.clone();
        other.config.application_name(application_name);
        other
    }

    /// Host and port, without user and password, for messages.
    #[must_use]
    pub fn host(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        format!("{host}:{}", self.config.get_ports().first().copied().unwrap_or(5432))
    }

    /// Opens a connection and drives it in a task that ends with the client.
    ///
    /// # Errors
    /// Where the server refuses or does not answer in time.
    pub async fn connect(&self) -> Result<Client, ConnectError> {
        // In a box: whoever connects far below would outgrow a thread's stack.
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, Box::pin(self.open())).await;
        match opened {
            Ok(result) => result.map_err(|source| ConnectError::Refused { host: self.host(), source }),
            Err(_) => Err(ConnectError::TimedOut { host: self.host() }),
        }
    }

    async fn open(&self) -> Result<Client, tokio_postgres::Error> {
        match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                tokio::spawn(async move { log_end(connection.await) });
                Ok(client)
            }
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                tokio::spawn(async move { log_end(connection.await) });
                Ok(client)
            }
        }
    }
}

/// Whether there is nothing but Unix sockets to connect to.
fn is_socket(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) && !config.get_hosts().is_empty()
}

/// Whether the bytes stay on this machine: a socket file or the loopback.
fn is_local(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    })
}

fn log_end(end: Result<(), tokio_postgres::Error>) {
    if let Err(error) = end {
        tracing::debug!(%error, "a database connection ended");
    }
}

/// Opens one connection by URL.
///
/// # Errors
/// As [`Connector::new`] and [`Connector::connect`].
pub async fn connect(url: &str, ca_file: Option<&Path>) -> Result<Client, ConnectError> {
    Connector::new(url, ca_file)?.connect().await
}

fn tls_config(ca_file: Option<&Path>) -> Result<ClientConfig, ConnectError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| ConnectError::CaFile(error.to_string()))?;
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(ConnectError::CaFile("it holds no certificate".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ConnectError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_a_path_is_the_folder_of_a_socket_and_has_no_tls() {
        let url = "postgres://me:pw@%2Fsrv%2Finsula%2Fpg%2Fus-east-1-a:7441/postgres";
        for query in ["", "?sslmode=require", "?sslmode=disable"] {
            let parts = Connector::parts(&format!("{url}{query}")).unwrap();
            assert_eq!((parts.host.as_str(), parts.port), ("/srv/insula/pg/us-east-1-a", 7441));
            assert!(!parts.tls, "{query}");
        }
        let over_tcp = Connector::parts("postgres://me:pw@db.example:1/postgres?sslmode=require").unwrap();
        assert!(over_tcp.tls, "canary: elsewhere it is asked for");
        for wrong in ["postgres://me:pw@%2Fa,%2Fb/x", "postgres://me@%2Fa/x", "postgres:///x?user=me"] {
            assert!(Connector::parts(wrong).is_err(), "{wrong}");
        }
    }
}
