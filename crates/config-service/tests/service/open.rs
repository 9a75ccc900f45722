//! What is open to everybody: whether the service serves, and what it offers.

use std::time::Instant;

use insula_config_proto::v1::config_client::ConfigClient;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::support::{PATIENCE, World, get};

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

/// Waits until it is told that the status is this one.
async fn until(told: &mut Streaming<HealthCheckResponse>, wanted: ServingStatus) {
    let there = async { while told.message().await.unwrap().unwrap().status() != wanted {} };
    tokio::time::timeout(PATIENCE, there).await.expect("the status comes");
}

#[tokio::test]
async fn health_says_whether_changes_can_be_followed() {
    let (world, begin) = World::waiting().await;
    let mut health = HealthClient::new(world.channel());
    let mut told = Vec::new();
    for service in ["", "insula.config.v1.Config"] {
        let begun = Instant::now();
        // It is said as soon as the process has begun.
        let is_said = |checked: HealthCheckResponse| checked.status() == ServingStatus::NotServing;
        while !health.check(of(service)).await.is_ok_and(|checked| is_said(checked.into_inner())) {
            assert!(begun.elapsed() < PATIENCE, "the tenants are not known yet");
        }
        told.push(health.watch(of(service)).await.unwrap().into_inner());
    }
    begin();
    for told in &mut told {
        until(told, ServingStatus::Serving).await;
    }
    let unknown = health.check(of("insula.config.v1.Nothing")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    world.stop();
    for told in &mut told {
        until(told, ServingStatus::NotServing).await;
    }
}

async fn reflected(world: &World, asked: MessageRequest) -> MessageResponse {
    let mut client = ServerReflectionClient::new(world.channel());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
    let answers = client.server_reflection_info(futures_util::stream::iter([request])).await;
    let answer: ServerReflectionResponse =
        answers.unwrap().into_inner().message().await.unwrap().expect("it answers");
    answer.message_response.unwrap()
}

#[tokio::test]
async fn reflection_names_every_service_and_shows_nothing_else() {
    let world = World::new().await;
    let listed = reflected(&world, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let mut names: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    let wanted = [
        "flagd.evaluation.v1.Service",
        "flagd.evaluation.v2.Service",
        "flagd.sync.v1.FlagSyncService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "insula.config.v1.Config",
        "insula.config.v1.Rollouts",
    ];
    assert_eq!(names, wanted);
    for name in wanted {
        let found = reflected(&world, MessageRequest::FileContainingSymbol(name.to_owned())).await;
        assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{name}: {found:?}");
    }
    // Whoever may look at this may do nothing.
    let channel = Endpoint::new(world.address.clone()).unwrap().connect().await.unwrap();
    let refused = ConfigClient::new(channel).get(get("tenant_config_a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}
