//! Flags, which have no scope to be named: with one tenant's key, and with the
//! other's name in everything that a provider of OpenFeature can send.

use std::time::Duration;

use insula_config_proto::flagd::evaluation::v1::service_client::ServiceClient;
use insula_config_proto::flagd::evaluation::{v1, v2};
use insula_config_proto::flagd::sync::v1 as sync;
use insula_config_proto::flagd::sync::v1::flag_sync_service_client::FlagSyncServiceClient;
use insula_config_proto::{Kind, Struct, Value};
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use crate::MARK;
use crate::common::config::signed;
use crate::ways::{Case, Doors, Way};

/// The other tenant's flag, whose name and value are the mark.
pub fn flag() -> (String, String) {
    let value = format!(r#"{{"state":"ENABLED","variants":{{"on":"{MARK}"}},"defaultVariant":"on"}}"#);
    (format!("tenant_config_flag/{MARK}"), value)
}

/// Where a provider could say whose flags it wants.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Claim {
    Nowhere,
    Context,
    Selector,
    Authority,
}

const CLAIMS: [Claim; 4] = [Claim::Nowhere, Claim::Context, Claim::Selector, Claim::Authority];

struct Asking<'a> {
    doors: &'a Doors,
    key: &'a str,
    other: &'a str,
    claim: Claim,
}

impl Asking<'_> {
    fn channel(&self) -> tonic::transport::Channel {
        let endpoint = Endpoint::from_shared(self.doors.grpc_url()).unwrap();
        let endpoint = match self.claim {
            Claim::Authority => endpoint.origin(format!("http://{}.localhost", self.other).parse().unwrap()),
            _ => endpoint,
        };
        endpoint.connect_lazy()
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = signed(self.key, message);
        if self.claim == Claim::Selector {
            let selector = format!("tenant={}", self.other);
            request.metadata_mut().insert("flagd-selector", selector.parse().unwrap());
        }
        request
    }

    fn context(&self) -> Option<Struct> {
        let said = |name: &str| (name.to_owned(), Value { kind: Some(Kind::StringValue(self.other.into())) });
        let fields = ["tenant", "scope", "targetingKey"].map(said);
        Some(Struct { fields: if self.claim == Claim::Context { fields.into() } else { Default::default() } })
    }

    fn selector(&self) -> String {
        if self.claim == Claim::Selector { format!("tenant/{}", self.other) } else { String::new() }
    }

    async fn call(&self, method: &str) -> Result<String, Status> {
        let mut first = ServiceClient::new(self.channel());
        let mut second = v2::service_client::ServiceClient::new(self.channel());
        let mut flags = FlagSyncServiceClient::new(self.channel());
        let (context, name) = (self.context(), MARK.to_owned());
        Ok(match method {
            "v1/ResolveAll" => {
                let asked = v1::ResolveAllRequest { context };
                format!("{:?}", first.resolve_all(self.request(asked)).await?.into_inner().flags)
            }
            "v1/ResolveString" => {
                let asked = v1::ResolveStringRequest { flag_key: name, context };
                first.resolve_string(self.request(asked)).await?.into_inner().value
            }
            "v2/ResolveAll" => {
                let asked = v2::ResolveAllRequest { context };
                format!("{:?}", second.resolve_all(self.request(asked)).await?.into_inner().flags)
            }
            "v2/ResolveString" => {
                let asked = v2::ResolveStringRequest { flag_key: name, context };
                format!("{:?}", second.resolve_string(self.request(asked)).await?.into_inner().value)
            }
            "sync/SyncFlags" => {
                let asked =
                    sync::SyncFlagsRequest { provider_id: self.other.to_owned(), selector: self.selector() };
                let mut told = flags.sync_flags(self.request(asked)).await?.into_inner();
                told.message().await?.unwrap().flag_configuration
            }
            "sync/FetchAllFlags" => {
                let asked = sync::FetchAllFlagsRequest {
                    provider_id: self.other.to_owned(),
                    selector: self.selector(),
                };
                flags.fetch_all_flags(self.request(asked)).await?.into_inner().flag_configuration
            }
            other => panic!("there is no {other}"),
        })
    }
}

/// All calls of flagd's services that say something of flags, with every claim.
pub async fn ways(doors: &Doors, case: &Case<'_>) -> Vec<Way> {
    let methods = [
        "v1/ResolveAll",
        "v1/ResolveString",
        "v2/ResolveAll",
        "v2/ResolveString",
        "sync/SyncFlags",
        "sync/FetchAllFlags",
    ];
    let mut ways = Vec::new();
    for method in methods {
        for claim in CLAIMS {
            let asking = Asking { doors, key: case.key, other: case.others[0], claim };
            let called = tokio::time::timeout(Duration::from_secs(30), asking.call(method)).await;
            // It is its own flags that it is told of, or none.
            let leak = match called.expect("it is answered in time") {
                Ok(told) => told.contains(MARK).then(|| format!("it is told {told}")),
                Err(status) => {
                    // What was asked for by its name may be named.
                    let said = status.message().replace(MARK, "");
                    assert!(!said.contains(case.others[1]), "{said}");
                    None
                }
            };
            ways.push(Way { name: format!("flagd {method} {claim:?}"), leak });
        }
    }
    ways
}
