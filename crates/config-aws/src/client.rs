//! How AWS is reached: region, endpoint, credentials, time-outs, and TLS with
//! the one provider that Insula has.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedHttpClient};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use insula_config_model::BackendFault;
use zeroize::Zeroizing;

/// How long a request may take, with its repetitions.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection may take to be made.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// How AWS is reached.
#[derive(Clone)]
pub struct AwsSettings {
    /// The region, for example `eu-west-1`.
    pub region: String,
    /// Another endpoint than the region's own.
    pub endpoint: Option<String>,
    /// The id of the access key.
    pub access_key_id: String,
    /// The access key.
    pub secret_access_key: Zeroizing<String>,
}

impl std::fmt::Debug for AwsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsSettings")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl AwsSettings {
    fn credentials(&self) -> Credentials {
        Credentials::new(&self.access_key_id, self.secret_access_key.as_str(), None, None, "insula")
    }

    pub(crate) fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        let mut config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(version())
            .region(Region::new(self.region.clone()))
            .credentials_provider(self.credentials())
            .timeout_config(timeouts())
            .http_client(http());
        config.set_endpoint_url(self.endpoint.clone());
        aws_sdk_dynamodb::Client::from_conf(config.build())
    }

    pub(crate) fn parameters(&self) -> aws_sdk_ssm::Client {
        let mut config = aws_sdk_ssm::Config::builder()
            .behavior_version(version())
            .region(Region::new(self.region.clone()))
            .credentials_provider(self.credentials())
            .timeout_config(timeouts())
            .http_client(http());
        config.set_endpoint_url(self.endpoint.clone());
        aws_sdk_ssm::Client::from_conf(config.build())
    }
}

fn version() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIME_MAX).operation_timeout(REQUEST_TIME_MAX).build()
}

fn http() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https()
}

/// A backend's name, for its faults.
#[derive(Debug, Clone)]
pub(crate) struct Faults(pub(crate) String);

impl Faults {
    /// What AWS answered with this code, where it is not an answer that the
    /// caller knows what to do with.
    pub(crate) fn of<E: std::error::Error + Send + Sync + 'static>(
        &self,
        code: Option<&str>,
        error: E,
    ) -> BackendFault {
        match code {
            Some(
                code @ ("ValidationException"
                | "ParameterMaxVersionLimitExceeded"
                | "ParameterVersionLabelLimitExceeded"
                | "ParameterLimitExceeded"
                | "HierarchyLevelLimitExceededException"
                | "InvalidAllowedPatternException"
                | "ItemCollectionSizeLimitExceededException"),
            ) => BackendFault::Refused(format!("{} answers {code}", self.0)),
            _ => self.away(error),
        }
    }

    pub(crate) fn away(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BackendFault {
        BackendFault::Away { backend: self.0.clone(), source: error.into() }
    }
}

/// What tells a value from another one.
pub(crate) fn digest_of(value: Option<&str>) -> String {
    let Some(value) = value else { return "removed".to_owned() };
    let bytes = digest(&SHA256, value.as_bytes());
    bytes.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The value's text: what is kept is always text.
pub(crate) fn text_of(value: Option<&Vec<u8>>) -> Result<Option<String>, BackendFault> {
    let text = value.map(|value| String::from_utf8(value.clone())).transpose();
    text.map_err(|_| BackendFault::Refused("the value is no text".to_owned()))
}
