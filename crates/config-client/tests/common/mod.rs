//! A server that says what a test tells it to say, in whatever order, and writes
//! down what it is asked. It knows nothing of configuration.

#![allow(clippy::expect_used, clippy::unwrap_used)] // fails as tests do

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::Stream;
use insula_config::{Builder, Client};
use insula_config_proto::v1::config_server::{Config, ConfigServer};
use insula_config_proto::v1::watch_event::{Delta, Event, Heartbeat, Snapshot};
use insula_config_proto::v1::*;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

pub const KEY: &str = "isk_test";

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

type Said = Result<WatchEvent, Status>;

/// A stream that a client has opened: what it asked, and what it is to be told.
pub struct Opened {
    pub request: WatchRequest,
    pub authorization: String,
    say: mpsc::UnboundedSender<Said>,
}

impl Opened {
    pub fn say(&self, event: Event) {
        // A client that has had enough is gone already.
        let _ = self.say.send(Ok(WatchEvent { event: Some(event) }));
    }

    pub fn fail(&self, status: Status) {
        let _ = self.say.send(Err(status));
    }

    /// Waits until the client has given this stream up.
    pub async fn given_up(&self) {
        tokio::time::timeout(PATIENCE, self.say.closed()).await.expect("the client gives the stream up");
    }
}

pub struct Fake {
    opened: mpsc::UnboundedSender<Opened>,
    acknowledged: mpsc::UnboundedSender<AcknowledgeRequest>,
    /// What the next stream is refused with.
    refuse: Arc<Mutex<Option<Status>>>,
    /// What the next acknowledgement is refused with.
    refuse_words: Arc<Mutex<Option<Status>>>,
    blob: Arc<Mutex<Vec<u8>>>,
}

/// The test's end of it.
pub struct Script {
    pub address: SocketAddr,
    pub refuse: Arc<Mutex<Option<Status>>>,
    pub refuse_words: Arc<Mutex<Option<Status>>>,
    pub blob: Arc<Mutex<Vec<u8>>>,
    opened: mpsc::UnboundedReceiver<Opened>,
    acknowledged: mpsc::UnboundedReceiver<AcknowledgeRequest>,
    scheme: &'static str,
    server: JoinHandle<()>,
}

impl Drop for Script {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Script {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    pub async fn start_with(tls: Option<Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened_in, opened) = mpsc::unbounded_channel();
        let (acknowledged_in, acknowledged) = mpsc::unbounded_channel();
        let (refuse, blob) = (Arc::<Mutex<Option<Status>>>::default(), Arc::<Mutex<Vec<u8>>>::default());
        let refuse_words = Arc::<Mutex<Option<Status>>>::default();
        let fake = Fake {
            opened: opened_in,
            acknowledged: acknowledged_in,
            refuse: Arc::clone(&refuse),
            refuse_words: Arc::clone(&refuse_words),
            blob: Arc::clone(&blob),
        };
        let mut server = Server::builder();
        let scheme = if tls.is_some() { "https" } else { "http" };
        if let Some(identity) = tls {
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let serving =
            server.add_service(ConfigServer::new(fake)).serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, refuse, refuse_words, blob, opened, acknowledged, scheme, server }
    }

    pub fn builder(&self) -> Builder {
        Client::builder(format!("{}://localhost:{}", self.scheme, self.address.port()), KEY)
            .client_id("me")
            .retry_max(Duration::from_millis(100))
    }

    /// The next stream that the client opens.
    pub async fn opened(&mut self) -> Opened {
        tokio::time::timeout(PATIENCE, self.opened.recv()).await.expect("the client comes").unwrap()
    }

    pub async fn acknowledged(&mut self) -> AcknowledgeRequest {
        tokio::time::timeout(PATIENCE, self.acknowledged.recv()).await.expect("the client says so").unwrap()
    }
}

pub fn entry(key: &str, version: i64, json: &str) -> Entry {
    Entry {
        key: key.to_owned(),
        scope: "tenant/x".to_owned(),
        version,
        revision: version,
        value: Some(entry::Value::Json(json.to_owned().into())),
        ..Entry::default()
    }
}

pub fn snapshot(revision: i64, entries: Vec<Entry>) -> Event {
    Event::Snapshot(Snapshot { revision, entries, view: "here".to_owned(), ..Snapshot::default() })
}

pub fn delta(since: i64, revision: i64, entries: Vec<Entry>, removed: &[&str]) -> Event {
    let removed = removed.iter().map(|key| (*key).to_owned()).collect();
    Event::Delta(Delta { revision, entries, removed, since })
}

pub fn heartbeat(revision: i64) -> Event {
    Event::Heartbeat(Heartbeat { revision, ..Heartbeat::default() })
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the client does not ask this"))
}

#[tonic::async_trait]
impl Config for Fake {
    type WatchStream = UnboundedReceiverStream<Said>;
    type FetchStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if let Some(status) = self.refuse.lock().unwrap().take() {
            return Err(status);
        }
        let authorization = request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        let (say, saying) = mpsc::unbounded_channel();
        let _ = self.opened.send(Opened { request: request.into_inner(), authorization, say });
        Ok(Response::new(UnboundedReceiverStream::new(saying)))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        let _ = self.acknowledged.send(request.into_inner());
        if let Some(status) = self.refuse_words.lock().unwrap().take() {
            return Err(status);
        }
        Ok(Response::new(AcknowledgeResponse {}))
    }

    async fn fetch(&self, _: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let bytes = self.blob.lock().unwrap().clone();
        let chunks: Vec<_> =
            bytes.chunks(1_000).map(|bytes| Ok(Chunk { bytes: bytes.to_vec().into() })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        unused()
    }
    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        unused()
    }
    async fn put(&self, _: Request<PutRequest>) -> Result<Response<Written>, Status> {
        unused()
    }
    async fn remove(&self, _: Request<RemoveRequest>) -> Result<Response<Written>, Status> {
        unused()
    }
    async fn transact(&self, _: Request<TransactRequest>) -> Result<Response<TransactResponse>, Status> {
        unused()
    }
    async fn history(&self, _: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        unused()
    }
    async fn rollback(&self, _: Request<RollbackRequest>) -> Result<Response<Written>, Status> {
        unused()
    }
    async fn label(&self, _: Request<LabelRequest>) -> Result<Response<Written>, Status> {
        unused()
    }
    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        unused()
    }
}
