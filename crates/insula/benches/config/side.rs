//! The two that are compared, asked the same: to write a number under a tenant's
//! key, to tell of it, and to read it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, stream};
use insula_config_proto::v1::config_client::ConfigClient;
use insula_config_proto::v1::{
    GetRequest, PutRequest, WatchEvent, WatchRequest, entry, put_request, watch_event,
};
use reqwest::Method;
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use crate::common::{Api, Up};
use crate::etcd::{self, Etcd, Watched};

const PREFIX: &str = "tenant_config_bench";

/// A value of a usual size, that has the number in it.
fn value(number: usize) -> String {
    format!(
        r#"{{"number":{number},"colour":"blue","plan":"standard","limits":{{"users":250,"projects":40}}}}"#
    )
}

fn number(value: &[u8]) -> usize {
    let digits = value.iter().skip(10).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}

/// Insula with tenants and their keys, or etcd.
pub enum Side {
    Insula { up: Up, keys: Vec<String>, channels: Connections },
    Etcd { etcd: Etcd, channels: Connections },
}

/// Connections that are used in turn, as many for both sides.
pub struct Connections {
    all: Vec<Channel>,
    next: Arc<AtomicUsize>,
}

impl Connections {
    async fn open(url: &str, count: usize) -> Self {
        let open = async |_| {
            let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
            endpoint.initial_connection_window_size(WINDOW).connect().await.unwrap()
        };
        let all = stream::iter(0..count).then(open).collect().await;
        Self { all, next: Arc::default() }
    }

    fn one(&self) -> Channel {
        self.all[self.next.fetch_add(1, Ordering::Relaxed) % self.all.len()].clone()
    }
}

/// Bytes under way to a connection. By it the client's h2 bounds how many small
/// frames it takes before they are read (`data_frame_budget`); fifty streams of one
/// connection that are all told at once, while the writer has the processor, exceed
/// its default.
const WINDOW: u32 = 64 << 20;

/// A watcher's stream.
pub enum Told {
    Insula(Streaming<WatchEvent>),
    Etcd(Streaming<Watched>),
}

impl Told {
    /// What the next message tells of: revisions, which grow, and numbers.
    pub async fn next(&mut self) -> Vec<(i64, usize)> {
        match self {
            Self::Insula(stream) => {
                let event = stream.message().await.unwrap().expect("the stream goes on").event;
                let Some(watch_event::Event::Delta(delta)) = event else { return Vec::new() };
                let number = |entry| json_number(entry).map(|number| (entry.revision, number));
                delta.entries.iter().filter_map(number).collect()
            }
            Self::Etcd(stream) => {
                let told = stream.message().await.unwrap().expect("the stream goes on");
                let kvs = told.events.iter().filter_map(|event| event.kv.as_ref());
                kvs.map(|kv| (kv.mod_revision, number(&kv.value))).collect()
            }
        }
    }
}

fn json_number(entry: &insula_config_proto::v1::Entry) -> Option<usize> {
    match &entry.value {
        Some(entry::Value::Json(json)) => Some(number(json)),
        _ => None,
    }
}

fn signed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

impl Side {
    /// Insula with so many tenants in a pool, each with a key.
    pub async fn insula(folder: &Path, ports: u16, tenants: usize, connections: usize) -> Self {
        let up = Up::start(&folder.join("insula"), ports, "none");
        let api = Api::of(&up);
        let files = json!({"files": [{"name": "0001_notes.sql", "sql": "create table notes (id bigint primary key);"}]});
        api.finish(api.call(Method::POST, "/v1/schema/rollouts", Some(files)).await).await;
        let key = async |tenant: usize| {
            let slug = format!("t-{tenant}");
            let body = json!({"slug": slug, "tier": "free", "region": "us-east-1"});
            api.finish(api.call(Method::POST, "/v1/tenants", Some(body)).await).await;
            let body = json!({"role": "tenant_admin"});
            let made = api.call(Method::POST, &format!("/v1/tenants/{slug}/keys"), Some(body)).await;
            made["secret"].as_str().unwrap().to_owned()
        };
        let keys = stream::iter(0..tenants).map(key).buffered(8).collect().await;
        let url = up.ready["grpc"].as_str().expect("`insula up` serves the configuration").to_owned();
        let channels = Connections::open(&url, connections).await;
        Self::Insula { up, keys, channels }
    }

    pub async fn etcd(folder: &Path, connections: usize) -> Self {
        let etcd = Etcd::start(folder);
        let channels = Connections::open(etcd.url(), connections).await;
        Self::Etcd { etcd, channels }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Insula { .. } => "Insula",
            Self::Etcd { .. } => "etcd",
        }
    }

    pub fn pid(&self) -> u32 {
        match self {
            Self::Insula { up, .. } => up.pid(),
            Self::Etcd { etcd, .. } => etcd.pid(),
        }
    }

    pub async fn put(&self, tenant: usize, number: usize) {
        match self {
            Self::Insula { keys, channels, .. } => {
                let json = Some(put_request::Value::Json(value(number).into()));
                let message =
                    PutRequest { key: format!("{PREFIX}/theme"), value: json, ..PutRequest::default() };
                ConfigClient::new(channels.one()).put(signed(&keys[tenant], message)).await.unwrap();
            }
            Self::Etcd { channels, .. } => {
                etcd::put(&channels.one(), &format!("{tenant}/{PREFIX}/theme"), &value(number)).await;
            }
        }
    }

    pub async fn get(&self, tenant: usize) -> usize {
        match self {
            Self::Insula { keys, channels, .. } => {
                let message = GetRequest { key: format!("{PREFIX}/theme"), ..GetRequest::default() };
                let request = signed(&keys[tenant], message);
                let found = ConfigClient::new(channels.one()).get(request).await.unwrap().into_inner();
                json_number(&found.entry.unwrap()).unwrap()
            }
            Self::Etcd { channels, .. } => {
                number(&etcd::get(&channels.one(), &format!("{tenant}/{PREFIX}/theme")).await)
            }
        }
    }

    /// A watcher of a tenant, that has what was there.
    pub async fn watch(&self, tenant: usize) -> Told {
        match self {
            Self::Insula { keys, channels, .. } => {
                let message = WatchRequest { prefixes: vec![PREFIX.to_owned()], ..WatchRequest::default() };
                let request = signed(&keys[tenant], message);
                let mut stream = ConfigClient::new(channels.one()).watch(request).await.unwrap().into_inner();
                loop {
                    let event = stream.message().await.unwrap().unwrap().event;
                    if matches!(event, Some(watch_event::Event::Snapshot(snapshot)) if !snapshot.more) {
                        return Told::Insula(stream);
                    }
                }
            }
            Self::Etcd { channels, .. } => {
                Told::Etcd(etcd::watch(&channels.one(), &format!("{tenant}/{PREFIX}")).await)
            }
        }
    }
}
