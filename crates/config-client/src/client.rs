//! What the application holds: reads, waiting for the first word, and being told
//! of changes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use insula_domain::Entropy;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::acknowledge::Acknowledgements;
use crate::builder::Builder;
use crate::changes::{Change, Changes};
use crate::dial::Dialer;
use crate::file::KeptFile;
use crate::follow::Follower;
use crate::keeper;
use crate::read::ReadError;
use crate::rules::Rules;
use crate::session::{Session, Watched};
use crate::shared::{Freshness, Origin, Shared, Standing};
use crate::typed::Typed;
use crate::value::Value;
use crate::view::View;

/// There are no values to begin with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no configuration yet: {0}")]
pub struct NotReady(String);

/// The configuration that a tenant sees, kept current. Its clones are the same
/// client; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    views: watch::Receiver<Arc<View>>,
    dialer: Dialer,
    scope: String,
    silence_max: Duration,
    stop: Arc<Notify>,
    session: AbortHandle,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.session.abort();
    }
}

/// What a client is made of.
pub(crate) struct Parts {
    pub watched: Watched,
    pub dialer: Dialer,
    pub file: Option<KeptFile>,
    pub rules: Rules,
    pub memory_bytes_max: usize,
    pub client_id: String,
    pub entropy: Arc<dyn Entropy>,
}

/// The view of the file, and what is wrong with the file.
async fn load(file: Option<KeptFile>) -> (View, Option<String>) {
    let Some(file) = file else { return (View::default(), None) };
    match tokio::task::spawn_blocking(move || file.load()).await {
        Ok(Ok(view)) => (view.unwrap_or_default(), None),
        Ok(Err(trouble)) => (View::default(), Some(trouble.to_string())),
        Err(error) => (View::default(), Some(error.to_string())),
    }
}

impl Client {
    /// A client of the service at a URL, with a tenant's API key (`isk_…`), or an
    /// operator's token and a [`Builder::scope`].
    pub fn builder(url: impl Into<String>, key: impl Into<String>) -> Builder {
        Builder::new(url, key)
    }

    pub(crate) async fn open(parts: Parts) -> Self {
        let (view, trouble) = load(parts.file.clone()).await;
        let view = Arc::new(view);
        let shared = Arc::new(Shared::new(Arc::clone(&view)));
        if let Some(trouble) = trouble {
            tracing::warn!(trouble, "the configuration of the last run cannot be used");
            shared.file_trouble.store(Some(Arc::new(trouble)));
        }
        let (sender, views) = watch::channel(Arc::clone(&view));
        let mut tasks = Vec::new();
        if let Some(file) = parts.file {
            let keeper = keeper::keep(file, views.clone(), Arc::clone(&shared), Arc::clone(&parts.entropy));
            tasks.push(tokio::spawn(keeper));
        }
        let (scope, silence_max) = (parts.watched.scope.clone(), parts.watched.silence_max);
        let session = Session {
            watched: parts.watched,
            dialer: parts.dialer.clone(),
            follower: Follower::new(view, parts.rules, parts.memory_bytes_max, parts.client_id),
            shared: Arc::clone(&shared),
            views: sender,
            words: Acknowledgements::default(),
            entropy: parts.entropy,
        };
        let stop = Arc::new(Notify::new());
        let session = tokio::spawn(session.run(Arc::clone(&stop)));
        let abort = session.abort_handle();
        tasks.push(session);
        let (dialer, tasks) = (parts.dialer, Mutex::new(tasks));
        Self(Arc::new(Inner { shared, views, dialer, scope, silence_max, stop, session: abort, tasks }))
    }

    /// Waits until the server's values are here, at the most for this time; where
    /// it does not come through, the values of the file will do, if there are any.
    ///
    /// # Errors
    /// Where there are no values at all by then; the text says why.
    pub async fn ready(&self, within: Duration) -> Result<Origin, NotReady> {
        let mut standings = self.0.shared.standing.subscribe();
        let waiting =
            standings.wait_for(|standing| matches!(standing, Standing::Following | Standing::Refused(_)));
        let _ = tokio::time::timeout(within, waiting).await;
        let why = match &*self.0.shared.standing.borrow() {
            Standing::Connecting | Standing::Following => "the server has not answered yet".to_owned(),
            Standing::Away(why) | Standing::Refused(why) => why.to_string(),
        };
        match self.0.shared.view.load().origin {
            Origin::Nothing => Err(NotReady(why)),
            origin => Ok(origin),
        }
    }

    /// All values at this moment, for reads that belong together.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.0.shared.view.load_full()
    }

    /// A value as it is.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<Arc<Value>> {
        self.0.shared.view.load().value(key).cloned()
    }

    /// A value as a type of the application's.
    ///
    /// # Errors
    /// Where there is none, or it does not fit; the error names the key.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T, ReadError> {
        self.0.shared.view.load().get(key)
    }

    /// As [`Client::get`], where there may be none.
    ///
    /// # Errors
    /// Where there is one that does not fit.
    pub fn find<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ReadError> {
        self.0.shared.view.load().find(key)
    }

    /// A key that is read often: its value is parsed once per version.
    #[must_use]
    pub fn typed<T: DeserializeOwned>(&self, key: &str) -> Typed<T> {
        Typed::new(Arc::clone(&self.0.shared), key)
    }

    /// How fresh the values are.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.0.shared.freshness(Instant::now())
    }

    /// Tells of changes under a prefix from now on.
    #[must_use]
    pub fn changes(&self, prefix: &str) -> Changes {
        Changes::new(self.0.views.clone(), prefix)
    }

    /// Calls back after each change under a prefix, one call after the other, until
    /// the client ends or the handle is told to abort. Must be called within a
    /// tokio runtime.
    pub fn on_change(&self, prefix: &str, callback: impl Fn(&Change) + Send + Sync + 'static) -> AbortHandle {
        let mut changes = self.changes(prefix);
        let telling = async move {
            while let Some(change) = changes.next().await {
                if catch_unwind(AssertUnwindSafe(|| callback(&change))).is_err() {
                    tracing::error!("a callback for changes of the configuration panicked");
                }
            }
        };
        tokio::spawn(telling).abort_handle()
    }

    /// Ends the client, with what it has in the file. What was read stays readable.
    pub async fn close(&self) {
        self.0.stop.notify_one();
        for task in self.0.tasks.lock().await.drain(..).rev() {
            let _ = task.await;
        }
        self.0.shared.standing.send_replace(Standing::Away("the client is closed".into()));
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    pub(crate) fn dialer(&self) -> &Dialer {
        &self.0.dialer
    }

    pub(crate) fn scope(&self) -> &str {
        &self.0.scope
    }

    pub(crate) fn silence_max(&self) -> Duration {
        self.0.silence_max
    }
}
