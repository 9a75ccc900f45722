//! The backends of the configuration that the settings name.

use std::sync::Arc;

use anyhow::Context;
use insula_config_etcd::{EtcdBackend, EtcdSettings};
use insula_config_model::Backend;
use insula_config_service::Backends;
use insula_domain::SystemClock;
use insula_settings::{ConfigBackend, Settings};
use zeroize::Zeroizing;

/// All of them; they connect when they are used.
pub fn build(settings: &Settings) -> anyhow::Result<Backends> {
    let all: anyhow::Result<Vec<_>> = settings.config.backends.iter().map(one).collect();
    Ok(Backends::new(all?))
}

fn one(backend: &ConfigBackend) -> anyhow::Result<Arc<dyn Backend>> {
    let named = || format!("the backend {} of the configuration", backend.name);
    if backend.kind.is_aws() { aws(backend) } else { etcd(backend) }.with_context(named)
}

fn etcd(backend: &ConfigBackend) -> anyhow::Result<Arc<dyn Backend>> {
    let ca_pem = match &backend.ca_file {
        Some(file) => Some(std::fs::read_to_string(file).with_context(|| file.display().to_string())?),
        None => None,
    };
    let password = || Zeroizing::new(backend.password.expose().to_owned());
    let settings = EtcdSettings {
        endpoints: backend.endpoints.clone(),
        root: backend.root.clone(),
        user: backend.user.clone().map(|user| (user, password())),
        ca_pem,
    };
    Ok(Arc::new(EtcdBackend::new(&backend.name, settings, Arc::new(SystemClock))?))
}

#[cfg(feature = "aws")]
fn aws(backend: &ConfigBackend) -> anyhow::Result<Arc<dyn Backend>> {
    use insula_config_aws::{AwsSettings, DynamoBackend, ParameterBackend};
    use insula_settings::ConfigBackendKind;

    let settings = AwsSettings {
        region: backend.region.clone().unwrap_or_default(),
        endpoint: backend.endpoint.clone(),
        access_key_id: backend.access_key_id.clone().unwrap_or_default(),
        secret_access_key: Zeroizing::new(backend.secret_access_key.expose().to_owned()),
    };
    let table = backend.table.as_deref().unwrap_or_default();
    Ok(match backend.kind {
        ConfigBackendKind::Dynamodb => {
            Arc::new(DynamoBackend::new(&backend.name, &settings, table, Arc::new(SystemClock)))
        }
        _ => Arc::new(ParameterBackend::new(&backend.name, &settings)),
    })
}

#[cfg(not(feature = "aws"))]
fn aws(_: &ConfigBackend) -> anyhow::Result<Arc<dyn Backend>> {
    anyhow::bail!("this insula was built without AWS: build it with --features aws")
}
