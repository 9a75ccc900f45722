//! That whatever can be said over gRPC can be typed: each field of each request of
//! the configuration stands here with its option or place.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Command, CommandFactory};
use prost::Message;
use prost_types::FileDescriptorSet;

use super::Cli;

/// A request, the command in which it is typed, and for each field the option
/// (`--`), the argument in a place of its own, `file` where it stands in the file
/// of a transaction, or the commands by which it is said.
const PLACES: &[&str] = &[
    "GetRequest get: key=key scope=--scope own=--own version=--version label=--label reveal=--reveal",
    "ListRequest list: prefix=prefix scope=--scope own=--own limit=--limit cursor=pages reveal=--reveal",
    "PutRequest put: key=key scope=--scope json=value large=--media-type if_version=--if-version \
     note=--note token=--idempotency-key",
    "RemoveRequest remove: key=key scope=--scope if_version=--if-version note=--note \
     token=--idempotency-key",
    "TransactRequest transact: ops=file token=--idempotency-key",
    "HistoryRequest history: key=key scope=--scope limit=--limit before=--before reveal=--reveal",
    "RollbackRequest rollback: key=key scope=--scope version=--to label=--label if_version=--if-version \
     note=--note token=--idempotency-key",
    "LabelRequest label: key=key scope=--scope label=label version=version",
    "ExplainRequest explain: key=key scope=--scope",
    "WatchRequest watch: prefixes=prefix from_revision=--after scope=--scope client_id=--client-id \
     reveal=--reveal view=--after",
    "AcknowledgeRequest acknowledge: client_id=client revision=--revision states=key scope=--scope",
    "FetchRequest fetch: key=key scope=--scope sha256=--sha256",
    "StartRolloutRequest rollout.start: op=value steps=--steps bake_seconds=--bake tenants=--tenants \
     rejections=--rejections confirmations=--confirmations",
    "ShowRolloutRequest rollout.show: key=key scope=--scope",
    "SteerRolloutRequest rollout.resume: key=key scope=--scope act=commands cause=--cause",
    "ListRolloutsRequest rollout.list: scope=--scope",
    "ClientsRequest clients: key=key scope=--scope limit=--limit",
];

fn is_there(config: &Command, command: &str, place: &str) -> bool {
    let mut found = config;
    for word in command.split('.') {
        found = found.find_subcommand(word).unwrap();
    }
    match place {
        // Every page is taken; pause, resume and abort are commands.
        "pages" | "commands" => true,
        _ => match place.strip_prefix("--") {
            Some(long) => found.get_arguments().any(|argument| argument.get_long() == Some(long)),
            None => found.get_positionals().any(|argument| argument.get_id() == place),
        },
    }
}

/// What cannot be typed, or is said to be where it is not.
fn missing(places: &[&str]) -> Vec<String> {
    let cli = Cli::command();
    let config = cli.find_subcommand("config").unwrap();
    let (mut missing, mut said) = (Vec::new(), BTreeSet::new());
    for line in places {
        let (head, fields) = line.split_once(':').unwrap();
        let (message, command) = head.split_once(' ').unwrap();
        for field in fields.split_whitespace() {
            let (field, place) = field.split_once('=').unwrap();
            said.insert(format!("{message}.{field}"));
            if !is_there(config, command, place) {
                missing.push(format!("{message}.{field} is not at {place} of {command}"));
            }
        }
    }
    let described = FileDescriptorSet::decode(insula_config_proto::DESCRIPTORS).unwrap();
    let ours: Vec<_> = described.file.iter().filter(|file| file.package() == "insula.config.v1").collect();
    let messages: BTreeMap<&str, _> =
        ours.iter().flat_map(|file| &file.message_type).map(|message| (message.name(), message)).collect();
    for method in ours.iter().flat_map(|file| &file.service).flat_map(|service| &service.method) {
        let message = method.input_type().rsplit('.').next().unwrap();
        let fields = messages[message].field.iter().map(|field| format!("{message}.{}", field.name()));
        missing.extend(
            fields.filter(|field| !said.contains(field)).map(|field| format!("{field} has no place")),
        );
    }
    missing
}

#[test]
fn what_is_asked_over_grpc_can_be_typed() {
    assert_eq!(missing(PLACES), Vec::<String>::new());
    // Canary: a field without a place is found, and a place that is none.
    let without = PLACES[0].replace(" own=--own", "");
    let other = PLACES[1].replace("=--reveal", "=--shown");
    let changed = [&[without.as_str(), other.as_str()], &PLACES[2..]].concat();
    assert_eq!(
        missing(&changed),
        ["ListRequest.reveal is not at --shown of list", "GetRequest.own has no place"]
    );
}
