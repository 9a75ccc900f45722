//! What an application says when it opens a client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use insula_domain::{Entropy, OsEntropy};
use serde::de::DeserializeOwned;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::backoff::Backoff;
use crate::client::{Client, Parts};
use crate::dial::Dialer;
use crate::file::{KeptFile, whose};
use crate::read;
use crate::rules::{Proposal, Rules};
use crate::session::Watched;

/// The most prefixes that the service watches for one client.
const PREFIXES_MAX: usize = 20;

/// Options that make no client.
#[derive(Debug, Error)]
pub enum InvalidOptions {
    /// The address is no URL of the service.
    #[error("{0:?} is no URL of a configuration service: it is https://host:port")]
    Url(String),
    /// The key would travel in clear.
    #[error("the key would be sent to {0} in clear; use https, or allow plain text")]
    PlainText(String),
    /// The key has characters that no key has.
    #[error("the key is not valid")]
    Key,
    /// The certificates cannot be used.
    #[error("the certificates cannot be used")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More prefixes than the service watches for one client.
    #[error("{0} prefixes are watched, and 20 are the most")]
    Prefixes(usize),
    /// A time or a size that cannot be kept to.
    #[error("{0} is not possible")]
    Bounds(&'static str),
    /// There is no tokio runtime here.
    #[error("the client needs a tokio runtime with time and I/O")]
    NoRuntime,
}

/// Opens a client.
#[must_use]
pub struct Builder {
    url: String,
    key: Zeroizing<String>,
    ca_pem: Option<Vec<u8>>,
    allow_plain_text: bool,
    prefixes: Vec<String>,
    scope: String,
    client_id: String,
    reveal: bool,
    silence_max: Duration,
    retry_max: Duration,
    memory_bytes_max: usize,
    rules: Rules,
    file: Option<PathBuf>,
    secrets_on_disk: bool,
    entropy: Arc<dyn Entropy>,
}

impl Builder {
    pub(crate) fn new(url: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            key: Zeroizing::new(key.into()),
            ca_pem: None,
            allow_plain_text: false,
            prefixes: Vec::new(),
            scope: String::new(),
            client_id: String::new(),
            reveal: false,
            silence_max: Duration::from_secs(35),
            retry_max: Duration::from_secs(15),
            memory_bytes_max: 64 << 20,
            rules: Rules::default(),
            file: None,
            secrets_on_disk: false,
            entropy: Arc::new(OsEntropy),
        }
    }

    /// Watches the keys that begin with this, too; without any, all.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefixes.push(prefix.into());
        self
    }

    /// Whom the values are for, where the key is an operator's: `tenant/<slug or id>`.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = scope.into();
        self
    }

    /// Who this client is in the view of who runs what: 100 bytes at the most,
    /// for example the name of the service and of the machine. Without, the
    /// service gives it a name.
    pub fn client_id(mut self, name: impl Into<String>) -> Self {
        self.client_id = name.into();
        self
    }

    /// The certificates, in PEM, of who signs the service's certificate; without,
    /// those that browsers trust.
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// Lets the key travel in clear to another machine.
    pub fn allow_plain_text(mut self) -> Self {
        self.allow_plain_text = true;
        self
    }

    /// Asks for secrets in clear, which the service writes down.
    pub fn reveal_secrets(mut self) -> Self {
        self.reveal = true;
        self
    }

    /// Keeps the last good values in a file (readable by its owner alone), for a
    /// start while the service is away. Secrets are not in it. Its folder has to
    /// be there.
    pub fn keep_on_disk(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Keeps secrets in the file, too, in clear.
    pub fn keep_secrets_on_disk(mut self) -> Self {
        self.secrets_on_disk = true;
        self
    }

    /// Asks for each new value, and each removal, of keys that begin so whether the
    /// application can use it. What is refused is reported to the service, and the
    /// last good value stays in use.
    pub fn validator(
        mut self,
        prefix: impl Into<String>,
        check: impl Fn(&Proposal<'_>) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.rules.add(prefix.into(), false, Arc::new(check));
        self
    }

    /// Refuses values of a key that cannot be read as this type.
    pub fn must_fit<T: DeserializeOwned>(mut self, key: impl Into<String>) -> Self {
        let check = |proposal: &Proposal<'_>| match proposal.new {
            Some(new) => read::parse::<T>(new).map(drop).map_err(|error| error.to_string()),
            None => Ok(()),
        };
        self.rules.add(key.into(), true, Arc::new(check));
        self
    }

    /// How long the service may say nothing before the client connects anew (35 s;
    /// it says something every 10 s).
    pub fn silence_max(mut self, time: Duration) -> Self {
        self.silence_max = time;
        self
    }

    /// The longest time between two tries to connect (15 s).
    pub fn retry_max(mut self, time: Duration) -> Self {
        self.retry_max = time;
        self
    }

    /// The most that values may take in memory, in bytes (64 MiB). Where there is
    /// more, the last values that were less stay, and the client says so.
    pub fn memory_bytes_max(mut self, bytes: usize) -> Self {
        self.memory_bytes_max = bytes;
        self
    }

    /// Where random numbers come from.
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Opens the client, with the values of the file where one is kept. It does
    /// not wait for the service; see [`Client::ready`].
    ///
    /// # Errors
    /// Where the options make no client. A service that is away is no error.
    pub async fn start(self) -> Result<Client, InvalidOptions> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(InvalidOptions::NoRuntime);
        }
        if self.prefixes.len() > PREFIXES_MAX {
            return Err(InvalidOptions::Prefixes(self.prefixes.len()));
        }
        if self.client_id.len() > 100 {
            return Err(InvalidOptions::Bounds("a client's name of more than 100 bytes"));
        }
        if self.silence_max.is_zero() || self.retry_max.is_zero() || self.memory_bytes_max == 0 {
            return Err(InvalidOptions::Bounds("a bound of nothing"));
        }
        let dialer = Dialer::new(&self.url, &self.key, self.ca_pem.as_deref(), self.allow_plain_text)?;
        let file = self.file.map(|path| KeptFile {
            path,
            secrets: self.secrets_on_disk,
            whose: whose(&self.key, &self.scope, &self.prefixes),
            bytes_max: self.memory_bytes_max,
        });
        let watched = Watched {
            prefixes: self.prefixes,
            scope: self.scope,
            reveal: self.reveal,
            silence_max: self.silence_max,
            backoff: Backoff { first: Duration::from_millis(200).min(self.retry_max), max: self.retry_max },
        };
        let parts = Parts {
            watched,
            dialer,
            file,
            rules: self.rules,
            memory_bytes_max: self.memory_bytes_max,
            client_id: self.client_id,
            entropy: self.entropy,
        };
        Ok(Client::open(parts).await)
    }
}
