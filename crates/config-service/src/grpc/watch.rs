//! The stream of a watch. Its events are encoded before they come here, once for
//! all who get them, and so it has a codec of its own.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Buf;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http_body_util::BodyExt;
use insula_access::Arrival;
use insula_config_proto::v1::WatchRequest;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc as Server, ServerStreamingService};
use tonic::{Request, Response, Status};
use tower::Service as TowerService;

use super::status::{settle, status, unreadable};
use super::{Grpc, caller};
use crate::sending::Sent;
use crate::watching::{WatchAsked, Watcher};
use crate::wire::Frame;

const METHOD: &str = "Watch";

/// Bytes of an encoder's buffer: most events are smaller, and there is one for
/// each watcher.
const BUFFER: usize = 512;

/// Bytes that a frame has gathered before it is sent.
const YIELD: usize = 4 << 10;

#[derive(Debug, Clone, Copy, Default)]
struct WatchCodec;

#[derive(Debug, Clone, Copy)]
struct FrameEncoder;

#[derive(Debug, Clone, Copy)]
struct RequestDecoder;

fn buffers() -> tonic::codec::BufferSettings {
    tonic::codec::BufferSettings::new(BUFFER, YIELD)
}

impl Codec for WatchCodec {
    type Encode = Frame;
    type Decode = WatchRequest;
    type Encoder = FrameEncoder;
    type Decoder = RequestDecoder;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> RequestDecoder {
        RequestDecoder
    }
}

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        frame.put(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> tonic::codec::BufferSettings {
        buffers()
    }
}

impl Decoder for RequestDecoder {
    type Item = WatchRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<WatchRequest>, Status> {
        let read = WatchRequest::decode(buffer.copy_to_bytes(buffer.remaining()));
        read.map(Some).map_err(|error| status(&unreadable().caused_by(error)))
    }

    fn buffer_settings(&self) -> tonic::codec::BufferSettings {
        buffers()
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

/// Serves watches.
#[derive(Debug, Clone)]
pub(crate) struct WatchServer {
    grpc: Arc<Grpc>,
}

impl WatchServer {
    /// For the router.
    #[must_use]
    pub fn new(grpc: Grpc) -> Self {
        Self { grpc: Arc::new(grpc) }
    }

    async fn begin(&self, request: Request<WatchRequest>) -> Result<Response<Events>, Status> {
        let caller = caller(&request).map_err(|problem| status(&problem))?;
        let who = caller.name();
        let arrival = request.extensions().get::<Arrival>().cloned();
        let asked = request.into_inner();
        let asked = WatchAsked {
            prefixes: asked.prefixes,
            from: asked.from_revision,
            view: asked.view,
            scope: asked.scope,
            client_id: asked.client_id,
            reveal: asked.reveal,
            arrival,
        };
        let begun = self.grpc.service.watch(caller, asked).await;
        settle(METHOD, Some(&who), begun.as_ref().err());
        let watcher = begun.map_err(|problem| status(&problem))?;
        let slot = Slot::default();
        let mut response = Response::new(events(watcher, slot.clone()));
        response.extensions_mut().insert(slot);
        Ok(response)
    }
}

fn events(watcher: Watcher, slot: Slot) -> Events {
    Box::pin(stream::unfold((Box::new(watcher), slot), |(mut watcher, slot)| async move {
        let event = watcher.next().await?.map_err(|problem| {
            tracing::info!(client = watcher.client_id(), cause = problem.chain(), "a watch has ended");
            status(&problem)
        });
        slot.put(watcher.sent());
        Some((event, (watcher, slot)))
    }))
}

/// The room of the event that was made last, on its way to the bytes of it: what
/// needs room is longer than an encoder gathers, and so they come next.
#[derive(Debug, Clone, Default)]
struct Slot(Arc<Mutex<Option<Sent>>>);

impl Slot {
    fn put(&self, sent: Option<Sent>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sent;
    }

    fn take(&self) -> Option<Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The body of a watch, whose bytes have their room until the connection has let
/// go of them: it asks for more before it has sent what it has.
fn held(body: tonic::body::Body, slot: Slot) -> tonic::body::Body {
    tonic::body::Body::new(body.map_frame(move |frame| {
        frame.map_data(|data| match slot.take() {
            Some(sent) => sent.hold(data),
            None => data,
        })
    }))
}

impl ServerStreamingService<WatchRequest> for WatchServer {
    type Response = Frame;
    type ResponseStream = Events;
    type Future = BoxFuture<'static, Result<Response<Events>, Status>>;

    fn call(&mut self, request: Request<WatchRequest>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { server.begin(request).await })
    }
}

impl TowerService<http::Request<Body>> for WatchServer {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let mut response = Server::new(WatchCodec).server_streaming(server, request).await;
            let slot = response.extensions_mut().remove::<Slot>();
            Ok(match slot {
                Some(slot) => response.map(|body| held(body, slot)),
                None => response,
            })
        })
    }
}
