//! What `insula up` tells when all is up: a file for programs, a file for the
//! command line, and a few lines for people.

use std::time::Duration;

use anyhow::Context;
use insula_credentials::Secret;
use serde_json::json;

use super::folder::Folder;
use super::{CONFIG, FRONT, REGIONS};
use crate::args::{Demo, Up};
use crate::client::ClientFile;
use crate::provisioner::write_whole;

/// The local operator's.
pub struct Credentials {
    /// E-mail address.
    pub email: &'static str,
    /// Token.
    pub token: Secret,
    /// Password.
    pub password: Secret,
}

/// Writes both files, readable by their owner alone.
pub fn write(
    arguments: &Up,
    folder: &Folder,
    credentials: &Credentials,
    clusters: Vec<(String, String)>,
) -> anyhow::Result<()> {
    let base = arguments.port_base;
    let http = format!("http://localhost:{base}");
    let regions: Vec<_> = REGIONS.iter().map(|(region, _)| *region).collect();
    let clusters: Vec<_> = clusters
        .into_iter()
        .zip(&regions)
        .map(|((name, url), region)| json!({"name": name, "region": region, "superuser_url": url}))
        .collect();
    let ready = json!({
        "http": http,
        "grpc": format!("http://localhost:{}", base + CONFIG),
        "pg": {"host": "127.0.0.1", "port": base + FRONT},
        "operator": {
            "email": credentials.email,
            "password": credentials.password.expose(),
            "token": credentials.token.expose(),
        },
        "regions": regions,
        "clusters": clusters,
        "pid": std::process::id(),
    });
    let client = toml::to_string(&ClientFile { url: http, token: credentials.token.expose().to_owned() })?;
    write_whole(&folder.path("client.toml"), client.as_bytes()).context("client.toml")?;
    let text = serde_json::to_vec_pretty(&ready)?;
    write_whole(&folder.path("ready.json"), &text).context("ready.json")?;
    if let Some(file) = &arguments.ready_file {
        write_whole(file, &text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// What people are told.
pub fn summary(arguments: &Up, took: Duration) -> String {
    let base = arguments.port_base;
    let (front, config) = (base + FRONT, base + CONFIG);
    let folder = arguments.data_dir.display();
    let schema = match arguments.demo {
        Demo::Shop => "the shop (examples/shop/schema)",
        Demo::None => "none yet: insula schema apply DIR",
    };
    format!(
        "
Insula {version} is up after {seconds:.1} s.

  admin API          http://localhost:{base}/v1      (reference: http://localhost:{base}/docs)
  PostgreSQL front   127.0.0.1:{front}
  configuration      localhost:{config}    (gRPC)
  regions            us-east-1, eu-west-1
  app schema         {schema}
  data, logs         {folder}    (ready.json says it all for programs)

Try:
  insula tenant create acme --tier free --region us-east-1
  psql \"$(insula tenant url acme)\"

Ctrl-C stops everything.",
        version = env!("CARGO_PKG_VERSION"),
        seconds = took.as_secs_f64(),
    )
}
