//! Follows the server: connects, watches, takes over what comes, and comes back
//! after every end of a stream, however it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use insula_config_proto::v1;
use insula_domain::Entropy;
use tokio::sync::{Notify, watch};
use tonic::{Code, Status, Streaming};

use crate::acknowledge::Acknowledgements;
use crate::backoff::Backoff;
use crate::dial::Dialer;
use crate::follow::{Fault, Follower, Step};
use crate::read::cut;
use crate::shared::{Shared, Standing};
use crate::view::View;

/// A server that does not want the client is asked again, but rarely.
const REFUSED: Backoff = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(60) };

/// A stream that held so long was a good one: the next failure is the first.
const STEADY: Duration = Duration::from_secs(5);

/// What is watched, and how.
#[derive(Debug)]
pub(crate) struct Watched {
    pub prefixes: Vec<String>,
    pub scope: String,
    pub reveal: bool,
    /// The longest time without a word that what is here is current.
    pub silence_max: Duration,
    pub backoff: Backoff,
}

/// The task that follows.
pub(crate) struct Session {
    pub watched: Watched,
    pub dialer: Dialer,
    pub follower: Follower,
    pub shared: Arc<Shared>,
    pub views: watch::Sender<Arc<View>>,
    pub words: Acknowledgements,
    pub entropy: Arc<dyn Entropy>,
}

/// Why a stream is over.
enum Ended {
    Refused(String),
    Away(String),
}

/// What the server says: with its stable code, or with gRPC's where it is not
/// Insula that speaks.
pub(crate) fn said(status: &Status) -> String {
    let code = status.metadata().get("insula-code").and_then(|code| code.to_str().ok());
    let words = cut(status.message());
    code.map_or_else(|| format!("{}: {words}", status.code()), |code| format!("{code}: {words}"))
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        let text = said(&status);
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied | Code::NotFound | Code::InvalidArgument => {
                Self::Refused(text)
            }
            _ => Self::Away(text),
        }
    }
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        Self::Away(fault.to_string())
    }
}

/// A random number.
pub(crate) fn random(entropy: &dyn Entropy) -> u64 {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

impl Session {
    pub(crate) async fn run(mut self, stop: Arc<Notify>) {
        let stopped = stop.notified();
        tokio::pin!(stopped);
        let mut failed = 0;
        loop {
            let begun = Instant::now();
            let ended = tokio::select! {
                () = &mut stopped => return,
                ended = self.follow() => ended,
            };
            if begun.elapsed() >= STEADY {
                failed = 0;
            }
            let delay = self.delay(&ended, failed);
            failed = failed.saturating_add(1);
            self.tell(ended);
            tokio::select! {
                () = &mut stopped => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    fn delay(&self, ended: &Ended, failed: u32) -> Duration {
        let backoff = match ended {
            Ended::Refused(_) => REFUSED,
            Ended::Away(_) => self.watched.backoff,
        };
        backoff.delay(failed, random(&*self.entropy))
    }

    fn tell(&self, ended: Ended) {
        self.shared.stub.store(None);
        let standing = match ended {
            Ended::Refused(why) => {
                tracing::warn!(why, "the configuration service does not let this client in");
                Standing::Refused(why.into())
            }
            Ended::Away(why) => {
                tracing::info!(why, "the configuration service is away; the last values stay");
                Standing::Away(why.into())
            }
        };
        self.shared.standing.send_replace(standing);
    }

    /// Follows one stream to its end.
    async fn follow(&mut self) -> Ended {
        match self.open().await {
            Ok((stub, stream)) => {
                self.shared.stub.store(Some(Arc::new(stub.clone())));
                let Self { watched, dialer, follower, shared, views, words, entropy } = self;
                let mut reading =
                    Reading { silence_max: watched.silence_max, follower, shared, views, words };
                tokio::select! {
                    ended = reading.read(stream) => ended,
                    never = words.say(stub, dialer, &watched.scope, &**entropy) => match never {},
                }
            }
            Err(ended) => ended,
        }
    }

    async fn open(&mut self) -> Result<(crate::dial::Stub, Streaming<v1::WatchEvent>), Ended> {
        let request = v1::WatchRequest {
            prefixes: self.watched.prefixes.clone(),
            from_revision: self.follower.begin(),
            scope: self.watched.scope.clone(),
            client_id: self.follower.client_id().to_owned(),
            reveal: self.watched.reveal,
            view: self.follower.mark().to_owned(),
        };
        let silent = |_| Ended::Away("the server does not answer".to_owned());
        let opening = async {
            let mut stub = self.dialer.connect().await.map_err(|error| Ended::Away(chain(&error)))?;
            let stream = stub.watch(self.dialer.request(request)).await?.into_inner();
            Ok((stub, stream))
        };
        tokio::time::timeout(self.watched.silence_max, opening).await.map_err(silent)?
    }
}

/// An error with what is behind it, cut.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = sources.map(ToString::to_string).collect();
    cut(&texts.join(": ")).to_owned()
}

/// Reads a stream.
struct Reading<'a> {
    silence_max: Duration,
    follower: &'a mut Follower,
    shared: &'a Shared,
    views: &'a watch::Sender<Arc<View>>,
    words: &'a Acknowledgements,
}

impl Reading<'_> {
    async fn read(&mut self, mut stream: Streaming<v1::WatchEvent>) -> Ended {
        let mut confirmed = tokio::time::Instant::now();
        loop {
            let event = match tokio::time::timeout_at(confirmed + self.silence_max, stream.message()).await {
                Err(_) => return Ended::Away("the server has fallen silent".to_owned()),
                Ok(Err(status)) => {
                    match status.code() {
                        _ if status.metadata().contains_key("insula-code") => {}
                        // Longer than is taken: it would come again.
                        Code::OutOfRange => self.follower.lose(),
                        Code::Internal | Code::DataLoss => self.follower.broke_off(),
                        _ => {}
                    }
                    return status.into();
                }
                Ok(Ok(None)) => return Ended::Away("the server has ended the stream".to_owned()),
                Ok(Ok(Some(event))) => event,
            };
            match self.follower.take(event, Instant::now()) {
                Err(fault) => return fault.into(),
                Ok(Step::Nothing) => continue,
                Ok(Step::Current) => self.shared.heard(self.follower.revision(), Instant::now()),
                Ok(Step::Changed(view, reports)) => {
                    self.shared.view.store(Arc::clone(&view));
                    // Whoever is told of the change finds it fresh.
                    self.shared.heard(self.follower.revision(), Instant::now());
                    self.views.send_replace(view);
                    self.words.add(self.follower.revision(), self.follower.client_id(), reports);
                }
            }
            confirmed = tokio::time::Instant::now();
        }
    }
}
