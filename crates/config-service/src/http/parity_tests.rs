//! That whatever can be said over gRPC can be said over HTTP: each field of each
//! request stands here with its place, and both descriptions are asked.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};
use serde_json::Value;

/// A request, the method and path where it is made, and where each field is:
/// `path`, `query` or `body` under its own name or another one behind `:`,
/// `header:` and the header, `whole` where it is the body itself, and `not` where
/// it says nothing.
const PLACES: &[&str] = &[
    "GetRequest get /config/{key} key=path scope=query own=query version=query label=query reveal=query",
    "ListRequest get /config prefix=query scope=query own=query limit=query cursor=query reveal=query",
    "PutRequest put /config/{key} key=path scope=query json=whole large=whole if_version=header:If-Match \
     note=query token=header:Idempotency-Key",
    "RemoveRequest delete /config/{key} key=path scope=query if_version=header:If-Match note=query \
     token=header:Idempotency-Key",
    "TransactRequest post /config ops=body:writes token=header:Idempotency-Key",
    "Op post /config put=body:writes.act remove=body:writes.act rollback=body:writes.act \
     label=body:writes.act",
    "Op/PutRequest post /config key=body:writes.key scope=body:writes.scope json=body:writes.value \
     large=body:writes.large if_version=body:writes.if_version note=body:writes.note token=not",
    "LargeValue post /config bytes=body:writes.large.base64 media_type=body:writes.large.media_type",
    "Op/RemoveRequest post /config key=body:writes.key scope=body:writes.scope \
     if_version=body:writes.if_version note=body:writes.note token=not",
    "Op/RollbackRequest post /config key=body:writes.key scope=body:writes.scope \
     version=body:writes.version label=body:writes.label if_version=body:writes.if_version \
     note=body:writes.note token=not",
    "Op/LabelRequest post /config key=body:writes.key scope=body:writes.scope label=body:writes.label \
     version=body:writes.version",
    "HistoryRequest get /config/{key}/history key=path scope=query limit=query before=query:cursor \
     reveal=query",
    "RollbackRequest post /config/{key}/rollback key=path scope=query version=body label=body \
     if_version=header:If-Match note=body token=header:Idempotency-Key",
    "LabelRequest put /config/{key}/labels/{label} key=path scope=query label=path version=body",
    "ExplainRequest get /config/{key}/explain key=path scope=query",
    "WatchRequest get /config prefixes=query:prefix from_revision=header:Last-Event-ID scope=query \
     client_id=query reveal=query view=header:Last-Event-ID",
    "AcknowledgeRequest post /config-clients/{client} client_id=path:client revision=body states=body \
     scope=query",
    "State post /config-clients/{client} key=body:states.key version=body:states.version \
     rejection=body:states.rejection set_in=body:states.scope",
    "FetchRequest get /config/{key}/content key=path scope=query sha256=query",
    "StartRolloutRequest post /config/{key}/rollout op=body:value steps=body bake_seconds=body \
     tenants=body rejections=body confirmations=body",
    "ShowRolloutRequest get /config/{key}/rollout key=path scope=query",
    "SteerRolloutRequest post /config/{key}/rollout/{act} key=path scope=query act=path cause=body",
    "ListRolloutsRequest get /config-rollouts scope=query",
    "ClientsRequest get /config/{key}/clients key=path scope=query limit=query",
];

/// The messages of the interface, those within others too, with their fields.
fn messages() -> BTreeMap<String, DescriptorProto> {
    fn gather(all: &mut BTreeMap<String, DescriptorProto>, message: &DescriptorProto) {
        message.nested_type.iter().for_each(|within| gather(all, within));
        all.insert(message.name().to_owned(), message.clone());
    }
    let described = FileDescriptorSet::decode(insula_config_proto::DESCRIPTORS).unwrap();
    let mut all = BTreeMap::new();
    let ours = described.file.iter().filter(|file| file.package() == "insula.config.v1");
    ours.flat_map(|file| &file.message_type).for_each(|message| gather(&mut all, message));
    all
}

/// The requests of all calls.
fn requests() -> BTreeSet<String> {
    let described = FileDescriptorSet::decode(insula_config_proto::DESCRIPTORS).unwrap();
    let ours = described.file.iter().filter(|file| file.package() == "insula.config.v1");
    let methods = ours.flat_map(|file| &file.service).flat_map(|service| &service.method);
    methods.map(|method| method.input_type().rsplit('.').next().unwrap().to_owned()).collect()
}

/// What a schema says, where it is a reference, a list, or may be nothing.
fn behind<'d>(described: &'d Value, schema: &'d Value) -> &'d Value {
    if let Some(name) = schema["$ref"].as_str() {
        return behind(described, &described["components"]["schemas"][name.rsplit('/').next().unwrap()]);
    }
    if schema["items"].is_object() {
        return behind(described, &schema["items"]);
    }
    let one_of = schema["oneOf"].as_array().into_iter().flatten();
    match one_of.into_iter().find(|schema| schema["type"] != "null") {
        Some(schema) => behind(described, schema),
        None => schema,
    }
}

/// Whether the description of HTTP has the place.
fn is_there(described: &Value, (method, path): (&str, &str), place: &str, field: &str) -> bool {
    let operation = &described["paths"][format!("/v1{path}")][method];
    let (kind, name) = place.split_once(':').unwrap_or((place, field));
    let mut body = &operation["requestBody"]["content"]["application/json"]["schema"];
    match kind {
        "not" => true,
        "whole" => body.is_object(),
        "body" => name.split('.').all(|member| {
            body = &behind(described, body)["properties"][member];
            body.is_object()
        }),
        "path" | "query" | "header" => {
            let parameters = operation["parameters"].as_array().unwrap();
            parameters.iter().any(|parameter| parameter["name"] == name && parameter["in"] == kind)
        }
        _ => false,
    }
}

/// What cannot be said over HTTP, or is said to be where it is not.
fn missing(places: &[&str], described: &Value) -> Vec<String> {
    let messages = messages();
    let mut missing: Vec<String> = Vec::new();
    let mut said: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in places {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [message, method, path, fields @ ..] = words.as_slice() else { panic!("{line}") };
        for field in fields {
            let (field, place) = field.split_once('=').unwrap();
            said.entry(message).or_default().push(field);
            if !is_there(described, (method, path), place, field) {
                missing.push(format!("{message}.{field} is not at {place} of {method} {path}"));
            }
        }
    }
    let within = messages["Op"].field.iter();
    let within = within.map(|field| format!("Op/{}", field.type_name().rsplit('.').next().unwrap()));
    let more = ["Op", "LargeValue", "State"].map(str::to_owned);
    for message in requests().into_iter().chain(within).chain(more) {
        let fields = &messages[message.rsplit('/').next().unwrap()].field;
        for field in fields.iter().map(prost_types::FieldDescriptorProto::name) {
            let is_said = said.get(message.as_str()).is_some_and(|fields| fields.contains(&field));
            if !is_said {
                missing.push(format!("{message}.{field} has no place"));
            }
        }
    }
    missing
}

#[test]
fn what_is_asked_over_grpc_can_be_asked_over_http() {
    let described = serde_json::to_value(super::openapi()).unwrap();
    assert_eq!(missing(PLACES, &described), Vec::<String>::new());
    // Canary: a field without a place is found, and a place that is none.
    let without = PLACES[2].replace(" token=header:Idempotency-Key", "");
    let other = PLACES[3].replace("note=query", "note=body");
    let changed = [&PLACES[..2], &[without.as_str(), other.as_str()], &PLACES[4..]].concat();
    assert_eq!(
        missing(&changed, &described),
        ["RemoveRequest.note is not at body of delete /config/{key}", "PutRequest.token has no place"]
    );
}
