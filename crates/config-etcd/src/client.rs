//! The connection to etcd: transactions, bounded in time and size, by a user
//! if there is one.

use std::sync::Arc;
use std::time::Duration;

use insula_config_model::BackendFault;
use thiserror::Error;
use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use crate::record::Unreadable;

/// etcd's messages.
pub(crate) mod wire {
    #![allow(missing_docs, clippy::all)]
    tonic::include_proto!("etcdserverpb");
}

use wire::auth_client::AuthClient;
use wire::kv_client::KvClient;
use wire::request_op::Request as Operation;
use wire::{AuthenticateRequest, Compare, KeyValue, RangeRequest, RequestOp, TxnRequest, TxnResponse};

/// How long a call may take.
const CALL_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take to be made.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// The largest answer: a page of the largest values.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How etcd is reached.
#[derive(Clone)]
pub struct EtcdSettings {
    /// Its URLs, for example `http://127.0.0.1:2379`; `https` is spoken with TLS.
    pub endpoints: Vec<String>,
    /// What all names begin with, for example `/insula/config`.
    pub root: String,
    /// User and password, where etcd asks for them.
    pub user: Option<(String, Zeroizing<String>)>,
    /// The certificates (PEM) that its own must lead to; the public ones
    /// where there are none.
    pub ca_pem: Option<String>,
}

impl std::fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let user = self.user.as_ref().map(|(name, _)| name);
        f.debug_struct("EtcdSettings")
            .field("endpoints", &self.endpoints)
            .field("root", &self.root)
            .field("user", &user)
            .finish_non_exhaustive()
    }
}

/// An endpoint is not one.
#[derive(Debug, Error)]
#[error("the etcd endpoint {endpoint:?} cannot be used: {source}")]
pub struct InvalidEndpoint {
    endpoint: String,
    source: tonic::transport::Error,
}

/// A connection that is made when it is needed, and again when it is lost.
#[derive(Clone)]
pub(crate) struct Client {
    name: String,
    channel: Channel,
    settings: EtcdSettings,
    token: Arc<Mutex<Option<MetadataValue<Ascii>>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn endpoint(url: &str, ca_pem: Option<&str>) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .timeout(CALL_TIME_MAX)
        .connect_timeout(CONNECT_TIME_MAX)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .tcp_nodelay(true);
    if !url.starts_with("https://") {
        return Ok(endpoint);
    }
    let tls = ClientTlsConfig::new();
    endpoint.tls_config(match ca_pem {
        Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
        None => tls.with_webpki_roots(),
    })
}

impl Client {
    pub(crate) fn new(name: &str, settings: EtcdSettings) -> Result<Self, InvalidEndpoint> {
        let of = |url: &String| {
            endpoint(url, settings.ca_pem.as_deref())
                .map_err(|source| InvalidEndpoint { endpoint: url.clone(), source })
        };
        let endpoints = settings.endpoints.iter().map(of).collect::<Result<Vec<Endpoint>, _>>()?;
        let channel = match &endpoints[..] {
            [one] => one.connect_lazy(),
            _ => Channel::balance_list(endpoints.into_iter()),
        };
        Ok(Self { name: name.to_owned(), channel, settings, token: Arc::default() })
    }

    /// Does all of this, or none where a comparison fails.
    pub(crate) async fn transact(
        &self,
        compare: Vec<Compare>,
        operations: Vec<Operation>,
    ) -> Result<TxnResponse, BackendFault> {
        let success = operations.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
        let request = TxnRequest { compare, success };
        match self.try_transact(request.clone()).await {
            Err(status) if is_stale_token(&status) => {
                *self.token.lock().await = None;
                self.try_transact(request).await
            }
            done => done,
        }
        .map_err(|status| self.fault(status))
    }

    async fn try_transact(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        let mut request = Request::new(request);
        if let Some(token) = self.token().await? {
            request.metadata_mut().insert("token", token);
        }
        let client = KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let answered = tokio::time::timeout(CALL_TIME_MAX, { client }.txn(request)).await;
        Ok(answered.map_err(|_| Status::deadline_exceeded("no answer in time"))??.into_inner())
    }

    async fn token(&self) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let Some((name, password)) = &self.settings.user else { return Ok(None) };
        let mut token = self.token.lock().await;
        if token.is_none() {
            let asked = AuthenticateRequest { name: name.clone(), password: password.to_string() };
            let answer = AuthClient::new(self.channel.clone()).authenticate(asked).await?.into_inner();
            let text = answer.token.parse().map_err(|_| Status::internal("the token is not text"))?;
            *token = Some(text);
        }
        Ok(token.clone())
    }

    /// What is in these ranges at one moment, and its revision.
    pub(crate) async fn ranges(
        &self,
        ranges: Vec<RangeRequest>,
    ) -> Result<(i64, Vec<Vec<KeyValue>>), BackendFault> {
        let answer =
            self.transact(Vec::new(), ranges.into_iter().map(Operation::RequestRange).collect()).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        let found = answer.responses.into_iter().map(|response| match response.response {
            Some(wire::response_op::Response::ResponseRange(range)) => range.kvs,
            _ => Vec::new(),
        });
        Ok((revision, found.collect()))
    }

    fn fault(&self, status: Status) -> BackendFault {
        let too_large = ["too large", "larger than max"].iter().any(|said| status.message().contains(said));
        if too_large && [Code::InvalidArgument, Code::ResourceExhausted].contains(&status.code()) {
            return BackendFault::Refused(format!("etcd: {}", status.message()));
        }
        BackendFault::Away { backend: self.name.clone(), source: Box::new(status) }
    }

    pub(crate) fn unreadable(&self, unreadable: Unreadable) -> BackendFault {
        BackendFault::Away { backend: self.name.clone(), source: Box::new(unreadable) }
    }
}

fn is_stale_token(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || status.message().contains("invalid auth token")
}
