//! Every call of the gRPC interface, made for a scope.

use std::collections::BTreeSet;

use insula_config_proto::v1::rollouts_client::RolloutsClient;
use insula_config_proto::v1::*;
use prost::Message;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::common::config::{Stub, signed};

/// The key that is asked for.
pub const NAME: &str = "tenant_config_theme";

/// The calls that there are, as `Service/Method`.
pub fn calls() -> BTreeSet<String> {
    let described = prost_types::FileDescriptorSet::decode(insula_config_proto::DESCRIPTORS).unwrap();
    let files = described.file.iter().filter(|file| file.package() == "insula.config.v1");
    files
        .flat_map(|file| &file.service)
        .flat_map(|service| {
            service.method.iter().map(|method| format!("{}/{}", service.name(), method.name()))
        })
        .collect()
}

fn shown<T: std::fmt::Debug>(response: Result<Response<T>, Status>) -> Result<String, Status> {
    response.map(|response| format!("{:?}", response.into_inner()))
}

fn put_of(scope: &str) -> PutRequest {
    let value = Some(put_request::Value::Json("\"mine\"".into()));
    PutRequest { key: NAME.to_owned(), scope: scope.to_owned(), value, ..PutRequest::default() }
}

/// One call for a scope; what it answers as text, of streams the first message.
pub async fn call(method: &str, channel: &Channel, key: &str, scope: &str) -> Result<String, Status> {
    if let Some(method) = method.strip_prefix("Rollouts/") {
        return rollouts(method, channel, key, scope).await;
    }
    let (mut stub, scope, name) = (Stub::new(channel.clone()), scope.to_owned(), NAME.to_owned());
    let put = put_of(&scope);
    match method {
        "Config/Get" => {
            shown(stub.get(signed(key, GetRequest { key: name, scope, ..GetRequest::default() })).await)
        }
        "Config/List" => shown(stub.list(signed(key, ListRequest { scope, ..ListRequest::default() })).await),
        "Config/Put" => shown(stub.put(signed(key, put)).await),
        "Config/Remove" => shown(
            stub.remove(signed(key, RemoveRequest { key: name, scope, ..RemoveRequest::default() })).await,
        ),
        "Config/Transact" => {
            let op = transact_request::Op { op: Some(transact_request::op::Op::Put(put)) };
            shown(stub.transact(signed(key, TransactRequest { ops: vec![op], token: String::new() })).await)
        }
        "Config/History" => shown(
            stub.history(signed(key, HistoryRequest { key: name, scope, ..HistoryRequest::default() })).await,
        ),
        "Config/Rollback" => {
            let to = Some(rollback_request::To::Version(1));
            let message = RollbackRequest { key: name, scope, to, ..RollbackRequest::default() };
            shown(stub.rollback(signed(key, message)).await)
        }
        "Config/Label" => {
            let message = LabelRequest { key: name, scope, label: "stable".to_owned(), version: 1 };
            shown(stub.label(signed(key, message)).await)
        }
        "Config/Explain" => shown(stub.explain(signed(key, ExplainRequest { key: name, scope })).await),
        "Config/Watch" => {
            let mut events = stub
                .watch(signed(key, WatchRequest { scope, ..WatchRequest::default() }))
                .await?
                .into_inner();
            events.message().await.map(|event| format!("{event:?}"))
        }
        "Config/Acknowledge" => {
            let states = vec![acknowledge_request::State { key: name, version: 1, ..Default::default() }];
            let message = AcknowledgeRequest { client_id: "intruder".to_owned(), revision: 1, states, scope };
            shown(stub.acknowledge(signed(key, message)).await)
        }
        "Config/Fetch" => {
            let message = FetchRequest { key: name, scope, sha256: String::new() };
            let mut chunks = stub.fetch(signed(key, message)).await?.into_inner();
            chunks.message().await.map(|chunk| format!("{chunk:?}"))
        }
        other => panic!("the call {other} is not held against another tenant here: add it"),
    }
}

async fn rollouts(method: &str, channel: &Channel, key: &str, scope: &str) -> Result<String, Status> {
    let (mut stub, scope, name) = (RolloutsClient::new(channel.clone()), scope.to_owned(), NAME.to_owned());
    match method {
        "Start" => {
            let op = transact_request::Op { op: Some(transact_request::op::Op::Put(put_of(&scope))) };
            let (steps, bake_seconds) = (vec![50.0, 100.0], 3_600);
            let message =
                StartRolloutRequest { op: Some(op), steps, bake_seconds, ..StartRolloutRequest::default() };
            shown(stub.start(signed(key, message)).await)
        }
        "Show" => shown(stub.show(signed(key, ShowRolloutRequest { key: name, scope })).await),
        "Steer" => {
            let act = steer_rollout_request::Act::Abort.into();
            let message = SteerRolloutRequest { key: name, scope, act, cause: String::new() };
            shown(stub.steer(signed(key, message)).await)
        }
        "List" => shown(stub.list(signed(key, ListRolloutsRequest { scope })).await),
        "Clients" => shown(stub.clients(signed(key, ClientsRequest { key: name, scope, limit: 9 })).await),
        other => panic!("the call {other} is not held against another tenant here: add it"),
    }
}
