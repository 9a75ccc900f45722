//! The HTTP server: HTTP/1.1 and HTTP/2, or HTTP/2 alone for gRPC, with TLS where
//! it is configured, a bounded number of connections and of requests, and a
//! graceful stop.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use insula_access::{Arrival, Peer};
use insula_control::http::HttpLimits;
use insula_settings::{Config, Http};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::strangers::Strangers;

/// How long a connection may be there on which nobody is known, in times of
/// what its beginning may take.
const STRANGER_TIMES: u32 = 3;

/// Pause after the machine could not accept a connection (out of descriptors), or
/// before the next stranger is asked for his place.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of a request, from the settings.
pub fn limits(http: &Http) -> HttpLimits {
    HttpLimits {
        body_bytes: usize::try_from(http.max_body_bytes).unwrap_or(usize::MAX),
        request_timeout: http.request_timeout.get(),
        in_flight: http.max_in_flight as usize,
    }
}

/// How long a client of gRPC may not answer a ping, and how often it is sent one.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Bytes that may be under way to a client on one stream of HTTP/2, and that are
/// kept for it: there are many who receive little.
const STREAM_BYTES: usize = 16 << 10;

/// Bytes that a client of gRPC may send before it was read, on one stream and
/// on all of a connection: calls that wait until they are read on are not to stand
/// in the way of the others.
const RECEIVED_BYTES: (u32, u32) = (64 << 10, 16 << 20);

/// The server.
#[derive(Clone)]
pub struct HttpServer {
    tls: Option<TlsAcceptor>,
    header_timeout: Duration,
    connections: Arc<Semaphore>,
    strangers: Strangers,
    /// Streams on one connection, where it speaks gRPC.
    streams: Option<u32>,
}

impl HttpServer {
    /// A server that does not listen yet.
    pub fn new(http: &Http, tls: Option<Arc<ServerConfig>>) -> Self {
        Self::with(tls, http.header_timeout.get(), http.max_connections as usize, None)
    }

    /// A server of gRPC that does not listen yet.
    pub fn grpc(config: &Config, tls: Option<Arc<ServerConfig>>) -> Self {
        let (begins_within, connections) = (config.handshake_timeout.get(), config.max_connections as usize);
        Self::with(tls, begins_within, connections, Some(config.max_streams_per_connection))
    }

    fn with(
        tls: Option<Arc<ServerConfig>>,
        header_timeout: Duration,
        connections: usize,
        streams: Option<u32>,
    ) -> Self {
        Self {
            tls: tls.map(TlsAcceptor::from),
            header_timeout,
            connections: Arc::new(Semaphore::new(connections)),
            strangers: Strangers::new(header_timeout * STRANGER_TIMES),
            streams,
        }
    }

    /// Serves until the token is cancelled; then takes no connection any more,
    /// and gives requests under way the time of the grace.
    pub async fn serve(
        self,
        listeners: Vec<TcpListener>,
        router: Router,
        stop: CancellationToken,
        grace: Duration,
    ) {
        let graceful = Arc::new(GracefulShutdown::new());
        let mut doors = JoinSet::new();
        for listener in listeners {
            doors.spawn(self.clone().accept(listener, router.clone(), stop.clone(), graceful.clone()));
        }
        while doors.join_next().await.is_some() {}
        let Some(graceful) = Arc::into_inner(graceful) else { return };
        if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests outlast the grace of the stop; they are broken off");
        }
    }

    async fn accept(
        self,
        listener: TcpListener,
        router: Router,
        stop: CancellationToken,
        graceful: Arc<GracefulShutdown>,
    ) {
        loop {
            // A full house lets newcomers wait in the kernel's queue.
            let permit = tokio::select! {
                () = stop.cancelled() => return,
                permit = self.place() => permit,
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    self.spawn(stream, Peer(peer.ip()), router.clone(), permit, &graceful);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A place for one more. In a full house strangers give theirs.
    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(permit) = self.connections.clone().try_acquire_owned() {
                return permit;
            }
            self.strangers.give_way();
            let free = tokio::time::timeout(ACCEPT_PAUSE, self.connections.clone().acquire_owned()).await;
            if let Ok(Ok(permit)) = free {
                return permit;
            }
        }
    }

    fn spawn(
        &self,
        stream: TcpStream,
        peer: Peer,
        router: Router,
        permit: OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
    ) {
        let _ = stream.set_nodelay(true);
        let watcher = graceful.watcher();
        let (tls, header_timeout) = (self.tls.clone(), self.header_timeout);
        let builder = builder(header_timeout, self.streams);
        let stranger = self.strangers.came();
        let came = Came { peer, arrival: stranger.arrival(), is_let_in_by_a_request: self.streams.is_none() };
        tokio::spawn(async move {
            let _permit = permit;
            let served = async move {
                match tls {
                    None => {
                        // Whoever says nothing has no place for long.
                        let said = tokio::time::timeout(header_timeout, stream.readable()).await;
                        if matches!(said, Ok(Ok(()))) {
                            connection(stream, came, router, builder, watcher).await;
                        }
                    }
                    Some(tls) => match tokio::time::timeout(header_timeout, tls.accept(stream)).await {
                        Ok(Ok(stream)) => connection(stream, came, router, builder, watcher).await,
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    },
                }
            };
            tokio::select! {
                () = served => {}
                () = stranger.has_to_go() => tracing::debug!("a connection was ended on which nobody was known, or nothing was taken"),
            }
        });
    }
}

fn builder(header_timeout: Duration, streams: Option<u32>) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_send_buf_size(STREAM_BYTES);
    let Some(streams) = streams else { return builder };
    builder
        .http2()
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .max_concurrent_streams(streams)
        .initial_stream_window_size(RECEIVED_BYTES.0)
        .initial_connection_window_size(RECEIVED_BYTES.1)
        .max_header_list_size(16 << 10);
    builder.http2_only()
}

/// Who came, as requests are told.
#[derive(Clone)]
struct Came {
    peer: Peer,
    arrival: Arrival,
    /// Where credentials are none of the connection's business its first request
    /// is enough: what comes then has a time of its own.
    is_let_in_by_a_request: bool,
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    came: Came,
    router: Router,
    builder: Builder<TokioExecutor>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let service = router.map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(came.peer);
        request.extensions_mut().insert(came.arrival.clone());
        if came.is_let_in_by_a_request {
            came.arrival.let_in();
        }
        request.map(Body::new)
    });
    let service = TowerToHyperService::new(service.map_err(|never: Infallible| match never {}));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, "an HTTP connection ended with an error");
    }
}
