//! A real etcd beside Insula, and as much of its interface as the benchmark
//! needs, by the same gRPC client as Insula's. The numbers of the fields are those of
//! <https://github.com/etcd-io/etcd/blob/v3.4.23/etcdserver/etcdserverpb/rpc.proto>
//! and <https://github.com/etcd-io/etcd/blob/v3.4.23/mvcc/mvccpb/kv.proto>.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{IntoStreamingRequest, Request, Streaming};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
pub struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Range {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Ranged {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

/// Of an answer that nobody looks into.
#[derive(Clone, PartialEq, Message)]
pub struct Ignored {}

#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Watch {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreate>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WatchCreate {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Watched {
    #[prost(bool, tag = "3")]
    pub created: bool,
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Event {
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

/// A running etcd, which ends with this.
pub struct Etcd {
    process: Child,
    url: String,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Etcd {
    pub fn start(folder: &Path) -> Self {
        let [client, peer] = [insula_testkit::unused_port(), insula_testkit::unused_port()];
        let [url, peer] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
        let process = Command::new("etcd")
            .args(["--data-dir", &folder.join("etcd").display().to_string(), "--log-level", "error"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            // The usual 1.5 MiB hold the writes of this benchmark.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed (scripts/deps.sh bench)");
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", client)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "etcd does not get ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { process, url }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

async fn unary<Q, A>(channel: &Channel, path: &'static str, message: Q) -> A
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static(path);
    grpc.unary(Request::new(message), path, ProstCodec::default()).await.unwrap().into_inner()
}

pub async fn put(channel: &Channel, key: &str, value: &str) {
    let message = Put { key: key.into(), value: value.into() };
    let _: Ignored = unary(channel, "/etcdserverpb.KV/Put", message).await;
}

pub async fn get(channel: &Channel, key: &str) -> Vec<u8> {
    let found: Ranged = unary(channel, "/etcdserverpb.KV/Range", Range { key: key.into() }).await;
    found.kvs.into_iter().next().unwrap().value
}

/// Watches what begins with this. The stream of questions has to stay open.
pub async fn watch(channel: &Channel, prefix: &str) -> Streaming<Watched> {
    let mut range_end = prefix.as_bytes().to_vec();
    *range_end.last_mut().unwrap() += 1;
    let first = Watch { create: Some(WatchCreate { key: prefix.into(), range_end }) };
    let questions =
        futures_util::StreamExt::chain(futures_util::stream::iter([first]), futures_util::stream::pending());
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    let request = Request::new(questions).into_streaming_request();
    let mut stream: Streaming<Watched> =
        grpc.streaming(request, path, ProstCodec::<Watch, Watched>::default()).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().unwrap().created);
    stream
}
