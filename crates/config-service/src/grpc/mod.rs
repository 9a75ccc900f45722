//! The gRPC interface: messages in and out, and how a problem becomes a status.
//! What is asked is the service's to answer.

mod admit;
mod calls;
mod convert;
mod rollouts;
mod status;
mod taking;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn_with_state, map_request};
use insula_config_proto::v1::config_server::ConfigServer;
use insula_config_proto::v1::rollouts_server::RolloutsServer;
use insula_problem::{Code, Problem};
use tonic::Request;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::caller::Caller;
use crate::service::Service;

pub(crate) use admit::Door;
pub(crate) use status::settle;
pub use status::status;

/// The path of a watch, which has an encoder of its own.
const WATCH: &str = "/insula.config.v1.Config/Watch";

/// The name of the service, and the longest message to those that are for all.
const NAME: &str = "insula.config.v1.Config";
const SMALL_MESSAGE: usize = 16 << 10;

/// How often the service looks whether it is ready.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is served.
#[derive(Debug, Clone)]
pub(crate) struct Grpc {
    service: Arc<Service>,
}

/// Who calls, as it was found before the message was read.
///
/// # Errors
/// `unauthenticated` where the call did not come by [`router`].
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Problem> {
    let nobody = || Problem::new(Code::Unauthenticated, "Nobody knows who calls.");
    request.extensions().get::<Caller>().cloned().ok_or_else(nobody)
}

/// Everything that is served over gRPC, the service's health and description
/// among it; `more` are services that come along, which find who calls by
/// [`caller`].
///
/// # Errors
/// Where the description cannot be read, which is a defect.
pub fn router(service: &Arc<Service>, more: Routes) -> Result<Router, Problem> {
    let bounds = service.bounds();
    let grpc = Grpc { service: service.clone() };
    let calls = ConfigServer::new(grpc.clone()).max_decoding_message_size(bounds.message_bytes);
    let calls = calls.max_encoding_message_size(usize::MAX);
    let rollouts = RolloutsServer::new(grpc.clone()).max_decoding_message_size(bounds.message_bytes);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(insula_config_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(Problem::internal)?
        .max_decoding_message_size(SMALL_MESSAGE);
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report(reporter, service.clone()));
    let health = health.max_decoding_message_size(SMALL_MESSAGE);
    let routes = more.add_service(calls).add_service(rollouts).add_service(reflection).add_service(health);
    let door = Arc::new(admit::Door::new(service.clone()));
    let router = routes.into_axum_router().route_service(WATCH, watch::WatchServer::new(grpc));
    let admitted = router.layer(from_fn_with_state(door, admit::admit));
    Ok(admitted.layer(map_request(crate::flagd::present)))
}

/// Says whether changes can be followed, until the process stops.
async fn report(reporter: HealthReporter, service: Arc<Service>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut told = None;
    loop {
        tokio::select! {
            () = service.stop.cancelled() => break,
            _ = look.tick() => {}
        }
        let ready = service.is_ready();
        if told != Some(ready) {
            say(&reporter, if ready { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
            told = Some(ready);
        }
    }
    say(&reporter, ServingStatus::NotServing).await;
}

async fn say(reporter: &HealthReporter, status: ServingStatus) {
    for name in [NAME, ""] {
        reporter.set_service_status(name, status).await;
    }
}
