//! The backends on emulators of AWS: what every backend does, but for what an
//! emulator is known to do otherwise; and what others write.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;
use insula_config_aws::{AwsSettings, DynamoBackend, ParameterBackend};
use insula_config_model::{AUTHOR_EXTERNAL, Backend};
use insula_domain::SystemClock;
use insula_testkit::backend::{Ground, MemoryBackend, conforms, moved_under_writes, text_of, value_of};
use insula_testkit::{Emulator, TestProgram, emulator};

fn settings(endpoint: String) -> AwsSettings {
    AwsSettings {
        region: "eu-west-1".to_owned(),
        endpoint: Some(endpoint),
        access_key_id: "test".to_owned(),
        secret_access_key: "test".to_owned().into(),
    }
}

async fn dynamo(kind: Emulator) -> (Arc<dyn Backend>, TestProgram) {
    let (endpoint, program) = emulator(kind);
    let backend = DynamoBackend::new("dynamodb", &settings(endpoint), "insula-config", Arc::new(SystemClock));
    backend.create_table().await.unwrap();
    backend.create_table().await.unwrap();
    (Arc::new(backend), program)
}

fn parameters(kind: Emulator) -> (Arc<dyn Backend>, TestProgram) {
    let (endpoint, program) = emulator(kind);
    (Arc::new(ParameterBackend::new("parameter-store", &settings(endpoint))), program)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn dynamodb_on_ministack_does_what_every_backend_does() {
    let (backend, _program) = dynamo(Emulator::Ministack).await;
    conforms(backend, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn dynamodb_on_roto_does_what_every_backend_does() {
    let (backend, _program) = dynamo(Emulator::Roto).await;
    conforms(backend, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parameter_store_on_moto_does_what_every_backend_does() {
    let (backend, _program) = parameters(Emulator::Moto);
    conforms(backend, &[]).await;
}

fn raw_settings(endpoint: &str) -> aws_sdk_ssm::Config {
    aws_sdk_ssm::Config::builder()
        .behavior_version(aws_sdk_ssm::config::BehaviorVersion::v2026_01_12())
        .region(aws_sdk_ssm::config::Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .credentials_provider(aws_sdk_ssm::config::Credentials::new("test", "test", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build()
}

#[tokio::test]
async fn parameters_are_plain_and_what_others_write_becomes_a_version() {
    let (endpoint, _program) = emulator(Emulator::Moto);
    let raw = aws_sdk_ssm::Client::from_conf(raw_settings(&endpoint));
    let ground = Ground::new(Arc::new(ParameterBackend::new("parameter-store", &settings(endpoint))));
    ground.put("param_config_billing/db.pool", 1).await;
    let tenant = ground.scope.tenant().unwrap();
    let name = format!("/config-service/{tenant}/param_config_billing/db.pool");
    let plain = raw.get_parameter().name(&name).send().await.unwrap().parameter.unwrap();
    assert_eq!(plain.value(), Some(value_of(1).as_str()));
    raw.put_parameter().name(&name).value("{\"by\":\"hand\"}").overwrite(true).send().await.unwrap();
    let newest = ground.newest("param_config_billing/db.pool").await.unwrap();
    assert_eq!((newest.version, newest.author.as_str()), (2, AUTHOR_EXTERNAL));
    assert_eq!(text_of(&newest).as_deref(), Some("{\"by\":\"hand\"}"));
    ground.put("param_config_billing/db.pool", 3).await;
    assert_eq!(ground.history("param_config_billing/db.pool", None, 10).await, [3, 2, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_come_to_dynamodb_and_go_under_writes() {
    let (backend, _program) = dynamo(Emulator::Roto).await;
    moved_under_writes(Arc::new(MemoryBackend::default()), backend).await;
}

#[tokio::test]
async fn items_are_plain_and_what_others_write_becomes_a_version() {
    let (endpoint, _program) = emulator(Emulator::Roto);
    let table = "insula-config";
    let backend = DynamoBackend::new("dynamodb", &settings(endpoint.clone()), table, Arc::new(SystemClock));
    backend.create_table().await.unwrap();
    let ground = Ground::new(Arc::new(backend));
    let raw = aws_sdk_dynamodb::Client::from_conf(
        aws_sdk_dynamodb::Config::builder()
            .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::v2026_01_12())
            .region(aws_sdk_dynamodb::config::Region::new("eu-west-1"))
            .endpoint_url(&endpoint)
            .credentials_provider(aws_sdk_dynamodb::config::Credentials::new(
                "test", "test", None, None, "test",
            ))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build(),
    );
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let partition = text(&format!("TENANT#{}", ground.scope.tenant().unwrap()));
    let place =
        || HashMap::from([("PK".to_owned(), partition.clone()), ("SK".to_owned(), text("CONFIG#a/b"))]);
    let newest = async || {
        let newest = ground.newest("a/b").await.unwrap();
        (newest.version, newest.author.clone(), text_of(&newest))
    };
    let external = |value: Option<&str>| (AUTHOR_EXTERNAL.to_owned(), value.map(str::to_owned));
    ground.put("a/b", 1).await;
    let item = raw.get_item().table_name(table).set_key(Some(place())).send().await.unwrap().item.unwrap();
    assert_eq!(item["value"], text(&value_of(1)));

    let update = raw.update_item().table_name(table).set_key(Some(place()));
    let update = update.update_expression("SET #v = :v").expression_attribute_names("#v", "value");
    update.expression_attribute_values(":v", text("2")).send().await.unwrap();
    let (author, value) = external(Some("2"));
    assert_eq!(newest().await, (2, author, value), "the value alone was changed");
    let mut whole = place();
    whole.insert("value".to_owned(), text("3"));
    raw.put_item().table_name(table).set_item(Some(whole)).send().await.unwrap();
    assert!(ground.try_put("a/b", 3, 2).await.is_err(), "somebody was faster");
    let (author, value) = external(Some("3"));
    assert_eq!(newest().await, (3, author, value), "the item was put anew");
    raw.delete_item().table_name(table).set_key(Some(place())).send().await.unwrap();
    let (author, value) = external(None);
    assert_eq!(newest().await, (4, author, value), "the item was deleted");
    ground.put("a/b", 5).await;
    assert_eq!(ground.history("a/b", None, 10).await, [5, 4, 3, 2, 1]);
}
