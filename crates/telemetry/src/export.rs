//! The way of the traces to the collector: HTTP on a thread of its own, so
//! that an export needs nobody's runtime, and works while all others stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError, ResponseBodyTooLarge};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::{mpsc, oneshot};

use crate::TelemetryError;

/// The largest answer of a collector that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Requests that may wait; the exporter sends one after the other.
const QUEUE: usize = 4;

type Answer = Result<Response<Bytes>, HttpError>;

/// Sends requests by the thread, which ends with the last of these.
#[derive(Debug, Clone)]
pub struct ExportClient {
    requests: mpsc::Sender<(Request<Bytes>, oneshot::Sender<Answer>)>,
}

impl ExportClient {
    /// Starts the thread.
    pub fn start(ca_file: Option<&Path>, timeout: Duration) -> Result<Self, TelemetryError> {
        let failed = |error: &dyn std::fmt::Display| TelemetryError::Export(error.to_string());
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(ca_file)?)
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| failed(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let (requests, mut waiting) = mpsc::channel::<(Request<Bytes>, oneshot::Sender<Answer>)>(QUEUE);
        let work = async move {
            while let Some((request, reply)) = waiting.recv().await {
                // Whoever asked may have given up.
                let _ = reply.send(send(&client, request).await);
            }
        };
        std::thread::Builder::new()
            .name("otlp-export".to_owned())
            .spawn(move || runtime.block_on(work))
            .map_err(|error| failed(&error))?;
        Ok(Self { requests })
    }
}

#[async_trait::async_trait]
impl HttpClient for ExportClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.requests.send((request, reply)).await?;
        answer.await?
    }
}

async fn send(client: &reqwest::Client, request: Request<Bytes>) -> Answer {
    let mut answer = client.execute(request.try_into()?).await?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(ResponseBodyTooLarge::new().into());
        }
        body.extend_from_slice(&chunk);
    }
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        *headers = std::mem::take(answer.headers_mut());
    }
    Ok(response.body(Bytes::from(body))?)
}

/// TLS by aws-lc-rs, as everywhere; the public authorities and those of the file.
fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, TelemetryError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        let fault = |reason: String| TelemetryError::CaFile { path: path.to_owned(), reason };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| fault(error.to_string()))?;
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(fault("it holds no certificate".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TelemetryError::Export(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
